"""The tables over all cells."""

import math
import re
from collections.abc import Callable
from statistics import fmean
from typing import get_args

from meta_test.across import NO_LEVEL, no_scale
from meta_test.evaluate import ComparedSplit
from meta_test.page.findings import Findings, Tree, as_float, final_losses, median
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
from meta_test.statistics import duel, verdicts_by_chance


Named = tuple[Column, Callable[[Tree], Entry]]
"""A column, and what is in it of a row."""

OPTIMIZER = Column("optimizer", "Its name; learned ones are marked.", None)

DIVERGED = Column(
    "diverged",
    "How many trainings did: a loss was not finite, or the final train loss was above "
    "the initial one. They are never dropped: their loss is infinite, their accuracy "
    "0.",
)

_KINDS = {"better": "good", "worse": "bad", "wins": "good", "loses": "bad"}


def optimizer(found: Findings, name: str) -> Entry:
    """The name of a contender, with its stroke, and a mark when it is learned."""
    index = [contender["name"] for contender in found.contenders].index(name)
    mark = tag("span", "learned", class_="mark") if name in found.learned else ""
    swatch = tag("span", "", class_=f"swatch c{index}", aria_hidden="true")
    return Entry(markup(swatch, name, " ", mark))


def diverged(count: int, total: int) -> Entry:
    """How many trainings did, of how many."""
    text = f"{count}/{total} diverged" if count else f"0/{total}"
    return Entry(text, count / total, "bad" if count else "")


def overall(found: Findings) -> Html:
    """All cells in a line a contender, and what the columns mean."""
    reference = found.reference
    chosen: list[Named] = [
        (
            Column(
                "train loss, normalised",
                "The interquartile mean of the final train loss over all seeds of all "
                "cells, on a scale of 0, where the best tuned baseline ends, to 1, the "
                "initial parameters; below 0 is better than every baseline. In "
                "brackets its 95 % bootstrap interval over seeds and cells.",
            ),
            lambda one: _normalised(one["train"]),
        ),
        (
            Column(
                "test loss, normalised",
                "The same of the final test loss, of the candidate that was chosen by "
                "validation.",
            ),
            lambda one: _normalised(one["test"]),
        ),
    ]
    if reference is not None:
        chosen += [
            (
                Column(
                    "speedup in steps",
                    f"Steps that {reference} takes to its own final level over those "
                    "of this one, by seed: the interquartile mean and its interval. "
                    "N % at most: so many trainings missed the level and count as if "
                    "they had reached it at their last step, or as 0 where they "
                    f"diverged and {reference} did not. ≥ L: the mean, if all of them "
                    f"counted as 0 where {reference} is there; the interval says "
                    "nothing of this doubt.",
                    "high",
                ),
                lambda one: _speedup(one["speedup"]),
            ),
            (
                Column(
                    "speedup in seconds",
                    "The same by the measured cost of a step, without evaluations.",
                    "high",
                ),
                lambda one: _speedup(one["wall_clock_speedup"]),
            ),
            (
                Column(
                    f"train loss beside {reference}",
                    "The probability of a lower loss at the same seed, and a verdict: "
                    "better or worse where its interval leaves out one half and a "
                    "sign-flip test rejects at 5 %. Below: on how many cells the "
                    "median is lower.",
                    "high",
                ),
                lambda one: _compared(
                    found, one, "train", f"lower on {one['better_train']}"
                ),
            ),
            (
                Column(
                    f"test loss beside {reference}",
                    "The same on test data. Below: on how many cells the median is not "
                    "higher.",
                    "high",
                ),
                lambda one: _compared(
                    found, one, "test", f"not higher on {one['not_worse_test']}"
                ),
            ),
        ]
    chosen.append(
        (
            DIVERGED,
            lambda one: diverged(one["diverged"], one["trainings"]),
        )
    )
    columns = [OPTIMIZER, *(column for column, _ in chosen)]
    lines = [
        [optimizer(found, name), *(fill(one) for _, fill in chosen)]
        for name, one in found.across.items()
    ]
    across = found.tree["across"]
    left_out = {NO_LEVEL: across["without_level"]}
    for split, cells in across["without_scale"].items():
        left_out[no_scale(split)] = cells
    notes = [
        tag(
            "p",
            f"Left out of {why}: {len(cells)} of {len(found.cells)} cells "
            f"({'; '.join(cells)}).",
            class_="quiet",
        )
        for why, cells in left_out.items()
        if cells
    ]
    return markup(table("All cells", columns, lines), *notes, glossary(columns))


def _normalised(loss: Tree | None) -> Entry:
    return _interval(None if loss is None else loss["interquartile_mean"])


def _speedup(speedup: Tree | None) -> Entry:
    if speedup is None:
        return Entry("-", math.nan)
    shown, value, _ = _interval(speedup["interquartile_mean"])
    missed = as_float(speedup["bounded"])
    if not missed:
        return Entry(shown, value)
    least = number(as_float(speedup["least"]))
    bound = tag("small", f"{100 * missed:.0f} % at most, ≥ {least}")
    return Entry(markup(shown, " ", bound), value)


def _interval(interval: Tree | None) -> Entry:
    if interval is None:
        return Entry("-", math.nan)
    low, middle, high = (as_float(interval[k]) for k in ("low", "estimate", "high"))
    return Entry(spread(low, middle, high), middle)


def _compared(found: Findings, one: Tree, split: ComparedSplit, below: str) -> Entry:
    comparison = one[f"{split}_against_reference"]
    probability = as_float(comparison["probability"]["estimate"])
    if one["contender"] == found.reference:
        return Entry("the reference", probability)
    verdict = comparison["verdict"]
    cells = tag("small", f"{below} of {len(found.cells)}")
    shown = markup(f"{probability:.2f} {verdict} ", cells)
    return Entry(shown, probability, _KINDS.get(verdict, ""))


def anchor(index: int, cell: Tree) -> str:
    """The fragment at which a cell is found, readable and unlike all others."""
    words = re.sub(r"[^a-z0-9]+", "-", cell["name"].lower()).strip("-")
    return f"cell-{index + 1}-{words}".rstrip("-")


def glance(found: Findings) -> Html:
    """A line a cell: who is best, and how learned optimizers fare."""
    reference = found.reference
    seeds = [len(cell["seeds"]) for cell in found.cells]
    chance = fmean(map(verdicts_by_chance, seeds))
    columns = [
        Column("cell", "Its name, and what it probes.", None),
        Column("steps", "Of every training."),
        Column("lowest train loss", "Whose median is, each at its best rate.", None),
        Column("lowest test loss", "The same, by validation.", None),
    ]
    if reference is not None:
        columns += [
            Column(
                f"{name}, {split}",
                f"{name} beside {reference}: it wins or loses with at least four "
                "fifths of the seeds, paired; anything closer is even, and equals win "
                f"or lose by chance on {100 * chance:.0f} % of cells. Below: how many "
                f"times that of {reference} its median loss is, which is sorted by.",
            )
            for name in found.learned
            for split in get_args(ComparedSplit)
        ]
    lines = []
    for index, cell in enumerate(found.cells):
        link = tag("a", cell["name"], href=f"#{anchor(index, cell)}")
        line = [
            Entry(markup(link, " ", tag("small", cell["probes"]))),
            Entry(f"{cell['horizon']:,}", cell["horizon"]),
        ]
        for split in get_args(ComparedSplit):
            best = found.ranked(cell, split)[0]
            finite = math.isfinite(median(best, split))
            line.append(
                optimizer(found, best["contender"]) if finite else Entry("all diverged")
            )
        if reference is not None:
            line += [
                _beside(found.row(cell, name), found.row(cell, reference), split)
                for name in found.learned
                for split in get_args(ComparedSplit)
            ]
        lines.append(line)
    return markup(table("Cells at a glance", columns, lines), glossary(columns))


def _beside(ours: Tree, theirs: Tree, split: ComparedSplit) -> Entry:
    result = duel(final_losses(ours, split), final_losses(theirs, split))
    mine, other = median(ours, split), median(theirs, split)
    # No factor leads to or from nothing, another sign or infinity over infinity.
    ratio = mine / other if mine > 0 < other < math.inf else math.nan
    if mine < math.inf == other:
        ratio = 0.0
    factor = tag("small", f"{number(ratio)} times") if ratio > 0 else ""
    shown = markup(f"{result.verdict} {result.wins}/{result.pairs} ", factor)
    return Entry(shown, ratio, _KINDS.get(result.verdict, ""))
