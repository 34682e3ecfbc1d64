"""How it was judged, in words."""

import math
from collections.abc import Sequence

from meta_test.page.findings import Findings, Tree
from meta_test.page.markup import Column, Entry, Html, glossary, markup, table, tag
from meta_test.page.tables import OPTIMIZER, optimizer


def words(found: Findings) -> Html:
    """How optimizers were trained, tuned and compared."""
    protocol, suite = found.tree["protocol"], found.tree["suite"]
    seeds = list(dict.fromkeys(_listed(cell["seeds"]) for cell in found.cells))
    given_up = protocol["given_up_above_initial_loss_by"]
    sentences = [
        f"Every optimizer is trained on every cell at the same seeds "
        f"({' or '.join(seeds)}). A seed is the initial parameters and the batches, so "
        "that losses are compared pair by pair.",
        f"An optimizer with several candidates is tuned for every cell: all of them "
        f"are trained at other seeds ({_listed(protocol['tuning_seeds'])}), and the "
        "one with the lowest median final loss is trained again at the seeds of the "
        "comparison. That is done twice: by the train loss, for what is said of "
        "training, and by the loss on validation data, for what is said of test data. "
        "Candidates of "
        f"hand-designed optimizers are {_tried(protocol)}.{_untuned(found)}",
        f"While tuning, a training is given up once its loss is not finite or, after "
        f"its first quarter, above the initial loss by more than {given_up:g} times "
        "that. In the comparison none is given up.",
        f"The parameters are evaluated {protocol['evaluations']} times in a training, "
        f"at equal distances, on {suite['eval_batches']} batches of each split; a "
        f"curve of training has {suite['num_records']} records.",
    ]
    return markup(*(tag("p", sentence) for sentence in sentences))


def _tried(protocol: Tree) -> str:
    if protocol["random_settings"]:
        return f"{protocol['random_settings']} random settings each"
    if protocol["rates"]:
        return f"{protocol['rates']} learning rates each, spread over their range"
    return "the learning rates of a grid"


def _untuned(found: Findings) -> str:
    names = [c["name"] for c in found.contenders if len(c["candidates"]) == 1]
    if not names:
        return ""
    return f" Those with one candidate are not tuned: {', '.join(names)}."


def conventions(found: Findings) -> Html:
    """What the fields of `report.json` hold."""
    terms = [
        part
        for name, text in found.tree["conventions"].items()
        for part in (tag("dt", name), tag("dd", text))
    ]
    return tag("dl", *terms)


def environment(found: Findings) -> Html:
    """What the report was made with, and of which suite."""
    provenance, suite = found.tree["provenance"], found.tree["suite"]
    facts = {
        "suite": f"{suite['name']}, version {suite['version']}",
        "hash of the suite": suite["hash"],
        **{key.replace("_", " "): value for key, value in provenance.items()},
        "schema of the report": found.tree["schema"],
    }
    terms = [
        part
        for name, value in facts.items()
        if value not in (None, {}, [])
        for part in (tag("dt", name), tag("dd", tag("code", _plain(value))))
    ]
    return tag("dl", *terms)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


_CANDIDATES = (
    OPTIMIZER,
    Column("candidates", "How many were tried."),
    Column("they are", "Learning rates, settings, or factors of the updates.", None),
    Column("steps of tuning", "That were made for it, over all cells."),
    Column("diverged in tuning", "Or was given up, of all trainings of tuning."),
)


def candidates(found: Findings) -> Html:
    """What was tried of each contender, and what it cost."""
    lines = []
    for contender in found.contenders:
        name, labels = contender["name"], contender["candidates"]
        tunings = [found.row(cell, name)["tuning"] for cell in found.cells]
        made = [tuning for tuning in tunings if tuning is not None]
        steps = sum(tuning["inner_steps"] for tuning in made)
        failed = sum(sum(tuning["diverged"]) for tuning in made)
        trained = len(made) * len(labels) * len(found.tree["protocol"]["tuning_seeds"])
        lines.append(
            [
                optimizer(found, name),
                Entry(f"{len(labels)}", len(labels)),
                Entry(", ".join(labels) if made else "nothing to choose", kind="list"),
                Entry(f"{steps:,}" if made else "-", steps if made else math.nan),
                Entry(f"{failed:,}/{trained:,}", failed / trained)
                if made
                else Entry("-", math.nan),
            ]
        )
    return markup(table("Candidates", _CANDIDATES, lines), glossary(_CANDIDATES))


def origins(found: Findings) -> Html:
    """Where the contenders came from, of those of whom it is known."""
    described = []
    for contender in found.contenders:
        facts = [
            tag("li", f"{key}: ", tag("code", _plain(value)))
            for key, value in contender["provenance"].items()
            if value not in (None, {}, [])
        ]
        if facts:
            described += [
                tag("dt", contender["name"]),
                tag("dd", tag("ul", *facts)),
            ]
    return tag("dl", *described) if described else Html()


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return str(value)
