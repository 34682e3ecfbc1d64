import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import ImageMLP, NormaliseGradient, Quadratic, ReduceBatch, ScaleLoss, load
from tasks.augmentations.base import Wrapped
from tests.tasks.augmentations.descent import descend, look, vector


BOWL = Quadratic(dim=4, noise=0.3)
DIGITS = ImageMLP(load("digits"), hidden=(), batch_size=8)


@pytest.fixture(scope="module")
def scaled():
    family = ScaleLoss(BOWL, factor=(100.0, 1000.0))
    return family, family.sample(jax.random.key(0))


def test_loss_and_gradient_are_multiplied(scaled):
    params, (loss, _), grads = look(*scaled)
    inner_params, (inner_loss, _), inner_grads = look(BOWL, scaled[1].inner)
    factor = float(scaled[1].factor)
    assert 100.0 <= factor <= 1000.0
    np.testing.assert_array_equal(params["x"], inner_params["x"])
    assert float(loss) == pytest.approx(factor * float(inner_loss), rel=1e-5)
    np.testing.assert_allclose(grads["x"], factor * inner_grads["x"], rtol=1e-5)


def test_normalise_divides_the_factor_out(scaled):
    family, spec = scaled
    losses = jnp.array([0.1, 1.0, 3.0])
    inner = jax.vmap(BOWL.task(spec.inner).normalise)(losses)
    outer = jax.vmap(family.task(spec).normalise)(losses * spec.factor)
    np.testing.assert_allclose(outer, inner, rtol=1e-5)


def test_gradients_of_another_source_are_multiplied_too(scaled):
    spec = scaled[1]._replace(inner=Wrapped(scaled[1].inner))
    steps = descend(ScaleLoss(NormaliseGradient(BOWL)), spec, 1)
    length = float(jnp.linalg.norm(vector(steps.grads)))
    assert length == pytest.approx(float(spec.factor), rel=1e-4)
    plain = descend(*scaled, 1)
    assert float(steps.losses[0]) == pytest.approx(float(plain.losses[0]), rel=1e-5)


@jax.jit
def batches(spec):
    key = jax.random.key(7)
    whole = [DIGITS.task(spec.inner).batch(key, split) for split in ("train", "test")]
    task = ReduceBatch(DIGITS).task(spec)
    return whole, [task.batch(key, split) for split in ("train", "test")]


@pytest.mark.parametrize(
    ("fraction", "used"), [(0.01, 1), (0.25, 2), (0.26, 3), (0.5, 4), (1.0, 8)]
)
def test_the_first_examples_fill_the_batch(fraction, used):
    spec = ReduceBatch(DIGITS).nominal()._replace(fraction=jnp.float32(fraction))
    (whole, test), (reduced, test_reduced) = batches(spec)
    for all_of_them, some in zip(whole, reduced, strict=True):
        for i in range(8):
            np.testing.assert_array_equal(some[i], all_of_them[i % used])
    for one, two in zip(test, test_reduced, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.statistical
def test_fractions_are_uniform_within_their_range():
    """The mean of 1,000 draws, within 5 of its deviations: false alarms 6 in 10^7."""
    family = ReduceBatch(DIGITS, fraction=(0.25, 0.7))
    keys = jax.random.split(jax.random.key(0), 1000)
    drawn = jax.jit(jax.vmap(family.sample))(keys).fraction
    assert drawn.min() >= 0.25
    assert drawn.max() <= 0.7
    assert float(drawn.mean()) == pytest.approx(0.475, abs=0.021)
    assert float(family.nominal().fraction) == pytest.approx(0.475)
