"""Bounds and invariances of RelativeMLP."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import RelativeMLP
from l2o.learned.relative_mlp import initial_rms


LOPT = RelativeMLP(hidden_size=3, hidden_layers=1)
HORIZON = 8


@jax.jit
def begin(theta, params):
    return LOPT.with_theta(theta, num_steps=HORIZON).init(params)


@jax.jit
def move(theta, grads, state, params):
    return LOPT.with_theta(theta, num_steps=HORIZON).update(grads, state, params)


def random_theta(scale=0.1):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + scale * rng.normal(size=x.shape).astype(np.float32),
        LOPT.init_theta(jax.random.key(0)),
    )


def without_decay(theta):
    """So small a weight decay that float32 has none."""
    return theta | {"decay": np.float32(-100.0)}


def arrays(seed, *shape, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=shape).astype(np.float32)


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


@pytest.mark.parametrize("theta_scale", [0.1, 10.0])
@pytest.mark.parametrize("gradient_scale", [0.0, 1e-6, 1.0, 1e10])
def test_steps_are_bounded_whatever_gradient_and_theta_are(theta_scale, gradient_scale):
    theta = random_theta(theta_scale)
    # A schedule of which the bound stays a number.
    theta["schedule"] = theta["schedule"] / max(1.0, theta_scale)
    params = arrays(1, 3, 4, scale=0.3)
    unit = rms(params)
    weight = float(np.abs(theta["schedule"]).sum())
    rate = LOPT.step_mult * math.exp(LOPT.schedule_gain * weight)
    decay = math.exp(LOPT.schedule_gain * float(theta["decay"]) - 4.0)
    state = begin(theta, params)
    for t in range(3):
        grads = arrays(2 + t, 3, 4, scale=gradient_scale)
        step, state = move(theta, grads, state, params)
        assert np.isfinite(step).all()
        assert rms(step) <= rate * (unit + decay * rms(params)) * (1 + 1e-6)
        params = params + np.asarray(step)
    # The unit is that of the initial weights, also after they have moved.
    assert state.unit.tolist() == [pytest.approx(unit, rel=1e-6)]


def test_weights_are_bounded_however_long_the_same_gradient_pushes():
    """At u exp(4 - gain w) decay undoes the largest step: the end of all growth."""
    theta = random_theta() | {"decay": np.float32(1.2)}
    theta["schedule"] = np.full_like(theta["schedule"], 0.05)
    params, grads = arrays(1, 3, 4), arrays(2, 3, 4)
    state = begin(theta, params)
    (unit,) = state.unit.tolist()
    bound = unit * math.exp(4.0 - LOPT.schedule_gain * 1.2)
    largest = 0.0
    for _ in range(400):
        step, state = move(theta, grads, state, params)
        params = params + np.asarray(step)
        largest = max(largest, rms(params))
    assert largest <= max(bound, unit) * (1 + 1e-5)


def test_a_zero_output_leaves_weight_decay_alone():
    theta = random_theta() | {"decay": np.float32(0.5)}
    theta["mlp"][-1] = jax.tree.map(np.zeros_like, theta["mlp"][-1])
    theta["schedule"] = np.zeros_like(theta["schedule"])
    params = arrays(1, 3, 4)
    step, _ = move(theta, arrays(2, 3, 4), begin(theta, params), params)
    factor = LOPT.step_mult * math.exp(LOPT.schedule_gain * 0.5 - 4.0)
    np.testing.assert_allclose(step, -factor * params, rtol=1e-5)


def test_a_large_output_makes_a_step_of_the_full_size():
    """The bound is attained: d / sqrt(1 + mean d^2) has root mean square near 1."""
    theta = without_decay(random_theta())
    theta["mlp"][-1] = jax.tree.map(lambda x: 1e4 * x, theta["mlp"][-1])
    theta["schedule"] = np.zeros_like(theta["schedule"])
    params = arrays(1, 3, 4)
    step, _ = move(theta, arrays(2, 3, 4), begin(theta, params), params)
    assert rms(step) == pytest.approx(rms(params) * LOPT.step_mult, rel=1e-3)


@pytest.mark.parametrize("c", [0.25, 8.0])
def test_steps_are_exactly_proportional_to_the_unit(c):
    theta = without_decay(random_theta())
    params, grads = arrays(1, 3, 4), arrays(2, 3, 4)
    state = begin(theta, params)
    plain, _ = move(theta, grads, state, params)
    scaled, _ = move(theta, grads, state._replace(unit=state.unit * c), params)
    np.testing.assert_array_equal(scaled, c * plain)


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_reparametrisation_scales_the_steps_with_the_parameters(c):
    """With weights c p, gradients are 1/c as large, and steps should be c times.

    True up to the floors under the features' second moments (1e-5), which these
    gradients are well above: without the normalisers the steps differ by about c.
    """
    theta = random_theta()
    params = arrays(1, 3, 4, scale=2.0)
    plain_state, scaled_state = begin(theta, params), begin(theta, c * params)
    for t in range(3):
        grads = arrays(2 + t, 3, 4, scale=30.0)
        plain, plain_state = move(theta, grads, plain_state, params)
        scaled, scaled_state = move(theta, grads / c, scaled_state, c * params)
        assert rms(scaled / c - plain) <= 0.02 * rms(plain)


def test_permuted_tensor_gives_the_permuted_step():
    theta, params, grads = random_theta(), arrays(1, 3, 4), arrays(2, 3, 4)
    rows, cols = np.array([2, 0, 1]), np.array([1, 3, 0, 2])
    plain, _ = move(theta, grads, begin(theta, params), params)
    p, g = params[rows][:, cols], grads[rows][:, cols]
    permuted, _ = move(theta, g, begin(theta, p), p)
    np.testing.assert_allclose(
        permuted, np.asarray(plain)[rows][:, cols], rtol=1e-5, atol=1e-8
    )


def test_schedule_multiplies_the_step():
    """With phi(f) known at f = 0, the factor is exp(gain v . phi)."""
    theta, params, grads = random_theta(), arrays(1, 3, 4), arrays(2, 3, 4)
    taus = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])
    phi = np.tanh(10.0 * (0.0 - taus))
    flat = theta | {"schedule": np.zeros(9, np.float32)}
    plain, _ = move(flat, grads, begin(flat, params), params)
    got, _ = move(theta, grads, begin(theta, params), params)
    factor = math.exp(LOPT.schedule_gain * float(theta["schedule"] @ phi))
    np.testing.assert_allclose(got, factor * np.asarray(plain), rtol=1e-4)


def test_unit_is_the_initial_root_mean_square():
    params = {
        "bias": np.zeros(2, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "half": jnp.bfloat16([2.0, 2.0]),
        "weights": np.array([[3.0, 4.0]], np.float32),
    }
    unit = initial_rms(params)
    assert unit.dtype == jnp.float32
    # Of all parameters, for a tensor that starts at zero or has no entry.
    whole = math.sqrt((9 + 16 + 4 + 4) / 6)
    np.testing.assert_allclose(unit, [whole, whole, 2.0, math.sqrt(12.5)], rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (3,), (0,)])
def test_unit_of_nothing_but_zeros_is_one(shape):
    assert initial_rms({"a": np.zeros(shape, np.float32)}).tolist() == [1.0]
    assert initial_rms({}).shape == (0,)


def test_every_tensor_has_its_own_unit():
    """Whatever the order is in which shapes are grouped."""
    theta = without_decay(random_theta())
    sizes = {"a": (3, 4), "b": (5,), "c": (3, 4), "d": (), "e": (5,)}
    params = {k: arrays(i, *shape) for i, (k, shape) in enumerate(sizes.items())}
    grads = {k: arrays(9 + i, *shape) for i, (k, shape) in enumerate(sizes.items())}
    state = begin(theta, params)
    plain, _ = move(theta, grads, state, params)
    factors = np.array([1.0, 2.0, 4.0, 8.0, 16.0], np.float32)
    scaled, _ = move(theta, grads, state._replace(unit=state.unit * factors), params)
    for k, c in zip(sizes, factors, strict=True):
        np.testing.assert_array_equal(scaled[k], c * plain[k], err_msg=k)


def test_fraction_of_training_enters():
    """The same gradient moves a training near its end otherwise than at its start."""
    theta, params, grads = random_theta(), arrays(1, 3, 4), arrays(2, 3, 4)
    state = begin(theta, params)
    early, _ = move(theta, grads, state, params)
    late, _ = move(theta, grads, state._replace(step=state.step + 7), params)
    assert not np.allclose(early, late)
    # What counts is the fraction, not the number of steps.
    longer = state._replace(step=state.step + 14, num_steps=2 * state.num_steps)
    same, _ = move(theta, grads, longer, params)
    np.testing.assert_array_equal(same, late)
