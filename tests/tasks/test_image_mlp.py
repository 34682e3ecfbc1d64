import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.data import digits
from tasks.image_mlp import ImageMLP, ImageMLPSpec


@pytest.fixture(scope="module")
def run():
    """`(init_scale, reparam) -> (params, loss, aux, grads)` on one batch."""
    family = ImageMLP(digits.load(), hidden=(8,), batch_size=16)

    @jax.jit
    def look(family, spec):
        task = family.task(spec)
        params = task.init(jax.random.key(0))
        batch = task.batch(jax.random.key(1), "train")
        loss_of = jax.value_and_grad(task.loss, has_aux=True)
        (loss, aux), grads = loss_of(params, jax.random.key(2), batch)
        return params, loss, aux, grads

    return lambda *spec: look(family, ImageMLPSpec(*(jnp.float32(s) for s in spec)))


def test_reparametrisation_keeps_the_function_and_scales_the_gradient(run):
    params, loss, _, grads = run(1.0, 1.0)
    params_c, loss_c, _, grads_c = run(1.0, 8.0)
    assert float(loss_c) == pytest.approx(float(loss), rel=1e-6)
    for p, p_c, g, g_c in zip(
        *(jax.tree.leaves(t) for t in (params, params_c, grads, grads_c)), strict=True
    ):
        np.testing.assert_allclose(8.0 * p_c, p, rtol=1e-6)
        np.testing.assert_allclose(g_c, 8.0 * g, rtol=1e-4, atol=1e-6)


def test_initial_scale_multiplies_the_weights(run):
    for p, doubled in zip(
        jax.tree.leaves(run(1.0, 1.0)[0]),
        jax.tree.leaves(run(2.0, 1.0)[0]),
        strict=True,
    ):
        np.testing.assert_allclose(doubled, 2.0 * p, rtol=1e-6)


def test_layers_are_as_wide_as_asked(run):
    shapes = jax.tree.map(jnp.shape, run(1.0, 1.0)[0])
    assert sorted(jax.tree.leaves(shapes, is_leaf=lambda x: isinstance(x, tuple))) == [
        (8,),
        (8, 10),
        (10,),
        (64, 8),
    ]


def test_accuracy_is_the_share_of_right_answers(run):
    accuracy = float(run(1.0, 1.0)[2]["accuracy"])
    assert accuracy * 16 == round(accuracy * 16)
    assert 0.0 <= accuracy <= 1.0


def test_gradient_descent_learns_the_digits():
    family = ImageMLP(digits.load(), hidden=(8,), batch_size=64)

    @jax.jit
    def train(family):
        task = family.task(family.nominal())

        def step(params, key):
            batch = task.batch(key, "train")
            grads, _ = jax.grad(task.loss, has_aux=True)(params, key, batch)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), None

        keys = jax.random.split(jax.random.key(1), 500)
        params, _ = jax.lax.scan(step, task.init(jax.random.key(0)), keys)
        held_out = (family.data.inputs["test"], family.data.labels["test"])
        return task.loss(params, jax.random.key(2), held_out)[1]["accuracy"]

    assert float(train(family)) > 0.85
