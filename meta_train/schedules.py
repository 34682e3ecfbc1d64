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
        return _log_uniform(key, self.shortest, self.longest, self.longest, window)

    def bounds(self) -> tuple[int, int]:
        return self.shortest, self.longest


@dataclasses.dataclass(frozen=True)
class Curriculum(TruncationSchedule):
    r"""Log-uniform horizons whose upper end grows as meta-training goes on.

    At outer step n the upper end is

    $$ \mathrm{first} \, (\mathrm{longest} / \mathrm{first})^{\min(1, n / g)} $$

    so that it is multiplied by as much in every outer step of the first g.

    Attributes:
        shortest: lower end, from the start.
        first: upper end at outer step 0.
        longest: upper end from outer step `growth` on.
        growth: g, in outer steps.

    Source: the idea of lengthening horizons is in Chen et al. 2020, "Training stronger
    baselines for learning to optimize", arXiv 2010.09089, which does so in stages.
    """

    shortest: int = 100
    first: int = 200
    longest: int = 2000
    growth: int = 1000

    def __post_init__(self) -> None:
        for name in ("shortest", "first", "longest", "growth"):
            require_positive_int(name, getattr(self, name))
        if not self.shortest <= self.first <= self.longest:
            raise ValueError(
                "shortest, first and longest must not decrease, "
                f"got {self.shortest}, {self.first}, {self.longest}"
            )

    def num_steps(
        self, key: jax.Array, outer_step: jax.Array, window: int
    ) -> jax.Array:
        done = jnp.minimum(outer_step / self.growth, 1.0)
        end = math.log(self.first) + done * math.log(self.longest / self.first)
        return _log_uniform(key, self.shortest, jnp.exp(end), self.longest, window)

    def bounds(self) -> tuple[int, int]:
        return self.shortest, self.longest


def _log_uniform(
    key: jax.Array, low: int, high: jax.Array | float, most: int, window: int
) -> jax.Array:
    """Between `low` and `high`, never above `most`; up to a multiple of `window`."""
    steps = jnp.exp(
        jax.random.uniform(key, (), minval=math.log(low), maxval=jnp.log(high))
    )
    # Rounding of exp and log may leave the range, and cost a whole window.
    steps = jnp.clip(steps, low, most)
    return jnp.int32(jnp.ceil(steps / window)) * window


SCHEDULES: dict[str, type[TruncationSchedule]] = {
    "constant": Constant,
    "log_uniform": LogUniform,
    "curriculum": Curriculum,
}
