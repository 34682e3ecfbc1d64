"""The time from the start of a run's processes to its first outer step.

`python -m meta_train.bench.restart BEGAN FOLDER train ...` is one of the processes.
"""

import importlib
import json
import runpy
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from meta_train.bench.children import environment
from meta_train.compiling import Dispatch
from meta_train.launch import Group
from meta_train.outer import OuterState, OuterTrainer


CONFIG = """
name = "restart"

[optimizer]
arch = "small_fc"

[[task]]
family = "image_mlp"
data = "digits"
hidden = [32]

[[task]]
family = "quadratic"

[[task]]
family = "softmax_regression"
data = "digits"

[schedule]
kind = "constant"
horizon = 300

[estimator]
pairs = 8
block = 2
window = 20

[outer]
steps_per_dispatch = 10
"""
"""Three families."""

REPEATS = 3
"""Warm starts, of which the median counts."""

LIMIT = 600.0
"""Seconds after which a start has failed."""

_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "load",
}
_OF_A_DISPATCH = ("traced", "dispatch")  # functions of `meta_train.compiling`


def restarts(processes: int, devices: int) -> dict[str, float]:
    """Starts a run of three families, and continues it.

    Args:
        processes: of the run.
        devices: of each.

    Returns:
        `cold_start_seconds`, without anything that is kept from before, and
        `warm_start_seconds`, the median of `REPEATS`. Of the latter, in the slowest
        process: seconds until all was imported, and of the dispatch those to `trace`,
        `lower` and `load` it.

    Raises:
        RuntimeError: a run ended before its first step, or did not come to it in
            `LIMIT` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="l2o-restart-") as folder:
        work = Path(folder)
        (work / "restart.toml").write_text(CONFIG)
        lives = [
            _life(work, number, processes, devices) for number in range(1 + REPEATS)
        ]
    cold, *warm = lives
    seconds = statistics.median(life["first_step"] for life in warm)
    median = next(life for life in warm if life["first_step"] == seconds)
    return {
        "cold_start_seconds": cold["first_step"],
        "warm_start_seconds": median.pop("first_step"),
        **median,
    }


def _life(work: Path, number: int, processes: int, devices: int) -> dict[str, float]:
    """Seconds of the slowest process of a life, which ends at the first step."""
    found = work / str(number)
    found.mkdir()
    log = found / "log"
    command = ["train", str(work / "restart.toml"), "--out", str(work / "run")]
    with log.open("ab") as said:
        program = ["-m", __spec__.name, repr(time.time()), str(found)]
        group = Group(
            [sys.executable, *program, *command, "--resume"],
            processes,
            environment=environment(devices, work / "programs"),
            stdout=said,
            stderr=said,
        )
        limit = time.monotonic() + LIMIT
        results: list[Path] = []
        try:
            while len(results) < processes:
                if any(s is not None for s in group.statuses):
                    raise RuntimeError(
                        "a run must come to its first step, got statuses "
                        f"{group.statuses}: {log.read_text()[-500:]}"
                    )
                if time.monotonic() > limit:
                    raise RuntimeError(
                        f"a run must come to its first step in {LIMIT:g} s, "
                        f"got {len(results)} of {processes} processes"
                    )
                time.sleep(0.01)
                results = list(found.glob("*.json"))
        finally:
            group.end(0.0)
    read = (json.loads(path.read_text()) for path in results)
    return max(read, key=lambda seconds: seconds["first_step"])


def main() -> None:
    """Runs `l2o`, tells of the first dispatch, and waits to be killed."""
    began, found = float(sys.argv.pop(1)), Path(sys.argv.pop(1))
    # It is above a bench: it is started as from a shell.
    importlib.import_module("meta_train.commands.training")
    seconds = {"imports": time.time() - began, "trace": 0.0, "lower": 0.0, "load": 0.0}

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        name = str(kwargs.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
        if event in _EVENTS and name in _OF_A_DISPATCH:
            seconds[_EVENTS[event]] += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    call = Dispatch.__call__

    def first(self: Dispatch, trainer: OuterTrainer, state: OuterState) -> Any:
        jax.block_until_ready(call(self, trainer, state))
        seconds["first_step"] = time.time() - began
        temporary = found / f"{jax.process_index()}.part"
        temporary.write_text(json.dumps(seconds))
        temporary.replace(temporary.with_suffix(".json"))
        time.sleep(LIMIT)

    Dispatch.__call__ = first
    runpy.run_module("meta_train", run_name="__main__")


if __name__ == "__main__":
    main()
