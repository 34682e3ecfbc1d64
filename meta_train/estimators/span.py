"""How much of its problems an estimate unrolls."""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from l2o.config import require_positive_int
from meta_train.schedules import TruncationSchedule


@dataclasses.dataclass(frozen=True)
class Span(abc.ABC):
    """A number of windows of one problem.

    Attributes:
        window: inner steps in each.
    """

    window: int = 50

    def __post_init__(self) -> None:
        require_positive_int("window", self.window)

    @abc.abstractmethod
    def most(self, schedule: TruncationSchedule) -> int:
        """The largest number of windows."""

    @abc.abstractmethod
    def horizons(self, drawn: jax.Array) -> jax.Array:
        """Horizons `[n]` of the new problems of a block, from those drawn for each."""

    @abc.abstractmethod
    def count(self, horizons: jax.Array) -> jax.Array:
        """The number of windows of a block whose new problems have these horizons."""


class Truncated(Span):
    """One window; the next estimate goes on where it ended."""

    def most(self, schedule: TruncationSchedule) -> int:
        del schedule  # Whatever its horizons.
        return 1

    def horizons(self, drawn: jax.Array) -> jax.Array:
        return drawn

    def count(self, horizons: jax.Array) -> jax.Array:
        del horizons
        return jnp.int32(1)


class Whole(Span):
    """Whole problems: every estimate begins new ones, and ends them.

    Those of a block have one horizon, that of its first: else all would take as long as
    the longest.
    """

    def most(self, schedule: TruncationSchedule) -> int:
        return -(-schedule.bounds()[1] // self.window)

    def horizons(self, drawn: jax.Array) -> jax.Array:
        return jnp.broadcast_to(drawn[0], drawn.shape)

    def count(self, horizons: jax.Array) -> jax.Array:
        return horizons[0] // self.window


SPANS: dict[str, type[Span]] = {"window": Truncated, "problem": Whole}
