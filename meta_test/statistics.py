"""Statistics of repeated trainings, in which diverged ones count and are never dropped.

A diverged training is worse than any number: its loss counts as plus infinity, its
accuracy as zero, and it never reaches a target. Medians and quartiles are defined for
such samples; means are not, and none is taken.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from meta_test.inner_loop import Curve


SMOOTHING_RECORDS = 5
"""Records in the centred mean that decides when a curve has reached a target."""


EvaluatedSplit = Literal["train", "valid", "test"]
"""The splits on which final parameters are evaluated."""


class Quartiles(NamedTuple):
    """Median and quartiles of a sample."""

    q25: float
    median: float
    q75: float


class StepsToReach(NamedTuple):
    """How long trainings took to reach a target; infinite for those that never did."""

    quartiles: Quartiles
    reached: int  # how many did
    bound: int  # the length of the trainings: the others took more than this


def quantile(values: ArrayLike, fraction: float) -> np.ndarray:
    """Quantile along the leading axis, by linear interpolation.

    Unlike numpy's, it is defined for samples that are not all finite: what is not
    finite counts as plus infinity, and between a number and infinity lies infinity.

    Args:
        values: `[samples, ...]`, at least one sample.
        fraction: in [0, 1].

    Returns:
        `[...]`.
    """
    sample = np.asarray(values, np.float64)
    ordered = np.sort(np.where(np.isfinite(sample), sample, np.inf), axis=0)
    position = fraction * (len(ordered) - 1)
    below, above = ordered[int(np.floor(position))], ordered[int(np.ceil(position))]
    share = position - np.floor(position)
    # inf - inf and 0 * inf are nan: equal neighbours and whole positions are kept.
    with np.errstate(invalid="ignore"):
        between = below + share * (above - below)
    return np.where((share == 0) | (below == above), below, between)


def quartiles(values: ArrayLike) -> Quartiles:
    """Median and interquartile range of a one-dimensional sample."""
    return Quartiles(*(float(quantile(values, q)) for q in (0.25, 0.5, 0.75)))


def diverged(curve: Curve) -> np.ndarray:
    """Which trainings diverged.

    A training diverged when any recorded or final loss is not finite, when it was given
    up, or when its final train loss is above its initial one.

    Args:
        curve: with any leading axes.

    Returns:
        Booleans with these axes.
    """
    initial, final = curve.initial, curve.final
    finite = (
        np.isfinite(curve.train_loss).all(axis=-1)
        & np.isfinite(final.train_loss)
        & np.isfinite(final.valid_loss)
        & np.isfinite(final.test_loss)
    )
    with np.errstate(invalid="ignore"):
        return ~(finite & (final.train_loss <= initial.train_loss))


def losses(values: ArrayLike, diverged: np.ndarray) -> np.ndarray:
    """Losses as they enter statistics: plus infinity where the training diverged."""
    return np.where(diverged, np.inf, values)


def accuracies(values: ArrayLike, diverged: np.ndarray) -> np.ndarray | None:
    """Accuracies as they enter statistics: zero where the training diverged.

    Returns:
        The accuracies; None for a task that has none, whose accuracies are all nan.
    """
    if np.isnan(np.asarray(values)).all():
        return None
    return np.where(diverged, 0.0, values)


def final_losses(curve: Curve, split: EvaluatedSplit) -> np.ndarray:
    """Final losses as they enter statistics, with the curve's leading axes."""
    return losses(getattr(curve.final, f"{split}_loss"), diverged(curve))


def best_losses(curve: Curve, split: EvaluatedSplit) -> np.ndarray:
    """The lowest evaluated losses, the initial one not among them."""
    values = np.asarray(getattr(curve.evaluations, f"{split}_loss"))
    return losses(values.min(axis=-1), diverged(curve))


def mean_losses(curve: Curve) -> np.ndarray:
    """Means of the recorded train losses: the area under a curve, by its length."""
    return losses(np.asarray(curve.train_loss).mean(axis=-1), diverged(curve))


def median_losses(curve: Curve, split: EvaluatedSplit) -> np.ndarray:
    """`[candidates]` median final loss of curves `[candidates, seeds]`."""
    return quantile(final_losses(curve, split).T, 0.5)


def best_candidate(curve: Curve, split: EvaluatedSplit) -> int:
    """The candidate with the lowest median final loss on a split.

    Among equals, the one with the fewest diverged trainings wins, and then the first.

    Args:
        curve: with leading axes `[candidates, seeds]`.
        split: whose loss counts.

    Returns:
        Index of the candidate.
    """
    failures = diverged(curve).sum(axis=1)
    return int(np.lexsort((failures, median_losses(curve, split)))[0])


def steps_to_reach(
    curves: ArrayLike, diverged: np.ndarray, target: float, record_every: int
) -> np.ndarray:
    """The first recorded step at which each smoothed train curve is at the target.

    Args:
        curves: `[seeds, num_records]` mean train loss since the last record.
        diverged: `[seeds]`; a training that diverged later has reached nothing.
        target: a loss; when it is not finite nothing reaches it.
        record_every: steps per record.

    Returns:
        `[seeds]` steps, infinite for those that never did.
    """
    reached = smooth(curves) <= (target if np.isfinite(target) else -np.inf)
    first = (np.argmax(reached, axis=1) + 1.0) * record_every
    return np.where(reached.any(axis=1) & ~diverged, first, np.inf)


def final_level(curves: ArrayLike, diverged: np.ndarray) -> float:
    """Where the median training's smoothed curve ends.

    It is measured as `steps_to_reach` measures, on the batches of training, so that a
    contender whose own level is the target reaches it with at least half of its seeds.

    Args:
        curves: `[seeds, num_records]` mean train loss since the last record.
        diverged: `[seeds]`; these end at infinity.
    """
    return float(quantile(losses(smooth(curves)[:, -1], diverged), 0.5))


def smooth(curves: ArrayLike, width: int = SMOOTHING_RECORDS) -> np.ndarray:
    """Centred moving mean along the last axis, over what there is of it at the ends.

    Args:
        curves: `[..., num_records]`.
        width: odd number of records.

    Returns:
        Of the same shape.
    """
    half = width // 2
    values = np.asarray(curves, np.float64)
    windows = [slice(max(0, i - half), i + half + 1) for i in range(values.shape[-1])]
    return np.stack([values[..., w].mean(axis=-1) for w in windows], axis=-1)


Verdict = Literal["wins", "even", "loses"]


class Duel(NamedTuple):
    """Two optimizers over the same seeds, by how often each had the lower loss."""

    wins: int
    losses: int
    pairs: int

    @property
    def verdict(self) -> Verdict:
        """`wins` or `loses` with at least four fifths of the pairs, else `even`."""
        if 5 * self.wins >= 4 * self.pairs:
            return "wins"
        if 5 * self.losses >= 4 * self.pairs:
            return "loses"
        return "even"


def verdicts_by_chance(pairs: int) -> float:
    """How often `duel` has a verdict on two that are equal and never tie."""
    won = [Duel(wins, pairs - wins, pairs) for wins in range(pairs + 1)]
    found = sum(math.comb(pairs, d.wins) for d in won if d.verdict != "even")
    return found / 2**pairs


def duel(ours: np.ndarray, theirs: np.ndarray) -> Duel:
    """Compares losses pair by pair; two diverged trainings are no win for either."""
    return Duel(
        wins=int((ours < theirs).sum()),
        losses=int((ours > theirs).sum()),
        pairs=len(ours),
    )
