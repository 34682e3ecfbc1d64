"""Judges optimizers on tasks they never saw, beside tuned baselines."""
