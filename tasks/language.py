"""What language models share: passages of bytes, tied embeddings, the cross-entropy."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, bounded
from tasks.classification import cross_entropy
from tasks.data.arrays import Text
from tasks.network import NetworkChoices, NetworkSpec
from tasks.sampling import index


VOCABULARY = 256
"""The symbols are bytes."""


class LanguageSpec(NamedTuple):
    """One network on one text."""

    network: NetworkSpec
    source: jax.Array  # shape=(), int32: which of the texts


class LanguageModel(nn.Module):
    r"""A network between an embedding of the bytes and its transpose.

    With the embedding $E$, `[256, width]`, the body $f$ and bytes one-hot $x_t$, the
    logits of byte $t + 1$ are $E f(16 x E)_t$. Entries of $E$ have variance 1 / 256:
    what the body sees has variance 1, and the first logits are small. Sharing the
    matrix: Press and Wolf, "Using the output embedding to improve language models"
    (2017).

    Attributes:
        body: `[passages, length, width]` to the same; causal.
        width: of the embedding.
    """

    body: nn.Module
    width: int

    @nn.compact
    def __call__(self, symbols: jax.Array) -> jax.Array:
        """Logits from one-hot symbols, both `[passages, length, 256]`."""
        embedding = self.param(
            "embedding", nn.initializers.lecun_normal(), (VOCABULARY, self.width)
        )
        # Not a gather by byte: its gradient is a scatter, whose sums have no fixed
        # order on some accelerators.
        inputs = math.sqrt(VOCABULARY) * (symbols @ embedding)
        features: Any = self.body(inputs)
        return features @ embedding.T


def sample_language(
    key: jax.Array, network: NetworkChoices, data: Text
) -> LanguageSpec:
    """Draws a network and a text for it."""
    network_key, source_key = jax.random.split(key)
    return LanguageSpec(network.sample(network_key), index(source_key, data.names))


def predictions(
    model: LanguageModel, params: Params, passages: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Loss of each byte but the first, given those before it, and whether it was seen.

    Args:
        model: the network.
        params: its parameters.
        passages: `[passages, length + 1]` int32 in 0..255.

    Returns:
        The cross-entropies in nats, `[passages, length]`, and whether the byte was the
        likeliest, of the same shape.
    """
    embedding = params["embedding"]
    symbols = jax.nn.one_hot(passages, VOCABULARY, dtype=embedding.dtype)
    logits: Any = model.apply({"params": params}, symbols[:, :-1])
    right = jnp.argmax(logits, axis=-1) == passages[:, 1:]
    return cross_entropy(logits, symbols[:, 1:]), right


def language_task(
    model: LanguageModel,
    spec: LanguageSpec,
    *,
    data: Text,
    length: int,
    batch_size: int,
    network: NetworkChoices,
) -> Task:
    r"""The task of predicting each byte of a passage from those before it.

    The loss is the mean of $-\log p(x_{t+1} \mid x_1 \dots x_t)$ over `length` bytes of
    each passage, in nats; that of knowing nothing is $\log 256$.

    Args:
        model: the network.
        spec: its specification, and which of the texts it learns.
        data: the texts.
        length: bytes predicted in a passage.
        batch_size: passages per step.
        network: what `spec.network` was drawn from.
    """

    def init(key: jax.Array) -> Params:
        like = jnp.zeros((1, length, VOCABULARY))
        return network.init(model, spec.network, key, like)

    def batch(key: jax.Array, split: Split) -> Batch:
        return data.batch(key, split, batch_size, length + 1, spec.source)

    def loss(
        params: Params, key: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key  # The network is deterministic.
        losses, right = predictions(model, params, batch)
        mean = jnp.mean(losses)
        return mean, {"accuracy": jnp.mean(right), "bits_per_byte": mean / math.log(2)}

    def normalise(loss: jax.Array) -> jax.Array:
        return bounded(loss, math.log(VOCABULARY))

    return Task(init=init, batch=batch, loss=loss, normalise=normalise, examples=True)
