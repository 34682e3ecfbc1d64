"""A tiny meta-training run, ways to start it, and what must be the same of two runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from l2o.storage import read_manifest, snapshot
from meta_train import config as configs
from meta_train.build import build_trainer
from meta_train.config import CheckpointConfig, TrainConfig
from meta_train.directory import STATE, RunDirectory
from meta_train.progress import Quiet
from meta_train.run import RunResult, run
from meta_train.signals import StopSignal
from tests.helpers import ROOT


STEPS = 12
# Problems last three windows and a checkpoint comes after two: problems in flight, and
# the noise that they have gathered, must survive it.
TINY = f"""
name = "tiny"

[optimizer]
arch = "small_fc"
hidden_size = 2

[task]
family = "quadratic"
dim = 4

[schedule]
kind = "constant"
horizon = 15

[estimator]
pairs = 4
block = 2
window = 5

[outer]
steps = {STEPS}
steps_per_dispatch = 2
max_skipped = 4

[checkpoint]
seconds = 0
"""


class Lines(Quiet):
    """Keeps what a run says."""

    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


class At(Lines):
    """Calls a function when a run reports an outer step."""

    def __init__(self, step, call):
        super().__init__()
        self._step = step
        self._call = call

    def update(self, done, total, facts, table=None):
        del total, facts, table
        if done == self._step:
            self._call()


def settings(path: Path, *overrides: str) -> TrainConfig:
    """The config at `path`."""
    return configs.load(str(path), overrides)


def start(
    config: TrainConfig,
    directory: str | Path,
    *,
    resume: bool = False,
    progress: Any = None,
    deadline: float | None = None,
) -> RunResult:
    """Runs or resumes in this process."""
    files = RunDirectory(directory)
    with StopSignal() as stop, files.locked():
        return run(
            config,
            build_trainer(config),
            files,
            resume=resume,
            stop=stop,
            progress=progress or Quiet(),
            deadline=deadline,
        )


def save(
    run: RunDirectory, state: Any, step: int, facts: dict[str, Any], **fields: int
) -> None:
    """Writes a checkpoint of a state."""
    run.save(snapshot({STATE: state}), step, facts, CheckpointConfig(**fields))


def command(*arguments: Any, code: str = "") -> list[str]:
    """The command line of a new process; `code` runs before the command does."""
    program = ["-m", "meta_train"]
    if code:
        program = ["-c", f"{code}\nfrom meta_train.cli import main\nsys.exit(main())"]
    return [sys.executable, *program, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Of such a process."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": path}


def l2o(*arguments: Any, code: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a command in a new process."""
    return subprocess.run(
        command(*arguments, code=code),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def bits(directory: str | Path) -> dict[str, Any]:
    """What must not depend on how often a finished run was interrupted."""
    files = RunDirectory(directory)
    step = files.steps()[0]
    newest = read_manifest(files.path / "checkpoints" / f"step_{step:08d}")
    return {
        "step": step,
        "state": newest["trees"]["state"]["sha256"],
        "theta": read_manifest(files.optimizer)["theta_sha256"],
        "metrics": files.metrics.read_text(),
    }


def damage(checkpoint: Path) -> None:
    """Flips a bit in the middle of the largest file that holds arrays."""
    files = [path for path in checkpoint.rglob("d/*") if path.is_file()]
    file = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
