"""Accumulation for long trainings, against an optimizer that sees the means."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.learned import LearnableSGD, VeLO
from l2o.learned.long_horizon import at_most


VELO = VeLO(lstm_size=2, mixtures=2, hidden_size=2, hidden_layers=1)
EVERY = 3
UPDATES = 4


def theta_of(lopt):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32),
        lopt.init_theta(jax.random.key(0)),
    )


def case(seed=0):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(2, 3)).astype(np.float32)}
    grads = rng.normal(size=(EVERY * UPDATES, 2, 3)).astype(np.float32)
    values = rng.uniform(1, 3, size=EVERY * UPDATES).astype(np.float32)
    return params, grads, values


def follow(tx, params, grads, values):
    state, moves = tx.init(params), []
    update = jax.jit(tx.update)
    for g, value in zip(grads, values, strict=True):
        step, state = update({"w": g}, state, params, value=value)
        params = optax.apply_updates(params, step)
        moves.append(np.asarray(step["w"]))
    return np.array(moves)


def test_it_sees_mean_gradients_and_mean_losses():
    """Also after the steps for which VeLO has no features of the loss."""
    params, grads, values = case()
    theta = theta_of(VELO)
    # One step is left over: it is accumulated and never applied.
    num_steps = EVERY * UPDATES + 1
    tx = at_most(VELO, theta, num_steps=num_steps, longest=UPDATES + 1)
    got = follow(tx, params, grads, values)
    assert (got[np.arange(len(got)) % EVERY != EVERY - 1] == 0).all()

    def means(x):
        return x.reshape(UPDATES, EVERY, *x.shape[1:]).mean(1)

    plain = VELO.with_theta(theta, num_steps=UPDATES)
    want = follow(plain, params, means(grads), means(values))
    np.testing.assert_allclose(got[EVERY - 1 :: EVERY], want, rtol=1e-4, atol=1e-9)
    # The course of the loss matters: this is not what the last losses give.
    last = follow(plain, params, means(grads), values[EVERY - 1 :: EVERY])
    assert not np.allclose(last[-1], want[-1], rtol=1e-4, atol=1e-9)


def test_short_trainings_are_left_alone():
    params, grads, values = case()
    theta = theta_of(VELO)
    tx = at_most(VELO, theta, num_steps=len(grads), longest=len(grads))
    plain = VELO.with_theta(theta, num_steps=len(grads))
    assert jax.tree.structure(tx.init(params)) == jax.tree.structure(plain.init(params))
    np.testing.assert_array_equal(
        follow(tx, params, grads, values), follow(plain, params, grads, values)
    )


def test_the_authors_limit():
    """The optimizer is told floor(num_steps / k)."""
    theta, params = theta_of(VELO), case()[0]

    def told(num_steps):
        state = at_most(VELO, theta, num_steps=num_steps).init(params)
        paths = jax.tree.leaves_with_path(state)
        return [float(x) for path, x in paths if "num_steps" in str(path[-1])]

    assert told(150_000) == [150_000]
    assert told(150_001) == [75_000]
    assert told(400_000) == [133_333]


def test_an_optimizer_without_need_of_the_loss():
    lopt = LearnableSGD(learning_rate=1.0)
    theta = lopt.init_theta(jax.random.key(0))
    tx: Any = at_most(lopt, theta, num_steps=4, longest=2)
    p = jnp.float32(0.0)
    first, state = tx.update(jnp.float32(1.0), tx.init(p), p)
    second, _ = tx.update(jnp.float32(2.0), state, p)
    assert (float(first), float(second)) == (0.0, -1.5)


def test_what_is_missing_is_asked_for():
    tx = at_most(VELO, theta_of(VELO), num_steps=4, longest=2)
    params, grads, _ = case()
    state = tx.init(params)
    with pytest.raises(ValueError, match="value=loss"):
        tx.update({"w": grads[0]}, state, params)
    with pytest.raises(ValueError, match="got params=None"):
        tx.update({"w": grads[0]}, state, value=1.0)
    for name in ("num_steps", "longest"):
        with pytest.raises(ValueError, match=f"^{name} must be .*, got 0$"):
            at_most(VELO, theta_of(VELO), **{"num_steps": 9, "longest": 9, name: 0})
