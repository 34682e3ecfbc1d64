"""Several processes are one run: the same bits, whatever is done to them."""

import json
import shutil
import signal

import pytest

from meta_train import status
from meta_train.directory import RunDirectory
from tests.helpers import nightly
from tests.meta_train import pods, runs
from tests.meta_train.runs import STEPS


pytestmark = pytest.mark.slow

# Every process makes this file after its second dispatch and waits for the test.
PAUSE = """
import time
from pathlib import Path
import meta_train.run as run

summarise = run.summarise
mark = Path({mark!r})

def paused(step, *rest):
    row = summarise(step, *rest)
    if step == 4:
        mark.touch()
        while not mark.with_name("go").exists():
            time.sleep(0.01)
    return row

run.summarise = paused
"""

AT_STEP_6 = """
import meta_train.run as run

summarise = run.summarise

def changed(step, *rest):
    if step == 6:
        {action}
    return summarise(step, *rest)

run.summarise = changed
"""


@pytest.fixture
def logs(tmp_path):
    path = tmp_path / "logs"
    path.mkdir()
    return path


def statuses(ended):
    return [one.status for one in ended]


@pytest.fixture(scope="module")
def wide(config, tmp_path_factory):
    """A run of four blocks on one device, and its bits."""
    directory = tmp_path_factory.mktemp("wide") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        runs.start(runs.settings(config, "estimator.pairs=8"), directory)
    return runs.bits(directory)


@pytest.mark.parametrize(
    "layout",
    nightly([(1, 4), (2, 1), (2, 2), (4, 1)], but=[(2, 1)]),
)
def test_the_bits_do_not_depend_on_the_layout(layout, wide, config, tmp_path, logs):
    """Of processes, and devices of each."""
    processes, devices = layout
    out = tmp_path / "run"
    ended = pods.train(
        logs,
        *(config, "--out", out, "--set", "estimator.pairs=8"),
        processes=processes,
        devices=devices,
    )
    assert statuses(ended) == [status.DONE] * processes, ended[0].log
    assert runs.bits(out) == wide


def test_one_process_speaks(config, reference, tmp_path, logs):
    out = tmp_path / "run"
    first, second = pods.train(logs, config, "--out", out, "--json")
    assert json.loads(first.output)["finished"]
    assert second.output == ""
    assert [line for line in second.log.splitlines() if "Gloo" not in line] == []
    assert runs.bits(out) == runs.bits(reference)
    # What is finished is not begun again.
    again = pods.train(logs, "--out", out, "--resume")
    assert statuses(again) == [status.DONE] * 2
    assert "is finished, nothing to resume" in again[0].log


@pytest.mark.parametrize("victim", nightly([0, 1], but=[0]))
def test_a_signal_to_one_stops_all_at_one_step(
    victim, config, reference, tmp_path, logs
):
    out, mark = tmp_path / "run", tmp_path / "mark"
    codes = {0: PAUSE.format(mark=str(mark))}
    with pods.Pod(logs, config, "--out", out, codes=codes) as pod:
        pod.until(mark)
        pod.processes[victim].send_signal(signal.SIGTERM)
        # The first process looks for signals of others four times a second.
        pod.until(mark) if victim == 0 else until_said(pod, "at another process")
        mark.with_name("go").touch()
        ended = pod.ends()
    assert statuses(ended) == [status.STOPPED] * 2, ended
    assert max(one.seconds for one in ended) < 10
    step = RunDirectory(out).steps()[0]
    assert 4 <= step < STEPS
    assert f"stopped by SIGTERM at outer step {step} of {STEPS}" in ended[0].log
    # Alone, and on two devices.
    again = pods.train(logs, "--out", out, "--resume", processes=1, devices=2)
    assert statuses(again) == [status.DONE], again
    assert runs.bits(out) == runs.bits(reference)


def until_said(pod, text):
    said = pod.logs[0].with_suffix(".said")
    while text not in pod.log(0):
        assert pod.processes[0].poll() is None
    said.touch()


@pytest.mark.nightly
@pytest.mark.parametrize("victim", [0, 1])
def test_a_kill_costs_time_and_nothing_else(victim, config, reference, tmp_path, logs):
    out, mark = tmp_path / "run", tmp_path / "mark"
    codes = {0: PAUSE.format(mark=str(mark))}
    with pods.Pod(logs, config, "--out", out, codes=codes) as pod:
        pod.until(mark)
        mark.with_name("go").touch()
        pod.processes[victim].kill()
        ended = pod.ends()
    assert ended[victim].status == -signal.SIGKILL
    assert ended[1 - victim].status not in (status.DONE, status.STOPPED)
    assert ended[1 - victim].seconds < 35
    again = pods.train(logs, "--out", out, "--resume")
    assert statuses(again) == [status.DONE] * 2, again
    assert runs.bits(out) == runs.bits(reference)


@pytest.mark.parametrize("culprit", nightly([0, 1], but=[0]))
def test_an_exception_in_one_ends_all(culprit, config, tmp_path, logs):
    codes = {culprit: AT_STEP_6.format(action="raise RuntimeError('bad luck')")}
    ended = pods.train(logs, config, "--out", tmp_path / "run", codes=codes)
    assert ended[culprit].status == status.FAILED
    assert "Traceback" in ended[culprit].log
    line = f"process {culprit} failed: RuntimeError: bad luck"
    assert f"l2o: error: {line}\n" in ended[culprit].log
    assert ended[1 - culprit].status not in (status.DONE, status.STOPPED)
    assert max(one.seconds for one in ended) < 35


def test_what_all_find_wrong_is_said_once(config, tmp_path, logs):
    arguments = (config, "--out", tmp_path / "run", "--set")
    ended = pods.train(logs, *arguments, "estimator.pairs=6", processes=2)
    assert statuses(ended) == [status.FAILED] * 2
    assert ended[1].log == ""
    (line,) = ended[0].log.splitlines()
    assert line.startswith("l2o: error: the number of processes must divide the 3 ")
    assert not (tmp_path / "run").exists()


def test_a_theta_that_differs_is_found(config, tmp_path, logs):
    code = """
import meta_train.run as run
gather = run.Peers.gather
def other(self, name, value, seconds):
    return gather(self, name, ["0" * 64] if name == "theta" else value, seconds)
run.Peers.gather = other
"""
    out = tmp_path / "run"
    overrides = ("--set", "faults.compare_every=2")
    ended = pods.train(logs, config, "--out", out, *overrides, codes={1: code})
    assert statuses(ended) == [status.FAILED] * 2
    assert "theta must be the same on all devices, at outer step 4" in ended[0].log
    assert "Traceback" not in ended[0].log


def test_a_hang_ends(config, tmp_path, logs):
    codes = {1: AT_STEP_6.format(action="import time; time.sleep(100)")}
    out = tmp_path / "run"
    overrides = ("--set", "faults.hang_seconds=2.0")
    ended = pods.train(logs, config, "--out", out, *overrides, codes=codes)
    assert status.HUNG in statuses(ended)
    assert all(one.status not in (status.DONE, status.STOPPED) for one in ended)
    assert max(one.seconds for one in ended) < 35
    assert any("Current thread" in one.log or "Thread 0x" in one.log for one in ended)


def test_without_a_good_checkpoint_none_begins_anew(reference, tmp_path, logs):
    out = tmp_path / "run"
    shutil.copytree(reference, out)
    shutil.rmtree(out / "optimizer")
    for path in (out / "checkpoints").iterdir():
        runs.damage(path)
    ended = pods.train(logs, "--out", out, "--resume")
    assert statuses(ended) == [status.FAILED] * 2
    assert (
        ended[0]
        .log.splitlines()[-1]
        .startswith("l2o: error: a run must have one good checkpoint to be resumed")
    )
    assert RunDirectory(out).steps() == [12, 10, 8]
