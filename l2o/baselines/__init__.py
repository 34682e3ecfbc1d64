"""Hand-designed optimizers that optax lacks."""
