"""Weights and updates: stable ranks, the angle to the gradient, learning rates."""

import jax
import jax.numpy as jnp
import optax

from l2o.inspect.vectors import Tree, widen


def stable_ranks(params: Tree) -> Tree:
    r"""The stable rank of each tensor of two axes or more.

    $$ \frac{\|W\|_F^2}{\|W\|_2^2} = \frac{\sum_i s_i^2}{\max_i s_i^2} $$

    with $s$ the singular values: between 1 and the rank, and not moved by tiny singular
    values. A tensor of more axes, like a kernel of a convolution, is taken as a matrix
    `[the other axes, last axis]`.

    Args:
        params: a tree of tensors.

    Returns:
        A tree with a scalar for each tensor of two axes or more, at least float32 and 0
        for a tensor of zeros, and None in place of the others.

    Source: Rudelson and Vershynin 2007, "Sampling from large matrices".
    """
    return jax.tree.map(
        lambda w: _stable_rank(w) if w.ndim > 1 else None, widen(params)
    )


def _stable_rank(w: jax.Array) -> jax.Array:
    matrix = jnp.reshape(w, (w.size // max(1, w.shape[-1]), w.shape[-1]))
    singular = jnp.linalg.svd(matrix, compute_uv=False)
    largest = jnp.max(singular, initial=0.0)
    # Divided before they are squared, which tiny weights would not survive.
    return jnp.sum(jnp.square(singular / jnp.where(largest > 0, largest, 1.0)))


def cosine_similarity(a: Tree, b: Tree) -> jax.Array:
    r"""The cosine of the angle between two trees, over all tensors together.

    $$ \frac{\langle a, b \rangle}{|a| |b|} $$

    An update of plain gradient descent, which is added to the parameters, has -1 with
    the gradient.

    Args:
        a: an update, say.
        b: of the same structure and shapes: the gradient, say.

    Returns:
        A scalar; 0 where one of the two is zero.
    """
    a, b = widen(a), widen(b)
    lengths = optax.tree.norm(a) * optax.tree.norm(b)
    inner = jnp.asarray(optax.tree.vdot(a, b))
    return inner / jnp.where(lengths > 0, lengths, 1.0)


def effective_learning_rates(updates: Tree, gradients: Tree) -> Tree:
    r"""The learning rate at which gradient descent makes steps as long, by tensor.

    $$ |u| / |g| $$

    Args:
        updates: what an optimizer adds to the parameters.
        gradients: what it was given, of the same structure and shapes.

    Returns:
        A tree of scalars: 0 where a tensor is not moved, infinite where it is moved
        without a gradient.
    """

    def rate(u: jax.Array, g: jax.Array) -> jax.Array:
        moved = jnp.linalg.norm(jnp.ravel(u))
        # A tensor at rest is 0 / 0 where it has no gradient either.
        return jnp.where(moved == 0, 0.0, moved / jnp.linalg.norm(jnp.ravel(g)))

    return jax.tree.map(rate, widen(updates), widen(gradients))
