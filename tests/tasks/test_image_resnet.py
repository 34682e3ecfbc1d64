import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import ImageResNet, load
from tests.tasks.descent import held_out_accuracy


@pytest.fixture(scope="module", params=["layer", "group"])
def family(request):
    return ImageResNet(load("digits"), norm=request.param, batch_size=16)


@pytest.fixture(scope="module")
def seen(family):
    """The loss on a batch as a function of the first kernel of the block."""
    task = family.task(family.nominal())
    params = task.init(jax.random.key(0))
    batch = task.batch(jax.random.key(1), "train")

    @jax.jit
    def loss(kernel):
        changed = {**params, "Convolution_1": {"kernel": kernel}}
        return task.loss(changed, jax.random.key(2), batch)[0]

    return loss, params["Convolution_1"]["kernel"]


def test_loss_does_not_change_with_the_scale_of_an_inner_kernel(seen):
    """But for the small number that the normalisation adds to the variance."""
    loss, kernel = seen
    assert float(loss(100.0 * kernel)) == pytest.approx(
        float(loss(30.0 * kernel)), rel=1e-4
    )
    assert float(loss(-kernel)) != pytest.approx(float(loss(kernel)), rel=1e-3)


def test_gradient_of_an_inner_kernel_is_at_right_angles_and_falls_with_it(seen):
    loss, kernel = seen
    near, far = (jax.grad(loss)(scale * kernel) for scale in (30.0, 60.0))
    cosine = jnp.vdot(near, kernel) / jnp.sqrt(
        jnp.vdot(near, near) * jnp.vdot(kernel, kernel)
    )
    assert abs(float(cosine)) < 1e-3
    np.testing.assert_allclose(far, near / 2.0, rtol=1e-2, atol=1e-6)


def test_examples_are_not_mixed(family):
    task = family.task(family.nominal())
    params = task.init(jax.random.key(0))
    inputs, labels = task.batch(jax.random.key(1), "train")

    @jax.jit
    def loss(inputs, labels):
        return task.loss(params, jax.random.key(2), (inputs, labels))[0]

    alone = jax.vmap(loss)(inputs[:, None], labels[:, None])
    assert float(loss(inputs, labels)) == pytest.approx(float(alone.mean()), rel=1e-5)


def test_gradient_descent_learns_the_digits(family):
    assert held_out_accuracy(family, rate=0.2, steps=600) > 0.8
