"""Multilayer perceptrons that squeeze images through a bottleneck."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, static
from tasks.checks import require_choices, require_sizes
from tasks.data.arrays import Labelled
from tasks.network import MLP, NetworkChoices, NetworkSpec
from tasks.reconstruction import (
    RECONSTRUCTION,
    PixelSpec,
    log_odds,
    pixel_count,
    pixels_of,
    sample_pixels,
)
from tasks.sampling import index, pick


class AutoencoderSpec(NamedTuple):
    """One network, the images that it learns, and how it is judged."""

    network: NetworkSpec
    pixels: PixelSpec
    loss: jax.Array  # shape=(), int32: place in `ImageAutoencoder.loss`


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageAutoencoder(TaskFamily):
    r"""Fully connected autoencoders of images.

    The reconstruction of pixels x, `[pixels]` in 0..1, is
    $\sigma(f(x) + \operatorname{logit} m)$, with m the mean pixel of the data set, and
    the loss a mean over pixels and images of the squared error or of the binary
    cross-entropy. Its unit is the loss of predicting m everywhere, above the least
    that there is. After Hinton and Salakhutdinov, "Reducing the dimensionality of data
    with neural networks" (2006).

    It probes an objective without labels whose gradient reaches the input's layer only
    through a narrow one, and outputs as many as inputs.

    Attributes:
        data: the images, with pixels in 0..1.
        hidden: widths of the hidden layers, the bottleneck among them.
        loss: some of `RECONSTRUCTION`, `squared` and `cross_entropy`.
        batch_size: images per step.
        network: what is drawn for each network.
    """

    data: Labelled
    hidden: tuple[int, ...] = static((32, 8, 32))
    loss: tuple[str, ...] = static(("squared",))
    batch_size: int = static(64)
    network: NetworkChoices = static(NetworkChoices())

    def __post_init__(self) -> None:
        require_sizes("image_autoencoder.hidden", self.hidden)
        require_choices("image_autoencoder.loss", self.loss, RECONSTRUCTION)
        require_sizes("image_autoencoder.batch_size", [self.batch_size])

    def sample(self, key: jax.Array) -> AutoencoderSpec:
        network_key, pixel_key, loss_key = jax.random.split(key, 3)
        return AutoencoderSpec(
            self.network.sample(network_key),
            sample_pixels(pixel_key, self.data),
            index(loss_key, self.loss),
        )

    def nominal(self) -> AutoencoderSpec:
        pixels = pixels_of(self.data, jnp.int32(0))
        return AutoencoderSpec(self.network.nominal(), pixels, jnp.int32(0))

    def task(self, spec: AutoencoderSpec) -> Task:
        sizes = (*self.hidden, pixel_count(self.data))
        module = MLP(sizes, self.network.activate(spec.network))
        losses = [RECONSTRUCTION[name] for name in self.loss]

        def init(key: jax.Array) -> Params:
            like = jnp.zeros((1, *self.data.shape))
            return self.network.init(module, spec.network, key, like)

        def batch(key: jax.Array, split: Split) -> Batch:
            images, _ = self.data.batch(key, split, self.batch_size, spec.pixels.source)
            return images

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # The network is deterministic.
            deviation: Any = module.apply({"params": params}, batch)
            logits = log_odds(spec.pixels.mean) + deviation
            pixels = batch.reshape(len(batch), -1)
            values = [jnp.mean(each.function(logits, pixels)) for each in losses]
            return pick(values, spec.loss), {}

        def normalise(loss: jax.Array) -> jax.Array:
            start = pick([each.start(spec.pixels) for each in losses], spec.loss)
            best = pick([each.best(spec.pixels) for each in losses], spec.loss)
            return bounded(loss - best, start - best)

        return Task(
            init=init, batch=batch, loss=loss, normalise=normalise, examples=True
        )
