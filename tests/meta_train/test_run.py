"""The run loop: what it leaves, how it stops, resumes and fails."""

import errno
import json
import shutil
import signal

import jax
import numpy as np
import pytest

import l2o
from l2o.storage import CheckpointError
from meta_train import directory as directories
from meta_train.build import build_trainer
from meta_train.directory import RunDirectory
from meta_train.metrics import JsonLines
from meta_train.run import NonFiniteError
from tests.meta_train import runs
from tests.meta_train.runs import STEPS, At, Lines


ALL_STEPS = list(range(2, STEPS + 1, 2))


@pytest.fixture
def settings(config):
    return runs.settings(config)


def stop():
    signal.raise_signal(signal.SIGTERM)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_end(reference, directory):
    """A run that was killed before it wrote its last checkpoint and its optimizer."""
    shutil.copytree(reference, directory)
    run = RunDirectory(directory)
    shutil.rmtree(run.optimizer)
    shutil.rmtree(directory / "checkpoints" / f"step_{STEPS:08d}")
    return run


def test_what_a_run_leaves(reference, settings):
    run = RunDirectory(reference)
    assert run.is_finished(settings)
    assert run.steps() == [12, 10, 8]
    metrics = rows(run.metrics)
    assert [row["step"] for row in metrics] == ALL_STEPS
    assert all(row["valid"] == 8 and row["non_finite"] == 0 for row in metrics)
    timing = rows(run.timing)
    assert [row["step"] for row in timing] == ALL_STEPS
    assert all(row["inner_steps_per_second"] > 0 for row in timing)
    seconds = [row["seconds"] for row in timing]
    assert seconds == sorted(seconds)
    lopt, theta = l2o.load(reference / "optimizer")
    assert lopt == build_trainer(settings).lopt
    begun = lopt.init_theta(jax.random.key(0))
    assert jax.tree.structure(theta) == jax.tree.structure(begun)
    manifest = json.loads((run.optimizer / "manifest.json").read_text())
    assert manifest["name"] == "tiny"
    assert manifest["seed"] == 0
    assert manifest["compute"]["inner_steps"] == 2 * 4 * 5 * STEPS


def test_a_run_that_never_saved_begins_at_zero_and_has_the_same_bits(
    reference, settings, tmp_path
):
    directory = tmp_path / "run"
    directory.mkdir()
    RunDirectory(directory).write_config(settings)  # Then it was killed.
    progress = Lines()
    result = runs.start(settings, directory, resume=True, progress=progress)
    assert "no checkpoint to resume from, beginning at zero" in progress.lines
    assert result.finished
    assert (result.step, result.stopped_by) == (STEPS, None)
    assert result.inner_steps == 2 * 4 * 5 * STEPS
    assert runs.bits(directory) == runs.bits(reference)


def test_another_seed_has_other_bits(reference, config, tmp_path):
    runs.start(runs.settings(config, "seed=1"), tmp_path / "run")
    other, own = runs.bits(tmp_path / "run"), runs.bits(reference)
    assert all(other[name] != own[name] for name in ("state", "theta", "metrics"))


def test_a_signal_stops_between_dispatches_and_loses_nothing(
    reference, settings, tmp_path, monkeypatch
):
    run = RunDirectory(tmp_path / "run")
    result = runs.start(settings, run.path, progress=At(4, stop))
    assert not result.finished
    assert result.stopped_by == "SIGTERM"
    assert 4 <= result.step < STEPS
    assert run.steps()[0] == result.step
    assert rows(run.metrics)[-1] == result.last
    assert not run.optimizer.exists()

    # A signal that comes before the compilation does not wait for it.
    progress = Lines()
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "require_same_config", lambda *_: stop())
        again = runs.start(settings, run.path, resume=True, progress=progress)
    assert (again.step, again.stopped_by) == (result.step, "SIGTERM")
    assert progress.lines == []

    # What a killed run wrote after its last checkpoint is made again.
    for path in (run.metrics, run.timing):
        with path.open("a") as file:
            file.write('{"step": 99}\n{"st')
    assert runs.start(settings, run.path, resume=True).finished
    assert runs.bits(run.path) == runs.bits(reference)
    assert [row["step"] for row in rows(run.timing)] == ALL_STEPS


def test_a_damaged_newest_checkpoint_costs_time_and_nothing_else(
    reference, settings, tmp_path
):
    run = without_end(reference, tmp_path / "run")
    runs.damage(run.path / "checkpoints" / "step_00000010")
    progress = Lines()
    assert runs.start(settings, run.path, resume=True, progress=progress).finished
    (warning,) = (line for line in progress.lines if line.startswith("warning: "))
    assert "resuming from outer step 8" in warning
    assert "step_00000010" in warning
    assert runs.bits(run.path) == runs.bits(reference)


def test_without_a_good_checkpoint_nothing_begins_anew(reference, settings, tmp_path):
    run = without_end(reference, tmp_path / "run")
    for step in run.steps():
        runs.damage(run.path / "checkpoints" / f"step_{step:08d}")
    before = run.metrics.read_bytes()
    with pytest.raises(CheckpointError, match="must have one good checkpoint"):
        runs.start(settings, run.path, resume=True)
    assert run.steps() == [10, 8]
    assert run.metrics.read_bytes() == before


def test_metrics_that_a_checkpoint_counts_on_must_be_there(
    reference, settings, tmp_path
):
    run = without_end(reference, tmp_path / "run")
    run.metrics.unlink()
    with pytest.raises(ValueError, match=r"metrics.jsonl must hold the .* found 0"):
        runs.start(settings, run.path, resume=True)


def test_a_run_is_not_written_over(reference, settings, tmp_path):
    with pytest.raises(ValueError, match=r"needs a directory of its own.*--resume"):
        runs.start(settings, reference)
    run = without_end(reference, tmp_path / "run")
    run.config.unlink()
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"holds checkpoints and no config.json"):
            runs.start(settings, run.path, resume=resume)


def test_a_run_is_resumed_with_its_own_config(reference, config):
    other = runs.settings(config, "outer.learning_rate=0.5")
    with pytest.raises(ValueError, match=r"outer.learning_rate was 0.001 and is now"):
        runs.start(other, reference, resume=True)


def test_a_loss_that_is_not_finite_is_an_error_that_keeps_what_was_saved(
    reference, settings, tmp_path
):
    run = without_end(reference, tmp_path / "run")
    step = 4
    shutil.rmtree(run.path / "checkpoints")
    trainer = build_trainer(settings)
    like = jax.eval_shape(trainer.init, jax.random.key(0))
    good = RunDirectory(reference).restore(like)
    assert good is not None
    state = good.state._replace(
        theta=np.full_like(good.state.theta, np.nan), step=np.int32(step)
    )
    lengths = {"metrics": 0, "timing": 0}
    run.save(state, step, {"seconds": 0.0, "lengths": lengths}, keep=3)
    expected = "no particle had a finite one in the 4 outer steps up to 8: lower"
    with pytest.raises(NonFiniteError, match=expected) as caught:
        runs.start(settings, run.path, resume=True)
    assert "\n" not in str(caught.value)
    assert run.steps() == [6, 4]
    (first, second) = rows(run.metrics)
    assert (first["meta_loss"], first["valid"], first["non_finite"]) == (None, 0, 8)
    assert (first["skipped"], second["skipped"]) == (2, 4)
    kept = run.restore(like)
    assert kept is not None
    assert np.isnan(kept.state.theta).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(kept.state.opt_state))


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_all_that_was_saved(
    reference, settings, tmp_path, monkeypatch
):
    run = RunDirectory(tmp_path / "run")
    written = []

    def twice(path, *args, **kwargs):
        if len(written) == 2:
            no_space()
        written.append(path)
        write_tree(path, *args, **kwargs)

    write_tree = directories.write_tree
    with monkeypatch.context() as patch:
        patch.setattr(directories, "write_tree", twice)
        with pytest.raises(OSError, match="No space left"):
            runs.start(settings, run.path)
    assert run.steps() == [2, 0]
    with monkeypatch.context() as patch:
        patch.setattr(JsonLines, "sync", no_space)
        with pytest.raises(OSError, match="No space left"):
            runs.start(settings, run.path, resume=True)
    assert run.steps() == [2, 0]
    assert runs.start(settings, run.path, resume=True).finished
    assert runs.bits(run.path) == runs.bits(reference)


def test_a_run_that_lost_only_its_result_writes_it_again(reference, settings, tmp_path):
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(reference, run.path)
    shutil.rmtree(run.optimizer)
    assert runs.start(settings, run.path, resume=True).last is None
    assert runs.bits(run.path) == runs.bits(reference)
