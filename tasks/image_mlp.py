"""Multilayer perceptrons that classify small images."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, TaskFamily
from tasks.checks import require_range, require_sizes
from tasks.data.arrays import Labelled
from tasks.sampling import log_uniform


ACTIVATIONS = {"relu": nn.relu, "tanh": nn.tanh, "gelu": nn.gelu, "sigmoid": nn.sigmoid}


class ImageMLPSpec(NamedTuple):
    """What differs between the tasks of a family; float32 scalars."""

    init_scale: jax.Array  # multiplies the initial weights
    reparam: jax.Array  # the network uses reparam * params


class _MLP(nn.Module):
    sizes: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, size in enumerate(self.sizes):
            if i:
                x = ACTIVATIONS[self.activation](x)
            x = nn.Dense(size)(x)
        return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageMLP(TaskFamily):
    r"""Fully connected classifiers trained with cross-entropy.

    The task `(s, c)` starts from weights s times the usual initialisation (truncated
    normal of deviation 1/sqrt(inputs), zero biases) and is written in parameters
    $\theta$ with network weights $c\,\theta$. A reparametrisation by c leaves the
    function that is learned alone, and multiplies the gradient by c and the distance to
    travel by 1/c: an optimizer that does well over a range of c cannot rely on a scale
    of the gradient or of the weights.

    Attributes:
        data: the labelled images.
        hidden: widths of the hidden layers; empty for softmax regression.
        batch_size: examples per step.
        activation: one of `ACTIVATIONS`.
        init_scale: range of s, sampled log-uniformly.
        reparam: range of c, sampled log-uniformly.
    """

    data: Labelled
    hidden: tuple[int, ...] = dataclasses.field(
        default=(32,), metadata={"static": True}
    )
    batch_size: int = dataclasses.field(default=64, metadata={"static": True})
    activation: Literal["relu", "tanh", "gelu", "sigmoid"] = dataclasses.field(
        default="relu", metadata={"static": True}
    )
    init_scale: tuple[float, float] = dataclasses.field(
        default=(1.0, 1.0), metadata={"static": True}
    )
    reparam: tuple[float, float] = dataclasses.field(
        default=(1.0, 1.0), metadata={"static": True}
    )

    def __post_init__(self) -> None:
        require_sizes("image_mlp.hidden", self.hidden)
        require_sizes("image_mlp.batch_size", [self.batch_size])
        require_range("image_mlp.init_scale", self.init_scale)
        require_range("image_mlp.reparam", self.reparam)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"image_mlp.activation must be one of {', '.join(ACTIVATIONS)}, "
                f"got {self.activation!r}"
            )

    def sample(self, key: jax.Array) -> ImageMLPSpec:
        scale_key, reparam_key = jax.random.split(key)
        return ImageMLPSpec(
            init_scale=log_uniform(scale_key, self.init_scale),
            reparam=log_uniform(reparam_key, self.reparam),
        )

    def nominal(self) -> ImageMLPSpec:
        """The middle of each range: 1 where it is symmetric about 1."""
        middle = [
            math.sqrt(low * high) for low, high in (self.init_scale, self.reparam)
        ]
        return ImageMLPSpec(*(jnp.float32(m) for m in middle))

    def task(self, spec: ImageMLPSpec) -> Task:
        classes = self.data.num_classes
        model = _MLP((*self.hidden, classes), self.activation)

        def init(key: jax.Array) -> Params:
            params = model.init(key, self.data.inputs["train"][:1])["params"]
            return jax.tree.map(lambda p: p * (spec.init_scale / spec.reparam), params)

        def batch(key: jax.Array, split: Split) -> Batch:
            return self.data.batch(key, split, self.batch_size)

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # The network is deterministic.
            inputs, labels = batch
            weights = jax.tree.map(lambda p: p * spec.reparam, params)
            logits: Any = model.apply({"params": weights}, inputs)
            # Not a gather by label, whose gradient is a scatter: slow on CPUs.
            targets = jax.nn.one_hot(labels, classes)
            losses = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
            accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
            return jnp.mean(losses), {"accuracy": accuracy}

        def normalise(loss: jax.Array) -> jax.Array:
            # Twice the loss of knowing nothing is as bad as a diverged run may count.
            chance = math.log(classes)
            bounded = jnp.minimum(loss, 2.0 * chance) / chance
            return jnp.where(jnp.isfinite(loss), bounded, loss)

        return Task(init=init, batch=batch, loss=loss, normalise=normalise)
