import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import LSTM
from meta_train.perturb import (
    Gaussian,
    antithetic_gradient,
    antithetic_points,
    by_tensor,
)
from tests.meta_train.problems import Follow, Jump


def test_points_are_theta_plus_and_minus_the_noise():
    theta, noise = jnp.array([1.0, 2.0]), jnp.array([0.5, -0.25])
    points = antithetic_points(theta, noise)
    np.testing.assert_array_equal(points, [[1.5, 1.75], [0.5, 2.25]])


def test_gradient_by_hand():
    credit, difference = jnp.array([1.0, -2.0]), jnp.float32(3.0)
    # 3 / (2 * 0.25) = 6.
    got = antithetic_gradient(credit, difference, jnp.float32(4.0))
    np.testing.assert_array_equal(got, [6.0, -12.0])
    # Deviations of 0.5 and 0.25.
    got = antithetic_gradient(credit, difference, jnp.array([4.0, 16.0]))
    np.testing.assert_array_equal(got, [6.0, -48.0])


def test_antithetic_swap_leaves_the_gradient_alone():
    credit, precision = jnp.array([0.3, -1.7]), jnp.float32(100.0)
    plus, minus = jnp.float32(1.23), jnp.float32(-0.77)
    np.testing.assert_array_equal(
        antithetic_gradient(credit, plus - minus, precision),
        antithetic_gradient(-credit, minus - plus, precision),
    )


@pytest.mark.parametrize("tensors", [(), (("second", 0.1),)])
def test_gradient_of_a_line_in_the_noises_direction_is_exact(tensors):
    """For L = g . theta the contribution is noise (noise . g) / sigma^2."""
    g, theta = jnp.array([2.0, -3.0]), jnp.array([0.1, 0.2])
    gaussian = Gaussian(0.3, tensors)
    noise = gaussian.sample(Jump(), jax.random.key(0), 2)
    plus, minus = antithetic_points(theta, noise) @ g
    got = antithetic_gradient(noise, plus - minus, gaussian.precision(Jump()))
    sigma = np.array([0.3, 0.1 if tensors else 0.3])
    np.testing.assert_allclose(got, noise * (noise @ g) / sigma**2, rtol=1e-5)


@pytest.mark.statistical
def test_noise_has_the_deviation_asked_for():
    """False alarms: below 1e-6; five standard errors twice."""
    n, sigma = 100_000, 0.25
    sample = Gaussian(sigma).sample(Follow(), jax.random.key(0), n)
    noise = np.asarray(sample, np.float64)
    assert noise.shape == (n,)
    assert abs(noise.mean()) < 5 * sigma / n**0.5
    # The standard error of a sample variance is sqrt(2 / n) of it.
    assert abs(noise.var() / sigma**2 - 1) < 5 * (2 / n) ** 0.5


def test_noise_is_a_function_of_the_key():
    one, same, other = (
        Gaussian(1.0).sample(Follow(), jax.random.key(i), 8) for i in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()


def test_noise_of_a_tensor_is_scaled_and_at_zero_there_is_none():
    key = jax.random.key(1)
    plain = Gaussian(0.5).sample(Jump(), key, 2)
    scaled = Gaussian(0.5, (("second", 0.25),)).sample(Jump(), key, 2)
    np.testing.assert_array_equal(scaled, plain * jnp.array([1.0, 0.5]))
    silent = Gaussian(0.5, (("first", 0.0),))
    np.testing.assert_array_equal(silent.sample(Jump(), key, 2)[0], 0.0)
    # And no gradient, rather than one divided by zero.
    np.testing.assert_array_equal(silent.precision(Jump()), [0.0, 4.0])


def test_the_last_pattern_that_matches_counts():
    lopt = LSTM(hidden_size=2, num_layers=1)
    shapes = jax.eval_shape(lopt.init_theta, jax.random.key(0))
    patterns = (("*", 2.0), ("*/b", 3.0))
    got = by_tensor(lopt, 1.0, patterns)
    want = [
        np.full(leaf.size, 3.0 if "b" in jax.tree_util.keystr(path[-1:]) else 2.0)
        for path, leaf in jax.tree.leaves_with_path(shapes)
    ]
    np.testing.assert_array_equal(got, np.concatenate(want))
    assert set(np.unique(got)) == {2.0, 3.0}


def test_no_pattern_leaves_the_default():
    np.testing.assert_array_equal(by_tensor(Jump(), 0.5, ()), [0.5, 0.5])
    np.testing.assert_array_equal(by_tensor(Jump(), 0.5, [("f*", 2.0)]), [2.0, 0.5])


def test_a_pattern_that_matches_nothing_is_refused_in_one_line():
    message = (
        r"^a pattern must match a tensor of theta, one of first, second, "
        r"got 'frist' \(did you mean 'first'\?\)$"
    )
    with pytest.raises(ValueError, match=message):
        by_tensor(Jump(), 1.0, [("frist", 0.0)])


@pytest.mark.parametrize(
    ("sigma", "tensors", "message"),
    [
        (0.0, (), "sigma must be .*, got 0.0"),
        (-1.0, (), "sigma must be .*, got -1.0"),
        (0.1, (("a/*", -1.0),), r"sigma of a/\* must be .*, got -1.0"),
    ],
)
def test_bad_deviations_are_refused_in_one_line(sigma, tensors, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Gaussian(sigma, tensors)
