"""A problem small enough to work out by hand."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from meta_test.optimizers import Contender
from meta_test.suites import Cell, Suite
from tasks.base import Batch, Params, Split, Task, TaskFamily


class LineSpec(NamedTuple):
    minimiser: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Line(TaskFamily):
    """Minimise curvature / 2 * (x - minimiser)^2; a batch is noise in the slope."""

    curvature: jax.Array
    noise: float = dataclasses.field(default=0.0, metadata={"static": True})

    def sample(self, key: jax.Array) -> LineSpec:
        return LineSpec(jax.random.normal(key))

    def nominal(self) -> LineSpec:
        return LineSpec(jnp.float32(3.0))

    def task(self, spec: LineSpec) -> Task:
        def init(key: jax.Array) -> Params:
            return {"x": jax.random.normal(key)}

        def batch(key: jax.Array, split: Split) -> Batch:
            del split
            return self.noise * jax.random.normal(key)

        def loss(params: Params, key: jax.Array, batch: Batch):
            del key
            away = params["x"] - spec.minimiser
            return 0.5 * self.curvature * away**2 + batch * away, {}

        return Task(init=init, batch=batch, loss=loss, normalise=lambda loss: loss)


def line(curvature: float = 1.0, noise: float = 0.0) -> Line:
    return Line(jnp.float32(curvature), noise)


@dataclasses.dataclass(frozen=True)
class Constant:
    """An optimizer with a learning rate that stays."""

    optimizer: Callable[[jax.Array], optax.GradientTransformation] = optax.sgd

    def __call__(
        self, learning_rate: jax.Array, num_steps: jax.Array
    ) -> optax.GradientTransformation:
        del num_steps
        return self.optimizer(learning_rate)


def sgd(name: str, *rates: float, learned: bool = False) -> Contender:
    return Contender(
        name=name,
        make=Constant(),
        candidates=jnp.asarray(rates, jnp.float32),
        labels=tuple(f"{rate:g}" for rate in rates),
        learned=learned,
    )


def line_suite(*, horizon: int = 20, **fields: float) -> Suite:
    cell = Cell(
        name="line",
        probes="one dimension",
        task=line(**fields),
        horizon=horizon,
    )
    return Suite(
        name="line", version=1, about="", cells=(cell,), num_records=10, eval_batches=2
    )
