import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import ImageConv, load
from tests.tasks.descent import held_out_accuracy


@pytest.fixture(scope="module")
def family():
    return ImageConv(load("digits"), channels=(8, 16), batch_size=32)


def test_kernels_have_the_four_axes_of_usual_networks(family):
    task = family.task(family.nominal())
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {
        "Convolution_0": {"bias": (8,), "kernel": (3, 3, 1, 8)},
        "Convolution_1": {"bias": (16,), "kernel": (3, 3, 8, 16)},
        "Dense_0": {"bias": (10,), "kernel": (16, 10)},
    }


def test_where_a_small_thing_is_does_not_matter(family):
    """Moved by the product of the strides, a dot has the same features elsewhere."""
    task = family.task(family.nominal())
    images = np.zeros((2, 16, 16, 1), np.float32)
    images[0, 5, 5], images[1, 9, 9] = 1.0, 1.0

    @jax.jit
    def loss(image):
        batch = (image[None], jnp.zeros(1, jnp.int32))
        return task.loss(task.init(jax.random.key(0)), jax.random.key(1), batch)[0]

    losses = [loss(image) for image in images]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)


def test_gradient_descent_learns_the_digits(family):
    assert held_out_accuracy(family, rate=0.5, steps=1000) > 0.85
