"""The trainings that report cards are made of: one optimizer, one problem, variations.

All but those in bfloat16, and those whose end is looked at for its sharpness, are one
compiled program: seeds, initial scales, noise and settings are traced.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from meta_test import statistics
from meta_test.adjustable import Adjustable, adjustable
from meta_test.evaluate import Protocol
from meta_test.inner_loop import Curve, Evaluated, Hyper, MakeOptimizer
from meta_test.optimizers import Contender
from meta_test.results import Results, Sweep
from meta_test.sharpness import end_sharpness
from meta_test.suites import Cell, Suite
from meta_test.sweep import sweep
from meta_test.variation import OfVaried
from tasks.augmentations import LowPrecision
from tasks.base import Spec, TaskFamily


SCALES = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(-4, 5))
"""What multiplies the initial weights: half decades from 0.01 to 100."""

INIT_SCALE = "network.init_scale"
"""The field of a specification that does so, where a problem has one."""

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


class Place(NamedTuple):
    """Where a training starts and what it sees."""

    seeds: tuple[int, int, int, int]  # as `meta_test.inner_loop.derive_keys` takes them
    scale: float = 1.0  # of the initial weights


class Group(NamedTuple):
    """Trainings with one hyper."""

    hyper: Hyper
    places: Sequence[Place]


class _Variation(NamedTuple):
    """Of what kind, of what, and by which factor."""

    kind: Literal["plain", "scaled", "perturbed", "off"]
    name: str = ""
    factor: float = 1.0


_PLAIN = _Variation("plain")

Key = TypeVar("Key")


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
        index: Group(hyper, [_place(seed) for seed in protocol.seeds])
        for index, hyper in enumerate(map(optimizer.hyper, range(optimizer.count)))
    }
    like = _variations(optimizer, 0, cell.seeds, scales)
    program = _Program(
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
    alone = {"bfloat16": Group(optimizer.hyper(best), [*map(_place, cell.seeds)])}
    at = {f"inner.{path}": value for path, value in cell.at.items()}
    low = dataclasses.replace(
        program,
        cell=dataclasses.replace(cell, task=LowPrecision(family), at=at),
        like=(alone,),
    )
    of_kind = lambda kind: {v: c for v, c in found.items() if v.kind == kind}
    perturbed = {v.name: curve for v, curve in of_kind("perturbed").items()}
    starts = (x.initial.train_loss for x in (plain, perturbed[OTHER_WEIGHTS]))
    if np.array_equal(*starts):
        del perturbed[OTHER_WEIGHTS]
    return Trained(
        chosen=contender.labels[best],
        plain=plain,
        scaled={v.factor: curve for v, curve in of_kind("scaled").items()},
        perturbed=perturbed | low.curves(alone),
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


def _place(seed: int) -> Place:
    return Place((seed, seed, seed, seed))


def _variations(
    optimizer: Adjustable, index: int, seeds: Sequence[int], scales: Sequence[float]
) -> dict[_Variation, Group]:
    """All that is trained of a candidate in one program."""
    plain, own = optimizer.hyper(index), [_place(seed) for seed in seeds]
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """One compiled program, and what it has trained.

    Attributes:
        cell: what is trained on; its task is a family.
        make: gives the optimizer.
        evaluated: of the optimizer.
        suite: numbers of records and of batches in an evaluation.
        results: as in `train`.
        like: groups with the shapes and places of all that it is asked for.
    """

    cell: Cell
    make: MakeOptimizer
    evaluated: Evaluated
    suite: Suite
    results: Results | None
    like: Sequence[Mapping[Any, Group]]

    def curves(
        self, groups: Mapping[Key, Group], hopeless: float = math.inf
    ) -> dict[Key, Curve]:
        """Makes trainings or finds them: the curves `[places]` of each group."""
        key = self._key(
            list(groups.values()), self._settings | {"above": str(hopeless)}
        )
        found = None if self.results is None else self.results.find(key)
        if found is None:
            # Nobody asks how long a step takes.
            found = Sweep(self._sweep(list(groups.values()), hopeless), math.nan)
            if self.results is not None:
                self.results.keep(key, found)
        ends = itertools.accumulate(len(group.places) for group in groups.values())
        parts = (
            slice(end - len(group.places), end)
            for group, end in zip(groups.values(), ends, strict=True)
        )
        return {
            key: _part(found.curve, part)
            for key, part in zip(groups, parts, strict=True)
        }

    def sharpness(self, hyper: Hyper) -> np.ndarray:
        """`[seeds]` where trainings at the seeds of the cell end."""
        settings = {"steps": self.cell.horizon}
        key = self._key(hyper, settings | {"of": "end_sharpness"})
        if self.results is not None:
            found = self.results.find_arrays(key, ["sharpness"])
            if found is not None:
                return found["sharpness"]
        family = self.cell.family()
        sharpness = end_sharpness(
            family,
            self.cell.specs(family),
            self.make,
            hyper,
            np.array(self.cell.seeds),
            evaluated=self.evaluated,
            **settings,
        )
        if self.results is not None:
            self.results.keep_arrays(key, {"sharpness": sharpness})
        return sharpness

    def _key(self, trained: Any, settings: Mapping[str, Any]) -> str | None:
        if self.results is None:
            return None
        optimizer = {"make": self.make, "evaluated": self.evaluated, "of": trained}
        return self.results.key(
            cell=self.cell.plain(), contender=optimizer, settings=settings
        )

    def _sweep(self, groups: Sequence[Group], hopeless: float) -> Curve:
        family = self.cell.family()
        named = [group for like in self.like for group in like.values()]
        places = {p: i for i, p in enumerate(dict.fromkeys(_all_places(named)))}
        hypers = [group.hyper for group in groups]
        # The last again, so that there are always as many.
        hypers += hypers[-1:] * (max(map(len, self.like)) - len(hypers))
        return sweep(
            family,
            self._specs(family, list(places)),
            self.make,
            jax.tree.map(lambda *leaves: np.stack(leaves), *hypers),
            np.array([place.seeds for place in places], np.int32),
            np.array([(i, places[p]) for i, g in enumerate(groups) for p in g.places]),
            evaluated=self.evaluated,
            hopeless=hopeless,
            capacity=max(len(_all_places(like.values())) for like in self.like),
            **self._settings,
        )

    @property
    def _settings(self) -> dict[str, int]:
        return {
            "num_records": self.suite.num_records,
            "record_every": self.cell.horizon // self.suite.num_records,
            "eval_batches": self.suite.eval_batches,
        }

    def _specs(self, family: TaskFamily, places: Sequence[Place]) -> Spec:
        """The tasks of places, on a leading axis."""

        def one(place: Place) -> Spec:
            at = {} if place.scale == 1 else {INIT_SCALE: place.scale}
            cell = dataclasses.replace(self.cell, at={**self.cell.at, **at})
            return cell.specs(family, place.seeds[:1])

        return jax.tree.map(lambda *x: np.concatenate(x), *map(one, places))


def _all_places(groups: Iterable[Group]) -> list[Place]:
    return [place for group in groups for place in group.places]


def _part(curve: Curve, part: slice) -> Curve:
    return jax.tree.map(lambda x: x[part], curve)
