"""A report in words and aligned columns."""

from collections.abc import Sequence
from typing import get_args

import numpy as np

from meta_test.evaluate import REFERENCE, Report, Row, Tuning
from meta_test.optimizers import Contender
from meta_test.statistics import (
    EvaluatedSplit,
    Quartiles,
    StepsToReach,
    Verdict,
    duel,
    quartiles,
)
from meta_test.suites import Cell


COLUMNS = (
    "optimizer",
    "tuned",
    "train loss",
    "test loss",
    "train acc.",
    "test acc.",
    f"steps to {REFERENCE}",
    "diverged",
    "best test loss",
)

NOTES = f"""\
Median [interquartile range] over the seeds. Diverged trainings are counted, never
dropped: loss inf, accuracy 0. * learned, nothing tuned. Hand-designed: the best of the
learning rates by median final train loss over these same seeds, with cosine decay;
(edge): the best was the first or last of them. Steps: to where the best {REFERENCE}'s
median train curve ends; >N: not within N steps. Best test loss: the lowest median with
the rate chosen by test loss instead, which no honest tuning would know."""


def plain_text(report: Report) -> str:
    """The whole report as aligned text: a table per cell, notes, and the summary."""
    blocks = []
    for cell in report.suite.cells:
        blocks += [cell_title(cell), _aligned([COLUMNS, *cell_rows(report, cell)]), ""]
    return "\n".join([*blocks, NOTES, "", summary(report)])


def cell_title(cell: Cell) -> str:
    """The name of a cell, how long it trains and what it probes."""
    trainings = f"{cell.horizon:,} steps, {len(cell.seeds)} seeds"
    return f"{cell.name} ({trainings}): {cell.probes}"


def cell_rows(report: Report, cell: Cell) -> list[tuple[str, ...]]:
    """One line a contender, the lowest train loss first."""
    rows = [r for r in report.rows if r.cell == cell.name]
    learned = {c.name for c in report.contenders if c.learned}
    rows.sort(key=lambda row: (row.train_loss.median, int(row.diverged.sum())))
    return [_line(row, row.contender in learned) for row in rows]


def _line(row: Row, learned: bool) -> tuple[str, ...]:
    return (
        f"{row.contender} *" if learned else row.contender,
        row.tuning.label + (" (edge)" if row.tuning.at_edge else ""),
        _spread(row.train_loss),
        _spread(row.test_loss),
        _spread(row.train_accuracy),
        _spread(row.test_accuracy),
        _steps(row.steps_to_reference),
        f"{int(row.diverged.sum())}/{len(row.diverged)}",
        _tuned_on_test(row),
    )


def _tuned_on_test(row: Row) -> str:
    loss = f"{quartiles(row.test_tuning.losses).median:.3g}"
    choices = len(row.test_tuning.labels) > 1
    return f"{loss} at {row.test_tuning.label}" if choices else loss


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


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (lines[0], rule, *lines[1:])
    )
    return "\n".join(line.rstrip() for line in padded)


def summary(report: Report) -> str:
    """Where each learned optimizer wins and loses against the best Adam.

    Adam has its best learning rate by train loss where train losses are compared, and
    its best by test loss where test losses are: an Adam that overfits is no opponent. A
    cell is won or lost with at least four fifths of its seeds, paired; anything closer
    is even.
    """
    learned = [c for c in report.contenders if c.learned]
    present = any(c.name == REFERENCE for c in report.contenders)
    if not learned:
        return "No learned optimizer takes part."
    if not present:
        return f"{REFERENCE} does not take part: there is nothing to compare with."
    return "\n\n".join(_compare(report, contender) for contender in learned)


def _compare(report: Report, contender: Contender) -> str:
    splits = get_args(EvaluatedSplit)
    tallies = {split: dict.fromkeys(get_args(Verdict), 0) for split in splits}
    lines = []
    lowest = failures = trainings = 0
    for cell in report.suite.cells:
        ours = report.row(cell.name, contender.name)
        theirs = report.row(cell.name, REFERENCE)
        assert ours is not None
        assert theirs is not None
        parts = []
        for split, tally in tallies.items():
            mine, other = _tuned(ours, split).losses, _tuned(theirs, split).losses
            tally[duel(mine, other).verdict] += 1
            parts.append(_duel(mine, other))
        lines.append((cell.name, *parts))
        lowest += ours.train_loss.median < min(_hand_designed(report, cell))
        failures += int(ours.diverged.sum())
        trainings += len(ours.diverged)
    tally = "; ".join(
        f"{split} loss: " + ", ".join(f"{verdict} {n}" for verdict, n in counts.items())
        for split, counts in tallies.items()
    )
    total = len(report.suite.cells)
    return "\n".join(
        [
            f"{contender.name} against the best {REFERENCE} on {total} cells: {tally}.",
            f"Its median train loss is below that of every hand-designed optimizer on "
            f"{lowest} of {total}; it diverged in {failures} of {trainings} trainings.",
            _aligned([("cell", "train", "test"), *lines]),
            "(median against median, share of paired seeds won; a verdict takes four "
            f"fifths of the seeds;\n{REFERENCE} has its best rate for each column)",
        ]
    )


def _hand_designed(report: Report, cell: Cell) -> list[float]:
    names = {c.name for c in report.contenders if not c.learned}
    rows = (r for r in report.rows if r.cell == cell.name and r.contender in names)
    return [row.train_loss.median for row in rows]


def _tuned(row: Row, split: EvaluatedSplit) -> Tuning:
    return {"train": row.tuning, "test": row.test_tuning}[split]


def _duel(ours: np.ndarray, theirs: np.ndarray) -> str:
    result = duel(ours, theirs)
    mine, other = (quartiles(values).median for values in (ours, theirs))
    pairs = f"{result.wins}/{result.pairs}"
    return f"{result.verdict:5} {mine:.3g} vs {other:.3g} ({pairs})"
