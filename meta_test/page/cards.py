"""Report cards: how far each contender meets what is wished of an optimizer."""

import math

from meta_test.page.findings import Findings, Tree, as_float
from meta_test.page.markup import Column, Entry, Html, markup, table, tag
from meta_test.page.tables import OPTIMIZER, optimizer


def card_table(found: Findings) -> Html:
    """Wishes and how far each contender meets them."""
    wishes = wish_names(found)
    about = "How far the wish is met, and what was measured."
    columns = [OPTIMIZER, *(Column(name, about, "high") for name in wishes)]
    lines = []
    for card in found.tree["cards"]:
        by_name = {wish["name"]: wish for wish in card["wishes"]}
        lines.append(
            [
                optimizer(found, card["contender"]),
                *(_wish(by_name.get(name)) for name in wishes),
            ]
        )
    return table("Report cards", columns, lines)


def wish_names(found: Findings) -> list[str]:
    """Of all cards, each once, in the order in which they are met."""
    cards = found.tree["cards"]
    return list(dict.fromkeys(w["name"] for card in cards for w in card["wishes"]))


def _wish(wish: Tree | None) -> Entry:
    if wish is None:
        return Entry("-", math.nan)
    shown = markup(wish["shown"], " ", tag("small", wish["detail"], class_="detail"))
    return Entry(shown, as_float(wish["score"]))
