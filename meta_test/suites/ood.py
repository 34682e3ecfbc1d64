"""Suites to be judged on: data, architectures and families that no train suite has.

Data sets: digits, Fashion-MNIST, MNIST-1D, Python's help topics, wine and diabetes.
Families that are nowhere in the train suites: residual conv nets, graph networks,
physics-informed networks, policy gradients and the training of an optimizer.
"""

from collections.abc import Mapping
from typing import Any

from meta_test.suites.base import Cell, Suite


SEEDS = (100, 101, 102)


def _cell(
    name: str,
    probes: str,
    family: str,
    *,
    horizon: int = 1_000,
    at: Mapping[str, float] | None = None,
    sampled: bool = False,
    **fields: Any,
) -> Cell:
    task: Mapping[str, Any] = {"family": family, **fields}
    return Cell(name, probes, task, horizon, SEEDS, sampled, at or {})


def _activation(name: str) -> dict[str, Any]:
    return {"activation": (name,)}


_MLP_FASHION = _cell(
    "mlp 48 on fashion",
    "plain ground, other data",
    "image_mlp",
    data="fashion_mnist@8",
    hidden=(48,),
)
_MLP_DEEP_TANH = _cell(
    "six tanh layers",
    "a deep network whose gradients fade",
    "image_mlp",
    data="digits",
    hidden=(20,) * 6,
    network=_activation("tanh"),
)
_MLP_LARGE_INIT = _cell(
    "initial weights x 5",
    "a start far from where it should be",
    "image_mlp",
    data="digits",
    hidden=(40,),
    at={"network.init_scale": 5.0},
)
_MLP_NOISE = _cell(
    "30 % random labels",
    "what can be learned by heart and should not be",
    "image_mlp",
    data="fashion_mnist@8",
    hidden=(96,),
    labels={"noise": (0.3, 0.3)},
)
_CONV = _cell(
    "conv 6-12 on fashion",
    "a plain conv net, other data",
    "image_conv",
    data="fashion_mnist@14",
    channels=(6, 12),
    batch_size=32,
    horizon=500,
)
_RESNET = _cell(
    "resnet on digits",
    "residual blocks and layer normalisation",
    "image_resnet",
    data="digits",
    norm="layer",
    width=8,
    blocks=2,
    batch_size=32,
    horizon=500,
)
_VIT = _cell(
    "vit 24 on fashion",
    "attention over patches, other data",
    "image_vit",
    data="fashion_mnist@8",
    patch=2,
    width=24,
    heads=3,
    depth=1,
    batch_size=16,
    horizon=500,
)
_TRANSFORMER = _cell(
    "transformer 24 on help topics",
    "another language",
    "lm_transformer",
    data="python_topics",
    width=24,
    heads=3,
    depth=1,
    length=24,
    batch_size=8,
)
_LSTM = _cell(
    "lstm 24 on help topics",
    "another cell, another language",
    "lm_rnn",
    data="python_topics",
    cell="lstm",
    width=24,
    length=16,
    batch_size=8,
)
_AUTOENCODER = _cell(
    "autoencoder on digits",
    "a bottleneck, other data",
    "image_autoencoder",
    data="digits",
    hidden=(24, 6, 24),
)
_WINE = _cell(
    "softmax regression on wine",
    "107 examples, convex",
    "softmax_regression",
    data="wine",
    batch_size=32,
    horizon=500,
)
_QUADRATIC = _cell(
    "quadratic 96",
    "curvatures from 0.0001 to 10",
    "quadratic",
    dim=96,
    spectrum=(1e-4, 10.0),
    sampled=True,
)
_ROSENBROCK = _cell(
    "Rosenbrock 10",
    "a bent valley",
    "nonconvex",
    dim=10,
    functions=("rosenbrock",),
    sampled=True,
)
_FACTORS = _cell(
    "matrix factorisation 40x30",
    "saddles, a larger matrix",
    "matrix_factorisation",
    rows=40,
    cols=30,
    sampled=True,
)
_PHYSICS = _cell(
    "physics-informed network",
    "second derivatives in the loss",
    "physics_informed",
    sampled=True,
)
_GRAPHS = _cell(
    "graph network",
    "messages on random graphs",
    "graph_network",
    sampled=True,
    horizon=500,
)

OOD_SMALL = Suite(
    name="ood-small",
    version=1,
    about="unseen data, architectures and families: minutes",
    cells=(
        _MLP_FASHION,
        _MLP_DEEP_TANH,
        _MLP_LARGE_INIT,
        _MLP_NOISE,
        _CONV,
        _RESNET,
        _VIT,
        _TRANSFORMER,
        _LSTM,
        _AUTOENCODER,
        _WINE,
        _QUADRATIC,
        _ROSENBROCK,
        _FACTORS,
        _PHYSICS,
        _GRAPHS,
    ),
    baselines=("adam",),
)

OOD = Suite(
    name="ood",
    version=1,
    about="unseen data, architectures and families: all that is judged",
    cells=(
        *OOD_SMALL.cells,
        _cell(
            "mlp 128 on digits",
            "a wide network",
            "image_mlp",
            data="digits",
            hidden=(128,),
        ),
        _cell(
            "mlp 4 on digits",
            "a network that is too narrow",
            "image_mlp",
            data="digits",
            hidden=(4,),
            horizon=500,
        ),
        _cell(
            "mlp 40 on digits, 200 steps",
            "a short horizon",
            "image_mlp",
            data="digits",
            hidden=(40,),
            horizon=200,
        ),
        _cell(
            "mlp 40 on digits, 5,000 steps",
            "a long horizon",
            "image_mlp",
            data="digits",
            hidden=(40,),
            horizon=5_000,
        ),
        _cell(
            "two sigmoid layers",
            "an activation that is never zero on average",
            "image_mlp",
            data="digits",
            hidden=(40, 40),
            network=_activation("sigmoid"),
        ),
        _cell(
            "swish 24-48-24, Brier score",
            "another loss, other widths",
            "image_mlp",
            data="fashion_mnist@8",
            hidden=(24, 48, 24),
            network=_activation("swish"),
            labels={"loss": ("brier",)},
        ),
        _cell(
            "initial weights x 0.05",
            "a start near a saddle",
            "image_mlp",
            data="digits",
            hidden=(40,),
            at={"network.init_scale": 0.05},
        ),
        _cell(
            "batches of 4",
            "gradients full of noise",
            "image_mlp",
            data="digits",
            hidden=(40,),
            batch_size=4,
            horizon=2_000,
        ),
        _cell(
            "batches of 512",
            "gradients with little noise",
            "image_mlp",
            data="fashion_mnist@8",
            hidden=(40,),
            batch_size=512,
            horizon=200,
        ),
        _cell(
            "mlp 48-48 on 1-D signals",
            "a data set that perceptrons overfit",
            "image_mlp",
            data="mnist1d",
            hidden=(48, 48),
        ),
        _cell(
            "mlp 32 on 28x28 fashion",
            "ten times as many inputs",
            "image_mlp",
            data="fashion_mnist",
            hidden=(32,),
            batch_size=32,
            horizon=500,
        ),
        _cell(
            "mlp 20 on wine",
            "a network with more parameters than examples",
            "image_mlp",
            data="wine",
            hidden=(20,),
            batch_size=32,
            horizon=500,
        ),
        _cell(
            "reparametrised by 0.001",
            "weights 1,000 times larger",
            "image_mlp",
            data="digits",
            hidden=(40,),
            augment=[{"kind": "reparametrise", "scale": (1e-3, 1e-3)}],
        ),
        _cell(
            "every weight in another unit",
            "scales that differ by up to 100 within a tensor",
            "image_mlp",
            data="digits",
            hidden=(40,),
            augment=[
                {"kind": "reparametrise", "level": "parameter", "scale": (0.1, 10.0)}
            ],
            sampled=True,
        ),
        _cell(
            "bfloat16",
            "weights with three digits",
            "image_mlp",
            data="digits",
            hidden=(40,),
            augment=[{"kind": "low_precision"}],
        ),
        _cell(
            "loss times 1,000",
            "gradients 1,000 times larger, weights the same",
            "image_mlp",
            data="digits",
            hidden=(40,),
            augment=[{"kind": "scale_loss", "factor": (1e3, 1e3)}],
        ),
        _cell(
            "gradients three steps old",
            "asynchronous training",
            "image_mlp",
            data="digits",
            hidden=(40,),
            augment=[{"kind": "delay_gradient", "longest": 5}],
        ),
        _cell(
            "conv 12 on digits, tanh",
            "one layer of maps",
            "image_conv",
            data="digits",
            channels=(12,),
            network=_activation("tanh"),
            batch_size=32,
            horizon=500,
        ),
        _cell(
            "conv 6-6-6 on fashion",
            "a deeper conv net",
            "image_conv",
            data="fashion_mnist@14",
            channels=(6, 6, 6),
            batch_size=16,
            horizon=500,
        ),
        _cell(
            "resnet on fashion, group norm",
            "another normalisation",
            "image_resnet",
            data="fashion_mnist@8",
            norm="group",
            width=12,
            blocks=1,
            batch_size=32,
            horizon=500,
        ),
        _cell(
            "vit 12-12 on digits",
            "two blocks",
            "image_vit",
            data="digits",
            patch=4,
            width=12,
            heads=3,
            depth=2,
            batch_size=32,
            horizon=500,
        ),
        _cell(
            "transformer 12-12 on help topics",
            "two blocks",
            "lm_transformer",
            data="python_topics",
            width=12,
            heads=2,
            depth=2,
            length=16,
            batch_size=8,
        ),
        _cell(
            "gru 40 on help topics",
            "a wider cell, another language",
            "lm_rnn",
            data="python_topics",
            cell="gru",
            width=40,
            length=24,
            batch_size=8,
            horizon=500,
        ),
        _cell(
            "deep autoencoder on fashion",
            "a narrow bottleneck in a deep network",
            "image_autoencoder",
            data="fashion_mnist@8",
            hidden=(48, 24, 4, 24, 48),
            loss=("cross_entropy",),
        ),
        _cell(
            "vae on digits",
            "a loss with noise of its own",
            "image_vae",
            data="digits",
            hidden=(24,),
            latent=4,
        ),
        _cell(
            "vae on fashion, beta 4",
            "a heavier prior",
            "image_vae",
            data="fashion_mnist@8",
            hidden=(40,),
            latent=6,
            beta=(4.0, 4.0),
        ),
        _cell(
            "softmax regression on diabetes",
            "convex, hardly separable",
            "softmax_regression",
            data="diabetes",
            batch_size=64,
            horizon=500,
        ),
        _cell(
            "softmax regression on 1-D signals",
            "convex, a model that is too small",
            "softmax_regression",
            data="mnist1d",
            batch_size=64,
        ),
        _cell(
            "quadratic 4",
            "a handful of parameters, a short horizon",
            "quadratic",
            dim=4,
            spectrum=(1e-2, 1.0),
            sampled=True,
            horizon=200,
        ),
        _cell(
            "noisy quadratic 48",
            "gradients with more noise than slope near the minimum",
            "quadratic",
            dim=48,
            spectrum=(1e-2, 10.0),
            noise=1.0,
            sampled=True,
        ),
        _cell(
            "Ackley 20",
            "a flat plain around a funnel",
            "nonconvex",
            dim=20,
            functions=("ackley",),
            sampled=True,
        ),
        _cell(
            "policy gradient",
            "a gradient from trials alone",
            "policy_gradient",
            sampled=True,
            horizon=200,
        ),
        _cell(
            "training an optimizer",
            "the outer problem as an inner one",
            "optimizer_training",
            inner={"family": "quadratic", "dim": 6, "spectrum": (1e-2, 1.0)},
            horizon=500,
        ),
    ),
    baselines=("adam",),
)
