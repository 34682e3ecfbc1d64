"""One device a core, unless the user decides."""

import os
import subprocess
import sys

import jax
import pytest

from meta_train.devices import use_all_cores
from tests.helpers import ROOT


CODE = """
from meta_train.devices import use_all_cores
use_all_cores()
import jax
print(len(jax.devices()))
"""


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4),
    ],
)
def test_a_device_a_core_unless_the_user_decides(variables, expected):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=environment | variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    if expected is None:
        linux = sys.platform == "linux"
        cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
        expected = max(2, cores)
    assert int(done.stdout) == expected


def test_it_is_no_error_once_jax_is_in_use(monkeypatch):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    devices = jax.devices()
    use_all_cores()
    assert jax.devices() == devices
