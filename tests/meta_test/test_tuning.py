"""Searches for settings on a line, whose best learning rate is known."""

import dataclasses
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from importlib import util

import jax
import jax.numpy as jnp
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import URL

from meta_test import parts, results as kept, statistics, tuning
from meta_test.baselines import BASELINES
from meta_test.evaluate import PROTOCOL, Protocol
from meta_test.inner_loop import HOPELESS
from meta_test.optimizers import Tuned, fixed_sizes
from meta_test.parts import InParts
from meta_test.sweep import run_grid
from meta_test.tuning import GRID_VALUES, Search, tune
from meta_test.tuning_report import as_json, print_outcome, write
from tests.helpers import ROOT, count_compiles, run_python
from tests.meta_test.problems import line_suite


# On curvature 2 the rate 1/2 lands on the minimum in one step; 1 ends where it began,
# and above it all diverge.
SUITE = line_suite(curvature=2.0)
SGD = "sgd+constant"
STEPS = PROTOCOL.tuning_seeds * SUITE.cells[0].horizon


def trials_of(folder, number=0):
    """The trials of a study, in order."""
    path = str(folder / "studies.db")
    storage = URL.create("sqlite", database=path).render_as_string()
    name = optuna.get_all_study_names(storage)[number]
    return optuna.load_study(study_name=name, storage=storage).trials


def counted(trials):
    """Settings and values of those that count."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return [(t.params, t.value) for t in trials if t.state in ended]


@pytest.mark.parametrize("sampler", tuning.SAMPLERS)
def test_every_sampler_finds_the_known_best(sampler, tmp_path):
    if sampler == "gp" and util.find_spec("torch") is None:
        pytest.skip("the Gaussian process needs torch")
    outcome = tune(SGD, SUITE, Search(sampler, trials=13), tmp_path)
    (tried,) = outcome.cells
    assert tried.finished + tried.diverged == 13
    assert tried.diverged
    assert tried.best is not None
    assert tried.row is not None
    assert 0.1 < tried.best.settings["learning_rate"] < 1.0
    assert tried.best.valid_loss < 1e-2
    assert tried.row.test_loss.median < 1e-2
    assert len(tried.row.losses("test")) == len(SUITE.cells[0].seeds)
    trials = trials_of(tmp_path)
    rates = [trial.params["learning_rate"] for trial in trials]
    assert len(set(rates)) == 13 or sampler == "gp"
    losses = [trial.user_attrs["part"]["loss"] for trial in trials]
    assert tried.best.valid_loss == min(losses)
    # The sampler was told something finite of those that diverged.
    for trial, loss in zip(trials, losses, strict=True):
        part = trial.user_attrs["part"]
        assert trial.value == min(loss, part["ceiling"])
        assert math.isinf(loss) == (trial.params["learning_rate"] > 1.0)


def test_a_grid_ends_when_it_is_exhausted(tmp_path):
    folder = tmp_path / "50 %, or what?"  # Which would mean something in a URL.
    folder.mkdir()
    outcome = tune(SGD, SUITE, Search("grid", trials=20), folder)
    assert [path.name for path in folder.iterdir()] == ["studies.db"]
    rates = sorted(t.params["learning_rate"] for t in trials_of(folder))
    np.testing.assert_allclose(rates, np.geomspace(1e-3, 1e3, 13))
    assert outcome.cells[0].finished == 7
    assert outcome.cells[0].diverged == 6


def test_a_grid_has_all_combinations():
    row = BASELINES["lbfgs"]
    grid = tuning._grid(row)
    rates = BASELINES["lbfgs"].learning_rates
    assert len(grid) == len(rates) * GRID_VALUES
    assert {point["memory_size"] for point in grid} == {3, 9, 30}
    assert all(type(point["memory_size"]) is int for point in grid)
    adam = tuning._grid(BASELINES["adam"])
    assert len({tuple(point.values()) for point in adam}) == 11 * GRID_VALUES**2
    for name, where in BASELINES["adam"].settings.items():
        ends = [point[name] for point in adam]
        np.testing.assert_allclose([min(ends), max(ends)], [where.low, where.high])


def test_parts_are_the_trainings_of_a_sweep():
    """Also in the middle: the schedule spans the whole training."""
    suite = line_suite(noise=0.3)
    (cell,) = suite.cells
    rates = np.array([0.03, 0.7, 2.2, 50.0], np.float32)
    curve = run_grid(
        cell.family(),
        cell.specs(cell.family(), PROTOCOL.seeds),
        Tuned("sgd"),
        {"learning_rate": rates},
        PROTOCOL.seeds,
        num_records=10,
        record_every=2,
        eval_batches=2,
        evaluations=10,
        hopeless=HOPELESS,
    )
    bench = InParts("sgd", cell, suite, PROTOCOL)
    ends = []
    for i, rate in enumerate(rates):
        seen = list(bench.train({"learning_rate": float(rate)}))
        ends.append(seen[-1])
        found = [part.loss for part in seen[:-1]]
        valid = statistics.quantile(curve.evaluations.valid_loss[i], 0.5)
        kept_finite = np.isfinite(found)
        np.testing.assert_allclose(
            np.array(found)[kept_finite], valid[: len(found)][kept_finite], rtol=1e-4
        )
        final = statistics.median_losses(curve, "valid")[i]
        np.testing.assert_allclose(seen[-1].loss, final, rtol=1e-4)
        if math.isfinite(final):
            assert seen[-1].number == 10
            assert seen[-1].diverged == statistics.diverged(curve)[i].sum()
            assert seen[-1].steps == curve.steps[i].sum()
    assert ends[-1].loss == math.inf
    assert ends[-1].number < 10


def test_two_devices_train_the_same():
    code = """
        from meta_test.evaluate import PROTOCOL
        from meta_test.parts import InParts
        from tests.meta_test.problems import line_suite
        suite = line_suite(noise=0.3)
        bench = InParts("sgd", suite.cells[0], suite, PROTOCOL)
        print(*(part.loss for part in bench.train({"learning_rate": 0.1})))
    """
    printed = run_python("\n".join(map(str.strip, code.splitlines())), devices=2)
    suite = line_suite(noise=0.3)
    bench = InParts("sgd", suite.cells[0], suite, PROTOCOL)
    losses = [part.loss for part in bench.train({"learning_rate": 0.1})]
    np.testing.assert_allclose(losses, [float(x) for x in printed.split()], rtol=1e-4)


def test_one_program_for_all_trials_and_cells(tmp_path):
    # Other batches: nothing that another test compiled fits.
    suite = dataclasses.replace(line_suite(), eval_batches=3)
    (cell,) = suite.cells
    longer = dataclasses.replace(cell, name="longer", horizon=40)
    suite = dataclasses.replace(suite, cells=(cell, longer))
    with count_compiles() as names:
        outcome = tune("nesterov", suite, Search("random", trials=4), tmp_path)
    assert [tried.cell.name for tried in outcome.cells] == ["line", "longer"]
    ours = [name for name in names if "_begin" in name or "_advance" in name]
    assert len(ours) == 2


def test_whole_numbers_are_sizes():
    tuned, traced = fixed_sizes("lbfgs", {"learning_rate": 1.0, "memory_size": 4})
    assert tuned == Tuned("lbfgs", (("memory_size", 4),))
    assert traced == {"learning_rate": 1.0}
    optimizer = tuned(traced, jnp.int32(3))
    state = optimizer.init({"w": np.ones((2, 3), np.float32)})
    assert any(leaf.shape == (4, 2, 3) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("random", "halving"), ("random", "hyperband"), ("tpe", "hyperband")],
)
def test_pruned_trials_are_cut_short(sampler, pruner, tmp_path, monkeypatch):
    made = []

    def listen(*args, **options):
        made.append(int(args[3]))
        return advance(*args, **options)

    advance = parts._advance
    monkeypatch.setattr(parts, "_advance", listen)
    outcome = tune(SGD, SUITE, Search(sampler, pruner, trials=14), tmp_path)
    (tried,) = outcome.cells
    trials = trials_of(tmp_path)
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    assert len(pruned) == tried.pruned > 0
    assert tried.finished > 0
    assert tried.finished + tried.pruned + tried.diverged == 14
    for trial in trials:
        part = trial.user_attrs["part"]
        if trial.state == TrialState.PRUNED:
            assert part["number"] in (1, 3, 9)
            assert part["steps"] == part["number"] * STEPS // 10
            # The last report is what the sampler has of it.
            assert trial.value == min(part["loss"], part["ceiling"])
        elif math.isfinite(part["loss"]):
            assert part["steps"] == STEPS
    assert tried.steps == sum(t.user_attrs["part"]["steps"] for t in trials)
    assert tried.steps == PROTOCOL.tuning_seeds * sum(made) < 14 * STEPS
    assert tried.best is not None
    assert trials[tried.best.trial].state == TrialState.COMPLETE


def test_what_diverges_everywhere_has_no_best(tmp_path):
    outcome = tune(SGD, line_suite(curvature=1e7), Search("random", trials=3), tmp_path)
    (tried,) = outcome.cells
    assert (tried.finished, tried.diverged) == (0, 3)
    assert tried.best is None
    assert tried.row is None
    stream = io.StringIO()
    print_outcome(outcome, stream)
    assert "all diverged" in stream.getvalue()
    (cell,) = as_json(outcome)["cells"]
    assert (cell["best"], cell["comparison"]) == (None, None)


@pytest.fixture
def code(monkeypatch):
    """Sets what the code is: an edit during a test would begin a new study."""

    def is_now(name):
        kept.environment.cache_clear()
        monkeypatch.setattr(kept, "source_sha256", lambda: name)

    yield is_now
    kept.environment.cache_clear()


DYING = """
import os, signal, sys
from pathlib import Path
from meta_test import parts, results
from meta_test.tuning import Search, tune
from tests.meta_test.problems import line_suite

advance, calls = parts._advance, 0

def dying(*args, **options):
    global calls
    calls += 1
    if calls == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(*args, **options)

parts._advance = dying
results.source_sha256 = lambda: "this"
search = Search(sys.argv[1], sys.argv[2], trials=13)
tune("sgd+constant", line_suite(curvature=2.0), search, Path(sys.argv[3]))
"""


@pytest.mark.parametrize(
    ("sampler", "pruner"), [("tpe", "none"), ("grid", "none"), ("cmaes", "hyperband")]
)
def test_a_study_survives_kill_9(sampler, pruner, tmp_path, code):
    code("this")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, "-c", DYING, sampler, pruner, str(cut)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        check=False,
        timeout=100,
    )
    assert done.returncode == -signal.SIGKILL
    before = trials_of(cut)
    assert [t.state for t in before].count(TrialState.RUNNING) == 1
    assert 0 < len(counted(before)) < 13
    search = Search(sampler, pruner, trials=13)
    outcome = tune(SGD, SUITE, search, cut)
    trials = trials_of(cut)
    assert len(trials) == 14
    assert trials[len(before) - 1].state == TrialState.FAIL
    assert len(counted(trials)) == 13
    assert counted(trials)[: len(counted(before))] == counted(before)
    rates = [params["learning_rate"] for params, _ in counted(trials)]
    assert len(set(rates)) == 13
    # Nothing is left to do; more trials are those that are missing.
    again = tune(SGD, SUITE, search, cut)
    assert as_json(again) == as_json(outcome)
    assert len(trials_of(cut)) == 14
    if (sampler, pruner) == ("tpe", "none"):
        tune(SGD, SUITE, search, whole)
        assert counted(trials_of(whole)) == counted(trials)
        tune(SGD, SUITE, dataclasses.replace(search, trials=15), cut)
        assert len(counted(trials_of(cut))) == 15


def test_a_changed_task_or_code_begins_a_new_study(tmp_path, code):
    search = Search("random", trials=2)
    suites = SUITE, line_suite(curvature=3.0)
    names = [tune(SGD, suite, search, tmp_path).cells[0].study for suite in suites]
    for changed in (
        Search("random", trials=2, seed=1),
        Search("tpe", trials=2),
        Search("random", "halving", trials=2),
    ):
        names.append(tune(SGD, SUITE, changed, tmp_path).cells[0].study)
    fewer = Protocol(tuning_seeds=2)
    names.append(tune(SGD, SUITE, search, tmp_path, protocol=fewer).cells[0].study)
    code("other")
    names.append(tune(SGD, SUITE, search, tmp_path).cells[0].study)
    assert len(set(names)) == len(names)
    assert all(name.startswith("line, ") for name in names)
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    assert sorted(optuna.get_all_study_names(storage)) == sorted(names)


def test_what_stops_a_search_leaves_nothing_in_progress(tmp_path):
    seen = []

    def stop(trying):
        seen.append(trying)
        if trying.done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tune(SGD, SUITE, Search("random", trials=5), tmp_path, on_trial=stop)
    states = [trial.state for trial in trials_of(tmp_path)]
    assert states == [TrialState.COMPLETE] * 3
    assert [(trying.done, trying.total) for trying in seen] == [
        (done, 5) for done in range(4)
    ]
    assert seen[0].best == math.inf
    # A seed of its own for every trial.
    seeds = {tuning._seed(*pair) for pair in itertools.product(range(9), range(99))}
    assert len(seeds) == 9 * 99


def test_the_report_is_whole_and_strict(tmp_path):
    outcome = tune("nesterov", SUITE, Search("random", trials=3, seed=1), tmp_path)
    path = write(outcome, tmp_path)
    tree = json.loads(path.read_text())
    assert tree == json.loads(json.dumps(as_json(outcome), allow_nan=False))
    assert {p.name for p in tmp_path.iterdir()} == {"studies.db", "tuning.json"}
    assert tree["optimizer"] == "nesterov"
    assert tree["suite"]["hash"] == SUITE.hash
    assert tree["tuning_seeds"] == list(PROTOCOL.seeds)
    (cell,) = tree["cells"]
    assert cell["hash"] == SUITE.cells[0].hash
    assert set(cell["best"]["settings"]) == {"learning_rate", "one_minus_momentum"}
    assert sum(cell["trials"][k] for k in ("finished", "pruned", "diverged")) == 3
    assert len(cell["comparison"]["train_losses"]) == 5
    stream = io.StringIO()
    print_outcome(outcome, stream)
    header, _, line, *_ = stream.getvalue().splitlines()
    assert header.split()[:2] == ["cell", "settings"]
    assert "momentum=0." in line


def test_what_cannot_be_searched(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"got 'tp' \(did you mean 'tpe'\?\)"):
        Search("tp")
    with pytest.raises(ValueError, match="a pruner must be one of none, halving, "):
        Search(pruner="median")
    with pytest.raises(ValueError, match="trials must be an integer of at least 1"):
        Search(trials=0)
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'l2o\[tune\]'$"):
        Search("cmaes")
    with pytest.raises(ValueError, match=r"torch is not: pip install 'l2o\[tune-gp\]'"):
        Search("gp")
    monkeypatch.undo()
    nowhere = line_suite(curvature=math.inf)
    with pytest.raises(ValueError, match="must be finite to tune on it, got inf for"):
        tune(SGD, nowhere, Search("random", trials=1), tmp_path)


def test_optuna_is_imported_only_to_tune():
    code = "import meta_test.tuning, sys; print('optuna' in sys.modules)"
    assert run_python(code).strip() == "False"
