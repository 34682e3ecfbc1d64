"""Distributions that several families sample from."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def log_uniform(
    key: jax.Array, bounds: tuple[float, float], shape: tuple[int, ...] = ()
) -> jax.Array:
    """Uniform in the logarithm between `bounds`, float32 of `shape`."""
    low, high = bounds
    if low == high:
        return jnp.full(shape, low, jnp.float32)
    return jnp.exp(uniform(key, (math.log(low), math.log(high)), shape))


def uniform(
    key: jax.Array, bounds: tuple[float, float], shape: tuple[int, ...] = ()
) -> jax.Array:
    """Uniform between `bounds`, float32 of `shape`; no work where these are equal."""
    low, high = bounds
    if low == high:
        return jnp.full(shape, low, jnp.float32)
    return jax.random.uniform(key, shape, minval=low, maxval=high)


def middle(bounds: tuple[float, float]) -> jax.Array:
    """The middle of a range in the logarithm, a float32 scalar."""
    return jnp.float32(math.sqrt(bounds[0] * bounds[1]))


def index(key: jax.Array, choices: Sequence[object]) -> jax.Array:
    """The place of one of `choices`, each as likely; an int32 scalar.

    No work for a single one: a random number is dear, to compile above all.
    """
    if len(choices) == 1:
        return jnp.int32(0)
    return jax.random.randint(key, (), 0, len(choices))


def pick(values: Sequence[jax.Array], place: jax.Array) -> jax.Array:
    """The entry of `values` at a place that may be traced; no work for a single one."""
    return values[0] if len(values) == 1 else jnp.stack(values)[place]


def orthonormal(key: jax.Array, length: int, count: int) -> jax.Array:
    """`count` random orthonormal vectors, the columns of `[length, count]`.

    Uniformly distributed: what `jax.random.orthogonal` draws from the same key, but
    for rounding, by Gram and Schmidt's method. On CPUs LAPACK's calls inside a vmapped
    program may wait for one another forever (matrices of 64 rows or more, several
    threads).

    Args:
        key: of the normal deviates that are made orthonormal.
        length: entries of a vector.
        count: number of vectors, at most `length`.
    """

    def add(i: jax.Array, vectors: jax.Array) -> jax.Array:
        known = jnp.arange(count)[:, None] < i
        earlier = jnp.where(known, vectors, 0.0)
        vector = vectors[i]
        # Once leaves what rounding leaves; twice is enough.
        for _ in range(2):
            vector = vector - (earlier @ vector) @ earlier
        return vectors.at[i].set(vector / jnp.linalg.norm(vector))

    start = jax.random.normal(key, (length, count)).T
    return jax.lax.fori_loop(0, count, add, start).T
