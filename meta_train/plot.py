"""Pictures of meta-training runs."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meta_train.directory import RunDirectory


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, told apart by colour-blind eyes.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MANY = 8  # More families than this have no line of their own.


class Curves(NamedTuple):
    """What a run left about its course."""

    name: str
    rows: list[dict[str, Any]]  # of metrics.jsonl
    timing: list[dict[str, Any]]  # of timing.jsonl


def read_run(path: Path) -> Curves:
    """Reads the metrics of a run, which may be going on.

    Raises:
        ValueError: there is no run, it has no metrics yet, or they are damaged.
    """
    directory = RunDirectory(path)
    if not directory.has_run:
        raise ValueError(f"plot needs directories that hold a run, got {path}")
    rows = _lines(directory.metrics)
    if not rows:
        raise ValueError(f"a run must have metrics to be drawn, {path} has none yet")
    return Curves(str(path), rows, _lines(directory.timing))


def smooth(values: Sequence[float | None], length: float) -> list[float]:
    r"""Exponential average, bias-corrected; what is not finite is passed over.

    $$ s_t = \frac{\sum_{k \le t} d^{t-k} x_k}{\sum_{k \le t} d^{t-k}},
       \qquad d = e^{-1/\mathrm{length}} $$

    Args:
        values: None where there was nothing finite.
        length: of the average, in values.
    """
    decay, total, weight, found = math.exp(-1.0 / length), 0.0, 0.0, []
    for value in values:
        total, weight = decay * total, decay * weight
        if value is not None:
            total, weight = total + value, weight + 1.0
        found.append(total / weight if weight else math.nan)
    return found


def draw(runs: Sequence[Curves]) -> "Figure":
    """Draws the course of runs, a colour each; the families of a single run too.

    Args:
        runs: one or more.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    grid: Any = figure.subplots(2, 2, sharex=True)
    loss, norm, share, side = grid.flat
    judged = any("evaluation" in row for run in runs for row in run.rows)
    for run, colour in zip(runs, _cycle(len(runs)), strict=True):
        steps = [row["step"] for row in run.rows]
        for axes, name in ((loss, "meta_loss"), (norm, "gradient_norm")):
            values = [row[name] for row in run.rows]
            _course(axes, steps, values, colour, run.name)
        _course(share, steps, [_lost(row) for row in run.rows], colour, run.name)
        if judged:
            _scores(side, run, colour)
        else:
            rates = [row["inner_steps_per_second"] for row in run.timing]
            side.plot([row["step"] for row in run.timing], rates, color=colour, lw=1.2)
    if len(runs) == 1:
        _families(loss, runs[0])
    titles = (
        "meta-loss",
        "norm of the meta-gradient",
        "share that is not finite",
        "validation score, lower is better" if judged else "inner steps a second",
    )
    for axes, title in zip(grid.flat, titles, strict=True):
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    norm.set_yscale("log")
    share.set_ylim(-0.02, 1.02)
    for axes in grid[1]:
        axes.set_xlabel("outer step")
    if loss.get_legend_handles_labels()[0]:
        loss.legend(fontsize=8, frameon=False)
    return figure


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines, but for a last one that is being written."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} must hold a JSON object a line, line {number}: {error}"
            ) from error
    return rows


def _course(
    axes: "Axes", steps: list[int], values: list[float | None], colour: str, name: str
) -> None:
    raw = [math.nan if value is None else value for value in values]
    axes.plot(steps, raw, color=colour, lw=0.6, alpha=0.25)
    axes.plot(
        steps, smooth(values, 1 + len(values) / 50), color=colour, lw=2.0, label=name
    )


def _families(axes: "Axes", run: Curves) -> None:
    names = list(run.rows[0]["families"])
    if not 1 < len(names) <= _MANY:
        return
    for name, colour in zip(names, _cycle(len(names) + 1)[1:], strict=True):
        values = [row["families"][name]["meta_loss"] for row in run.rows]
        smoothed = smooth(values, 1 + len(values) / 50)
        steps = [row["step"] for row in run.rows]
        axes.plot(steps, smoothed, color=colour, lw=1.0, label=name)


def _scores(axes: "Axes", run: Curves, colour: str) -> None:
    rows = [row for row in run.rows if "evaluation" in row]
    if not rows:
        return
    steps = [row["step"] for row in rows]
    scores = [row["evaluation"]["score"] for row in rows]
    axes.plot(steps, scores, color=colour, lw=1.4, marker="o", ms=3)
    best = rows[-1]["evaluation"]
    axes.plot(
        [best["best_step"]], [best["best"]], color=colour, marker="*", ms=13, mew=0
    )


def _lost(row: dict[str, Any]) -> float:
    total = row["valid"] + row["non_finite"]
    return row["non_finite"] / total if total else 0.0


def _cycle(count: int) -> list[str]:
    return list(np.resize(np.array(_COLOURS, object), count))


def write(runs: Iterable[Curves], out: Path) -> None:
    """Draws runs into a file, whose suffix says in which format.

    Raises:
        ValueError: matplotlib does not know that format.
    """
    figure = draw(list(runs))
    formats = figure.canvas.get_supported_filetypes()
    if out.suffix.removeprefix(".") not in formats:
        raise ValueError(
            f"--out must end in one of {', '.join(sorted(formats))}, got {out}"
        )
    figure.savefig(out, dpi=150)
