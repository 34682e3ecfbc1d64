"""Rates on more and more devices and processes, restarts, and a model of large pods.

`python -m meta_train.bench.scaling` is a process of a measurement.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from l2o.learned import SmallFC
from l2o.learned.base import LearnedOptimizer
from l2o.processes import ALONE, Peers
from meta_train.bench.children import environment
from meta_train.bench.meta_training import OuterStep
from meta_train.bench.restart import restarts
from meta_train.bench.timing import median_seconds
from meta_train.build import block_mesh
from meta_train.config import CheckpointConfig, EstimatorConfig
from meta_train.directory import RunDirectory
from meta_train.distributed import given, joined
from meta_train.estimators.totals import (
    AXIS,
    GATHERED_BYTES,
    gathered_bytes,
    total_over_blocks,
)
from meta_train.estimators.words import from_words, to_words
from meta_train.launch import Group
from meta_train.perturb import shapes_by_path
from meta_train.saver import Saver
from tasks import FAMILIES


LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (4, 1))
"""Processes, and devices of each, that are measured."""

PAIRS = 4
"""Antithetic pairs, one block of them, on every device."""

RESTARTS = ((1, 2), (2, 1))
"""Processes, and devices of each, of which starts are measured."""

WINDOW = 50
"""Inner steps of an outer step."""

SIZE = 25_000
"""Numbers in what a block adds, where reductions are compared: 100 kB."""

RESULT = "result.json"
"""Where a process leaves what it measured."""


def scaling(
    say: Callable[[str], None],
    layouts: Sequence[tuple[int, int]] = LAYOUTS,
    starts: Sequence[tuple[int, int]] = RESTARTS,
    chips: Sequence[int] = (256, 4096),
) -> dict[str, Any]:
    """Measures on this machine, and computes what a pod would do.

    Devices of one machine share its cores: with the same work on each, the rate falls
    as soon as there are more of them than cores. What can be read from it is the share
    of collectives, and what the fixed order costs.

    Args:
        say: is told what is going on.
        layouts: processes, and devices of each.
        starts: those of which starts are measured.
        chips: of the pods.

    Returns:
        `rows`, of each layout: what `measure` returns. `starts`: what `restarts` does.
        `pods`: what `model` does.
    """
    rows = []
    for processes, devices in layouts:
        say(f"{processes} processes of {devices} devices")
        rows.append(
            {"processes": processes, "devices": devices}
            | _in_processes(processes, devices)
        )
    started = []
    for processes, devices in starts:
        say(f"starts of {processes} processes of {devices} devices")
        started.append(
            {"processes": processes, "devices": devices} | restarts(processes, devices)
        )
    return {
        "rows": rows,
        "starts": started,
        "assumptions": asdict(Pod()),
        "pods": [model(count) for count in chips],
    }


def measure(
    lopt: LearnedOptimizer,
    work: Path,
    peers: Peers = ALONE,
    *,
    window: int = WINDOW,
    size: int = SIZE,
) -> dict[str, float]:
    """Times parts of a run on all devices of all processes, `PAIRS` pairs on each.

    Args:
        lopt: the architecture that is meta-trained, on quadratic bowls.
        work: a directory for checkpoints.
        peers: the processes.
        window: inner steps.
        size: of the vectors that are summed.

    Returns:
        `outer_steps_per_second`; `collective_share` of an outer step: its sum over all
        blocks in a fixed order; `times_plain_sum`: what that costs in units of a sum in
        whatever order, at `size`; `checkpoint_share`: of the default time between
        checkpoints, what outer steps wait for one; `state_bytes` of all particles.
    """
    count = jax.device_count()
    outer = OuterStep(lopt, PAIRS * count, FAMILIES["quadratic"](), window)
    outer.start()
    mesh = block_mesh(EstimatorConfig(pairs=PAIRS * count, block=PAIRS))
    own = sum(tensor.size for tensor in shapes_by_path(lopt).values())
    sums = (
        _sum(mesh, own, total_over_blocks),
        _sum(mesh, size, _plain),
        _sum(mesh, size, total_over_blocks),
    )
    [step] = median_seconds([outer])
    # They take so little that other work on the machine shows.
    collective, plain, ordered = median_seconds(sums, warm_up=10, repeats=201)
    blocked = _blocked(outer, work, peers)
    return {
        "outer_steps_per_second": 1.0 / step,
        "collective_share": collective / step,
        "times_plain_sum": ordered / plain,
        "checkpoint_share": blocked / CheckpointConfig().seconds,
        "state_bytes": outer.state_bytes,
    }


def _plain(words: jax.Array, like: jax.ShapeDtypeStruct, mesh: Mesh) -> jax.Array:
    del mesh
    rows = jax.vmap(lambda row: from_words(row, like))(words)
    return jnp.sum(rows, axis=0)


def _sum(
    mesh: Mesh, size: int, total: Callable[[jax.Array, Any, Mesh], jax.Array]
) -> Callable[[], None]:
    """A call that sums what the blocks of a mesh add, for all of its devices."""
    everywhere = NamedSharding(mesh, P())
    blocks = NamedSharding(mesh, P(AXIS))
    like = jax.ShapeDtypeStruct((size,), jnp.float32)
    make = jax.jit(
        lambda: jax.vmap(to_words)(jnp.ones((mesh.size, size))), out_shardings=blocks
    )
    words = make()
    run = jax.jit(lambda words: total(words, like, mesh), out_shardings=everywhere)

    def call() -> None:
        jax.block_until_ready(run(words))

    return call


def _blocked(outer: OuterStep, work: Path, peers: Peers) -> float:
    """The median of the seconds that outer steps wait for a checkpoint."""
    seconds = []
    with Saver(RunDirectory(work), CheckpointConfig(), peers) as saver:
        for step in range(5):
            began = time.perf_counter()
            saver.save(outer.state, step, {})
            seconds.append(time.perf_counter() - began)
            outer()
            saver.wait()
    return statistics.median(seconds)


def _in_processes(processes: int, devices: int) -> dict[str, float]:
    """What `measure` returns in new processes, of which the first one writes it."""
    with tempfile.TemporaryDirectory(prefix="l2o-scaling-") as folder:
        log = Path(folder, "log")
        with log.open("ab") as said:
            group = Group(
                [sys.executable, "-m", "meta_train.bench.scaling", folder],
                processes,
                environment=environment(devices),
                stdout=said,
                stderr=said,
            )
            try:
                while group.is_running and not any(group.statuses):
                    time.sleep(0.05)
            finally:
                group.end(0.0)
        if any(group.statuses):
            raise RuntimeError(
                f"a measurement must end with status 0, got {group.statuses}: "
                f"{log.read_text()[-500:]}"
            )
        return json.loads(Path(folder, RESULT).read_text())


def main() -> None:
    """Measures as one of the processes that flags tell of."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--num-processes", type=int)
    flags = parser.parse_args()
    cluster = given(flags.coordinator, flags.process_id, flags.num_processes)
    with joined(cluster, lambda: False) as peers:
        result = measure(SmallFC(), flags.work, peers)
        if peers.is_first:
            (flags.work / RESULT).write_text(json.dumps(result))


@dataclass(frozen=True)
class Pod:
    """What is assumed of a run and of the chips that it is on.

    Attributes:
        meta_parameters: numbers in theta.
        pairs_per_chip: antithetic pairs, which are one block.
        particle_bytes: that a particle keeps between windows: two problems of a pair
            are two particles.
        window_seconds: an outer step without its collective.
        link_bytes: a second that a chip takes in from others.
        chips_per_host: that share a connection to the storage.
        copy_bytes: a second from a chip to its host.
        storage_bytes: a second that a host writes.
        chip_hours: between two failures of one chip and what is around it. 419
            interruptions in 54 days of 16,384 GPUs are one in 50,700 (Llama Team, The
            Llama 3 Herd of Models, 2024).
        restart_seconds: from a failure to the first step.
    """

    meta_parameters: int = 25_000
    pairs_per_chip: int = 128
    particle_bytes: int = 300_000
    window_seconds: float = 0.5
    link_bytes: float = 50e9
    chips_per_host: int = 4
    copy_bytes: float = 10e9
    storage_bytes: float = 0.5e9
    chip_hours: float = 50_700.0
    restart_seconds: float = 120.0


def model(chips: int, pod: Pod = Pod()) -> dict[str, float]:
    r"""What a run does on so many chips.

    With blocking cost C of a checkpoint and time M between failures, Young's interval
    is $\sqrt{2CM}$ and Daly's, which holds where C is not small beside M too,
    $\sqrt{2CM}\,(1 + \tfrac13\sqrt{C/2M} + \tfrac19 C/2M) - C$. At an interval t, the
    share $C/t + t/2M + R/M$ of the time is lost, R being a restart. A checkpoint is
    written beside the steps: no interval is shorter than that takes.

    Args:
        chips: of the pod.
        pod: assumptions.
    """
    rows = 4 * (pod.meta_parameters + 5)
    # By parts a chip gets a part of every other row, and then the other parts of the
    # total: with one block a chip, as many bytes as in a sum in whatever order.
    parts = 2 * rows * (chips - 1) / chips
    gathered = gathered_bytes(rows, chips, chips)
    received = gathered if gathered <= GATHERED_BYTES else parts
    collective, plain = received / pod.link_bytes, parts / pod.link_bytes
    own = 2 * pod.pairs_per_chip * pod.particle_bytes
    blocking = own / pod.copy_bytes
    writing = own * pod.chips_per_host / pod.storage_bytes
    between = 3600.0 * pod.chip_hours / chips
    young = math.sqrt(2.0 * blocking * between)
    ratio = blocking / (2.0 * between)
    daly = young * (1.0 + math.sqrt(ratio) / 3.0 + ratio / 9.0) - blocking
    interval = CheckpointConfig().seconds

    def lost(seconds: float) -> float:
        restarts = seconds / (2.0 * between) + pod.restart_seconds / between
        return blocking / seconds + restarts

    return {
        "chips": chips,
        "particles": 2 * pod.pairs_per_chip * chips,
        "collective_bytes": received,
        "collective_seconds": collective,
        "collective_share": collective / (pod.window_seconds + collective),
        "plain_sum_seconds": plain,
        "checkpoint_bytes": own * chips,
        "checkpoint_blocking_seconds": blocking,
        "checkpoint_writing_seconds": writing,
        "hours_between_failures": between / 3600.0,
        "interval_seconds_young": young,
        "interval_seconds_daly": daly,
        "share_lost_at_daly": lost(max(daly, writing)),
        "share_lost_by_default": lost(max(interval, writing)),
    }


def text(result: dict[str, Any]) -> str:
    """Tables for people."""
    rows = result["rows"]
    lines = [
        "processes x devices | outer steps/s | in collectives | times a plain sum "
        "| waiting for checkpoints"
    ]
    lines += [
        f"{row['processes']} x {row['devices']} | {row['outer_steps_per_second']:.1f} "
        f"| {100 * row['collective_share']:.1f} % | {row['times_plain_sum']:.2f} "
        f"| {100 * row['checkpoint_share']:.3f} %"
        for row in rows
    ]
    if result["starts"]:
        lines += [
            "",
            "processes x devices | s to a first step, cold | warm | imports | trace "
            "| lower | load",
        ]
        lines += [
            f"{row['processes']} x {row['devices']} | {row['cold_start_seconds']:.1f} "
            f"| {row['warm_start_seconds']:.2f} | {row['imports']:.2f} "
            f"| {row['trace']:.2f} | {row['lower']:.2f} | {row['load']:.2f}"
            for row in result["starts"]
        ]
    lines += ["", "assumed: " + _listed(result["assumptions"])]
    names = list(result["pods"][0])
    for name in names:
        values = " | ".join(f"{pod[name]:,.4g}" for pod in result["pods"])
        lines.append(f"{name.replace('_', ' ')} | {values}")
    return "\n".join(lines)


def _listed(fields: dict[str, Any]) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v:,g}" for k, v in fields.items())


if __name__ == "__main__":
    main()
