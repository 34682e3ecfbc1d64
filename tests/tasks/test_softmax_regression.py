import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import SPLITS, SoftmaxRegression, load
from tasks.classification import LabelChoices
from tasks.data.arrays import Examples, on_device
from tests.tasks.descent import held_out_accuracy


@pytest.fixture(scope="module")
def objective():
    """The loss of wines on one batch, and the penalty's factor, which is large."""
    family = SoftmaxRegression(load("wine"), penalty=(0.5, 0.5), batch_size=16)
    task = family.task(family.nominal())
    batch = task.batch(jax.random.key(0), "train")
    return jax.jit(
        jax.value_and_grad(
            lambda params: task.loss(params, jax.random.key(1), batch)[0]
        )
    )


def randoms(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {
            "bias": rng.normal(size=3).astype(np.float32),
            "kernel": rng.normal(size=(13, 3)).astype(np.float32),
        }


@pytest.mark.parametrize("loss", ["cross_entropy", "smoothed"])
@pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("wine", 3)])
def test_loss_at_the_start_is_the_logarithm_of_the_classes(loss, name, classes):
    family = SoftmaxRegression(load(name), labels=LabelChoices(loss=(loss,)))
    task = family.task(family.nominal())
    params = task.init(jax.random.key(0))
    start, _ = task.loss(
        params, jax.random.key(1), task.batch(jax.random.key(2), "test")
    )
    assert float(start) == pytest.approx(math.log(classes), rel=3e-7)
    assert float(task.normalise(start)) == pytest.approx(1.0, rel=3e-7)


def test_loss_is_convex_and_strongly_so_in_the_weights(objective):
    r"""$f(q) \ge f(p) + \langle f'(p), q - p \rangle + \lambda/2 |W_q - W_p|^2$."""
    points = list(randoms(12))
    for p, q in zip(points[::2], points[1::2], strict=True):
        (value, slope), (other, _) = objective(p), objective(q)
        step = jax.tree.map(jnp.subtract, q, p)
        tangent = value + sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slope, step)))
        bent = 0.25 * jnp.sum(jnp.square(step["kernel"]))
        assert float(other) >= float(tangent + bent) - 1e-3


def test_minimum_of_two_points_is_where_it_should_be():
    r"""Of points 1 and -1 in two classes.

    With $W = (w, -w)$ the loss is $\log(1 + e^{-2w}) + \lambda w^2$, which is lowest
    where $\lambda w = \sigma(-2w)$.
    """
    points, labels = np.array([[1.0], [-1.0]], np.float32), np.array([0, 1])
    data = on_device(
        {
            "two": Examples(
                dict.fromkeys(SPLITS, points), dict.fromkeys(SPLITS, labels), 2
            )
        }
    )
    best = 0.7
    penalty = 1.0 / (1.0 + math.exp(2.0 * best)) / best
    family = SoftmaxRegression(data, penalty=(penalty, penalty))
    task = family.task(family.nominal())
    params = {"bias": jnp.zeros(2), "kernel": jnp.array([[best, -best]])}
    (value, aux), slope = jax.value_and_grad(task.loss, has_aux=True)(
        params, jax.random.key(0), (points, labels)
    )
    expected = math.log1p(math.exp(-2.0 * best)) + penalty * best**2
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert float(aux["accuracy"]) == 1.0
    for leaf in jax.tree.leaves(slope):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-6)


def test_penalties_are_drawn_evenly_in_the_logarithm():
    family = SoftmaxRegression(load("wine"), penalty=(1e-4, 1.0))
    draw = jax.jit(jax.vmap(lambda key: family.sample(key).penalty))
    penalties = draw(jax.random.split(jax.random.key(0), 2000))
    assert 1e-4 <= float(penalties.min()) < float(penalties.max()) <= 1.0
    quartiles = np.quantile(np.log10(penalties), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [-3.0, -2.0, -1.0], atol=0.2)
    assert float(family.nominal().penalty) == pytest.approx(1e-2, rel=1e-6)


def test_gradient_descent_learns_the_wines():
    family = SoftmaxRegression(load("wine"), penalty=(1e-3, 1e-3), batch_size=16)
    assert held_out_accuracy(family, rate=0.3, steps=300) > 0.85
