import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.network import ACTIVATIONS, INIT_SCHEMES, NetworkChoices


ALL = NetworkChoices(activation=tuple(ACTIVATIONS), init_scheme=INIT_SCHEMES)
INPUTS = jnp.linspace(-6.0, 6.0, 101)


def spec(**fields):
    values = {name: jnp.asarray(value) for name, value in fields.items()}
    return ALL.nominal()._replace(**values)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_mixed_activation_is_the_one_of_that_name(name):
    place = list(ACTIVATIONS).index(name)
    mixed = ALL.activate(spec(activation=place))(INPUTS)
    np.testing.assert_allclose(mixed, ACTIVATIONS[name].function(INPUTS), atol=2e-6)


def test_a_mixed_activation_has_the_slope_of_the_one_of_that_name():
    for place, row in enumerate(ACTIVATIONS.values()):
        inputs = INPUTS + 0.01  # Not at zero, where relu has two.
        mixed = jax.grad(lambda x, p=place: ALL.activate(spec(activation=p))(x).sum())
        own = jax.grad(lambda x, f=row.function: f(x).sum())
        np.testing.assert_allclose(mixed(inputs), own(inputs), atol=2e-5)


def test_schemes_scale_weights_and_leave_vectors_alone():
    params = {"conv": jnp.ones((3, 3, 4, 8)), "w": jnp.ones((6, 2)), "b": jnp.ones(2)}
    gains = {
        "lecun": {"conv": 1.0, "w": 1.0},
        "he": {"conv": 2.0**0.5, "w": 2.0**0.5},
        "glorot": {"conv": (2 * 36 / (36 + 72)) ** 0.5, "w": (2 * 6 / 8) ** 0.5},
    }
    for place, name in enumerate(INIT_SCHEMES):
        found = ALL.rescale(params, spec(init_scheme=place, init_scale=3.0))
        for leaf, gain in gains[name].items():
            np.testing.assert_allclose(found[leaf], 3.0 * gain, rtol=1e-6)
        np.testing.assert_array_equal(found["b"], 1.0)


def test_weights_have_the_variance_of_their_scheme():
    """Of 64 x 256 weights: the deviation of a measured variance is 1.1 %."""
    inputs = jnp.zeros((1, 64))
    for place, gain in enumerate((1.0, 2.0, 2 * 64 / (64 + 256))):
        params = ALL.init(
            nn.Dense(256), spec(init_scheme=place), jax.random.key(0), inputs
        )
        assert float(params["kernel"].var()) == pytest.approx(gain / 64, rel=0.05)


def test_samples_cover_the_range_and_all_choices():
    choices = NetworkChoices(
        init_scale=(0.1, 10.0), activation=("relu", "tanh"), init_scheme=("he", "lecun")
    )
    drawn = jax.vmap(choices.sample)(jax.random.split(jax.random.key(0), 500))
    assert 0.1 <= drawn.init_scale.min() < 0.12
    assert 8.0 < drawn.init_scale.max() <= 10.0
    assert float(jnp.mean(drawn.init_scale < 1.0)) == pytest.approx(0.5, abs=0.1)
    for indices in (drawn.activation, drawn.init_scheme):
        assert float(indices.mean()) == pytest.approx(0.5, abs=0.1)
