"""Truncation schedules: how long an inner problem lasts."""

import abc
import dataclasses
import math

import jax
import jax.numpy as jnp

from l2o.config import require_positive_int


class TruncationSchedule(abc.ABC):
    """Draws the horizon of a new inner problem.

    Horizons are multiples of the window, so that a problem ends only between windows
    and the unrolled loop needs no conditional.
    """

    @abc.abstractmethod
    def num_steps(
        self, key: jax.Array, outer_step: jax.Array, window: int
    ) -> jax.Array:
        """The number of inner steps, int32, rounded up to a multiple of `window`."""

    @abc.abstractmethod
    def bounds(self) -> tuple[int, int]:
        """The shortest and the longest horizon."""


@dataclasses.dataclass(frozen=True)
class Constant(TruncationSchedule):
    """Every problem lasts `horizon` steps."""

    horizon: int = 1000

    def __post_init__(self) -> None:
        require_positive_int("horizon", self.horizon)

    def num_steps(
        self, key: jax.Array, outer_step: jax.Array, window: int
    ) -> jax.Array:
        del key, outer_step  # Always the same.
        return jnp.int32(math.ceil(self.horizon / window) * window)

    def bounds(self) -> tuple[int, int]:
        return self.horizon, self.horizon


@dataclasses.dataclass(frozen=True)
class LogUniform(TruncationSchedule):
    """Horizons uniform in the logarithm from `shortest` to `longest`."""

    shortest: int = 100
    longest: int = 1000

    def __post_init__(self) -> None:
        require_positive_int("shortest", self.shortest)
        require_positive_int("longest", self.longest)
        if self.shortest > self.longest:
            raise ValueError(
                "shortest must not exceed longest, "
                f"got {self.shortest} > {self.longest}"
            )

    def num_steps(
        self, key: jax.Array, outer_step: jax.Array, window: int
    ) -> jax.Array:
        del outer_step  # The distribution does not move.
        low, high = math.log(self.shortest), math.log(self.longest)
        steps = jnp.exp(jax.random.uniform(key, (), minval=low, maxval=high))
        # Rounding of exp and log may leave the range, and cost a whole window.
        steps = jnp.clip(steps, self.shortest, self.longest)
        return jnp.int32(jnp.ceil(steps / window)) * window

    def bounds(self) -> tuple[int, int]:
        return self.shortest, self.longest


SCHEDULES: dict[str, type[TruncationSchedule]] = {
    "constant": Constant,
    "log_uniform": LogUniform,
}
