"""Meta-losses: one number for the losses of an unroll."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from l2o.config import require_positive, require_positive_int, require_range
from tasks.base import Split


class Readings(NamedTuple):
    """Normalised losses of one problem, over the windows of one estimate."""

    steps: jax.Array  # [n], on the batch of each inner step, before it
    made: jax.Array  # [n], bool: the inner steps that were made, one or more
    fresh: jax.Array  # [samples], at the end on new training batches, if asked for
    held_out: jax.Array  # [samples], at the end on `outer_valid`, if asked for
    done: jax.Array  # shape=(): the part of the problem that is over at the end


def _mean(readings: Readings) -> jax.Array:
    count = jnp.sum(readings.made)
    return jnp.sum(jnp.where(readings.made, readings.steps, 0.0)) / count


def _last(readings: Readings) -> jax.Array:
    return readings.steps[jnp.sum(readings.made) - 1]


def _minimum(readings: Readings) -> jax.Array:
    return jnp.min(jnp.where(readings.made, readings.steps, jnp.inf))


def _final(readings: Readings) -> jax.Array:
    return jnp.mean(readings.fresh)


REDUCTIONS: dict[str, Callable[[Readings], jax.Array]] = {
    "mean": _mean,
    "last": _last,
    "minimum": _minimum,
    "final": _final,
}
"""What can be made of training losses: over the inner steps, or after them."""


@dataclasses.dataclass(frozen=True)
class MetaLoss:
    r"""What meta-training minimises.

    $$ (1 - w)\, R(s(L_1), \ldots, s(L_n)) + w \, \mathrm{mean}_k\, s(V_k) $$

    with the training losses $L_t$, the losses $V_k$ on batches of the split
    `outer_valid` after the last step, a reduction R and a scale s; times
    $(1 + l) f^l$, with f the part of the problem that is over then.

    Attributes:
        reduce: R. `mean` rewards an early fall; `last` and `minimum` see the end and
            the best; `final` is the mean over `samples` new training batches after the
            last step (VeLO's `last_recompute`).
        scale: s. `log` is log(max(L, 0) + floor): each halving counts as much.
        floor: losses well below it are all as good, on the scale `log`.
        held_out: w, between 0 and 1.
        samples: batches of `final` and of the held-out loss.
        late: l. At 0 all windows of a problem count alike, so that an early fall and a
            low end are worth the same; at 2, with short windows, the last quarter has
            58 % of the weight. f is taken at the end of a window: where there are few
            windows, their mean weight is above 1.
        cap: where above 0, a normalised loss that is larger, or not finite, counts as
            this; else what is not finite is left out of the meta-gradient.
    """

    reduce: Literal["mean", "last", "minimum", "final"] = "mean"
    scale: Literal["linear", "log"] = "linear"
    floor: float = 1e-3
    held_out: float = 0.0
    samples: int = 1
    late: float = 0.0
    cap: float = 0.0

    def __post_init__(self) -> None:
        if self.reduce not in REDUCTIONS:
            raise ValueError(
                f"reduce must be one of {', '.join(REDUCTIONS)}, got {self.reduce!r}"
            )
        if self.scale not in ("linear", "log"):
            raise ValueError(f"scale must be linear or log, got {self.scale!r}")
        require_positive("floor", self.floor)
        require_range("held_out", self.held_out, 0.0, 1.0)
        require_positive_int("samples", self.samples)
        require_range("late", self.late, 0.0, 100.0)
        require_range("cap", self.cap, 0.0, 1e6)

    @property
    def samples_of(self) -> dict[Split, int]:
        """Batches that it reads after the last step, of `train` and `outer_valid`."""
        trains = self.reduce == "final" and self.held_out < 1.0
        return {
            "train": self.samples if trains else 0,
            "outer_valid": self.samples if self.held_out > 0.0 else 0,
        }

    def __call__(self, readings: Readings) -> tuple[jax.Array, jax.Array]:
        """The meta-loss, and whether all losses that it was made of were finite."""
        bounded, finite = [], jnp.ones((), bool)
        for losses, counted in (
            (readings.steps, readings.made),
            (readings.fresh, True),
            (readings.held_out, True),
        ):
            finite &= jnp.all(jnp.isfinite(losses) | ~jnp.asarray(counted))
            bounded.append(self._scaled(losses))
        scaled = readings._replace(
            steps=bounded[0], fresh=bounded[1], held_out=bounded[2]
        )
        value = self._combined(scaled)
        if self.late > 0.0:
            value *= (1.0 + self.late) * readings.done**self.late
        return value, finite

    def _combined(self, scaled: Readings) -> jax.Array:
        # Not products with zero, which a loss that is not finite would survive.
        if self.held_out == 0.0:
            return REDUCTIONS[self.reduce](scaled)
        held_out = jnp.mean(scaled.held_out)
        if self.held_out == 1.0:
            return held_out
        train = REDUCTIONS[self.reduce](scaled)
        return (1.0 - self.held_out) * train + self.held_out * held_out

    def _scaled(self, losses: jax.Array) -> jax.Array:
        if self.cap > 0.0:
            # NaN is not below the cap either.
            losses = jnp.where(losses < self.cap, losses, self.cap)
        if self.scale == "linear":
            return losses
        # A loss below zero, as noise can make it, counts as zero.
        return jnp.log(jnp.maximum(losses, 0.0) + self.floor)
