r"""How far seven wishes of an optimizer are met.

Each has a score in [0, 1], where 1 is best, a number for people, a sentence, and the
numbers behind them. Three are of a report's own trainings:

* *converges*: the share of them that reach the level where the median training of tuned
  Adam ends.
* *fast*: of the interquartile mean s of the speedup over Adam in steps, where what
  never comes as far as Adam did counts 0 (`meta_test.across.Speedup.least`), the score
  is $s / (1 + s)$: Adam itself has one half.
* *generalises*: the share of cells on which the median test loss is not above Adam's.

Three are of the trainings of `meta_test.card_trainings`, by what these make of the way
to where tuned Adam ends (`meta_test.way`):

* *any weights*: the share of trainings, from initial weights times 0.01 to 100, that
  leave no more than a tenth of the way from plain initial weights.
* *robust*: 1 less the share of the way by which the worst of the perturbations changes
  trainings, for the better or the worse, as a mean over seeds and problems.
* *no tuning*: 1 less the share of the way that is lost by the worst of the settings, as
  a mean over seeds, problems, and the factors 1/10, 1/3, 3 and 10 by which it is off
  while the others are not; a gain is no loss. Where there are no settings it is 1.

And one is of a compiled step:

* *small*: a parameter takes f floats of state and of temporary memory, and the score is
  $1 / (1 + f / 2)$: plain SGD has 1, and Adam one half.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_test import statistics
from meta_test.across import Across
from meta_test.adjustable import adjustable
from meta_test.aggregates import Interval
from meta_test.card_trainings import Trained
from meta_test.evaluate import REFERENCE, Report, Row
from meta_test.optimizer_step import CompiledStep
from meta_test.optimizers import Contender
from meta_test.way import Way


LEFT = 0.1
"""Of the way: what a successful training leaves at most."""

WIDTH, LAYERS = 256, 4
"""Of the dense layers, with biases, on which memory is measured."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """How far a wish is met.

    Attributes:
        name: of the wish.
        score: in [0, 1], 1 is best; None where it does not apply.
        shown: a number for people.
        detail: a sentence without its full stop.
        values: the numbers behind it, None for what is undefined or infinite.
    """

    name: str
    score: float | None
    shown: str
    detail: str
    values: Mapping[str, float | None]


class Measured(NamedTuple):
    """A contender on one problem, and the way there."""

    trained: Trained
    way: Way


def converges(report: Report, contender: str) -> Wish:
    """The share of trainings that reach where tuned Adam ends, if it does."""
    steps, diverged = [], 0
    for row in _rows(report, contender):
        if row.steps_to_reference is not None:
            steps.append(row.steps_to_reference)
            diverged += int(row.fitted.diverged.sum())
    if not steps:
        return _without_level("converges")
    reached = np.isfinite(np.concatenate(steps))
    return _wish(
        "converges",
        reached.mean(),
        _percent(reached.mean()),
        f"{reached.sum()} of {len(reached)} trainings reach the level where tuned "
        f"{REFERENCE} ends, {diverged} diverge",
        reached=reached.sum(),
        diverged=diverged,
        trainings=len(reached),
    )


def any_weights(measured: Sequence[Measured]) -> Wish:
    """The share of trainings that succeed, over scales of the initial weights."""
    made: dict[float, list[np.ndarray]] = {}
    for trained, way in measured:
        for scale, curve in trained.scaled.items():
            made.setdefault(scale, []).append(way.left(curve) <= LEFT)
    if not made:
        detail = "no problem has a scale of the initial weights"
        return _wish("any weights", None, "-", detail)
    every = np.concatenate([np.concatenate(found) for found in made.values()])
    return _wish(
        "any weights",
        every.mean(),
        _percent(every.mean()),
        f"{every.sum()} of {len(every)} trainings from initial weights x {min(made):g} "
        f"to x {max(made):g} make nine tenths of the way that tuned {REFERENCE} makes "
        "from x 1",
        **{f"x {s:g}": np.concatenate(found).mean() for s, found in made.items()},
    )


def fast(across: Across) -> Wish:
    """The speedup over tuned Adam."""
    if across.speedup is None or across.wall_clock_speedup is None:
        return _without_level("fast")
    steps = across.speedup.interquartile_mean
    seconds = across.wall_clock_speedup.interquartile_mean
    missed, least = across.speedup.bounded, across.speedup.least
    late = f"; {_percent(missed)} of trainings never are" if missed else ""
    # What is late enters the mean at its last step: the speedup is no more than that.
    bound = "<" if least < steps.estimate else ""
    return _wish(
        "fast",
        least / (1 + least),
        f"{bound}{steps.estimate:.2g}x",
        f"to be where tuned {REFERENCE} ends it is {_interval(steps)} times as fast in "
        f"steps and {_interval(seconds)} times in seconds{late}",
        **_named("steps", steps),
        **_named("seconds", seconds),
        missed=missed,
        least=least,
    )


def generalises(
    report: Report,
    across: Across,
    measured: Sequence[Measured],
    reference: Sequence[Measured],
) -> Wish:
    """Test losses beside tuned Adam's, their gap to train losses, the sharpness."""
    if across.not_worse_test is None:
        return _without_reference("generalises")
    good, cells = across.not_worse_test, len(report.suite.cells)
    gap, usual = (_gap(report, name) for name in (across.contender, REFERENCE))
    sharper = _times_sharper(measured, reference)
    sharp = f"; it ends {sharper:.2g} times as sharp" if math.isfinite(sharper) else ""
    return _wish(
        "generalises",
        good / cells,
        f"{good}/{cells}",
        f"on {good} of {cells} cells its test loss is not above that of tuned "
        f"{REFERENCE}; from train to test loss it is {gap:.2g} of the way, for "
        f"{REFERENCE} {usual:.2g}{sharp}",
        not_worse=good,
        cells=cells,
        gap=gap,
        reference_gap=usual,
        times_as_sharp=sharper,
    )


def robust(measured: Sequence[Measured]) -> Wish:
    """How little small perturbations change."""
    changes: dict[str, list[np.ndarray]] = {}
    for trained, way in measured:
        for name, curve in trained.perturbed.items():
            change = np.abs(way.lost(trained.plain, curve))
            changes.setdefault(name, []).append(change)
    means = {name: np.concatenate(found).mean() for name, found in changes.items()}
    worst = max(means.values())
    return _wish(
        "robust",
        1 - worst,
        f"±{_percent(worst)}",
        f"of the way, what it makes is changed by {_listed(means)}",
        **means,
    )


def small(contender: Contender) -> Wish:
    """The memory of a step."""
    hyper = jax.tree.map(lambda x: x[0], contender.candidates)
    optimizer = contender.make(hyper, jnp.int32(10_000))
    step = CompiledStep(optax.with_extra_args_support(optimizer), WIDTH, LAYERS)
    state = step.state_floats / step.parameters
    temporary = step.temporary_floats / step.parameters
    return _wish(
        "small",
        1 / (1 + (state + temporary) / 2),
        f"{state + temporary:.1f} floats",
        f"a parameter takes {state:.1f} floats of state and {temporary:.1f} of "
        f"temporary memory, in a step on {LAYERS} dense layers of {WIDTH} x {WIDTH}",
        state=state,
        temporary=temporary,
        parameters=step.parameters,
    )


def no_tuning(contender: Contender, measured: Sequence[Measured]) -> Wish:
    """How little is lost by wrong settings."""
    if not adjustable(contender).known:
        return _wish("no tuning", None, "-", "what its settings are is not known")
    lost: dict[tuple[str, float], list[np.ndarray]] = {}
    for trained, way in measured:
        for key, curve in trained.off.items():
            loss = np.maximum(way.lost(trained.plain, curve), 0)
            lost.setdefault(key, []).append(loss)
    if not lost:
        return _wish("no tuning", 1.0, "nothing to set", "it has no settings")
    shares = {key: np.concatenate(found).mean() for key, found in lost.items()}
    names = dict.fromkeys(name for name, _ in shares)
    means = {
        name: float(np.mean([x for (other, _), x in shares.items() if other == name]))
        for name in names
    }
    worst = max(means.values())
    return _wish(
        "no tuning",
        1 - worst,
        f"-{_percent(worst)}",
        "of the way, what it makes is less by this where one of its settings is 3 or "
        f"10 times too small or too large: {_listed(means)}",
        **{f"{name} x {factor:.2g}": share for (name, factor), share in shares.items()},
    )


def _wish(
    name: str, score: float | None, shown: str, detail: str, **values: float
) -> Wish:
    finite = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
    return Wish(name, None if score is None else float(score), shown, detail, finite)


def _without_level(name: str) -> Wish:
    detail = f"{REFERENCE} does not take part in the report, or diverges on all cells"
    return _wish(name, None, "-", detail)


def _without_reference(name: str) -> Wish:
    return _wish(name, None, "-", f"{REFERENCE} does not take part in the report")


def _rows(report: Report, contender: str) -> list[Row]:
    rows = [report.row(cell.name, contender) for cell in report.suite.cells]
    return [row for row in rows if row is not None]


def _gap(report: Report, contender: str) -> float:
    """Test less train loss at the end, as a share of the way that tuned Adam makes.

    Of what was chosen by validation: a median over seeds, and then over the cells on
    which Adam makes some way.
    """
    gaps: list[float] = []
    for row, reference in zip(
        _rows(report, contender), _rows(report, REFERENCE), strict=True
    ):
        way = Way.of(reference.fitted.curve)
        if not 0 < way.initial - way.end < math.inf:
            continue
        final = row.validated.curve.final
        apart = np.asarray(final.test_loss) - np.asarray(final.train_loss)
        lost = statistics.losses(apart, row.validated.diverged)
        gaps.append(float(statistics.quantile(lost, 0.5)) / (way.initial - way.end))
    return float(statistics.quantile(np.array(gaps), 0.5)) if gaps else math.nan


def _times_sharper(ours: Sequence[Measured], theirs: Sequence[Measured]) -> float:
    """The geometric mean over problems of quotients of medians over seeds.

    NaN where a loss curves down in all directions, or both diverge.
    """
    mine, other = (
        np.array([statistics.quantile(one.trained.sharpness, 0.5) for one in each])
        for each in (ours, theirs)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        quotients = mine / other
        return float(np.exp(np.mean(np.log(np.where(other > 0, quotients, np.nan)))))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_percent(share)}" for name, share in shares.items())


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.2g} [{interval.low:.2g}, {interval.high:.2g}]"


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {
        name: interval.estimate,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }
