"""Softmax regression: linear classifiers, whose loss is convex."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, TaskFamily, static
from tasks.checks import require_range, require_sizes
from tasks.classification import LabelChoices, LabelSpec
from tasks.data.arrays import Labelled
from tasks.sampling import log_uniform, middle


CONVEX = ("cross_entropy", "smoothed")
"""The losses of `tasks.classification.LOSSES` that are convex in the logits."""


class RegressionSpec(NamedTuple):
    """One convex problem."""

    labels: LabelSpec
    penalty: jax.Array  # shape=(), float32: factor of the squared weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftmaxRegression(TaskFamily):
    r"""Linear classifiers with penalised weights.

    With a weight matrix $W$, `[features, classes]`, and a bias $b$, `[classes]`, the
    loss of examples $(x_i, y_i)$ is the mean of
    $-\log \mathrm{softmax}(W^T x_i + b)_{y_i} + \tfrac{\lambda}{2} \|W\|^2$. It is
    convex, strongly so in $W$; the bias is not penalised. Both start at zero, where the
    loss is the logarithm of the number of classes, exactly: the unit of the normalised
    loss. Cox, "The regression analysis of binary sequences" (1958), for two classes;
    with two or more, adding a constant to all logits changes nothing.

    It probes convexity: one minimum and no luck in the start, so that what remains is
    conditioning, which the features and the penalty set, and the noise of batches.

    Attributes:
        data: labelled vectors, or images, which are taken as such.
        penalty: range of $\lambda$, log-uniform.
        batch_size: examples per step.
        labels: what is drawn for each problem; its losses out of `CONVEX`.
    """

    data: Labelled
    penalty: tuple[float, float] = static((1e-4, 1e-1))
    batch_size: int = static(64)
    labels: LabelChoices = static(LabelChoices())

    def __post_init__(self) -> None:
        require_range("softmax_regression.penalty", self.penalty)
        require_sizes("softmax_regression.batch_size", [self.batch_size])
        if not set(self.labels.loss) <= set(CONVEX):
            raise ValueError(
                "softmax_regression.labels must have convex losses, "
                f"{' or '.join(CONVEX)}, got {self.labels.loss!r}"
            )

    def sample(self, key: jax.Array) -> RegressionSpec:
        label_key, penalty_key = jax.random.split(key)
        return RegressionSpec(
            labels=self.labels.sample(label_key, self.data),
            penalty=log_uniform(penalty_key, self.penalty),
        )

    def nominal(self) -> RegressionSpec:
        return RegressionSpec(self.labels.nominal(), middle(self.penalty))

    def task(self, spec: RegressionSpec) -> Task:
        data, classes = self.data.flat(), self.data.num_classes
        (features,) = data.shape

        def init(key: jax.Array) -> Params:
            del key  # Every problem starts at zero.
            return {
                "bias": jnp.zeros((classes,)),
                "kernel": jnp.zeros((features, classes)),
            }

        def batch(key: jax.Array, split: Split) -> Batch:
            return self.labels.batch(spec.labels, data, key, split, self.batch_size)

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # All randomness is in the batch.
            inputs, wanted = batch
            weights = params["kernel"]
            logits = inputs @ weights
            logits = logits + jnp.broadcast_to(params["bias"], logits.shape)
            value, aux = self.labels.evaluate(spec.labels, logits, wanted)
            return value + 0.5 * spec.penalty * jnp.sum(jnp.square(weights)), aux

        def normalise(loss: jax.Array) -> jax.Array:
            return self.labels.normalise(spec.labels, loss, classes)

        return Task(
            init=init, batch=batch, loss=loss, normalise=normalise, examples=True
        )
