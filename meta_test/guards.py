"""What guards did in an evaluation: when they switched, and what they cost."""

import dataclasses

import numpy as np

from l2o.safeguard import Events, GuardEvent, listed
from meta_test.evaluate import Report
from meta_test.statistics import quantile
from meta_test.table import aligned
from meta_test.variants import FALLBACK, decisions


CONVENTION = (
    f"of guarded optimizers, by seed: `excess` is (final train loss - that of "
    f"{FALLBACK}) / (initial train loss - that of {FALLBACK}), null where {FALLBACK} "
    "ends above where it began; `decisions` are the guard's last ones, each with the "
    "step that it was made at and the reason, of `l2o.guard`; `skipped` counts steps "
    "not made"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Guarding:
    """A guarded optimizer on one cell.

    Attributes:
        cell: its name.
        contender: the guarded optimizer's name.
        excess: `[seeds]` normalised final train loss above that of the fallback alone:
            0 where that ends, 1 at the initial parameters; infinite where it diverged,
            nan where there is no such scale, None where the fallback takes no part.
        decisions: of every seed, in their order.
        skipped: `[seeds]` steps not made.
    """

    cell: str
    contender: str
    excess: np.ndarray | None
    decisions: tuple[tuple[GuardEvent, ...], ...]
    skipped: np.ndarray


def guardings(report: Report) -> tuple[Guarding, ...]:
    """All guarded optimizers on all cells."""
    guarded = [c.name for c in report.contenders if c.summarised is decisions]
    found = []
    for row in report.rows:
        if row.contender not in guarded:
            continue
        curve, alone = row.fitted.curve, report.row(row.cell, FALLBACK)
        events = Events(**curve.summary)
        excess = None
        if alone is not None:
            start = np.asarray(curve.initial.train_loss, np.float64)
            level = alone.losses("train")
            with np.errstate(invalid="ignore"):
                excess = (row.losses("train") - level) / (start - level)
            excess = np.where(level < start, excess, np.nan)
        seeds = range(len(events.made))
        found.append(
            Guarding(
                cell=row.cell,
                contender=row.contender,
                excess=excess,
                decisions=tuple(
                    listed(Events(*(values[i] for values in events))) for i in seeds
                ),
                skipped=np.asarray(events.skipped),
            )
        )
    return tuple(found)


def as_json(report: Report) -> list[dict]:
    """The same for `report.json`."""
    return [
        {
            "cell": one.cell,
            "contender": one.contender,
            "excess": one.excess,
            "decisions": [
                [event._asdict() for event in events] for events in one.decisions
            ],
            "skipped": one.skipped,
        }
        for one in guardings(report)
    ]


def text(report: Report) -> str:
    """A line a guarded optimizer and cell; empty where there are none."""
    found = guardings(report)
    if not found:
        return ""
    lines = [("cell", "optimizer", "excess", "worst seed", "decisions at steps")]
    for one in found:
        made = ("; ".join(map(_told, one.decisions)),)
        lines.append((one.cell, one.contender, *_excesses(one), *made))
    return (
        f"{aligned(lines)}\nExcess: final train loss above that of {FALLBACK}, which "
        "guards fall back to: 0 where that ends,\n1 at the initial parameters; median "
        "over the seeds, and the largest. Decisions: of every seed."
    )


def _excesses(one: Guarding) -> tuple[str, str]:
    if one.excess is None or np.isnan(one.excess).all():
        return "-", "-"
    known = one.excess[~np.isnan(one.excess)]
    return f"{quantile(known, 0.5):.3f}", f"{known.max():.3f}"


def _told(events: tuple[GuardEvent, ...]) -> str:
    return ", ".join(f"{e.step} {e.reason.replace('_', ' ')}" for e in events) or "-"
