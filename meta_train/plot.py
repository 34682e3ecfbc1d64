"""Pictures of meta-training runs."""

import math
from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meta_test.pictures import save
from meta_train.directory import RunDirectory
from meta_train.metrics import read_lines


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, told apart by colour-blind eyes; the first for the whole.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_METRICS = ("step", "meta_loss", "gradient_norm", "valid", "non_finite", "families")
_LOSS, _NORM, _RATE = "meta-loss", "norm of the meta-gradient", "inner steps a second"
_SCORE, _SHARE = "validation score, lower is better", "contributions not finite"


class Curves(NamedTuple):
    """What a run left about its course."""

    name: str
    rows: list[dict[str, Any]]  # of metrics.jsonl
    timing: list[dict[str, Any]]  # of timing.jsonl


class _Course(NamedTuple):
    """What is drawn as one line a panel: a run, or a family of one."""

    name: str
    rows: list[dict[str, Any]]
    look: dict[str, Any]  # how matplotlib draws it


def read_run(path: Path) -> Curves:
    """Reads the metrics of a run, which may be going on.

    Raises:
        ValueError: there is no run, it has no metrics yet, or they are damaged.
    """
    directory = RunDirectory(path)
    if not directory.has_run:
        raise ValueError(f"plot needs directories that hold a run, got {path}")
    rows = read_lines(directory.metrics, _METRICS)
    if not rows:
        raise ValueError(f"a run must have metrics to be drawn, {path} has none yet")
    timing = read_lines(directory.timing, ("step", "inner_steps_per_second"))
    return Curves(str(path), rows, timing)


def smooth(values: Sequence[float | None], length: float) -> list[float]:
    r"""Exponential average, bias-corrected.

    $$ s_t = \frac{\sum_{k \le t} d^{t-k} x_k}{\sum_{k \le t} d^{t-k}},
       \qquad d = e^{-1/\mathrm{length}} $$

    with the sums over the finite $x_k$; where $x_t$ is not finite, neither is $s_t$.

    Args:
        values: None where there was nothing finite.
        length: of the average, in values.
    """
    decay, total, weight, found = math.exp(-1.0 / length), 0.0, 0.0, []
    for value in values:
        total, weight = decay * total, decay * weight
        if value is not None:
            total, weight = total + value, weight + 1.0
        found.append(math.nan if value is None else total / weight)
    return found


def draw(runs: Sequence[Curves]) -> "Figure":
    """Draws the course of runs, a colour each; of a single run its families too.

    Faint lines are as measured, the others smoothed. Meta-losses among the half per
    cent that is highest or lowest may be off the panel: one would flatten all others.

    Args:
        runs: one or more.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    from matplotlib.figure import Figure

    mosaic: list[Any] = [[_LOSS, _NORM], [_SHARE, _RATE]]
    if any("evaluation" in row for run in runs for row in run.rows):
        mosaic = [[_LOSS, _LOSS, _NORM], [_SCORE, _SHARE, _RATE]]
    figure = Figure(figsize=(4.8 * len(mosaic[0]), 7.6), layout="constrained")
    panels: dict[str, Any] = figure.subplot_mosaic(mosaic, sharex=True)
    courses = _courses(runs)
    for course in courses:
        _smoothed(panels[_LOSS], course, [row["meta_loss"] for row in course.rows])
        _smoothed(panels[_NORM], course, [row["gradient_norm"] for row in course.rows])
        _smoothed(panels[_SHARE], course, [_share(row) for row in course.rows])
    for run, course in zip(runs, courses, strict=False):
        rates = [row["inner_steps_per_second"] for row in run.timing]
        _line(panels[_RATE], run.timing, rates, course.look | {"linewidth": 1.4})
        if _SCORE in panels:
            _scores(panels[_SCORE], run, course.look)
    for title, axes in panels.items():  # They look like those of `meta_test.figure`.
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        axes.set_xlabel("outer step", fontsize=9)
        axes.grid(True, which="major", color="#E6E6E6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8.5, labelbottom=True)
    _fit(panels[_LOSS])
    panels[_NORM].set_yscale("log")
    panels[_SHARE].set_ylim(0.0, max(0.01, panels[_SHARE].get_ylim()[1]))
    panels[_SHARE].yaxis.set_major_formatter("{x:.1%}")
    panels[_RATE].set_ylim(0.0, 1.05 * panels[_RATE].get_ylim()[1])
    panels[_RATE].yaxis.set_major_formatter("{x:,.0f}")
    what = f"run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    figure.suptitle(f"Meta-training, {what}\n", fontsize=13)
    if len(courses) > 1:
        longest = max(len(course.name) for course in courses)
        columns = max(1, 40 * len(mosaic[0]) // (longest + 8))
        named = panels[_LOSS].get_legend_handles_labels()
        figure.legend(*named, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def write(runs: Sequence[Curves], out: Path) -> None:
    """Draws runs into a file, as `meta_test.pictures.save`."""
    save(draw(runs), out)


def _courses(runs: Sequence[Curves]) -> list[_Course]:
    """The runs, and behind them the families of a single run that has several."""
    drawn = [(run.name, run.rows, 2.2) for run in runs]
    (_, whole, _), *others = runs
    if not others and len(whole[0]["families"]) > 1:
        drawn = [("all families", whole, 2.8)]
        for name in whole[0]["families"]:
            rows = [{"step": row["step"], **row["families"][name]} for row in whole]
            # A dispatch that did not use the family is no gap in its course.
            drawn.append((name, [row for row in rows if row["updates"]], 1.2))
    looks = cycle(product(("-", "--", ":"), _COLOURS))
    return [
        _Course(name, rows, {"color": colour, "linestyle": dashes, "linewidth": width})
        for (name, rows, width), (dashes, colour) in zip(drawn, looks, strict=False)
    ]


def _smoothed(axes: "Axes", course: _Course, values: list[float | None]) -> None:
    """A course as measured, faint, and smoothed over a fiftieth of its length."""
    steps, raw = [row["step"] for row in course.rows], np.array(values, float)
    axes.plot(steps, raw, color=course.look["color"], linewidth=0.6, alpha=0.2)
    smoothed = smooth(values, 1 + len(values) / 50)
    _line(axes, course.rows, smoothed, course.look | {"label": course.name})


def _line(axes: "Axes", rows: Any, values: list[float], look: dict[str, Any]) -> None:
    """One line, with marks on its points if they are few; heavy above thin ones."""
    look = {"marker": "o" if len(rows) < 50 else "", "markersize": 4, **look}
    axes.plot([r["step"] for r in rows], values, zorder=2 + look["linewidth"], **look)


def _scores(axes: "Axes", run: Curves, look: dict[str, Any]) -> None:
    """Validation scores, with a star on the best."""
    rows = [row for row in run.rows if "evaluation" in row]
    if not rows:
        return
    _line(axes, rows, [row["evaluation"]["score"] for row in rows], look)
    best, step = (rows[-1]["evaluation"][name] for name in ("best", "best_step"))
    (star,) = axes.plot([step], [best], "*", color=look["color"], markersize=15)
    star.set(mec="white", zorder=9, label=f"best {best:.3f} at step {step:,}")
    axes.legend(fontsize=8.5, frameon=False, loc="upper right")


def _share(row: dict[str, Any]) -> float | None:
    total = row["valid"] + row["non_finite"]
    return row["non_finite"] / total if total else None


def _fit(axes: "Axes") -> None:
    """Limits the vertical axis to most of what was measured, averages left aside."""
    values = np.concatenate([line.get_ydata() for line in axes.lines[::2]])
    finite = np.sort(values[np.isfinite(values)])
    if finite.size:
        left_out = finite.size // 200
        low, high = finite[left_out], finite[-1 - left_out]
        margin = 0.05 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
