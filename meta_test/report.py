"""Writes reports: the only file input and output of meta-testing."""

import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from meta_test.evaluate import REFERENCE, Report, Row
from meta_test.figure import draw
from meta_test.optimizers import Contender
from meta_test.statistics import Quartiles, StepsToReach, quantile, quartiles
from meta_test.suites import Cell
from meta_test.table import (
    COLUMNS,
    NOTES,
    cell_rows,
    cell_title,
    plain_text,
    summary,
)


SCHEMA = 1
CURVE_POINTS = 50

CONVENTIONS = {
    "numbers": "a string 'inf' or '-inf' is infinite; null is undefined or absent",
    "diverged": "a non-finite recorded or final loss, or a final train loss above the "
    "initial one; such trainings are counted and never dropped: in statistics their "
    "loss is 'inf' and their accuracy 0",
    "tuning": "of each contender's candidates, the one with the lowest median final "
    "train loss over the reported seeds; learned optimizers have one candidate",
    "tuned_on_test": "the candidate with the lowest median final test loss instead; "
    "the summary compares test losses with this one",
    "steps_to_reference": f"steps until the smoothed train curve is where the best "
    f"{REFERENCE}'s median curve ends; a null quartile means more than `bound` steps",
    "curves": "quartiles over seeds of the mean train loss since the last record, at "
    "`steps`",
}


class Paths(NamedTuple):
    """What `write` leaves in its folder."""

    json: Path
    text: Path
    figure: Path


def write(
    report: Report, folder: Path, provenance: Mapping[str, Any] | None = None
) -> Paths:
    """Writes `report.json`, `report.txt` and `curves.png`.

    Args:
        report: what to write.
        folder: made when it does not exist; older reports in it are replaced.
        provenance: added to what is known of the environment, for instance the seed of
            the meta-training; JSON values.

    Returns:
        The paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = Paths(folder / "report.json", folder / "report.txt", folder / "curves.png")
    content = json.dumps(as_json(report, provenance), indent=1, allow_nan=False)
    paths.json.write_text(content + "\n", encoding="utf-8")
    paths.text.write_text(plain_text(report) + "\n", encoding="utf-8")
    draw(report).savefig(paths.figure, dpi=130)
    return paths


def print_report(report: Report, stream: TextIO) -> None:
    """Prints the tables and the summary, with colours where a person looks on.

    Args:
        report: what to print.
        stream: where to, as `sys.stdout`.
    """
    if not stream.isatty():
        print(plain_text(report), file=stream)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream)
    for cell in report.suite.cells:
        table = Table(title=cell_title(cell), title_justify="left", title_style="bold")
        for name in COLUMNS:
            table.add_column(name, no_wrap=name == "optimizer")
        for line in cell_rows(report, cell):
            # Quartiles on a line of their own, and not read as markup: [inf, inf].
            texts = [Text(value.replace(" [", "\n[")) for value in line]
            table.add_row(*texts, style="bold" if line[0].endswith("*") else None)
        console.print(table)
    console.print(f"{NOTES}\n\n{summary(report)}", markup=False, highlight=False)


def as_json(report: Report, provenance: Mapping[str, Any] | None = None) -> dict:
    """The report as a tree that strict JSON can hold.

    Args:
        report: what to describe.
        provenance: JSON values added to what is known of the environment.

    Returns:
        Dicts, lists, strings, finite numbers and None; see `CONVENTIONS`.
    """
    suite = report.suite
    tree = {
        "schema": SCHEMA,
        "conventions": CONVENTIONS,
        "suite": {
            "name": suite.name,
            "version": suite.version,
            "num_records": suite.num_records,
            "eval_batches": suite.eval_batches,
            "cells": [_cell(cell) for cell in suite.cells],
        },
        "contenders": [_contender(contender) for contender in report.contenders],
        "reference": REFERENCE,
        "rows": [_row(report, row) for row in report.rows],
        "summary": summary(report).splitlines(),
        "provenance": {**_environment(), **(provenance or {})},
    }
    return _strict(tree)


def _cell(cell: Cell) -> dict:
    return {
        "name": cell.name,
        "probes": cell.probes,
        "horizon": cell.horizon,
        "seeds": list(cell.seeds),
    }


def _contender(contender: Contender) -> dict:
    return {
        "name": contender.name,
        "learned": contender.learned,
        "candidates": list(contender.labels),
        "provenance": dict(contender.provenance),
    }


def _row(report: Report, row: Row) -> dict:
    curve, tuning = row.curve, row.tuning
    (cell,) = (c for c in report.suite.cells if c.name == row.cell)
    num_records = report.suite.num_records
    stride = math.ceil(num_records / CURVE_POINTS)
    # Counted from the end, so that the last record is among them.
    kept = np.arange(num_records - 1, -1, -stride)[::-1]
    return {
        "cell": row.cell,
        "contender": row.contender,
        "candidate": tuning.label,
        "candidate_at_edge": tuning.at_edge,
        "seeds": len(row.diverged),
        "diverged": int(row.diverged.sum()),
        "train_loss": _quartiles(row.train_loss),
        "test_loss": _quartiles(row.test_loss),
        "train_accuracy": _quartiles(row.train_accuracy),
        "test_accuracy": _quartiles(row.test_accuracy),
        "steps_to_reference": _steps(row.steps_to_reference),
        "per_seed": {
            "diverged": row.diverged,
            "initial_train_loss": curve.initial.train_loss,
            "train_loss": curve.final.train_loss,
            "test_loss": curve.final.test_loss,
            "train_accuracy": curve.final.train_accuracy,
            "test_accuracy": curve.final.test_accuracy,
        },
        "tuning": {
            "median_train_loss": tuning.median_losses,
            "median_test_loss": row.test_tuning.median_losses,
            "diverged": tuning.diverged,
        },
        "tuned_on_test": {
            "candidate": row.test_tuning.label,
            "test_loss": _quartiles(quartiles(row.test_tuning.losses)),
        },
        "curve": {
            "steps": (kept + 1) * (cell.horizon // num_records),
            "q25": quantile(curve.train_loss, 0.25)[kept],
            "median": quantile(curve.train_loss, 0.5)[kept],
            "q75": quantile(curve.train_loss, 0.75)[kept],
        },
    }


def _quartiles(values: Quartiles | None) -> dict | None:
    return None if values is None else values._asdict()


def _steps(steps: StepsToReach | None) -> dict | None:
    if steps is None:
        return None
    values = steps.quartiles._asdict()
    return {
        **{k: v if math.isfinite(v) else None for k, v in values.items()},
        "reached": steps.reached,
        "bound": steps.bound,
    }


def _strict(tree: Any) -> Any:
    """Replaces arrays by lists and numbers that JSON lacks by strings or None."""
    if isinstance(tree, Mapping):
        return {str(key): _strict(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray | np.generic | jax.Array):
        return _strict(np.asarray(tree).tolist())
    if isinstance(tree, list | tuple):
        return [_strict(value) for value in tree]
    if isinstance(tree, float):
        if math.isnan(tree):
            return None
        # Nine digits tell any two float32 apart.
        return float(f"{tree:.9g}") if math.isfinite(tree) else str(tree)
    return tree


def _environment() -> dict:
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "git_revision": git_revision(Path(__file__).parents[1]),
    }


def _versions() -> dict[str, str | None]:
    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in ("l2o", "jax", "jaxlib", "optax", "numpy")}


def git_revision(root: Path) -> str | None:
    """The commit that is checked out at `root`, read from its files.

    Args:
        root: of a source tree.

    Returns:
        The commit's name; None where there is no repository or no commit.
    """
    folder = root / ".git"
    head = folder / "HEAD"
    if not head.is_file():
        return None
    kind, _, reference = head.read_text(encoding="utf-8").strip().partition(" ")
    if kind != "ref:":
        return kind
    loose = folder / reference
    if loose.is_file():
        return loose.read_text(encoding="utf-8").strip()
    packed = folder / "packed-refs"
    if not packed.is_file():
        return None
    pairs = (line.split() for line in packed.read_text(encoding="utf-8").splitlines())
    return next((p[0] for p in pairs if len(p) == 2 and p[1] == reference), None)
