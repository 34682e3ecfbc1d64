"""The run loop: what it leaves, how it stops, resumes and fails."""

import errno
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o.storage import CheckpointError, read_manifest
from meta_test.inner_loop import derive_keys, evaluate_params
from meta_train import directory as directories, run as run_module
from meta_train.build import build_optimizer, build_trainer
from meta_train.directory import RunDirectory
from meta_train.metrics import JsonLines
from meta_train.run import NonFiniteError
from meta_train.validation import score
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
    facts = {"seconds": 0.0, "inner_steps": 0, "best": None, "lengths": lengths}
    runs.save(run, state, step, facts)
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


@pytest.fixture
def astray(reference, settings, tmp_path):
    """A run whose last checkpoint has a theta that is not finite since it was made."""
    run = without_end(reference, tmp_path / "astray")
    like = jax.eval_shape(build_trainer(settings).init, jax.random.key(0))
    newest = run.restore(like)
    assert newest is not None
    state = newest.state._replace(
        theta=np.full_like(newest.state.theta, np.nan), skipped=np.int32(2)
    )
    named = ("seconds", "inner_steps", "best", "lengths")
    facts = {name: newest.facts[name] for name in named} | {"skipped": 2}
    runs.save(run, state, newest.step, facts)
    return run


def test_what_is_not_finite_goes_back_and_takes_smaller_steps(
    astray, reference, settings, tmp_path
):
    again = tmp_path / "again"
    shutil.copytree(astray.path, again)
    progress = Lines()
    assert runs.start(settings, astray.path, resume=True, progress=progress).finished
    (warning,) = (line for line in progress.lines if line.startswith("warning: "))
    assert "no particle had a finite one in the 4 outer steps up to 12" in warning
    assert "rolled back to outer step 8, steps are multiplied by 0.5" in warning
    assert [row["step"] for row in rows(astray.metrics)] == ALL_STEPS
    assert all(row["skipped"] == 0 for row in rows(astray.metrics))
    newest = read_manifest(astray.path / "checkpoints" / f"step_{STEPS:08d}")
    assert newest["setback"] == {"times": 1, "scale": 0.5, "step": 8}
    # The steps are half of what they were, from the same place.
    like = jax.eval_shape(build_trainer(settings).init, jax.random.key(0))
    kept, were = (
        run.restore(like)
        for run in (RunDirectory(reference), RunDirectory(astray.path))
    )
    assert kept is not None
    assert were is not None
    assert not np.array_equal(kept.state.theta, were.state.theta)
    # What is stopped after it takes the same ones.
    stopped = runs.start(settings, again, resume=True, progress=At(10, stop))
    assert stopped.stopped_by == "SIGTERM"
    assert runs.start(settings, again, resume=True).finished
    assert runs.bits(again) == runs.bits(astray.path)


def test_it_goes_back_to_the_same_place_where_there_is_none_before(
    astray, settings, monkeypatch
):
    """With few checkpoints kept, as by default, all roll-backs can be made."""
    for step in astray.steps():
        if step not in (8, 10):
            shutil.rmtree(astray.path / "checkpoints" / f"step_{step:08d}")
    fails = iter([True, False])
    train = run_module._Loop._train

    def failing(loop, begin, compiled):
        if begin.step == 8 and next(fails, False):
            raise NonFiniteError("again")
        return train(loop, begin, compiled)

    monkeypatch.setattr(run_module._Loop, "_train", failing)
    progress = Lines()
    assert runs.start(settings, astray.path, resume=True, progress=progress).finished
    went = [line for line in progress.lines if "rolled back to outer step 8" in line]
    assert [line.rpartition("by ")[2].split()[0] for line in went] == ["0.5", "0.25"]


def test_roll_backs_come_to_an_end(astray, config):
    settings = runs.settings(config, "faults.rollbacks=0")
    astray.write_config(settings)
    with pytest.raises(NonFiniteError, match="in the 4 outer steps up to 12: lower"):
        runs.start(settings, astray.path, resume=True)


def test_a_deadline_ends_a_run_that_can_go_on(reference, settings, tmp_path):
    run = without_end(reference, tmp_path / "run")
    result = runs.start(settings, run.path, resume=True, deadline=0.0)
    assert (result.step, result.finished, result.stopped_by) == (10, False, "budget")
    # The last theta is written: it is what there is.
    _, theta = l2o.load(run.optimizer)
    trainer = build_trainer(settings)
    kept = run.restore(jax.eval_shape(trainer.init, jax.random.key(0)))
    assert kept is not None
    jax.tree.map(np.testing.assert_array_equal, theta, trainer.result(kept.state))
    assert read_manifest(run.optimizer)["outer_step"] == 10
    assert runs.start(settings, run.path, resume=True).finished
    assert runs.bits(run.path) == runs.bits(reference)


def test_the_best_theta_is_kept(config, tmp_path, tiny_suite, monkeypatch):
    """Whatever became of it later, and however often the run was stopped."""
    scores = {4: -1.0, 8: -2.0, 12: -1.5}
    judged = iter(scores.values())
    monkeypatch.setattr(run_module, "score", lambda *_: next(judged))
    overrides = ("validation.suite=tiny", "validation.every=4")
    settings = runs.settings(config, *overrides)
    run = RunDirectory(tmp_path / "run")
    assert runs.start(settings, run.path, progress=At(8, stop)).stopped_by == "SIGTERM"
    assert runs.start(settings, run.path, resume=True).finished
    rated = {r["step"]: r["evaluation"] for r in rows(run.metrics) if "evaluation" in r}
    assert {step: r["score"] for step, r in rated.items()} == scores
    assert [(r["best"], r["best_step"]) for r in rated.values()] == [
        (-1.0, 4),
        (-2.0, 8),
        (-2.0, 8),
    ]
    assert read_manifest(run.optimizer)["outer_step"] == 8
    # Theta after 8 steps, of a run that ends there.
    short = runs.settings(config, *overrides, "outer.steps=8", "outer.warmup=0")
    judged = iter(scores.values())
    runs.start(short, tmp_path / "short")
    got, want = (l2o.load(p / "optimizer")[1] for p in (run.path, tmp_path / "short"))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def total(theta):
    return float(sum(x.sum() for x in jax.tree.leaves(theta)))


@pytest.mark.parametrize("judged", [8, STEPS])
def test_a_validation_that_a_signal_cut_short_is_made_up_for(
    judged, config, tmp_path, tiny_suite, monkeypatch
):
    overrides = ("validation.suite=tiny", "validation.every=4")
    settings = runs.settings(config, *overrides)
    calls = []

    def judge(lopt, theta, suite, check):
        del lopt, suite
        calls.append(check)
        if 4 * len(calls) == judged:
            stop()
            while True:  # Until the main thread has noted it.
                check()
        return total(theta)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score", lambda lopt, theta, *_: total(theta))
        runs.start(settings, tmp_path / "whole")
    monkeypatch.setattr(run_module, "score", judge)
    cut = RunDirectory(tmp_path / "cut")
    stopped = runs.start(settings, cut.path)
    assert (stopped.step, stopped.finished) == (judged, False)
    assert stopped.stopped_by == "SIGTERM"
    assert cut.steps()[0] == judged
    assert rows(cut.metrics)[-1]["step"] == judged - 2
    assert not cut.optimizer.exists()
    assert runs.start(settings, cut.path, resume=True).finished
    assert runs.bits(cut.path) == runs.bits(tmp_path / "whole")


def test_score_is_the_mean_logarithm_of_the_median_normalised_loss(tiny_suite):
    lopt = build_optimizer({"arch": "learnable_sgd"})
    still = {"log_learning_rate": jnp.float32(-100.0)}
    family = tiny_suite.cells[0].family()
    # Nothing is learned: the losses are those of the start.
    losses = []
    for seed in tiny_suite.cells[0].seeds:
        keys = derive_keys(seed)
        task = family.task(family.sample(keys.task))
        final = evaluate_params(task, task.init(keys.init), keys.evaluation, 1)
        losses.append(float(task.normalise(final.test_loss)))
    want = np.log10(np.median(losses) + 1e-3)
    assert score(lopt, still, tiny_suite) == pytest.approx(want, rel=1e-5)
    # A training that breaks counts as 2.
    wild = {"log_learning_rate": jnp.float32(80.0)}
    assert score(lopt, wild, tiny_suite) == pytest.approx(np.log10(2.0 + 1e-3))


def test_several_families_are_resumed_bit_for_bit(config, tmp_path):
    """With all that the state of an outer step can hold."""
    settings = runs.settings(
        config,
        'task=[{family="quadratic", dim=2}, {family="quadratic", dim=3, weight=2.0}]',
        "outer.families_per_step=1",
        "outer.balance=0.9",
        "outer.average=0.9",
        'outer.freeze=["mlp/0/*"]',
        "estimator.stagger=1.0",
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    runs.start(settings, whole)
    assert not runs.start(settings, cut, progress=At(4, stop)).finished
    assert runs.start(settings, cut, resume=True).finished
    assert runs.bits(cut) == runs.bits(whole)
    families = [row["families"] for row in rows(RunDirectory(whole).metrics)]
    assert all(set(row) == {"quadratic", "quadratic-2"} for row in families)
    # One of them in every outer step.
    used = [sum(family["updates"] for family in row.values()) for row in families]
    assert used == [2] * (STEPS // 2)


def test_a_warm_start(reference, config, tmp_path):
    source = reference / "optimizer"
    settings = runs.settings(config, f'warm_start="{source}"')
    run = RunDirectory(tmp_path / "run")
    runs.start(settings, run.path, deadline=0.0)
    got, want = (l2o.load(path)[1] for path in (run.optimizer, source))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    other = runs.settings(config, f'warm_start="{source}"', "optimizer.hidden_size=3")
    message = r"^warm_start must have the tensors of SmallFC, mlp/0/b of .* is \(2,\)"
    with pytest.raises(ValueError, match=message):
        runs.start(other, tmp_path / "other")


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
        write_snapshot(path, *args, **kwargs)

    write_snapshot = directories.write_snapshot
    with monkeypatch.context() as patch:
        patch.setattr(directories, "write_snapshot", twice)
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
