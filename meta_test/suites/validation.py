"""The suite that chooses between thetas: neither trained on nor judged by.

The data sets are those of the train suites; architectures, sizes and seeds are others.
"""

import functools

from meta_test.suites.base import Suite, activation, nominal_cell


SEEDS = (200, 201, 202)

_GREY8 = ("mnist@8", "photo_patches@8grey")


_cell = functools.partial(nominal_cell, seeds=SEEDS)

VALIDATION = Suite(
    name="validation",
    version=1,
    about="to choose by while meta-training: the data of train, other tasks",
    cells=(
        _cell(
            "mlp 24-24",
            "plain ground",
            "image_mlp",
            data="mnist@8",
            hidden=(24, 24),
            network=activation("gelu"),
        ),
        _cell(
            "mlp 44 on patches, 3,000 steps",
            "a longer horizon than any in training",
            "image_mlp",
            data="photo_patches@8grey",
            hidden=(44,),
            horizon=3_000,
        ),
        _cell(
            "five tanh layers",
            "a deep network",
            "image_mlp",
            data="mnist@8",
            hidden=(18,) * 5,
            network=activation("tanh"),
        ),
        _cell(
            "initial weights x 4",
            "a start far from where it should be",
            "image_mlp",
            data="mnist@8",
            hidden=(36,),
            at={"network.init_scale": 4.0},
        ),
        _cell(
            "initial weights x 0.1",
            "a start near a saddle",
            "image_mlp",
            data="photo_patches@8grey",
            hidden=(36,),
            at={"network.init_scale": 0.1},
        ),
        _cell(
            "30 % random labels",
            "what can be learned by heart and should not be",
            "image_mlp",
            data="mnist@8",
            hidden=(80,),
            labels={"noise": (0.3, 0.3)},
        ),
        _cell(
            "batches of 6",
            "gradients full of noise",
            "image_mlp",
            data="mnist@8",
            hidden=(28,),
            batch_size=6,
        ),
        _cell(
            "conv 6-10 on patches",
            "a plain conv net",
            "image_conv",
            data="photo_patches@8",
            channels=(6, 10),
            batch_size=32,
            horizon=500,
        ),
        _cell(
            "vit 10-10",
            "two blocks of attention",
            "image_vit",
            data="mnist@8",
            patch=4,
            width=10,
            heads=2,
            depth=2,
            batch_size=32,
            horizon=500,
        ),
        _cell(
            "transformer 12-12",
            "two blocks of attention, over bytes",
            "lm_transformer",
            data="kjv",
            width=12,
            heads=2,
            depth=2,
            length=12,
            batch_size=8,
            horizon=500,
        ),
        _cell(
            "gru 24",
            "a wider cell",
            "lm_rnn",
            data="kjv",
            cell="gru",
            width=24,
            length=16,
            batch_size=8,
            horizon=500,
        ),
        _cell(
            "autoencoder 24-5-24",
            "a narrow bottleneck",
            "image_autoencoder",
            data="photo_patches@8grey",
            hidden=(24, 5, 24),
        ),
        _cell(
            "vae 24",
            "a loss with noise of its own",
            "image_vae",
            data="mnist@8",
            hidden=(24,),
            latent=5,
        ),
        _cell(
            "softmax regression on mnist",
            "convex, more classes than in training",
            "softmax_regression",
            data="mnist@8",
            batch_size=16,
            horizon=500,
        ),
        _cell(
            "quadratic 64",
            "curvatures from 0.0003 to 3",
            "quadratic",
            dim=64,
            spectrum=(3e-4, 3.0),
            sampled=True,
        ),
        _cell(
            "Rastrigin 12",
            "many minima",
            "nonconvex",
            dim=12,
            functions=("rastrigin",),
            sampled=True,
        ),
        _cell(
            "matrix factorisation 32x20",
            "saddles, a larger matrix",
            "matrix_factorisation",
            rows=32,
            cols=20,
            sampled=True,
        ),
    ),
    baselines=("adam",),
)
