import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.schedules import SCHEDULES, Constant, Curriculum, LogUniform


@functools.partial(jax.jit, static_argnums=(0, 2))
def draw(schedule, keys, window, outer_step=0):
    return jax.vmap(lambda key: schedule.num_steps(key, outer_step, window))(keys)


KEYS = jax.random.split(jax.random.key(0), 4000)


@pytest.mark.parametrize(
    ("horizon", "window", "want"),
    [(10, 5, 10), (10, 4, 12), (1, 50, 50), (50, 50, 50), (51, 50, 100)],
)
def test_constant_horizon_is_rounded_up_to_whole_windows(horizon, window, want):
    steps = Constant(horizon).num_steps(jax.random.key(0), jnp.int32(7), window)
    assert (int(steps), steps.dtype) == (want, jnp.int32)


def test_log_uniform_horizons_are_whole_windows_within_the_bounds():
    schedule = LogUniform(shortest=20, longest=200)
    steps = np.asarray(draw(schedule, KEYS, 20))
    assert steps.dtype == np.int32
    assert (steps % 20 == 0).all()
    assert schedule.bounds() == (20, 200)
    assert steps.min() >= 20
    assert steps.max() == 200


def test_bounds_that_are_no_whole_windows_are_rounded_up():
    steps = np.asarray(draw(LogUniform(shortest=10, longest=50), KEYS, 40))
    assert set(np.unique(steps)) == {40, 80}


def test_equal_bounds_give_one_horizon():
    steps = np.asarray(draw(LogUniform(shortest=30, longest=30), KEYS, 10))
    assert set(np.unique(steps)) == {30}


@pytest.mark.statistical
def test_horizons_are_uniform_in_the_logarithm():
    """False alarms: below 1e-5; a proportion within 4.5 standard errors, three times.

    In windows of 1 rounding moves a share by less than 0.5 per cent.
    """
    schedule = LogUniform(shortest=100, longest=1600)
    steps = np.asarray(draw(schedule, KEYS, 1))
    for quarter in (1, 2, 3):
        share = (steps <= 100 * 2**quarter).mean()
        error = math.sqrt(quarter / 4 * (1 - quarter / 4) / len(steps))
        assert abs(share - quarter / 4) < 4.5 * error + 0.005


@pytest.mark.parametrize("schedule", [Constant(30), LogUniform(10, 100)])
def test_a_schedule_that_does_not_move_is_the_same_at_every_outer_step(schedule):
    early, late = (draw(schedule, KEYS[:16], 10, jnp.int32(t)) for t in (0, 1000))
    np.testing.assert_array_equal(early, late)


CURRICULUM = Curriculum(shortest=100, first=200, longest=3200, growth=1000)


@pytest.mark.parametrize(
    ("outer_step", "end"),
    [(0, 200), (250, 400), (500, 800), (750, 1600), (1000, 3200), (5000, 3200)],
)
def test_a_curriculum_is_log_uniform_up_to_an_end_that_grows(outer_step, end):
    """Of four doublings, each takes a quarter of the growth; under the same keys."""
    steps = np.asarray(draw(CURRICULUM, KEYS, 10, jnp.int32(outer_step)))
    want = np.asarray(draw(LogUniform(shortest=100, longest=end), KEYS, 10))
    # Rounding may carry one of them into another window.
    assert (steps != want).mean() < 0.002
    assert want.max() == end
    assert steps.min() >= 100
    assert 0.95 * end < steps.max() <= min(end + 10, 3200)


def test_a_curriculum_tells_its_widest_bounds():
    assert CURRICULUM.bounds() == (100, 3200)
    assert draw(CURRICULUM, KEYS, 50, jnp.int32(10**6)).max() <= 3200


def test_a_curriculum_may_begin_and_stay_at_one_horizon():
    steps = draw(Curriculum(shortest=30, first=30, longest=30, growth=1), KEYS[:16], 10)
    assert set(np.asarray(steps).tolist()) == {30}


def test_schedules_are_values():
    for cls in SCHEDULES.values():
        assert cls() == cls()
        assert hash(cls()) == hash(cls())


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("constant", "horizon"),
        ("log_uniform", "shortest"),
        ("log_uniform", "longest"),
        ("curriculum", "shortest"),
        ("curriculum", "first"),
        ("curriculum", "longest"),
        ("curriculum", "growth"),
    ],
)
def test_bad_horizons_are_refused_in_one_line(name, field, bad):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {bad!r}$"):
        SCHEDULES[name](**{field: bad})


def test_reversed_bounds_are_refused():
    with pytest.raises(ValueError, match=r"^shortest must not exceed .*, got 3 > 2$"):
        LogUniform(shortest=3, longest=2)


@pytest.mark.parametrize("bounds", [(3, 2, 4), (1, 5, 4)])
def test_a_curriculum_that_decreases_is_refused(bounds):
    message = r"^shortest, first and longest must not decrease, got \d, \d, \d$"
    with pytest.raises(ValueError, match=message):
        Curriculum(*bounds)
