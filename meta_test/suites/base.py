"""What a suite is: a frozen, versioned list of conditions to judge optimizers under."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from l2o import trees as treelib
from l2o.config import config_hash, nearest
from l2o.gradients.registry import parse
from meta_test.families import build_family
from meta_test.gradient_source import GradientSource
from meta_test.inner_loop import derive_keys
from tasks.base import Spec, TaskFamily
from tasks.data.arrays import Labelled, Text


SEEDS = (0, 1, 2, 3, 4)


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One condition: a task, trained for so long from several seeds.

    Attributes:
        name: unique in a suite.
        probes: what an optimizer shows here, for people.
        task: the table that `meta_test.families.build_family` takes, or a family of
            the caller's own.
        horizon: steps of training.
        seeds: each is an initialisation and a stream of batches.
        sampled: whether every seed has another task of the family; otherwise all have
            its nominal one.
        at: dotted paths of fields of the nominal specification, and their values here.
            They are traced, so that nothing compiles anew.
    """

    name: str
    probes: str
    task: Mapping[str, Any] | TaskFamily
    horizon: int
    seeds: tuple[int, ...] = SEEDS
    sampled: bool = False
    at: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sampled and self.at:
            raise ValueError(
                f"cell {self.name!r} must be sampled or at a given specification, "
                f"got both, at {dict(self.at)}"
            )

    def family(self) -> TaskFamily:
        """The task family, with its data."""
        if isinstance(self.task, TaskFamily):
            return self.task
        return build_family(self.task, where=f"cell {self.name!r}")

    def specs(self, family: TaskFamily, seeds: Sequence[int] | None = None) -> Spec:
        """The tasks of seeds, the cell's where none are given, on a leading axis."""

        def one(seed: jax.Array) -> Spec:
            if self.sampled:
                return family.sample(derive_keys(seed).task)
            spec = family.nominal()
            for path, value in self.at.items():
                spec = _replaced(spec, path.split("."), value)
            return spec

        # Not a constant under vmap: every leaf has an axis of seeds.
        specs = [one(jnp.int32(seed)) for seed in seeds or self.seeds]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *specs)

    def plain(self) -> dict[str, Any]:
        """All that defines the condition, defaults included, as JSON can hold it.

        Data are in it by name, as in the hashes of published suites; where what is
        kept must not outlive its data, see `fingerprint`.
        """
        return {
            "task": _described(self.family()),
            "horizon": self.horizon,
            "seeds": list(self.seeds),
            "sampled": self.sampled,
            "at": dict(self.at),
        }

    def fingerprint(self) -> dict[str, Any]:
        """`plain`, and the hashes of the data themselves: all that trainings see."""
        return self.plain() | {"data": self._data_sha256}

    @functools.cached_property
    def _data_sha256(self) -> list[str]:
        # Once a cell: keys are asked for twice a contender, and data may be large.
        return _data_sha256(self.family())

    def with_gradients(self, source: str) -> "Cell":
        """The same, fed by a source of gradients of `l2o.gradients`."""
        family = GradientSource(self.family(), source)
        at = {f"inner.{path}": value for path, value in self.at.items()}
        return dataclasses.replace(self, task=family, at=at)

    @property
    def hash(self) -> str:
        """Of all that defines the condition."""
        return config_hash(self.plain())


def nominal_cell(
    name: str,
    probes: str,
    family: str,
    *,
    seeds: tuple[int, ...],
    horizon: int = 1_000,
    at: Mapping[str, float] | None = None,
    sampled: bool = False,
    **fields: Any,
) -> Cell:
    """A cell on a family by name, with fields of its own; nominal where not sampled."""
    return Cell(
        name, probes, {"family": family, **fields}, horizon, seeds, sampled, at or {}
    )


def activation(name: str) -> dict[str, Any]:
    """The table of a network with this activation."""
    return {"activation": (name,)}


@dataclasses.dataclass(frozen=True)
class Suite:
    """Cells that are judged together.

    Attributes:
        name: what it is called.
        version: raised by any change.
        about: what it is for, in a line.
        cells: the conditions.
        num_records: points on every curve; divides every horizon.
        eval_batches: batches per split in every evaluation of parameters.
        baselines: hand-designed optimizers to judge beside, as
            `meta_test.optimizers.baseline` takes them.
    """

    name: str
    version: int
    about: str
    cells: tuple[Cell, ...]
    num_records: int = 100
    eval_batches: int = 16
    baselines: tuple[str, ...] = ("adam",)

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        if len(set(names)) != len(names):
            raise ValueError(f"cells of {self.name!r} must differ in name, got {names}")
        for cell in self.cells:
            if cell.horizon < 1 or cell.horizon % self.num_records:
                raise ValueError(
                    f"the horizon of {cell.name!r} must be a positive multiple of the "
                    f"{self.num_records} records of a curve, got {cell.horizon}"
                )

    def sizes(self, cell: Cell) -> dict[str, int]:
        """How a training on a cell is recorded, as `meta_test.inner_loop.run` takes it.

        Numbers of records, of steps to each, and of batches in an evaluation.
        """
        return {
            "num_records": self.num_records,
            "record_every": cell.horizon // self.num_records,
            "eval_batches": self.eval_batches,
        }

    def restricted_to(self, *texts: str) -> "Suite":
        """The same, of those cells alone whose name contains one of the texts.

        Raises:
            ValueError: a text is in no name.
        """
        names = [cell.name for cell in self.cells]
        for text in texts:
            if not any(text in name for name in names):
                raise ValueError(
                    f"cells of {self.name} must be among {'; '.join(names)}, "
                    f"got {text!r}{nearest(text, names)}"
                )
        kept = (c for c in self.cells if any(text in c.name for text in texts))
        return dataclasses.replace(self, cells=tuple(kept))

    def with_gradients(self, *sources: str) -> "Suite":
        """The same, all of whose cells are fed by a source of gradients.

        Args:
            *sources: `NAME` or `NAME:setting=value,...`, as `l2o.gradients.parse`
                reads. With several, there is every cell with each.

        Raises:
            ValueError: there is no such source, or a cell cannot have it.
        """
        chosen = list(dict.fromkeys(str(parse(source)) for source in sources))
        cells = []
        for cell in self.cells:
            for source in chosen:
                try:
                    fed = cell.with_gradients(source)
                except ValueError as error:
                    raise ValueError(f"cell {cell.name!r}: {error}") from error
                name = f"{cell.name}, {source}" if len(chosen) > 1 else cell.name
                cells.append(dataclasses.replace(fed, name=name))
        return dataclasses.replace(
            self, name=f"{self.name}, {', '.join(chosen)}", cells=tuple(cells)
        )

    @property
    def hash(self) -> str:
        """Of all that defines the suite; what is published has a frozen one."""
        return config_hash(
            {
                "version": self.version,
                "num_records": self.num_records,
                "eval_batches": self.eval_batches,
                "cells": {cell.name: cell.plain() for cell in self.cells},
            }
        )


def _described(family: TaskFamily) -> dict[str, Any]:
    """A family's class, its configuration and the names of its data."""
    found: dict[str, Any] = {"class": type(family).__name__}
    for field in dataclasses.fields(family):  # type: ignore[arg-type]
        value = getattr(family, field.name)
        if isinstance(value, TaskFamily):
            found[field.name] = _described(value)
        elif isinstance(value, Labelled | Text):
            found[field.name] = list(value.names)
        elif field.metadata.get("static"):
            found[field.name] = repr(value)
        else:
            # No published suite has such: they are a caller's own.
            found[field.name] = treelib.sha256(treelib.to_host(value))
    return found


def _data_sha256(family: TaskFamily) -> list[str]:
    """A hash of each data set of a family: of its arrays, and of how they are divided.

    Other arrays of a family are in `_described`.
    """
    is_data = lambda node: isinstance(node, Labelled | Text)
    found = filter(is_data, jax.tree.leaves(family, is_leaf=is_data))
    return [
        config_hash(
            {
                # Names, and the places where one data set ends and the next begins.
                "structure": str(jax.tree.structure(data)),
                "arrays": treelib.sha256(treelib.to_host(data)),
            }
        )
        for data in found
    ]


def _replaced(spec: Any, path: list[str], value: float) -> Any:
    """A specification with the field at `path` set."""
    name, *rest = path
    if name not in getattr(spec, "_fields", ()):
        raise ValueError(
            f"a field of {type(spec).__name__} must be one of "
            f"{', '.join(getattr(spec, '_fields', ()))}, got {name!r}"
        )
    old = getattr(spec, name)
    new = _replaced(old, rest, value) if rest else jnp.full_like(old, value)
    return spec._replace(**{name: new})
