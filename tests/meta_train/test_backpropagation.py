"""Backpropagation is the derivative of what an estimator says its loss is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from l2o.learned import LSTM, LearnableAdam
from meta_train.estimators.backpropagation import Backpropagation
from meta_train.estimators.span import Truncated, Whole
from meta_train.meta_loss import MetaLoss
from tests.meta_train.problems import (
    FULL_GRADIENT,
    HORIZON,
    TRUNCATED_GRADIENT,
    WINDOW,
    Follow,
    HeavyBall,
    Influence,
    LossScaled,
    Polynomial,
    init,
    make_estimator,
    window,
)


pytestmark = pytest.mark.usefixtures("quick_compilation")
KEYS = [jax.random.key(i) for i in range(3)]


def backprop(family, lopt, **fields):
    return make_estimator(family, lopt, Backpropagation(), **fields)


# `Influence`


@pytest.mark.parametrize(
    ("span", "want"), [(Truncated, TRUNCATED_GRADIENT), (Whole, FULL_GRADIENT)]
)
def test_truncated_has_the_truncated_gradient_and_whole_the_full_one(span, want):
    """Exactly, for every problem and in every window: these are sums of ones."""
    estimator = backprop(Influence(), Follow(), span=span)
    theta = jnp.array([0.75])
    state = init(estimator, theta, KEYS[0])
    for i in range(HORIZON // WINDOW):
        estimate, state = window(estimator, theta, state, jax.random.key(i))
        assert float(estimate.gradient[0]) == want


# Finite differences


def theta_of(lopt, dtype):
    flat, _ = ravel_pytree(lopt.init_theta(jax.random.key(0)))
    return flat.astype(dtype)


def slopes(estimator, theta, state, direction, distance):
    """Along a direction: what `estimate` says, and a difference of its meta-losses.

    The error of the difference, with five points, is of fourth order in the distance.
    """
    loss = lambda step: float(
        window(estimator, theta + step * direction, state, KEYS[2])[0].meta_loss
    )
    estimate, _ = window(estimator, theta, state, KEYS[2])
    near = loss(distance) - loss(-distance)
    far = loss(2 * distance) - loss(-2 * distance)
    return float(estimate.gradient @ direction), (8 * near - far) / (12 * distance)


@pytest.mark.parametrize("span", [Truncated, Whole])
@pytest.mark.parametrize(
    ("lopt", "meta_loss"),
    [
        (HeavyBall(), MetaLoss()),
        (LossScaled(), MetaLoss(reduce="final", scale="log", held_out=0.5)),
    ],
    ids=["heavy_ball", "loss_scaled"],
)
def test_gradient_is_the_finite_difference(x64, lopt, meta_loss, span):
    """In double precision, entry by entry; the state of a window is taken as given."""
    family = Polynomial(jnp.float32(0.1))
    estimator = backprop(family, lopt, span=span, horizon=6, meta_loss=meta_loss)
    theta = theta_of(lopt, jnp.float64)
    state = init(estimator, theta, KEYS[0])
    for restarts in (6, 0, 0) if span is Truncated else (6,):
        for direction in jnp.eye(theta.size):
            got, want = slopes(estimator, theta, state, direction, 1e-3)
            assert got == pytest.approx(want, rel=1e-7, abs=1e-10)
        estimate, state = window(estimator, theta, state, KEYS[1])
        assert int(estimate.restarts) == restarts
        if lopt == HeavyBall():
            # Of decay and start; the state that a problem begins with is the start.
            used = np.asarray(estimate.gradient) != 0
            assert used.tolist() == [True, restarts > 0]


@pytest.mark.parametrize(
    "lopt", [LearnableAdam(learning_rate=0.1), LSTM(hidden_size=2, num_layers=1)]
)
def test_gradient_of_an_architecture_is_the_finite_difference(lopt):
    """Over whole problems, in single precision, in which architectures compute."""
    estimator = backprop(Polynomial(jnp.float32(0.1)), lopt, span=Whole, horizon=6)
    theta = theta_of(lopt, jnp.float32)
    state = init(estimator, theta, KEYS[0])
    direction = jax.random.normal(jax.random.key(1), theta.shape)
    direction = direction / jnp.linalg.norm(direction)
    got, want = slopes(estimator, theta, state, direction, 0.02)
    assert got == pytest.approx(want, rel=1e-3)
    assert abs(got) > 0.01
