import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.transformer import Block, attention


EXAMPLES, PLACES, HEADS, WIDTH = 2, 5, 2, 6


def attend(q, k, v, causal):
    """Written out, for one head of one example."""
    mixed = np.zeros_like(v)
    for place, query in enumerate(q):
        seen = place + 1 if causal else len(k)
        weights = np.exp(k[:seen] @ query / np.sqrt(len(query)))
        mixed[place] = weights @ v[:seen] / weights.sum()
    return mixed


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_the_written_equation(causal):
    qkv = np.random.default_rng(0).normal(size=(EXAMPLES, PLACES, 3 * WIDTH))
    got = attention(jnp.asarray(qkv, jnp.float32), heads=HEADS, causal=causal)
    assert got.shape == (EXAMPLES, PLACES, WIDTH)
    parts = np.split(qkv, 3 * HEADS, axis=-1)
    for head in range(HEADS):
        q, k, v = (parts[HEADS * i + head] for i in range(3))
        size = WIDTH // HEADS
        here = got[..., size * head : size * (head + 1)]
        for example in range(EXAMPLES):
            want = attend(q[example], k[example], v[example], causal)
            np.testing.assert_allclose(here[example], want, rtol=1e-5, atol=1e-5)


def apply(causal, x):
    block = Block(HEADS, nn.relu, causal=causal)
    return np.asarray(block.init_with_output(jax.random.key(0), x)[0])


@pytest.fixture(scope="module")
def inputs():
    return jax.random.normal(jax.random.key(1), (EXAMPLES, PLACES, WIDTH))


@pytest.mark.parametrize("causal", [False, True])
def test_only_a_causal_block_does_not_look_ahead(causal, inputs):
    changed = inputs.at[:, 3, 0].add(1.0)
    before, after = apply(causal, inputs), apply(causal, changed)
    moved = np.abs(after - before).max(axis=(0, 2)) > 1e-6
    assert moved.tolist() == [not causal] * 3 + [True] * 2


def test_order_is_nothing_to_a_block_that_is_not_causal(inputs):
    order = np.asarray([3, 0, 4, 1, 2])
    np.testing.assert_allclose(
        apply(False, inputs[:, order]), apply(False, inputs)[:, order], atol=1e-5
    )
