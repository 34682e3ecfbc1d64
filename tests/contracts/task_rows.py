"""The table of task families: one row makes a family subject to every contract."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tasks import (
    LMRNN,
    LMTransformer,
    ImageAutoencoder,
    ImageMLP,
    ImageVAE,
    Quadratic,
    TaskFamily,
    load,
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
    """

    make: Callable[[], TaskFamily]
    initial: float
    rel: float = 0.1
    smooth: bool = True


# A constant reconstruction of the digits is the mean pixel: its losses.
PIXELS = np.asarray(load("digits").inputs["train"])
MEAN_PIXEL = float(PIXELS.mean())
COIN = -MEAN_PIXEL * math.log(MEAN_PIXEL) - (1 - MEAN_PIXEL) * math.log(1 - MEAN_PIXEL)

ROWS = {
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
    "lm_rnn": Row(
        lambda: LMRNN(load("kjv"), width=8, length=4, batch_size=4),
        initial=math.log(256),
        rel=0.01,
    ),
    "lm_rnn-ranges": Row(
        lambda: LMRNN(
            load(("kjv", "python_topics")),
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
        lambda: LMTransformer(load("kjv"), width=8, length=4, batch_size=4),
        initial=math.log(256),
        rel=0.01,
    ),
    "lm_transformer-ranges": Row(
        lambda: LMTransformer(
            load(("kjv", "python_topics")),
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
    # Start and minimiser are 1 + 1 apart in expectation: half of twice the trace.
    "quadratic": Row(
        lambda: Quadratic(dim=8, spectrum=(0.5, 1.0), noise=0.1),
        initial=float(np.geomspace(0.5, 1.0, 8).sum()),
        rel=0.2,
    ),
}
# What a family must refuse, and the name of what is wrong.
REFUSED = {
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
    "image_vae-latent-zero": (
        lambda: ImageVAE(load("digits"), latent=0),
        "image_vae.latent",
    ),
    "image_vae-beta-zero": (
        lambda: ImageVAE(load("digits"), beta=(0.0, 1.0)),
        "image_vae.beta",
    ),
    "lm_rnn-cell-unknown": (
        lambda: LMRNN(load("kjv"), cell="elman"),  # type: ignore[arg-type]
        "lm_rnn.cell",
    ),
    "lm_rnn-width-zero": (lambda: LMRNN(load("kjv"), width=0), "lm_rnn.width"),
    "lm_transformer-depth-zero": (
        lambda: LMTransformer(load("kjv"), depth=0),
        "lm_transformer.depth",
    ),
    "lm_transformer-width-odd": (
        lambda: LMTransformer(load("kjv"), width=7, heads=2),
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
}
