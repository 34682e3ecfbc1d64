"""The table of task families: one row makes a family subject to every contract."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from meta_test.gradient_source import GradientSource
from meta_test.optimizer_training import OptimizerTraining
from tasks import (
    LMRNN,
    DelayGradient,
    EvolutionGradient,
    GraphNetwork,
    ImageAutoencoder,
    ImageConv,
    ImageMLP,
    ImageResNet,
    ImageVAE,
    ImageViT,
    LMTransformer,
    LowPrecision,
    MatrixFactorisation,
    NonConvex,
    NormaliseGradient,
    PhysicsInformed,
    PolicyGradient,
    Quadratic,
    ReduceBatch,
    Reparametrise,
    ScaleLoss,
    SoftmaxRegression,
    SubsampleDirections,
    TaskFamily,
    load,
    load_text,
)
from tasks.classification import LabelChoices
from tasks.network import NetworkChoices


@dataclasses.dataclass(frozen=True)
class Row:
    """One family.

    Attributes:
        make: builds it, small.
        initial: expected loss of the nominal task at initialisation.
        rel: how near the mean over 64 initialisations must be to it.
        smooth: whether finite differences of the loss tell its gradient.
        random_start: whether initial parameters depend on the key.
    """

    make: Callable[[], TaskFamily]
    initial: float
    rel: float = 0.1
    smooth: bool = True
    random_start: bool = True


# A constant reconstruction of the digits is the mean pixel: its losses.
PIXELS = np.asarray(load("digits").inputs["train"])
MEAN_PIXEL = float(PIXELS.mean())
COIN = -MEAN_PIXEL * math.log(MEAN_PIXEL) - (1 - MEAN_PIXEL) * math.log(1 - MEAN_PIXEL)

# Where an image is blank, a convolution without bias gives exactly zero, the kink of
# relu.
SMOOTH = NetworkChoices(activation=("gelu",))

ROWS = {
    "graph_network": Row(
        # A node without neighbours that tell is at zero, where relu has a kink.
        lambda: GraphNetwork(
            nodes=8,
            blocks=2,
            hidden=(4,),
            batch_size=4,
            network=NetworkChoices(activation=("tanh", "relu")),
        ),
        math.log(2),
    ),
    # Above the mean pixel's loss by what the first reconstructions vary.
    "image_autoencoder": Row(
        lambda: ImageAutoencoder(load("digits"), hidden=(8, 4, 8), batch_size=16),
        initial=float(PIXELS.var()),
        rel=0.05,
    ),
    "image_autoencoder-ranges": Row(
        lambda: ImageAutoencoder(
            load(("digits", "mnist@8")),
            hidden=(8,),
            loss=("cross_entropy", "squared"),
            batch_size=16,
            network=NetworkChoices(
                init_scale=(0.5, 2.0), activation=("tanh", "relu", "gelu")
            ),
        ),
        initial=COIN,
        rel=0.05,
    ),
    # The mean over places and images of a batch makes the first logits small.
    "image_conv": Row(
        lambda: ImageConv(
            load("digits"),
            channels=(4, 6),
            batch_size=16,
            network=SMOOTH,
        ),
        initial=math.log(10),
        rel=0.03,
    ),
    "image_conv-ranges": Row(
        lambda: ImageConv(
            load("photo_patches@8"),
            channels=(3,),
            stride=3,
            batch_size=8,
            network=NetworkChoices(
                init_scale=(0.5, 2.0),
                init_scheme=("lecun", "he"),
                activation=("tanh", "gelu"),
            ),
            labels=LabelChoices(noise=(0.0, 0.4)),
        ),
        initial=math.log(10),
        rel=0.03,
    ),
    "image_mlp": Row(
        lambda: ImageMLP(load("digits"), hidden=(8,), batch_size=16), math.log(10)
    ),
    "image_mlp-linear": Row(
        lambda: ImageMLP(load("digits"), hidden=(), batch_size=16), math.log(10)
    ),
    "image_mlp-ranges": Row(
        lambda: ImageMLP(
            load("digits"),
            hidden=(8, 8),
            batch_size=16,
            network=NetworkChoices(
                init_scale=(0.5, 2.0),
                init_scheme=("lecun", "he", "glorot"),
                activation=("tanh", "relu", "gelu"),
            ),
            labels=LabelChoices(loss=("cross_entropy", "smoothed"), noise=(0.0, 0.4)),
        ),
        math.log(10),
    ),
    # Features are normalised: first logits of a variance below 1 add less than 0.45.
    "image_resnet": Row(
        lambda: ImageResNet(load("digits"), width=4, batch_size=16, network=SMOOTH),
        initial=math.log(10),
    ),
    "image_resnet-group": Row(
        lambda: ImageResNet(
            load(("digits", "mnist@8")),
            width=8,
            norm="group",
            stride=3,
            batch_size=8,
            network=NetworkChoices(init_scale=(0.5, 2.0), activation=("tanh", "gelu")),
            labels=LabelChoices(loss=("cross_entropy", "brier")),
        ),
        initial=math.log(10),
    ),
    # The first codes are nearly standard normal, which costs no divergence, but the
    # reconstruction varies with them.
    "image_vae": Row(
        lambda: ImageVAE(load("digits"), hidden=(8,), latent=3, batch_size=16),
        initial=COIN,
        rel=0.2,
    ),
    "image_vae-ranges": Row(
        lambda: ImageVAE(
            load(("digits", "mnist@8")),
            hidden=(8, 8),
            latent=2,
            beta=(0.5, 2.0),
            batch_size=16,
            network=NetworkChoices(activation=("tanh", "relu")),
        ),
        initial=COIN,
        rel=0.2,
    ),
    "image_vit": Row(
        lambda: ImageViT(load("digits"), patch=4, width=8, batch_size=16),
        initial=math.log(10),
        rel=0.2,
    ),
    "image_vit-ranges": Row(
        lambda: ImageViT(
            load(("digits", "mnist@8")),
            patch=4,
            width=6,
            heads=3,
            depth=2,
            mlp=1,
            batch_size=8,
            network=NetworkChoices(
                init_scale=(0.5, 2.0),
                init_scheme=("lecun", "glorot"),
                activation=("gelu", "relu"),
            ),
            labels=LabelChoices(noise=(0.0, 0.4)),
        ),
        initial=math.log(10),
        rel=0.2,
    ),
    "lm_rnn": Row(
        lambda: LMRNN(load_text("kjv"), width=8, length=4, batch_size=4),
        initial=math.log(256),
        rel=0.01,
    ),
    "lm_rnn-ranges": Row(
        lambda: LMRNN(
            load_text(("kjv", "python_topics")),
            cell="lstm",
            width=8,
            length=4,
            batch_size=4,
            network=NetworkChoices(
                init_scale=(0.5, 2.0),
                init_scheme=("lecun", "glorot"),
                activation=("tanh", "relu"),
            ),
        ),
        initial=math.log(256),
        rel=0.01,
    ),
    # Above log 256 by half the variance of the first logits, 1 / 32 each, and by what
    # sharing the embedding favours the byte just read.
    "lm_transformer": Row(
        lambda: LMTransformer(load_text("kjv"), width=8, length=4, batch_size=4),
        initial=math.log(256),
        rel=0.01,
    ),
    "lm_transformer-ranges": Row(
        lambda: LMTransformer(
            load_text(("kjv", "python_topics")),
            width=8,
            depth=2,
            length=4,
            batch_size=4,
            network=NetworkChoices(
                init_scale=(0.5, 2.0),
                init_scheme=("lecun", "he", "glorot"),
                activation=("gelu", "relu"),
            ),
        ),
        initial=math.log(256),
        rel=0.01,
    ),
    # Entries of mean square 1, the factors' product and the noise.
    "matrix_factorisation": Row(
        lambda: MatrixFactorisation(rows=8, cols=6, rank=2, factors=3, seen=0.5),
        initial=1.0 + 0.01 * 1.0 + 0.01 * 0.3,
        rel=0.15,
    ),
    # Of every parameter: the variance, and 10 for a wave that is anywhere.
    "nonconvex": Row(
        lambda: NonConvex(
            dim=8, functions=("rastrigin",), distance=(1.0, 1.0), noise=0.1
        ),
        initial=8 * 11.0,
    ),
    "nonconvex-ranges": Row(
        lambda: NonConvex(
            dim=4,
            functions=("rastrigin", "ackley", "styblinski_tang", "rosenbrock"),
            noise=0.1,
        ),
        initial=4 * 11.0,
        rel=0.15,
    ),
    # Its start is near zero, where only the training of an optimizer moves it.
    "optimizer_training": Row(
        lambda: OptimizerTraining(Quadratic(dim=4), steps=3, problems=2),
        initial=1.0,
        rel=0.25,
        smooth=False,
    ),
    # The mean square of the forcing, and what the network's first solution adds.
    "physics_informed": Row(
        lambda: PhysicsInformed(hidden=(8,), batch_size=16), initial=100.0, rel=0.3
    ),
    # Of 4,096 pendulums of 8 actions.
    "policy_gradient": Row(
        lambda: PolicyGradient(hidden=(4,), num_envs=4, horizon=8),
        initial=0.114,
        rel=0.3,
        smooth=False,
    ),
    # Start and minimiser are 1 + 1 apart in expectation: half of twice the trace.
    "quadratic": Row(
        lambda: Quadratic(dim=8, spectrum=(0.5, 1.0), noise=0.1),
        initial=float(np.geomspace(0.5, 1.0, 8).sum()),
        rel=0.2,
    ),
    "softmax_regression": Row(
        lambda: SoftmaxRegression(load("digits"), batch_size=16),
        initial=math.log(10),
        rel=1e-6,
        random_start=False,
    ),
    "softmax_regression-ranges": Row(
        lambda: SoftmaxRegression(
            load("wine"),
            penalty=(1e-2, 1.0),
            batch_size=8,
            labels=LabelChoices(loss=("smoothed", "cross_entropy"), noise=(0.0, 0.4)),
        ),
        initial=math.log(3),
        rel=1e-6,
        random_start=False,
    ),
}
# Augmentations of a tiny problem, whose initial loss is what it was.
TINY_BOWL = Quadratic(dim=4, spectrum=(0.5, 1.0), noise=0.1)
BOWL_LOSS = float(np.geomspace(0.5, 1.0, 4).sum())


def tiny_mlp() -> ImageMLP:
    return ImageMLP(load("digits"), hidden=(4,), batch_size=8)


AUGMENTED = {
    "delay_gradient": Row(
        lambda: DelayGradient(TINY_BOWL, longest=3), BOWL_LOSS, rel=0.2
    ),
    "evolution_gradient": Row(
        lambda: EvolutionGradient(TINY_BOWL, pairs=(1, 4)), BOWL_LOSS, rel=0.2
    ),
    "gradient_source": Row(lambda: GradientSource(TINY_BOWL), BOWL_LOSS, rel=0.2),
    "gradient_source-activities": Row(
        lambda: GradientSource(tiny_mlp(), "activity_perturbation:tangents=2"),
        math.log(10),
        rel=0.15,
    ),
    "gradient_source-feedback": Row(
        lambda: GradientSource(tiny_mlp(), "feedback_alignment"),
        math.log(10),
        rel=0.15,
    ),
    # Losses and gradients of three digits.
    "low_precision": Row(
        lambda: LowPrecision(tiny_mlp()), math.log(10), rel=0.15, smooth=False
    ),
    "normalise_gradient": Row(lambda: NormaliseGradient(TINY_BOWL), BOWL_LOSS, rel=0.2),
    "reduce_batch": Row(lambda: ReduceBatch(tiny_mlp()), math.log(10), rel=0.15),
    "reparametrise": Row(
        lambda: Reparametrise(TINY_BOWL, scale=(0.1, 10.0)), BOWL_LOSS, rel=0.2
    ),
    "reparametrise-tensor": Row(
        lambda: Reparametrise(tiny_mlp(), "tensor", (0.5, 2.0)), math.log(10), rel=0.15
    ),
    "reparametrise-parameter": Row(
        lambda: Reparametrise(tiny_mlp(), "parameter", (0.5, 2.0)),
        math.log(10),
        rel=0.15,
    ),
    "scale_loss": Row(
        lambda: ScaleLoss(TINY_BOWL, factor=(0.5, 8.0)), 2.0 * BOWL_LOSS, rel=0.2
    ),
    "subsample_directions": Row(
        lambda: SubsampleDirections(TINY_BOWL, directions=(1, 8)), BOWL_LOSS, rel=0.2
    ),
}

# What a family must refuse, and the name of what is wrong.
REFUSED = {
    "delay_gradient-longest-zero": (
        lambda: DelayGradient(TINY_BOWL, longest=0),
        "delay_gradient.longest",
    ),
    "evolution_gradient-pairs-zero": (
        lambda: EvolutionGradient(TINY_BOWL, pairs=(0, 4)),
        "evolution_gradient.pairs",
    ),
    "evolution_gradient-std-reversed": (
        lambda: EvolutionGradient(TINY_BOWL, std=(0.1, 0.01)),
        "evolution_gradient.std",
    ),
    "evolution_gradient-inner-with-a-source": (
        lambda: EvolutionGradient(Reparametrise(NormaliseGradient(TINY_BOWL))),
        "evolution_gradient.inner",
    ),
    "gradient_source-unknown": (
        lambda: GradientSource(TINY_BOWL, "backward"),
        "a gradient source",
    ),
    "gradient_source-inner-with-a-source": (
        lambda: GradientSource(NormaliseGradient(TINY_BOWL)),
        "gradient_source.inner",
    ),
    "gradient_source-inner-without-examples": (
        lambda: GradientSource(TINY_BOWL, "backprop:microbatches=2"),
        "gradient_source.inner",
    ),
    "reduce_batch-fraction-above-one": (
        lambda: ReduceBatch(tiny_mlp(), fraction=(0.5, 1.5)),
        "reduce_batch.fraction",
    ),
    "reduce_batch-inner-without-examples": (
        lambda: ReduceBatch(TINY_BOWL),
        "reduce_batch.inner",
    ),
    "reparametrise-level-unknown": (
        lambda: Reparametrise(TINY_BOWL, level="layer"),  # type: ignore[arg-type]
        "reparametrise.level",
    ),
    "reparametrise-scale-zero": (
        lambda: Reparametrise(TINY_BOWL, scale=(0.0, 1.0)),
        "reparametrise.scale",
    ),
    "scale_loss-factor-negative": (
        lambda: ScaleLoss(TINY_BOWL, factor=(-1.0, 1.0)),
        "scale_loss.factor",
    ),
    "subsample_directions-directions-fraction": (
        lambda: SubsampleDirections(
            TINY_BOWL,
            directions=(1, 2.5),  # type: ignore[arg-type]
        ),
        "subsample_directions.directions",
    ),
    "graph_network-blocks-one": (
        lambda: GraphNetwork(blocks=1),
        "graph_network.blocks",
    ),
    "graph_network-within-above-one": (
        lambda: GraphNetwork(within=(0.5, 1.5)),
        "graph_network.within",
    ),
    "matrix_factorisation-rank-too-large": (
        lambda: MatrixFactorisation(rows=4, cols=3, rank=4),
        "matrix_factorisation.rank",
    ),
    "nonconvex-function-unknown": (
        lambda: NonConvex(functions=("bowl",)),
        "nonconvex.functions",
    ),
    "optimizer_training-steps-zero": (
        lambda: OptimizerTraining(TINY_BOWL, steps=0),
        "optimizer_training.steps",
    ),
    "physics_informed-not-smooth": (
        lambda: PhysicsInformed(network=NetworkChoices(activation=("relu",))),
        "physics_informed.network.activation",
    ),
    "policy_gradient-one-episode": (
        lambda: PolicyGradient(num_envs=1),
        "policy_gradient.num_envs",
    ),
    "image_autoencoder-hidden-zero": (
        lambda: ImageAutoencoder(load("digits"), hidden=(0,)),
        "image_autoencoder.hidden",
    ),
    "image_autoencoder-loss-unknown": (
        lambda: ImageAutoencoder(load("digits"), loss=("absolute",)),
        "image_autoencoder.loss",
    ),
    "image_autoencoder-data-vectors": (
        lambda: ImageAutoencoder(load("digits").flat()).nominal(),
        "data",
    ),
    "image_conv-channels-zero": (
        lambda: ImageConv(load("digits"), channels=(8, 0)),
        "image_conv.channels",
    ),
    "image_conv-stride-zero": (
        lambda: ImageConv(load("digits"), stride=0),
        "image_conv.stride",
    ),
    "image_mlp-batch_size-negative": (
        lambda: ImageMLP(load("digits"), batch_size=-1),
        "image_mlp.batch_size",
    ),
    "image_mlp-batch_size-zero": (
        lambda: ImageMLP(load("digits"), batch_size=0),
        "image_mlp.batch_size",
    ),
    "image_mlp-hidden-fraction": (
        lambda: ImageMLP(load("digits"), hidden=(8.5,)),  # type: ignore[arg-type]
        "image_mlp.hidden",
    ),
    "image_mlp-hidden-negative": (
        lambda: ImageMLP(load("digits"), hidden=(8, -8)),
        "image_mlp.hidden",
    ),
    "image_mlp-hidden-bool": (
        lambda: ImageMLP(load("digits"), hidden=(True,)),
        "image_mlp.hidden",
    ),
    "image_resnet-norm-unknown": (
        lambda: ImageResNet(load("digits"), norm="batch"),  # type: ignore[arg-type]
        "image_resnet.norm",
    ),
    "image_resnet-width-no-multiple": (
        lambda: ImageResNet(load("digits"), norm="group", width=6),
        "image_resnet.width",
    ),
    "image_vae-latent-zero": (
        lambda: ImageVAE(load("digits"), latent=0),
        "image_vae.latent",
    ),
    "image_vae-beta-zero": (
        lambda: ImageVAE(load("digits"), beta=(0.0, 1.0)),
        "image_vae.beta",
    ),
    "image_vit-patch-zero": (
        lambda: ImageViT(load("digits"), patch=0),
        "image_vit.patch",
    ),
    "image_vit-width-no-multiple": (
        lambda: ImageViT(load("digits"), width=6, heads=4),
        "image_vit.width",
    ),
    "lm_rnn-cell-unknown": (
        lambda: LMRNN(load_text("kjv"), cell="elman"),  # type: ignore[arg-type]
        "lm_rnn.cell",
    ),
    "lm_rnn-width-zero": (lambda: LMRNN(load_text("kjv"), width=0), "lm_rnn.width"),
    "lm_transformer-depth-zero": (
        lambda: LMTransformer(load_text("kjv"), depth=0),
        "lm_transformer.depth",
    ),
    "lm_transformer-width-odd": (
        lambda: LMTransformer(load_text("kjv"), width=7, heads=2),
        "lm_transformer.width",
    ),
    "network-activation-unknown": (
        lambda: NetworkChoices(activation=("step",)),
        "activation",
    ),
    "network-activation-none": (lambda: NetworkChoices(activation=()), "activation"),
    "network-init_scheme-unknown": (
        lambda: NetworkChoices(init_scheme=("zeros",)),
        "init_scheme",
    ),
    "network-init_scale-reversed": (
        lambda: NetworkChoices(init_scale=(2.0, 1.0)),
        "init_scale",
    ),
    "network-init_scale-zero": (
        lambda: NetworkChoices(init_scale=(0.0, 1.0)),
        "init_scale",
    ),
    "labels-loss-unknown": (lambda: LabelChoices(loss=("hinge",)), "loss"),
    "labels-noise-above-one": (lambda: LabelChoices(noise=(0.0, 1.5)), "noise"),
    "labels-noise-reversed": (lambda: LabelChoices(noise=(0.5, 0.1)), "noise"),
    "quadratic-dim-zero": (lambda: Quadratic(dim=0), "quadratic.dim"),
    "quadratic-dim-float": (
        lambda: Quadratic(dim=8.0),  # type: ignore[arg-type]
        "quadratic.dim",
    ),
    "quadratic-dim-text": (
        lambda: Quadratic(dim="8"),  # type: ignore[arg-type]
        "quadratic.dim",
    ),
    "quadratic-spectrum-negative": (
        lambda: Quadratic(spectrum=(-1.0, 1.0)),
        "quadratic.spectrum",
    ),
    "quadratic-spectrum-nan": (
        lambda: Quadratic(spectrum=(math.nan, 1.0)),
        "quadratic.spectrum",
    ),
    "quadratic-spectrum-infinite": (
        lambda: Quadratic(spectrum=(1.0, math.inf)),
        "quadratic.spectrum",
    ),
    "quadratic-noise-negative": (lambda: Quadratic(noise=-0.1), "quadratic.noise"),
    "quadratic-noise-infinite": (lambda: Quadratic(noise=math.inf), "quadratic.noise"),
    "quadratic-noise-nan": (lambda: Quadratic(noise=math.nan), "quadratic.noise"),
    "softmax_regression-penalty-zero": (
        lambda: SoftmaxRegression(load("wine"), penalty=(0.0, 1.0)),
        "softmax_regression.penalty",
    ),
    "softmax_regression-loss-not-convex": (
        lambda: SoftmaxRegression(load("wine"), labels=LabelChoices(loss=("brier",))),
        "softmax_regression.labels",
    ),
}
