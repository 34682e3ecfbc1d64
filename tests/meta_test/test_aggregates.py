import itertools
import math

import numpy as np
import pytest

from meta_test.aggregates import (
    compare,
    interquartile_mean,
    normalised,
    performance_profile,
    probability_of_improvement,
    speedups,
    stratified_bootstrap,
)


INF, NAN = math.inf, math.nan


def pooled(tasks):
    return interquartile_mean(np.concatenate(tasks))


def mean_over_tasks(tasks):
    return float(np.mean([task.mean() for task in tasks]))


def replay(scores, statistic, **settings):
    """The values that a statistic takes in a bootstrap, the resamples' first."""
    values = []

    def recorded(tasks):
        values.append(statistic(tasks))
        return values[-1]

    interval = stratified_bootstrap(scores, recorded, **settings)
    return interval, np.array(values[:-1])


def losses(rng, tasks, seeds, effect=0.0):
    """Ours and theirs, one in ten of either diverged; ours lower by `effect`.

    Tasks differ in scale, seeds add what both share and what is their own.
    """
    shape = (tasks, seeds)
    shared = rng.normal(size=(tasks, 1)) * 3 + rng.normal(size=shape)
    pair = np.exp(shared + rng.normal(size=(2, *shape)))
    pair[0] *= math.exp(-effect)
    return np.where(rng.random(pair.shape) < 0.1, INF, pair)


# Normalised losses.


def test_normalised_losses():
    found = normalised([1.0, 3.0, 2.0, 0.5, 4.0, INF], initial=3.0, best=1.0)
    np.testing.assert_array_equal(found, [0.0, 1.0, 0.5, -0.25, 1.0, 1.0])


@pytest.mark.parametrize(
    ("initial", "best"), [(1.0, 1.0), (1.0, 2.0), (INF, 1.0), (1.0, -INF), (NAN, 1.0)]
)
def test_normalisation_needs_an_initial_loss_above_the_best(initial, best):
    message = (
        rf"^the initial loss must be finite and above .* got {initial} and {best}$"
    )
    with pytest.raises(ValueError, match=message):
        normalised([1.0], initial, best)


# The interquartile mean.


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], 3.0),  # int(3 / 4): nothing is cut
        ([9.0, 1.0, 2.0, -5.0], 1.5),
        ([INF, 1.0, 2.0, -INF], 1.5),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, INF, INF], 3.5),
        ([[5.0, 4.0, 3.0, 2.0], [1.0, INF, INF, INF]], INF),
        ([-INF, -INF, 1.0, 2.0], -INF),
        ([INF], INF),
        # The scores in the tests of rliable's metrics, and what it has for them.
        ([[1, 2], [2, 2], [1, 1], [2, 1]], 1.5),
        ([[1, 1], [2, 2], [3, 3]], 2.0),
    ],
)
def test_interquartile_mean(values, expected):
    assert interquartile_mean(values) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 50, 99])
def test_interquartile_mean_is_the_trimmed_mean_that_rliable_takes(n):
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(n).normal(size=n)
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "^values must hold at least one value, got none$"),
        ([1.0, NAN, 2.0], r"^values must not be nan .*, got 1 nan of 3$"),
        ([INF, -INF], "^the middle half of values must not hold .*, got -inf and inf$"),
    ],
)
def test_samples_without_an_interquartile_mean(values, message):
    with pytest.raises(ValueError, match=message):
        interquartile_mean(values)


# The bootstrap.


def test_one_seed_leaves_nothing_to_resample():
    assert stratified_bootstrap([[2.0], [4.0]], mean_over_tasks) == (3.0, 3.0, 3.0)


@pytest.mark.statistical
@pytest.mark.parametrize("over_tasks", [False, True])
def test_the_bootstrap_of_one_task(over_tasks):
    """False alarms: below 1e-6; shares six errors or more from 2.5 %.

    All of five draws miss 2, 3 and 4 in one per cent of the resamples, 3 and 4 in 8.
    """
    interval = stratified_bootstrap(
        [np.arange(5.0)], lambda tasks: tasks[0].max(), over_tasks=over_tasks
    )
    assert interval == (2.0, 4.0, 4.0)


def test_same_seed_same_interval():
    scores = np.random.default_rng(0).normal(size=(4, 5))
    first, again, other = (
        stratified_bootstrap(scores, pooled, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.statistical
def test_seeds_are_drawn_within_their_task_and_pairs_stay_together():
    """False alarms: below 1e-6; each of four values in a quarter of 200 resamples."""
    sizes = (3, 1, 4)
    # The first of a pair tells the task, the second follows from both.
    scores = [10.0 * k + np.arange(n) for k, n in enumerate(sizes)]
    pairs = [np.stack([task, task**2], axis=1) for task in scores]

    def looked_at(tasks):
        assert [task.shape for task in tasks] == [(n, 2) for n in sizes]
        for k, task in enumerate(tasks):
            assert set(task[:, 0]) <= set(scores[k])
            np.testing.assert_array_equal(task[:, 1], task[:, 0] ** 2)
        return tasks[2][0, 0]

    interval, values = replay(pairs, looked_at, repetitions=200)
    assert interval == (20.0, 20.0, 23.0)
    assert set(values) == {20.0, 21.0, 22.0, 23.0}


@pytest.mark.statistical
def test_tasks_are_drawn_whole():
    """False alarms: below 1e-6; a rare outcome is one in nine, of 200 resamples."""
    sizes = (3, 1, 4)
    scores = [10.0 * k + np.arange(n) for k, n in enumerate(sizes)]

    def looked_at(tasks):
        drawn = [int(task[0] // 10) for task in tasks]
        assert [len(task) for task in tasks] == [sizes[k] for k in drawn]
        for k, task in zip(drawn, tasks, strict=True):
            assert set(task) <= set(scores[k])
        return float(len(set(drawn)))

    interval, values = replay(scores, looked_at, repetitions=200, over_tasks=True)
    assert interval.estimate == 3.0
    assert set(values) == {1.0, 2.0, 3.0}


@pytest.mark.statistical
def test_infinite_scores_make_infinite_ends():
    """False alarms: below 1e-6; a quarter of the resamples are infinite."""
    scores = [[0.0, 1.0, 2.0, INF]]
    low, estimate, high = stratified_bootstrap(scores, pooled)
    assert (estimate, high) == (1.5, INF)
    assert math.isfinite(low)


@pytest.mark.statistical
def test_standard_error_of_a_mean_over_tasks():
    """False alarms: below 1e-5; relative error 1.1 % of a deviation of 4000 samples.

    Drawing n of n seeds gives a task's mean the variance `(n - 1) / n * s^2 / n`.
    Drawing tasks adds the variance between their means.
    """
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=n) * n for n in (2, 3, 3, 5, 8)]
    within = np.array([task.var() / len(task) for task in scores])
    _, values = replay(scores, mean_over_tasks, repetitions=4000)
    want = math.sqrt(within.sum()) / len(scores)
    assert values.std() == pytest.approx(want, rel=0.05)
    _, values = replay(scores, mean_over_tasks, repetitions=4000, over_tasks=True)
    between = np.var([task.mean() for task in scores])
    want = math.sqrt((between + within.mean()) / len(scores))
    assert values.std() == pytest.approx(want, rel=0.05)


@pytest.mark.statistical
def test_interval_has_its_share_of_a_normal_distribution():
    """False alarms: below 1e-4; 4 errors of quantiles, each 0.04 deviations."""
    scores = np.random.default_rng(0).normal(size=(40, 5))
    deviation = math.sqrt(scores.var(axis=1).sum() / 5) / 40
    low, estimate, high = stratified_bootstrap(
        scores, mean_over_tasks, repetitions=4000, level=0.9
    )
    assert estimate == pytest.approx(scores.mean())
    assert (low - estimate) / deviation == pytest.approx(-1.645, abs=0.15)
    assert (high - estimate) / deviation == pytest.approx(1.645, abs=0.15)


@pytest.mark.parametrize(
    ("scores", "settings", "message"),
    [
        ([], {}, r"^scores must hold at least one task, .* got shapes \[\]$"),
        ([[1.0], []], {}, r"^scores must hold .* seed, got shapes \[\(1,\), \(0,\)\]$"),
        ([1.0], {}, r"^scores must hold at least one task, .* got shapes \[\(\)\]$"),
        ([[1.0], [NAN]], {}, r"^scores\[1\] must not be nan .*, got 1 nan of 1$"),
        (
            [[1.0], [[1.0]]],
            {},
            r"^tasks must agree .* got shapes \[\(1,\), \(1, 1\)\]$",
        ),
        ([[1.0]], {"repetitions": 0}, "^repetitions must be at least 1, got 0$"),
        ([[1.0]], {"level": 1.0}, r"^level must be in \(0, 1\), got 1.0$"),
    ],
)
def test_scores_that_cannot_be_resampled(scores, settings, message):
    with pytest.raises(ValueError, match=message):
        stratified_bootstrap(scores, mean_over_tasks, **settings)


def test_a_statistic_that_is_nan_is_refused():
    message = r"^the statistic must not be nan, got nan for scores and nan for 9 of 9 "
    with pytest.raises(ValueError, match=message):
        stratified_bootstrap([[1.0]], lambda tasks: NAN, repetitions=9)


# The probability of improvement.


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([[1.0]], [[2.0]], 1.0),
        ([[2.0]], [[1.0]], 0.0),
        ([[1.0]], [[1.0]], 0.5),
        ([[INF]], [[INF]], 0.5),
        ([[1.0, INF, INF, 3.0]], [[INF, 1.0, INF, 3.0]], 0.5),
        ([[1.0, 1.0, 9.0]], [[2.0, 2.0, 2.0]], 2 / 3),
        # A task counts once, however many its seeds: the mean of 1 and 1/4.
        ([[1.0], [1.0, 9.0, 9.0, 9.0]], [[2.0], [2.0, 2.0, 2.0, 2.0]], 0.625),
        # All seeds against all would give 1/2 here: seeds are paired.
        ([[1.0, 3.0]], [[2.0, 4.0]], 1.0),
    ],
)
def test_probability_of_improvement(ours, theirs, expected):
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected)
    other = probability_of_improvement(theirs, ours)
    assert other == pytest.approx(1 - expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([[1.0]], [], r"^theirs must hold at least one task, .* got shapes \[\]$"),
        (
            [[1.0]],
            [[1.0], [2.0]],
            r"^ours and theirs must have the same tasks, .* got ",
        ),
        ([[1.0]], [[1.0, 2.0]], r"got shapes \[\(1,\)\] and \[\(2,\)\]$"),
        ([[[1.0]]], [[[1.0]]], r"on a single axis, got shapes \[\(1, 1\)\] and "),
        ([[1.0, NAN]], [[1.0, 2.0]], r"^ours\[0\] must not be nan .*, got 1 nan of 2$"),
    ],
)
def test_losses_that_are_not_paired(ours, theirs, message):
    for function in (probability_of_improvement, compare):
        with pytest.raises(ValueError, match=message):
            function(ours, theirs)


# Performance profiles.


def test_performance_profile():
    costs = [
        [10.0, 30.0, INF, 5.0],
        [20.0, 10.0, INF, 5.0],
        [INF, 20.0, INF, INF],
    ]
    found = performance_profile(costs, [1.0, 2.0, 3.0, INF])
    expected = [[0.5, 0.5, 0.75, 0.75], [0.5, 0.75, 0.75, 0.75], [0, 0.25, 0.25, 0.25]]
    np.testing.assert_array_equal(found, expected)


def test_performance_profile_of_one_optimizer_is_what_it_solves():
    np.testing.assert_array_equal(performance_profile([[3.0, INF]], [1.0]), [[0.5]])


@pytest.mark.parametrize(
    ("costs", "factors", "message"),
    [
        (
            [1.0, 2.0],
            [1.0],
            r"^costs must be \[optimizers, problems\] .* shape \(2,\)$",
        ),
        (np.ones((2, 0)), [1.0], r"got shape \(2, 0\)$"),
        ([[0.0, 1.0]], [1.0], "^costs must be positive, got 0.0$"),
        ([[NAN, 1.0]], [1.0], "^costs must not be nan .*, got 1 nan of 2$"),
        ([[1.0]], [NAN], "^factors must not be nan .*, got 1 nan of 1$"),
    ],
)
def test_costs_without_a_profile(costs, factors, message):
    with pytest.raises(ValueError, match=message):
        performance_profile(costs, factors)


# Speedups.


def test_speedups():
    found = speedups([30.0, 100.0, 80.0, INF, INF], [20.0, 200.0, INF, 50.0, INF], 200)
    np.testing.assert_allclose(found.values, [1.5, 0.5, 0.4, 4.0, 1.0])
    np.testing.assert_array_equal(found.bounded, [False, False, True, True, True])


@pytest.mark.parametrize(
    ("reference", "steps", "bound", "message"),
    [
        ([1.0], [1.0, 2.0], 9, r"^reference_steps and .* shapes \(1,\) and \(2,\)$"),
        ([1.0], [0.0], 9, "^steps must be positive, got 0.0$"),
        ([10.0], [1.0], 9, "^reference_steps must be at most the bound of 9, .* 10.0$"),
        ([1.0], [NAN], 9, "^steps must not be nan .*, got 1 nan of 1$"),
        ([INF], [INF], INF, "^bound must be positive and finite, got inf$"),
    ],
)
def test_steps_without_a_speedup(reference, steps, bound, message):
    with pytest.raises(ValueError, match=message):
        speedups(reference, steps, bound)


@pytest.mark.statistical
@pytest.mark.parametrize(("variation", "over_tasks"), [(0.0, False), (0.2, True)])
def test_a_planted_speedup_is_found(variation, over_tasks):
    """False alarms: 3 % and below 1e-5; of 600 intervals 92 and 96 % should hold it.

    On 16 tasks of 5 seeds, with a deviation of 0.2 in the logarithm of steps. Drawing
    seeds alone gives four fifths of the variance. Where the speedup itself varies over
    tasks, with that deviation, it takes drawing tasks.
    """
    rng, planted = np.random.default_rng(0), 1.5
    held, estimates = 0, []
    for seed in range(600):
        noise = np.exp(0.2 * rng.normal(size=(2, 16, 5)))
        reference, own = 1000 * np.exp(rng.normal(size=(16, 1))) * noise
        own *= np.exp(variation * rng.normal(size=(16, 1))) / planted
        pairs = zip(reference, own, strict=True)
        values = [speedups(*pair, 1e6).values for pair in pairs]
        low, estimate, high = stratified_bootstrap(
            values, pooled, repetitions=200, seed=seed, over_tasks=over_tasks
        )
        held += low <= planted <= high
        estimates.append(estimate)
    assert held >= 0.9 * 600
    # A mean of ratios is above their median, by one per cent here.
    assert np.mean(estimates) == pytest.approx(planted, rel=0.025)


# Comparisons.


def test_one_pair_proves_nothing():
    assert compare([[1.0]], [[2.0]]) == ((1.0, 1.0, 1.0), 1.0, "no difference")


@pytest.mark.parametrize("value", [1.0, INF])
def test_ties_prove_nothing(value):
    same = [[value] * 5] * 4
    probability, p_value, verdict = compare(same, same)
    np.testing.assert_allclose(probability, 0.5)
    assert (p_value, verdict) == (1.0, "no difference")


@pytest.mark.parametrize(
    ("tasks", "seeds", "found"),
    [
        (2, 3, "better"),
        (1, 6, "better"),
        # Happens by chance once in sixteen, though the interval has no width.
        (1, 5, "no difference"),
        (5, 1, "no difference"),
    ],
)
def test_whoever_always_wins_is_better_unless_pairs_are_few(tasks, seeds, found):
    ours, theirs = np.ones((tasks, seeds)), np.full((tasks, seeds), INF)
    probability, p_value, verdict = compare(ours, theirs)
    np.testing.assert_allclose(probability, 1.0)
    assert (p_value, verdict) == (2 / 2 ** (tasks * seeds), found)
    probability, _, verdict = compare(theirs, ours)
    np.testing.assert_allclose(probability, 0.0)
    assert verdict == {"better": "worse"}.get(found, found)


@pytest.mark.statistical
def test_the_verdict_needs_the_interval_too():
    """False alarms: below 1e-3; a share of 4 % of the resamples is four errors off.

    Pairs of seeds that disagree are the largest variance an interval can see.
    """
    ours = [[0.0, 0.0]] * 12 + [[0.0, 2.0]] * 48
    (low, estimate, high), p_value, verdict = compare(ours, np.ones((60, 2)))
    assert estimate == pytest.approx(0.6)
    assert low < 0.5 < high
    assert p_value < 0.05
    assert verdict == "no difference"


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3), (2, 2, 1), (1, 1, 1, 1)])
def test_sign_flips_are_exact(sizes):
    """Over all sign patterns, p-values at or below p have a share of p exactly."""
    edges = np.cumsum(sizes)[:-1]
    patterns = itertools.product([0.0, 2.0], repeat=sum(sizes))
    ours = [np.split(np.array(pattern), edges) for pattern in patterns]
    theirs = [np.ones(n) for n in sizes]
    found = np.array([compare(own, theirs, repetitions=1).p_value for own in ours])
    for p in np.unique(found):
        assert (found <= p).mean() == pytest.approx(p)
    distance = [abs(probability_of_improvement(own, theirs) - 0.5) for own in ours]
    assert (np.diff(found[np.argsort(distance)]) <= 1e-12).all()


def test_sign_flips_leave_ties_alone():
    ours, theirs = [[1.0, 5.0, 5.0], [1.0, 1.0, 1.0]], [[2.0, 5.0, 5.0], [2.0] * 3]
    assert compare(ours, theirs).p_value == 2 / 2**4


def test_many_numbers_of_seeds_are_compared():
    ours = [np.zeros(n) for n in range(1, 11)]
    theirs = [np.ones(n) for n in range(1, 11)]
    assert compare(ours, theirs).p_value == 2 / 2**55


@pytest.mark.statistical
def test_variance_of_the_interval_is_unbiased():
    """False alarms: below 1e-4; a width is in error by 2 %, and 10 are allowed.

    Without rescaling it would be too short by a fifth at three seeds.
    """
    rng = np.random.default_rng(0)
    wins = rng.random((60, 3)) < rng.uniform(0.3, 0.8, size=(60, 1))
    low, _, high = compare(np.where(wins, 0.0, 2.0), np.ones((60, 3))).probability
    error = math.sqrt(wins.var(axis=1, ddof=1).sum() / 3) / 60
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.1)


@pytest.mark.statistical
def test_tasks_of_one_seed_are_one_stratum():
    """False alarms: below 1e-3; a width is in error by 2 %, and in steps of 1/101."""
    ours = [[0.0]] * 60 + [[2.0]] * 40 + [[0.0, 2.0]]
    theirs = [np.ones(len(task)) for task in ours]
    low, estimate, high = compare(ours, theirs).probability
    assert estimate == pytest.approx(60.5 / 101)
    error = math.sqrt(100 * 0.24 * 100 / 99 + 0.25) / 101
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.12)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("tasks", "seeds"), [(16, 3), (16, 5), (14, 5), (5, 5), (16, 1)]
)
def test_an_exchangeable_copy_is_no_different(tasks, seeds):
    """False alarms: 5 % at 5 x 5, else below 2 %; above 6 % of 400 experiments.

    The test is exact, and its level below 5 %, as the number of wins is whole.
    """
    rng = np.random.default_rng(0)
    found = [
        compare(*losses(rng, tasks, seeds), repetitions=200, seed=seed).verdict
        for seed in range(400)
    ]
    assert found.count("no difference") >= 0.94 * 400
    # Neither side is favoured: four errors of a rate of 4 %.
    assert abs(found.count("better") - found.count("worse")) <= 16


@pytest.mark.statistical
def test_percentile_intervals_alone_raise_false_alarms():
    """False alarms: below 1e-3; less than 8 % of 400 experiments, of 13 expected.

    Why the verdict needs more than them: at three seeds a task they are too short.
    """
    rng, alarms = np.random.default_rng(0), 0
    share = lambda drawn: float(np.concatenate(drawn).mean())
    for seed in range(400):
        ours, theirs = losses(rng, 5, 3)
        wins = list((1.0 * (ours < theirs) + (ours <= theirs)) / 2)
        low, _, high = stratified_bootstrap(wins, share, repetitions=200, seed=seed)
        alarms += not low <= 0.5 <= high
    assert alarms > 0.08 * 400


@pytest.mark.statistical
@pytest.mark.parametrize(("seeds", "power"), [(3, 0.82), (5, 0.965)])
def test_a_planted_effect_is_found(seeds, power):
    """False alarms: below 1e-3; four errors below the power, over 200 experiments.

    Losses are lower by a factor of e, the logarithm of the ratio deviates by sqrt(2),
    and one training in ten diverges: ours is lower with a probability of 0.71.
    """
    rng = np.random.default_rng(0)
    found = [
        compare(*losses(rng, 16, seeds, 1.0), repetitions=200, seed=seed).verdict
        for seed in range(200)
    ]
    error = math.sqrt(power * (1 - power) / 200)
    assert found.count("better") / 200 >= power - 4 * error
    assert "worse" not in found
