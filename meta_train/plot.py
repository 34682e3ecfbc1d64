"""Pictures of meta-training runs."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meta_test.figure import Stroke
from meta_train.directory import RunDirectory


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, told apart by colour-blind eyes. The first is the heavy line.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_TITLES = {
    "loss": "meta-loss",
    "norm": "norm of the meta-gradient",
    "score": "validation score, lower is better",
    "share": "share of contributions that is not finite",
    "rate": "inner steps a second",
}
_METRICS = ("step", "meta_loss", "gradient_norm", "valid", "non_finite", "families")
_TIMING = ("step", "inner_steps_per_second")
_FEW = 20  # Lines of fewer points have marks on them.


class Curves(NamedTuple):
    """What a run left about its course."""

    name: str
    rows: list[dict[str, Any]]  # of metrics.jsonl
    timing: list[dict[str, Any]]  # of timing.jsonl


class _Course(NamedTuple):
    """What is drawn as one line a panel: a run, or a family of one."""

    name: str
    rows: list[dict[str, Any]]
    stroke: Stroke  # Its band is the opacity of what is not smoothed.


def read_run(path: Path) -> Curves:
    """Reads the metrics of a run, which may be going on.

    Raises:
        ValueError: there is no run, it has no metrics yet, or they are damaged.
    """
    directory = RunDirectory(path)
    if not directory.has_run:
        raise ValueError(f"plot needs directories that hold a run, got {path}")
    rows = _lines(directory.metrics, _METRICS)
    if not rows:
        raise ValueError(f"a run must have metrics to be drawn, {path} has none yet")
    return Curves(str(path), rows, _lines(directory.timing, _TIMING))


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

    judged = any("evaluation" in row for run in runs for row in run.rows)
    mosaic = [["loss", "norm"], ["share", "rate"]]
    if judged:
        mosaic = [["loss", "loss", "norm"], ["score", "share", "rate"]]
    figure = Figure(figsize=(4.8 * len(mosaic[0]), 7.6), layout="constrained")
    panels: dict[str, Any] = figure.subplot_mosaic(mosaic, sharex=True)
    courses = _courses(runs)
    for course in courses:
        _line(panels["loss"], course, [row["meta_loss"] for row in course.rows])
        _line(panels["norm"], course, [row["gradient_norm"] for row in course.rows])
        _line(panels["share"], course, [_share(row) for row in course.rows])
    for run, course in zip(runs, courses, strict=False):
        steps = [row["step"] for row in run.timing]
        rates = [row["inner_steps_per_second"] for row in run.timing]
        _plain(panels["rate"], steps, rates, course.stroke)
        if judged:
            _scores(panels["score"], run, course.stroke)
    for name, axes in panels.items():
        axes.set_title(_TITLES[name], loc="left", fontsize=10.5, fontweight="bold")
        axes.grid(True, which="major", color="#E6E6E6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5)
    for name in mosaic[-1]:
        panels[name].set_xlabel("outer step")
    _fit(panels["loss"])
    panels["norm"].set_yscale("log")
    panels["share"].set_ylim(0.0, max(0.01, panels["share"].get_ylim()[1]))
    panels["share"].yaxis.set_major_formatter("{x:.1%}")
    panels["rate"].set_ylim(bottom=0.0)
    panels["rate"].yaxis.set_major_formatter("{x:,.0f}")
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    figure.suptitle(f"{title}: meta-training\n", fontsize=13)
    if len(courses) > 1:
        handles, names = panels["loss"].get_legend_handles_labels()
        columns = min(len(names), 4)
        place = "outside lower center"
        figure.legend(
            handles, names, loc=place, ncols=columns, frameon=False, fontsize=10
        )
    return figure


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


def _lines(path: Path, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines, but for a last one that is being written."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path} must hold a JSON object a line, line {number}: {error}"
            ) from error
        if not isinstance(row, dict) or not row.keys() >= set(needed):
            raise ValueError(
                f"a line of {path} must be a JSON object of {', '.join(needed)}, line "
                f"{number} is {line.decode()[:80]}"
            )
        rows.append(row)
    return rows


def _courses(runs: Sequence[Curves]) -> list[_Course]:
    """The runs, and behind them the families of a single run that has several."""
    names = list(runs[0].rows[0]["families"]) if len(runs) == 1 else []
    if len(names) < 2:
        strokes = [_stroke(index, 2.2, 0.25) for index in range(len(runs))]
        named = zip(runs, strokes, strict=True)
        return [_Course(run.name, run.rows, stroke) for run, stroke in named]
    courses = [_Course("all families", runs[0].rows, _stroke(0, 2.8, 0.25))]
    for index, name in enumerate(names, start=1):
        rows = [{"step": r["step"], **r["families"][name]} for r in runs[0].rows]
        # A dispatch that did not use the family is no gap in its course.
        used = [row for row in rows if row["updates"]]
        courses.append(_Course(name, used, _stroke(index, 1.2, 0.12)))
    return courses


def _stroke(index: int, width: float, band: float) -> Stroke:
    turns, colour = divmod(index, len(_COLOURS))
    dashes = ("-", "--", "-.", ":")
    return Stroke(_COLOURS[colour], dashes[turns % len(dashes)], width, band)


def _line(axes: "Axes", course: _Course, values: list[float | None]) -> None:
    """A course as measured, faint, and smoothed over a fiftieth of its length."""
    stroke, steps = course.stroke, [row["step"] for row in course.rows]
    raw = [math.nan if value is None else value for value in values]
    axes.plot(steps, raw, color=stroke.color, linewidth=0.6, alpha=stroke.band)
    smoothed = smooth(values, 1 + len(values) / 50)
    _plain(axes, steps, smoothed, stroke, label=course.name)


def _plain(
    axes: "Axes", steps: list[int], values: list[float], stroke: Stroke, **more: Any
) -> None:
    axes.plot(
        steps,
        values,
        color=stroke.color,
        linestyle=stroke.dashes,
        linewidth=stroke.width,
        marker="o" if len(steps) < _FEW else "",
        markersize=stroke.width + 2.0,
        zorder=2.0 + stroke.width,
        **more,
    )


def _scores(axes: "Axes", run: Curves, stroke: Stroke) -> None:
    rows = [row for row in run.rows if "evaluation" in row]
    if not rows:
        return
    scores = [row["evaluation"]["score"] for row in rows]
    _plain(axes, [row["step"] for row in rows], scores, stroke)
    best = rows[-1]["evaluation"]
    axes.plot(
        [best["best_step"]],
        [best["best"]],
        color=stroke.color,
        marker="*",
        markersize=15,
        markeredgecolor="white",
        zorder=9,
        label=f"best {best['best']:.3f} at step {best['best_step']:,}",
    )
    axes.legend(fontsize=8.5, frameon=False, loc="upper right", handlelength=0.8)


def _share(row: dict[str, Any]) -> float | None:
    total = row["valid"] + row["non_finite"]
    return row["non_finite"] / total if total else None


def _fit(axes: "Axes") -> None:
    """Chooses the limits of the vertical axis without the outermost of the values."""
    values = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines])
    finite = values[np.isfinite(values)]
    if finite.size:
        low = np.quantile(finite, 0.005, method="lower")
        high = np.quantile(finite, 0.995, method="higher")
        margin = 0.05 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
