"""The picture of one training, as `l2o inspect` leaves it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meta_test.inspection import Inspection
from meta_test.pictures import save


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MAX_TENSORS = 12
"""So many tensors are drawn, the largest: more lines are not told apart."""

# Colours of Okabe and Ito, told apart by colour-blind eyes; of tensors beyond these the
# lines are dashed.
_TENSORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#B8A000", "#8C8C8C"),
)


def draw(inspection: Inspection) -> "Figure":
    """Draws every measurement against the number of the step.

    Of the tensors the `MAX_TENSORS` largest are drawn. Logarithmic panels leave out
    what is not finite or not above 0.

    Args:
        inspection: of any training, also of one that diverged.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17.0, 7.4), layout="constrained")
    panels = figure.subplots(2, 4)
    (loss, norms, sharpness, cosine), (sizes, rates, ranks, legend) = panels
    look: dict[str, Any] = {"color": "#D55E00" if inspection.learned else "#0072B2"}
    steps = inspection.steps

    _line(loss, steps, inspection.loss, **look)
    _title(loss, "Training loss", "mean since the last record")
    _line(norms, steps, inspection.gradient_norm, label="gradient", color="#333333")
    _line(norms, steps, inspection.update_norm, label="update", **look)
    _title(norms, "Gradient and update", "Euclidean norm, all parameters")
    _line(sharpness, steps, inspection.sharpness, label="sharpness", **look)
    _line(
        sharpness,
        steps,
        inspection.critical,
        label="edge of stability: 2 / learning rate,\nas |update| / |gradient|",
        color="#333333",
        linestyle="--",
    )
    _title(sharpness, "Sharpness", "largest eigenvalue of the Hessian")
    _line(cosine, steps, inspection.cosine, label="-update and gradient", **look)
    aligned = np.cos(np.radians(inspection.alignment))
    _line(
        cosine,
        steps,
        aligned,
        label="gradient and backpropagation's",
        color="#333333",
        linestyle="--",
    )
    _title(cosine, "Is it gradient descent?", "cosine of the angle")

    drawn = _largest(inspection.shapes)
    left_out = len(inspection.shapes) - len(drawn)
    for index, name in enumerate(drawn):
        shape = " x ".join(map(str, inspection.shapes[name])) or "scalar"
        style = {
            "color": _TENSORS[index % len(_TENSORS)],
            "linestyle": "-" if index < len(_TENSORS) else "--",
            "label": f"{_short(name)}  ({shape})",
        }
        _line(sizes, steps, inspection.update_sizes[name], **style)
        _line(rates, steps, inspection.effective_rates[name], **style)
        if name in inspection.stable_ranks:
            _line(ranks, steps, inspection.stable_ranks[name], **style)
    beside = f" ({left_out} smaller tensors left out)" if left_out else ""
    _title(sizes, f"Update sizes{beside}", "root mean square, by tensor")
    _title(rates, "Effective learning rates", "|update| / |gradient|, by tensor")
    _title(ranks, "Stable ranks of matrices", "sum of $s^2$ / largest $s^2$, by tensor")

    for axes in (loss, norms, sharpness, sizes, rates):
        _logarithmic(axes)
    for axes in (norms, sharpness, cosine):
        axes.legend(fontsize=8, framealpha=0.8, edgecolor="none")
    cosines = np.concatenate([inspection.cosine, aligned])
    lowest = np.nanmin([0.0, *cosines[np.isfinite(cosines)]])
    cosine.set_ylim(min(-0.1, lowest - 0.1), 1.05)
    cosine.axhline(0.0, color="#AAAAAA", linewidth=0.8, zorder=1)
    for axes in panels.flat[:-1]:  # They look like those of `meta_test.figure`.
        axes.set_xlim(0, steps[-1] * 1.01)
        axes.set_xlabel("step", fontsize=9)
        axes.grid(True, which="major", color="#E6E6E6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8.5)
    legend.set_axis_off()
    legend.legend(
        *sizes.get_legend_handles_labels(),
        loc="upper left",
        frameon=False,
        fontsize=9,
        title="tensors, the largest first",
        title_fontsize=9,
        alignment="left",
    )
    figure.suptitle(f"{_heading(inspection)}\n", fontsize=13)
    return figure


def write(inspection: Inspection, path: Path) -> None:
    """Draws into a file, as `meta_test.pictures.save`."""
    save(draw(inspection), path)


def _heading(inspection: Inspection) -> str:
    """Who was trained, and where the training broke off."""
    who = inspection.optimizer
    if not inspection.learned:
        who += f" at {inspection.candidate}"
    text = f"{who}, {inspection.num_parameters:,} parameters"
    broken = inspection.steps[~np.isfinite(inspection.loss)]
    return f"{text}: loss not finite by step {broken[0]}" if broken.size else text


def _largest(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """The tensors that are drawn, the largest first."""
    return sorted(shapes, key=lambda name: -math.prod(shapes[name]))[:MAX_TENSORS]


def _short(name: str, length: int = 34) -> str:
    """The end of a path, where tensors differ."""
    return name if len(name) <= length else f"...{name[3 - length :]}"


def _line(axes: "Axes", steps: np.ndarray, values: np.ndarray, **look: Any) -> None:
    # Small dots: a record between two that are not finite is no line.
    shown = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    axes.plot(steps, shown, linewidth=1.4, marker=".", markersize=3, **look)


def _title(axes: "Axes", title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_ylabel(unit, fontsize=9)


def _logarithmic(axes: "Axes") -> None:
    """Makes the vertical axis logarithmic and at least one decade high."""
    drawn = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines])
    positive = drawn[drawn > 0]
    if not positive.size:
        positive = np.ones(1)  # A panel of the same kind, with nothing in it.
    low, high = np.log10(positive.min()), np.log10(positive.max())
    # What does not change is a flat line and not a picture of rounding errors.
    margin = max(0.05 * (high - low), 0.5 * (1.0 - (high - low)))
    # The limits first: a scale that has to find them warns where nothing is positive.
    axes.set_ylim(10 ** (low - margin), 10 ** (high + margin))
    axes.set_yscale("log", nonpositive="mask")
