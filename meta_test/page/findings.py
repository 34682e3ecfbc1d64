"""What the page reads in the tree of a report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from meta_test.evaluate import ComparedSplit
from meta_test.statistics import Quartiles, quartiles


Tree = Mapping[str, Any]

CHOSEN: dict[ComparedSplit, Literal["fitted", "validated"]] = {
    "train": "fitted",
    "test": "validated",
}
"""The candidate that losses of a split are compared with."""


def as_float(value: float | str | None) -> float:
    """A number of the tree; nan where there is none."""
    return math.nan if value is None else float(value)


class Findings:
    """The tree of a report, looked up by names.

    Attributes:
        tree: of `meta_test.report.as_json`.
        cells: their descriptions, in order.
        contenders: likewise.
        learned: names of those from meta-training.
        reference: the name of the one that others are compared with; None when it does
            not take part.
        across: statistics over all cells, by contender.
    """

    def __init__(self, tree: Tree):
        self.tree = tree
        self.cells: Sequence[Tree] = tree["suite"]["cells"]
        self.contenders: Sequence[Tree] = tree["contenders"]
        self.learned = tuple(c["name"] for c in self.contenders if c["learned"])
        names = [contender["name"] for contender in self.contenders]
        known = tree["reference"] in names
        self.reference: str | None = tree["reference"] if known else None
        self.across: dict[str, Tree] = {
            one["contender"]: one for one in tree["across"]["contenders"]
        }
        self._rows = {(row["cell"], row["contender"]): row for row in tree["rows"]}

    def row(self, cell: Tree, contender: str) -> Tree:
        """One contender on one cell."""
        return self._rows[cell["name"], contender]

    def ranked(self, cell: Tree, split: ComparedSplit) -> list[Tree]:
        """The rows of a cell, the lowest median loss first, then fewest failures."""
        rows = [self.row(cell, contender["name"]) for contender in self.contenders]
        return sorted(
            rows, key=lambda row: (median(row, split), row[CHOSEN[split]]["diverged"])
        )


def median(row: Tree, split: ComparedSplit) -> float:
    """The median final loss, of the candidate that is compared on that split."""
    return as_float(row[f"{split}_loss"]["median"])


def final_losses(row: Tree, split: ComparedSplit) -> np.ndarray:
    """`[seeds]` of them, infinite where the training diverged."""
    per_seed = row[CHOSEN[split]]["per_seed"]
    losses = np.array([as_float(v) for v in per_seed["final"][f"{split}_loss"]])
    return np.where(per_seed["diverged"], np.inf, losses)


def initial_loss(row: Tree, split: ComparedSplit) -> float:
    """The median loss before the first step."""
    values = row[CHOSEN[split]]["per_seed"]["initial"][f"{split}_loss"]
    return float(np.median([as_float(value) for value in values]))


def final_accuracy(row: Tree) -> Quartiles | None:
    """0 where the training diverged; None for a task without accuracies."""
    per_seed = row["validated"]["per_seed"]
    values = np.array([as_float(v) for v in per_seed["final"]["test_accuracy"]])
    if np.isnan(values).all():
        return None
    return quartiles(np.where(per_seed["diverged"], 0.0, values))
