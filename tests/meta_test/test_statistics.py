import itertools
import math
from typing import Any

import jax
import numpy as np
import pytest

from meta_test import statistics
from meta_test.inner_loop import Curve, Evaluation
from meta_test.statistics import (
    duel,
    quantile,
    quartiles,
    smooth,
    steps_to_reach,
    verdicts_by_chance,
)


INF, NAN = math.inf, math.nan


def curve(initial: Any, train_loss: Any, final: Any, test: Any = None) -> Curve:
    """Curves from nested lists; accuracies are those of a task without.

    The validation loss is the train loss, and the last of two evaluations the final.
    """
    start: Any = np.asarray(initial, float)
    end: Any = np.asarray(final, float)
    records: Any = np.asarray(train_loss, float)
    tested: Any = end if test is None else np.asarray(test, float)
    nothing: Any = np.full_like(end, NAN)
    steps: Any = np.full(end.shape, 10)
    evaluations = [
        Evaluation(loss, loss, other, nothing, nothing, nothing)
        for loss, other in ((2 * end, 2 * tested), (end, tested))
    ]
    return Curve(
        initial=Evaluation(start, start, start, nothing, nothing, nothing),
        train_loss=records,
        evaluations=jax.tree.map(lambda *x: np.stack(x, axis=-1), *evaluations),
        steps=steps,
    )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_quantile_is_numpys_on_finite_samples(fraction):
    values = np.cos(np.arange(42.0)).reshape(7, 2, 3)
    np.testing.assert_allclose(
        quantile(values, fraction), np.quantile(values, fraction, axis=0)
    )


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([1, 2, 3, 4, INF], (2, 3, 4)),
        ([1, 2, 3, INF, NAN], (2, 3, INF)),
        ([1, 2, INF, INF, INF], (2, INF, INF)),
        ([1, 2, 3, INF], (1.75, 2.5, INF)),
        ([INF, INF], (INF, INF, INF)),
        ([-INF, 1, 2], (1.5, 2, INF)),
        ([5], (5, 5, 5)),
    ],
)
def test_quartiles_with_infinities(sample, expected):
    assert quartiles(sample) == expected


@pytest.mark.parametrize(
    ("initial", "records", "final", "test", "expected"),
    [
        (2.0, [1.5, 1.0], 0.5, 0.6, False),
        (2.0, [9.0, 1.0], 0.5, 9.0, False),  # worse for a while, worse on test
        (2.0, [1.5, 1.0], 2.5, 0.6, True),
        (2.0, [INF, 1.0], 0.5, 0.6, True),
        (2.0, [1.5, NAN], NAN, NAN, True),
        (2.0, [1.5, 1.0], 0.5, INF, True),
        (NAN, [1.5, 1.0], 0.5, 0.6, True),
    ],
)
def test_diverged(initial, records, final, test, expected):
    assert statistics.diverged(curve(initial, records, final, test)) == expected


def test_best_candidate_counts_diverged_seeds():
    finals = [
        [0.9, 0.9, 0.9],
        [0.1, NAN, NAN],  # one excellent seed does not make up for two lost ones
        [0.3, 0.4, NAN],  # lowest median
        [5.0, 5.0, 5.0],  # above the initial loss
    ]
    grid = curve(np.ones((4, 3)), np.ones((4, 3, 2)), finals)
    assert statistics.best_candidate(grid, "train") == 2
    np.testing.assert_array_equal(
        statistics.median_losses(grid, "train"), [0.9, INF, 0.4, INF]
    )


def test_best_candidate_when_all_medians_are_infinite():
    finals = [[NAN, NAN, NAN], [0.5, NAN, NAN]]
    grid = curve(np.ones((2, 3)), np.ones((2, 3, 2)), finals)
    assert statistics.best_candidate(grid, "train") == 1


def test_smooth_keeps_a_straight_line_between_its_ends():
    values = np.arange(10.0)
    found = smooth(values)
    np.testing.assert_allclose(found[2:-2], values[2:-2])
    np.testing.assert_allclose(found[[0, 1, -2, -1]], [1.0, 1.5, 7.5, 8.0])


def test_steps_to_reach_on_straight_lines():
    # Loss 20, 19, ..., 1 in records of 10 steps; the second is as good from record 8.
    slow = np.arange(20.0, 0.0, -1.0)
    fast = np.where(np.arange(20) >= 7, 0.0, 20.0)
    ok = np.zeros(2, bool)
    result = steps_to_reach(np.stack([slow, fast]), ok, 5.0, 10)
    # 5 is record 16 of slow; the centred mean of fast is 4 at record 9.
    np.testing.assert_array_equal(result, [160.0, 90.0])


def test_steps_to_reach_never():
    curves = np.stack([np.full(20, 3.0), np.full(20, 0.0), np.full(20, NAN)])
    failed = np.array([False, True, True])
    result = steps_to_reach(curves, failed, 1.0, 10)
    np.testing.assert_array_equal(result, [INF, INF, INF])


@pytest.mark.parametrize("target", [INF, NAN])
def test_nothing_reaches_a_target_that_is_not_finite(target):
    result = steps_to_reach(np.ones((2, 20)), np.zeros(2, bool), target, 1)
    assert np.isinf(result).all()


def test_half_of_the_reference_reach_its_own_level():
    curves = np.exp(-np.outer([1.0, 1.1, 1.2, 1.3, 1.4], np.linspace(0, 3, 30)))
    ok = np.zeros(5, bool)
    target = statistics.final_level(curves, ok)
    assert np.isfinite(steps_to_reach(curves, ok, target, 1)).sum() == 3


def test_accuracy_of_a_diverged_training_is_zero():
    values, failed = np.array([0.9, NAN]), np.array([False, True])
    np.testing.assert_array_equal(statistics.accuracies(values, failed), [0.9, 0.0])
    assert statistics.accuracies(np.array([NAN, NAN]), failed) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([1, 1, 1, 1, 9], [2, 2, 2, 2, 2], "wins"),
        ([1, 1, 1, 9, 9], [2, 2, 2, 2, 2], "even"),
        ([1, 9, 9, 9, INF], [2, 2, 2, 2, 2], "loses"),
        ([INF] * 5, [INF] * 5, "even"),
        ([1] * 5, [INF] * 5, "wins"),
    ],
)
def test_duel(ours, theirs, verdict):
    assert duel(np.asarray(ours, float), np.asarray(theirs, float)).verdict == verdict


@pytest.mark.parametrize(
    ("pairs", "share"),
    [(1, 1.0), (3, 2 / 8), (5, 2 * (1 + 5) / 32), (10, 2 * (1 + 10 + 45) / 1024)],
)
def test_equals_have_verdicts_by_chance(pairs, share):
    assert verdicts_by_chance(pairs) == share
    outcomes = itertools.product([0.0, 2.0], repeat=pairs)
    found = [duel(np.array(o), np.ones(pairs)).verdict for o in outcomes]
    assert np.mean([verdict != "even" for verdict in found]) == share


def test_the_best_by_train_loss_may_not_be_the_best_by_test_loss():
    train, test = [[0.1] * 3, [0.2] * 3], [[9.0] * 3, [0.3] * 3]
    grid = curve(np.ones((2, 3)), np.ones((2, 3, 2)), train, test)
    assert statistics.best_candidate(grid, "train") == 0
    assert statistics.best_candidate(grid, "test") == 1
    np.testing.assert_array_equal(statistics.final_losses(grid, "test"), test)


def test_best_losses_and_means_of_curves():
    found = curve([2.0, 2.0], [[3.0, 1.0], [1.0, 1.0]], [-0.5, NAN], [0.5, 0.5])
    np.testing.assert_array_equal(statistics.best_losses(found, "train"), [-1.0, INF])
    np.testing.assert_array_equal(statistics.best_losses(found, "test"), [0.5, INF])
    np.testing.assert_array_equal(statistics.mean_losses(found), [2.0, INF])
