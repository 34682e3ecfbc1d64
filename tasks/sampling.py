"""Distributions that several families sample from."""

import math

import jax


def log_uniform(
    key: jax.Array, bounds: tuple[float, float], shape: tuple[int, ...] = ()
) -> jax.Array:
    """Uniform in the logarithm between `bounds`, float32 of `shape`."""
    low, high = (math.log(b) for b in bounds)
    return jax.numpy.exp(jax.random.uniform(key, shape, minval=low, maxval=high))
