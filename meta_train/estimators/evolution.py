"""Evolution strategies: the meta-gradient from differences of losses."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from l2o.learned.base import LearnedOptimizer
from meta_train.estimators.credit import Credit, Credited
from meta_train.estimators.method import Loss, Method, Outcome
from meta_train.perturb import Gaussian, antithetic_gradient, antithetic_points


@dataclasses.dataclass(frozen=True)
class EvolutionStrategies(Method):
    r"""The mean over antithetic pairs of `antithetic_gradient`.

    A unit is a pair: one problem, with the same task, initial parameters and batches,
    under $\theta + \epsilon$ and $\theta - \epsilon$.

    Attributes:
        credit: which noise is used and credited in a window.
        noise: what theta is perturbed by.
        difference: `raw`, or the `sign` of the difference of losses alone, as VeLO was
            meta-trained: no problem counts more than another, whatever its scale.
    """

    credit: Credit
    noise: Gaussian
    difference: Literal["raw", "sign"] = "raw"

    points: ClassVar[int] = 2

    def init(self, theta: jax.Array) -> Any:
        return self.credit.init(theta)

    def assign(
        self,
        lopt: LearnedOptimizer,
        theta: jax.Array,
        memory: Any,
        key: jax.Array,
        restarted: jax.Array,
    ) -> Credited:
        fresh = self.noise.sample(lopt, key, theta.size)
        return self.credit.assign(memory, fresh, restarted)

    def thetas(self, theta: jax.Array, noise: Any) -> jax.Array:
        return antithetic_points(theta, noise)

    def outcome(self, loss: Loss, theta: jax.Array) -> tuple[Outcome, Any]:
        value, rest = loss(theta)
        return Outcome(value, ()), rest

    def contribution(
        self, lopt: LearnedOptimizer, used: Credited, outcomes: Outcome
    ) -> dict[str, jax.Array]:
        plus, minus = outcomes.loss
        difference = plus - minus
        if self.difference == "sign":
            difference = jnp.sign(difference)
        precision = self.noise.precision(lopt)
        return {"gradient": antithetic_gradient(used.credit, difference, precision)}

    def combine(self, sums: dict[str, jax.Array], valid: jax.Array) -> jax.Array:
        return sums["gradient"] / jnp.maximum(valid, 1)
