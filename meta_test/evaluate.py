"""Judges optimizers on a suite: tunes on some seeds, compares on others."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from l2o.config import require_positive_int
from meta_test import statistics
from meta_test.baselines import find_baseline
from meta_test.inner_loop import HOPELESS, Curve
from meta_test.optimizers import Contender, baseline, random_baseline
from meta_test.results import Results, Sweep
from meta_test.statistics import EvaluatedSplit, Quartiles, StepsToReach
from meta_test.suites import Cell, Suite
from meta_test.sweep import sweep
from meta_test.variants import fallback, guarded, with_multiplier
from tasks.base import Spec, TaskFamily


ComparedSplit = Literal["train", "test"]
"""What optimizers are compared on, with a tuning for each."""

REFERENCE = "adam"
"""The contender whose best training sets the target of `steps_to_reference`."""

TUNING_SEED = 1_000_000
"""The first of the seeds that candidates are chosen at; suites have smaller ones."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How contenders are tuned and watched, whatever the suite.

    Attributes:
        tuning_seeds: at how many seeds every candidate is trained to choose the best;
            not those of the comparison.
        evaluations: of the parameters on all splits in a training, at equal distances;
            the last is at its end. Fewer where they do not divide a suite's records.
        hopeless: while tuning, as `meta_test.inner_loop.run`.
        rates: of every baseline, spread over its range in the logarithm; 0 for its own
            grid of half decades.
        random: in the place of learning rates, so many random settings of every
            baseline, as `meta_test.optimizers.random_baseline` draws them.
        multipliers: so many factors of the updates are tried of every learned
            optimizer, in a contender of its own beside it; 0 for none.
        guards: whether every learned optimizer also runs under `l2o.guard`, in a
            contender of its own beside it, and what that falls back to alone.
    """

    tuning_seeds: int = 3
    evaluations: int = 10
    hopeless: float = HOPELESS
    rates: int = 0
    random: int = 0
    multipliers: int = 0
    guards: bool = False

    def __post_init__(self) -> None:
        require_positive_int("tuning_seeds", self.tuning_seeds)
        if self.rates < 0 or self.rates == 1:
            # A single one would be the lowest, and no tuning at all.
            raise ValueError(f"rates must be 0, or several, got {self.rates}")
        if self.random < 0 or self.random == 1:
            raise ValueError(f"random must be 0, or several, got {self.random}")
        if self.multipliers < 0 or self.multipliers == 1:
            raise ValueError(
                f"multipliers must be 0, or several, got {self.multipliers}"
            )
        if self.rates and self.random:
            raise ValueError(
                "baselines must have spread rates or random settings, got both, "
                f"{self.rates} and {self.random}"
            )

    def with_variants(self, contenders: Iterable[Contender]) -> tuple[Contender, ...]:
        """Learned optimizers, each followed by its variants.

        They are itself with a tuned multiplier, and itself under a guard.
        """
        found = []
        for contender in contenders:
            found.append(contender)
            if self.multipliers:
                found.append(with_multiplier(contender, self.multipliers))
            if self.guards:
                found.append(guarded(contender))
        return tuple(found)

    def baselines(self, names: Iterable[str]) -> tuple[Contender, ...]:
        """Baselines by name, with as many learning rates or random settings.

        Where there are guards, what they fall back to comes last.
        """
        alone = (fallback(),) if self.guards else ()
        if self.random:
            return (*(random_baseline(name, self.random) for name in names), *alone)
        spread = (
            baseline(name, find_baseline(name).spread(self.rates)) for name in names
        )
        return (*spread, *alone)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of tuning."""
        return tuple(range(TUNING_SEED, TUNING_SEED + self.tuning_seeds))


PROTOCOL = Protocol()


class Progress(NamedTuple):
    """One contender on one cell is about to start."""

    done: int
    total: int
    cell: Cell
    contender: Contender


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
    """The candidates of a contender, at the seeds of tuning.

    Attributes:
        labels: of the candidates.
        train_losses: `[candidates]` median final loss, infinite where most diverged.
        valid_losses: likewise, on the split `inner_valid`.
        diverged: `[candidates]` how many seeds diverged or were given up.
        steps: inner steps that were made.
    """

    labels: tuple[str, ...]
    train_losses: np.ndarray
    valid_losses: np.ndarray
    diverged: np.ndarray
    steps: int


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """The trainings of one candidate at the seeds of the comparison.

    Attributes:
        label: of the candidate.
        at_edge: whether it is first or last of several that have an order: the grid may
            be too small.
        curve: with a leading axis `[seeds]`.
        diverged: `[seeds]`.
    """

    label: str
    at_edge: bool
    curve: Curve
    diverged: np.ndarray

    def losses(self, split: EvaluatedSplit) -> np.ndarray:
        """`[seeds]` final losses; a diverged training counts as infinite."""
        return statistics.final_losses(self.curve, split)

    def best_losses(self, split: EvaluatedSplit) -> np.ndarray:
        """`[seeds]` lowest evaluations; a diverged training counts as infinite."""
        return statistics.best_losses(self.curve, split)

    def accuracies(self, split: EvaluatedSplit) -> np.ndarray | None:
        """`[seeds]` final accuracies, 0 where diverged; None where there are none."""
        values = getattr(self.curve.final, f"{split}_accuracy")
        return statistics.accuracies(values, self.diverged)


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One contender on one cell.

    The candidate that fits the training data best may overfit. So claims on training
    are made of the candidate that was tuned for the train loss, and claims on unseen
    data of the one that was tuned for the loss on `inner_valid`; both were chosen at
    seeds that the comparison does not have.

    Attributes:
        cell: name of the cell.
        contender: name of the contender.
        tuning: its candidates; None where there is one.
        fitted: the candidate with the lowest median train loss.
        validated: the candidate with the lowest median validation loss.
        seconds_per_step: of a training on one device, without its evaluations where
            these can be told apart; on CPUs those of a processor.
        steps_to_reference: `[seeds]` of `fitted`, to where the reference's median train
            curve ends; infinite for those that never get there. None when the reference
            does not take part, or when its median training diverged: then there is no
            level to get to, and no contender has failed to.
    """

    cell: str
    contender: str
    tuning: Tuning | None
    fitted: Chosen
    validated: Chosen
    seconds_per_step: float
    steps_to_reference: np.ndarray | None

    def losses(self, split: ComparedSplit) -> np.ndarray:
        """`[seeds]` final losses, of the candidate that was tuned for such."""
        chosen = {"train": self.fitted, "test": self.validated}[split]
        return chosen.losses(split)

    @property
    def train_loss(self) -> Quartiles:
        """Final train loss, tuned for it."""
        return statistics.quartiles(self.losses("train"))

    @property
    def valid_loss(self) -> Quartiles:
        """Final validation loss, tuned for it."""
        return statistics.quartiles(self.validated.losses("valid"))

    @property
    def test_loss(self) -> Quartiles:
        """Final test loss, tuned for the validation loss."""
        return statistics.quartiles(self.losses("test"))


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """All rows of an evaluation; those of one cell are paired by seed."""

    suite: Suite
    protocol: Protocol
    contenders: tuple[Contender, ...]
    rows: tuple[Row, ...]

    def row(self, cell: str, contender: str) -> Row | None:
        """The row of that name; None when that contender does not take part."""
        found = (r for r in self.rows if (r.cell, r.contender) == (cell, contender))
        return next(found, None)

    def steps(self, row: Row) -> StepsToReach | None:
        """`row.steps_to_reference` over the seeds."""
        if row.steps_to_reference is None:
            return None
        [horizon] = {c.horizon for c in self.suite.cells if c.name == row.cell}
        return StepsToReach(
            quartiles=statistics.quartiles(row.steps_to_reference),
            reached=int(np.isfinite(row.steps_to_reference).sum()),
            bound=horizon,
        )


def evaluate(
    contenders: Sequence[Contender],
    suite: Suite,
    *,
    protocol: Protocol = PROTOCOL,
    results: Results | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Tunes every contender on every cell and compares the best.

    A contender with several candidates is tuned: each candidate is trained at the seeds
    of tuning, and the one with the lowest median final loss is chosen, on the train
    split for one half of the comparison and on `inner_valid` for the other. What was
    chosen is trained at the seeds of the cell. A learned optimizer has one candidate.

    Args:
        contenders: optimizers with different names. The one called `REFERENCE`, when it
            takes part, sets the target of `steps_to_reference`.
        suite: what to judge on.
        protocol: how.
        results: where trainings are kept, and looked for before they are made.
        on_progress: called before each contender on each cell.

    Returns:
        The report.

    Raises:
        ValueError: when two contenders share a name, or a cell has a seed of tuning.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) != len(names):
        raise ValueError(f"contenders must differ in name, got {', '.join(names)}")
    for cell in suite.cells:
        if set(cell.seeds) & set(protocol.seeds):
            raise ValueError(
                f"seeds of cell {cell.name!r} must be below {TUNING_SEED}, where those "
                f"of tuning are, got {cell.seeds}"
            )
    total = len(suite.cells) * len(contenders)
    rows: list[Row] = []
    for cell in suite.cells:
        family = cell.family()
        seeds = protocol.seeds + cell.seeds
        specs = cell.specs(family, seeds)
        judged: list[Row] = []
        for contender in contenders:
            if on_progress is not None:
                done = len(rows) + len(judged)
                on_progress(Progress(done, total, cell, contender))
            bench = _Bench(suite, protocol, cell, family, specs, contender, results)
            judged.append(bench.row())
        rows += _with_steps(judged, cell, suite)
    return Report(suite, protocol, tuple(contenders), tuple(rows))


@dataclasses.dataclass(frozen=True)
class _Bench:
    """One contender on one cell; all its trainings share a program."""

    suite: Suite
    protocol: Protocol
    cell: Cell
    family: TaskFamily
    specs: Spec
    contender: Contender
    results: Results | None

    def row(self) -> Row:
        """Tunes, and trains what was chosen."""
        labels = self.contender.labels
        fitted, validated, tuning = 0, 0, None
        if len(labels) > 1:
            grid = self._tune()
            fitted = statistics.best_candidate(grid, "train")
            validated = statistics.best_candidate(grid, "valid")
            tuning = Tuning(
                labels=labels,
                train_losses=statistics.median_losses(grid, "train"),
                valid_losses=statistics.median_losses(grid, "valid"),
                diverged=statistics.diverged(grid).sum(axis=1),
                steps=int(grid.steps.sum()),
            )
        first = self._compare(fitted)
        second = first if validated == fitted else self._compare(validated)
        return Row(
            cell=self.cell.name,
            contender=self.contender.name,
            tuning=tuning,
            fitted=self._chosen(fitted, first.curve),
            validated=self._chosen(validated, second.curve),
            seconds_per_step=first.seconds_per_step,
            steps_to_reference=None,
        )

    def _chosen(self, candidate: int, curve: Curve) -> Chosen:
        count = len(self.contender.labels)
        return Chosen(
            label=self.contender.labels[candidate],
            at_edge=self.contender.ordered
            and count > 1
            and candidate in (0, count - 1),
            curve=curve,
            diverged=statistics.diverged(curve),
        )

    def _tune(self) -> Curve:
        """Curves `[candidates, seeds]`."""
        shape = len(self.contender.labels), self.protocol.tuning_seeds
        trials = np.indices(shape).reshape(2, -1).T
        curve = self._run(trials, self.protocol.hopeless, measured=False).curve
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), curve)

    def _compare(self, candidate: int) -> Sweep:
        """Curves `[seeds]`."""
        seeds = np.arange(len(self.cell.seeds)) + self.protocol.tuning_seeds
        trials = np.stack([np.full_like(seeds, candidate), seeds], axis=1)
        return self._run(trials, math.inf, measured=True)

    def _run(self, trials: np.ndarray, hopeless: float, *, measured: bool) -> Sweep:
        """Makes trainings, or finds them; `measured` are those whose cost counts."""
        seeds = self.protocol.seeds + self.cell.seeds
        key = None
        if self.results is not None:
            candidates, places = trials.T
            contender = self.contender
            key = self.results.key(
                cell=self.cell.fingerprint() | {"seeds": [seeds[i] for i in places]},
                contender={
                    "make": contender.make,
                    "evaluated": contender.evaluated,
                    "summarised": contender.summarised,
                    "candidates": [
                        leaf[np.unique(candidates)]
                        for leaf in jax.tree.leaves(contender.candidates)
                    ],
                },
                settings=self._settings | {"hopeless": str(hopeless)},
            )
            found = self.results.find(key)
            if found is not None:
                return found
        made = self._train(trials, hopeless, measured=measured)
        if self.results is not None and key is not None:
            self.results.keep(key, made)
        return made

    @property
    def _settings(self) -> dict[str, int]:
        evaluations = math.gcd(self.protocol.evaluations, self.suite.num_records)
        return {**self.suite.sizes(self.cell), "evaluations": evaluations}

    def _train(self, trials: np.ndarray, hopeless: float, *, measured: bool) -> Sweep:
        contender = self.contender
        tuned = len(contender.labels) > 1
        tuning = len(contender.labels) * self.protocol.tuning_seeds if tuned else 0

        def run(trials: np.ndarray, **settings: int) -> Curve:
            return sweep(
                self.family,
                self.specs,
                contender.make,
                contender.candidates,
                self.protocol.seeds + self.cell.seeds,
                trials,
                capacity=max(tuning, len(self.cell.seeds)),
                hopeless=hopeless,
                evaluated=contender.evaluated,
                summarised=contender.summarised,
                **(self._settings | settings),
            )

        run(trials[:0])  # Compiles, so that the time below is that of the trainings.
        curve, whole = _timed(lambda: run(trials))
        sizes, short = self._settings, Cost(0.0, 0)
        records, every = sizes["num_records"], sizes["record_every"]
        # What is given up or not finite has fewer evaluations.
        if measured and every > 1 and np.all(curve.steps == records * every):
            # As many, in the shortest training that has these records.
            again, cost = _timed(lambda: run(trials, record_every=1))
            short = cost if np.all(again.steps == records) else short
        return Sweep(curve, whole.of_a_step(short))


class Cost(NamedTuple):
    """What trainings took, and how many steps they made."""

    seconds: float
    steps: int

    def of_a_step(self, short: "Cost") -> float:
        """Seconds of a step: by how much these took longer than `short`, by step.

        What both have in common, like evaluations, drops out. Where the difference is
        small enough to be noise, or they are equally long, all seconds are counted.
        """
        seconds, steps = self.seconds - short.seconds, self.steps - short.steps
        if seconds <= 0.1 * self.seconds or steps <= 0:
            return self.seconds / max(self.steps, 1)
        return seconds / steps


def _timed(run: Callable[[], Curve]) -> tuple[Curve, Cost]:
    """Trainings, and what they took on the device that had most to do."""
    if jax.default_backend() == "cpu":
        # Of the processors: what else the machine does then changes it little.
        began = time.process_time()
        curve = run()
        return curve, Cost(time.process_time() - began, int(curve.steps.sum()))
    began = time.perf_counter()
    curve = run()
    seconds, devices = time.perf_counter() - began, jax.local_device_count()
    steps = max(curve.steps[i::devices].sum() for i in range(devices))
    return curve, Cost(seconds, int(steps))


def _with_steps(rows: Sequence[Row], cell: Cell, suite: Suite) -> list[Row]:
    """The rows of a cell, with their steps to the level of the reference, if any."""
    reference = next((row for row in rows if row.contender == REFERENCE), None)
    if reference is None:
        return list(rows)
    best = reference.fitted
    target = statistics.final_level(best.curve.train_loss, best.diverged)
    if not math.isfinite(target):
        return list(rows)
    every = cell.horizon // suite.num_records

    def steps(row: Row) -> Any:
        chosen = row.fitted
        return statistics.steps_to_reach(
            chosen.curve.train_loss, chosen.diverged, target, every
        )

    return [dataclasses.replace(row, steps_to_reference=steps(row)) for row in rows]
