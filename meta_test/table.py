"""A report in words and aligned columns."""

from collections.abc import Sequence
from typing import TextIO, get_args

import numpy as np

from meta_test.across import (
    NO_LEVEL,
    Across,
    Normalised,
    Speedup,
    across,
    no_scale,
    without_level,
    without_scale,
)
from meta_test.aggregates import Comparison, Interval
from meta_test.evaluate import REFERENCE, Chosen, ComparedSplit, Report, Row
from meta_test.optimizers import Contender
from meta_test.statistics import (
    Quartiles,
    StepsToReach,
    Verdict,
    duel,
    quartiles,
    verdicts_by_chance,
)
from meta_test.suites import Cell


COLUMNS = (
    "optimizer",
    "rate",
    "train loss",
    f"steps to {REFERENCE}",
    "diverged",
    "rate, valid",
    "test loss",
    "test acc.",
    "us/step",
)

NOTES = f"""\
Median [interquartile range] over the seeds. Diverged trainings are counted, never
dropped: loss inf, accuracy 0; test: of the rate by validation, where not as many.
* learned, nothing tuned; x rate: with its updates multiplied by a factor that was
chosen as learning rates are. Hand-designed: learning rates, or random settings, were
chosen at other seeds than these, by median final loss: on training data for the columns
of training, on validation data for those of test, which no choice has seen. (edge): the
best was the first or last of them. Steps: to where the best {REFERENCE}'s median train
curve ends; >N: not within N steps; -: it diverged. us/step: microseconds of a step of
training, without evaluations (on CPUs of a processor)."""

ACROSS = (
    "optimizer",
    "train, normalised",
    "test, normalised",
    "speedup",
    "in seconds",
    f"train vs {REFERENCE}",
    f"test vs {REFERENCE}",
    "diverged",
)

ACROSS_NOTES = f"""\
Over all cells and seeds: interquartile means [95 % bootstrap interval over seeds and
cells]. Normalised: 0 where the best tuned baseline ends, 1 at the initial parameters
and above. Speedup: steps of {REFERENCE} to its own final level over those of this one,
by seed; N % <, >= L: so many missed the level and enter with a bound, above which they
are not, or, where they diverged and {REFERENCE} did not, as 0; if all of them entered
as 0 where {REFERENCE} is there, the mean would be L, and the interval covers neither
doubt. In seconds: by the measured cost of a step. Vs {REFERENCE}: the probability of a
lower loss at the same seed, and a verdict: better or worse where its interval leaves
out one half and a sign-flip test rejects at 5 %, each for itself: of 20 comparisons of
equals one may have a verdict."""


def plain_text(report: Report) -> str:
    """The whole report as aligned text: a table per cell, notes, and the summary."""
    blocks = []
    for cell in report.suite.cells:
        blocks += [cell_title(cell), aligned([COLUMNS, *cell_rows(report, cell)]), ""]
    return "\n".join([*blocks, NOTES, "", overall(report), "", summary(report)])


def overall(report: Report) -> str:
    """A line a contender over all cells, and what the columns mean."""
    text = f"{aligned([ACROSS, *map(_across_line, across(report))])}\n{ACROSS_NOTES}"
    left_out = {NO_LEVEL: without_level(report)}
    for split in get_args(ComparedSplit):
        left_out[no_scale(split)] = without_scale(report, split)
    count = len(report.suite.cells)
    for why, cells in left_out.items():
        if cells:
            named = "; ".join(cells)
            text += f"\nLeft out of {why}: {len(cells)} of {count} cells\n({named})."
    return text


def _across_line(one: Across) -> tuple[str, ...]:
    def normalised(loss: Normalised | None) -> str:
        return "-" if loss is None else _interval(loss.interquartile_mean)

    def speedup(value: Speedup | None) -> str:
        if value is None:
            return "-"
        if not value.bounded:
            return _interval(value.interquartile_mean)
        ends = f"{value.bounded:.0%} <, >= {value.least:.3g}"
        return f"{_interval(value.interquartile_mean)}, {ends}"

    def compared(value: Comparison | None) -> str:
        if value is None:
            return "-"
        return f"{value.probability.estimate:.2f} {value.verdict}"

    return (
        one.contender,
        normalised(one.train),
        normalised(one.test),
        speedup(one.speedup),
        speedup(one.wall_clock_speedup),
        compared(one.train_against_reference),
        compared(one.test_against_reference),
        f"{one.diverged}/{one.trainings}",
    )


def _interval(interval: Interval) -> str:
    return f"{interval.estimate:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def cell_title(cell: Cell) -> str:
    """The name of a cell, how long it trains and what it probes."""
    trainings = f"{cell.horizon:,} steps, {len(cell.seeds)} seeds"
    return f"{cell.name} ({trainings}): {cell.probes}"


def cell_rows(report: Report, cell: Cell) -> list[tuple[str, ...]]:
    """One line a contender, the lowest train loss first."""
    rows = [r for r in report.rows if r.cell == cell.name]
    learned = {c.name for c in report.contenders if c.learned and not c.variant_of}
    rows.sort(key=lambda r: (r.train_loss.median, int(r.fitted.diverged.sum())))
    return [_line(report, row, row.contender in learned) for row in rows]


def _line(report: Report, row: Row, learned: bool) -> tuple[str, ...]:
    fitted, validated = row.fitted, row.validated
    accuracies = validated.accuracies("test")
    return (
        f"{row.contender} *" if learned else row.contender,
        _label(fitted),
        _spread(row.train_loss),
        _steps(report.steps(row)),
        _diverged(fitted, validated),
        _label(validated),
        _spread(row.test_loss),
        _spread(None if accuracies is None else quartiles(accuracies)),
        f"{1e6 * row.seconds_per_step:.3g}",
    )


def _diverged(fitted: Chosen, validated: Chosen) -> str:
    """How many did, of what was tuned for training; and for test, if not as many."""
    train, test = (int(chosen.diverged.sum()) for chosen in (fitted, validated))
    total = len(fitted.diverged)
    return f"{train}/{total}" + (f", test {test}/{total}" if test != train else "")


def _label(chosen: Chosen) -> str:
    return chosen.label + (" (edge)" if chosen.at_edge else "")


def _spread(values: Quartiles | None) -> str:
    if values is None:
        return "-"
    return f"{values.median:.3g} [{values.q25:.3g}, {values.q75:.3g}]"


def _steps(steps: StepsToReach | None) -> str:
    if steps is None:
        return "-"

    def one(value: float) -> str:
        return f"{value:.0f}" if np.isfinite(value) else f">{steps.bound}"

    q25, median, q75 = map(one, steps.quartiles)
    return median if q25 == q75 else f"{median} [{q25}, {q75}]"


def print_table(lines: Sequence[Sequence[str]], stream: TextIO) -> None:
    """Prints lines of cells, the first a header, drawn where a person looks on."""
    if not stream.isatty():
        print(aligned(lines), file=stream)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*lines[0])
    for line in lines[1:]:
        # As text: [inf, inf] is no markup.
        table.add_row(*map(Text, line))
    Console(file=stream).print(table)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text in columns, the first of them a header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (lines[0], rule, *lines[1:])
    )
    return "\n".join(line.rstrip() for line in padded)


def summary(report: Report) -> str:
    """Where each learned optimizer wins and loses against the best Adam.

    Adam was tuned for the train loss where train losses are compared, and for the
    validation loss where test losses are: an Adam that overfits is no opponent. A cell
    is won or lost with at least four fifths of its seeds, paired; anything closer is
    even.
    """
    learned = [c for c in report.contenders if c.learned and not c.variant_of]
    present = any(c.name == REFERENCE for c in report.contenders)
    if not learned:
        return "No learned optimizer takes part."
    if not present:
        return f"{REFERENCE} does not take part: there is nothing to compare with."
    return "\n\n".join(_compare(report, contender) for contender in learned)


def _compare(report: Report, contender: Contender) -> str:
    tallies: list[tuple[ComparedSplit, dict[str, int]]] = [
        (split, dict.fromkeys(get_args(Verdict), 0))
        for split in get_args(ComparedSplit)
    ]
    lines = []
    lowest = failures = trainings = 0
    for cell in report.suite.cells:
        ours = report.row(cell.name, contender.name)
        theirs = report.row(cell.name, REFERENCE)
        assert ours is not None
        assert theirs is not None
        parts = []
        for split, tally in tallies:
            mine, other = ours.losses(split), theirs.losses(split)
            tally[duel(mine, other).verdict] += 1
            parts.append(_duel(mine, other))
        lines.append((cell.name, *parts))
        lowest += ours.train_loss.median < min(_hand_designed(report, cell))
        failures += int(ours.fitted.diverged.sum())
        trainings += len(ours.fitted.diverged)
    tally = "; ".join(
        f"{split} loss: " + ", ".join(f"{verdict} {n}" for verdict, n in counts.items())
        for split, counts in tallies
    )
    total = len(report.suite.cells)
    chance = np.mean([verdicts_by_chance(len(c.seeds)) for c in report.suite.cells])
    return "\n".join(
        [
            f"{contender.name} against the best {REFERENCE} on {total} cells: {tally}.",
            f"Its median train loss is below that of every hand-designed optimizer on "
            f"{lowest} of {total}; it diverged in {failures} of {trainings} trainings.",
            aligned([("cell", "train", "test"), *lines]),
            "(median against median, share of paired seeds won; a verdict takes four "
            f"fifths of the seeds,\nwhich chance alone gives to equals on {chance:.0%} "
            f"of cells; {REFERENCE} has its best rate for each column)",
        ]
    )


def _hand_designed(report: Report, cell: Cell) -> list[float]:
    names = {c.name for c in report.contenders if not c.learned}
    rows = (r for r in report.rows if r.cell == cell.name and r.contender in names)
    return [row.train_loss.median for row in rows]


def _duel(ours: np.ndarray, theirs: np.ndarray) -> str:
    result = duel(ours, theirs)
    mine, other = (quartiles(values).median for values in (ours, theirs))
    pairs = f"{result.wins}/{result.pairs}"
    return f"{result.verdict:5} {mine:.3g} vs {other:.3g} ({pairs})"
