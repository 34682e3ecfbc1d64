"""`l2o`, misbehaving: `python -m meta_train.bench.faults.faulty FAULT=VALUE train ...`.

FAULT is a name of `FAULTS`; it may be empty for the families and suites alone that are
added here.
"""

import dataclasses
import importlib
import itertools
import os
import runpy
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from meta_test.families import FAMILIES
from meta_test.suites import SUITES, Cell, Suite
from tasks.base import Batch, Params, Task, static
from tasks.quadratic import Quadratic, QuadraticSpec


@partial(
    jax.tree_util.register_dataclass,
    # No part of the program: one is compiled for all shares.
    data_fields=["share"],
    meta_fields=[field.name for field in dataclasses.fields(Quadratic)],
)
@dataclasses.dataclass(frozen=True)
class Broken(Quadratic):
    """Quadratic bowls of which some have no finite loss.

    Attributes:
        share: of the bowls that are so, by the first number of their minimiser, which
            is normal.
    """

    share: float = static(1.0)

    def task(self, spec: QuadraticSpec) -> Task:
        bowl = super().task(spec)
        is_broken = jax.scipy.stats.norm.cdf(spec.minimiser[0]) < self.share

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            value, aux = bowl.loss(params, key, batch)
            return jnp.where(is_broken, jnp.nan, value), aux

        return dataclasses.replace(bowl, loss=loss)


SUITE = Suite(
    "faults",
    1,
    "a bowl, for a moment",
    (
        Cell(
            "bowl",
            "nothing",
            {"family": "quadratic", "dim": 4},
            horizon=2000,
            seeds=(0,),
            sampled=True,
        ),
    ),
    num_records=5,
    eval_batches=1,
    baselines=("sgd",),
)


def failing(process: float) -> None:
    """In that one of several processes, the sixth call of a compiled program fails."""
    if sys.argv[sys.argv.index("--process-id") + 1] == f"{process:g}":
        call, calls = jax.stages.Compiled.__call__, itertools.count()

        def failed(self: jax.stages.Compiled, *args: Any, **kwargs: Any) -> Any:
            if next(calls) == 5:
                raise MemoryError("a fault of this process")
            return call(self, *args, **kwargs)

        jax.stages.Compiled.__call__ = failed


def slow_disk(seconds: float) -> None:
    """To bring a file to disk takes so long."""
    fsync = os.fsync

    def slow(file: int) -> None:
        time.sleep(seconds)
        fsync(file)

    os.fsync = slow


FAULTS = {"failing": failing, "slow_disk": slow_disk}


def main() -> None:
    """Runs `l2o` with the family `broken`, the suite `faults`, and a fault."""
    fault, _, value = sys.argv.pop(1).partition("=")
    FAMILIES["broken"] = Broken
    SUITES[SUITE.name] = SUITE
    if fault:
        FAULTS[fault](float(value))
    runpy.run_module("meta_train", run_name="__main__")


if __name__ == "__main__":
    # As a module: programs of what is defined in `__main__` are not kept.
    importlib.import_module("meta_train.bench.faults.faulty").main()
