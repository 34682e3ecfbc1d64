"""Multilayer perceptrons that classify small images."""

import dataclasses

import jax

from tasks.base import Task, TaskFamily, static
from tasks.checks import require_sizes
from tasks.classification import (
    ClassifierSpec,
    LabelChoices,
    classifier,
    sample_classifier,
)
from tasks.data.arrays import Labelled
from tasks.network import MLP, NetworkChoices


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageMLP(TaskFamily):
    """Fully connected classifiers of images or of vectors.

    Attributes:
        data: the labelled images.
        hidden: widths of the hidden layers; empty for softmax regression.
        batch_size: examples per step.
        network: what is drawn for each network.
        labels: what is drawn for each problem.
    """

    data: Labelled
    hidden: tuple[int, ...] = static((32,))
    batch_size: int = static(64)
    network: NetworkChoices = static(NetworkChoices())
    labels: LabelChoices = static(LabelChoices())

    def __post_init__(self) -> None:
        require_sizes("image_mlp.hidden", self.hidden)
        require_sizes("image_mlp.batch_size", [self.batch_size])

    def sample(self, key: jax.Array) -> ClassifierSpec:
        return sample_classifier(key, self.network, self.labels, self.data)

    def nominal(self) -> ClassifierSpec:
        return ClassifierSpec(self.network.nominal(), self.labels.nominal())

    def task(self, spec: ClassifierSpec) -> Task:
        sizes = (*self.hidden, self.data.num_classes)
        return classifier(
            MLP(sizes, self.network.activate(spec.network)),
            spec,
            data=self.data,
            batch_size=self.batch_size,
            network=self.network,
            labels=self.labels,
        )
