"""Suites to meta-train on: what a learned optimizer may have seen.

Data sets: MNIST, photo patches, the King James Bible, breast cancer and iris, and
problems that are generated. No data set, architecture or seed of these is in a suite
that is called `ood`.
"""

from collections.abc import Mapping
from typing import Any

from meta_test.suites.base import Cell, Suite


HORIZON = 1_000
"""Inner steps of a training; suites that stretch it are relative to this."""

_NETWORK = {
    "init_scale": (0.3, 3.0),
    "init_scheme": ("lecun", "he", "glorot"),
    "activation": ("relu", "tanh", "gelu", "swish"),
}
_SMOOTH = {"init_scale": (0.5, 2.0), "activation": ("tanh",)}
_LABELS = {"loss": ("cross_entropy", "smoothed"), "noise": (0.0, 0.2)}
_GREY8 = ("mnist@8", "photo_patches@8grey")


def _cell(name: str, probes: str, family: str, **fields: Any) -> Cell:
    task: Mapping[str, Any] = {"family": family, **fields}
    return Cell(name, probes, task, horizon=HORIZON, sampled=True)


def _classifier(name: str, probes: str, family: str, **fields: Any) -> Cell:
    varied = {"network": _NETWORK, "labels": _LABELS}
    return _cell(name, probes, family, **varied, **fields)


_SMALL = (
    _classifier(
        "mlp 32",
        "perceptrons on two data sets, any activation and initialisation",
        "image_mlp",
        data=_GREY8,
        hidden=(32,),
    ),
    _classifier(
        "conv 8-16",
        "plain conv nets",
        "image_conv",
        data=_GREY8,
        channels=(8, 16),
        batch_size=32,
    ),
    _cell(
        "gru 16",
        "a recurrent language model",
        "lm_rnn",
        data="kjv",
        cell="gru",
        width=16,
        network=_SMOOTH,
    ),
    _cell(
        "autoencoder 32-8-32",
        "a bottleneck",
        "image_autoencoder",
        data=_GREY8,
        hidden=(32, 8, 32),
        loss=("squared", "cross_entropy"),
        network=_NETWORK,
    ),
    _cell(
        "softmax regression",
        "convex, few examples",
        "softmax_regression",
        data="breast_cancer",
        penalty=(1e-5, 1e-1),
    ),
    _cell(
        "quadratic 32",
        "known curvatures, four decades of them, rotated",
        "quadratic",
        dim=32,
        spectrum=(1e-3, 10.0),
        noise=0.1,
    ),
    _cell(
        "nonconvex 8",
        "many minima",
        "nonconvex",
        dim=8,
        functions=("rastrigin", "styblinski_tang"),
    ),
)

TRAIN_SMALL = Suite(
    name="train-small",
    version=1,
    about="to meta-train on: one of a kind, microseconds a step",
    cells=_SMALL,
    baselines=("adam",),
)

TRAIN = Suite(
    name="train",
    version=1,
    about="to meta-train on: all families but those kept for ood",
    cells=(
        *_SMALL,
        _classifier(
            "mlp 64-64",
            "deeper perceptrons",
            "image_mlp",
            data=_GREY8,
            hidden=(64, 64),
        ),
        _classifier(
            "mlp 16-16-16-16",
            "narrow and deep",
            "image_mlp",
            data=_GREY8,
            hidden=(16, 16, 16, 16),
            batch_size=32,
        ),
        _classifier(
            "mlp on 14x14",
            "more inputs",
            "image_mlp",
            data="mnist@14",
            hidden=(32,),
            batch_size=32,
        ),
        _classifier(
            "mlp in colour, small batches",
            "gradients full of noise",
            "image_mlp",
            data="photo_patches@8",
            hidden=(24,),
            batch_size=8,
        ),
        _classifier(
            "mlp, reparametrised",
            "weights of any scale, tensor by tensor",
            "image_mlp",
            data=_GREY8,
            hidden=(32,),
            augment=[
                {"kind": "reparametrise", "level": "tensor", "scale": (1e-2, 1e2)}
            ],
        ),
        _classifier(
            "mlp, reparametrised as one",
            "weights of any scale",
            "image_mlp",
            data=_GREY8,
            hidden=(32,),
            augment=[
                {"kind": "reparametrise", "level": "global", "scale": (1e-3, 1e3)}
            ],
        ),
        _classifier(
            "mlp, stale gradients",
            "gradients of up to eight steps ago",
            "image_mlp",
            data=_GREY8,
            hidden=(32,),
            augment=[{"kind": "delay_gradient", "longest": 8}],
        ),
        _classifier(
            "conv on 14x14",
            "larger maps",
            "image_conv",
            data="mnist@14",
            channels=(8, 8),
            batch_size=16,
        ),
        _classifier(
            "vit 16",
            "attention over patches",
            "image_vit",
            data=_GREY8,
            patch=4,
            width=16,
            heads=2,
            depth=1,
            batch_size=32,
        ),
        _cell(
            "transformer 16",
            "attention over bytes",
            "lm_transformer",
            data="kjv",
            width=16,
            heads=2,
            depth=1,
            length=16,
            batch_size=8,
            network=_NETWORK,
        ),
        _cell(
            "vae 32",
            "a loss with noise of its own",
            "image_vae",
            data=_GREY8,
            hidden=(32,),
            latent=8,
            beta=(0.3, 3.0),
            network=_NETWORK,
        ),
        _cell(
            "softmax regression on iris",
            "a dozen parameters",
            "softmax_regression",
            data="iris",
            penalty=(1e-5, 1e-1),
            batch_size=16,
        ),
        _cell(
            "quadratic 8",
            "few dimensions, no noise",
            "quadratic",
            dim=8,
            spectrum=(1e-4, 1.0),
        ),
        _cell(
            "matrix factorisation 24x16",
            "saddles",
            "matrix_factorisation",
            rows=24,
            cols=16,
        ),
    ),
    baselines=("adam",),
)

TRAIN_WIDE = Suite(
    name="train-wide",
    version=1,
    about="to meta-train on: all of train, and starts and units far from the usual",
    cells=(
        *TRAIN.cells,
        _cell(
            "mlp 24, any initial weights",
            "starts near a saddle, and far away",
            "image_mlp",
            data=_GREY8,
            hidden=(24,),
            network={**_NETWORK, "init_scale": (0.02, 10.0)},
            labels=_LABELS,
        ),
        _cell(
            "conv 8, any initial weights",
            "the same of a conv net",
            "image_conv",
            data=_GREY8,
            channels=(8,),
            batch_size=32,
            network={**_NETWORK, "init_scale": (0.05, 5.0)},
            labels=_LABELS,
        ),
        _classifier(
            "mlp 32, a unit for each weight",
            "directions that matrices do not have",
            "image_mlp",
            data=_GREY8,
            hidden=(32,),
            augment=[
                {"kind": "reparametrise", "level": "parameter", "scale": (0.1, 10.0)}
            ],
        ),
        _cell(
            "mlp 12 on iris",
            "learned by heart within the horizon",
            "image_mlp",
            data="iris",
            hidden=(12,),
            batch_size=32,
            network=_NETWORK,
        ),
        _cell(
            "softmax regression on 14x14 images",
            "convex, of many inputs",
            "softmax_regression",
            data="mnist@14",
            penalty=(1e-5, 1e-1),
        ),
    ),
    baselines=("adam",),
)
