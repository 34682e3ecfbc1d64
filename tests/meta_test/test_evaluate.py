import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned.small_fc import SmallFC
from meta_test import evaluate as evaluation
from meta_test.evaluate import Cost, Progress, Protocol, evaluate
from meta_test.optimizers import Contender, baseline, baselines, learned
from meta_test.sweep import sweep
from tasks.base import Task
from tests.helpers import assert_no_recompile
from tests.meta_test.problems import Constant, Line, LineSpec, line_suite, sgd


def test_the_known_best_learning_rate_is_chosen():
    # On curvature 2 the rate 1/2 lands on the minimum in one step.
    report = evaluate([sgd("sgd", 0.01, 0.1, 0.5, 0.9)], line_suite(curvature=2.0))
    (row,) = report.rows
    assert row.fitted.label == row.validated.label == "0.5"
    assert not row.fitted.at_edge
    assert row.train_loss.median == pytest.approx(0.0, abs=1e-10)


def test_a_best_at_the_edge_of_the_grid_is_noted():
    report = evaluate([sgd("sgd", 0.01, 0.1)], line_suite())
    assert report.rows[0].fitted.at_edge
    (alone,) = evaluate([sgd("sgd", 0.01)], line_suite()).rows
    assert not alone.fitted.at_edge
    assert alone.tuning is None


def test_diverging_rates_are_counted_and_rank_last():
    contenders = [sgd("both", 3.0, 0.1), sgd("hopeless", 3.0, 1e20)]
    report = evaluate(contenders, line_suite())
    both, hopeless = report.rows
    assert both.tuning is not None
    assert both.fitted.label == "0.1"
    np.testing.assert_array_equal(both.tuning.diverged, [3, 0])
    assert both.tuning.train_losses[0] == both.tuning.valid_losses[0] == math.inf
    # Twenty steps each, but those given up after a quarter of them.
    assert both.tuning.steps == 3 * (6 + 20)
    assert hopeless.fitted.diverged.all()
    assert hopeless.train_loss == hopeless.test_loss == (math.inf,) * 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shifted(Line):
    """What is not training data has its minimum nearer to the start, by 2."""

    def task(self, spec: LineSpec) -> Task:
        task = super().task(spec)
        move = lambda key, split: jnp.float32(0.0 if split == "train" else 2.0)
        return dataclasses.replace(task, batch=move)


def test_training_and_unseen_data_have_a_rate_each():
    suite = line_suite()
    cell = dataclasses.replace(suite.cells[0], task=Shifted(jnp.float32(1.0)))
    suite = dataclasses.replace(suite, cells=(cell,))
    (row,) = evaluate([sgd("sgd", 1e-3, 0.02, 0.5)], suite).rows
    # A small rate does not go as far.
    assert row.fitted.label == "0.5"
    assert row.validated.label in ("0.001", "0.02")
    assert row.train_loss.median == pytest.approx(0.0, abs=1e-6)
    assert row.test_loss.median < np.median(row.fitted.losses("test"))
    np.testing.assert_array_equal(
        row.validated.losses("test"), row.validated.curve.final.test_loss
    )


def test_nothing_is_tuned_on_the_seeds_of_the_comparison(monkeypatch):
    asked = []

    def listen(*args, **settings):
        seeds, trials = args[4:6]
        asked.append([seeds[place] for _, place in trials])
        return sweep(*args, **settings)

    monkeypatch.setattr(evaluation, "sweep", listen)
    protocol = Protocol(tuning_seeds=2)
    evaluate([sgd("sgd", 0.01, 0.5, 0.1)], line_suite(), protocol=protocol)
    tuning, compared, shortly = filter(None, asked)
    assert tuning == [1_000_000, 1_000_001] * 3
    assert compared == shortly == [0, 1, 2, 3, 4]
    suite = line_suite()
    cell = dataclasses.replace(suite.cells[0], seeds=(3, 1_000_000))
    with pytest.raises(ValueError, match=r"'line' must be below 1000000.*got \(3, "):
        evaluate([sgd("a", 0.1)], dataclasses.replace(suite, cells=(cell,)))


def test_contenders_are_paired():
    # The same rate under two names, beside another: same start, batches and judgement.
    contenders = [sgd("one", 0.1), sgd("other", 0.3), sgd("same", 0.1)]
    suite = line_suite(noise=0.5)
    one, other, same = evaluate(contenders, suite).rows
    for left, right in zip(
        jax.tree.leaves(one.fitted.curve),
        jax.tree.leaves(same.fitted.curve),
        strict=True,
    ):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(
        one.fitted.curve.initial.test_loss, other.fitted.curve.initial.test_loss
    )
    starts = set(np.asarray(one.fitted.curve.initial.test_loss).tolist())
    assert len(starts) == len(suite.cells[0].seeds)


def test_steps_to_reference_are_those_to_the_level_of_adam():
    adam = Contender("adam", Constant(), np.array([0.1], np.float32), ("0.1",))
    report = evaluate([sgd("slow", 0.01), adam, sgd("fast", 0.5)], line_suite())
    slow, reference, fast = map(report.steps, report.rows)
    assert slow is not None
    assert reference is not None
    assert fast is not None
    assert slow.quartiles.median == math.inf
    assert (slow.reached, slow.bound) == (0, 20)
    assert reference.reached >= 3
    assert fast.quartiles.median < reference.quartiles.median <= 20


def test_without_the_reference_there_are_no_steps_to_it():
    (row,) = evaluate([sgd("sgd", 0.1)], line_suite()).rows
    assert row.steps_to_reference is None
    assert row.fitted.accuracies("train") is None


def test_a_reference_that_diverges_has_no_level_to_get_to():
    rows = evaluate([sgd("adam", 3.0), sgd("sgd", 0.5)], line_suite()).rows
    assert rows[0].fitted.diverged.all()
    assert not rows[1].fitted.diverged.any()
    assert [row.steps_to_reference for row in rows] == [None, None]


def test_a_second_evaluation_compiles_nothing():
    contenders = [baseline("sgd"), sgd("plain", 0.1)]
    evaluate(contenders, line_suite())
    other = line_suite(horizon=40)
    with assert_no_recompile():
        evaluate(contenders, other)


def test_same_seed_same_bits():
    first, second = (evaluate([sgd("sgd", 0.1)], line_suite()) for _ in range(2))
    np.testing.assert_array_equal(
        first.rows[0].fitted.curve.train_loss, second.rows[0].fitted.curve.train_loss
    )


def test_progress_is_told_before_each_training():
    seen: list[Progress] = []
    suite = line_suite()
    evaluate([sgd("a", 0.1), sgd("b", 0.1)], suite, on_progress=seen.append)
    assert [(p.done, p.total, p.contender.name) for p in seen] == [
        (0, 2, "a"),
        (1, 2, "b"),
    ]
    assert seen[0].cell is suite.cells[0]


def test_a_learned_optimizer_runs_as_any_other():
    lopt = SmallFC()
    theta = lopt.init_theta(jax.random.key(0))
    contender = learned("small_fc", lopt, theta, theta_sha256="abc")
    (row,) = evaluate([contender], line_suite()).rows
    assert contender.provenance["theta_sha256"] == "abc"
    assert np.isfinite(row.fitted.curve.train_loss).all()
    # An untrained one moves, if to nowhere in particular.
    assert np.ptp(row.fitted.curve.train_loss, axis=1).min() > 0
    assert row.seconds_per_step > 0


def test_names_must_differ():
    with pytest.raises(ValueError, match="differ in name, got a, a"):
        evaluate([sgd("a", 0.1), sgd("a", 0.2)], line_suite())


def test_every_candidate_needs_a_label():
    with pytest.raises(ValueError, match="one entry per label"):
        Contender("x", Constant(), np.ones(3), ("1", "2"))


def test_unknown_baseline():
    with pytest.raises(ValueError, match=r"must be one of sgd, .* got 'sdg'"):
        baselines(["sdg"])


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"tuning_seeds": 0}, "tuning_seeds must be an integer of at least 1, got 0"),
        ({"rates": -1}, "rates must be 0, or several, got -1"),
        ({"rates": 1}, "rates must be 0, or several, got 1"),
        ({"multipliers": 1}, "multipliers must be 0, or several, got 1"),
    ],
)
def test_wrong_protocols(field, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Protocol(**field)


def test_a_number_of_learning_rates():
    sgd_, free = Protocol(rates=14).baselines(["sgd+constant", "schedule_free_adamw"])
    assert len(sgd_.labels) == len(free.labels) == 14
    assert (sgd_.labels[0], sgd_.labels[-1]) == ("0.001", "1000")
    assert Protocol().baselines(["sgd"])[0].labels == baseline("sgd").labels


def test_a_learned_optimizer_with_a_tuned_multiplier_stands_beside_itself():
    protocol = Protocol(multipliers=7)
    contenders = protocol.with_variants([sgd("mine", 0.1, learned=True)])
    mine, tuned = contenders
    assert mine.variant_of == ""
    assert (tuned.name, tuned.variant_of) == ("mine x rate", "mine")
    assert tuned.labels == ("0.032", "0.1", "0.32", "1", "3.2", "10", "32")
    # On curvature 2 a rate of 1/2 lands on the minimum in one step, 3.2 diverges.
    report = evaluate(contenders, line_suite(curvature=2.0), protocol=protocol)
    alone, scaled = report.rows
    assert alone.tuning is None
    assert scaled.tuning is not None
    assert scaled.fitted.label == "3.2"
    plain = scaled.tuning.train_losses[3]
    assert 0.1 < plain / alone.train_loss.median < 10
    assert scaled.train_loss.median < 1e-4 * alone.train_loss.median
    assert scaled.tuning.diverged[-1] == 3
    assert Protocol().with_variants([mine]) == (mine,)


def test_the_cost_of_a_step_is_that_of_longer_trainings():
    # 100 steps of 0.5 and evaluations of 30, beside 10 steps and the same evaluations.
    assert Cost(80.0, 100).of_a_step(Cost(35.0, 10)) == pytest.approx(0.5)
    assert Cost(80.0, 100).of_a_step(Cost(0.0, 0)) == pytest.approx(0.8)
    # A clock's noise, trainings that are as short, or none.
    assert Cost(80.0, 100).of_a_step(Cost(90.0, 10)) == pytest.approx(0.8)
    assert Cost(80.0, 100).of_a_step(Cost(75.0, 10)) == pytest.approx(0.8)
    assert Cost(80.0, 100).of_a_step(Cost(75.0, 100)) == pytest.approx(0.8)
    assert Cost(0.0, 0).of_a_step(Cost(0.0, 0)) == 0.0


def test_what_is_compared_is_also_trained_shortly(monkeypatch):
    made = []

    def counted(*args, record_every, **settings):
        trials = args[5]
        made.append((len(trials), record_every))
        return sweep(*args, record_every=record_every, **settings)

    monkeypatch.setattr(evaluation, "sweep", counted)
    suite = line_suite()
    [cell] = suite.cells
    evaluate([sgd("a", 0.1, 0.2)], suite)
    seeds, every = len(cell.seeds), cell.horizon // suite.num_records
    tuned = 2 * Protocol().tuning_seeds
    of_tuning, of_comparing = [(0, every), (tuned, every)], [(0, every), (seeds, every)]
    assert made == [*of_tuning, *of_comparing, (seeds, 1)]
