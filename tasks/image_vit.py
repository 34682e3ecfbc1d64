"""Vision transformers that classify small images."""

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
from tasks.images import image_shape
from tasks.network import NetworkChoices
from tasks.transformer import Block


class _ViT(nn.Module):
    patch: int
    width: int
    heads: int
    depth: int
    mlp: int
    classes: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.width, use_bias=False, name="embedding")(
            patches(x, self.patch)
        )
        positions = self.param("positions", nn.initializers.lecun_normal(), x.shape[1:])
        x = x + jnp.broadcast_to(positions, x.shape)
        for _ in range(self.depth):
            x = Block(self.heads, self.activation, mlp=self.mlp)(x)
        pooled = jnp.mean(nn.LayerNorm()(x), axis=1)
        # Shifts of the normalisation make a bias of the logits needless.
        return nn.Dense(self.classes, use_bias=False)(pooled)


def patches(images: jax.Array, side: int) -> jax.Array:
    """Cuts images into squares, row by row.

    Args:
        images: `[examples, height, width, channels]`.
        side: of a square; divides height and width.

    Returns:
        `[examples, squares, side * side * channels]`.
    """
    examples, height, width, channels = images.shape
    grid = images.reshape(examples, height // side, side, width // side, side, channels)
    return grid.swapaxes(2, 3).reshape(examples, -1, side * side * channels)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageViT(TaskFamily):
    """Transformers that classify images as sequences of patches.

    Learned positions are added to embedded patches; blocks of self-attention and of a
    perceptron follow (`tasks.transformer.Block`), a last normalisation, the mean over
    the patches and a linear layer. After Dosovitskiy et al., "An image is worth 16x16
    words: transformers for image recognition at scale" (2021), and, for the mean,
    Beyer, Zhai and Kolesnikov, "Better plain ViT baselines for ImageNet-1k" (2022).

    It probes attention apart from language: the gradient of a matrix of queries, keys
    and values, whose three parts differ in scale, and positions that all examples of a
    batch move.

    Attributes:
        data: the labelled images.
        patch: side of a patch; divides the sides of the images.
        width: of the residual stream; a multiple of `heads`.
        heads: of the attention.
        depth: number of blocks.
        mlp: how many times wider than the residual stream the perceptron is.
        batch_size: images per step.
        network: what is drawn for each network.
        labels: what is drawn for each problem.
    """

    data: Labelled
    patch: int = static(2)
    width: int = static(16)
    heads: int = static(2)
    depth: int = static(1)
    mlp: int = static(2)
    batch_size: int = static(32)
    network: NetworkChoices = static(NetworkChoices())
    labels: LabelChoices = static(LabelChoices())

    def __post_init__(self) -> None:
        for name in ("patch", "width", "heads", "depth", "mlp", "batch_size"):
            require_sizes(f"image_vit.{name}", [getattr(self, name)])
        if self.width % self.heads:
            raise ValueError(
                f"image_vit.width must be a multiple of heads, {self.heads}, "
                f"got {self.width}"
            )

    def sample(self, key: jax.Array) -> ClassifierSpec:
        return sample_classifier(key, self.network, self.labels, self.data)

    def nominal(self) -> ClassifierSpec:
        return ClassifierSpec(self.network.nominal(), self.labels.nominal())

    def task(self, spec: ClassifierSpec) -> Task:
        """The problem of `spec`.

        Raises:
            ValueError: the data are no images, or the patches do not cover them.
        """
        height, width, _ = image_shape(self.data)
        if height % self.patch or width % self.patch:
            raise ValueError(
                "image_vit.patch must divide the sides of the images, "
                f"{height} x {width}, got {self.patch}"
            )
        module = _ViT(
            self.patch,
            self.width,
            self.heads,
            self.depth,
            self.mlp,
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
