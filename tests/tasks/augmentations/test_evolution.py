import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import EvolutionGradient, Quadratic, Task, TaskFamily
from tasks.augmentations.evolution import EvolutionGradientSpec
from tests.tasks.augmentations.descent import look, many_first_steps


DIM = 4
BOWL = Quadratic(dim=DIM, spectrum=(0.5, 2.0), noise=0.5)
SPEC = BOWL.sample(jax.random.key(0))
DRAWS = 40_000
STD = 0.7


@pytest.fixture(params=[1, 5], scope="module")
def drawn(request):
    """Pairs, losses `[DRAWS]` and gradients `[DRAWS, DIM]` at one point."""
    spec = EvolutionGradientSpec(SPEC, jnp.float32(STD), jnp.int32(request.param))
    losses, grads = many_first_steps(EvolutionGradient(BOWL), spec, DRAWS)
    return request.param, np.asarray(losses), np.asarray(grads["x"])


@pytest.mark.statistical
def test_the_gradient_of_a_quadratic_is_unbiased_at_any_perturbation(drawn):
    """The gradient of the smoothed loss is that of the loss, g.

    Differences of a pair are exact, so that the covariance is (|g|^2 I + g g') / n.
    Means within 5 standard errors, the summed variance within 5 of its own: false
    alarms below 1 in 100,000.
    """
    pairs, _, grads = drawn
    g = np.asarray(look(BOWL, SPEC)[2]["x"])
    variance = (g @ g + g * g) / pairs
    bound = 5.0 * np.sqrt(variance / DRAWS)
    np.testing.assert_array_less(np.abs(grads.mean(axis=0) - g), bound)
    # Squared distances have a deviation of less than 4 times their mean.
    rel = 5.0 * 4.0 / math.sqrt(DRAWS)
    assert grads.var(axis=0).sum() == pytest.approx(variance.sum(), rel=rel)


@pytest.mark.statistical
def test_the_loss_is_the_smoothed_one(drawn):
    """f + std^2 / 2 tr H on average, deviation std^2 / 2 sqrt(2 tr H^2 / n); 5 errors.

    False alarms below 1 in 1,000,000.
    """
    pairs, losses, _ = drawn
    h = np.asarray(SPEC.eigenvalues)
    smoothed = float(look(BOWL, SPEC)[1][0]) + STD**2 / 2 * h.sum()
    deviation = STD**2 / 2 * math.sqrt(2 * (h @ h) / pairs)
    assert losses.mean() == pytest.approx(
        smoothed, abs=5.0 * deviation / math.sqrt(DRAWS)
    )
    assert losses.std() == pytest.approx(deviation, rel=0.06)


def test_one_pair_is_the_difference_written_out():
    """Along its own direction, found from the estimate itself."""
    spec = EvolutionGradientSpec(SPEC, jnp.float32(0.01), jnp.int32(1))
    _, grads = many_first_steps(EvolutionGradient(BOWL), spec, 3)
    g = np.asarray(look(BOWL, SPEC)[2]["x"])
    for estimate in np.asarray(grads["x"]):
        # z (z' g): the length of z follows from |z|^2 = |estimate|^2 / (z' g)^2.
        along = estimate @ g
        assert along > 0, "z' g squared"
        z = estimate / math.sqrt(along)
        np.testing.assert_allclose(z * (z @ g), estimate, rtol=1e-3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loud(TaskFamily):
    """A linear function under noise that depends on the key and the batch alone."""

    def sample(self, key):
        del key
        return jnp.zeros(())

    def nominal(self):
        return jnp.zeros(())

    def task(self, spec):
        def loss(params, key, batch):
            return jnp.sum(params) + 1e3 * jax.random.normal(key) + batch + spec, {}

        return Task(
            init=lambda key: jax.random.normal(key, (DIM,)),
            batch=lambda key, split: 1e3 * jax.random.normal(key),
            loss=loss,
            normalise=lambda loss: loss,
        )


def test_evaluations_share_batch_and_key():
    """Or noise of 1,000 in a difference, over 2 std, would be all there is."""
    spec = EvolutionGradientSpec(jnp.zeros(()), jnp.float32(0.1), jnp.int32(2))
    losses, grads = many_first_steps(EvolutionGradient(Loud()), spec, 100)
    assert np.abs(grads).max() < 30.0
    # But another step has another key.
    assert losses.std() > 100.0


def test_more_pairs_are_no_new_directions_for_the_first(drawn):
    """The mean over pairs, not their sum: no larger for more of them."""
    pairs, _, grads = drawn
    g = np.asarray(look(BOWL, SPEC)[2]["x"])
    mean_square = np.square(grads).sum(axis=1).mean()
    expected = g @ g * (1 + (DIM + 1) / pairs)
    assert mean_square == pytest.approx(expected, rel=0.1)
