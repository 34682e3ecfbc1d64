"""Residual convolutional networks with normalisation that classify small images."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily, static
from tasks.checks import require_sizes
from tasks.classification import (
    ClassifierSpec,
    LabelChoices,
    classifier,
    sample_classifier,
)
from tasks.data.arrays import Labelled
from tasks.images import Convolution, image_shape
from tasks.network import NetworkChoices


Norm = Literal["layer", "group"]

GROUPS = 4
"""Groups of channels that are normalised together."""


class _ResNet(nn.Module):
    width: int
    blocks: int
    norm: Norm
    stride: int
    classes: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def activated(x: jax.Array) -> jax.Array:
            norm = nn.GroupNorm(GROUPS) if self.norm == "group" else nn.LayerNorm()
            return self.activation(norm(x))

        x = Convolution(self.width, self.stride, use_bias=False)(x)
        for _ in range(self.blocks):
            inner = Convolution(self.width, use_bias=False)(activated(x))
            x = x + Convolution(self.width, use_bias=False)(activated(inner))
        return nn.Dense(self.classes)(jnp.mean(activated(x), axis=(1, 2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageResNet(TaskFamily):
    r"""Residual convolutional classifiers of images, with normalised activations.

    With convolutions $C$ of 3 x 3 and $a$ a normalisation followed by the activation,
    $x_0 = C(\text{image})$ and $x_{i+1} = x_i + C(a(C(a(x_i))))$; the logits are linear
    in the mean of $a(x)$ over the places. After He, Zhang, Ren and Sun, "Identity
    mappings in deep residual networks" (2016). The normalisation learns a scale and a
    shift a channel. It is over the channels of one place: Ba, Kiros and Hinton, "Layer
    normalization" (2016), or over all places of a quarter of the channels: Wu and He,
    "Group normalization" (2018). Neither mixes examples.

    It probes what normalisation does to weights: the loss does not change with the
    scale of a block's first kernel, whose gradient is therefore at right angles to it
    and shrinks as it grows.

    Attributes:
        data: the labelled images.
        width: channels of every convolution; a multiple of 4 for groups.
        blocks: number of residual blocks.
        norm: of the channels of a place, "layer", or of groups of channels, "group".
        stride: of the first convolution; the others keep the size.
        batch_size: images per step.
        network: what is drawn for each network.
        labels: what is drawn for each problem.
    """

    data: Labelled
    width: int = static(8)
    blocks: int = static(1)
    norm: Norm = static("layer")
    stride: int = static(2)
    batch_size: int = static(32)
    network: NetworkChoices = static(NetworkChoices())
    labels: LabelChoices = static(LabelChoices())

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "stride", "batch_size"):
            require_sizes(f"image_resnet.{name}", [getattr(self, name)])
        if self.norm not in get_args(Norm):
            raise ValueError(
                f"image_resnet.norm must be one of {', '.join(get_args(Norm))}, "
                f"got {self.norm!r}"
            )
        if self.norm == "group" and self.width % GROUPS:
            raise ValueError(
                f"image_resnet.width must be a multiple of {GROUPS}, the groups, "
                f"got {self.width}"
            )

    def sample(self, key: jax.Array) -> ClassifierSpec:
        return sample_classifier(key, self.network, self.labels, self.data)

    def nominal(self) -> ClassifierSpec:
        return ClassifierSpec(self.network.nominal(), self.labels.nominal())

    def task(self, spec: ClassifierSpec) -> Task:
        """The problem of `spec`.

        Raises:
            ValueError: the data are no images.
        """
        image_shape(self.data)
        module = _ResNet(
            self.width,
            self.blocks,
            self.norm,
            self.stride,
            self.data.num_classes,
            self.network.activate(spec.network),
        )
        return classifier(
            module,
            spec,
            data=self.data,
            batch_size=self.batch_size,
            network=self.network,
            labels=self.labels,
        )
