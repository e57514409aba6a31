"""Adversarial image generation: data, fidelity, pictures."""
