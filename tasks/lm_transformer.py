"""Decoder-only transformers that predict the next byte of a text."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily, static
from tasks.checks import require_sizes
from tasks.data.arrays import Text
from tasks.language import (
    LanguageModel,
    LanguageSpec,
    language_task,
    sample_language,
)
from tasks.network import NetworkChoices
from tasks.transformer import Block


class _Decoder(nn.Module):
    heads: int
    depth: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        positions = self.param("positions", nn.initializers.lecun_normal(), x.shape[1:])
        x = x + jnp.broadcast_to(positions, x.shape)
        for _ in range(self.depth):
            x = Block(self.heads, self.activation, causal=True)(x)
        return nn.LayerNorm()(x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LMTransformer(TaskFamily):
    r"""Decoder-only transformer language models of bytes.

    Learned positions are added to embedded bytes; blocks of causal self-attention and
    of a perceptron, each added to what they read normalised, follow, and a last
    normalisation. After Vaswani et al., "Attention is all you need" (2017), and Radford
    et al., "Language models are unsupervised multitask learners" (2019).

    It probes what most large models are made of: attention, whose gradient is a product
    of three, residual streams, and rows of an embedding that are seen as rarely as
    their bytes.

    Attributes:
        data: the texts.
        width: of the residual stream; a multiple of `heads`.
        heads: of the attention.
        depth: number of blocks.
        length: bytes predicted in a passage.
        batch_size: passages per step.
        network: what is drawn for each network.
    """

    data: Text
    width: int = static(32)
    heads: int = static(2)
    depth: int = static(1)
    length: int = static(16)
    batch_size: int = static(8)
    network: NetworkChoices = static(NetworkChoices())

    def __post_init__(self) -> None:
        for name in ("width", "heads", "depth", "length", "batch_size"):
            require_sizes(f"lm_transformer.{name}", [getattr(self, name)])
        if self.width % self.heads:
            raise ValueError(
                f"lm_transformer.width must be a multiple of heads, {self.heads}, "
                f"got {self.width}"
            )

    def sample(self, key: jax.Array) -> LanguageSpec:
        return sample_language(key, self.network, self.data)

    def nominal(self) -> LanguageSpec:
        return LanguageSpec(self.network.nominal(), jnp.int32(0))

    def model(self, spec: LanguageSpec) -> LanguageModel:
        """The network of one task."""
        activation = self.network.activate(spec.network)
        return LanguageModel(_Decoder(self.heads, self.depth, activation), self.width)

    def task(self, spec: LanguageSpec) -> Task:
        return language_task(
            self.model(spec),
            spec,
            data=self.data,
            length=self.length,
            batch_size=self.batch_size,
            network=self.network,
        )
