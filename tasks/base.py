"""The contract of tasks: what a problem is, and what a distribution of them is."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax


Split = Literal["train", "inner_valid", "outer_valid", "test"]
"""Disjoint parts of a task's data.

`train` is what the inner loop learns from; `inner_valid` tunes hand-designed
optimizers; `outer_valid` is for meta-losses and choosing theta; `test` only judges.
"""

SPLITS: tuple[Split, ...] = get_args(Split)

Params = Any
Batch = Any
Spec = Any


@dataclasses.dataclass(frozen=True)
class Task:
    """One problem, as pure functions of arrays and a key.

    Attributes:
        init: `(key) -> params`, the initial parameters.
        batch: `(key, split) -> batch`, gathered on the device; the same key gives the
            same batch. `split` is static.
        loss: `(params, key, batch) -> (loss, aux)`: a float32 scalar and a dict of
            scalars for people to read, with `"accuracy"` in it where the task has one.
        normalise: `(loss) -> loss` on a scale shared by all tasks: about 1 at
            initialisation, 0 at the best. Finite losses are bounded above, so that one
            bad problem cannot drown the others; a non-finite loss stays non-finite.
    """

    init: Callable[[jax.Array], Params]
    batch: Callable[[jax.Array, Split], Batch]
    loss: Callable[[Params, jax.Array, Batch], tuple[jax.Array, dict[str, jax.Array]]]
    normalise: Callable[[jax.Array], jax.Array]


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
