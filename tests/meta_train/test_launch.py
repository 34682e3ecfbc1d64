"""Several processes of one run: restarts, crash loops, signals, no orphans."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meta_train.cli import main
from meta_train.launch import Group, launch, newest_step
from tests.meta_train import runs


# A run of three steps, which an attempt makes one of. What its processes do besides is
# said in the file `plan` of the run: by attempt and process, before the checkpoint.
PROGRAM = """
import argparse, json, os, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("run", type=pathlib.Path)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--coordinator")
parser.add_argument("--process-id", type=int)
parser.add_argument("--num-processes", type=int)
a = parser.parse_args()
host, port = a.coordinator.split(":")
assert (host, a.num_processes) == ("127.0.0.1", 2) and 0 < int(port) < 65536
checkpoints = a.run / "checkpoints"
done = len(list(checkpoints.glob("step_*")))
attempts = a.run / f"attempts-{a.process_id}"
attempt = attempts.stat().st_size if attempts.exists() else 0
assert a.resume == (attempt > 0)
with attempts.open("a") as file:
    file.write(".")
# None acts before both have counted this attempt.
both = [a.run / f"attempts-{i}" for i in range(2)]
while any(not path.exists() or path.stat().st_size <= attempt for path in both):
    time.sleep(0.01)
plan = json.loads((a.run / "plan").read_text())
act = plan.get(f"{attempt}-{a.process_id}", plan.get(f"any-{a.process_id}", 0))
if act == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print("waiting", os.getpid(), flush=True)
    time.sleep(60)
if act == "stuck":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("stuck", os.getpid(), flush=True)
    time.sleep(60)
if act == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if act and act != "late":
    sys.exit(act)
if a.process_id == 0:
    (checkpoints / f"step_{done:08d}").mkdir(parents=True)
print("made", file=sys.stderr)
if act:
    sys.exit(7)
"""


@pytest.fixture
def start(tmp_path):
    """Launches the program by a plan; the result, what was said, what it wrote."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def started(plan, **options):
        (tmp_path / "plan").write_text(json.dumps(plan))
        said, stdout, stderr = [], io.BytesIO(), io.BytesIO()
        result = launch(
            [sys.executable, str(tmp_path / "program.py"), str(tmp_path)],
            tmp_path,
            processes=2,
            pause=0.01,
            stdout=stdout,
            stderr=stderr,
            say=said.append,
            **options,
        )
        return result, said, stdout.getvalue().decode(), stderr.getvalue().decode()

    return started


def test_lines_carry_the_number_of_their_process(start):
    result, said, stdout, stderr = start({})
    assert (result, said, stdout) == ((0, 0), [], "")
    assert sorted(stderr.splitlines()) == ["[0] made", "[1] made"]


def test_all_are_started_again_when_one_fails(start, tmp_path):
    plan = {"0-0": "wait", "0-1": 1, "1-1": "killed", "2-0": 75, "2-1": 75}
    result, said, _, _ = start(plan)
    assert result == (0, 3)
    assert said[:3] == [
        "process 1 ended with status 1",
        "ending the other processes",
        "restart 1 in 0.01 s, from the beginning",
    ]
    assert "process 1 ended with status 137 (SIGKILL)" in said
    assert said[-1].startswith("restart 3 in ")
    for i in range(2):
        assert (tmp_path / f"attempts-{i}").read_text() == "...."


def test_a_crash_loop_ends(start):
    result, said, _, _ = start({"any-0": 7, "any-1": 7})
    assert result == (7, 3)
    assert said[-1] == "giving up with status 7: 3 restarts made no new checkpoint"


def test_crashes_between_which_there_is_progress_are_no_loop(start, tmp_path):
    plan = {f"{attempt}-0": "late" for attempt in range(5)}
    result, said, _, _ = start(plan)
    assert result == (0, 5)
    assert [line for line in said if line.startswith("restart")][-1] == (
        "restart 5 in 0.01 s, from outer step 4"
    )
    assert newest_step(tmp_path) == 5


@pytest.mark.parametrize(
    ("plan", "options", "restarts", "reason"),
    [
        ({"any-0": 2, "any-1": 2}, {}, 0, "status 2: the command is wrong"),
        (
            {"any-0": 1, "any-1": 1},
            {"max_restarts": 1},
            1,
            "status 1: it was started again 1 times",
        ),
    ],
)
def test_giving_up(start, plan, options, restarts, reason):
    result, said, _, _ = start(plan, **options)
    assert result == (plan["any-0"], restarts)
    assert said[-1] == f"giving up with {reason}"


def test_those_that_do_not_end_are_killed(start):
    result, _, stdout, _ = start({"0-0": "stuck", "0-1": 9}, max_restarts=0, grace=0.3)
    assert result == (9, 0)
    assert not any(is_alive(int(line.split()[-1])) for line in stdout.splitlines())


def test_wrong_numbers(start):
    with pytest.raises(ValueError, match="grace must be a number in"):
        start({}, grace=-1.0)


def is_alive(pid):
    """Whether there is such a process that is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


# Both processes say that they wait; then comes a signal to the launcher alone.
LAUNCHER = """
import sys
from pathlib import Path
from meta_train.launch import launch
run = Path(sys.argv[1])
status, restarts = launch(
    [sys.executable, str(run / "program.py"), str(run)], run, processes=2,
    stdout=sys.stdout.buffer, stderr=sys.stderr.buffer, say=print,
)
sys.exit(status)
"""


@pytest.fixture
def launcher(tmp_path):
    """A launcher of two processes that wait, and their numbers."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "plan").write_text('{"any-0": "wait", "any-1": "wait"}')
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path)],
        env=runs.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(2)]
        assert sorted(line[0] for line in lines) == ["[0]", "[1]"]
        yield process, [int(line[2]) for line in lines]
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_all_and_nothing_is_started_again(launcher, number):
    process, members = launcher
    process.send_signal(number)
    # The program has no handler of the other signal, and dies of that.
    wanted = 75 if number == signal.SIGTERM else 130
    assert process.wait(timeout=20) == wanted
    assert not any(map(is_alive, members))
    assert "restart" not in process.stdout.read()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")
def test_processes_do_not_outlive_a_launcher_that_is_killed(launcher):
    process, members = launcher
    process.kill()
    process.wait()
    limit = time.monotonic() + 10
    while any(map(is_alive, members)) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not any(map(is_alive, members))


def test_statuses_are_those_of_a_shell():
    quiet = subprocess.DEVNULL
    group = Group(["/bin/sh", "-c", "kill -9 $$"], 1, stdout=quiet, stderr=quiet)
    assert group.wait(20)
    assert group.statuses == [137]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", "eval", "x"], "the command must be train, got eval x"),
        (["--", "train", "small"], "train must be given --out DIR here"),
        (["--", "train", "--outt", "x"], "Unrecognized"),
    ],
)
def test_commands_that_are_refused(arguments, message, capsys):
    assert main(["launch-local", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_continued_only_when_that_is_asked(tmp_path, capsys):
    (tmp_path / "config.json").touch()
    assert main(["launch-local", "--", "train", "--out", str(tmp_path)]) == 1
    assert "pass --resume to continue it" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_run_of_two_processes_survives_a_kill(config, reference, tmp_path):
    out = tmp_path / "run"
    arguments = [
        "--json",
        "--grace",
        "2",
        "--",
        "train",
        str(config),
        "--out",
        str(out),
    ]
    with subprocess.Popen(
        runs.command("launch-local", *arguments),
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        limit = time.monotonic() + 90
        while newest_step(out) < 0 and time.monotonic() < limit:
            time.sleep(0.01)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        _, victim = map(int, children.read_text().split())
        os.kill(victim, signal.SIGKILL)
        stdout, stderr = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, stderr
    assert json.loads(stdout) == {"exit_status": 0, "restarts": 1}
    assert "launch-local: process 1 ended with status 137 (SIGKILL)" in stderr
    assert runs.bits(out) == runs.bits(reference)
