"""Writes reports: the only file input and output of meta-testing."""

import dataclasses
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TextIO, get_args

import jax
import numpy as np
from jax.typing import ArrayLike

from meta_test import across_figure, card, card_figure, guards, spreadsheet
from meta_test.across import FACTORS, across, without_level, without_scale
from meta_test.aggregates import Comparison, Interval
from meta_test.card import Card
from meta_test.evaluate import REFERENCE, Chosen, ComparedSplit, Report, Row
from meta_test.figure import draw
from meta_test.optimizers import Contender
from meta_test.page import page
from meta_test.results import environment
from meta_test.statistics import EvaluatedSplit, StepsToReach, mean_losses, quantile
from meta_test.suites import Cell
from meta_test.table import (
    COLUMNS,
    NOTES,
    cell_rows,
    cell_title,
    overall,
    plain_text,
    summary,
)


SCHEMA = 2
CURVE_POINTS = 50

CONVENTIONS = {
    "numbers": "a string 'inf' or '-inf' is infinite; null is undefined or absent",
    "diverged": "a non-finite recorded or final loss, or a final train loss above the "
    "initial one; such trainings are counted and never dropped: in statistics their "
    "loss is 'inf' and their accuracy 0",
    "tuning": "of each contender's candidates the one with the lowest median final "
    "loss at `protocol.tuning_seeds`, which are not those of the comparison; learned "
    "optimizers have one candidate, or, in a variant of their own, factors of their "
    "updates. `fitted`: by the loss on training data; "
    "`validated`: by that on the split inner_valid, so that no choice has seen the "
    "test data. train_loss and steps_to_reference are of `fitted`, valid_loss and "
    "test_loss of `validated`. Candidates of hand-designed ones are a grid of learning "
    "rates, `protocol.rates` of them where that is not 0, or, where "
    "`protocol.random_settings` is not 0, so many random settings",
    "steps_to_reference": f"steps until the smoothed train curve is where the best "
    f"{REFERENCE}'s median curve ends; null means more than `bound` steps, or, "
    f"in the place of all, that {REFERENCE}'s median training diverged: such cells, in "
    "`across.without_level`, are left out of speedups and profiles. "
    "`across.without_scale`: cells on which no tuned baseline ends below the initial "
    "loss, by split: left out of normalised losses. "
    "seconds_to_reference: the same times seconds_per_step",
    "seconds_per_step": "of one training on one device, without its evaluations where "
    "these can be told apart; on CPUs those of a processor. Measured once: intervals "
    "do not hold its noise",
    "curves": "quartiles over seeds of the mean train loss since the last record, and "
    "of evaluations of the parameters, at their `steps`",
}


class Paths(NamedTuple):
    """What `write` leaves in its folder."""

    json: Path
    text: Path
    figure: Path
    page: Path
    table: Path
    pictures: tuple[Path, ...]  # of all cells, with the reference; of cards


def write(
    report: Report,
    folder: Path,
    provenance: Mapping[str, Any] | None = None,
    cards: Sequence[Card] = (),
) -> Paths:
    """Writes `report.json`, `.txt`, `.csv` and `.html`, and pictures.

    Args:
        report: what to write.
        folder: made when it does not exist; older reports in it are replaced.
        provenance: added to what is known of the environment, for instance the seed of
            the meta-training; JSON values.
        cards: of its contenders, where there are some.

    Returns:
        The paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = Paths(
        json=folder / "report.json",
        text=folder / "report.txt",
        figure=folder / "curves.png",
        page=folder / "report.html",
        table=folder / "report.csv",
        pictures=across_figure.write(report, folder)
        + card_figure.write(cards, report, folder),
    )
    tree = as_json(report, provenance, cards)
    content = json.dumps(tree, indent=1, allow_nan=False)
    paths.json.write_text(content + "\n", encoding="utf-8")
    text = "\n\n".join([plain_text(report), *_more_text(report, cards)])
    paths.text.write_text(text + "\n", encoding="utf-8")
    paths.page.write_text(page(tree), encoding="utf-8")
    paths.table.write_text(spreadsheet.text(report), encoding="utf-8")
    draw(report).savefig(paths.figure, dpi=130)
    return paths


def print_report(report: Report, stream: TextIO, cards: Sequence[Card] = ()) -> None:
    """Prints the tables and the summary, with colours where a person looks on.

    Args:
        report: what to print.
        stream: where to, as `sys.stdout`.
        cards: of its contenders, where there are some.
    """
    if not stream.isatty():
        print(plain_text(report), *_more_text(report, cards), sep="\n\n", file=stream)
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
    rest = [NOTES, overall(report), summary(report), *_more_text(report, cards)]
    console.print("\n\n".join(rest), markup=False, highlight=False)


def _more_text(report: Report, cards: Sequence[Card]) -> list[str]:
    """What only some reports have."""
    guarded = guards.text(report)
    return [*([guarded] if guarded else []), *([card.as_text(cards)] if cards else [])]


def as_json(
    report: Report,
    provenance: Mapping[str, Any] | None = None,
    cards: Sequence[Card] = (),
) -> dict:
    """The report as a tree that strict JSON can hold.

    Args:
        report: what to describe.
        provenance: JSON values added to what is known of the environment.
        cards: of its contenders, where there are some: they are under `cards`.

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
            "about": suite.about,
            "num_records": suite.num_records,
            "eval_batches": suite.eval_batches,
            "cells": [_cell(cell) for cell in suite.cells],
            "hash": suite.hash,
        },
        "protocol": {
            "tuning_seeds": list(report.protocol.seeds),
            "evaluations": report.protocol.evaluations,
            "given_up_above_initial_loss_by": report.protocol.hopeless,
            "rates": report.protocol.rates,
            "random_settings": report.protocol.random,
            "multipliers": report.protocol.multipliers,
            "guards": report.protocol.guards,
        },
        "contenders": [_contender(contender) for contender in report.contenders],
        "reference": REFERENCE,
        "rows": [_row(report, row) for row in report.rows],
        "across": {
            "factors": FACTORS,
            "without_level": without_level(report),
            "without_scale": {
                split: without_scale(report, split) for split in get_args(ComparedSplit)
            },
            "contenders": [_plain(one) for one in across(report)],
        },
        "summary": summary(report).splitlines(),
        "provenance": {**_environment(), **(provenance or {})},
    }
    guarded = guards.as_json(report)
    if guarded:
        tree["conventions"] = tree["conventions"] | {"guards": guards.CONVENTION}
        tree["guards"] = guarded
    if cards:
        tree["conventions"] = tree["conventions"] | {"cards": card.CONVENTION}
        tree["cards"] = card.as_json(cards)
    return strict(tree)


def _cell(cell: Cell) -> dict:
    return {
        "name": cell.name,
        "hash": cell.hash,
        "task": cell.plain()["task"],
        "probes": cell.probes,
        "horizon": cell.horizon,
        "seeds": list(cell.seeds),
    }


def _contender(contender: Contender) -> dict:
    return {
        "name": contender.name,
        "learned": contender.learned,
        "variant_of": contender.variant_of or None,
        "candidates": list(contender.labels),
        "provenance": dict(contender.provenance),
    }


def _row(report: Report, row: Row) -> dict:
    [cell] = (c for c in report.suite.cells if c.name == row.cell)
    fitted = _chosen(report, cell, row.fitted)
    same = row.validated.label == row.fitted.label
    return {
        "cell": row.cell,
        "contender": row.contender,
        "seeds": len(cell.seeds),
        "train_loss": row.train_loss._asdict(),
        "valid_loss": row.valid_loss._asdict(),
        "test_loss": row.test_loss._asdict(),
        "steps_to_reference": _steps(report.steps(row)),
        "steps_to_reference_per_seed": row.steps_to_reference,
        "seconds_to_reference": _steps(report.steps(row), row.seconds_per_step),
        "seconds_per_step": row.seconds_per_step,
        "fitted": fitted,
        "validated": fitted if same else _chosen(report, cell, row.validated),
        "tuning": None
        if row.tuning is None
        else {
            "median_train_loss": row.tuning.train_losses,
            "median_valid_loss": row.tuning.valid_losses,
            "diverged": row.tuning.diverged,
            "inner_steps": row.tuning.steps,
        },
    }


def _chosen(report: Report, cell: Cell, chosen: Chosen) -> dict:
    curve, num_records = chosen.curve, report.suite.num_records
    stride = math.ceil(num_records / CURVE_POINTS)
    # Counted from the end, so that the last record is among them.
    kept = np.arange(num_records - 1, -1, -stride)[::-1]
    evaluations = curve.evaluations.test_loss.shape[-1]
    losses = ("train_loss", "valid_loss", "test_loss")
    return {
        "candidate": chosen.label,
        "at_edge": chosen.at_edge,
        "diverged": int(chosen.diverged.sum()),
        "per_seed": {
            "diverged": chosen.diverged,
            "initial": curve.initial._asdict(),
            "final": curve.final._asdict(),
            "best": {
                f"{split}_loss": chosen.best_losses(split)
                for split in get_args(EvaluatedSplit)
            },
            "mean_train_loss": mean_losses(curve),
        },
        "curve": {
            "steps": (kept + 1) * (cell.horizon // num_records),
            **_bands(curve.train_loss[..., kept]),
        },
        "evaluations": {
            "steps": np.arange(1, evaluations + 1) * (cell.horizon // evaluations),
            **{name: _bands(getattr(curve.evaluations, name)) for name in losses},
        },
    }


def _bands(values: ArrayLike) -> dict:
    """Quartiles over the seeds of `[seeds, points]`."""
    return {
        name: quantile(values, fraction)
        for name, fraction in (("q25", 0.25), ("median", 0.5), ("q75", 0.75))
    }


def _steps(steps: StepsToReach | None, each: float = 1) -> dict | None:
    """How long it took, where a step counts for `each`."""
    if steps is None:
        return None
    values = steps.quartiles._asdict()
    return {
        **{k: each * v if math.isfinite(v) else None for k, v in values.items()},
        "reached": steps.reached,
        "bound": each * steps.bound,
    }


def _plain(thing: Any) -> Any:
    """Dataclasses and named tuples as dicts."""
    if dataclasses.is_dataclass(thing):
        fields = dataclasses.fields(thing)
        return {field.name: _plain(getattr(thing, field.name)) for field in fields}
    if isinstance(thing, Interval | Comparison):
        return {name: _plain(value) for name, value in thing._asdict().items()}
    return thing


def strict(tree: Any) -> Any:
    """Replaces arrays by lists and numbers that JSON lacks by strings or None."""
    if isinstance(tree, Mapping):
        return {str(key): strict(value) for key, value in tree.items()}
    if isinstance(tree, np.ndarray | np.generic | jax.Array):
        return strict(np.asarray(tree).tolist())
    if isinstance(tree, list | tuple):
        return [strict(value) for value in tree]
    if isinstance(tree, float):
        if math.isnan(tree):
            return None
        # Nine digits tell any two float32 apart.
        return float(f"{tree:.9g}") if math.isfinite(tree) else str(tree)
    return tree


def _environment() -> dict:
    device = jax.local_devices()[0]
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.local_device_count(),
        },
        "git_revision": git_revision(Path(__file__).parents[1]),
        # Of what trainings are made of, also where it is not what was committed.
        "source_sha256": environment()["source"],
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
