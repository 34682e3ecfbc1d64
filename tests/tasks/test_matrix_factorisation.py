import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.base import SPLITS
from tasks.matrix_factorisation import MatrixFactorisation


FAMILY = MatrixFactorisation(
    rows=20, cols=16, rank=3, factors=4, seen=0.25, noise=(0.1, 0.1)
)


@pytest.fixture(scope="module")
def spec():
    return jax.jit(FAMILY.sample)(jax.random.key(0))


@pytest.fixture(scope="module")
def batches(spec):
    """Per split: which entries 100 batches draw, `[100, rows, cols]`, and entries."""

    def draw(task, split, keys):
        return jax.vmap(lambda key: task.batch(key, split), out_axes=(0, None))(keys)

    @jax.jit
    def draw_all(spec, keys):
        return {split: draw(FAMILY.task(spec), split, keys) for split in SPLITS}

    return draw_all(spec, jax.random.split(jax.random.key(1), 100))


def test_an_entry_is_in_one_split_and_reached_there(batches):
    reached = {s: np.asarray(drawn).any(0) for s, (drawn, _) in batches.items()}
    for one, two in itertools.combinations(SPLITS, 2):
        assert not (reached[one] & reached[two]).any(), (one, two)
    # An entry is missed by all of 100 batches with chance 3e-13.
    assert np.logical_or.reduce(list(reached.values())).all()
    shares = [reached[s].mean() for s in SPLITS]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.1, 0.1], atol=0.05)


def test_all_entries_may_be_seen_and_none_may_not():
    whole = dataclasses.replace(FAMILY, seen=1.0)
    task = whole.task(whole.nominal())
    parts = [task.batch(jax.random.key(1), split)[0] for split in SPLITS]
    assert np.sum(parts, axis=0).tolist() == np.ones_like(parts[0]).tolist()
    with pytest.raises(ValueError, match=r"seen must be .*0\.0039.*got 0.001"):
        dataclasses.replace(FAMILY, seen=0.001)


def test_the_target_has_the_sampled_spectrum(spec):
    values = np.linalg.svd(np.asarray(spec.target), compute_uv=False)
    assert (values[3:] < 1e-5 * values[0]).all()
    assert values[0] / values[2] <= 10.0 * (1 + 1e-5)
    assert float(jnp.mean(jnp.square(spec.target))) == pytest.approx(1.0, rel=1e-5)
    nominal = np.linalg.svd(np.asarray(FAMILY.nominal().target), compute_uv=False)
    ratios = nominal[:3] / nominal[0]
    np.testing.assert_allclose(ratios, [1.0, 10**-0.5, 0.1], rtol=1e-4)


def test_only_training_entries_are_noisy(batches, spec):
    for split in SPLITS[1:]:
        np.testing.assert_array_equal(batches[split][1], spec.target)
    error = np.asarray(batches["train"][1] - spec.target)
    # The standard error of a deviation that 320 entries show is 4 %.
    assert error.std() == pytest.approx(0.1, rel=0.15)


def test_the_loss_is_the_mean_square_error_of_the_drawn_entries(batches, spec):
    task = FAMILY.task(spec)
    params = task.init(jax.random.key(2))
    drawn, entries = batches["train"][0][0], batches["train"][1]
    loss, _ = task.loss(params, jax.random.key(3), (drawn, entries))
    product = np.asarray(params["u"]) @ np.asarray(params["v"]).T
    expected = np.square(product - entries)[np.asarray(drawn)].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_gradient_descent_completes_the_matrix():
    family = MatrixFactorisation(rank=2, factors=2, seen=0.5, noise=(0.01, 0.01))

    @jax.jit
    def train(family):
        task = family.task(family.nominal())

        def step(carry, key):
            params, speed = carry
            grads, _ = jax.grad(task.loss, has_aux=True)(
                params, key, task.batch(key, "train")
            )
            speed = jax.tree.map(lambda v, g: 0.9 * v - 2.0 * g, speed, grads)
            return (jax.tree.map(jnp.add, params, speed), speed), None

        params = task.init(jax.random.key(0))
        carry = params, jax.tree.map(jnp.zeros_like, params)
        keys = jax.random.split(jax.random.key(1), 500)
        (params, _), _ = jax.lax.scan(step, carry, keys)
        key = jax.random.key(2)
        return task.loss(params, key, task.batch(key, "test"))[0]

    assert float(train(family)) < 1e-3
