"""The trainings that report cards are made of: one optimizer, one problem, variations.

All but those in bfloat16, and those whose end is looked at for its sharpness, are one
compiled program: seeds, initial scales, noise and settings are traced.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from meta_test import statistics
from meta_test.adjustable import Adjustable, adjustable
from meta_test.evaluate import Protocol
from meta_test.inner_loop import Curve
from meta_test.optimizers import Contender
from meta_test.program import INIT_SCALE, Group, Place, Program
from meta_test.results import Results
from meta_test.suites import Cell, Suite
from meta_test.variation import OfVaried
from tasks.augmentations import LowPrecision


SCALES = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-4, 5))
"""What multiplies the initial weights: half decades from 0.01 to 100."""

NOISE_SHARE = 0.1
"""Deviation of the noise in a gradient, of its root mean square in a tensor."""

OTHER = 500_000
"""Added to a seed: of other initial weights, or of another order of the data."""

OTHER_WEIGHTS = "initial weights"
"""A perturbation: from another seed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """One contender on one cell; every curve has a leading axis `[seeds]`.

    Attributes:
        chosen: label of the candidate that tuning chose; the variations have it too.
        plain: nothing is varied.
        scaled: by what multiplies the initial weights; empty where a problem starts at
            the same weights whatever that is.
        perturbed: by what is changed a little; without `OTHER_WEIGHTS` where a problem
            starts at the same ones whatever the seed.
        off: by the name of a setting and the factor that it is off by.
        sharpness: `[seeds]` where plain trainings end; infinite where they diverged.
    """

    chosen: str
    plain: Curve
    scaled: Mapping[float, Curve]
    perturbed: Mapping[str, Curve]
    off: Mapping[tuple[str, float], Curve]
    sharpness: np.ndarray


class _Variation(NamedTuple):
    """Of what kind, of what, and by which factor."""

    kind: Literal["plain", "scaled", "perturbed", "off"]
    name: str = ""
    factor: float = 1.0


_PLAIN = _Variation("plain")


def train(
    contender: Contender,
    cell: Cell,
    suite: Suite,
    protocol: Protocol,
    results: Results | None,
) -> Trained:
    """Tunes a contender on a cell, and varies what was chosen.

    Args:
        contender: its candidates are tuned by their median final train loss at the
            seeds of the protocol; nothing is tuned again for a variation.
        cell: what to train on.
        suite: of the cell: numbers of records and of batches in an evaluation.
        protocol: seeds of tuning, and when a training of it is given up.
        results: where trainings are kept, and looked for before they are made.
    """
    family, optimizer = cell.family(), adjustable(contender)
    scalable = not cell.sampled and _has(family.nominal(), INIT_SCALE)
    scales = SCALES if scalable else ()
    tried = {
        index: Group(hyper, [Place.of(seed) for seed in protocol.seeds])
        for index, hyper in enumerate(map(optimizer.hyper, range(optimizer.count)))
    }
    like = _variations(optimizer, 0, cell.seeds, scales)
    program = Program(
        cell=dataclasses.replace(cell, task=family),
        make=optimizer.varied,
        evaluated=OfVaried(contender.evaluated),
        suite=suite,
        results=results,
        like=(like, tried) if len(tried) > 1 else (like,),
    )
    best = 0
    if len(tried) > 1:
        curves = program.curves(tried, protocol.hopeless).values()
        grid = jax.tree.map(lambda *x: np.stack(x), *curves)
        best = statistics.best_candidate(grid, "train")
    found = program.curves(_variations(optimizer, best, cell.seeds, scales))
    plain = found[_PLAIN]
    alone, at = optimizer.alone(best), {f"inner.{k}": v for k, v in cell.at.items()}
    low = {"bfloat16": Group(alone.hyper(0), [*map(Place.of, cell.seeds)])}
    in_low_precision = dataclasses.replace(
        program,
        cell=dataclasses.replace(cell, task=LowPrecision(family), at=at),
        make=alone.varied,
        like=(low,),
    )
    of_kind = lambda kind: {v: c for v, c in found.items() if v.kind == kind}
    perturbed = {v.name: curve for v, curve in of_kind("perturbed").items()}
    start, other = (x.initial.train_loss for x in (plain, perturbed[OTHER_WEIGHTS]))
    if np.array_equal(start, other):
        del perturbed[OTHER_WEIGHTS]
    return Trained(
        chosen=contender.labels[best],
        plain=plain,
        scaled={v.factor: curve for v, curve in of_kind("scaled").items()},
        perturbed=perturbed | in_low_precision.curves(low),
        off={(v.name, v.factor): curve for v, curve in of_kind("off").items()},
        sharpness=statistics.losses(
            program.sharpness(optimizer.hyper(best)), statistics.diverged(plain)
        ),
    )


def _has(spec: Any, path: str) -> bool:
    """Whether a specification has the field at a dotted path."""
    for name in path.split("."):
        if name not in getattr(spec, "_fields", ()):
            return False
        spec = getattr(spec, name)
    return True


def _variations(
    optimizer: Adjustable, index: int, seeds: Sequence[int], scales: Sequence[float]
) -> dict[_Variation, Group]:
    """All that is trained of a candidate in one program."""
    plain, own = optimizer.hyper(index), [Place.of(seed) for seed in seeds]
    reordered = [Place((s, s, s + OTHER, s)) for s in seeds]
    moved = [Place((s, s + OTHER, s, s)) for s in seeds]
    perturbed = {
        "gradient noise": Group(optimizer.hyper(index, NOISE_SHARE), own),
        "data order": Group(plain, reordered),
        OTHER_WEIGHTS: Group(plain, moved),
    }
    return {
        _PLAIN: Group(plain, own),
        **{_Variation("perturbed", name): group for name, group in perturbed.items()},
        **{
            _Variation("scaled", factor=scale): Group(
                plain, [place._replace(scale=scale) for place in own]
            )
            for scale in scales
        },
        **{
            _Variation("off", name, factor): Group(hyper, own)
            for name, factor, hyper in optimizer.off(index)
        },
    }
