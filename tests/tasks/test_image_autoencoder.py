import jax
import jax.numpy as jnp
import pytest

from tasks import ImageAutoencoder, load


FAMILY = ImageAutoencoder(
    load("digits"), hidden=(16, 8, 16), loss=("squared", "cross_entropy")
)


@jax.jit
def normalised_of_nothing(family, spec):
    """Normalised loss of all training images with every parameter at zero."""
    task = family.task(spec)
    params = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    loss, _ = task.loss(params, jax.random.key(1), family.data.inputs["train"])
    return task.normalise(loss)


def with_loss(place):
    return FAMILY.nominal()._replace(loss=jnp.int32(place))


@pytest.mark.parametrize("place", [0, 1])
def test_a_network_that_ignores_its_input_costs_one(place):
    """The spread of pixels is that of 1,000 of the 1,078 training images."""
    value = float(normalised_of_nothing(FAMILY, with_loss(place)))
    assert value == pytest.approx(1.0, rel=0.01)


@jax.jit
def descend(family, spec):
    """Normalised loss of unseen images after 1,000 steps of gradient descent."""
    task = family.task(spec)

    def step(params, key):
        batch = task.batch(key, "train")
        grads, _ = jax.grad(task.loss, has_aux=True)(params, key, batch)
        # Means over pixels have small gradients.
        return jax.tree.map(lambda p, g: p - 3.0 * g, params, grads), None

    keys = jax.random.split(jax.random.key(1), 1000)
    params, _ = jax.lax.scan(step, task.init(jax.random.key(0)), keys)
    unseen = family.data.inputs["test"]
    return task.normalise(task.loss(params, jax.random.key(2), unseen)[0])


@pytest.mark.parametrize("place", [0, 1])
def test_gradient_descent_learns_to_reconstruct(place):
    assert float(descend(FAMILY, with_loss(place))) < 0.75
