"""The picture of a map of trainings, or the film of a zoom, as `l2o map` leaves it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meta_test.pictures import save, save_animation
from meta_test.trainability import TrainabilityMap, as_text
from meta_test.trainability_axes import INIT_SCALE, Axis
from meta_test.variants import MULTIPLIER


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SECONDS = 1.0
"""A frame of a zoom is shown for so long."""

CONVERGED, NOT_CONVERGED = "Blues", "Reds"
"""Colour scales of matplotlib, told apart by colour-blind eyes."""

_PALEST = 0.25
_UNTRAINED = 0.85

_SIZE = (7.4, 6.2)
_LABELS = {
    INIT_SCALE: "scale of the initial parameters",
    MULTIPLIER: "multiplier of the updates",
}


def colours(found: TrainabilityMap) -> np.ndarray:
    """Colours of the pixels, `[size, size, 3]` in 0..1.

    Within each of the two scales a pixel is the darker, the more of the others have a
    smaller sum: every part of the scale is seen as often, wherever the sums crowd, and
    both are darkest where a training hardly converges or long does not diverge. What
    was not trained is grey.
    """
    from matplotlib import colormaps

    shown = np.full((*found.sums.shape, 3), _UNTRAINED)
    for mask, scale in (
        (found.converged, CONVERGED),
        (found.trained & ~found.converged, NOT_CONVERGED),
    ):
        shades = _PALEST + (1.0 - _PALEST) * _ranks(found.sums[mask])
        shown[mask] = colormaps[scale](shades)[:, :3]
    return shown


def draw(found: TrainabilityMap) -> "Figure":
    """Draws a map.

    Args:
        found: also one that is not whole.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    figure = _figure()
    _paint(figure, found, None)
    return figure


def write(maps: Sequence[TrainabilityMap], path: Path) -> None:
    """Draws into a file: the frames of a zoom as a GIF where it ends in `.gif`.

    A frame shows where the next one is. Another file has the last frame.
    """
    if path.suffix != ".gif":
        save(draw(maps[-1]), path)
        return
    figure = _figure()

    def paint(index: int) -> None:
        figure.clear()
        _paint(figure, maps[index], maps[index + 1] if index + 1 < len(maps) else None)

    save_animation(figure, paint, len(maps), path, SECONDS)


def _figure() -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=_SIZE)


def _paint(
    figure: "Figure", found: TrainabilityMap, inner: TrainabilityMap | None
) -> None:
    """Draws a map, and a frame around the part of it that another one shows."""
    # At fixed places, so that frames of a film do not jump.
    axes = figure.add_axes((0.13, 0.1, 0.68, 0.8))
    axes.imshow(
        colours(found),
        origin="lower",
        extent=(0.0, 1.0, 0.0, 1.0),
        interpolation="nearest",
        aspect="auto",
    )
    if inner is not None:
        _frame(axes, found, inner)
    for axis, name in ((found.x, "x"), (found.y, "y")):
        ticks = _ticks(axis)
        axes.set(
            **{
                f"{name}ticks": list(ticks),
                f"{name}ticklabels": list(ticks.values()),
                f"{name}label": _label(axis.name),
            }
        )
    axes.tick_params(labelsize=8.5)
    figure.text(0.13, 0.955, _heading(found), fontsize=11.5, fontweight="bold")
    figure.text(0.13, 0.918, as_text(found), fontsize=9, color="#555555")
    _scale(figure, 0.55, CONVERGED, "converged", ("fast", "slowly"))
    # Among them are those that diverge and those that hardly move.
    ends = ("grows at once", "late or never")
    _scale(figure, 0.1, NOT_CONVERGED, "not converged", ends)


def _heading(found: TrainabilityMap) -> str:
    fixed = (f", {_label(name)} {value:.3g}" for name, value in found.fixed.items())
    return f"{found.optimizer} on {found.task}, {found.steps:,} steps{''.join(fixed)}"


def _label(name: str) -> str:
    return _LABELS.get(name, name.replace("_", " "))


def _scale(
    figure: "Figure", bottom: float, name: str, title: str, ends: tuple[str, str]
) -> None:
    """What the colours mean, at the right edge."""
    from matplotlib import colormaps

    axes = figure.add_axes((0.84, bottom, 0.03, 0.33))
    shades = np.linspace(_PALEST, 1.0, 64)[:, None]
    axes.imshow(
        colormaps[name](shades)[..., :3],
        origin="lower",
        extent=(0.0, 1.0, 0.0, 1.0),
        aspect="auto",
    )
    axes.set(xticks=[], yticks=[0.0, 1.0], yticklabels=list(ends))
    axes.tick_params(length=0, labelsize=8.5, labelleft=False, labelright=True)
    axes.set_title(title, loc="left", fontsize=9.5)


def _frame(axes: "Axes", outer: TrainabilityMap, inner: TrainabilityMap) -> None:
    from matplotlib.patches import Rectangle

    left, right = (outer.x.place(value) for value in (inner.x.low, inner.x.high))
    bottom, top = (outer.y.place(value) for value in (inner.y.low, inner.y.high))
    look: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.0}
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, **look))


def _ranks(values: np.ndarray) -> np.ndarray:
    """The share of the other values that are smaller; equal ones count half."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    return (below + up_to - 1) / 2 / max(1, len(values) - 1)


def _ticks(axis: Axis) -> dict[float, str]:
    """Labels by their places: powers of ten, or on a narrow axis, what tells apart."""
    low, high = math.log10(axis.low), math.log10(axis.high)
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    if last > first:
        every = -(-(last - first) // 8)
        powers = range(first, last + 1, every)
        return {axis.place(10.0**k): f"{10.0**k:g}" for k in powers}
    places = (0.1, 0.5, 0.9)
    # As many digits as tell a tenth of the width.
    digits = 1 + max(0, math.ceil(-math.log10(0.1 * axis.width)))
    return {place: f"{axis.value(place):.{digits}g}" for place in places}
