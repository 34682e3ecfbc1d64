"""What a report says over all cells: one line of statistics a contender."""

import dataclasses
import math
import weakref
from collections.abc import Sequence

import numpy as np

from meta_test.aggregates import (
    Comparison,
    Interval,
    compare,
    interquartile_mean,
    normalised,
    performance_profile,
    speedups,
    stratified_bootstrap,
)
from meta_test.evaluate import REFERENCE, ComparedSplit, Report, Row
from meta_test.statistics import quantile
from meta_test.suites import Cell
from meta_test.variants import FALLBACK


FACTORS = tuple(float(f"{10 ** (k / 20):.4g}") for k in range(21))
"""Of the best number of steps, from 1 to 10: where performance profiles are given."""


@dataclasses.dataclass(frozen=True, eq=False)
class Normalised:
    """Losses on a scale of 0, the best tuned baseline, to 1, the initial parameters.

    Attributes:
        median: over all seeds of all cells.
        interquartile_mean: over the same, with its 95 % interval over seeds and cells.
        left_out: cells on which no baseline ends below the initial loss.
    """

    median: float
    interquartile_mean: Interval
    left_out: int


@dataclasses.dataclass(frozen=True, eq=False)
class Speedup:
    """Steps of the reference over those of a contender, to the reference's level.

    Cells without such a level, see `without_level`, are left out.

    Attributes:
        interquartile_mean: over all seeds of all cells, with its 95 % interval.
        bounded: the share of trainings that missed the target, so that their speedup
            enters as its bound, above which it is not; or, where they diverged and the
            reference did not, as 0.
        least: the interquartile mean if all that missed the target entered as 0, but
            where the reference missed it too: with bounds, the other end of what the
            speedup can be.
    """

    interquartile_mean: Interval
    bounded: float
    least: float


@dataclasses.dataclass(frozen=True, eq=False)
class Across:
    """One contender over all cells.

    Attributes:
        contender: its name.
        train: normalised final train losses, of what was tuned for them.
        test: normalised final test losses, of what was tuned on validation data.
        speedup: in steps; None without the reference, or where it has no level.
        wall_clock_speedup: the same in seconds, by the measured cost of a step.
        better_train: on how many cells its median train loss is below the reference's.
        not_worse_test: on how many cells its median test loss is finite and not above
            the reference's.
        train_against_reference: the paired comparison of train losses.
        test_against_reference: the same of test losses.
        diverged: how many trainings of the comparison did.
        trainings: of how many.
        profile: share of the cells with a target on which its median steps to there are
            within each of `FACTORS` of the fewest of all contenders; None without any.
    """

    contender: str
    train: Normalised | None
    test: Normalised | None
    speedup: Speedup | None
    wall_clock_speedup: Speedup | None
    better_train: int | None
    not_worse_test: int | None
    train_against_reference: Comparison | None
    test_against_reference: Comparison | None
    diverged: int
    trainings: int
    profile: tuple[float, ...] | None


def across(report: Report) -> tuple[Across, ...]:
    """Statistics over all cells, in the order of the contenders.

    Intervals are of the stratified bootstrap over seeds and cells. The target of
    speedups and profiles is where the reference's median train curve ends; where that
    diverged there is none, and the cell is left out of them.
    """
    if report not in _KNOWN:
        _KNOWN[report] = _all(report)
    return _KNOWN[report]


def without_level(report: Report) -> tuple[str, ...]:
    """Cells on which the median training of the reference diverged; none without it."""
    return tuple(
        row.cell
        for row in report.rows
        if row.contender == REFERENCE and row.steps_to_reference is None
    )


NO_LEVEL = f"speedups, as {REFERENCE}'s median training diverged and has no level"
"""What cells of `without_level` are left out of, and why."""


def without_scale(report: Report, split: ComparedSplit) -> tuple[str, ...]:
    """Cells on which no tuned baseline ends below the initial loss; none without any.

    Nothing is normalised there.
    """
    if not _tuned(report):
        return ()
    first = report.contenders[0].name
    return tuple(
        cell.name
        for cell in report.suite.cells
        if _scale(report, _row(report, cell, first), split) is None
    )


def no_scale(split: str) -> str:
    """What cells of `without_scale` are left out of, and why."""
    return (
        f"normalised {split} losses, as no tuned baseline ends below the initial loss"
    )


# Resampling takes seconds, and text, pictures and page all ask for it.
_KNOWN: weakref.WeakKeyDictionary[Report, tuple[Across, ...]] = (
    weakref.WeakKeyDictionary()
)


def _all(report: Report) -> tuple[Across, ...]:
    names = [contender.name for contender in report.contenders]
    rows = {name: [_row(report, c, name) for c in report.suite.cells] for name in names}
    reference = rows.get(REFERENCE)
    profiles = None
    if reference is not None and any(map(_has_level, reference)):
        costs = [
            [float(quantile(_steps(row), 0.5)) for row in rows[name] if _has_level(row)]
            for name in names
        ]
        profiles = performance_profile(costs, FACTORS)
    return tuple(
        _across(report, name, rows, None if profiles is None else profiles[i])
        for i, name in enumerate(names)
    )


def _across(
    report: Report,
    name: str,
    rows: dict[str, list[Row]],
    profile: np.ndarray | None,
) -> Across:
    ours, reference = rows[name], rows.get(REFERENCE)
    horizons = [cell.horizon for cell in report.suite.cells]
    against = {}
    if reference is not None:
        races = [
            race
            for race in zip(reference, ours, horizons, strict=True)
            if _has_level(race[0])
        ]
        against = {
            "speedup": _speedup(races, wall_clock=False),
            "wall_clock_speedup": _speedup(races, wall_clock=True),
            "better_train": sum(
                mine.train_loss.median < theirs.train_loss.median
                for mine, theirs in zip(ours, reference, strict=True)
            ),
            "not_worse_test": sum(
                # Where both diverged, that is infinity on either side.
                math.isfinite(mine.test_loss.median)
                and mine.test_loss.median <= theirs.test_loss.median
                for mine, theirs in zip(ours, reference, strict=True)
            ),
            "train_against_reference": _compared(ours, reference, "train"),
            "test_against_reference": _compared(ours, reference, "test"),
        }
    empty = dict.fromkeys(
        (
            "speedup",
            "wall_clock_speedup",
            "better_train",
            "not_worse_test",
            "train_against_reference",
            "test_against_reference",
        )
    )
    return Across(
        contender=name,
        train=_normalised(report, rows, name, "train"),
        test=_normalised(report, rows, name, "test"),
        diverged=sum(int(row.fitted.diverged.sum()) for row in ours),
        trainings=sum(len(row.fitted.diverged) for row in ours),
        profile=None if profile is None else tuple(map(float, profile)),
        **(empty | against),
    )


def _row(report: Report, cell: Cell, name: str) -> Row:
    row = report.row(cell.name, name)
    assert row is not None
    return row


def _initial(row: Row, split: ComparedSplit) -> float:
    values = getattr(row.fitted.curve.initial, f"{split}_loss")
    return float(np.median(values))


def _tuned(report: Report) -> list[str]:
    """Hand-designed contenders but for the one that guards fall back to."""
    return [c.name for c in report.contenders if not c.learned and c.name != FALLBACK]


def _scale(
    report: Report, mine: Row, split: ComparedSplit
) -> tuple[float, float] | None:
    """The losses that count as 1 and as 0 on the cell of a row."""
    rows = [report.row(mine.cell, name) for name in _tuned(report)]
    medians = [float(quantile(row.losses(split), 0.5)) for row in rows if row]
    best, initial = min(medians, default=math.inf), _initial(mine, split)
    return (initial, best) if best < initial < math.inf else None


def _normalised(
    report: Report, rows: dict[str, list[Row]], name: str, split: ComparedSplit
) -> Normalised | None:
    scores = []
    for mine in rows[name]:
        scale = _scale(report, mine, split)
        if scale is not None:
            scores.append(normalised(mine.losses(split), *scale))
    if not scores:
        return None
    mean = lambda tasks: interquartile_mean(np.concatenate(tasks))
    return Normalised(
        median=float(np.median(np.concatenate(scores))),
        interquartile_mean=stratified_bootstrap(scores, mean, over_tasks=True),
        left_out=len(rows[name]) - len(scores),
    )


def _has_level(row: Row) -> bool:
    """Whether the reference ends somewhere on the cell of a row."""
    return row.steps_to_reference is not None


def _steps(row: Row) -> np.ndarray:
    assert row.steps_to_reference is not None
    return row.steps_to_reference


def _speedup(
    races: Sequence[tuple[Row, Row, int]], *, wall_clock: bool
) -> Speedup | None:
    """Of cells with a level: the reference, the contender, and the steps of both."""
    if not races:
        return None
    found, least = [], []
    for theirs, mine, horizon in races:
        speed = speedups(_steps(theirs), _steps(mine), horizon)
        cost = theirs.seconds_per_step / mine.seconds_per_step if wall_clock else 1.0
        # The bound of what is late, close to 1, is not for what will never be there.
        failed = mine.fitted.diverged & ~theirs.fitted.diverged
        found.append(np.where(failed, 0.0, speed.values * cost))
        missed = np.isinf(_steps(mine)) & np.isfinite(_steps(theirs))
        least.append(np.where(missed, 0.0, found[-1]))
    mean = lambda tasks: interquartile_mean(np.concatenate(tasks))
    missed = np.concatenate([~np.isfinite(_steps(mine)) for _, mine, _ in races])
    return Speedup(
        interquartile_mean=stratified_bootstrap(found, mean, over_tasks=True),
        bounded=float(missed.mean()),
        least=mean(least),
    )


def _compared(
    ours: Sequence[Row], reference: Sequence[Row], split: ComparedSplit
) -> Comparison:
    mine = [row.losses(split) for row in ours]
    theirs = [row.losses(split) for row in reference]
    return compare(mine, theirs)
