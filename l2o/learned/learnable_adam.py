"""Adam with learned hyperparameters."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive, require_range
from l2o.learned.accumulators import start_correction
from l2o.learned.base import LearnedOptimizer, Theta
from l2o.learned.explicit_axes import shardable
from l2o.learned.in_float32 import in_float32


@dataclasses.dataclass(frozen=True)
class LearnableAdam(LearnedOptimizer):
    r"""Adam whose theta are the logarithms of its four hyperparameters.

    Theta holds $\log\lambda$, $\log(1 - \beta_1)$, $\log(1 - \beta_2)$ and
    $\log\epsilon$, so that a step of theta changes each by a factor. A decay rate below
    zero counts as zero.

    Attributes:
        learning_rate: $\lambda$ where meta-training begins; likewise the others.
        b1: $\beta_1$, the decay rate of the momentum.
        b2: $\beta_2$, the decay rate of the second moment.
        epsilon: $\epsilon$, added to the root of the second moment.

    Source: Kingma and Ba 2015, "Adam: A method for stochastic optimization", arXiv
    1412.6980.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    needs_value: ClassVar[bool] = False
    inputs: ClassVar[str] = "momentum over the root of the second moment"
    source: ClassVar[str] = "Kingma and Ba 2015, arXiv 1412.6980"

    def __post_init__(self) -> None:
        require_positive("learning_rate", self.learning_rate)
        require_range("b1", self.b1, 0.0, 1.0 - 1e-6)
        require_range("b2", self.b2, 0.0, 1.0 - 1e-6)
        require_positive("epsilon", self.epsilon)

    @property
    def needs_num_steps(self) -> bool:
        return False

    def init_theta(self, key: jax.Array) -> Theta:
        del key  # Nothing is drawn.
        return {
            "log_learning_rate": jnp.float32(math.log(self.learning_rate)),
            "log_one_minus_b1": jnp.float32(math.log1p(-self.b1)),
            "log_one_minus_b2": jnp.float32(math.log1p(-self.b2)),
            "log_epsilon": jnp.float32(math.log(self.epsilon)),
        }

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # It does not plan for an end.
        b1 = _decay(theta["log_one_minus_b1"])
        b2 = _decay(theta["log_one_minus_b2"])
        epsilon = jnp.exp(theta["log_epsilon"])

        # optax's own divides by what corrects the start; see `start_correction`.
        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None
        ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
            del params
            mu = optax.tree.update_moment(updates, state.mu, b1, 1)
            nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
            count = optax.safe_increment(state.count)
            first, second = (start_correction(b, count) for b in (b1, b2))
            updates = jax.tree.map(
                # Too small to change a step; without it the derivative of the root at
                # a gradient that was always zero is infinite.
                lambda m, v: m * first / (jnp.sqrt(v * second + 1e-30) + epsilon),
                mu,
                nu,
            )
            return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

        adam = optax.GradientTransformation(optax.scale_by_adam().init, update)
        rate = jnp.exp(theta["log_learning_rate"])
        return in_float32(self, optax.chain(adam, optax.scale(-rate)))


def _decay(log_complement: jax.Array) -> jax.Array:
    return -jnp.expm1(jnp.minimum(log_complement, 0.0))
