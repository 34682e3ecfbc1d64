"""Tasks: problems to train on, and distributions of them.

A new family is one file with a `TaskFamily` and one row in `FAMILIES`; a new
augmentation one class and one row in `AUGMENTATIONS`; a new data set one loader and one
row in `tasks.data.DATASETS`.
"""

from typing import Any

from tasks.augmentations import (
    DelayGradient as DelayGradient,
    EvolutionGradient as EvolutionGradient,
    LowPrecision as LowPrecision,
    NormaliseGradient as NormaliseGradient,
    ReduceBatch as ReduceBatch,
    Reparametrise as Reparametrise,
    ScaleLoss as ScaleLoss,
    SubsampleDirections as SubsampleDirections,
)
from tasks.base import (
    SPLITS as SPLITS,
    Gradients as Gradients,
    Split as Split,
    Task as Task,
    TaskFamily as TaskFamily,
    backprop as backprop,
)
from tasks.custom import (
    Custom as Custom,
    from_flax as from_flax,
    from_functions as from_functions,
)
from tasks.data import (
    DATASETS as DATASETS,
    load as load,
    load_text as load_text,
)
from tasks.graph_network import GraphNetwork as GraphNetwork
from tasks.image_autoencoder import ImageAutoencoder as ImageAutoencoder
from tasks.image_conv import ImageConv as ImageConv
from tasks.image_mlp import ImageMLP as ImageMLP
from tasks.image_resnet import ImageResNet as ImageResNet
from tasks.image_vae import ImageVAE as ImageVAE
from tasks.image_vit import ImageViT as ImageViT
from tasks.lm_rnn import LMRNN as LMRNN
from tasks.lm_transformer import LMTransformer as LMTransformer
from tasks.matrix_factorisation import MatrixFactorisation as MatrixFactorisation
from tasks.nonconvex import NonConvex as NonConvex
from tasks.physics_informed import PhysicsInformed as PhysicsInformed
from tasks.policy_gradient import PolicyGradient as PolicyGradient
from tasks.quadratic import Quadratic as Quadratic
from tasks.softmax_regression import SoftmaxRegression as SoftmaxRegression


FAMILIES: dict[str, Any] = {
    "graph_network": GraphNetwork,
    "image_autoencoder": ImageAutoencoder,
    "image_conv": ImageConv,
    "image_mlp": ImageMLP,
    "image_resnet": ImageResNet,
    "image_vae": ImageVAE,
    "image_vit": ImageViT,
    "lm_rnn": LMRNN,
    "lm_transformer": LMTransformer,
    "matrix_factorisation": MatrixFactorisation,
    "nonconvex": NonConvex,
    "physics_informed": PhysicsInformed,
    "policy_gradient": PolicyGradient,
    "quadratic": Quadratic,
    "softmax_regression": SoftmaxRegression,
}
"""`TaskFamily`s by name: dataclasses whose static fields are their configuration."""

AUGMENTATIONS: dict[str, Any] = {
    "delay_gradient": DelayGradient,
    "evolution_gradient": EvolutionGradient,
    "low_precision": LowPrecision,
    "normalise_gradient": NormaliseGradient,
    "reduce_batch": ReduceBatch,
    "reparametrise": Reparametrise,
    "scale_loss": ScaleLoss,
    "subsample_directions": SubsampleDirections,
}
"""`TaskFamily`s that change another one, their field `inner`, by name."""
