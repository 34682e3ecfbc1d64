import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.base import SPLITS
from tasks.graph_network import GraphNetwork


FAMILY = GraphNetwork(nodes=12, hidden=(8, 8), batch_size=4)


@pytest.fixture(scope="module")
def draw():
    """`key -> batches by split` of the nominal task."""

    @jax.jit
    def draw(key):
        task = FAMILY.task(FAMILY.nominal())
        return {split: task.batch(key, split) for split in SPLITS}

    return draw


@pytest.fixture(scope="module")
def evaluate():
    """`batch -> (loss, aux)` at one initialisation."""

    @jax.jit
    def evaluate(batch):
        task = FAMILY.task(FAMILY.nominal())
        params = task.init(jax.random.key(0))
        return task.loss(params, jax.random.key(1), batch)

    return evaluate


def test_the_order_of_nodes_does_not_matter(draw, evaluate):
    edges, blocks, told = (np.asarray(x) for x in draw(jax.random.key(2))["train"])
    order = np.random.default_rng(0).permutation(12)
    renumbered = edges[:, order][:, :, order], blocks[:, order], told[:, order]
    one, other = evaluate((edges, blocks, told)), evaluate(renumbered)
    assert float(other[0]) == pytest.approx(float(one[0]), rel=1e-5)
    assert float(other[1]["accuracy"]) == pytest.approx(float(one[1]["accuracy"]))


def test_only_nodes_that_were_not_told_are_asked(draw, evaluate):
    edges, blocks, told = draw(jax.random.key(2))["train"]
    everyone = evaluate((edges, blocks, jnp.ones_like(told)))
    assert (float(everyone[0]), float(everyone[1]["accuracy"])) == (0.0, 0.0)
    nobody = evaluate((edges, blocks, jnp.zeros_like(told)))
    # All inputs are zero, and so are the biases: the network says nothing.
    assert float(nobody[0]) == pytest.approx(np.log(3), rel=1e-6)


def test_one_key_gives_every_split_other_graphs(draw):
    batches = draw(jax.random.key(3))
    for one, two in itertools.combinations(SPLITS, 2):
        assert (batches[one][0] != batches[two][0]).any()


@pytest.mark.statistical
def test_edges_have_the_chances_of_the_block_model():
    """Each of three frequencies within 5 standard errors; false alarms 2e-6."""
    family = GraphNetwork(nodes=12, batch_size=800)
    spec = family.nominal()
    draw = jax.jit(lambda key: family.task(spec).batch(key, "train"))
    edges, blocks, told = (np.asarray(x) for x in draw(jax.random.key(4)))
    np.testing.assert_array_equal(edges, np.swapaxes(edges, 1, 2))
    assert not np.diagonal(edges, axis1=1, axis2=2).any()
    above = np.triu(np.ones((12, 12), bool), 1)
    alike = blocks[:, :, None] == blocks[:, None, :]
    for draws, chance in (
        (edges[alike & above], spec.within),
        (edges[~alike & above], spec.between),
        (told, spec.revealed),
    ):
        error = np.sqrt(chance * (1 - chance) / draws.size)
        assert draws.mean() == pytest.approx(float(chance), abs=5 * float(error))


def test_gradient_descent_finds_the_communities():
    family = GraphNetwork(hidden=(16, 16))

    @jax.jit
    def train(family):
        task = family.task(family.nominal())

        def step(params, key):
            batch = task.batch(key, "train")
            grads, _ = jax.grad(task.loss, has_aux=True)(params, key, batch)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), None

        keys = jax.random.split(jax.random.key(1), 500)
        params, _ = jax.lax.scan(step, task.init(jax.random.key(0)), keys)
        judge = lambda key: task.loss(params, key, task.batch(key, "test"))[1]
        return jnp.mean(jax.vmap(judge)(keys[:50])["accuracy"])

    # A guess is right once in three.
    assert float(train(family)) > 0.8
