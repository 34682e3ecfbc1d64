"""The program of a dispatch, and waiting for what all processes compile."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from l2o.processes import Peers
from meta_test.compilation import compiler_options
from meta_train.outer import OuterState, OuterTrainer
from meta_train.threads import in_thread


def compile_dispatch(
    trainer: OuterTrainer, shapes: OuterState, sharding: OuterState, mesh: Mesh
) -> Future[Any]:
    """Begins to compile `OuterTrainer.dispatch`, in a thread that nothing waits for.

    Args:
        trainer: whose dispatch.
        shapes: of the state, which a call donates.
        sharding: where its parts live.
        mesh: of all devices, each of which has all of the metrics.
    """
    given = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        sharding,
    )
    dispatch = jax.jit(
        lambda trainer, state: trainer.dispatch(state),
        donate_argnums=1,
        out_shardings=(sharding, NamedSharding(mesh, P())),
    )
    compile = lambda: dispatch.lower(trainer, given).compile(compiler_options())
    return in_thread(compile)


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
