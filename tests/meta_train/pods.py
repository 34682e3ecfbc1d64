"""Runs of several processes on this machine."""

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.meta_train import runs


class Ended(NamedTuple):
    """How a process ended."""

    status: int
    log: str
    output: str
    seconds: float  # after the first of them


class Pod:
    """Processes of `l2o train`, which are no more when the block is left."""

    def __init__(
        self,
        logs: Path,
        *arguments: Any,
        processes: int = 2,
        devices: int = 1,
        codes: Mapping[int, str] | None = None,
    ) -> None:
        """Starts them.

        Args:
            logs: an existing directory for what they say.
            arguments: of `l2o train`.
            processes: how many; one is told nothing of others.
            devices: of each.
            codes: programs that processes run first, by their numbers.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = runs.environment() | {"JAX_NUM_CPU_DEVICES": str(devices)}
        self.logs = [logs / f"log_{os.urandom(4).hex()}" for _ in range(processes)]
        self.processes = []
        for index, log in enumerate(self.logs):
            place = ("--coordinator", address, "--process-id", index)
            place = (*place, "--num-processes", processes) if processes > 1 else ()
            code = f"import sys\n{(codes or {}).get(index, '')}"
            command = runs.command("train", *arguments, *place, code=code)
            with log.open("w") as file, log.with_suffix(".out").open("w") as out:
                self.processes.append(
                    subprocess.Popen(command, env=environment, stdout=out, stderr=file)
                )

    def __enter__(self) -> "Pod":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def log(self, index: int) -> str:
        """What a process has told people so far."""
        return self.logs[index].read_text()

    def output(self, index: int) -> str:
        """What it has told programs."""
        return self.logs[index].with_suffix(".out").read_text()

    def until(self, done: Path, seconds: float = 90.0) -> None:
        """Waits for a file, while all live."""
        end = time.monotonic() + seconds
        while not done.exists():
            alive = all(process.poll() is None for process in self.processes)
            assert alive, self.log(0)
            assert time.monotonic() < end, self.log(0)
            time.sleep(0.01)

    def ends(self, seconds: float = 90.0) -> list[Ended]:
        """Waits for the end of all."""
        end = time.monotonic() + seconds
        times = {}
        while len(times) < len(self.processes):
            for index, process in enumerate(self.processes):
                if index not in times and process.poll() is not None:
                    times[index] = time.monotonic()
            assert time.monotonic() < end, "".join(map(self.log, range(len(times))))
            time.sleep(0.01)
        first = min(times.values())
        return [
            Ended(
                process.returncode,
                self.log(index),
                self.output(index),
                times[index] - first,
            )
            for index, process in enumerate(self.processes)
        ]


def train(logs: Path, *arguments: Any, **how: Any) -> list[Ended]:
    """Runs `l2o train` to its end."""
    with Pod(logs, *arguments, **how) as pod:
        return pod.ends()
