"""Report cards as small multiples: a panel a contender, a bar a wish."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meta_test.card import Card
from meta_test.evaluate import REFERENCE, Report
from meta_test.figure import Stroke, strokes
from meta_test.pictures import save


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PICTURE = "cards.png"
"""What `write` leaves."""

_PALE = "#EFEFEF"
_QUIET = "#555555"


def write(cards: Sequence[Card], report: Report, folder: Path) -> tuple[Path, ...]:
    """Draws into a file, named as `PICTURE`.

    Args:
        cards: of the contenders of the report.
        report: tells how these are drawn.
        folder: made when it does not exist; an older picture in it is replaced.

    Returns:
        Its path; none where there are no cards.
    """
    if not cards:
        return ()
    path = folder / PICTURE
    save(draw(cards, strokes(report)), path)
    return (path,)


def draw(cards: Sequence[Card], styles: Mapping[str, Stroke]) -> "Figure":
    """Draws scores as bars, with their numbers, and ticks where tuned Adam is.

    Args:
        cards: at least one.
        styles: of the contenders, by name: the colours of their bars.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    from matplotlib.figure import Figure

    columns = min(len(cards), 3)
    rows = math.ceil(len(cards) / columns)
    wishes = len(cards[0].wishes)
    figure = Figure(
        figsize=(3.6 * columns + 1.2, (0.34 * wishes + 0.75) * rows + 0.75),
        layout="constrained",
    )
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    marks = next((card for card in cards if card.contender == REFERENCE), None)
    for axes, card in zip(panels.flat, cards, strict=False):
        _panel(axes, card, styles[card.contender].color, marks)
    for axes in panels.flat[len(cards) :]:
        axes.set_axis_off()
    ticks = f", ticks those of {REFERENCE}" if marks is not None else ""
    figure.suptitle(
        f"How far wishes are met: bars are scores, full is best{ticks}", fontsize=11
    )
    return figure


def _panel(axes: "Axes", card: Card, color: str, reference: Card | None) -> None:
    places = range(len(card.wishes))
    scores = [0.0 if wish.score is None else wish.score for wish in card.wishes]
    axes.barh(places, [1.0] * len(scores), height=0.62, color=_PALE)
    axes.barh(places, scores, height=0.62, color=color, alpha=0.85)
    for place, wish in enumerate(card.wishes):
        # Outside of the bars, where no colour is behind.
        axes.text(
            1.03,
            place,
            wish.shown,
            va="center",
            fontsize=8.5,
            color=_QUIET if wish.score is None else "black",
        )
    for place, wish in enumerate(reference.wishes if reference is not None else ()):
        if wish.score is not None and card is not reference:
            axes.vlines(wish.score, place - 0.42, place + 0.42, color="black", lw=1.6)
    axes.set_title(card.contender, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_yticks(list(places), [wish.name for wish in card.wishes])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlim(0.0, 1.45)
    axes.set_xticks([0.0, 0.5, 1.0], ["0", "1/2", "1"])
    axes.tick_params(length=0, labelsize=8.5)
    axes.spines[:].set_visible(False)
