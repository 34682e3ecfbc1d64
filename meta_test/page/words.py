"""What a report says, in sentences."""

import math
import statistics

from meta_test.evaluate import ComparedSplit
from meta_test.page.findings import Findings, Tree, as_float, initial_loss, median
from meta_test.page.markup import Html, markup, number, tag


READING = """\
A speedup of 2 is half the steps, or half the seconds; below 1 the learned optimizer is
the slower one, and an interval that contains 1 leaves open which is faster. Intervals
are 95 % bootstrap intervals over seeds and cells."""


def title(found: Findings) -> str:
    """What the page is about, in a line."""
    return f"Suite {found.tree['suite']['name']}"


def extent(found: Findings) -> str:
    """How much was compared with how much."""
    seeds = sorted({len(cell["seeds"]) for cell in found.cells})
    trainings = sum(row["seeds"] for row in found.tree["rows"])
    return (
        f"{_count(len(found.contenders), 'optimizer')}, {len(found.learned) or 'none'} "
        f"of them learned, on {_count(len(found.cells), 'cell')} (a task and a number "
        f"of steps) at {' or '.join(map(str, seeds))} seeds each: "
        f"{trainings:,} trainings are compared, and all of them are counted."
    )


def summary(found: Findings) -> Html:
    """What is found of each learned optimizer, or why there is nothing to say."""
    if not found.learned:
        text = (
            "No learned optimizer takes part. The tables and charts compare "
            "hand-designed optimizers, each with the best of its candidates."
        )
        return tag("p", text)
    notes = []
    if found.reference is None:
        text = (
            f"{found.tree['reference']} does not take part, so that there is no "
            "reference: nothing is said of speedups, or of cells won and lost."
        )
        notes = [tag("p", text)]
    else:
        notes = [tag("p", READING, class_="quiet")]
    cards = [_learned(found, name) for name in found.learned]
    return markup(tag("div", *cards, class_="summaries"), *notes)


def _learned(found: Findings, name: str) -> Html:
    reference = found.reference
    parts = []
    [own] = (c for c in found.contenders if c["name"] == name)
    if own["variant_of"] and len(own["candidates"]) > 1:
        text = (
            f"{own['variant_of']} with its updates times the best of "
            f"{len(own['candidates'])} factors, chosen for every cell as learning "
            "rates are."
        )
        parts.append(("Tuned", markup(text)))
    if reference is None:
        parts.append(("Training", _lowest(found, name)))
    else:
        parts += [
            ("Training", _training(found, name, reference)),
            ("Unseen data", _unseen(found, name, reference)),
            ("Speed", _speed(found, name, reference)),
        ]
    parts.append(("Failures", _failures(found, name)))
    if reference is not None:
        parts.append(("Weakest", _weakest(found, name, reference)))
    lines = [
        part
        for term, sentence in parts
        for part in (tag("dt", term), tag("dd", sentence))
    ]
    return tag("article", tag("h3", name), tag("dl", *lines))


def _lowest(found: Findings, name: str) -> Html:
    first = sum(
        found.ranked(cell, "train")[0]["contender"] == name
        and math.isfinite(median(found.row(cell, name), "train"))
        for cell in found.cells
    )
    return markup(
        "Its median train loss is the lowest of all on ",
        _share(first, len(found.cells)),
        ".",
    )


def _training(found: Findings, name: str, reference: str) -> Html:
    one = found.across[name]
    total = len(found.cells)
    designed = [c["name"] for c in found.contenders if not c["learned"]]
    below_all = sum(
        median(found.row(cell, name), "train")
        < min(median(found.row(cell, other), "train") for other in designed)
        for cell in found.cells
    )
    return markup(
        f"It ends with a lower train loss than tuned {reference} on ",
        _share(one["better_train"], total),
        f", and than every hand-designed optimizer on {below_all}. ",
        _verdict(one["train_against_reference"]),
    )


def _unseen(found: Findings, name: str, reference: str) -> Html:
    one = found.across[name]
    return markup(
        f"Its test loss is no higher than that of tuned {reference} on ",
        _share(one["not_worse_test"], len(found.cells)),
        ". ",
        _verdict(one["test_against_reference"]),
    )


def _verdict(comparison: Tree) -> str:
    probability = comparison["probability"]
    over_all = {
        "better": "it is the better one",
        "worse": "it is the worse one",
        "no difference": "no difference is established",
    }[comparison["verdict"]]
    return (
        f"Over all cells {over_all}: at the same seed its loss is the lower one with a "
        f"probability of {as_float(probability['estimate']):.2f} "
        f"[{as_float(probability['low']):.2f}, {as_float(probability['high']):.2f}]."
    )


def _speed(found: Findings, name: str, reference: str) -> Html:
    one = found.across[name]
    steps, seconds = one["speedup"], one["wall_clock_speedup"]
    if steps is None:
        return markup(f"{reference} diverges on all cells, and has no level to reach.")
    parts = [
        f"To where {reference} ends it gets ",
        _times(steps["interquartile_mean"]),
        " as fast in steps, and ",
        _times(seconds["interquartile_mean"]),
        " as fast in seconds.",
    ]
    costs = [
        as_float(found.row(cell, name)["seconds_per_step"])
        / as_float(found.row(cell, reference)["seconds_per_step"])
        for cell in found.cells
    ]
    parts.append(f" One of its steps takes {number(statistics.median(costs))} times")
    parts.append(" as long, in the median over cells.")
    missed = as_float(steps["bounded"])
    if missed:
        parts.append(
            f" {100 * missed:.0f} % of its trainings never got there; but for those "
            "that diverged, which count as 0, they count as if they had at their last "
            "step, which flatters it. If all of them counted as 0 where "
            f"{reference} is there, it would be {number(as_float(steps['least']))} "
            "times in steps."
        )
    return markup(*parts)


def _times(interval: Tree) -> Html:
    low, estimate, high = (as_float(interval[k]) for k in ("low", "estimate", "high"))
    ends = f" [{number(low)}, {number(high)}]"
    return markup(tag("strong", f"{number(estimate)} times"), ends)


def _failures(found: Findings, name: str) -> Html:
    one = found.across[name]
    failed, total = one["diverged"], one["trainings"]
    if not failed:
        return markup(tag("strong", "None"), f" of its {total} trainings diverged.")
    where = [
        (found.row(cell, name)["fitted"]["diverged"], cell) for cell in found.cells
    ]
    where = sorted((pair for pair in where if pair[0]), key=lambda pair: -pair[0])
    named = [f"{cell['name']} ({count}/{len(cell['seeds'])})" for count, cell in where]
    if len(named) > 4:
        named = [*named[:3], f"{len(named) - 3} more cells"]
    return markup(
        tag("strong", f"{failed} of its {total}", class_="bad"),
        f" trainings diverged: {'; '.join(named)}.",
    )


def _weakest(found: Findings, name: str, reference: str) -> Html:
    parts = []
    places: dict[ComparedSplit, str] = {"train": "in training", "test": "on test data"}
    for split, place in places.items():
        cell = weakest_cell(found, name, reference, split)
        if cell is None:
            parts.append(f"It loses nowhere {place}. ")
            continue
        ours = number(median(found.row(cell, name), split))
        theirs = number(median(found.row(cell, reference), split))
        parts += [
            f"Most is lost {place} on ",
            tag("strong", cell["name"]),
            f": a median loss of {ours} against {theirs}. ",
        ]
    return markup(*parts)


def weakest_cell(
    found: Findings, name: str, reference: str, split: ComparedSplit
) -> Tree | None:
    """Where a contender is farthest above the reference.

    Losses are measured in units of what the reference gains from the initial loss: a
    factor between two losses that are both next to nothing is no great loss.

    Returns:
        The cell; None where the median loss is nowhere above the reference's.
    """
    worst, largest = None, 0.0
    for cell in found.cells:
        ours, theirs = found.row(cell, name), found.row(cell, reference)
        excess = median(ours, split) - median(theirs, split)
        gain = initial_loss(theirs, split) - median(theirs, split)
        # Where the reference diverged as well, nothing is lost to it.
        if excess > 0 and gain > 0 and excess / gain > largest:
            worst, largest = cell, excess / gain
    return worst


def _share(count: int, total: int) -> Html:
    return tag("strong", f"{count} of {_count(total, 'cell')}")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
