"""Suites on the 8x8 digits: familiar ground, changed one thing at a time."""

from typing import Any

from meta_test.suites.base import Cell, Suite


def _mlp(*hidden: int, **fields: Any) -> dict[str, Any]:
    return {"family": "image_mlp", "data": "digits", "hidden": hidden, **fields}


_REPARAMETRISED = [{"kind": "reparametrise", "scale": (0.1, 10.0)}]

_PLAIN = Cell(
    name="mlp 64-32-10, 1,000 steps",
    probes="seeds that meta-training never drew",
    task=_mlp(32),
    horizon=1_000,
)
_LONG = Cell(
    name="mlp 64-32-10, 5,000 steps",
    probes="five times the longest horizon of the config small",
    task=_mlp(32),
    horizon=5_000,
)

QUICK = Suite(
    name="quick",
    version=1,
    about="what a meta-training ends with: familiar ground, and far past its horizon",
    cells=(_PLAIN, _LONG),
    # The strongest on the first cell of each kind: the main job has minutes.
    baselines=("momentum", "adam", "lion"),
)

DIGITS = Suite(
    name="digits",
    version=1,
    about="the 8x8 digits and quadratics, changed one thing at a time",
    cells=(
        Cell(
            name="mlp 64-32-10, 200 steps",
            probes="a short horizon",
            task=_mlp(32),
            horizon=200,
        ),
        _PLAIN,
        _LONG,
        Cell(
            name="width 8",
            probes="a network narrower than any in meta-training",
            task=_mlp(8),
            horizon=1_000,
        ),
        Cell(
            name="width 128",
            probes="a wider network",
            task=_mlp(128),
            horizon=1_000,
        ),
        Cell(
            name="3 hidden layers",
            probes="a deeper network",
            task=_mlp(32, 32, 32),
            horizon=1_000,
        ),
        Cell(
            name="5 hidden layers",
            probes="a much deeper network",
            task=_mlp(32, 32, 32, 32, 32),
            horizon=1_000,
        ),
        Cell(
            name="no hidden layer",
            probes="a convex problem on the same data",
            task=_mlp(),
            horizon=1_000,
        ),
        Cell(
            name="tanh",
            probes="another activation",
            task=_mlp(32, network={"activation": ("tanh",)}),
            horizon=1_000,
        ),
        Cell(
            name="initial weights x 3",
            probes="a poor initialisation",
            task=_mlp(32),
            horizon=1_000,
            at={"network.init_scale": 3.0},
        ),
        Cell(
            name="reparametrised by 0.1",
            probes="weights 10 times larger, gradients 10 times smaller",
            task=_mlp(32, augment=_REPARAMETRISED),
            horizon=1_000,
            at={"scale": 0.1},
        ),
        Cell(
            name="reparametrised by 10",
            probes="weights 10 times smaller, gradients 10 times larger",
            task=_mlp(32, augment=_REPARAMETRISED),
            horizon=1_000,
            at={"scale": 10.0},
        ),
        Cell(
            name="quadratic, 8 dimensions",
            probes="few parameters, a short horizon",
            task={"family": "quadratic", "dim": 8, "spectrum": (1e-3, 1.0)},
            horizon=200,
            sampled=True,
        ),
        Cell(
            name="quadratic, 128 dimensions",
            probes="ill-conditioned: curvatures from 0.0001 to 10",
            task={"family": "quadratic", "dim": 128, "spectrum": (1e-4, 10.0)},
            horizon=1_000,
            sampled=True,
        ),
    ),
)
