"""Compares two reports of `l2o eval`, seed by seed of the cells that both have.

A seed of a cell is the same problem in both: the same task, initial parameters, batches
and evaluations. A report is the tree that `meta_test.report.as_json` describes, as JSON
holds it; nothing is trained.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO, get_args

import numpy as np

from l2o.config import nearest
from meta_test.aggregates import Comparison, compare, probability_of_improvement
from meta_test.evaluate import ComparedSplit
from meta_test.report import SCHEMA, strict
from meta_test.statistics import quantile
from meta_test.table import print_table


Tree = Mapping[str, Any]

LEVEL = 0.95
"""Of intervals and tests."""

RULE = f"""\
The rule: B is better where the {100 * LEVEL:.0f} % interval of its probability of
improvement over A lies wholly above one half, and worse where it lies wholly below,
provided that the sign-flip test rejects at {100 * (1 - LEVEL):.0f} % that the two are
exchangeable. Otherwise these seeds show no difference."""

NOTES = """\
A, B: median final loss, on training data of what was tuned for it, on test data of what
was tuned on validation data; diverged trainings count as inf. Won: the share of seeds
at which B is lower; a tie counts one half. Every verdict stands for itself: of 20
comparisons of equals one may have a verdict."""

_CHOSEN: Mapping[ComparedSplit, str] = {"train": "fitted", "test": "validated"}
"""The candidate that is compared."""


@dataclasses.dataclass(frozen=True)
class PairedCell:
    """Two optimizers on one split of one cell.

    Attributes:
        cell: its name.
        seeds: how many.
        median_a: of the final losses in the first report.
        median_b: of those in the second.
        won: the share of seeds at which the second is lower; a tie counts one half.
    """

    cell: str
    seeds: int
    median_a: float
    median_b: float
    won: float


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two optimizers over all common cells.

    Attributes:
        a: the optimizer of the first report.
        b: that of the second.
        cells: by split.
        overall: by split: the second's probability of improvement over the first, and
            the verdict on it.
    """

    a: str
    b: str
    cells: Mapping[ComparedSplit, tuple[PairedCell, ...]]
    overall: Mapping[ComparedSplit, Comparison]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How optimizers were tuned and trained otherwise in two reports.

    Attributes:
        what: dotted, where it is in a report, or under its `provenance`.
        a: what the first report has there; None for nothing.
        b: what the second has.
    """

    what: str
    a: Any
    b: Any

    def __str__(self) -> str:
        a, b = ("none" if value is None else value for value in (self.a, self.b))
        return f"{self.what}: {a} in A, {b} in B"


def differences(a: Tree, b: Tree) -> tuple[Difference, ...]:
    """All differences of protocol, versions and device between two reports.

    None makes a comparison impossible, but a verdict may be theirs: who had more rates
    to choose from, or another library, is not the better optimizer for that.
    """
    found = []
    for part in ("protocol", "versions", "device"):
        first, second = (
            (tree if part == "protocol" else tree.get("provenance", {})).get(part, {})
            for tree in (a, b)
        )
        found += [
            Difference(f"{part}.{name}", first.get(name), second.get(name))
            for name in dict.fromkeys([*first, *second])
            # What a report does not have yet is off, as 0 and False are.
            if (first.get(name) or None) != (second.get(name) or None)
        ]
    return tuple(found)


def compare_reports(
    a: Tree, b: Tree, *, optimizer: str = "", against: str = ""
) -> tuple[Paired, ...]:
    """Pairs the trainings of two reports.

    Args:
        a: the first report.
        b: the second, which is judged.
        optimizer: one of the first; without, every one that both have is compared with
            its namesake.
        against: one of the second, in the place of the namesake.

    Returns:
        A pair for each optimizer that is compared.

    Raises:
        ValueError: a report has another schema; they share no cell, or no optimizer; a
            cell of one name is another condition, or has other seeds; or there is no
            such optimizer.
    """
    for which, tree in (("A", a), ("B", b)):
        schema = tree.get("schema")
        if schema != SCHEMA:
            raise ValueError(
                f"a report must have schema {SCHEMA}, as l2o eval writes it now, "
                f"got {schema} in {which}"
            )
    cells = _common_cells(a["suite"], b["suite"])
    return tuple(
        _paired(a, b, cells, mine, theirs)
        for mine, theirs in _names(a, b, optimizer, against)
    )


def _common_cells(a: Tree, b: Tree) -> list[str]:
    """Names of the cells that two suites share, all of which are the same."""
    first, second = (
        {cell["name"]: cell for cell in suite["cells"]} for suite in (a, b)
    )
    common = [name for name in first if name in second]
    if not common:
        raise ValueError(
            f"reports must have a cell in common, got {'; '.join(first)} in A and "
            f"{'; '.join(second)} in B"
        )
    for name in common:
        seeds = first[name]["seeds"], second[name]["seeds"]
        if seeds[0] != seeds[1]:
            raise ValueError(
                f"a cell must have the same seeds in both reports, got {seeds[0]} in A "
                f"and {seeds[1]} in B for {name!r}"
            )
        if a["hash"] != b["hash"] and _condition(a, name) != _condition(b, name):
            raise ValueError(
                f"a cell must be the same in both reports, {name!r} differs between "
                f"suite {_suite(a)} in A and suite {_suite(b)} in B"
            )
    return common


def _condition(suite: Tree, name: str) -> Any:
    """What a cell is, whatever else is in its suite."""
    [cell] = (cell for cell in suite["cells"] if cell["name"] == name)
    # Reports that do not have it are as old as their suite, and of all of it.
    known = cell.get("hash", suite["hash"])
    return known, suite["num_records"], suite["eval_batches"]


def _suite(suite: Tree) -> str:
    return f"{suite['name']} {suite['version']} of hash {suite['hash'][:12]}"


def _names(a: Tree, b: Tree, optimizer: str, against: str) -> list[tuple[str, str]]:
    """The optimizers to pair, that of the first report first."""
    first, second = ([c["name"] for c in tree["contenders"]] for tree in (a, b))
    if optimizer:
        pair = optimizer, against or optimizer
        for which, name, known in zip("AB", pair, (first, second), strict=True):
            if name not in known:
                raise ValueError(
                    f"an optimizer of {which} must be one of {', '.join(known)}, "
                    f"got {name!r}{nearest(name, known)}"
                )
        return [pair]
    if against:
        raise ValueError(f"--against must come with --optimizer, got {against!r} alone")
    common = [(name, name) for name in first if name in second]
    if not common:
        raise ValueError(
            "reports must have an optimizer in common, or be given one of each by "
            f"--optimizer and --against, got {', '.join(first)} in A and "
            f"{', '.join(second)} in B"
        )
    return common


def _paired(a: Tree, b: Tree, cells: Sequence[str], first: str, second: str) -> Paired:
    found: dict[ComparedSplit, tuple[PairedCell, ...]] = {}
    overall: dict[ComparedSplit, Comparison] = {}
    for split in get_args(ComparedSplit):
        mine = [_losses(a, cell, first, split) for cell in cells]
        theirs = [_losses(b, cell, second, split) for cell in cells]
        found[split] = tuple(
            PairedCell(
                cell=cell,
                seeds=len(x),
                median_a=float(quantile(x, 0.5)),
                median_b=float(quantile(y, 0.5)),
                won=probability_of_improvement([y], [x]),
            )
            for cell, x, y in zip(cells, mine, theirs, strict=True)
        )
        overall[split] = compare(theirs, mine, level=LEVEL)
    return Paired(first, second, found, overall)


def _losses(tree: Tree, cell: str, name: str, split: ComparedSplit) -> np.ndarray:
    """`[seeds]` final losses; a diverged training counts as infinite."""
    [row] = (r for r in tree["rows"] if (r["cell"], r["contender"]) == (cell, name))
    seeds = row[_CHOSEN[split]]["per_seed"]
    losses = zip(seeds["diverged"], seeds["final"][f"{split}_loss"], strict=True)
    return np.asarray([math.inf if gone else float(loss) for gone, loss in losses])


def print_pairs(
    pairs: Sequence[Paired], stream: TextIO, unlike: Sequence[Difference] = ()
) -> None:
    """Prints a line a difference, a table a pair, the rule, and then the verdicts."""
    if unlike:
        print("The reports differ in more than their optimizers:", file=stream)
        print(*(f"  {one}" for one in unlike), "", sep="\n", file=stream)
    for pair in pairs:
        print(f"{pair.b} in B against {pair.a} in A", file=stream)
        print_table([_CELL_COLUMNS, *_cell_lines(pair)], stream)
        print(file=stream)
    print(f"{NOTES}\n\n{RULE}\n", file=stream)
    lines = [line for pair in pairs for line in _overall_lines(pair)]
    print_table([_OVERALL_COLUMNS, *lines], stream)


_CELL_COLUMNS = (
    "cell",
    "seeds",
    *("train, A", "train, B", "won"),
    *("test, A", "test, B", "won"),
)

_OVERALL_COLUMNS = ("B", "A", "loss", "probability of improvement", "p", "verdict")


def _cell_lines(pair: Paired) -> list[tuple[str, ...]]:
    def numbers(one: PairedCell) -> tuple[str, ...]:
        return f"{one.median_a:.3g}", f"{one.median_b:.3g}", f"{one.won:.2f}"

    both = zip(pair.cells["train"], pair.cells["test"], strict=True)
    return [
        (train.cell, str(train.seeds), *numbers(train), *numbers(test))
        for train, test in both
    ]


def _overall_lines(pair: Paired) -> list[tuple[str, ...]]:
    lines = []
    for split, found in pair.overall.items():
        low, estimate, high = found.probability
        spread = f"{estimate:.3f} [{low:.3f}, {high:.3f}]"
        p_value = f"{found.p_value:.2g}"
        lines.append((pair.b, pair.a, split, spread, p_value, found.verdict))
    return lines


def as_json(
    pairs: Sequence[Paired], unlike: Sequence[Difference] = ()
) -> dict[str, Any]:
    """Pairs and differences as a tree that strict JSON can hold; 'inf' is infinite."""
    tree = {
        "rule": " ".join(RULE.split()),
        "level": LEVEL,
        "differences": list(map(dataclasses.asdict, unlike)),
        "pairs": [
            {
                "a": pair.a,
                "b": pair.b,
                "splits": {
                    split: {
                        "probability_of_improvement": found.probability._asdict(),
                        "p_value": found.p_value,
                        "verdict": found.verdict,
                        "cells": list(map(dataclasses.asdict, pair.cells[split])),
                    }
                    for split, found in pair.overall.items()
                },
            }
            for pair in pairs
        ],
    }
    return strict(tree)
