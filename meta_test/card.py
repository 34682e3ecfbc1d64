"""Report cards: how far each contender meets seven wishes of an optimizer.

What the wishes are and how they are scored is in `meta_test.wishes`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from meta_test import wishes
from meta_test.across import across
from meta_test.card_trainings import train
from meta_test.evaluate import REFERENCE, Progress, Report
from meta_test.results import Results
from meta_test.suites import Suite
from meta_test.suites.card import CARD
from meta_test.wishes import Wish


@dataclasses.dataclass(frozen=True)
class Card:
    """All wishes of one contender, in the order of `WISHES`."""

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
    [reference] = report.protocol.baselines([REFERENCE])
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
    grounds = [wishes.ground_of(one.plain) for one in trained[REFERENCE]]
    return tuple(
        Card(
            contender=name,
            wishes=(
                wishes.converges(report, name),
                wishes.any_weights(trained[name], grounds),
                wishes.fast(one),
                wishes.generalises(report, one, trained[name], trained[REFERENCE]),
                wishes.robust(trained[name], grounds),
                wishes.small(contenders[name]),
                wishes.no_tuning(contenders[name], trained[name], grounds),
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
            "wishes": [
                dataclasses.asdict(wish) | {"values": dict(wish.values)}
                for wish in card.wishes
            ],
        }
        for card in cards
    ]
