"""The program of a dispatch, and waiting for what all processes compile."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import jax.export
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from l2o.processes import Peers
from meta_test.compilation import compiler_options
from meta_train.identity import identity
from meta_train.outer import FamilyMetrics, OuterMetrics, OuterState, OuterTrainer
from meta_train.programs import has_lowered, lowered
from meta_train.threads import in_thread


@dataclass(frozen=True)
class Dispatch:
    """A compiled `OuterTrainer.dispatch`.

    Attributes:
        compiled: takes the leaves of a trainer and of a state, which it donates, and
            returns those of a state and of metrics.
    """

    compiled: jax.stages.Compiled

    def __call__(
        self, trainer: OuterTrainer, state: OuterState
    ) -> tuple[OuterState, OuterMetrics]:
        """The state after a dispatch, and metrics of its steps."""
        leaves, tree = jax.tree.flatten(state)
        state_leaves, metrics = self.compiled(jax.tree.leaves(trainer), leaves)
        of_families = len(FamilyMetrics._fields)
        families = FamilyMetrics(*metrics[-of_families:])
        return (
            jax.tree.unflatten(tree, state_leaves),
            OuterMetrics(*metrics[:-of_families], families=families),
        )


def compile_dispatch(
    trainer: OuterTrainer, shapes: OuterState, sharding: OuterState, mesh: Mesh
) -> Future[Dispatch]:
    """Begins to compile `OuterTrainer.dispatch`, in a thread that nothing waits for.

    A program that is kept from another run is not traced again. Results do not depend
    on it: one that is traced for the first time is compiled from what is kept, too.

    Args:
        trainer: whose dispatch.
        shapes: of the state, which a call donates.
        sharding: where its parts live.
        mesh: of all devices, each of which has all of the metrics.
    """
    return in_thread(lambda: _compiled(trainer, shapes, sharding, mesh))


def is_kept(
    trainer: OuterTrainer, shapes: OuterState, sharding: OuterState, mesh: Mesh
) -> bool:
    """Whether `compile_dispatch` of these has nothing to trace."""
    with suppress(Exception):  # As below: there is nothing to be kept.
        return has_lowered(_key(trainer, _given(shapes, sharding), mesh))
    return False


def _compiled(
    trainer: OuterTrainer, shapes: OuterState, sharding: OuterState, mesh: Mesh
) -> Dispatch:
    # Lists of arrays, since a program that is kept knows no classes.
    constants, trainer_tree = jax.tree.flatten(trainer)
    state_tree = jax.tree.structure(shapes)
    given = _given(shapes, sharding)

    def traced(constants: list[Any], state: list[Any]) -> tuple[list[Any], list[Any]]:
        trainer = jax.tree.unflatten(trainer_tree, constants)
        state, metrics = trainer.dispatch(jax.tree.unflatten(state_tree, state))
        return jax.tree.leaves(state), jax.tree.leaves(metrics)

    jitted = functools.partial(
        jax.jit,
        donate_argnums=1,
        out_shardings=(jax.tree.leaves(sharding), NamedSharding(mesh, P())),
    )
    arguments = (
        [
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for x in constants
        ],
        jax.tree.leaves(given),
    )
    called: Callable[..., Any] = traced
    # What cannot be kept is compiled as it is: families of a user's own, and whatever
    # has no export, like a program that calls Python.
    with suppress(Exception):
        key = _key(trainer, given, mesh)
        kept = lowered(key, lambda: jax.export.export(jitted(traced))(*arguments))
        called = kept.call

    def dispatch(constants: list[Any], state: list[Any]) -> tuple[list[Any], list[Any]]:
        return called(constants, state)

    return Dispatch(jitted(dispatch).lower(*arguments).compile(compiler_options()))


def _given(shapes: OuterState, sharding: OuterState) -> OuterState:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        sharding,
    )


def _key(trainer: OuterTrainer, given: OuterState, mesh: Mesh) -> str:
    return identity(trainer, given, mesh, arguments=jax.tree.leaves(trainer))


def until_done(
    future: Future[Any], peers: Peers, is_over: Callable[[], bool], note: str
) -> None:
    """Returns when it is done in this process, or process 0 finds that it is over.

    Args:
        future: what is waited for.
        peers: who is told that it is over, and then waits no longer.
        is_over: asked in process 0.
        note: a name for that, of its own.
    """
    while not future.done() and not peers.posted(note):
        wait([future], timeout=0.25)
        if peers.is_first and is_over():
            peers.post(note, "")
            return
