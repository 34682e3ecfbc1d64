"""Where a process is among those of its run."""

import json
import socket
import subprocess
import sys

import pytest

from meta_train import status
from meta_train.cli import main
from meta_train.distributed import COLLECTIVE_FLAG, Cluster, detected, given
from tests.helpers import ROOT, run_python


def test_flags_tell_the_cluster():
    assert given("", None, None) is None
    assert given("10.0.0.1:80", 1, 4) == Cluster("10.0.0.1:80", 1, 4)
    assert given("[::1]:80", 0, 1) == Cluster("[::1]:80", 0, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--coordinator h:1", "must be given together, got only --coordinator"),
        ("--process-id 0", "must be given together, got only --process-id"),
        (
            "--coordinator h:1 --num-processes 2",
            "must be given together, got only --coordinator, --num-processes",
        ),
        (
            "--coordinator h --process-id 0 --num-processes 2",
            "--coordinator must be HOST:PORT, got 'h'",
        ),
        (
            "--coordinator h:70000 --process-id 0 --num-processes 2",
            "--coordinator must be HOST:PORT, got 'h:70000'",
        ),
        (
            "--coordinator h:1 --process-id 2 --num-processes 2",
            "--process-id must be from 0 to 1, one less than --num-processes, got 2",
        ),
        (
            "--coordinator h:1 --process-id 0 --num-processes 0",
            "--num-processes must be at least 1, got 0",
        ),
    ],
)
def test_wrong_flags_are_one_line(flags, message, capsys):
    assert main(["train", *flags.split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("l2o: error: ")
    assert line.endswith(message)


@pytest.fixture
def slurm(monkeypatch):
    """A step of two tasks, of which this is the second."""
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }.items():
        monkeypatch.setenv(name, value)


def test_a_cluster_is_detected(slurm):
    assert detected() == Cluster("node1:61447", 1, 2, devices=(0,))


def test_one_task_and_no_cluster_are_one_process(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert detected() is None
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert detected() is None


def test_xla_knows_the_flag_of_collectives():
    """It would end the process otherwise."""
    code = (
        f"import os; os.environ['XLA_FLAGS'] = '--{COLLECTIVE_FLAG}=600'\n"
        "import jax; print(jax.device_count())"
    )
    assert run_python(code) == "1\n"


JOINED = """
import json, sys
import jax
from meta_train.distributed import Cluster, joined
from pathlib import Path

index, address = int(sys.argv[1]), sys.argv[2]
with joined(Cluster(address, index, 2), lambda: False) as peers:
    port = int(address.rpartition(":")[2])
    rows = [r.split() for f in ("tcp", "tcp6") for r in
            Path("/proc/self/net", f).read_text().splitlines()[1:]]
    bound = [r[1].partition(":")[0] for r in rows
             if r[3] == "0A" and int(r[1].partition(":")[2], 16) == port]
    print(json.dumps([
        peers.agree("value", index),
        peers.by_first("work", lambda: [index]),
        peers.gather("values", index, 60.0),
        bound,
    ]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_two_processes_and_where_the_first_one_listens():
    """At the address that it was given, and at no other of the machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED, str(index), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for index in range(2)
    ]
    found = []
    for process in running:
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        found.append(json.loads(stdout))
    assert [answer[:3] for answer in found] == [[0, [0], [0, 1]]] * 2
    (bound,) = found[0][3]
    assert bound.endswith("0100007F")  # Also as an address of IPv6.


ALONE_AT_A_CLUSTER = """
import os, signal, threading
from meta_train.distributed import Cluster, joined
from meta_train.signals import StopSignal

threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
with StopSignal(print) as stop:
    with joined(Cluster("127.0.0.1:{port}", 0, 2), lambda: bool(stop.received)):
        print("joined")
"""


def test_a_signal_ends_the_waiting_for_others():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", ALONE_AT_A_CLUSTER.format(port=port)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == status.STOPPED, done.stderr
    assert "joined" not in done.stdout
