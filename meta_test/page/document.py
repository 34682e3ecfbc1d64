"""Puts the page together."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from meta_test.figure import Stroke, strokes_by_name
from meta_test.page import protocol, words
from meta_test.page.cards import card_table, wish_names
from meta_test.page.cell_table import cell_glossary, cell_table
from meta_test.page.findings import Findings, Tree
from meta_test.page.markup import Html, markup, tag
from meta_test.page.tables import anchor, glance, overall


_SCRIPTS = ("base.js", "lines.js", "curves.js", "across.js", "radar.js", "page.js")
"""In the order in which they need each other."""

_ON_DARK = {"#000000": "#FFFFFF", "#0072B2": "#2E93DB"}
"""Colours that a dark page has others for; the rest is seen on both."""

_EVALUATED = {"test_loss": "test", "valid_loss": "validation", "train_loss": "train"}
"""What the second curves of a cell can show, the first of them at first."""


def page(tree: Mapping[str, Any]) -> str:
    """A report as a page that needs nothing else and can reach nothing else.

    Args:
        tree: of `meta_test.report.as_json`; with `cards`, a list of `{"contender",
            "wishes": [{"name", "score", "shown", "detail"}]}` whose scores are in
            [0, 1] or None, also these are shown.

    Returns:
        An HTML document.
    """
    found = Findings(tree)
    styles = strokes_by_name({c["name"]: c["learned"] for c in found.contenders})
    style = _read("style.css") + _colours(list(styles.values()))
    script = "\n".join(map(_read, _SCRIPTS))
    return Template(_read("template.html")).substitute(
        # Only this very style and script, and nothing from anywhere.
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
        title=markup(words.title(found)),
        style=style,
        head=_head(found),
        links=_links(found),
        sections=markup(*_sections(found)),
        report=_embedded(tree),
        strokes=_embedded([stroke._asdict() for stroke in styles.values()]),
        script=script,
    )


def _read(name: str) -> str:
    return resources.files("meta_test.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _colours(styles: list[Stroke]) -> str:
    """A class `c0`, `c1`, ... a contender, which sets the colour of its marks."""
    light = [f".c{i} {{ --own: {s.color}; }}" for i, s in enumerate(styles)]
    dark = [
        f".c{i} {{ --own: {_ON_DARK[s.color]}; }}"
        for i, s in enumerate(styles)
        if s.color in _ON_DARK
    ]
    query = "@media screen and (prefers-color-scheme: dark)"
    return "\n".join([*light, f"{query} {{", *dark, "}", ""])


def _embedded(content: Any) -> str:
    """JSON whose strings cannot end the element that it is in, or open another."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _head(found: Findings) -> Html:
    provenance, suite = found.tree["provenance"], found.tree["suite"]
    versions, device = provenance["versions"], provenance["device"]
    about = suite["about"]
    facts = [
        f"suite {suite['name']} version {suite['version']}",
        f"l2o {versions['l2o']}, JAX {versions['jax']}",
        f"{device['count']} x {device['kind']}",
    ]
    if provenance["git_revision"]:
        facts.insert(1, f"revision {provenance['git_revision'][:12]}")
    return markup(
        tag("h1", words.title(found)),
        tag("p", f"{about}.", class_="about") if about else "",
        tag("p", words.extent(found)),
        tag("p", " · ".join(facts), class_="quiet"),
    )


def _links(found: Findings) -> Html:
    shown = [
        ("summary", "Summary"),
        ("overall", "All cells"),
        *([("speed", "Speed")] if found.reference is not None else []),
        ("cells", "Cell by cell"),
        *([("cards", "Report cards")] if found.tree.get("cards") else []),
        ("protocol", "How it was judged"),
    ]
    return markup(*(tag("a", text, href=f"#{name}") for name, text in shown))


def _sections(found: Findings) -> list[Html]:
    sections = [
        _section("summary", "Summary", words.summary(found)),
        _controls(),
        _section("overall", "All cells", overall(found)),
    ]
    if found.reference is not None:
        sections.append(_speed(found, found.reference))
    sections.append(_cells(found))
    if found.tree.get("cards"):
        radar = _chart("radar", "How far each wish is met: the rim is all of it.")
        drawn = radar if len(wish_names(found)) > 2 else ""
        sections.append(_section("cards", "Report cards", drawn, card_table(found)))
    return [*sections, _protocol(found)]


def _section(name: str, heading: str, *content: str) -> Html:
    link = tag("a", "#", href=f"#{name}", class_="anchor", aria_label=f"to {heading}")
    return tag("section", tag("h2", heading, " ", link), *content, id=name)


def _chart(kind: str, caption: str, **attributes: str) -> Html:
    inner = tag("figcaption", caption) if caption else ""
    return tag("figure", inner, class_="chart", data_chart=kind, **attributes)


def _speed(found: Findings, reference: str) -> Html:
    bars = _chart(
        "speedup",
        f"Speedup over {reference} to where it ends, with 95 % intervals: full bars in "
        "steps, pale ones in seconds.",
    )
    profile = _chart(
        "profile",
        "Performance profile (Dolan and Moré): the share of cells on which an "
        "optimizer's median steps to that level are within a factor of the fewest of "
        "all. Higher is better; the left end is the share of cells on which it is the "
        "fastest, and a cell whose level it never reaches counts nowhere.",
    )
    return _section("speed", "Speed", tag("div", bars, profile, class_="pair"))


def _controls() -> Html:
    """What rules all charts, and so is always in reach; the script fills the legend."""
    legend = tag(
        "div", class_="legend", role="group", aria_label="Optimizers in all charts"
    )
    choices = [
        tag(
            "label",
            tag("input", type="radio", name="loss", value=key, checked=index == 0),
            f" {text}",
        )
        for index, (key, text) in enumerate(_EVALUATED.items())
    ]
    switch = tag("fieldset", tag("legend", "Loss at the evaluations"), *choices)
    return tag("div", legend, switch, class_="controls")


def _cells(found: Findings) -> Html:
    note = tag(
        "p",
        "Lines are medians over the seeds, bands interquartile ranges. The first chart "
        "of a cell has the loss on the batches of training, as means since the last "
        "record; the second that of the parameters at the evaluations, on the data "
        "that are chosen above. Curves of test and validation loss are at the rate by "
        "validation. What is infinite runs along the top.",
        class_="quiet",
    )
    cells = [_cell(found, index, cell) for index, cell in enumerate(found.cells)]
    content = (glance(found), note, cell_glossary(found), *cells)
    return _section("cells", "Cell by cell", *content)


def _cell(found: Findings, index: int, cell: Tree) -> Html:
    name = anchor(index, cell)
    trainings = f"{cell['horizon']:,} steps, {len(cell['seeds'])} seeds"
    link = tag(
        "a", "#", href=f"#{name}", class_="anchor", aria_label=f"to {cell['name']}"
    )
    return tag(
        "section",
        tag("h3", cell["name"], " ", link),
        tag("p", f"{cell['probes']} ({trainings})", class_="quiet"),
        tag(
            "div",
            _chart("training", "", data_cell=str(index)),
            _chart("evaluations", "", data_cell=str(index)),
            class_="pair",
        ),
        cell_table(found, cell),
        id=name,
        class_="cell",
    )


def _protocol(found: Findings) -> Html:
    def folded(heading: str, content: str) -> Html:
        return tag("details", tag("summary", heading), content)

    button = tag("button", "Download report.json", type="button", id="download")
    return _section(
        "protocol",
        "How it was judged",
        protocol.words(found),
        protocol.candidates(found),
        folded("Where the optimizers come from", protocol.origins(found)),
        folded("What the report was made with", protocol.environment(found)),
        folded("What the fields of report.json hold", protocol.conventions(found)),
        folded(
            "Wins and losses of every learned optimizer, as text",
            tag("pre", "\n".join(found.tree["summary"]), tabindex="0"),
        ),
        tag("p", button, " All numbers of this page, as l2o eval wrote them."),
    )
