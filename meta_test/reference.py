"""Reference points of a suite's cells: where a training starts, where Adam ends.

They are measured by `l2o reference SUITE` and come with the package as data, one JSON
file a suite in `meta_test/suites/references`.
"""

import json
import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from meta_test import statistics
from meta_test.evaluate import REFERENCE
from meta_test.optimizers import baseline
from meta_test.suites.base import Cell, Suite
from meta_test.sweep import run_grid
from tasks.cost import estimate


def measure(cell: Cell, suite: Suite) -> dict[str, Any]:
    """The reference points of one cell.

    Returns:
        `hash` of the cell; `parameters`, `flops`, `bytes`, `memory` and
        `reference_seconds` of a step (`tasks.cost`); `initial_loss`, the median over
        the seeds; and of Adam with cosine decay at the best of its learning rates by
        median final train loss: `learning_rate`, whether that is `at_edge` of the grid,
        `train_loss` and `test_loss` (medians), and how many seeds `diverged`.
    """
    family = cell.family()
    contender = baseline(REFERENCE)
    grid = run_grid(
        family,
        cell.specs(family),
        contender.make,
        contender.candidates,
        cell.seeds,
        evaluated=contender.evaluated,
        **suite.sizes(cell),
    )
    best = statistics.best_candidate(grid, "train")
    curve = jax.tree.map(lambda x: x[best], grid)
    cost = estimate(family)
    return {
        "hash": cell.hash,
        "parameters": cost.parameters,
        "flops": cost.flops,
        "bytes": cost.bytes,
        "memory": cost.memory,
        "reference_seconds": _rounded(cost.seconds),
        "initial_loss": _rounded(np.median(curve.initial.train_loss)),
        "learning_rate": contender.labels[best],
        "at_edge": best in (0, len(contender.labels) - 1),
        "train_loss": _rounded(np.median(statistics.final_losses(curve, "train"))),
        "test_loss": _rounded(np.median(statistics.final_losses(curve, "test"))),
        "diverged": int(statistics.diverged(curve).sum()),
    }


def update(
    suite: Suite, folder: Path, on_cell: Callable[[int, int, Cell], None]
) -> dict[str, Any]:
    """Measures what a file of references lacks, and saves after every cell.

    Args:
        suite: whose cells to measure.
        folder: of the files; made when it does not exist. Entries of cells that are no
            longer in the suite, or have changed, are replaced.
        on_cell: called before each cell with how many are done, how many there are, and
            the cell.

    Returns:
        The references by name of the cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite.name}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = _current(suite, known)
    for cell in suite.cells:
        if cell.name not in found:
            on_cell(len(found), len(suite.cells), cell)
            found[cell.name] = measure(cell, suite)
        ordered = {c.name: found[c.name] for c in suite.cells if c.name in found}
        partial = path.with_suffix(".partial")
        text = json.dumps(ordered, indent=1, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    return found


def read(suite: Suite) -> Mapping[str, Any]:
    """The references that come with the package, by name of the cell.

    Entries that are not of the cell as it is are left out.
    """
    folder = resources.files("meta_test.suites") / "references"
    file = folder / f"{suite.name}.json"
    if not file.is_file():
        return {}
    return _current(suite, json.loads(file.read_text(encoding="utf-8")))


def _current(suite: Suite, known: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of cells as they are."""
    return {
        cell.name: known[cell.name]
        for cell in suite.cells
        if known.get(cell.name, {}).get("hash") == cell.hash
    }


def _rounded(value: Any) -> float | None:
    """Four digits: other machines round differently; None for what is not finite."""
    number = float(value)
    return float(f"{number:.4g}") if math.isfinite(number) else None
