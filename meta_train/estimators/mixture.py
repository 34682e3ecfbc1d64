"""Evolution strategies and backpropagation, each where it is the surer one."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from l2o.learned.base import LearnedOptimizer
from meta_train.estimators.backpropagation import Backpropagation
from meta_train.estimators.credit import Credited, Fresh
from meta_train.estimators.evolution import EvolutionStrategies
from meta_train.estimators.method import Loss, Method, Outcome
from meta_train.perturb import Gaussian


@dataclasses.dataclass(frozen=True)
class Mixture(Method):
    r"""Two estimates of one smoothed gradient, weighted by their inverse variances.

    From the same antithetic pairs, evolution strategies give $g_e$ and the mean of the
    derivatives at both points gives $g_b$, the reparametrisation gradient. Both have
    the mean $\nabla_\theta E_\epsilon[L(\theta + \epsilon)]$. Entry by entry,

    $$ g = \frac{g_e v_b + g_b v_e}{v_e + v_b} $$

    with the variances v of their means over the pairs, as far as the pairs of one
    estimate tell. Since the weights come from the same pairs it has a bias, which falls
    as one over their number. Noise is fresh in every window, which is truncated unless
    problems are unrolled whole.

    Attributes:
        noise: what theta is perturbed by.

    Source: Metz et al. 2019, "Understanding and correcting pathologies in the training
    of learned optimizers", arXiv 1810.10180.
    """

    noise: Gaussian

    points: ClassVar[int] = 2

    @property
    def _evolution(self) -> EvolutionStrategies:
        return EvolutionStrategies(credit=Fresh(), noise=self.noise)

    def init(self, theta: jax.Array) -> Any:
        return self._evolution.init(theta)

    def assign(
        self,
        lopt: LearnedOptimizer,
        theta: jax.Array,
        memory: Any,
        key: jax.Array,
        restarted: jax.Array,
    ) -> Credited:
        return self._evolution.assign(lopt, theta, memory, key, restarted)

    def thetas(self, theta: jax.Array, noise: Any) -> jax.Array:
        return self._evolution.thetas(theta, noise)

    def outcome(self, loss: Loss, theta: jax.Array) -> tuple[Outcome, Any]:
        return Backpropagation().outcome(loss, theta)

    def contribution(
        self, lopt: LearnedOptimizer, used: Credited, outcomes: Outcome
    ) -> dict[str, jax.Array]:
        evolution = self._evolution.contribution(lopt, used, outcomes)["gradient"]
        backprop = jnp.mean(outcomes.gradient, axis=0)
        return {
            "evolution": evolution,
            "evolution_square": evolution**2,
            "backprop": backprop,
            "backprop_square": backprop**2,
        }

    def combine(self, sums: dict[str, jax.Array], valid: jax.Array) -> jax.Array:
        # A factor: a division is compiled otherwise on one device than on several.
        share = 1.0 / jnp.maximum(valid, 1)
        means = {name: share * x for name, x in sums.items()}
        spread_e, spread_b = (
            jnp.maximum(means[f"{name}_square"] - means[name] ** 2, 0.0)
            for name in ("evolution", "backprop")
        )
        total = spread_e + spread_b
        # Without any spread, as with one pair, nothing tells them apart.
        weight = jnp.where(total > 0.0, spread_b / jnp.where(total > 0, total, 1), 0.5)
        return weight * means["evolution"] + (1.0 - weight) * means["backprop"]
