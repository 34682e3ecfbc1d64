"""An unroll is a loop of optax updates, and windows of it can be put together."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.unroll import (
    UnrollState,
    draw,
    fresh_losses,
    start,
    unroll,
    unroll_windows,
)
from tasks import Quadratic
from tests.helpers import assert_no_recompile
from tests.meta_train.problems import LossScaled


FAMILY = Quadratic(dim=3, noise=0.1)
LOPT = LossScaled()
THETA = {"log_rate": np.array([-2.0], np.float32)}
HORIZON = 8
# A problem that does not start so far out that its normalised loss is cut off.
KEY = jax.random.key(2)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@jax.jit
def begin(theta, key, offset=0):
    return start(LOPT, theta, draw(FAMILY, key), jnp.int32(HORIZON), jnp.int32(offset))


run = jax.jit(functools.partial(unroll, FAMILY, LOPT), static_argnums=2)
run_windows = jax.jit(
    functools.partial(unroll_windows, FAMILY, LOPT), static_argnums=(2, 3)
)


@functools.partial(jax.jit, static_argnums=(1, 2))
def measure(state, split, samples):
    return fresh_losses(FAMILY.task(state.spec), state, split, samples)


def assert_states_close(got, want, rtol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    got, want = (s._replace(key=jax.random.key_data(s.key)) for s in (got, want))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=rtol, atol=1e-7)


@pytest.fixture(scope="module")
def fresh() -> UnrollState:
    return begin(THETA, KEY)


def test_a_new_problem_is_at_its_start(fresh):
    assert int(fresh.step) == 0
    assert int(fresh.horizon) == HORIZON
    assert int(fresh.opt_state) == 0
    assert fresh.params["x"].shape == (3,)


def test_an_offset_is_steps_that_count_as_made(fresh):
    """All else is as it would be: the batches are those of later steps."""
    late = begin(THETA, KEY, 4)
    assert (int(late.step), int(late.opt_state)) == (4, 0)
    assert_states_close(late._replace(step=fresh.step), fresh, rtol=0)
    one, two = (run(THETA, state, 4)[1] for state in (fresh, late))
    assert (one != two).all()


def test_unroll_is_a_loop_of_updates(fresh):
    """Written out: batch t from fold_in(train key, t), the loss before each step."""
    window = 4
    state, losses = run(THETA, fresh, window)
    task = FAMILY.task(fresh.spec)
    tx = LOPT.with_theta(THETA, num_steps=HORIZON)
    params: Any = fresh.params
    opt_state: Any = tx.init(params)
    train_key, held_out_key = jax.random.split(fresh.key)
    for t in range(window):
        batch_key, loss_key = jax.random.split(jax.random.fold_in(train_key, t))
        batch = task.batch(batch_key, "train")
        (loss, _), grads = jax.value_and_grad(task.loss, has_aux=True)(
            params, loss_key, batch
        )
        expected = float(task.normalise(loss))
        assert float(losses[t]) == pytest.approx(expected, rel=1e-5)
        updates, opt_state = tx.update(grads, opt_state, params, value=loss)
        params = optax.apply_updates(params, updates)
    want = np.asarray(params["x"])
    np.testing.assert_allclose(state.params["x"], want, rtol=1e-5)
    batch_key, loss_key = jax.random.split(jax.random.fold_in(held_out_key, window))
    held_out, _ = task.loss(params, loss_key, task.batch(batch_key, "outer_valid"))
    expected = float(task.normalise(held_out))
    got = measure(state, "outer_valid", 1)
    assert float(got[0]) == pytest.approx(expected, rel=1e-5)
    assert int(state.opt_state) == int(opt_state) == window
    assert int(state.step) == window
    assert (state.params["x"] != fresh.params["x"]).all()


def test_two_windows_are_one_of_twice_the_length(fresh):
    half, first = run(THETA, fresh, 4)
    whole, second = run(THETA, half, 4)
    at_once, losses = run(THETA, fresh, 8)
    assert_states_close(whole, at_once)
    halves = np.concatenate([first, second])
    np.testing.assert_allclose(halves, losses, rtol=1e-6)
    assert len(set(np.asarray(losses).tolist())) == 8


@pytest.mark.parametrize("count", [1, 2, 3])
def test_windows_that_are_made_come_first(fresh, count):
    """As many calls of `unroll`; of the rest nothing is left but their losses' room."""
    state, losses = run_windows(THETA, fresh, 2, 3, jnp.int32(count))
    want, curve = fresh, []
    for _ in range(count):
        want, more = run(THETA, want, 2)
        curve.append(more)
    assert_states_close(state, want)
    assert losses.shape == (6,)
    np.testing.assert_allclose(losses[: 2 * count], np.concatenate(curve), rtol=1e-6)


def test_fresh_losses_are_on_batches_of_their_own(fresh):
    """One for each sample, each split and each step; the same when asked again."""
    state, _ = run(THETA, fresh, 4)
    found = [
        *np.asarray(measure(state, "train", 3)),
        *np.asarray(measure(state, "outer_valid", 3)),
        *np.asarray(measure(state._replace(step=state.step + 1), "train", 3)),
    ]
    assert len(set(found)) == 9
    np.testing.assert_array_equal(found[:3], measure(state, "train", 3))
    # The next step of training sees another batch too.
    assert float(run(THETA, state, 4)[1][0]) not in found
    assert measure(state, "train", 0).shape == (0,)


def test_what_identifies_the_problem_stays(fresh):
    state, _ = run(THETA, fresh, 4)
    for field in ("spec", "horizon", "key"):
        one, two = (jax.tree.leaves(getattr(s, field)) for s in (state, fresh))
        assert all(bool((a == b).all()) for a, b in zip(one, two, strict=True)), field


def test_another_key_another_problem():
    one, two = (begin(THETA, jax.random.key(i)) for i in (0, 1))
    assert (one.params["x"] != two.params["x"]).all()
    assert (one.spec.eigenvalues != two.spec.eigenvalues).all()
    same = begin(THETA, jax.random.key(0))
    assert_states_close(same, one, rtol=0)


def test_spec_start_and_batches_have_keys_of_their_own(fresh):
    """The minimiser and the first parameters are both normal: not the same draw."""
    assert (fresh.spec.minimiser != fresh.params["x"]).all()


def test_another_theta_is_no_new_program(fresh):
    other = {"log_rate": np.array([-3.0], np.float32)}
    run(THETA, fresh, 4)
    with assert_no_recompile():
        state, _ = run(other, fresh, 4)
    assert (state.params["x"] != run(THETA, fresh, 4)[0].params["x"]).all()


def test_vmap_over_theta_equals_a_loop(fresh):
    thetas = [{"log_rate": np.array([r], np.float32)} for r in (-2.0, -4.0)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *thetas)
    _, losses = jax.vmap(lambda theta: run(theta, fresh, 4))(stacked)
    for i, theta in enumerate(thetas):
        alone = run(theta, fresh, 4)[1]
        np.testing.assert_allclose(losses[i], alone, rtol=1e-5)
