"""The contract of tasks: what a problem is, and what a distribution of them is."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax


T = TypeVar("T")

Split = Literal["train", "inner_valid", "outer_valid", "test"]
"""Disjoint parts of a task's data.

`train` is what the inner loop learns from; `inner_valid` tunes hand-designed
optimizers; `outer_valid` is for meta-losses and choosing theta; `test` only judges.
"""

SPLITS: tuple[Split, ...] = get_args(Split)


def number_of(split: Split) -> int:
    """The place of a split in `SPLITS`; raises ValueError for any other name."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return SPLITS.index(split)


Params = Any
Batch = Any
Spec = Any
Loss = Callable[[Params, jax.Array, Batch], tuple[jax.Array, dict[str, jax.Array]]]


class Gradients(NamedTuple):
    """Where the gradients of an inner loop come from, one after another.

    Attributes:
        init: `(params, key) -> memory`, what is carried from step to step; a pytree,
            `()` for a source without memory.
        step: `(memory, params, key, batch) -> (loss, grads, memory)`.
    """

    init: Callable[[Params, jax.Array], Any]
    step: Callable[[Any, Params, jax.Array, Batch], tuple[jax.Array, Params, Any]]


def backprop(loss: Loss) -> Gradients:
    """The gradient of the loss, by reverse-mode differentiation."""
    value_and_grad = jax.value_and_grad(loss, has_aux=True)

    def step(
        memory: Any, params: Params, key: jax.Array, batch: Batch
    ) -> tuple[jax.Array, Params, Any]:
        (value, _), grads = value_and_grad(params, key, batch)
        return value, grads, memory

    return Gradients(init=lambda params, key: (), step=step)


@dataclasses.dataclass(frozen=True)
class Task:
    """One problem, as pure functions of arrays and a key.

    Attributes:
        init: `(key) -> params`, the initial parameters.
        batch: `(key, split) -> batch`, gathered on the device; the same key gives the
            same batch. `split` is static; batches of all splits have the same shapes.
        loss: `(params, key, batch) -> (loss, aux)`: a float32 scalar and a dict of
            scalars for people to read, with `"accuracy"` in it where the task has one.
        normalise: `(loss) -> loss` on a scale shared by all tasks: about 1 at
            initialisation, 0 at the best. Finite losses are bounded above, so that one
            bad problem cannot drown the others; a non-finite loss stays non-finite.
        source: what an optimizer is fed instead of the gradient of `loss`, where a task
            has something else.
        examples: whether every leaf of a batch has an entry per example on its leading
            axis, of which the loss is a mean.
    """

    init: Callable[[jax.Array], Params]
    batch: Callable[[jax.Array, Split], Batch]
    loss: Loss
    normalise: Callable[[jax.Array], jax.Array]
    source: Gradients | None = None
    examples: bool = False

    @property
    def gradients(self) -> Gradients:
        """Where inner loops take their gradients from."""
        return self.source or backprop(self.loss)


class TaskFamily(abc.ABC):
    """A distribution of tasks whose parameters all have the same shapes.

    A family is a pytree: its leaves are its data, its sizes are static. Passed to a
    jitted function as an argument, its arrays are not baked into the program.
    """

    @abc.abstractmethod
    def sample(self, key: jax.Array) -> Spec:
        """Draws what varies from task to task: a pytree of arrays; vmap me."""

    @abc.abstractmethod
    def nominal(self) -> Spec:
        """The specification of the plain task, on which optimizers are judged."""

    @abc.abstractmethod
    def task(self, spec: Spec) -> Task:
        """The problem that `spec`, which may be traced, describes."""


def static(default: T) -> T:
    """A field of a family that is part of the program: a size, a range, a choice."""
    return dataclasses.field(default=default, metadata={"static": True})


def bounded(loss: jax.Array, start: jax.Array | float) -> jax.Array:
    """A loss in units of `start`, at most 2; what is not finite stays so.

    Twice the loss of knowing nothing is as bad as a diverged training may count.
    """
    return jax.numpy.where(
        jax.numpy.isfinite(loss), jax.numpy.minimum(loss / start, 2.0), loss
    )
