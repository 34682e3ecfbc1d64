import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import load
from tasks.image_mlp import ImageMLP


@pytest.fixture(scope="module")
def family():
    return ImageMLP(load("digits"), hidden=(8,), batch_size=16)


@pytest.fixture(scope="module")
def run(family):
    """`(init_scale) -> (params, aux)` on one batch."""

    @jax.jit
    def look(family, init_scale):
        spec = family.nominal()
        spec = spec._replace(network=spec.network._replace(init_scale=init_scale))
        task = family.task(spec)
        params = task.init(jax.random.key(0))
        batch = task.batch(jax.random.key(1), "train")
        return params, task.loss(params, jax.random.key(2), batch)[1]

    return lambda init_scale: look(family, jnp.float32(init_scale))


def test_initial_scale_multiplies_the_weights(run):
    for p, doubled in zip(
        jax.tree.leaves(run(1.0)[0]), jax.tree.leaves(run(2.0)[0]), strict=True
    ):
        np.testing.assert_allclose(doubled, 2.0 * p, rtol=1e-6)


def test_layers_are_as_wide_as_asked(run):
    shapes = jax.tree.map(jnp.shape, run(1.0)[0])
    assert sorted(jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))) == [
        (8,),
        (8, 10),
        (10,),
        (64, 8),
    ]


def test_accuracy_is_the_share_of_right_answers(run):
    accuracy = float(run(1.0)[1]["accuracy"])
    assert accuracy * 16 == round(accuracy * 16)
    assert 0.0 <= accuracy <= 1.0


def test_gradient_descent_learns_the_digits(family):
    @jax.jit
    def train(family):
        task = family.task(family.nominal())

        def step(params, key):
            batch = task.batch(key, "train")
            grads, _ = jax.grad(task.loss, has_aux=True)(params, key, batch)
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), None

        keys = jax.random.split(jax.random.key(1), 1000)
        params, _ = jax.lax.scan(step, task.init(jax.random.key(0)), keys)
        held_out = (family.data.inputs["test"], family.data.labels["test"])
        return task.loss(params, jax.random.key(2), held_out)[1]["accuracy"]

    assert float(train(family)) > 0.85
