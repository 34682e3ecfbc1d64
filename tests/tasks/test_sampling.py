import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.sampling import log_uniform, orthonormal


@pytest.mark.statistical
def test_log_uniform_is_uniform_in_the_logarithm():
    """4,096 draws: 0.03 is 6.7 standard errors of the mean; false alarms 1e-10."""
    draws = log_uniform(jax.random.key(0), (1e-3, 1e3), (4096,))
    assert draws.dtype == jnp.float32
    assert draws.min() >= 1e-3 * (1 - 1e-5)
    assert draws.max() <= 1e3 * (1 + 1e-5)
    position = (np.log10(draws) + 3) / 6
    assert float(position.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(position.var()) == pytest.approx(1 / 12, abs=0.01)


def test_a_range_of_one_value_gives_that_value():
    assert float(log_uniform(jax.random.key(0), (1.0, 1.0))) == 1.0


@pytest.mark.parametrize("count", [1, 3, 16])
def test_orthonormal_vectors_are_those_of_a_qr_decomposition(count):
    vectors = np.asarray(orthonormal(jax.random.key(0), 16, count))
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-6)
    drawn = np.asarray(jax.random.normal(jax.random.key(0), (16, count)))
    q, r = np.linalg.qr(drawn)
    np.testing.assert_allclose(vectors, q * np.sign(np.diag(r))[None], atol=1e-5)
