"""The block that transformers of images and of text are made of."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


class Block(nn.Module):
    r"""Self-attention and a perceptron, each added to what it reads normalised.

    With layer normalisations $n_1$ and $n_2$ of learned scale and shift, and the
    activation $f$: $y = x + A(n_1(x)) W_o$, and $y + f(n_2(y) W_1) W_2$ is the result.
    $A$ is the attention of Vaswani et al., "Attention is all you need" (2017), whose
    queries, keys and values come from one matrix; normalising what a branch reads, not
    the sum: Xiong et al., "On layer normalization in the transformer architecture"
    (2020). The only constants are the normalisations' shifts.

    Attributes:
        heads: of the attention; they divide the width.
        activation: of the perceptron.
        causal: whether a place attends to itself and those before it only.
        mlp: how many times wider than the residual stream the perceptron is.
    """

    heads: int
    activation: Callable[[jax.Array], jax.Array]
    causal: bool = False
    mlp: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[examples, places, width]` to the same."""
        width = x.shape[-1]
        qkv = nn.Dense(3 * width, use_bias=False, name="qkv")(nn.LayerNorm()(x))
        mixed = attention(qkv, heads=self.heads, causal=self.causal)
        x = x + nn.Dense(width, use_bias=False, name="out")(mixed)
        hidden = nn.Dense(self.mlp * width, use_bias=False, name="up")(
            nn.LayerNorm()(x)
        )
        return x + nn.Dense(width, use_bias=False, name="down")(self.activation(hidden))


def attention(qkv: jax.Array, *, heads: int, causal: bool) -> jax.Array:
    r"""Softmax attention: $\mathrm{softmax}(Q K^T / \sqrt d) V$ in every head.

    Args:
        qkv: queries, keys and values one after another,
            `[examples, places, 3 * heads * d]`; each is its heads one after another.
        heads: their number.
        causal: whether a place attends to itself and those before it only.

    Returns:
        The heads one after another, `[examples, places, heads * d]`.
    """
    examples, places, width = qkv.shape
    split = qkv.reshape(examples, places, 3, heads, width // (3 * heads))
    q, k, v = (split[:, :, i] for i in range(3))
    scores = jnp.einsum("eqhd,ekhd->ehqk", q, k) / math.sqrt(q.shape[-1])
    if causal:
        place = jnp.arange(places)
        future = jnp.broadcast_to(place[None, :] > place[:, None], scores.shape)
        scores = jnp.where(future, -jnp.inf, scores)
    mixed = jnp.einsum("ehqk,ekhd->eqhd", jax.nn.softmax(scores), v)
    return mixed.reshape(examples, places, -1)
