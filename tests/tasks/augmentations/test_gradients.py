import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import (
    DelayGradient,
    NormaliseGradient,
    Quadratic,
    Reparametrise,
    ScaleLoss,
    SubsampleDirections,
)
from tasks.augmentations.base import log_uniform_int
from tasks.augmentations.gradients import DelayGradientSpec, SubsampleDirectionsSpec
from tasks.augmentations.objective import ScaleLossSpec
from tasks.augmentations.parameters import ReparametriseSpec
from tests.tasks.augmentations.descent import (
    RATE,
    descend,
    look,
    many_first_steps,
    vector,
)


DIM = 5
BOWL = Quadratic(dim=DIM, spectrum=(0.1, 1.0), noise=0.3)
SPEC = BOWL.sample(jax.random.key(0))


def test_gradients_have_length_one_and_their_direction():
    family = NormaliseGradient(BOWL)
    steps = descend(family, family.nominal(), 3)
    task = BOWL.task(BOWL.nominal())
    for t in range(3):
        batch = task.batch(steps.batch_keys[t], "train")
        here = jax.tree.map(lambda x, t=t: x[t], steps.params)
        want = jax.grad(
            lambda p, batch=batch: task.loss(p, steps.loss_keys[0], batch)[0]
        )
        grads = want(here)["x"]
        expected = grads / jnp.linalg.norm(grads)
        np.testing.assert_allclose(steps.grads["x"][t], expected, rtol=1e-5)


# All gradients of a task whose loss is zero everywhere.
FLAT = ScaleLoss(BOWL)
FLAT_SPEC = ScaleLossSpec(SPEC, jnp.float32(0.0))


@pytest.mark.parametrize(
    "family",
    [
        NormaliseGradient(FLAT),
        SubsampleDirections(FLAT),
        SubsampleDirections(FLAT, sign=True),
    ],
    ids=["normalised", "projections", "signs"],
)
def test_a_gradient_of_zero_stays_zero(family):
    steps = descend(family, family.nominal()._replace(inner=FLAT_SPEC), 2)
    np.testing.assert_array_equal(steps.grads["x"], 0.0)


DRAWS = 40_000


@pytest.fixture(params=[1, 3, 8], scope="module")
def directions(request):
    return request.param


def subsampled(directions, sign):
    """Draws `[DRAWS, DIM]`, and the gradient that they are made of."""
    family = SubsampleDirections(BOWL, directions=(1, 8), sign=sign)
    spec = SubsampleDirectionsSpec(SPEC, jnp.int32(directions))
    _, grads = many_first_steps(family, spec, DRAWS)
    return np.asarray(grads["x"]), np.asarray(look(BOWL, SPEC)[2]["x"])


def assert_moments(draws, mean, covariance, kurtosis):
    """Within 5 standard errors: false alarms below 1 in 10,000 in all."""
    spread = np.sqrt(np.diag(covariance) / DRAWS)
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean), 5.0 * spread)
    deviations = np.sqrt(np.diag(covariance))
    found = np.cov(draws.T) / np.outer(deviations, deviations)
    wanted = covariance / np.outer(deviations, deviations)
    bound = 5.0 * math.sqrt((kurtosis - 1.0) / DRAWS)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound)


@pytest.mark.statistical
def test_projections_are_unbiased_with_their_variance(directions):
    """Mean g, covariance (|g|^2 I + g g') / n; see `assert_moments`."""
    draws, g = subsampled(directions, sign=False)
    covariance = (g @ g * np.eye(DIM) + np.outer(g, g)) / directions
    # Of one entry, at most that of a squared normal deviate's mean.
    assert_moments(draws, g, covariance, kurtosis=3.0 + 12.0 / directions)


@pytest.mark.statistical
def test_signs_of_projections_have_their_mean_and_variance(directions):
    """Mean sqrt(2/pi) u, covariance (I - 2/pi u u') / n; see `assert_moments`."""
    draws, g = subsampled(directions, sign=True)
    u = g / np.linalg.norm(g)
    covariance = (np.eye(DIM) - 2 / np.pi * np.outer(u, u)) / directions
    assert_moments(draws, math.sqrt(2 / np.pi) * u, covariance, kurtosis=4.0)


@pytest.mark.statistical
def test_directions_span_what_they_are_projected_on():
    """The sum over directions, and the sum drawn at once, agree beyond two moments.

    Cubes of the part along the gradient, squares of the part across: 40,000 draws of
    each, within 5 standard errors of their difference; false alarms 1 in 100,000.
    """
    draws, g = subsampled(3, sign=False)
    z = np.asarray(jax.random.normal(jax.random.key(9), (DRAWS, 3, DIM)))
    summed = np.einsum("kni,knj,j->ki", z, z, g) / 3
    u = g / np.linalg.norm(g)
    for statistic in (
        lambda x: (x @ u) ** 3,
        lambda x: (x @ u) * np.sum((x - np.outer(x @ u, u)) ** 2, axis=1),
    ):
        one, two = statistic(draws), statistic(summed)
        error = math.sqrt((one.var() + two.var()) / DRAWS)
        assert abs(one.mean() - two.mean()) < 5.0 * error


@pytest.mark.statistical
def test_whole_numbers_are_log_uniform():
    """20,000 draws of 1..8: shares within 5 deviations, false alarms 1 in 200,000."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jax.vmap(lambda key: log_uniform_int(key, (1, 8)))(keys))
    for n in range(1, 9):
        share = math.log1p(1 / n) / math.log(9)
        bound = 5.0 * math.sqrt(share * (1 - share) / len(keys))
        assert np.mean(drawn == n) == pytest.approx(share, abs=bound)
    assert set(drawn) == set(range(1, 9))


LONGEST = 4
C = jnp.float32(3.0)


def delayed(spec, delay):
    return DelayGradientSpec(spec, jnp.int32(delay))


# Family, specification at a delay, and what weights and loss are multiplied by.
NESTS = {
    "alone": (
        DelayGradient(BOWL, LONGEST),
        lambda d: delayed(SPEC, d),
        (1.0, 1.0),
    ),
    "outside": (
        DelayGradient(Reparametrise(BOWL), LONGEST),
        lambda d: delayed(ReparametriseSpec(SPEC, C), d),
        (3.0, 1.0),
    ),
    "inside": (
        Reparametrise(DelayGradient(BOWL, LONGEST)),
        lambda d: ReparametriseSpec(delayed(SPEC, d), C),
        (3.0, 1.0),
    ),
    "scaled outside": (
        DelayGradient(ScaleLoss(BOWL), LONGEST),
        lambda d: delayed(ScaleLossSpec(SPEC, C), d),
        (1.0, 3.0),
    ),
    "scaled inside": (
        ScaleLoss(DelayGradient(BOWL, LONGEST)),
        lambda d: ScaleLossSpec(delayed(SPEC, d), C),
        (1.0, 3.0),
    ),
}


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("delay", [1, 2, LONGEST])
def test_gradients_are_those_of_old_parameters(nest, delay):
    """Against a loop written out, in parameters p with weights scale * p."""
    family, spec, (scale, factor) = NESTS[nest]
    steps = descend(family, spec(delay), 11)
    hessian = SPEC.rotation @ jnp.diag(SPEC.eigenvalues) @ SPEC.rotation.T
    task = BOWL.task(SPEC)
    past = [task.init(jax.random.key(0))["x"] / scale]
    for t in range(11):
        np.testing.assert_allclose(steps.params["x"][t], past[t], rtol=1e-4, atol=1e-5)
        old = scale * past[max(t - delay, 0)]
        noise = task.batch(steps.batch_keys[t], "train")
        away = old - SPEC.minimiser
        loss = factor * (0.5 * away @ hessian @ away + noise @ away)
        assert float(steps.losses[t]) == pytest.approx(float(loss), rel=1e-3, abs=1e-4)
        slope = factor * scale * (hessian @ away + noise)
        past.append(past[t] - RATE * slope)
    assert float(jnp.linalg.norm(vector(steps.grads))) > 0.1
