"""What a search for settings found, in JSON and in a table."""

import json
import math
from pathlib import Path
from typing import Any, TextIO

from meta_test.baselines import find_baseline, settings_label
from meta_test.report import strict
from meta_test.results import environment
from meta_test.statistics import Quartiles
from meta_test.table import print_table
from meta_test.tuning import Outcome, Tried, versions


SCHEMA = 1

CONVENTIONS = {
    "numbers": "a string 'inf' is infinite; null is undefined or absent",
    "trials": "`finished` trained to the end, `pruned` were cut short, `diverged` have "
    "an infinite median loss; `inner_steps` are those of all of them",
    "valid_loss": "median of the final loss on the split inner_valid over "
    "`tuning_seeds`, which are not those of the comparison; what was minimised",
    "comparison": "of the best settings, trained at the seeds of the cell",
    "settings": "one_minus_d is 1 less optax's d",
}

COLUMNS = (
    "cell",
    "settings",
    "valid loss",
    "finished",
    "pruned",
    "diverged",
    "train loss",
    "test loss",
)

NOTES = """\
Settings: the learning rate, and the others by optax's names. Valid loss: of the best
trial, the median over the seeds of tuning. Trials that finished, were pruned, and
diverged. Train and test loss: of the best settings at other seeds, median
[interquartile range]."""


def write(outcome: Outcome, folder: Path) -> Path:
    """Writes `tuning.json`: all of it or nothing.

    Args:
        outcome: what to write.
        folder: where, in the place of what was found before.

    Returns:
        The path.
    """
    path = folder / "tuning.json"
    partial = path.with_suffix(".partial")
    text = json.dumps(as_json(outcome), indent=1, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def print_outcome(outcome: Outcome, stream: TextIO) -> None:
    """Prints a line a cell, and what the columns mean."""
    print_table([COLUMNS, *map(_line, outcome.cells)], stream)
    print(NOTES, file=stream)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """What was found, as a tree that strict JSON can hold; see `CONVENTIONS`."""
    suite, search = outcome.suite, outcome.search
    ranges = find_baseline(outcome.optimizer).settings
    tree = {
        "schema": SCHEMA,
        "conventions": CONVENTIONS,
        "optimizer": outcome.optimizer,
        "settings": {
            name: {"low": where.low, "high": where.high, "log": where.log}
            for name, where in ranges.items()
        },
        "suite": {"name": suite.name, "version": suite.version, "hash": suite.hash},
        "sampler": search.sampler,
        "pruner": search.pruner,
        "trials": search.trials,
        "seed": search.seed,
        "tuning_seeds": outcome.protocol.seeds,
        "cells": [_cell(tried) for tried in outcome.cells],
        "provenance": environment() | {"libraries": versions(search.sampler)},
    }
    return strict(tree)


def _cell(tried: Tried) -> dict[str, Any]:
    best, row = tried.best, tried.row
    return {
        "name": tried.cell.name,
        "hash": tried.cell.hash,
        "study": tried.study,
        "trials": {
            "finished": tried.finished,
            "pruned": tried.pruned,
            "diverged": tried.diverged,
            "inner_steps": tried.steps,
        },
        "best": None
        if best is None
        else {
            "trial": best.trial,
            "settings": best.settings,
            "valid_loss": best.valid_loss,
            "diverged": best.diverged,
        },
        "comparison": None
        if row is None
        else {
            "seeds": tried.cell.seeds,
            "train_loss": row.train_loss._asdict(),
            "test_loss": row.test_loss._asdict(),
            "diverged": int(row.fitted.diverged.sum()),
            "train_losses": row.losses("train"),
            "test_losses": row.losses("test"),
        },
    }


def _line(tried: Tried) -> tuple[str, ...]:
    best, row = tried.best, tried.row
    return (
        tried.cell.name,
        "all diverged" if best is None else settings_label(best.settings),
        f"{math.inf if best is None else best.valid_loss:.3g}",
        str(tried.finished),
        str(tried.pruned),
        str(tried.diverged),
        "-" if row is None else _spread(row.train_loss),
        "-" if row is None else _spread(row.test_loss),
    )


def _spread(values: Quartiles) -> str:
    return f"{values.median:.3g} [{values.q25:.3g}, {values.q75:.3g}]"
