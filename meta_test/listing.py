"""What `l2o list` says of families, suites and data sets."""

from collections.abc import Iterable, Mapping
from typing import Any

from meta_test import reference
from meta_test.baselines import Baseline
from meta_test.families import FAMILIES, TYPICAL, build_family
from meta_test.suites import Cell, Suite
from tasks.base import TaskFamily
from tasks.cost import estimate
from tasks.data import DATASETS
from tasks.data.arrays import Examples


def describe_family(name: str) -> dict[str, Any]:
    """Size, cost and data of a family's typical task."""
    table = TYPICAL[name]
    cost = estimate(build_family({"family": name, **table}))
    lines = (FAMILIES[name].__doc__ or "").strip().splitlines()
    return {
        "parameters": cost.parameters,
        "kflop a step": round(cost.flops / 1e3),
        "data": names_of_data(table),
        "about": lines[0],
    }


def describe_baseline(row: Baseline) -> str:
    """Schedule, grid of learning rates, and what else is worth a search."""
    rates = ", ".join(f"{rate:g}" for rate in row.learning_rates)
    others = [
        f"{name} {r.low:g} to {r.high:g}{' (log)' if r.log else ''}"
        for name, r in row.space.items()
    ]
    schedule = row.schedule or "no schedule"
    return "; ".join([schedule, f"learning rates {rates}", *others])


def describe_suite(suite: Suite) -> dict[str, Any]:
    """Version, size and range of a suite."""
    horizons = [cell.horizon for cell in suite.cells]
    families = {_name(cell) for cell in suite.cells}
    return {
        "version": suite.version,
        "cells": len(suite.cells),
        "families": len(families),
        "horizon": _range(horizons),
        "seeds": _range([len(cell.seeds) for cell in suite.cells]),
        "about": suite.about,
    }


def describe_cells(suite: Suite) -> dict[str, dict[str, Any]]:
    """Size, data, horizon and reference points of every cell of a suite."""
    known = reference.read(suite)

    def row(cell: Cell) -> dict[str, Any]:
        found: Mapping[str, Any] = known.get(cell.name, {})
        flops = found.get("flops")
        return {
            "family": _name(cell),
            "data": names_of_data(_table(cell)),
            "parameters": found.get("parameters", "-"),
            "kflop a step": "-" if flops is None else round(flops / 1e3),
            "horizon": cell.horizon,
            "initial loss": _number(found.get("initial_loss")),
            "Adam train": _number(found.get("train_loss")),
            "Adam test": _number(found.get("test_loss")),
        }

    return {cell.name: row(cell) for cell in suite.cells}


def describe_dataset(name: str) -> dict[str, Any]:
    """Contents, size, source and licence of an embedded data set."""
    row = DATASETS[name]
    data = row.load()
    if isinstance(data, Examples):
        shape = "x".join(map(str, data.inputs["train"].shape[1:]))
        size = sum(len(labels) for labels in data.labels.values())
        classes: Any = data.num_classes
    else:
        shape, classes = "bytes", "-"
        size = sum(map(len, data.values()))
    return {
        "kind": row.kind,
        "shape": shape,
        "size": size,
        "classes": classes,
        "about": row.about,
        "licence": row.licence,
        "source": row.source,
    }


def names_of_data(table: Mapping[str, Any]) -> str:
    """The data sets that a table names, its inner families' included."""
    data = table.get("data", ())
    inner = [names_of_data(table["inner"])] if "inner" in table else []
    return ", ".join([*((data,) if isinstance(data, str) else data), *inner]) or "-"


def _table(cell: Cell) -> Mapping[str, Any]:
    return {} if isinstance(cell.task, TaskFamily) else cell.task


def _name(cell: Cell) -> str:
    return _table(cell).get("family", type(cell.task).__name__)


def _range(values: Iterable[int]) -> str:
    low, high = min(values := list(values)), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
