"""Pictures of all cells: speedups with their intervals, and performance profiles."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meta_test.across import FACTORS, Across, Speedup, across
from meta_test.evaluate import REFERENCE, Report
from meta_test.figure import Stroke, strokes
from meta_test.pictures import save


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PICTURES = ("profile.png", "speedup.png")
"""What `write` leaves."""

_PALE = 0.45
"""Opacity of the bars of seconds."""


def write(report: Report, folder: Path) -> tuple[Path, ...]:
    """Draws into files, named as `PICTURES`.

    Args:
        report: what to draw.
        folder: made when it does not exist; older pictures in it are replaced.

    Returns:
        Their paths; none when the reference, to which both compare, does not take part
        or diverges on all cells.
    """
    found, styles = across(report), strokes(report)
    if not any(one.speedup for one in found):
        return ()
    paths = tuple(folder / name for name in PICTURES)
    for path, draw in zip(paths, (draw_profile, draw_speedup), strict=True):
        save(draw(found, styles), path)
    return paths


def draw_profile(found: Sequence[Across], styles: Mapping[str, Stroke]) -> "Figure":
    """Draws the shares of cells within a factor of the fewest steps, against it.

    Args:
        found: of a report in which the reference takes part.
        styles: a stroke a contender.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for one in found:
        style = styles[one.contender]
        assert one.profile is not None
        axes.plot(
            FACTORS,
            one.profile,
            drawstyle="steps-post",
            color=style.color,
            linestyle=style.dashes,
            linewidth=style.width,
            zorder=2.0 + style.width,
            label=one.contender,
        )
    axes.set_xscale("log")
    axes.set_xlim(FACTORS[0], FACTORS[-1])
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("times the fewest steps of all")
    axes.set_ylabel(f"cells on which {REFERENCE}'s level is reached")
    axes.grid(True, color="#E6E6E6", linewidth=0.7)
    _clear(axes)
    _legend(figure, axes)
    return figure


def draw_speedup(found: Sequence[Across], styles: Mapping[str, Stroke]) -> "Figure":
    """Draws speedups over the reference in steps and in seconds, with intervals.

    Args:
        found: of a report in which the reference takes part.
        styles: a stroke a contender.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(6.4, 1.3 + 0.55 * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(found):
        style = styles[one.contender]
        assert one.speedup is not None
        assert one.wall_clock_speedup is not None
        _bar(axes, place - 0.19, one.speedup, style, 1.0)
        _bar(axes, place + 0.19, one.wall_clock_speedup, style, _PALE)
    axes.axvline(1.0, color="#555555", linewidth=1.0, zorder=1.5)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    # Between powers of ten a short axis has few ticks, or none.
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high / low < 15 else (1.0, 3.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(found)), [one.contender for one in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(
        f"speedup over {REFERENCE}, with 95 % intervals\n"
        "full: in steps, pale: in seconds"
    )
    axes.grid(True, axis="x", color="#E6E6E6", linewidth=0.7)
    _clear(axes)
    return figure


def _bar(
    axes: "Axes", place: float, speedup: Speedup, style: Stroke, opacity: float
) -> None:
    low, middle, high = speedup.interquartile_mean
    axes.barh(
        place,
        middle - 1.0,
        left=1.0,
        height=0.34,
        color=style.color,
        alpha=opacity,
        # Colours come twice, with other dashes, which a bar does not have.
        hatch=None if style.dashes == "-" else "////",
        edgecolor="white",
        linewidth=0.0,
    )
    # A speedup of 1 is no bar at all, and is seen.
    axes.plot(middle, place, marker="|", markersize=8, color=style.color)
    axes.plot(
        [low, high],
        [place, place],
        color="#555555",
        linewidth=1.2,
        marker="|",
        markersize=5,
        zorder=3.0,
    )


def _clear(axes: "Axes") -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(4, len(labels)),
        frameon=False,
        fontsize=9,
    )
