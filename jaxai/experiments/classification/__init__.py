"""Image classification: data, evaluation, pictures."""
