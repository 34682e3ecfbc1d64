"""Distributions of configurations, one a family.

Ranges follow the task distribution that VeLO was meta-trained on (Metz et al. 2022,
arXiv 2211.09760), reduced to what a CPU core trains in microseconds to milliseconds a
step, on the data sets of the train suites.
"""

from collections.abc import Callable

from tasks.classification import LabelChoices
from tasks.data import load, load_text
from tasks.graph_network import GraphNetwork
from tasks.image_autoencoder import ImageAutoencoder
from tasks.image_conv import ImageConv
from tasks.image_mlp import ImageMLP
from tasks.image_resnet import ImageResNet
from tasks.image_vae import ImageVAE
from tasks.image_vit import ImageViT
from tasks.lm_rnn import LMRNN
from tasks.lm_transformer import LMTransformer
from tasks.matrix_factorisation import MatrixFactorisation
from tasks.network import NetworkChoices
from tasks.nonconvex import NonConvex
from tasks.parametric import Layers, LogInteger, OneOf, ParametricFamily
from tasks.physics_informed import PhysicsInformed
from tasks.policy_gradient import PolicyGradient
from tasks.quadratic import Quadratic
from tasks.softmax_regression import SoftmaxRegression


_NETWORK = NetworkChoices(
    init_scale=(0.3, 3.0),
    init_scheme=("lecun", "he", "glorot"),
    activation=("relu", "tanh", "gelu", "swish"),
)
_SMOOTH = NetworkChoices(init_scale=(0.5, 2.0), activation=("tanh",))
_LABELS = LabelChoices(loss=("cross_entropy", "smoothed"), noise=(0.0, 0.2))


def _one_of(*names: str) -> OneOf:
    return OneOf(tuple(load(name) for name in names))


def _image_mlp() -> ParametricFamily:
    return ParametricFamily(
        ImageMLP,
        {
            "data": _one_of("mnist@8", "mnist@14", "photo_patches@8"),
            "hidden": Layers(LogInteger(8, 128), 0, 3),
            "batch_size": LogInteger(8, 128),
            "network": _NETWORK,
            "labels": _LABELS,
        },
    )


def _image_conv() -> ParametricFamily:
    return ParametricFamily(
        ImageConv,
        {
            "data": _one_of("mnist@8", "mnist@14", "photo_patches@8"),
            "channels": Layers(LogInteger(4, 16), 1, 3),
            "batch_size": LogInteger(8, 64),
            "network": _NETWORK,
            "labels": _LABELS,
        },
    )


def _image_resnet() -> ParametricFamily:
    return ParametricFamily(
        ImageResNet,
        {
            "data": _one_of("mnist@8", "photo_patches@8"),
            "width": LogInteger(4, 16),
            "blocks": OneOf((1, 2)),
            "norm": OneOf(("layer", "group")),
            "batch_size": LogInteger(8, 32),
            "network": _NETWORK,
            "labels": _LABELS,
        },
    )


def _image_vit() -> ParametricFamily:
    return ParametricFamily(
        ImageViT,
        {
            "data": _one_of("mnist@8", "photo_patches@8"),
            "patch": OneOf((2, 4)),
            "width": LogInteger(8, 32),
            "heads": OneOf((1, 2, 4)),
            "depth": OneOf((1, 2)),
            "batch_size": LogInteger(8, 32),
            "network": _NETWORK,
            "labels": _LABELS,
        },
    )


def _image_autoencoder() -> ParametricFamily:
    return ParametricFamily(
        ImageAutoencoder,
        {
            "data": _one_of("mnist@8", "mnist@14"),
            "hidden": Layers(LogInteger(4, 64), 1, 3),
            "loss": ("squared", "cross_entropy"),
            "batch_size": LogInteger(16, 128),
            "network": _NETWORK,
        },
    )


def _image_vae() -> ParametricFamily:
    return ParametricFamily(
        ImageVAE,
        {
            "data": _one_of("mnist@8", "mnist@14"),
            "hidden": Layers(LogInteger(16, 64), 1, 2),
            "latent": LogInteger(2, 16),
            "beta": (0.3, 3.0),
            "batch_size": LogInteger(16, 128),
            "network": _NETWORK,
        },
    )


def _lm_rnn() -> ParametricFamily:
    return ParametricFamily(
        LMRNN,
        {
            "data": load_text("kjv"),
            "cell": OneOf(("gru", "lstm")),
            "width": LogInteger(8, 64),
            "length": LogInteger(8, 32),
            "batch_size": LogInteger(4, 16),
            "network": _SMOOTH,
        },
    )


def _lm_transformer() -> ParametricFamily:
    return ParametricFamily(
        LMTransformer,
        {
            "data": load_text("kjv"),
            "width": LogInteger(8, 32),
            "heads": OneOf((1, 2, 4)),
            "depth": OneOf((1, 2)),
            "length": LogInteger(8, 32),
            "batch_size": LogInteger(4, 16),
            "network": _NETWORK,
        },
    )


def _softmax_regression() -> ParametricFamily:
    return ParametricFamily(
        SoftmaxRegression,
        {
            "data": _one_of("breast_cancer", "iris"),
            "penalty": (1e-5, 1e-1),
            "batch_size": LogInteger(8, 64),
        },
    )


def _quadratic() -> ParametricFamily:
    return ParametricFamily(
        Quadratic,
        {
            "dim": LogInteger(2, 128),
            "spectrum": (1e-3, 10.0),
            "noise": OneOf((0.0, 0.1)),
        },
    )


def _nonconvex() -> ParametricFamily:
    return ParametricFamily(
        NonConvex,
        {"dim": LogInteger(2, 64), "functions": ("rastrigin", "styblinski_tang")},
    )


def _matrix_factorisation() -> ParametricFamily:
    return ParametricFamily(
        MatrixFactorisation,
        {"rows": LogInteger(8, 64), "cols": LogInteger(8, 64)},
    )


def _physics_informed() -> ParametricFamily:
    return ParametricFamily(
        PhysicsInformed,
        {"hidden": Layers(LogInteger(8, 32), 1, 2), "batch_size": LogInteger(16, 64)},
    )


def _graph_network() -> ParametricFamily:
    return ParametricFamily(
        GraphNetwork,
        {
            "nodes": LogInteger(8, 32),
            "hidden": Layers(LogInteger(8, 32), 2, 2),
            "batch_size": LogInteger(2, 8),
        },
    )


def _policy_gradient() -> ParametricFamily:
    return ParametricFamily(
        PolicyGradient,
        {
            "num_envs": LogInteger(4, 32),
            "hidden": Layers(LogInteger(8, 32), 1, 2),
            "horizon": LogInteger(16, 64),
        },
    )


DISTRIBUTIONS: dict[str, Callable[[], ParametricFamily]] = {
    "graph_network": _graph_network,
    "image_autoencoder": _image_autoencoder,
    "image_conv": _image_conv,
    "image_mlp": _image_mlp,
    "image_resnet": _image_resnet,
    "image_vae": _image_vae,
    "image_vit": _image_vit,
    "lm_rnn": _lm_rnn,
    "lm_transformer": _lm_transformer,
    "matrix_factorisation": _matrix_factorisation,
    "nonconvex": _nonconvex,
    "physics_informed": _physics_informed,
    "policy_gradient": _policy_gradient,
    "quadratic": _quadratic,
    "softmax_regression": _softmax_regression,
}
"""By name of the family; each reads its data when it is called."""
