"""What the bench of scaling measures, and the model of pods."""

import math

import pytest

from l2o.learned import LearnableSGD
from meta_train.bench import restart, scaling
from meta_train.bench.scaling import Pod, measure, model
from tests.meta_train import runs


def test_parts_of_a_run_are_timed(tmp_path):
    result = measure(LearnableSGD(), tmp_path, window=2, size=16)
    assert set(result) == {
        "outer_steps_per_second",
        "collective_share",
        "times_plain_sum",
        "checkpoint_share",
        "state_bytes",
    }
    assert all(value > 0 for value in result.values())
    # Four pairs of bowls: two thetas each, with parameters at least.
    assert result["state_bytes"] >= 4 * 2 * 32 * 4


@pytest.mark.nightly
@pytest.mark.slow
def test_processes_measure_together(monkeypatch):
    monkeypatch.setattr(restart, "CONFIG", runs.TINY)
    monkeypatch.setattr(restart, "REPEATS", 1)
    said = []
    result = scaling.scaling(said.append, layouts=[(2, 1)], starts=[(2, 1)], chips=[8])
    assert said == ["2 processes of 1 devices", "starts of 2 processes of 1 devices"]
    [row] = result["rows"]
    assert (row["processes"], row["devices"]) == (2, 1)
    assert row["outer_steps_per_second"] > 0
    shown = scaling.text(result).splitlines()
    assert shown[1].startswith("2 x 1 | ")
    assert "chips | 8" in shown
    [started] = result["starts"]
    assert started.pop("processes") == 2
    assert all(value > 0 for value in started.values())
    # One after another, of one process.
    parts = [started[name] for name in ("imports", "trace", "lower", "load")]
    assert sum(parts) < started["warm_start_seconds"]
    assert any(line.startswith("2 x 1 | ") for line in shown[3:])


def test_a_pod_of_256_chips():
    """By hand: rows of 100,020 bytes, pairs of 76.8 MB a chip, 198 hours apart."""
    pod = model(256)
    assert pod["particles"] == 65_536
    assert pod["collective_bytes"] == pytest.approx(2 * 100_020 * 255 / 256)
    assert pod["checkpoint_bytes"] == 256 * 76_800_000
    assert pod["checkpoint_blocking_seconds"] == pytest.approx(7.68e-3)
    assert pod["checkpoint_writing_seconds"] == pytest.approx(0.6144)
    between = 3600 * 50_700 / 256
    assert pod["hours_between_failures"] == pytest.approx(between / 3600)
    young = math.sqrt(2 * 7.68e-3 * between)
    assert pod["interval_seconds_young"] == pytest.approx(young)
    assert pod["interval_seconds_daly"] == pytest.approx(young, rel=1e-3)


def test_short_rows_are_gathered():
    """By hand: rows of 60 bytes, of which a chip gets those of all others."""
    assert model(8, Pod(meta_parameters=10))["collective_bytes"] == 7 * 60


def test_the_interval_of_daly_is_near_the_best():
    """Where a checkpoint is dear, too; the loss is convex in the interval."""
    pod = Pod(copy_bytes=1e5, storage_bytes=1e12, chip_hours=50.0)
    found = model(4, pod)
    cost, between = found["checkpoint_blocking_seconds"], 3600 * 50.0 / 4

    def lost(seconds):
        # Poisson failures, exactly: what a piece of work takes, per second of it.
        return between * (math.exp((seconds + cost) / between) - 1) / seconds

    best = min(lost(100.0 * 1.01**i) for i in range(600))
    assert lost(found["interval_seconds_daly"]) < 1.001 * best
    assert found["interval_seconds_daly"] < found["interval_seconds_young"]
