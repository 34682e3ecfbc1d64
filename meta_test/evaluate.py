"""Judges optimizers on a suite."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from meta_test import statistics
from meta_test.inner_loop import Curve, run_grid
from meta_test.optimizers import Contender
from meta_test.statistics import EvaluatedSplit, Quartiles, StepsToReach
from meta_test.suites import Cell, Suite


REFERENCE = "adam"
"""The contender whose best training sets the target of `steps_to_reference`."""


class Progress(NamedTuple):
    """One contender on one cell is about to start."""

    done: int
    total: int
    cell: Cell
    contender: Contender


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
    """The best candidate by the median final loss on one split.

    Attributes:
        labels: of the candidates.
        median_losses: `[candidates]`, infinite where most seeds diverged.
        diverged: `[candidates]` how many seeds diverged.
        best: index of the best candidate.
        losses: `[seeds]` final losses of the best candidate on this split; a diverged
            training counts as infinite.
    """

    labels: tuple[str, ...]
    median_losses: np.ndarray
    diverged: np.ndarray
    best: int
    losses: np.ndarray

    @property
    def label(self) -> str:
        """The label of the best candidate."""
        return self.labels[self.best]

    @property
    def at_edge(self) -> bool:
        """Whether the best is first or last of several: the grid may be too small."""
        return len(self.labels) > 1 and self.best in (0, len(self.labels) - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One contender's best candidate on one cell.

    Everything but `test_tuning` is of the candidate that is best by train loss. The
    candidate that fits the training data best may overfit; one that is chosen by test
    loss is what a claim of better generalisation has to beat.

    Attributes:
        cell: name of the cell.
        contender: name of the contender.
        tuning: its candidates judged by train loss.
        test_tuning: its candidates judged by test loss.
        curve: of that candidate, with a leading axis `[seeds]`.
        diverged: `[seeds]`.
        train_loss: final loss; a diverged training counts as infinite.
        test_loss: likewise.
        train_accuracy: final accuracy, None where the task has none; a diverged
            training counts as zero.
        test_accuracy: likewise.
        steps_to_reference: steps to where the reference's median curve ends; None when
            the reference does not take part.
    """

    cell: str
    contender: str
    tuning: Tuning
    test_tuning: Tuning
    curve: Curve
    diverged: np.ndarray
    train_loss: Quartiles
    test_loss: Quartiles
    train_accuracy: Quartiles | None
    test_accuracy: Quartiles | None
    steps_to_reference: StepsToReach | None


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """All rows of an evaluation; those of one cell are paired by seed."""

    suite: Suite
    contenders: tuple[Contender, ...]
    rows: tuple[Row, ...]

    def row(self, cell: str, contender: str) -> Row | None:
        """The row of that name; None when that contender does not take part."""
        found = (r for r in self.rows if (r.cell, r.contender) == (cell, contender))
        return next(found, None)


def evaluate(
    contenders: Sequence[Contender],
    suite: Suite,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Trains every contender on every cell and gathers statistics.

    Each candidate of each contender is trained at every seed of a cell; the candidate
    with the lowest median final train loss over these seeds is reported. This is the
    choice most favourable to tuned baselines: a learned optimizer has one candidate.
    The candidate with the lowest median final test loss is found beside it.

    Args:
        contenders: optimizers with different names. The one called `REFERENCE`, when it
            takes part, sets the target of `steps_to_reference`.
        suite: what to judge on.
        on_progress: called before each contender on each cell.

    Returns:
        The report.

    Raises:
        ValueError: when two contenders share a name.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) != len(names):
        raise ValueError(f"contenders must differ in name, got {', '.join(names)}")
    total = len(suite.cells) * len(contenders)
    rows: list[Row] = []
    for cell in suite.cells:
        family = cell.family()
        specs = cell.specs(family)
        grids: list[Curve] = []
        for contender in contenders:
            if on_progress is not None:
                done = len(rows) + len(grids)
                on_progress(Progress(done, total, cell, contender))
            grid = run_grid(
                family,
                specs,
                contender.make,
                contender.candidates,
                jnp.asarray(cell.seeds),
                num_records=suite.num_records,
                record_every=cell.horizon // suite.num_records,
                eval_batches=suite.eval_batches,
                evaluated=contender.evaluated,
            )
            grids.append(jax.device_get(grid))
        rows += _rows(cell, contenders, grids)
    return Report(suite, tuple(contenders), tuple(rows))


def _rows(
    cell: Cell, contenders: Sequence[Contender], grids: Sequence[Curve]
) -> list[Row]:
    target = next(
        (
            statistics.final_level(best.train_loss, statistics.diverged(best))
            for contender, grid in zip(contenders, grids, strict=True)
            if contender.name == REFERENCE
            for best in [_take(grid, statistics.best_candidate(grid, "train"))]
        ),
        None,
    )
    return [
        _row(cell, contender, grid, target)
        for contender, grid in zip(contenders, grids, strict=True)
    ]


def _take(grid: Curve, candidate: int) -> Curve:
    return jax.tree.map(lambda x: x[candidate], grid)


def _tune(contender: Contender, grid: Curve, split: EvaluatedSplit) -> Tuning:
    best = statistics.best_candidate(grid, split)
    return Tuning(
        labels=contender.labels,
        median_losses=statistics.median_losses(grid, split),
        diverged=statistics.diverged(grid).sum(axis=1),
        best=best,
        losses=statistics.final_losses(_take(grid, best), split),
    )


def _row(cell: Cell, contender: Contender, grid: Curve, target: float | None) -> Row:
    tuning = _tune(contender, grid, "train")
    curve = _take(grid, tuning.best)
    failed = statistics.diverged(curve)

    def accuracy(values: ArrayLike) -> Quartiles | None:
        kept = statistics.accuracies(values, failed)
        return None if kept is None else statistics.quartiles(kept)

    steps = None
    if target is not None:
        record_every = cell.horizon // curve.train_loss.shape[-1]
        steps = statistics.steps_to_reach(
            curve.train_loss, failed, target, record_every
        )
    return Row(
        cell=cell.name,
        contender=contender.name,
        tuning=tuning,
        test_tuning=_tune(contender, grid, "test"),
        curve=curve,
        diverged=failed,
        train_loss=statistics.quartiles(tuning.losses),
        test_loss=statistics.quartiles(statistics.final_losses(curve, "test")),
        train_accuracy=accuracy(curve.final.train_accuracy),
        test_accuracy=accuracy(curve.final.test_accuracy),
        steps_to_reference=steps,
    )
