"""What holds of every language model."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import LMRNN, LMTransformer, load_text
from tasks.language import predictions
from tasks.network import NetworkChoices


# Large weights: predictions that differ from byte to byte.
SHARP = NetworkChoices(init_scale=(3.0, 3.0), activation=("tanh",))
MODELS = {
    "gru": lambda **sizes: LMRNN(load_text("kjv"), cell="gru", **sizes),
    "lstm": lambda **sizes: LMRNN(load_text("kjv"), cell="lstm", **sizes),
    "transformer": lambda **sizes: LMTransformer(load_text("kjv"), **sizes),
}


@pytest.fixture(params=MODELS)
def make(request):
    return MODELS[request.param]


@jax.jit
def initial(family):
    """Parameters and passages of the nominal task."""
    task = family.task(family.nominal())
    passages = task.batch(jax.random.key(1), "train")
    return task.init(jax.random.key(0)), passages


@jax.jit
def losses_of(family, params, passages):
    return predictions(family.model(family.nominal()), params, passages)[0]


def test_the_loss_of_a_byte_does_not_depend_on_later_ones(make):
    family = make(width=8, length=6, batch_size=3, network=SHARP)
    params, passages = initial(family)
    before = losses_of(family, params, passages)
    for place in range(7):
        # The byte at `place` is predicted by the loss before it, and tells later ones.
        other = passages.at[:, place].set((passages[:, place] + 100) % 256)
        changed = np.asarray(losses_of(family, params, other) != before)
        assert not changed[:, : max(place - 1, 0)].any(), place
        assert changed[:, max(place - 1, 0) :].all(), place


def test_probabilities_of_all_passages_with_one_beginning_sum_to_one(make):
    family = make(width=4, length=2, batch_size=1, network=SHARP)
    params, _ = initial(family)

    @jax.jit
    def total(family, params):
        task = family.task(family.nominal())

        def chance(pair):
            passage = jnp.concatenate([jnp.int32([7]), pair])[None]
            loss, _ = task.loss(params, jax.random.key(0), passage)
            return jnp.exp(-2.0 * loss)

        pairs = jnp.stack(jnp.unravel_index(jnp.arange(256**2), (256, 256)), axis=1)
        chances = jax.lax.map(chance, pairs.astype(jnp.int32), batch_size=1024)
        return jnp.sum(chances), jnp.max(chances)

    together, largest = total(family, params)
    assert float(together) == pytest.approx(1.0, abs=1e-4)
    assert float(largest) > 2 / 256**2


def test_a_model_that_knows_nothing_needs_eight_bits_a_byte(make):
    family = make(width=8, length=6, batch_size=3)
    params, passages = initial(family)
    task = family.task(family.nominal())
    nothing = jax.tree.map(jnp.zeros_like, params)
    loss, aux = task.loss(nothing, jax.random.key(0), passages)
    assert float(loss) == pytest.approx(math.log(256), rel=1e-6)
    assert float(aux["bits_per_byte"]) == pytest.approx(8.0, rel=1e-6)
    assert float(task.normalise(loss)) == pytest.approx(1.0, rel=1e-6)


def test_gradient_descent_learns_more_than_how_frequent_bytes_are(make):
    family = make(width=16, length=8, batch_size=8)

    @jax.jit
    def descend(family):
        task = family.task(family.nominal())

        def step(params, key):
            batch = task.batch(key, "train")
            grads, _ = jax.grad(task.loss, has_aux=True)(params, key, batch)
            return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), None

        keys = jax.random.split(jax.random.key(1), 400)
        params, _ = jax.lax.scan(step, task.init(jax.random.key(0)), keys)
        batches = jax.vmap(lambda k: task.batch(k, "test"))(keys[:100])
        return task.loss(params, keys[0], batches.reshape(-1, batches.shape[-1]))[0]

    counts = np.bincount(np.asarray(family.data.tokens["test"]))
    shares = counts[counts > 0] / counts.sum()
    assert float(descend(family)) < -0.95 * np.sum(shares * np.log(shares))
