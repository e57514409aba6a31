"""Deep Q-learning: environments by name, sweeps, evaluation, pictures."""
