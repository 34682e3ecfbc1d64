"""The gradient by reverse-mode differentiation."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive_int
from l2o.gradients.base import GradientFunction, Loss, Params, as_loss
from l2o.inspect.vectors import widen


def backprop(
    function: Any, loss: Loss | None = None, *, microbatches: int = 1
) -> GradientFunction:
    """The gradient of the loss, which all other sources estimate or replace.

    Args:
        function: the loss `(params, *args) -> scalar`, or a flax model.
        loss: of the model's outputs, `(outputs, *targets) -> scalar`.
        microbatches: parts that the examples, the leading axis of all arrays in `args`,
            are cut into. One after another they need that much less memory. The value
            and the gradient are means over the parts: those of the whole, where the
            loss is a mean over examples.

    Returns:
        `(params, key, *args) -> (value, grads)`. The key is not used.

    Raises:
        ValueError: at the call: the examples are not a multiple of `microbatches`.
    """
    require_positive_int("microbatches", microbatches)
    value_and_grad = jax.value_and_grad(as_loss(function, loss))

    def gradient(
        params: Params, key: jax.Array, *args: Any
    ) -> tuple[jax.Array, Params]:
        del key  # Nothing is drawn.
        if microbatches == 1:
            return value_and_grad(params, *args)
        parts = jax.tree.map(lambda x: _cut(x, microbatches), args)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            found = widen(value_and_grad(params, *part))
            return jax.tree.map(jnp.add, total, found), None

        shapes = jax.eval_shape(value_and_grad, params, *jax.tree.map(_first, parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        # A long sum in bfloat16 comes to a halt.
        total, _ = jax.lax.scan(add, widen(zeros), parts)
        mean = jax.tree.map(lambda x: x / microbatches, total)
        return optax.tree.cast_like(mean, zeros)

    return gradient


def _cut(x: jax.Array, microbatches: int) -> jax.Array:
    """`[examples, ...]` to `[microbatches, examples / microbatches, ...]`."""
    if not x.ndim or len(x) % microbatches:
        raise ValueError(
            f"microbatches must divide the examples of every array, got {microbatches} "
            f"for an array of shape {x.shape}"
        )
    return x.reshape(microbatches, -1, *x.shape[1:])


def _first(x: jax.Array) -> jax.Array:
    return x[0]
