import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.perturb import antithetic_gradient, antithetic_points, sample_noise


def test_points_are_theta_plus_and_minus_the_noise():
    theta, noise = jnp.array([1.0, 2.0]), jnp.array([0.5, -0.25])
    points = antithetic_points(theta, noise)
    np.testing.assert_array_equal(points, [[1.5, 1.75], [0.5, 2.25]])


def test_gradient_by_hand():
    got = antithetic_gradient(
        jnp.array([1.0, -2.0]), jnp.float32(5.0), jnp.float32(2.0), sigma=0.5
    )
    # (5 - 2) / (2 * 0.25) = 6.
    np.testing.assert_allclose(got, [6.0, -12.0], rtol=1e-6)


def test_antithetic_swap_leaves_the_gradient_alone():
    credit = jnp.array([0.3, -1.7])
    plus, minus = jnp.float32(1.23), jnp.float32(-0.77)
    np.testing.assert_array_equal(
        antithetic_gradient(credit, plus, minus, 0.1),
        antithetic_gradient(-credit, minus, plus, 0.1),
    )


def test_gradient_of_a_line_in_the_noises_direction_is_exact():
    """For L = g . theta the contribution is noise (noise . g) / sigma^2."""
    g, theta, sigma = jnp.array([2.0, -3.0]), jnp.array([0.1, 0.2]), 0.3
    noise = sample_noise(jax.random.key(0), 2, sigma)
    plus, minus = antithetic_points(theta, noise) @ g
    got = antithetic_gradient(noise, plus, minus, sigma)
    np.testing.assert_allclose(got, noise * (noise @ g) / sigma**2, rtol=1e-5)


@pytest.mark.statistical
def test_noise_has_the_deviation_asked_for():
    """False alarms: below 1e-6; five standard errors twice."""
    n, sigma = 100_000, 0.25
    noise = np.asarray(sample_noise(jax.random.key(0), n, sigma), np.float64)
    assert noise.shape == (n,)
    assert abs(noise.mean()) < 5 * sigma / n**0.5
    # The standard error of a sample variance is sqrt(2 / n) of it.
    assert abs(noise.var() / sigma**2 - 1) < 5 * (2 / n) ** 0.5


def test_noise_is_a_function_of_the_key():
    one, same = (sample_noise(jax.random.key(1), 8, 1.0) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert (one != sample_noise(jax.random.key(2), 8, 1.0)).all()
