"""The directory of a run: what is found, refused, set aside and removed."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.storage import CheckpointError, write_tree
from meta_train import directory as directories
from meta_train.directory import RunDirectory, free_directory, newest_directory
from meta_train.outer import OuterState
from tests.meta_train import runs


def state(step=0):
    return OuterState(
        theta=jnp.full((3,), step, jnp.float32),
        average=(),
        opt_state={"mu": jnp.zeros((3,))},
        particles=(jnp.arange(4),),
        square=jnp.zeros((1,)),
        uses=jnp.zeros((1,), jnp.int32),
        key=jax.random.key(0),
        step=jnp.int32(step),
        skipped=jnp.int32(0),
    )


@pytest.fixture
def saved(tmp_path):
    """A run with checkpoints of outer steps 2, 4 and 6."""
    run = RunDirectory(tmp_path / "run")
    for step in (2, 4, 6):
        runs.save(run, state(step), step, {"seconds": 1.5}, keep=3)
    return run


def checkpoint(run, step):
    return run.path / "checkpoints" / f"step_{step:08d}"


def test_the_newest_checkpoint_is_restored(saved):
    restored = saved.restore(state())
    assert restored is not None
    assert (restored.step, restored.damaged) == (6, [])
    assert restored.state.theta.tolist() == [6, 6, 6]
    assert restored.facts["seconds"] == 1.5


def test_only_the_newest_are_kept(saved):
    runs.save(saved, state(8), 8, {}, keep=2)
    assert saved.steps() == [8, 6]
    assert sorted(p.name for p in (saved.path / "checkpoints").iterdir()) == [
        "step_00000006",
        "step_00000008",
    ]


def test_there_may_be_no_checkpoint(tmp_path):
    assert RunDirectory(tmp_path).restore(state()) is None
    assert RunDirectory(tmp_path).steps() == []


@pytest.mark.parametrize(
    "harm",
    [
        runs.damage,
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text("{}"),
        lambda path: shutil.rmtree(path / "state"),
    ],
)
def test_a_damaged_newest_one_is_set_aside(saved, harm):
    harm(checkpoint(saved, 6))
    restored = saved.restore(state())
    assert restored is not None
    assert restored.step == 4
    (line,) = restored.damaged
    assert "step_00000006" in line
    assert "\n" not in line
    assert saved.steps() == [4, 2]
    assert (saved.path / "checkpoints" / "damaged_step_00000006").is_dir()
    # The step is made again, and may be damaged again.
    runs.save(saved, state(6), 6, {}, keep=3)
    harm(checkpoint(saved, 6))
    assert saved.restore(state()) is not None


def test_when_all_are_damaged_nothing_is_restored_or_moved(saved):
    for step in saved.steps():
        runs.damage(checkpoint(saved, step))
    with pytest.raises(CheckpointError, match=r"all 3 are damaged, .*step_00000006"):
        saved.restore(state())
    assert saved.steps() == [6, 4, 2]


def test_strangers_and_leftovers_are_no_checkpoints(saved):
    folder = saved.path / "checkpoints"
    strangers = [folder / "step_copy", folder / "step_00000006.bak"]
    leftover = folder / ".step_00000008.tmp-1"
    for path in (*strangers, leftover):
        path.mkdir()
        (path / "part").write_text("x")
    assert saved.steps() == [6, 4, 2]
    assert saved.restore(state()) is not None
    assert all(path.is_dir() for path in strangers)
    assert not leftover.exists()  # It would take its space for ever.


def test_a_directory_has_one_writer(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run.locked():
        message = rf"run is in use by process {os.getpid()}"
        with pytest.raises(ValueError, match=message), RunDirectory(run.path).locked():
            pass
    with run.locked():  # It was given back.
        pass


def under_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "run"


def a_file(tmp_path):
    return under_a_file(tmp_path).parent


@pytest.mark.parametrize("make", [under_a_file, a_file, lambda _: Path("/proc/no/run")])
def test_a_directory_that_cannot_be_made(tmp_path, make):
    path = make(tmp_path)
    with (
        pytest.raises(ValueError, match=f"{path} must be a directory or a place"),
        RunDirectory(path).locked(),
    ):
        pass


def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / "lock").mkdir()
    with (
        pytest.raises(ValueError, match=r"one that can be written, got .*lock"),
        RunDirectory(tmp_path).locked(),
    ):
        pass


def test_the_config_is_recorded_and_compared(tmp_path, config):
    run = RunDirectory(tmp_path)
    assert not run.has_run
    settings = runs.settings(config)
    run.write_config(settings)
    assert run.has_run
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    run.require_same_config(settings)
    changed = runs.settings(config, "outer.clip=2", "task.dim=5")
    with pytest.raises(ValueError, match=r"outer.clip was 3.0 and is now 2.0"):
        run.require_same_config(changed)
    added = runs.settings(config, "task.noise=0.1")
    with pytest.raises(ValueError, match=r"task.noise was '<absent>' and is now 0.1"):
        run.require_same_config(added)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be as it was written, got JSONDecodeError"),
        ("[]", "must be as it was written, got TypeError"),
        ("{}", "must be as it was written, got KeyError"),
    ],
)
def test_a_damaged_config(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        RunDirectory(tmp_path).recorded_config()


def test_a_recorded_config_keeps_its_order(tmp_path, config):
    """Of patterns that match the same, the last counts: in a resumed run too."""
    settings = runs.settings(config)
    patterns = {"mlp*": 0.1, "*": 0.2}
    estimator = dataclasses.replace(settings.estimator, sigma_of=patterns)
    run = RunDirectory(tmp_path)
    run.write_config(dataclasses.replace(settings, estimator=estimator))
    found = run.recorded_config()["estimator"]["sigma_of"]
    assert list(found.items()) == list(patterns.items())


def test_a_config_that_was_edited(tmp_path, config):
    run = RunDirectory(tmp_path)
    run.write_config(runs.settings(config))
    content = json.loads(run.config.read_text())
    content["config"]["seed"] = 1
    run.config.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="its config_hash differs"):
        run.recorded_config()


def test_a_new_run_does_not_touch_the_files_of_another(tmp_path):
    run = RunDirectory(tmp_path)
    (tmp_path / "lock").touch()
    (tmp_path / "notes.txt").touch()
    run.require_free()
    run.metrics.touch()
    with pytest.raises(ValueError, match=r"holds metrics.jsonl and no config.json"):
        run.require_free()


def test_a_run_is_finished_when_all_it_asks_for_is_there(tmp_path, config):
    plain = runs.settings(config, "outer.steps=6")
    judged = runs.settings(config, "outer.steps=6", "suite=quick")
    run = RunDirectory(tmp_path)
    runs.save(run, state(6), 6, {"best": None}, keep=1)
    assert not run.is_finished(plain)

    def write_optimizer(outer_step, sha256):
        facts = {"outer_step": outer_step, "theta_sha256": sha256}
        write_tree(run.optimizer, {"theta": np.zeros(1)}, facts, overwrite=True)

    write_optimizer(4, "a")
    assert not run.is_finished(plain)  # A budget had ended it before.
    write_optimizer(6, "b")
    assert run.is_finished(plain)
    assert not run.is_finished(judged)
    run.report.mkdir()
    assert not run.is_finished(judged)  # A report that was begun.
    for of, whole in (("a", False), ("b", True)):
        contenders = [{"provenance": {"theta_sha256": of}}]
        report = json.dumps({"contenders": contenders})
        (run.report / "report.json").write_text(report)
        assert run.is_finished(judged) == whole
    assert not run.is_finished(runs.settings(config))


def test_a_run_with_validation_ends_with_the_best(tmp_path, config):
    settings = runs.settings(config, "outer.steps=6")
    run = RunDirectory(tmp_path)
    runs.save(run, state(6), 6, {"best": {"score": 0.5, "step": 4}}, keep=1)
    for path in (run.best, run.optimizer):
        write_tree(path, {"theta": np.zeros(1)}, {"outer_step": 4})
    assert run.is_finished(settings)


def test_a_word_of_its_own(tmp_path):
    one, other = (RunDirectory(tmp_path / name) for name in "ab")
    for run in (one, other):
        run.path.mkdir()
    assert one.run_id() == one.run_id() != other.run_id()


def test_directories_are_numbered(tmp_path):
    assert newest_directory(tmp_path, "run") == tmp_path / "run"
    for name in ("run", "run-2", "run-3"):
        assert free_directory(tmp_path, "run") == tmp_path / name
        (tmp_path / name).mkdir()
        assert newest_directory(tmp_path, "run") == tmp_path / name
    (tmp_path / "run-2").rmdir()  # The highest number, whatever is missing below.
    assert newest_directory(tmp_path, "run") == tmp_path / "run-3"
    (tmp_path / "run-2").mkdir()
    assert free_directory(tmp_path, "run-2") == tmp_path / "run-2-2"
    assert newest_directory(tmp_path, "run-2") == tmp_path / "run-2"


def test_a_directory_is_made_with_its_parents(tmp_path):
    directories.make_directory(tmp_path / "a" / "b")
    directories.make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
