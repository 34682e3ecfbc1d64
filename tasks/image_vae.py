"""Variational autoencoders of images."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, static
from tasks.checks import require_range, require_sizes
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
from tasks.sampling import log_uniform, middle


class VAESpec(NamedTuple):
    """One pair of networks, and the images that they learn."""

    network: NetworkSpec
    pixels: PixelSpec
    beta: jax.Array  # shape=(), float32: weight of the divergence


class _VAE(nn.Module):
    hidden: tuple[int, ...]
    latent: int
    pixels: int
    activation: Callable[[jax.Array], jax.Array]

    def setup(self) -> None:
        # Mean and logarithm of the variance come from one matrix.
        self.encoder = MLP((*self.hidden, 2 * self.latent), self.activation)
        self.decoder = MLP((*reversed(self.hidden), self.pixels), self.activation)

    def __call__(
        self, images: jax.Array, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        mean, log_variance = jnp.split(self.encoder(images), 2, axis=-1)
        deviation = jnp.exp(0.5 * log_variance)
        return self.decoder(mean + deviation * noise), mean, log_variance


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    r"""Kullback-Leibler divergence of a diagonal Gaussian from the standard one.

    $\tfrac12 \sum_j (\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2)$, in nats; Kingma and
    Welling (2014), appendix B.

    Args:
        mean: `[..., latent]`.
        log_variance: logarithms of the variances, `[..., latent]`.

    Returns:
        `[...]`.
    """
    # expm1, for which nearly equal terms do not cancel.
    terms = jnp.square(mean) + jnp.expm1(log_variance) - log_variance
    return 0.5 * jnp.sum(terms, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageVAE(TaskFamily):
    r"""Variational autoencoders with Gaussian encoders and Bernoulli decoders.

    The loss is the negative evidence lower bound of images x, `[pixels]` in 0..1,
    per pixel and in nats:

    $$\tfrac{1}{\text{pixels}} \left(-\log p(x \mid \mu(x) + \sigma(x) \epsilon) +
    \beta\, \mathrm{KL}(N(\mu(x), \sigma(x)^2) \,\|\, N(0, 1))\right)$$

    with one standard normal $\epsilon$ an image from the loss's key. Grey pixels count
    as chances. The decoder's logits are added to that of the mean pixel, which is what
    the loss starts at; `normalise` calls 0 the entropy of the grey pixels, which no
    autoencoder reaches. Kingma and Welling, "Auto-encoding variational Bayes" (2014);
    $\beta$: Higgins et al., "beta-VAE" (2017).

    It probes noise that the network makes itself and can shrink, and two terms that
    pull apart: at first the divergence may win, and the code falls silent.

    Attributes:
        data: the images, with pixels in 0..1.
        hidden: widths of the encoder's hidden layers; the decoder's are the reverse.
        latent: numbers in the code.
        beta: range of the weight of the divergence, log-uniform; 1 is the bound.
        batch_size: images per step.
        network: what is drawn for each pair of networks.
    """

    data: Labelled
    hidden: tuple[int, ...] = static((32,))
    latent: int = static(8)
    beta: tuple[float, float] = static((1.0, 1.0))
    batch_size: int = static(64)
    network: NetworkChoices = static(NetworkChoices())

    def __post_init__(self) -> None:
        require_sizes("image_vae.hidden", self.hidden)
        require_sizes("image_vae.latent", [self.latent])
        require_range("image_vae.beta", self.beta)
        require_sizes("image_vae.batch_size", [self.batch_size])

    def sample(self, key: jax.Array) -> VAESpec:
        network_key, pixel_key, beta_key = jax.random.split(key, 3)
        return VAESpec(
            self.network.sample(network_key),
            sample_pixels(pixel_key, self.data),
            log_uniform(beta_key, self.beta),
        )

    def nominal(self) -> VAESpec:
        pixels = pixels_of(self.data, jnp.int32(0))
        return VAESpec(self.network.nominal(), pixels, middle(self.beta))

    def task(self, spec: VAESpec) -> Task:
        count = pixel_count(self.data)
        activation = self.network.activate(spec.network)
        module = _VAE(self.hidden, self.latent, count, activation)
        bernoulli = RECONSTRUCTION["cross_entropy"]

        def init(key: jax.Array) -> Params:
            images = jnp.zeros((1, *self.data.shape))
            noise = jnp.zeros((1, self.latent))
            return self.network.init(module, spec.network, key, images, noise)

        def batch(key: jax.Array, split: Split) -> Batch:
            images, _ = self.data.batch(key, split, self.batch_size, spec.pixels.source)
            return images

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            noise = jax.random.normal(key, (len(batch), self.latent), jnp.float32)
            decoded: Any = module.apply({"params": params}, batch, noise)
            deviation, mean, log_variance = decoded
            logits = log_odds(spec.pixels.mean) + deviation
            pixels = batch.reshape(len(batch), -1)
            missed = jnp.mean(bernoulli.function(logits, pixels))
            told = jnp.mean(divergence(mean, log_variance)) / count
            value = missed + spec.beta * told
            return value, {"reconstruction": missed, "divergence": told}

        def normalise(loss: jax.Array) -> jax.Array:
            best = bernoulli.best(spec.pixels)
            return bounded(loss - best, bernoulli.start(spec.pixels) - best)

        return Task(
            init=init, batch=batch, loss=loss, normalise=normalise, examples=True
        )
