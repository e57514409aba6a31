"""Sequence to sequence: text, scores, pictures, translating."""
