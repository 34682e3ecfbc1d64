"""A report as a table for spreadsheets and data frames: a line a training."""

import csv
import io
import math
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from meta_test.evaluate import ComparedSplit, Report
from meta_test.statistics import EvaluatedSplit, mean_losses


def text(report: Report) -> str:
    """All trainings of the comparison as comma-separated values.

    Columns: `cell`, `optimizer`, `learned`, `tuned_for` (train: the candidate that was
    chosen by the train loss; test: the one by the validation loss; both, where they are
    one), `candidate`, `seed`, `horizon`, `diverged` (0 or 1); of each split the
    `initial`, `final` and `best` loss and the final accuracy; `mean_train_loss` of the
    curve; `steps_to_reference` and `seconds_to_reference` (of those tuned for train);
    `seconds_per_step`.

    Losses of diverged trainings are as they were found, `nan` where there is none; what
    is undefined is empty, and steps and seconds to what was never reached are `inf`.
    """
    lines = list(_lines(report))
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, list(lines[0]) if lines else [], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _lines(report: Report) -> Iterator[dict[str, Any]]:
    cells = {cell.name: cell for cell in report.suite.cells}
    learned = {c.name: c.learned for c in report.contenders}
    for row in report.rows:
        cell = cells[row.cell]
        same = row.fitted.label == row.validated.label
        for tuned_for in get_args(ComparedSplit)[: 1 if same else None]:
            chosen = {"train": row.fitted, "test": row.validated}[tuned_for]
            areas = mean_losses(chosen.curve)
            for place, seed in enumerate(cell.seeds):
                line: dict[str, Any] = {
                    "cell": row.cell,
                    "optimizer": row.contender,
                    "learned": int(learned[row.contender]),
                    "tuned_for": "both" if same else tuned_for,
                    "candidate": chosen.label,
                    "seed": seed,
                    "horizon": cell.horizon,
                    "diverged": int(chosen.diverged[place]),
                }
                for split in get_args(EvaluatedSplit):
                    initial = getattr(chosen.curve.initial, f"{split}_loss")
                    final = getattr(chosen.curve.final, f"{split}_loss")
                    accuracy = getattr(chosen.curve.final, f"{split}_accuracy")
                    line |= {
                        f"initial_{split}_loss": _number(initial[place]),
                        f"final_{split}_loss": _number(final[place]),
                        f"best_{split}_loss": _number(chosen.best_losses(split)[place]),
                        f"final_{split}_accuracy": _number(accuracy[place], empty=True),
                    }
                steps = row.steps_to_reference if tuned_for == "train" else None
                took = math.nan if steps is None else steps[place]
                seconds = took * row.seconds_per_step
                yield line | {
                    "mean_train_loss": _number(areas[place]),
                    "steps_to_reference": _number(took, empty=True),
                    "seconds_to_reference": _number(seconds, empty=True),
                    "seconds_per_step": _number(row.seconds_per_step),
                }


def _number(value: Any, *, empty: bool = False) -> str:
    """Nine digits, which tell any two float32 apart."""
    number = float(np.asarray(value))
    return "" if empty and math.isnan(number) else f"{number:.9g}"
