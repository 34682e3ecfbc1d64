"""One run as several processes: how they find each other, and end together.

A process that ends with an error leaves a note, which ends the others: nobody waits for
one that is gone. What leaves no note is found out by the next collective, or else by
its heartbeats, which JAX answers with an end of the process.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import jax

from l2o.processes import ALONE, Peers, PeersError, joined as joined_peers
from meta_train import status


HEARTBEAT_SECONDS = 30
"""Without a sign of a process for so long, it counts as dead."""

JOIN_SECONDS = 300
"""How long processes wait for each other at the start."""

LATE_SECONDS = 10.0
"""When a process says that it is still waiting for them."""

END_SECONDS = 60.0
"""How long processes that are done wait for each other."""

GRACE_SECONDS = 3.0
"""How long a process that failed waits for others that fail alike."""

COLLECTIVE_SECONDS = 600
"""A collective on CPUs that takes longer is an error."""

COLLECTIVE_FLAG = "xla_cpu_collective_timeout_seconds"
"""XLA's name of that; it reads its flags once, as JAX starts."""


_SPOKEN = (ValueError, OSError, ArithmeticError, PeersError)
"""Errors whose text says all that there is to say."""


@dataclass(frozen=True)
class Cluster:
    """Where a process is among those of its run.

    Attributes:
        coordinator: `HOST:PORT` at which process 0 listens, at no other address.
        index: of this process.
        count: of processes.
        devices: the local devices that this process is to use; None for all.
    """

    coordinator: str
    index: int
    count: int
    devices: tuple[int, ...] | None = None


def given(coordinator: str, index: int | None, count: int | None) -> Cluster | None:
    """The cluster that flags tell of; None where none was given.

    Raises:
        ValueError: they are not all there, or wrong.
    """
    flags = {
        "--coordinator": coordinator or None,
        "--process-id": index,
        "--num-processes": count,
    }
    passed = [name for name, value in flags.items() if value is not None]
    if not passed:
        return None
    if index is None or count is None or not coordinator:
        raise ValueError(
            f"{', '.join(flags)} must be given together, got only {', '.join(passed)}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    if count < 1:
        raise ValueError(f"--num-processes must be at least 1, got {count}")
    if not 0 <= index < count:
        raise ValueError(
            f"--process-id must be from 0 to {count - 1}, one less than "
            f"--num-processes, got {index}"
        )
    return Cluster(coordinator, index, count)


def detected() -> Cluster | None:
    """The cluster that JAX detects: of TPU VMs, SLURM, Open MPI, jobs of Kubernetes."""
    from jax._src.clusters import ClusterEnv

    # Elsewhere in Kubernetes than in an indexed job, JAX would ask its API in vain.
    skipped = set() if "JOB_COMPLETION_INDEX" in os.environ else {"K8sCluster"}
    for kind in ClusterEnv._cluster_types:
        if kind.opt_in_only_method or kind.__name__ in skipped:
            continue
        if not kind.is_env_present():
            continue
        found = ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get("JAX_COORDINATOR_ADDRESS"),
            None,
            None,
            None,
            kind.name or None,
            JOIN_SECONDS,
        )
        coordinator, count, index, devices = found
        if coordinator is None or count is None or index is None or count == 1:
            return None
        return Cluster(
            coordinator, index, count, None if devices is None else tuple(devices)
        )
    return None


@contextmanager
def joined(
    cluster: Cluster | None, is_stopped: Callable[[], bool] = lambda: False
) -> Iterator[Peers]:
    """Joins the processes of a cluster; None is a process alone, and costs nothing.

    An error inside ends this process, and with it the others: it does not come out of
    the block. JAX must not be in use before.

    Args:
        cluster: who joins.
        is_stopped: whether a signal has come. One that waits for others is then ended
            after `GRACE_SECONDS`: there is nothing to save.
    """
    if cluster is None:
        yield ALONE
        return
    peers = ALONE
    _keep_stdout()
    try:
        _initialize(cluster, is_stopped)
        peers = joined_peers()
        over = threading.Event()
        if peers.is_first:
            threading.Thread(target=_watch, args=(peers, over), daemon=True).start()
        yield peers
        peers.barrier("end", END_SECONDS)
        over.set()
        jax.distributed.shutdown()
    except BaseException as error:
        _fail(peers, error)


def _keep_stdout() -> None:
    """Leaves stdout to Python: what libraries print there themselves goes to stderr.

    JAX's collectives on CPUs tell of their connections, between the lines of a program
    that is read by another one. It stays so until the process ends.
    """
    if sys.stdout is not sys.__stdout__:
        return  # Somebody else has.
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, buffering=1)


def _initialize(cluster: Cluster, is_stopped: Callable[[], bool]) -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if COLLECTIVE_FLAG not in flags:
        own = f"--{COLLECTIVE_FLAG}={COLLECTIVE_SECONDS}"
        os.environ["XLA_FLAGS"] = f"{flags} {own}".strip()
    done = threading.Event()
    waiter = threading.Thread(
        target=_wait_for_others, args=(cluster, is_stopped, done), daemon=True
    )
    waiter.start()
    # It would swallow SIGTERM; see `meta_train.signals`.
    jax.config.update("jax_enable_preemption_service", False)
    bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", cluster.coordinator)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.count,
            cluster.index,
            local_device_ids=cluster.devices,
            cluster_detection_method="deactivate",
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
            # By default it would listen at all addresses of the machine.
            coordinator_bind_address=bound,
        )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise PeersError(
            f"{cluster.count} processes must join at {cluster.coordinator} within "
            f"{JOIN_SECONDS} s, process {cluster.index} got {reason}"
        ) from error
    finally:
        done.set()


def _wait_for_others(
    cluster: Cluster, is_stopped: Callable[[], bool], done: threading.Event
) -> None:
    """Says that others are late, and ends this process at a signal."""
    began = time.monotonic()
    said = False
    while not done.wait(0.25):
        if is_stopped() and not done.wait(GRACE_SECONDS):
            end(status.STOPPED)
        if not said and time.monotonic() - began > LATE_SECONDS:
            said = True
            print(
                f"process {cluster.index} waits for the {cluster.count} processes to "
                f"join at {cluster.coordinator}",
                file=sys.stderr,
                flush=True,
            )


def _watch(peers: Peers, over: threading.Event) -> None:
    """Ends process 0, and with it all, when another one has failed."""
    while not over.wait(0.25):
        if (said := peers.posted("failed")) is None:
            continue
        # It may fail in the same way, and then has more to say than that.
        if not over.wait(2 * GRACE_SECONDS):
            _end(f"l2o: error: {said}")


def _fail(peers: Peers, error: BaseException) -> None:
    """Ends this process after an error; never returns."""
    text = " ".join(str(error).split()) or type(error).__name__
    own = f"process {peers.index} failed: {type(error).__name__}: {text}"
    peers.post("failed", own)
    first = peers.posted("failed")
    try:
        peers.barrier("failed", GRACE_SECONDS)
        # Or who is slower would be ended by the end of process 0.
        jax.distributed.shutdown()
        alike = True
    except Exception:
        alike = False
    if alike and isinstance(error, _SPOKEN):
        # All have the same to say.
        _end(f"l2o: error: {text}" if peers.is_first else "")
    if first in (None, own):
        traceback.print_exception(error)
        first = own
    _end(f"l2o: error: {first}")


def end(number: int) -> None:
    """Ends this process with a status, without waiting for threads or processes."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(number)


def _end(text: str) -> None:
    if text:
        with suppress(OSError):
            print(text, file=sys.stderr)
    end(status.FAILED)
