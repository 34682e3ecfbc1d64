"""Trees of parameters as flat vectors, for algorithms that count coordinates."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree


Tree: TypeAlias = Any
Product: TypeAlias = Callable[[Tree], Tree]
"""A linear map from trees like the parameters to such trees."""


def widen(tree: Tree) -> Tree:
    """The tree in float32, or in float64 where it is: sums want that precision."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x, jnp.float32)), tree)


def on_vectors(
    product: Product, like: Tree
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array, Callable[[jax.Array], Tree]]:
    """A product of trees as one of vectors.

    Args:
        product: from trees like `like` to such trees.
        like: gives structure, shapes and dtypes.

    Returns:
        `([size]) -> [size]`, a vector of zeros `[size]`, and the function that makes a
        tree of a vector. Vectors and that tree are at least float32; `product` is given
        the dtypes of `like`.
    """
    zeros, unravel = ravel_pytree(jax.tree.map(jnp.zeros_like, widen(like)))

    def apply(vector: jax.Array) -> jax.Array:
        image = product(optax.tree.cast_like(unravel(vector), like))
        return ravel_pytree(widen(image))[0]

    return apply, zeros, unravel
