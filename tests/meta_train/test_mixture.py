"""Evolution strategies and backpropagation share a meta-gradient by their variances."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators.backpropagation import Backpropagation
from meta_train.estimators.credit import Credited
from meta_train.estimators.method import Outcome
from meta_train.estimators.mixture import Mixture
from meta_train.perturb import Gaussian
from tasks import Task, TaskFamily
from tests.meta_train.problems import (
    HESSIAN,
    Jump,
    Polynomial,
    assert_within,
    make_estimator,
    strategies,
    windows,
)


pytestmark = pytest.mark.usefixtures("quick_compilation")
POINT = jnp.array([0.4, -0.3])
SIGMA = 0.5
MIXTURE = Mixture(Gaussian(SIGMA))


def summed(evolution, backprop):
    """What units `[n, size]` add up to."""
    rows = {"evolution": jnp.array(evolution), "backprop": jnp.array(backprop)}
    rows |= {f"{name}_square": x**2 for name, x in rows.items()}
    return {name: jnp.sum(x, axis=0) for name, x in rows.items()}


# By hand


def test_weights_are_inverse_variances_entry_by_entry():
    """Means 2 and 4, variances 1 and 3: 3/4 of 2 and 1/4 of 4."""
    sums = summed(
        evolution=[[1.0, 1.0], [3.0, 3.0]],
        backprop=[[4.0 - 3**0.5, 5.0], [4.0 + 3**0.5, 5.0]],
    )
    got = MIXTURE.combine(sums, jnp.int32(2))
    # Of the second entry backpropagation is sure, and counts alone.
    np.testing.assert_allclose(got, [2.5, 5.0], rtol=1e-6)


def test_one_unit_gives_the_mean_of_both():
    got = MIXTURE.combine(summed([[1.0, -2.0]], [[3.0, 4.0]]), jnp.int32(1))
    np.testing.assert_array_equal(got, [2.0, 1.0])


def test_no_unit_gives_zero():
    nothing = {name: jnp.zeros(2) for name in summed([[1.0]], [[1.0]])}
    np.testing.assert_array_equal(MIXTURE.combine(nothing, jnp.int32(0)), 0.0)


def test_contribution_is_the_antithetic_difference_and_the_mean_derivative():
    used = Credited(noise=(), credit=jnp.array([0.5, -0.25]), memory=())
    outcomes = Outcome(jnp.array([3.0, 7.0]), jnp.array([[1.0, 2.0], [3.0, -4.0]]))
    got = MIXTURE.contribution(Jump(), used, outcomes)
    want = {
        "evolution": [-4.0, 2.0],
        "evolution_square": [16.0, 4.0],
        "backprop": [2.0, -1.0],
        "backprop_square": [4.0, 1.0],
    }
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)


# On problems


def jumps(family, method, pairs, count):
    estimator = make_estimator(family, Jump(), method, horizon=2, pairs=pairs, block=64)
    got = windows(estimator, POINT, jax.random.key(0), count).gradient
    return np.asarray(got, np.float64)


def test_on_a_quadratic_it_is_backpropagation():
    """Both derivatives of a pair have one mean, `H x`, whatever the noise."""
    got = jumps(Polynomial(jnp.float32(0.0)), MIXTURE, 2048, 32)
    want = HESSIAN @ np.asarray(POINT) / 2
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), rtol=1e-5)


@pytest.mark.statistical
def test_mean_is_the_gradient_of_the_smoothed_loss():
    """False alarms: below 1e-4; 4.5 standard errors in two coordinates.

    Of `q sum(x^4)`, where the derivatives have a variance too. The bias of weights
    from 2048 pairs is less than a tenth of a standard error of 32 estimates.
    """
    q, x = 0.5, np.asarray(POINT, np.float64)
    mixed = jumps(Polynomial(jnp.float32(q)), MIXTURE, 2048, 32)
    want = (HESSIAN @ x + q * (4 * x**3 + 12 * SIGMA**2 * x)) / 2
    assert_within(mixed, want, 4.5)
    # With a smaller variance: about a tenth, and a ratio of two of them is in doubt by
    # a factor of 1.4.
    evolved = jumps(Polynomial(jnp.float32(q)), strategies(sigma=SIGMA), 2048, 32)
    assert (mixed.var(axis=0) < 0.4 * evolved.var(axis=0)).all()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rippled(TaskFamily):
    """`1/2 x' H x` and a ripple along the first coordinate, finer than any noise.

    Its height is 1e-3, of a slope of up to 1e3 and a phase that differs from problem to
    problem: losses say nothing of it, and derivatives little else.
    """

    def sample(self, key: jax.Array) -> Any:
        return jax.random.uniform(key, (), maxval=2 * jnp.pi)

    def nominal(self) -> Any:
        return jnp.zeros(())

    def task(self, spec: Any) -> Task:
        smooth = Polynomial().task(jnp.zeros((2,)))

        def loss(x: jax.Array, key: Any, batch: Any) -> tuple[jax.Array, dict]:
            value, facts = smooth.loss(x, key, batch)
            return value + 1e-3 * jnp.sin(1e6 * x[0] + spec), facts

        return Task(smooth.init, smooth.batch, loss, smooth.normalise)


def test_entries_go_to_whatever_is_surer_of_them():
    """From the same pairs: what is noise to one is not to the other."""
    mixed, evolved = (
        jumps(Rippled(), method, 64, 1)[0] for method in (MIXTURE, strategies())
    )
    exploded = jumps(Rippled(), Backpropagation(), 64, 1)[0]
    exact = HESSIAN @ np.asarray(POINT) / 2
    assert abs(exploded[0] - exact[0]) > 5
    assert mixed[0] == pytest.approx(evolved[0], abs=1e-3)
    assert abs(mixed[0] - exact[0]) < 0.2
    assert mixed[1] == pytest.approx(exact[1], rel=1e-4)
    assert abs(evolved[1] - exact[1]) > 0.01
