"""Convolutional networks that classify small images."""

import dataclasses
from collections.abc import Callable

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


class _ConvNet(nn.Module):
    channels: tuple[int, ...]
    stride: int
    classes: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for channels in self.channels:
            x = self.activation(Convolution(channels, self.stride)(x))
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageConv(TaskFamily):
    """Plain convolutional classifiers of images.

    Convolutions of 3 x 3 with the activation after each, the mean over the places that
    are left, and a linear layer. After LeCun, Bottou, Bengio and Haffner,
    "Gradient-based learning applied to document recognition" (1998), and Springenberg,
    Dosovitskiy, Brox and Riedmiller, "Striving for simplicity: the all convolutional
    net" (2015).

    It probes shared weights: a gradient of few numbers, in a tensor of four axes, each
    the sum over many places of an image, whose scale differs by layers.

    Attributes:
        data: the labelled images.
        channels: of each convolution.
        stride: of each convolution.
        batch_size: images per step.
        network: what is drawn for each network.
        labels: what is drawn for each problem.
    """

    data: Labelled
    channels: tuple[int, ...] = static((8, 16))
    stride: int = static(2)
    batch_size: int = static(64)
    network: NetworkChoices = static(NetworkChoices())
    labels: LabelChoices = static(LabelChoices())

    def __post_init__(self) -> None:
        require_sizes("image_conv.channels", self.channels)
        require_sizes("image_conv.stride", [self.stride])
        require_sizes("image_conv.batch_size", [self.batch_size])

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
        module = _ConvNet(
            self.channels,
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
