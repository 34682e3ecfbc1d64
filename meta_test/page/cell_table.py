"""The table of a cell."""

import math
from collections.abc import Callable

from meta_test.evaluate import ComparedSplit
from meta_test.page.findings import CHOSEN, Findings, Tree, as_float, final_accuracy
from meta_test.page.markup import (
    Column,
    Entry,
    Html,
    glossary,
    markup,
    number,
    spread,
    table,
    tag,
)
from meta_test.page.tables import DIVERGED, OPTIMIZER, Named, diverged, optimizer


def cell_table(found: Findings, cell: Tree) -> Html:
    """A line a contender, the lowest train loss first."""
    chosen = _columns(found)
    columns = [OPTIMIZER, *(column for column, _ in chosen)]
    lines = [
        [optimizer(found, row["contender"]), *(fill(row) for _, fill in chosen)]
        for row in found.ranked(cell, "train")
    ]
    return table(cell["name"], columns, lines, sorted_by="train loss")


def cell_glossary(found: Findings) -> Html:
    """What the columns of a cell's table mean."""
    columns = [OPTIMIZER, *(column for column, _ in _columns(found))]
    return glossary(columns, " of the tables below")


def _columns(found: Findings) -> list[Named]:
    chosen: list[Named] = [
        (
            Column(
                "rate",
                "The learning rate, or what else was chosen among, at other seeds than "
                "these by the median final loss on training data: of the columns of "
                "training. (edge): it was the first or last of those tried, and a "
                "better one may lie beyond.",
            ),
            lambda row: _candidate(row, "train"),
        ),
        (
            Column(
                "train loss",
                "The median final train loss over the seeds, and its quartiles.",
            ),
            lambda row: _quartiles(row["train_loss"]),
        ),
    ]
    if found.reference is not None:
        chosen.append(
            (
                Column(
                    f"steps to {found.reference}",
                    f"Until the train loss is where the median training of the best "
                    f"{found.reference} ends: the median and its quartiles. >N: not "
                    "within N steps; -: that training diverged.",
                ),
                lambda row: _took(row["steps_to_reference"], "{:,.0f}".format),
            )
        )
        chosen.append(
            (
                Column(
                    f"seconds to {found.reference}",
                    "The same in seconds, by the cost of a step.",
                ),
                lambda row: _took(row["seconds_to_reference"], number),
            )
        )
    return [
        *chosen,
        (
            DIVERGED._replace(
                about=f"{DIVERGED.about} Test: of the rate by validation, where "
                "these are not as many."
            ),
            _diverged,
        ),
        (
            Column(
                "rate by validation",
                "The same, chosen by the loss on validation data: of the columns of "
                "test, whose data no choice has seen.",
            ),
            lambda row: _candidate(row, "test"),
        ),
        (
            Column("test loss", "As the train loss, on test data."),
            lambda row: _quartiles(row["test_loss"]),
        ),
        (
            Column(
                "test accuracy",
                "The share of test data that is classified rightly.",
                "high",
            ),
            _accuracy,
        ),
        (
            Column(
                "µs/step",
                "Microseconds of a step of training, without evaluations; on CPUs "
                "those of a processor.",
            ),
            _cost,
        ),
    ]


def _candidate(row: Tree, split: ComparedSplit) -> Entry:
    chosen = row[CHOSEN[split]]
    label = chosen["candidate"]
    try:
        value = float(label)
    except ValueError:  # Of several settings, or of none.
        value = math.nan
    edge = tag("small", "(edge)") if chosen["at_edge"] else ""
    # Several settings take more than a line.
    kind = "list" if len(label) > 16 else ""
    return Entry(markup(label, " ", edge), value, kind)


def _quartiles(values: Tree) -> Entry:
    low, middle, high = (as_float(values[k]) for k in ("q25", "median", "q75"))
    return Entry(spread(low, middle, high), middle)


def _took(steps: Tree | None, told: Callable[[float], str]) -> Entry:
    if steps is None:
        return Entry("-", math.nan)
    low, middle, high = (
        math.inf if steps[k] is None else as_float(steps[k])
        for k in ("q25", "median", "q75")
    )

    def one(value: float) -> str:
        return told(value) if math.isfinite(value) else f">{told(steps['bound'])}"

    ends = "" if low == high else tag("small", f"[{one(low)}, {one(high)}]")
    return Entry(markup(one(middle), " ", ends), middle)


def _diverged(row: Tree) -> Entry:
    train, test = (row[chosen]["diverged"] for chosen in ("fitted", "validated"))
    entry = diverged(train, row["seeds"])
    if test == train:
        return entry
    shown = markup(entry.shown, " ", tag("small", f"test {test}/{row['seeds']}"))
    return Entry(shown, entry.value, "bad")


def _accuracy(row: Tree) -> Entry:
    values = final_accuracy(row)
    if values is None:
        return Entry("-", math.nan)
    low, middle, high = (f"{100 * value:.1f}" for value in values)
    shown = markup(f"{middle} % ", tag("small", f"[{low}, {high}]"))
    return Entry(shown, values.median)


def _cost(row: Tree) -> Entry:
    microseconds = 1e6 * as_float(row["seconds_per_step"])
    return Entry(number(microseconds), microseconds)
