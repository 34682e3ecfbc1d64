"""Gradient descent with a learned learning rate: the smallest learned optimizer."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from l2o.config import require_positive
from l2o.learned.base import LearnedOptimizer, Theta
from l2o.learned.explicit_axes import shardable
from l2o.learned.in_float32 import in_float32


@dataclasses.dataclass(frozen=True)
class LearnableSGD(LearnedOptimizer):
    r"""Gradient descent: $p \leftarrow p - e^\theta g$.

    Attributes:
        learning_rate: where meta-training begins.

    Source: this project.
    """

    learning_rate: float = 0.01

    needs_value: ClassVar[bool] = False
    inputs: ClassVar[str] = "gradient"
    source: ClassVar[str] = "this project"

    def __post_init__(self) -> None:
        require_positive("learning_rate", self.learning_rate)

    @property
    def needs_num_steps(self) -> bool:
        return False

    def init_theta(self, key: jax.Array) -> Theta:
        del key  # Nothing is drawn.
        return {"log_learning_rate": jnp.float32(math.log(self.learning_rate))}

    @shardable
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # It does not plan for an end.
        return in_float32(self, optax.scale(-jnp.exp(theta["log_learning_rate"])))
