"""Frozen, versioned lists of what optimizers are judged on.

A published suite never changes: a change of cells, horizons, seeds or evaluation is a
new version. Importing this module reads no data.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from meta_test.inner_loop import derive_keys
from meta_test.optimizers import BASELINES
from tasks.base import Spec, TaskFamily
from tasks.data import digits
from tasks.image_mlp import ImageMLP
from tasks.quadratic import Quadratic


SEEDS = (0, 1, 2, 3, 4)


def nominal(family: TaskFamily, key: jax.Array) -> Spec:
    """The plain task of the family, the same at every seed."""
    del key  # Seeds differ in initialisation and batches.
    return family.nominal()


def sampled(family: TaskFamily, key: jax.Array) -> Spec:
    """Another task at every seed."""
    return family.sample(key)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One condition: a task, trained for so long from several seeds.

    Attributes:
        name: unique in a suite.
        probes: what an optimizer shows here, for people.
        family: gives the task family; called only when the cell is evaluated.
        horizon: steps of training.
        seeds: each is an initialisation and a stream of batches.
        spec: `(family, key) -> spec`, the task of a seed.
    """

    name: str
    probes: str
    family: Callable[[], TaskFamily]
    horizon: int
    seeds: tuple[int, ...] = SEEDS
    spec: Callable[[TaskFamily, jax.Array], Spec] = nominal

    def specs(self, family: TaskFamily) -> Spec:
        """The tasks of all seeds, stacked on a leading axis."""

        def one(seed: jax.Array) -> Spec:
            return self.spec(family, derive_keys(seed).task)

        return jax.vmap(one)(jnp.asarray(self.seeds))


@dataclasses.dataclass(frozen=True)
class Suite:
    """Cells that are judged together.

    Attributes:
        name: what it is called.
        version: raised by any change.
        cells: the conditions.
        num_records: points on every curve; divides every horizon.
        eval_batches: batches per split in every evaluation of parameters.
        baselines: hand-designed optimizers to judge beside; all by default.
    """

    name: str
    version: int
    cells: tuple[Cell, ...]
    num_records: int = 100
    eval_batches: int = 16
    baselines: tuple[str, ...] = tuple(BASELINES)

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


def _digits_mlp(*hidden: int, **fields: Any) -> Callable[[], TaskFamily]:
    return lambda: ImageMLP(digits.load(), hidden=hidden, **fields)


def _changed(**fields: float) -> Callable[[TaskFamily, jax.Array], Spec]:
    """The plain task with some fields of its specification replaced.

    They are traced values of the same shape, so that nothing compiles anew.
    """

    def spec(family: TaskFamily, key: jax.Array) -> Spec:
        values = {name: jnp.float32(value) for name, value in fields.items()}
        return nominal(family, key)._replace(**values)

    return spec


_PLAIN = Cell(
    name="mlp 64-32-10, 1,000 steps",
    probes="seeds that meta-training never drew",
    family=_digits_mlp(32),
    horizon=1_000,
)
_LONG = Cell(
    name="mlp 64-32-10, 5,000 steps",
    probes="five times the longest horizon of the config small",
    family=_digits_mlp(32),
    horizon=5_000,
)

QUICK = Suite(
    name="quick",
    version=1,
    cells=(_PLAIN, _LONG),
    # The strongest on the first cell of each kind: the main job has minutes.
    baselines=("momentum", "adam", "lion"),
)
"""What a meta-training ends with: familiar ground, and far past its horizon."""

DIGITS = Suite(
    name="digits",
    version=1,
    cells=(
        Cell(
            name="mlp 64-32-10, 200 steps",
            probes="a short horizon",
            family=_digits_mlp(32),
            horizon=200,
        ),
        _PLAIN,
        _LONG,
        Cell(
            name="width 8",
            probes="a network narrower than any in meta-training",
            family=_digits_mlp(8),
            horizon=1_000,
        ),
        Cell(
            name="width 128",
            probes="a wider network",
            family=_digits_mlp(128),
            horizon=1_000,
        ),
        Cell(
            name="3 hidden layers",
            probes="a deeper network",
            family=_digits_mlp(32, 32, 32),
            horizon=1_000,
        ),
        Cell(
            name="5 hidden layers",
            probes="a much deeper network",
            family=_digits_mlp(32, 32, 32, 32, 32),
            horizon=1_000,
        ),
        Cell(
            name="no hidden layer",
            probes="a convex problem on the same data",
            family=_digits_mlp(),
            horizon=1_000,
        ),
        Cell(
            name="tanh",
            probes="another activation",
            family=_digits_mlp(32, activation="tanh"),
            horizon=1_000,
        ),
        Cell(
            name="initial weights x 3",
            probes="a poor initialisation",
            family=_digits_mlp(32),
            horizon=1_000,
            spec=_changed(init_scale=3.0),
        ),
        Cell(
            name="reparametrised by 0.1",
            probes="weights 10 times larger, gradients 10 times smaller",
            family=_digits_mlp(32),
            horizon=1_000,
            spec=_changed(reparam=0.1),
        ),
        Cell(
            name="reparametrised by 10",
            probes="weights 10 times smaller, gradients 10 times larger",
            family=_digits_mlp(32),
            horizon=1_000,
            spec=_changed(reparam=10.0),
        ),
        Cell(
            name="quadratic, 8 dimensions",
            probes="few parameters, a short horizon",
            family=functools.partial(Quadratic, dim=8, spectrum=(1e-3, 1.0)),
            horizon=200,
            spec=sampled,
        ),
        Cell(
            name="quadratic, 128 dimensions",
            probes="ill-conditioned: curvatures from 0.0001 to 10",
            family=functools.partial(Quadratic, dim=128, spectrum=(1e-4, 10.0)),
            horizon=1_000,
            spec=sampled,
        ),
    ),
)
"""The first full small suite: what an optimizer met, changed one thing at a time."""

SUITES = {suite.name: suite for suite in (QUICK, DIGITS)}
