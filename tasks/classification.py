"""What tasks that classify examples share: losses, label noise, the choice of data."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, bounded
from tasks.checks import require_choices
from tasks.data.arrays import Labelled
from tasks.network import NetworkChoices, NetworkSpec
from tasks.sampling import index, pick, uniform


class LabelSpec(NamedTuple):
    """How one classification problem differs from the others of its family."""

    source: jax.Array  # shape=(), int32: which of the data sets
    loss: jax.Array  # shape=(), int32: place in `LabelChoices.loss`
    noise: jax.Array  # shape=(), float32: share of training labels that are random
    seed: jax.Array  # shape=(), uint32: which labels those are


class ClassifierSpec(NamedTuple):
    """One network on one classification problem."""

    network: NetworkSpec
    labels: LabelSpec


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """`[examples]` from logits and one-hot targets, both `[examples, classes]`."""
    # Not a gather by label, whose gradient is a scatter: slow on CPUs.
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def _smoothed(logits: jax.Array, targets: jax.Array) -> jax.Array:
    classes = targets.shape[-1]
    return cross_entropy(logits, 0.9 * targets + 0.1 / classes)


def _brier(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(jax.nn.softmax(logits) - targets), axis=-1)


class _Loss(NamedTuple):
    function: Callable[[jax.Array, jax.Array], jax.Array]
    chance: Callable[[int], float]  # of the number of classes: knowing nothing


LOSSES = {
    "cross_entropy": _Loss(cross_entropy, math.log),
    "smoothed": _Loss(_smoothed, math.log),
    "brier": _Loss(_brier, lambda classes: 1.0 - 1.0 / classes),
}
"""Cross-entropy, the same on labels smoothed by 0.1, and the Brier score."""


@dataclasses.dataclass(frozen=True)
class LabelChoices:
    """What is drawn for each classification problem of a family.

    Attributes:
        loss: some of `LOSSES`.
        noise: range of the share of training labels that are replaced by random ones,
            uniform. Which examples these are is fixed for a problem, so that they can
            be learned by heart; the labels of other splits are untouched.
    """

    loss: tuple[str, ...] = ("cross_entropy",)
    noise: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        require_choices("loss", self.loss, LOSSES)
        ok = isinstance(self.noise, tuple) and len(self.noise) == 2
        if not ok or not 0.0 <= self.noise[0] <= self.noise[1] <= 1.0:
            raise ValueError(
                "noise must be a range (low, high) within 0..1 with low <= high, "
                f"got {self.noise!r}"
            )

    def sample(self, key: jax.Array, data: Labelled) -> LabelSpec:
        """Draws one problem on one of the data sets; vmap me."""
        source_key, loss_key, noise_key, seed_key = jax.random.split(key, 4)
        seed = jax.random.bits(seed_key, (), jnp.uint32)
        return LabelSpec(
            source=index(source_key, data.names),
            loss=index(loss_key, self.loss),
            noise=uniform(noise_key, self.noise),
            seed=seed if self.noise[1] > 0.0 else jnp.uint32(0),
        )

    def nominal(self) -> LabelSpec:
        """The first data set and loss, and the middle of the noise."""
        noise = jnp.float32(sum(self.noise) / 2)
        return LabelSpec(jnp.int32(0), jnp.int32(0), noise, jnp.uint32(0))

    def batch(
        self, spec: LabelSpec, data: Labelled, key: jax.Array, split: Split, size: int
    ) -> Batch:
        """Inputs `[size, ...]` and labels `[size]`, some of them random in training."""
        places = data.draw(key, split, size, spec.source)
        inputs, labels = data.take(split, places)
        if split == "train" and self.noise[1] > 0.0:
            chance, other = jnp.split(_hash(places, spec.seed), 2)
            wrong = chance.astype(jnp.float32) / 2.0**32 < spec.noise
            random = (other % jnp.uint32(data.num_classes)).astype(jnp.int32)
            labels = jnp.where(wrong, random, labels)
        return inputs, labels

    def evaluate(
        self, spec: LabelSpec, logits: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean loss and accuracy of logits `[examples, classes]`."""
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        losses = [jnp.mean(LOSSES[n].function(logits, targets)) for n in self.loss]
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        return pick(losses, spec.loss), {"accuracy": accuracy}

    def normalise(self, spec: LabelSpec, loss: jax.Array, classes: int) -> jax.Array:
        """The loss in units of that of knowing nothing."""
        levels = [jnp.float32(LOSSES[name].chance(classes)) for name in self.loss]
        return bounded(loss, pick(levels, spec.loss))


def _hash(places: jax.Array, seed: jax.Array) -> jax.Array:
    """`[2 examples]` random bits that depend on an example's place and the seed."""
    salts = jnp.asarray([0x9E3779B9, 0x7F4A7C15], jnp.uint32)
    x = (places.astype(jnp.uint32)[None] ^ seed) + salts[:, None]
    # The finaliser of MurmurHash3 (Appleby, public domain).
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return (x ^ (x >> 16)).reshape(-1)


def sample_classifier(
    key: jax.Array, network: NetworkChoices, labels: LabelChoices, data: Labelled
) -> ClassifierSpec:
    """Draws a network and a problem for it."""
    network_key, label_key = jax.random.split(key)
    return ClassifierSpec(network.sample(network_key), labels.sample(label_key, data))


def classifier(
    module: nn.Module,
    spec: ClassifierSpec,
    *,
    data: Labelled,
    batch_size: int,
    network: NetworkChoices,
    labels: LabelChoices,
) -> Task:
    """The task of one network on one classification problem.

    Args:
        module: `(inputs [examples, ...]) -> logits [examples, classes]`.
        spec: the network and the problem.
        data: what is classified.
        batch_size: examples per step.
        network: what `spec.network` was drawn from.
        labels: what `spec.labels` was drawn from.
    """

    def init(key: jax.Array) -> Params:
        like = jnp.zeros((1, *data.shape))
        return network.init(module, spec.network, key, like)

    def batch(key: jax.Array, split: Split) -> Batch:
        return labels.batch(spec.labels, data, key, split, batch_size)

    def loss(
        params: Params, key: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key  # The network is deterministic.
        inputs, wanted = batch
        logits: Any = module.apply({"params": params}, inputs)
        return labels.evaluate(spec.labels, logits, wanted)

    def normalise(loss: jax.Array) -> jax.Array:
        return labels.normalise(spec.labels, loss, data.num_classes)

    return Task(init=init, batch=batch, loss=loss, normalise=normalise, examples=True)
