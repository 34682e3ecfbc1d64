"""HTML as strings of a type of their own, so that what is not markup is escaped."""

import html
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, final


@final
class Html(str):
    """Markup; any other string is escaped where it is put into some."""

    __slots__ = ()


def markup(*parts: str) -> Html:
    """The parts one after another, escaped unless they are markup."""
    return Html(
        "".join(part if isinstance(part, Html) else html.escape(part) for part in parts)
    )


def tag(name: str, /, *children: str, **attributes: str | bool) -> Html:
    """An element.

    Args:
        name: of the element.
        *children: as in `markup`.
        **attributes: True is an attribute without a value, False none; an underscore
            stands for a hyphen, and one at the end for nothing, as in `class_`.
    """
    shown = "".join(
        f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
        for key, value in (
            (key.rstrip("_").replace("_", "-"), value)
            for key, value in attributes.items()
        )
        if value is not False
    )
    # The one kind of element in use that has no end.
    if name == "input":
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{markup(*children)}</{name}>")


def number(value: float) -> str:
    """Three digits, with an exponent where zeros would be many; a dash for nan."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if 1000 <= abs(value) < 1e6:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def spread(low: float, middle: float, high: float) -> Html:
    """An estimate, and below it the ends of its interval; infinity alone."""
    if math.isinf(low):
        return markup(number(middle))
    ends = f"[{number(low)}, {number(high)}]"
    return markup(number(middle), " ", tag("small", ends))


class Column(NamedTuple):
    """Of a table.

    Attributes:
        label: its head.
        about: what it says, in sentences.
        best: which of its numbers come first when it is sorted by; None for words.
    """

    label: str
    about: str
    best: Literal["low", "high"] | None = "low"


class Entry(NamedTuple):
    """In a table.

    Attributes:
        shown: what is read.
        value: what is sorted by, nan where there is nothing; None to sort by words.
        kind: a class of the style sheet.
    """

    shown: str
    value: float | None = None
    kind: str = ""


def table(
    label: str,
    columns: Sequence[Column],
    lines: Sequence[Sequence[Entry]],
    *,
    sorted_by: str = "",
) -> Html:
    """A table that the script lets be sorted; the first entry of a line names it.

    Args:
        label: what the table is, for those who do not see it.
        columns: one an entry of a line.
        lines: in the order in which they are seen first.
        sorted_by: the label of the column that made this order, from its best on.
    """
    heads = [
        tag(
            "th",
            column.label,
            scope="col",
            title=column.about,
            data_best=column.best or False,
            aria_sort=_order(column) if column.label == sorted_by else False,
        )
        for column in columns
    ]
    body = [
        tag(
            "tr",
            tag("th", line[0].shown, scope="row", class_=line[0].kind or False),
            *map(_entry, line[1:]),
        )
        for line in lines
    ]
    inner = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body))
    # Wide tables scroll by themselves, also by keyboard, and never the page.
    return tag(
        "div", inner, class_="wide", tabindex="0", role="region", aria_label=label
    )


def _order(column: Column) -> str:
    return "descending" if column.best == "high" else "ascending"


def _entry(entry: Entry) -> Html:
    sorting: str | bool = False
    if entry.value is not None:
        # As JavaScript reads numbers; nothing for what has none.
        value = entry.value
        infinite = "Infinity" if value > 0 else "-Infinity"
        sorting = infinite if math.isinf(value) else f"{value:.9g}"
        sorting = "" if math.isnan(value) else sorting
    return tag("td", entry.shown, class_=entry.kind or False, data_value=sorting)


def glossary(columns: Sequence[Column], of: str = "") -> Html:
    """What the columns of a table, or of those named, mean; folded."""
    terms = [
        part
        for column in columns
        for part in (tag("dt", column.label), tag("dd", column.about))
    ]
    heading = f"What the columns{of} mean"
    return tag("details", tag("summary", heading), tag("dl", *terms))
