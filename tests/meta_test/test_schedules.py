"""Learning rates at chosen places, as shares of the peak."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_test.baselines import BASELINES
from meta_test.optimizers import Scheduled, baseline
from meta_test.schedules import SHAPES, WARM_UP


# By hand, at 0, half of the rise, its end, a half, and the end of a training.
PLACES = (0.0, WARM_UP / 2, WARM_UP, 0.5, 1.0)
FALL = lambda done: (1 + math.cos(math.pi * done)) / 2
RISE = 1 / (WARM_UP * 10_000)
# Of one cycle the peak is at 0.3.
DOWN = (1 + math.cos(math.pi * 0.2 / 0.7)) / 2
BY_HAND = {
    "constant": (1.0, 1.0, 1.0, 1.0, 1.0),
    "cosine": tuple(map(FALL, PLACES)),
    "warmup": (RISE, (1 + RISE) / 2, 1.0, 1.0, 1.0),
    "warmup_cosine": (
        RISE,
        (1 + RISE) / 2,
        1.0,
        FALL((0.5 - WARM_UP) / (1 - WARM_UP)),
        0.0,
    ),
    "onecycle": (
        1 / 25,
        1 / 25 + 24 / 25 * (1 - FALL(WARM_UP / 2 / 0.3)),
        1 / 25 + 24 / 25 * (1 - FALL(WARM_UP / 0.3)),
        DOWN,
        0.0,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_by_hand(name):
    found = jax.vmap(SHAPES[name])(jnp.array(PLACES))
    np.testing.assert_allclose(found, BY_HAND[name], atol=2e-4)


def test_a_baseline_follows_its_schedule():
    tx = Scheduled(optax.sgd, "warmup")(jnp.float32(2.0), jnp.int32(100))
    state, steps = tx.init(jnp.ones(())), []
    for _ in range(7):
        step, state = tx.update(jnp.ones(()), state)
        steps.append(-np.float64(np.asarray(step)))
    np.testing.assert_allclose(
        steps, 2.0 * np.minimum(np.arange(7) / 5, 1.0), atol=2 * RISE
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adamm", r"got 'adamm' \(did you mean 'adam'\?\)"),
        ("adam+linear", "the schedule of adam must be one of constant, .*'linear'"),
        ("schedule_free_adamw+cosine", "must be none, got 'cosine'"),
    ],
)
def test_what_there_is_not_is_said(name, message):
    with pytest.raises(ValueError, match=message):
        baseline(name)


@pytest.mark.parametrize("name", BASELINES)
def test_spaces_are_ranges(name):
    """And the grid of learning rates spans its range, in half decades."""
    row = BASELINES[name]
    for found in (row.rates, *row.space.values()):
        assert 0 < found.low < found.high
    rates = np.array(row.learning_rates)
    assert rates[0] == pytest.approx(row.rates.low, rel=0.06)
    assert rates[-1] == pytest.approx(row.rates.high, rel=0.06)
    np.testing.assert_allclose(np.diff(np.log10(rates)), 0.5, atol=0.03)
