"""Backpropagation through the unroll."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from l2o.learned.base import LearnedOptimizer
from meta_train.estimators.credit import Credited
from meta_train.estimators.method import Loss, Method, Outcome


@dataclasses.dataclass(frozen=True)
class Backpropagation(Method):
    """The derivative of the meta-loss with respect to theta, through every step.

    Over a window of a longer problem it is truncated backpropagation through time,
    biased: the state that the window begins with counts as given. Over whole problems
    it is the gradient itself, without smoothing: exact, and where training is chaotic
    of enormous variance (Metz et al. 2019, arXiv 1810.10180).

    A unit is one problem under theta.
    """

    points: ClassVar[int] = 1

    def init(self, theta: jax.Array) -> Any:
        del theta  # Nothing is remembered.
        return ()

    def assign(
        self,
        lopt: LearnedOptimizer,
        theta: jax.Array,
        memory: Any,
        key: jax.Array,
        restarted: jax.Array,
    ) -> Credited:
        del lopt, theta, memory, key, restarted  # Nothing is random but the problems.
        return Credited(noise=(), credit=(), memory=())

    def thetas(self, theta: jax.Array, noise: Any) -> jax.Array:
        del noise  # There is none.
        return theta[None]

    def outcome(self, loss: Loss, theta: jax.Array) -> tuple[Outcome, Any]:
        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(theta)
        return Outcome(value, gradient), rest

    def contribution(
        self, lopt: LearnedOptimizer, used: Credited, outcomes: Outcome
    ) -> dict[str, jax.Array]:
        del lopt, used  # There is no noise.
        return {"gradient": outcomes.gradient[0]}

    def combine(self, sums: dict[str, jax.Array], valid: jax.Array) -> jax.Array:
        return sums["gradient"] / jnp.maximum(valid, 1)
