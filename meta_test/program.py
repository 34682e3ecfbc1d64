"""Trainings at any seeds and scales with any hypers, as one program; and kept."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from meta_test.inner_loop import (
    Curve,
    Evaluated,
    Hyper,
    MakeOptimizer,
    no_summary,
)
from meta_test.results import Results, Sweep
from meta_test.sharpness import end_sharpness
from meta_test.suites import Cell, Suite
from meta_test.sweep import sweep
from tasks.base import Spec, TaskFamily


INIT_SCALE = "network.init_scale"
"""The field of a specification that multiplies initial weights, where it has one."""

Key = TypeVar("Key")


class Place(NamedTuple):
    """Where a training starts and what it sees."""

    seeds: tuple[int, int, int, int]  # as `meta_test.inner_loop.derive_keys` takes them
    scale: float = 1.0  # of the initial weights

    @classmethod
    def of(cls, seed: int) -> "Place":
        """As every training with this seed."""
        return cls((seed, seed, seed, seed))


class Group(NamedTuple):
    """Trainings with one hyper."""

    hyper: Hyper
    places: Sequence[Place]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """One compiled program, and what it has trained.

    Attributes:
        cell: what is trained on; its task is a family.
        make: gives the optimizer.
        evaluated: of the optimizer.
        suite: numbers of records and of batches in an evaluation.
        results: as in `meta_test.evaluate.evaluate`.
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
        settings = self.suite.sizes(self.cell) | {"hopeless": str(hopeless)}
        key = self._key(list(groups.values()), settings)
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
            cell=self.cell.fingerprint(), contender=optimizer, settings=settings
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
            summarised=no_summary,
            hopeless=hopeless,
            capacity=max(len(_all_places(like.values())) for like in self.like),
            **self.suite.sizes(self.cell),
        )

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
