import math

import jax
import numpy as np
import pytest

from l2o.learned.small_fc import SmallFC
from meta_test.evaluate import Progress, evaluate
from meta_test.optimizers import Contender, baseline, baselines, learned
from tests.helpers import assert_no_recompile
from tests.meta_test.problems import Constant, line_suite, sgd


def test_the_known_best_learning_rate_is_chosen():
    # On curvature 2 the rate 1/2 lands on the minimum in one step.
    report = evaluate([sgd("sgd", 0.01, 0.1, 0.5, 0.9)], line_suite(curvature=2.0))
    (row,) = report.rows
    assert row.tuning.label == "0.5"
    assert not row.tuning.at_edge
    assert row.train_loss.median == pytest.approx(0.0, abs=1e-10)


def test_a_best_at_the_edge_of_the_grid_is_noted():
    report = evaluate([sgd("sgd", 0.01, 0.1)], line_suite())
    assert report.rows[0].tuning.at_edge
    assert not evaluate([sgd("sgd", 0.01)], line_suite()).rows[0].tuning.at_edge


def test_diverging_rates_are_counted_and_rank_last():
    contenders = [sgd("both", 3.0, 0.1), sgd("hopeless", 3.0, 1e20)]
    report = evaluate(contenders, line_suite())
    both, hopeless = report.rows
    assert both.tuning.label == "0.1"
    np.testing.assert_array_equal(both.tuning.diverged, [5, 0])
    assert both.tuning.median_losses[0] == math.inf
    assert hopeless.diverged.all()
    assert hopeless.train_loss == hopeless.test_loss == (math.inf,) * 3


def test_contenders_are_paired():
    # The same rate under two names, beside another: same start, batches and judgement.
    contenders = [sgd("one", 0.1), sgd("other", 0.3), sgd("same", 0.1)]
    suite = line_suite(noise=0.5)
    one, other, same = evaluate(contenders, suite).rows
    for left, right in zip(
        jax.tree.leaves(one.curve), jax.tree.leaves(same.curve), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(
        one.curve.initial.test_loss, other.curve.initial.test_loss
    )
    assert len(set(one.curve.initial.test_loss.tolist())) == len(suite.cells[0].seeds)


def test_steps_to_reference_are_those_to_the_level_of_adam():
    adam = Contender("adam", Constant(), np.array([0.1], np.float32), ("0.1",))
    rows = evaluate([sgd("slow", 0.01), adam, sgd("fast", 0.5)], line_suite()).rows
    slow, reference, fast = (row.steps_to_reference for row in rows)
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
    assert row.train_accuracy is None


def test_a_second_evaluation_compiles_nothing():
    contenders = [baseline("sgd"), sgd("plain", 0.1)]
    evaluate(contenders, line_suite())
    with assert_no_recompile():
        evaluate(contenders, line_suite(horizon=40))


def test_same_seed_same_bits():
    first, second = (evaluate([sgd("sgd", 0.1)], line_suite()) for _ in range(2))
    np.testing.assert_array_equal(
        first.rows[0].curve.train_loss, second.rows[0].curve.train_loss
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
    assert np.isfinite(row.curve.train_loss).all()
    # An untrained one moves, if to nowhere in particular.
    assert np.ptp(row.curve.train_loss, axis=1).min() > 0


def test_names_must_differ():
    with pytest.raises(ValueError, match="differ in name, got a, a"):
        evaluate([sgd("a", 0.1), sgd("a", 0.2)], line_suite())


def test_every_candidate_needs_a_label():
    with pytest.raises(ValueError, match="one entry per label"):
        Contender("x", Constant(), np.ones(3), ("1", "2"))


def test_unknown_baseline():
    with pytest.raises(ValueError, match=r"must be one of sgd, .* got 'sdg'"):
        baselines(["sdg"])
