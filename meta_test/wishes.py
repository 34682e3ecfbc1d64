r"""How far seven wishes of an optimizer are met.

Each wish has a score in [0, 1], where 1 is best, a number for people, a sentence, and
the numbers behind both. Of the trainings of a report:

* *converges*: the share of all trainings that reach the level where the median training
  of the best Adam ends.
* *fast*: with s the interquartile mean of the speedup over Adam in steps
  (`meta_test.across`), the score is $s / (1 + s)$: Adam itself has one half.
* *generalises*: the share of cells on which the median test loss is not above Adam's.

Of the trainings of `meta_test.card_trainings`, on three small problems. Losses are
normalised there, $n = (L - A) / (L_0 - A)$ and at most 1, with the median initial train
loss $L_0$ and the median final one A of tuned Adam: 1 - n is the share of the way that
was made. Diverged trainings have n = 1.

* *any weights*: the share of trainings, from initial weights times 0.01 to 100, that
  make nine tenths of the way from $L_0$ at scale 1.
* *robust*: of the way that a training makes, perturbations change the share
  $|n' - n| / (1 - n)$, at most 1, seed by seed; the score is 1 less the mean over seeds
  and problems of the worst of them: noise in the gradient, another order of the data,
  other initial weights, bfloat16.
* *no tuning*: settings that are off by 3 or 10 to either side, one at a time, lose the
  share $(n' - n) / (1 - n)$ in [0, 1] of the way; the score is 1 less the mean over
  factors, seeds and problems for the worst setting, and 1 where there is none.

And of a compiled step:

* *small*: with f the floats of state and of temporary memory that a parameter takes,
  the score is $1 / (1 + f / 2)$.

A training that makes no way has nothing to lose: it counts as having lost all of it.
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
from meta_test.aggregates import normalised
from meta_test.card_trainings import Trained
from meta_test.evaluate import REFERENCE, Report, Row
from meta_test.inner_loop import Curve
from meta_test.optimizer_step import CompiledStep
from meta_test.optimizers import Contender


WISHES = (
    "converges",
    "any weights",
    "fast",
    "generalises",
    "robust",
    "small",
    "no tuning",
)
"""The names of the wishes, in their order on a card."""

LEFT = 0.1
"""Of the way to where tuned Adam ends: what a training may leave to be successful."""

WIDTH, LAYERS = 256, 4
"""Of the dense layers, with biases, on which memory is measured."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """How far a wish is met.

    Attributes:
        name: one of `WISHES`.
        score: in [0, 1], 1 is best; None where the wish does not apply.
        shown: a number for people.
        detail: a sentence without its full stop.
        values: the numbers behind it; None for what is undefined or infinite.
    """

    name: str
    score: float | None
    shown: str
    detail: str
    values: Mapping[str, float | None]


def _wish(
    name: str,
    score: float | None,
    shown: str,
    detail: str,
    values: Mapping[str, float | None],
) -> Wish:
    finite = {
        key: None if value is None or not math.isfinite(value) else float(value)
        for key, value in values.items()
    }
    return Wish(name, None if score is None else float(score), shown, detail, finite)


def _without_reference(name: str) -> Wish:
    return _wish(name, None, "-", f"{REFERENCE} does not take part in the report", {})


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


class Ground(NamedTuple):
    """The way from initial parameters to where tuned Adam ends, on one problem."""

    initial: float
    best: float


def ground_of(plain: Curve) -> Ground:
    """By the plain trainings of tuned Adam."""
    losses = statistics.final_losses(plain, "train")
    return Ground(
        initial=float(np.median(plain.initial.train_loss)),
        best=float(statistics.quantile(losses, 0.5)),
    )


def _left(curve: Curve, ground: Ground) -> np.ndarray:
    """`[seeds]`: what is left of the way, at most 1."""
    return normalised(statistics.final_losses(curve, "train"), *ground)


def _change(plain: Curve, varied: Curve, ground: Ground) -> np.ndarray:
    """`[seeds]` in [-1, 1]: the share of the way made by `plain` that is lost."""
    before, after = _left(plain, ground), _left(varied, ground)
    made = np.where(before < 1, 1 - before, 1.0)
    return np.where(before < 1, np.clip((after - before) / made, -1, 1), 1.0)


def converges(report: Report, name: str) -> Wish:
    rows = [_row(report, cell.name, name) for cell in report.suite.cells]
    steps = [row.steps_to_reference for row in rows]
    if any(one is None for one in steps):
        return _without_reference("converges")
    reached = np.isfinite(np.concatenate(steps))  # pyright: ignore[reportArgumentType]
    diverged = sum(int(row.fitted.diverged.sum()) for row in rows)
    return _wish(
        "converges",
        reached.mean(),
        _percent(reached.mean()),
        f"{reached.sum()} of {len(reached)} trainings get to where tuned {REFERENCE} "
        f"ends, {diverged} diverge",
        {
            "reached": reached.sum(),
            "diverged": diverged,
            "trainings": len(reached),
        },
    )


def any_weights(trained: Sequence[Trained], grounds: Sequence[Ground]) -> Wish:
    made: dict[float, list[np.ndarray]] = {}
    for one, ground in zip(trained, grounds, strict=True):
        for scale, curve in one.scaled.items():
            made.setdefault(scale, []).append(_left(curve, ground) <= LEFT)
    if not made:
        return _wish("any weights", None, "-", "no problem has a scale of weights", {})
    shares = {scale: np.concatenate(each).mean() for scale, each in made.items()}
    every = np.concatenate([np.concatenate(each) for each in made.values()])
    good = [scale for scale, share in shares.items() if share >= 0.5]
    within = f"; most of them from x {min(good):g} to x {max(good):g}" if good else ""
    return _wish(
        "any weights",
        every.mean(),
        _percent(every.mean()),
        f"{every.sum()} of {len(every)} trainings from initial weights times "
        f"{min(made):g} to {max(made):g} make nine tenths of the way to where tuned "
        f"{REFERENCE} ends from plain ones{within}",
        {f"x {scale:g}": share for scale, share in shares.items()},
    )


def fast(one: Across) -> Wish:
    if one.speedup is None or one.wall_clock_speedup is None:
        return _without_reference("fast")
    steps = one.speedup.interquartile_mean
    seconds = one.wall_clock_speedup.interquartile_mean
    missed = one.speedup.bounded
    late = f"; {_percent(missed)} of the trainings miss it" if missed else ""
    return _wish(
        "fast",
        steps.estimate / (1 + steps.estimate),
        f"{steps.estimate:.2g}x",
        f"{steps.estimate:.2g} [{steps.low:.2g}, {steps.high:.2g}] times as fast as "
        f"tuned {REFERENCE} to where that ends, in steps, {seconds.estimate:.2g} "
        f"[{seconds.low:.2g}, {seconds.high:.2g}] times in seconds{late}",
        {
            "steps": steps.estimate,
            "steps_low": steps.low,
            "steps_high": steps.high,
            "seconds": seconds.estimate,
            "seconds_low": seconds.low,
            "seconds_high": seconds.high,
            "missed": missed,
        },
    )


def generalises(
    report: Report,
    one: Across,
    trained: Sequence[Trained],
    reference: Sequence[Trained],
) -> Wish:
    if one.not_worse_test is None:
        return _without_reference("generalises")
    cells = len(report.suite.cells)
    gap, usual = (_gap(report, name) for name in (one.contender, REFERENCE))
    sharper = _times_sharper(trained, reference)
    return _wish(
        "generalises",
        one.not_worse_test / cells,
        f"{one.not_worse_test}/{cells}",
        f"on {one.not_worse_test} of {cells} cells the test loss is not above that of "
        f"tuned {REFERENCE}; the median gap from train to test is {gap:.2g} of the way "
        f"that {REFERENCE} makes ({REFERENCE}'s {usual:.2g}), the loss where it ends "
        f"{sharper:.2g} times as sharp",
        {
            "not_worse": one.not_worse_test,
            "cells": cells,
            "gap": gap,
            f"gap_of_{REFERENCE}": usual,
            "times_sharper": sharper,
        },
    )


def _gap(report: Report, name: str) -> float:
    """Test loss less train loss at the end, of the way that tuned Adam makes.

    A median over seeds, then over those cells on which Adam makes any.
    """
    gaps = []
    for cell in report.suite.cells:
        row, reference = (_row(report, cell.name, n) for n in (name, REFERENCE))
        ground = ground_of(reference.fitted.curve)
        way = ground.initial - ground.best
        if not 0 < way < math.inf:
            continue
        chosen = row.validated
        final = chosen.curve.final
        apart = np.asarray(final.test_loss) - np.asarray(final.train_loss)
        lost = statistics.losses(apart, chosen.diverged)
        gaps.append(float(statistics.quantile(lost, 0.5)) / way)
    return float(statistics.quantile(gaps, 0.5)) if gaps else math.nan


def _times_sharper(ours: Sequence[Trained], theirs: Sequence[Trained]) -> float:
    """The geometric mean over problems of the quotient of median sharpnesses."""
    middle = lambda trained: np.array(
        [float(statistics.quantile(one.sharpness, 0.5)) for one in trained]
    )
    mine, usual = middle(ours), middle(theirs)
    # Not of a loss that curves down in all directions.
    if (mine <= 0).any() or (usual <= 0).any():
        return math.nan
    return float(np.exp(np.mean(np.log(mine) - np.log(usual))))


def robust(trained: Sequence[Trained], grounds: Sequence[Ground]) -> Wish:
    changes: dict[str, list[np.ndarray]] = {}
    for one, ground in zip(trained, grounds, strict=True):
        for name, curve in one.perturbed.items():
            change = np.abs(_change(one.plain, curve, ground))
            changes.setdefault(name, []).append(change)
    means = {name: np.concatenate(each).mean() for name, each in changes.items()}
    worst = max(means, key=lambda name: means[name])
    listed = ", ".join(f"{name} {_percent(x)}" for name, x in means.items())
    return _wish(
        "robust",
        1 - means[worst],
        f"±{_percent(means[worst])}",
        f"of the way that a training makes, this much is changed by: {listed}",
        means,
    )


def small(contender: Contender) -> Wish:
    hyper = jax.tree.map(lambda x: x[0], contender.candidates)
    optimizer = contender.make(hyper, jnp.int32(10_000))
    step = CompiledStep(optax.with_extra_args_support(optimizer), WIDTH, LAYERS)
    state = step.state_floats / step.parameters
    temporary = step.temporary_floats / step.parameters
    return _wish(
        "small",
        1 / (1 + (state + temporary) / 2),
        f"{state + temporary:.2g} floats",
        f"a parameter takes {state:.2g} floats of state and {temporary:.2g} of "
        f"temporary memory in a step on {LAYERS} dense {WIDTH} x {WIDTH} layers",
        {"state": state, "temporary": temporary, "parameters": step.parameters},
    )


def no_tuning(
    contender: Contender, trained: Sequence[Trained], grounds: Sequence[Ground]
) -> Wish:
    if not adjustable(contender).known:
        return _wish("no tuning", None, "-", "what its settings are is not known", {})
    lost: dict[tuple[str, float], list[np.ndarray]] = {}
    for one, ground in zip(trained, grounds, strict=True):
        for key, curve in one.off.items():
            change = np.clip(_change(one.plain, curve, ground), 0, 1)
            lost.setdefault(key, []).append(change)
    if not lost:
        return _wish("no tuning", 1.0, "nothing to set", "it has no settings", {})
    shares = {key: np.concatenate(each).mean() for key, each in lost.items()}
    means = {
        name: np.mean([share for (other, _), share in shares.items() if other == name])
        for name, _ in shares
    }
    worst = max(means, key=lambda name: means[name])
    listed = ", ".join(f"{name} {_percent(x)}" for name, x in means.items())
    return _wish(
        "no tuning",
        1 - means[worst],
        f"-{_percent(means[worst])}",
        f"of the way that a training makes, this much is lost where one of its settings "
        f"is off by 3 or 10 to either side: {listed}",
        {f"{name} x {factor:.2g}": share for (name, factor), share in shares.items()},
    )
