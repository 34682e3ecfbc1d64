"""Report cards: how far each contender meets seven wishes of an optimizer.

What the wishes are and how they are scored is in `meta_test.wishes`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from meta_test import wishes
from meta_test.across import across
from meta_test.card_trainings import train
from meta_test.evaluate import REFERENCE, Progress, Report
from meta_test.results import Results
from meta_test.suites import Suite
from meta_test.suites.card import CARD
from meta_test.table import aligned
from meta_test.way import Way
from meta_test.wishes import Measured, Wish


NOTES = f"""\
Report cards. Of the trainings above: converges, how many reach the level where tuned
{REFERENCE} ends; fast, the speedup to there in steps, < where some never come there;
generalises, on how many cells the test loss is not above {REFERENCE}'s. Of further
ones, on three small problems and at the rate that tuning chose there: any weights, how
many make nine tenths of the way to where {REFERENCE} ends, from initial weights times
0.01 to 100; robust, how much of the way that is made changes with noise in gradients,
another order of the data, other initial weights or bfloat16, the worst of them; no
tuning, how much of it is lost where a setting is off by 3 or 10, the worst of them.
Small: floats of memory a parameter, beside it and its gradient."""

CONVENTION = (
    "of every contender, seven wishes with a score in [0, 1], where 1 is best and null "
    "does not apply, a number for people, a sentence, and the values behind them; "
    "meta_test/wishes.py says how they are measured and scored"
)
"""What cards are, for the conventions of a report."""


@dataclasses.dataclass(frozen=True)
class Card:
    """All wishes of one contender."""

    contender: str
    wishes: tuple[Wish, ...]


def cards(
    report: Report,
    *,
    suite: Suite = CARD,
    results: Results | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Card, ...]:
    """Report cards of all contenders of a report, in their order.

    Args:
        report: tells what is trained: its contenders, and how they are tuned.
        suite: the problems that are varied.
        results: where trainings are kept, and looked for before they are made.
        on_progress: called before each contender on each problem.

    Raises:
        ValueError: tuned Adam ends no lower than it begins on a problem.
    """
    contenders = {contender.name: contender for contender in report.contenders}
    # What the others are measured by comes first, also where it does not take part.
    reference, *_ = report.protocol.baselines([REFERENCE])
    ordered = {REFERENCE: reference} | contenders
    total, trained = len(ordered) * len(suite.cells), {}
    for name, contender in ordered.items():
        trained[name] = []
        for cell in suite.cells:
            if on_progress is not None:
                done = sum(map(len, trained.values()))
                on_progress(Progress(done, total, cell, contender))
            found = train(contender, cell, suite, report.protocol, results)
            trained[name].append(found)
    ways = [Way.of(one.plain) for one in trained[REFERENCE]]
    measured = {
        name: [Measured(*pair) for pair in zip(found, ways, strict=True)]
        for name, found in trained.items()
    }
    return tuple(
        Card(
            contender=name,
            wishes=(
                wishes.converges(report, name),
                wishes.any_weights(measured[name]),
                wishes.fast(one),
                wishes.generalises(report, one, measured[name], measured[REFERENCE]),
                wishes.robust(measured[name]),
                wishes.small(contenders[name]),
                wishes.no_tuning(contenders[name], measured[name]),
            ),
        )
        for name, one in zip(contenders, across(report), strict=True)
    )


def as_json(cards: Iterable[Card]) -> list[dict[str, Any]]:
    """Cards as strict JSON holds them.

    Returns:
        `[{"contender": name, "wishes": [{"name", "score", "shown", "detail",
        "values"}]}]`, of strings, finite numbers and None.
    """
    return [
        {
            "contender": card.contender,
            "wishes": [dataclasses.asdict(wish) for wish in card.wishes],
        }
        for card in cards
    ]


def as_text(cards: Sequence[Card]) -> str:
    """A line a contender, and what the columns mean; at least one card."""
    head = ("optimizer", *(wish.name for wish in cards[0].wishes))
    lines = [(card.contender, *(w.shown for w in card.wishes)) for card in cards]
    return f"{aligned([head, *lines])}\n{NOTES}"
