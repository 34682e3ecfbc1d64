"""The campaign of faults, few of each kind; none of this depends on speed."""

import json

import pytest

from meta_train.bench.faults import campaign
from meta_train.bench.faults.campaign import FAULTS, QUICK_PROCESSES
from meta_train.bench.faults.lab import Lab, Layout, Variant
from meta_train.bench.faults.tally import Tally


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Runs share a reference and compiled programs."""
    lab = Lab(tmp_path_factory.mktemp("lab"), seed=0, processes=QUICK_PROCESSES)
    yield lab
    lab.orphans()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_runs_survive(lab, name):
    fault = FAULTS[name]
    tally = fault.inject(lab, fault.quick)
    if tally.skipped:
        pytest.skip(tally.skipped)
    assert tally.wrong == []
    assert tally.passed == tally.tried >= fault.quick
    assert lab.orphans() == []
    lab.clear()


@pytest.mark.slow
def test_a_fault_that_is_not_survived_is_told(lab):
    """Another seed is another run: its state must not pass for that of the lab."""
    out = lab.new("other")
    life = lab.start(out, variant=Variant(overrides=("seed=1",)))
    assert life.end() == [0]
    assert lab.differs(out).endswith(f"not {lab.reference[:12]}")


@pytest.mark.slow
def test_orphans_are_found_and_removed(lab):
    life = lab.start(lab.new("orphan"), Layout())
    assert life.until(lambda life: life.is_saving)
    life.kill()
    left = lab.orphans()
    assert len(left) == 1
    assert "/checkpoints/.step_" in left[0]
    assert lab.orphans() == []


def test_verdicts():
    tally = Tally("seconds", limit=2.0)
    assert tally.verdict == "failed"  # Nothing was tried.
    tally.add(figure=1.0)
    assert (tally.verdict, tally.worst) == ("passed", 1.0)
    tally.add(figure=3.0)
    tally.add(figure=2.0)
    assert (tally.verdict, tally.worst) == ("slow", 3.0)
    tally.add("lost")
    assert (tally.verdict, tally.passed, tally.tried) == ("failed", 3, 4)
    assert tally.as_json()["wrong"] == ["lost"]


def test_report(tmp_path):
    good, bad = Tally("seconds", limit=2.0), Tally(skipped="no disk")
    good.add(figure=1.0)
    rows = {
        "one": good.as_json() | {"orphans": [], "seconds": 1.0},
        "two": bad.as_json() | {"orphans": ["process 7"], "seconds": 0.0},
    }
    result = {
        "reference": "ab" * 32,
        "rows": rows,
        "seed": 3,
        "seconds": 1.0,
        "cores": 2,
        "jax": "0.10",
    }
    assert not campaign.is_passed(result)
    rows["two"]["orphans"] = []
    assert campaign.is_passed(result)
    campaign.write(result, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "faults.json").read_text()) == result
    lines = (tmp_path / "report" / "faults.txt").read_text().splitlines()
    assert lines[1].split() == [
        "one",
        "1/1",
        "1",
        "of",
        "2",
        "seconds",
        "none",
        "passed",
    ]
    assert lines[2].endswith("skipped: no disk")
    assert lines[-1].startswith("state abababababababab everywhere else")
