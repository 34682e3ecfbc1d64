"""Trainings with something changed, most of them in the program of the plain one.

What is traced tells them apart: noise in the gradient, the number of steps that an
optimizer is told, its settings. Keys and initial scales, which `meta_test.sweep` takes,
are traced as well.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from meta_test.inner_loop import Evaluated, MakeOptimizer
from tasks.augmentations.base import size, unflatten


CANDIDATE, NOISE, TOLD = "candidate", "noise", "num_steps"
"""What a hyper of `Varied` has: that of the optimizer, a share, and a factor."""

NOISE_KEY = 0x6E_6F_69_73
"""Of the noise in gradients, folded with the number of a step. (It spells "nois".)"""


class VariedState(NamedTuple):
    """State of `Varied`."""

    steps: jax.Array  # shape=(), int32: updates made
    inner: Any


@dataclasses.dataclass(frozen=True)
class Varied:
    r"""An optimizer that is fed a noisy gradient, or told a wrong number of steps.

    Its hyper is a dict. With the share s = `hyper[NOISE]` every tensor g of the
    gradient becomes

    $$ g + s \sqrt{\operatorname{mean} g^2}\; z, $$

    where z is standard normal, drawn anew at each step and the same in all trainings;
    nothing is drawn for a share of 0. The number of steps that the optimizer is told is
    that of the training times `hyper[TOLD]`, rounded, at least 1.

    Attributes:
        make: gives the optimizer for `hyper[CANDIDATE]`.
    """

    make: MakeOptimizer

    def __call__(
        self, hyper: Mapping[str, Any], num_steps: jax.Array
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer for one variation and length of training."""
        told = jnp.maximum(jnp.round(hyper[TOLD] * num_steps), 1).astype(jnp.int32)
        inner = optax.with_extra_args_support(self.make(hyper[CANDIDATE], told))
        share = hyper[NOISE]

        def init(params: optax.Params) -> VariedState:
            return VariedState(jnp.zeros((), jnp.int32), inner.init(params))

        def update(
            updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
        ) -> tuple[optax.Updates, VariedState]:
            key = jax.random.fold_in(jax.random.key(NOISE_KEY), state.steps)
            noisy = lambda g: _with_noise(g, share, key)
            updates = jax.lax.cond(share > 0, noisy, lambda g: g, updates)
            if "grad" in extra_args:
                extra_args["grad"] = updates
            updates, after = inner.update(updates, state.inner, params, **extra_args)
            return updates, VariedState(state.steps + 1, after)

        return optax.GradientTransformationExtraArgs(init, update)


def _with_noise(grads: Any, share: jax.Array, key: jax.Array) -> Any:
    draws = unflatten(jax.random.normal(key, (size(grads),), jnp.float32), grads)

    def noisy(g: jax.Array, z: jax.Array) -> jax.Array:
        scale = share * jnp.sqrt(jnp.mean(jnp.square(g.astype(jnp.float32))))
        return g + (scale * z).astype(g.dtype)

    return jax.tree.map(noisy, grads, draws)


@dataclasses.dataclass(frozen=True)
class OfVaried:
    """What a training of a `Varied` optimizer ends with.

    Attributes:
        evaluated: of the optimizer itself.
    """

    evaluated: Evaluated

    def __call__(self, state: VariedState, params: Any) -> Any:
        """The parameters that are judged."""
        return self.evaluated(state.inner, params)
