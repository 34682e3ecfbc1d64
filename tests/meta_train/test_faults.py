"""Faults of the machine: kills, signals and full disks, in processes of their own.

Each ends with the same assertion: the whole state, theta and the metrics are bit for
bit those of a run that nothing interrupted.
"""

import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meta_train.directory import RunDirectory
from tests.helpers import run_python
from tests.meta_train import runs
from tests.meta_train.runs import STEPS, l2o


# A run dies and is resumed until it ends. Each life is a fork of an interpreter that
# has imported everything and not yet started JAX. It kills itself at the n-th change to
# its files that Python makes, or its parent kills it once it has written n lines of
# metrics, wherever it is by then.
KILL = """
import json, os, signal, sys
from itertools import count
from pathlib import Path
import l2o.checkpoint, orbax.checkpoint, meta_train.commands.training
from meta_train.cli import main
from meta_train.metrics import JsonLines

config, out, kills = {arguments!r}
MUTATIONS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

def kill_at_change(n):
    changes = count(1)
    def hook(event, arguments):
        writes = event == "open" and str(arguments[1])[:1] in ("w", "a", "x")
        if (writes or event in MUTATIONS) and out in str(arguments[0]):
            if next(changes) == n:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def report_rows(pipe):
    append = JsonLines.append
    def appended(self, row):
        append(self, row)
        if "meta_loss" in row:
            os.write(pipe, b".")
    JsonLines.append = appended

def live(kind, n):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        if kind == "change":
            kill_at_change(n)
        if kind == "row":
            report_rows(writer)
        os._exit(main(["train", config, "--out", out, "--resume"]))
    os.close(writer)
    while kind == "row" and n and os.read(reader, 1):
        n -= 1
    if kind == "row":
        os.kill(pid, signal.SIGKILL)
    os.close(reader)
    return os.waitpid(pid, 0)[1]

ends, half_saved = [], 0
for kind, n in (*kills, ("none", 0)):
    ends.append(live(kind, n))
    half_saved += any(Path(out, "checkpoints").glob(".*.tmp-*"))
print(json.dumps([ends, half_saved]))
"""


def live_and_die(config, out, kills):
    """The statuses of the lives, and how many died in the middle of a save."""
    code = KILL.format(arguments=(str(config), str(out), kills))
    *_, last = run_python(code).splitlines()
    return json.loads(last)


@pytest.mark.slow
def test_kills_at_changes_to_the_files(config, reference, tmp_path):
    # Some 10 changes are a save. The first life does not even record its config, the
    # second dies in its first save, a later one as it removes an old checkpoint, the
    # last but one as it writes the optimizer.
    changes = [2, 6, 15, 20, 12, 27, 33, 22]
    out = tmp_path / "run"
    ends, half_saved = live_and_die(config, out, [("change", n) for n in changes])
    assert ends == [signal.SIGKILL] * len(changes) + [0]
    assert half_saved >= 3
    assert runs.bits(out) == runs.bits(reference)
    rows = (out / "timing.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [*range(2, STEPS + 1, 2)]
    # What killed writers left is gone.
    names = {path.name for path in (out / "checkpoints").iterdir()}
    assert names == {path.name for path in (reference / "checkpoints").iterdir()}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.nightly
@pytest.mark.slow
def test_kills_at_any_moment(config, reference, tmp_path):
    # No life but the last writes the last line.
    rows = [1, 2, 1, 2]
    ends, _ = live_and_die(config, tmp_path / "run", [("row", n) for n in rows])
    assert ends == [signal.SIGKILL] * len(rows) + [0]
    assert runs.bits(tmp_path / "run") == runs.bits(reference)


def how_to_resume(error):
    """The arguments of the command that the last line tells to continue with."""
    *_, last = error.splitlines()
    program, *arguments = shlex.split(last.partition("to continue: ")[2])
    assert program == "l2o"
    return arguments


SIGNAL_WHILE_COMPILING = """
import signal, sys
import jax

compile = jax.stages.Lowered.compile

def compile_with_signal(*arguments, **options):
    signal.raise_signal(signal.SIGTERM)
    return compile(*arguments, **options)

jax.stages.Lowered.compile = compile_with_signal
"""


@pytest.mark.nightly
@pytest.mark.slow
def test_sigterm_while_compiling(config, reference, tmp_path):
    out = tmp_path / "a run"
    done = l2o("train", config, "--out", out, "--json", code=SIGNAL_WHILE_COMPILING)
    assert done.returncode == 0, done.stderr
    assert f"stopped by SIGTERM at outer step 0 of {STEPS}" in done.stderr
    summary = json.loads(done.stdout)
    assert (summary["finished"], summary["outer_steps"]) == (False, 0)
    again = l2o(*how_to_resume(done.stderr))
    assert (again.returncode, again.stdout) == (0, "")
    assert runs.bits(out) == runs.bits(reference)


# Reads a line from its parent after the second dispatch, which comes after the signal.
WAIT = """
import sys
from meta_train.metrics import JsonLines

append = JsonLines.append

def append_and_wait(self, row):
    append(self, row)
    if row["step"] == 4 and "meta_loss" in row:
        print("ready", flush=True)
        sys.stdin.readline()

JsonLines.append = append_and_wait
"""


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_from_outside(number, config, reference, tmp_path):
    out = tmp_path / "run"
    with subprocess.Popen(
        runs.command("train", config, "--out", out, code=WAIT),
        env=runs.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        stdout, stderr = process.communicate("go on\n", timeout=100)
    assert (process.returncode, stdout) == (0, "")
    name = signal.Signals(number).name
    assert f"{name}: stopping when that is safe, or at once on another" in stderr
    assert f"stopped by {name} at outer step" in stderr
    step = RunDirectory(out).steps()[0]
    assert 4 <= step < STEPS
    if number == signal.SIGTERM:
        assert l2o(*how_to_resume(stderr)).returncode == 0
        assert runs.bits(out) == runs.bits(reference)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "none", str(path)]
    mount = shutil.which("mount") if sys.platform == "linux" else None
    if (
        mount is None
        or subprocess.run([mount, *options], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    """Writes to a file until its disk is full."""
    with path.open("wb", 0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert not shutil.disk_usage(path).free


@pytest.mark.nightly
@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while(config, reference, small_disk):
    out = small_disk / "run"
    fill(small_disk / "filler")
    done = l2o("train", config, "--out", out)
    assert done.returncode == 1
    assert one_error(done.stderr).startswith("l2o: error: a run must be able to write")
    assert "No space left" in done.stderr
    (small_disk / "filler").unlink()

    shutil.copytree(reference, out, dirs_exist_ok=True)
    shutil.rmtree(out / "optimizer")
    shutil.rmtree(out / "checkpoints" / f"step_{STEPS:08d}")
    fill(small_disk / "filler")
    done = l2o("train", "--out", out, "--resume")
    assert done.returncode == 1
    assert "what was saved is intact" in one_error(done.stderr)
    assert RunDirectory(out).steps() == [10, 8]
    (small_disk / "filler").unlink()
    assert l2o(*how_to_resume(done.stderr)).returncode == 0
    assert runs.bits(out) == runs.bits(reference)


def one_error(stderr):
    """The one line of the error, which is the last."""
    (line,) = (text for text in stderr.splitlines() if text.startswith("l2o: error: "))
    assert stderr.endswith(f"{line}\n")
    assert "Traceback" not in stderr
    return line
