import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import load
from tasks.reconstruction import RECONSTRUCTION, log_odds, pixels_of


@pytest.fixture(scope="module")
def data():
    return load(("digits", "mnist@8"))


def test_pixels_are_those_of_the_chosen_data_set(data):
    spreads = jax.vmap(pixels_of, in_axes=(None, 0))(data, jnp.arange(2))
    begin = 0
    for i, count in enumerate(data.counts[0]):
        images = np.asarray(data.inputs["train"][begin : begin + min(count, 1000)])
        pixels = images / 255.0 if images.dtype == np.uint8 else images
        assert float(spreads.mean[i]) == pytest.approx(pixels.mean(), rel=1e-4)
        assert float(spreads.variance[i]) == pytest.approx(pixels.var(), rel=1e-4)
        begin += count
    assert not np.isclose(*spreads.mean)


def test_start_and_best_are_losses_of_the_mean_pixel_and_of_the_pixels_themselves():
    data = load("digits")
    spread = pixels_of(data, jnp.int32(0))
    pixels, _ = data.take("train", jnp.arange(1000))
    inside = jnp.clip(pixels, 1e-6, 1 - 1e-6)
    for name, loss in RECONSTRUCTION.items():
        start = jnp.mean(
            loss.function(jnp.full_like(pixels, log_odds(spread.mean)), pixels)
        )
        best = jnp.mean(loss.function(log_odds(inside), pixels))
        assert float(start) == pytest.approx(float(loss.start(spread)), rel=1e-4), name
        assert float(best) == pytest.approx(float(loss.best(spread)), abs=1e-4), name


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_losses_are_least_at_the_pixel(name):
    loss = RECONSTRUCTION[name].function
    pixels = jnp.array([0.1, 0.5, 0.8])
    slope = jax.grad(lambda logits: jnp.sum(loss(logits, pixels)))
    np.testing.assert_allclose(slope(log_odds(pixels)), np.zeros(3), atol=1e-6)
    assert (slope(log_odds(pixels) + 0.1) > 0).all()
    assert (slope(log_odds(pixels) - 0.1) < 0).all()
