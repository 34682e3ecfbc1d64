"""Training curves as small multiples, one panel a cell."""

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from meta_test.evaluate import Report, Row
from meta_test.statistics import quantile, smooth
from meta_test.suites import Cell


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Stroke(NamedTuple):
    """How an optimizer's line is drawn."""

    color: str
    dashes: Literal["-", "--", "-.", ":"]
    width: float
    band: float  # opacity of the interquartile band


# Colours of Okabe and Ito, told apart by colour-blind eyes; the same optimizer has the
# same one in every figure. The two warm ones are kept for learned optimizers.
_BASELINES = {
    "adam": Stroke("#0072B2", "-", 1.6, 0.15),
    "adamw": Stroke("#56B4E9", "--", 1.3, 0.08),
    "sgd": Stroke("#8C8C8C", "-", 1.3, 0.08),
    "momentum": Stroke("#8C8C8C", "--", 1.3, 0.08),
    "nesterov": Stroke("#8C8C8C", ":", 1.5, 0.08),
    "adagrad": Stroke("#009E73", "-", 1.3, 0.08),
    "lion": Stroke("#CC79A7", "-", 1.3, 0.08),
}
# Taken in turn by baselines that have none of their own.
_OTHERS = (
    Stroke("#B8A000", "-.", 1.3, 0.08),
    Stroke("#009E73", "--", 1.3, 0.08),
    Stroke("#CC79A7", "--", 1.3, 0.08),
    Stroke("#0072B2", ":", 1.5, 0.08),
    Stroke("#B8A000", ":", 1.5, 0.08),
    Stroke("#56B4E9", "-.", 1.3, 0.08),
    Stroke("#B8A000", "--", 1.3, 0.08),
    Stroke("#009E73", "-.", 1.3, 0.08),
    Stroke("#CC79A7", "-.", 1.3, 0.08),
    Stroke("#0072B2", "--", 1.3, 0.08),
    Stroke("#56B4E9", ":", 1.5, 0.08),
    Stroke("#009E73", ":", 1.5, 0.08),
    Stroke("#CC79A7", ":", 1.5, 0.08),
)
_LEARNED = (
    Stroke("#D55E00", "-", 2.8, 0.22),
    Stroke("#000000", "-", 2.8, 0.18),
    Stroke("#E69F00", "-", 2.8, 0.22),
    Stroke("#D55E00", "--", 2.8, 0.18),
    Stroke("#000000", "--", 2.8, 0.18),
    Stroke("#E69F00", "--", 2.8, 0.18),
    Stroke("#D55E00", ":", 2.8, 0.18),
    Stroke("#000000", ":", 2.8, 0.18),
    Stroke("#E69F00", ":", 2.8, 0.18),
    Stroke("#D55E00", "-.", 2.8, 0.18),
    Stroke("#000000", "-.", 2.8, 0.18),
    Stroke("#E69F00", "-.", 2.8, 0.18),
)

_DEPTH = 1e-6
"""Losses below this share of the initial one are off the panel: they are all zero."""


def strokes(report: Report) -> dict[str, Stroke]:
    """How each contender is drawn; learned ones take the heavy lines in turn."""
    return strokes_by_name({c.name: c.learned for c in report.contenders})


def strokes_by_name(learned: Mapping[str, bool]) -> dict[str, Stroke]:
    """The same, of names and whether they are learned."""
    chosen: dict[str, Stroke] = {}
    for name, is_learned in learned.items():
        if is_learned:
            count = sum(stroke in _LEARNED for stroke in chosen.values())
            chosen[name] = _LEARNED[count % len(_LEARNED)]
        elif name in _BASELINES:
            chosen[name] = _BASELINES[name]
        else:
            count = sum(stroke in _OTHERS for stroke in chosen.values())
            chosen[name] = _OTHERS[count % len(_OTHERS)]
    return chosen


def draw(report: Report) -> "Figure":
    """Draws median and interquartile train loss against steps, one panel a cell.

    Args:
        report: with any number of cells and contenders.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    cells = report.suite.cells
    columns = _columns(len(cells))
    rows = math.ceil(len(cells) / columns)
    size = 3.9 if columns > 2 else 5.4
    figure = Figure(
        figsize=(size * columns, 0.82 * size * rows + 1.3), layout="constrained"
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    styles = strokes(report)
    for axes, cell in zip(panels.flat, cells, strict=False):
        _panel(axes, report, cell, styles)
    for axes in panels.flat[len(cells) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("train loss")
    # The lowest panel of each column carries the label, also above an empty place.
    for index in range(max(0, len(cells) - columns), len(cells)):
        panels.flat[index].set_xlabel("step")
    seeds = sorted({len(cell.seeds) for cell in cells})
    title = (
        f"Suite {report.suite.name!r}: train loss, median and interquartile range over "
        f"{' or '.join(map(str, seeds))} seeds"
    )
    figure.suptitle("\n".join(textwrap.wrap(title, 40 * columns)) + "\n", fontsize=13)
    handles = [
        Line2D([], [], color=s.color, linestyle=s.dashes, linewidth=s.width, label=name)
        for name, s in sorted(styles.items(), key=lambda item: item[1] not in _LEARNED)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4 * columns if columns > 1 else 4),
        frameon=False,
        fontsize=10,
        title=_heading(report),
        title_fontsize=9,
    )
    return figure


def _heading(report: Report) -> str:
    """What heavy and thin lines are, above the legend."""
    tuned = any(c.learned and len(c.labels) > 1 for c in report.contenders)
    but = " but the factors of x rate" if tuned else ""
    return (
        f"heavy lines: learned, nothing tuned{but}; "
        "thin lines: hand-designed, each with the best of its candidates"
    )


def _columns(panels: int) -> int:
    """Up to four panels in rows of two; more in what leaves the fewest places empty."""
    if panels <= 6:
        return min(panels, 2 if panels <= 4 else 3)
    return min((5, 4, 3), key=lambda columns: -panels % columns)


def _panel(axes: "Axes", report: Report, cell: Cell, styles: dict[str, Stroke]) -> None:
    rows = [r for r in report.rows if r.cell == cell.name]
    every = cell.horizon // report.suite.num_records
    steps = np.arange(report.suite.num_records + 1) * every
    initial = (np.median(row.fitted.curve.initial.train_loss) for row in rows)
    start = max(initial, default=1.0)
    start = float(start) if np.isfinite(start) and start > 0 else 1.0
    lowest = start
    for row in rows:
        style = styles[row.contender]
        low, middle, high = (_visible(row, q, start) for q in (0.25, 0.5, 0.75))
        layer = 2.0 + style.width
        axes.fill_between(
            steps,
            low,
            high,
            color=style.color,
            alpha=style.band,
            linewidth=0,
            zorder=layer - 0.5,
        )
        axes.plot(
            steps,
            middle,
            color=style.color,
            linestyle=style.dashes,
            linewidth=style.width,
            zorder=layer,
        )
        lowest = min(lowest, float(middle.min()))
    axes.set_yscale("log")
    axes.set_ylim(max(lowest / 1.6, start * _DEPTH), 2.0 * start)
    axes.set_xlim(0, cell.horizon)
    title = "\n".join(textwrap.wrap(cell.name, 40))
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", pad=18)
    axes.text(
        0.0, 1.025, cell.probes, transform=axes.transAxes, fontsize=8.5, color="#555555"
    )
    axes.grid(True, which="major", color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
    axes.locator_params(axis="x", nbins=5)
    failed = [
        f"{row.contender} {int(row.fitted.diverged.sum())}/{len(row.fitted.diverged)}"
        for row in rows
        if row.fitted.diverged.any()
    ]
    if failed:
        axes.text(
            0.98,
            0.97,
            "diverged\n" + "\n".join(failed),
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=8,
            color="#A00000",
            zorder=10,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 2},
        )


def _visible(row: Row, fraction: float, start: float) -> np.ndarray:
    """A quantile of the curves from step 0 on, as a logarithmic axis can show it.

    Infinite losses are drawn along the top of the panel, zero along its bottom. The
    smoothing is of the logarithm, which leaves straight descents straight.
    """
    curve = row.fitted.curve
    initial = np.asarray(curve.initial.train_loss)[:, None]
    curves = np.concatenate([initial, curve.train_loss], axis=1)
    finite = np.where(np.isfinite(curves), curves, np.inf)
    shown = np.clip(finite, 0.5 * start * _DEPTH, 4.0 * start)
    return quantile(np.exp(smooth(np.log(shown))), fraction)
