"""Fixtures of the tests of meta-training."""

import pytest

from meta_test.suites import SUITES, Cell, Suite
from tests.meta_train import runs


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Keeps commands that run in the tests' process from spreading over all cores."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")


@pytest.fixture
def tiny_suite(monkeypatch):
    """A suite that takes no time, beside two baselines."""
    task = {"family": "quadratic", "dim": 4}
    cell = Cell("bowl", "nothing", task, horizon=10, seeds=(0, 1), sampled=True)
    suite = Suite(
        "tiny",
        1,
        "a bowl",
        (cell,),
        num_records=5,
        eval_batches=1,
        baselines=("sgd", "adam"),
    )
    monkeypatch.setitem(SUITES, "tiny", suite)
    return suite


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """The path of a tiny config."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(runs.TINY)
    return path


@pytest.fixture(scope="session")
def reference(config, tmp_path_factory):
    """The directory of a run of it that nothing interrupted; not to be changed."""
    directory = tmp_path_factory.mktemp("reference") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        runs.start(runs.settings(config), directory)
    return directory
