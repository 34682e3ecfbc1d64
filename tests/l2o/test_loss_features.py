"""How far a loss has fallen, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned.loss_features import (
    init_loss_averages,
    loss_fall,
    update_loss_averages,
)


NUM_STEPS = 1_000.0


def fall_after(losses, num_steps=NUM_STEPS):
    horizon = jnp.float32(num_steps)

    def step(state, loss):
        return update_loss_averages(state, loss, horizon), None

    state, _ = jax.lax.scan(step, init_loss_averages(), jnp.asarray(losses))
    return float(loss_fall(state, horizon))


@pytest.mark.parametrize("loss", [1e-20, 3.0, 1e20])
def test_a_loss_that_stays_has_not_fallen(loss):
    # Averages of long half-lives begin with a correction of a thousand.
    assert abs(fall_after(np.full(200, loss, np.float32))) < 1e-4


def test_a_loss_that_fell_is_below_its_average():
    """Of 500 steps at 1 and 500 at 1e-3 an average of 1,000 steps remembers a third."""
    losses = np.array([1.0] * 500 + [1e-3] * 500, np.float32)
    decay = np.exp(-1 / NUM_STEPS)
    # sum of d^(1000 - n) over the first half, over that of all.
    share = (decay**500 - decay**1000) / (1 - decay**1000)
    want = np.log((share + (1 - share) * 1e-3) / 1e-3)
    np.testing.assert_allclose(fall_after(losses), want, rtol=1e-4)
    # Falls are logarithms: the scale of the loss does not matter to a bit, if exact.
    assert fall_after(losses * 2.0**40) == fall_after(losses)


def test_a_loss_that_rose_has_fallen_less_than_nothing():
    assert fall_after(np.array([1.0] * 500 + [1.9] * 50, np.float32)) < -0.1


@pytest.mark.parametrize(
    "losses",
    [[-1.0, -2.0], [1.0, -5.0], [0.0, 0.0], [np.nan, 1.0], [1.0, np.inf], [1.0, 0.0]],
    ids=str,
)
def test_a_fall_is_a_number_whatever_the_losses(losses):
    """0 unless both averages are at least 0 and finite; infinite losses are cut off."""
    found = fall_after(np.array(losses, np.float32))
    assert abs(found) <= 10.0
    if min(losses) < 0 or np.isnan(losses).any() or max(losses) == 0:
        assert found == 0.0


def test_no_fall_is_further_than_ten():
    losses = np.array([1.0] * 10 + [0.0] * 990, np.float32)
    np.testing.assert_allclose(fall_after(losses, num_steps=1e6), 10.0, rtol=1e-6)


def test_a_fall_has_a_derivative_at_a_loss_of_zero():
    def fall(last):
        return loss_fall(
            init_loss_averages()._replace(
                means=jnp.full((10,), 0.5).at[0].set(last), seen=jnp.int32(1)
            ),
            jnp.float32(NUM_STEPS),
        )

    assert jax.grad(fall)(0.0) == 0.0
    np.testing.assert_allclose(jax.grad(fall)(0.25), -1 / 0.25, rtol=1e-5)
