"""Meta-training: evolves the weights of learned optimizers over a task distribution."""
