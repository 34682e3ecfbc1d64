"""A tree of arrays as one array of 32-bit words: one collective moves all of it."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def to_words(tree: Any) -> jax.Array:
    """All leaves, bit for bit.

    Args:
        tree: arrays of 32- or 64-bit numbers.

    Returns:
        int32 `[n]`.
    """
    return jnp.concatenate(
        [
            jax.lax.bitcast_convert_type(leaf, jnp.int32).reshape(-1)
            for leaf in jax.tree.leaves(tree)
        ]
    )


def from_words(words: jax.Array, like: Any) -> Any:
    """The tree that `to_words` was given.

    Args:
        words: int32 `[n]`.
        like: a tree of arrays, or of their shapes and types.
    """
    leaves, structure = jax.tree.flatten(like)
    found, start = [], 0
    for leaf in leaves:
        each = leaf.dtype.itemsize // 4
        count = math.prod(leaf.shape) * each
        shape = leaf.shape if each == 1 else (*leaf.shape, each)
        part = words[start : start + count].reshape(shape)
        found.append(jax.lax.bitcast_convert_type(part, leaf.dtype))
        start += count
    return jax.tree.unflatten(structure, found)
