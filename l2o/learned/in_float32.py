"""optax's own transformations as the body of a learned optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2o.learned.base import LearnedOptimizer, require_params


def in_float32(
    lopt: LearnedOptimizer, tx: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Runs `tx` in float32, whatever type gradients and parameters have.

    Its state is float32 and its updates are rounded once, to the parameters' type.

    Args:
        lopt: whom an error names.
        tx: a transformation that does not read the parameters.
    """

    def init(params: optax.Params) -> Any:
        return tx.init(optax.tree.cast(params, jnp.float32))

    def update(
        updates: optax.Updates,
        state: Any,
        params: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        require_params(lopt, params)
        updates = optax.tree.cast(updates, jnp.float32)
        # optax takes powers of float32 with its int32 count of the steps.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(updates, state)
        return optax.tree.cast_like(updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)
