"""Trainings of more steps than an optimizer is trusted with."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive_int
from l2o.learned.base import LearnedOptimizer, Theta, require_params, require_value


def at_most(
    lopt: LearnedOptimizer, theta: Theta, *, num_steps: int, longest: int = 150_000
) -> optax.GradientTransformationExtraArgs:
    """Accumulates gradients so that the optimizer sees at most `longest` steps.

    With k = ceil(num_steps / longest), the optimizer makes floor(num_steps / k) updates
    and is told so; each sees the means of the gradients and of the losses of k steps,
    and the steps between return zeros. Up to `longest` steps nothing is accumulated.
    As ever with `optax.MultiSteps`, the steps between cost as much as an update.

    Args:
        lopt: an architecture.
        theta: its meta-parameters.
        num_steps: how many times `update` will be called.
        longest: how many updates the optimizer is trusted with; VeLO's authors chose
            the default.

    Returns:
        An optax transformation with the arguments of `lopt`'s own.

    Source: `LearnedOptimizer` in prefab.py and `GradientAccumulator` of
    google/learned_optimization.
    """
    require_positive_int("num_steps", num_steps)
    require_positive_int("longest", longest)
    every = math.ceil(num_steps / longest)
    tx = lopt.with_theta(theta, num_steps=num_steps // every)
    if every == 1:
        return tx

    # MultiSteps averages gradients, and of the losses hands over the last. As a part of
    # the gradients the loss is averaged like them.
    def with_loss(tree: Any, value: Any) -> Any:
        return tree, jnp.asarray(value, jnp.float32)

    def init_pair(params: Any) -> Any:
        return tx.init(params[0])

    def update_pair(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        grads, value = updates
        steps, state = tx.update(grads, state, params[0], value=value, **extra_args)
        return with_loss(steps, 0.0), state

    accumulated = optax.MultiSteps(
        optax.GradientTransformationExtraArgs(init_pair, update_pair), every
    )

    def init(params: optax.Params) -> Any:
        return accumulated.init(with_loss(params, 0.0))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        value: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        require_params(lopt, params)
        require_value(lopt, value)
        loss = 0.0 if value is None else value
        pair: Any
        pair, state = accumulated.update(
            with_loss(updates, loss), state, with_loss(params, 0.0), **extra_args
        )
        return pair[0], state

    return optax.GradientTransformationExtraArgs(init, update)
