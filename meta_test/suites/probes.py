"""Suites that stretch one thing at a time, on data that no train suite has."""

from typing import Any

from meta_test.suites.base import Cell, Suite
from meta_test.suites.ood import SEEDS
from meta_test.suites.train import HORIZON


def _mlp(width: int = 40, **fields: Any) -> dict[str, Any]:
    task = {"family": "image_mlp", "data": "fashion_mnist@8", "hidden": (width,)}
    return {**task, **fields}


_AUTOENCODER = {
    "family": "image_autoencoder",
    "data": "digits",
    "hidden": (24, 6, 24),
}
_QUADRATIC = {"family": "quadratic", "dim": 96, "spectrum": (1e-3, 10.0)}

HORIZONS = Suite(
    name="horizon",
    version=1,
    about=f"trainings of 0.2 to 10 times the {HORIZON:,} steps of the train suites",
    cells=tuple(
        Cell(
            name=f"{name}, {round(times * HORIZON):,} steps",
            probes=f"{times:g} times the horizon of meta-training",
            task=task,
            horizon=round(times * HORIZON),
            seeds=SEEDS,
            sampled=sampled,
        )
        for name, task, sampled in (
            ("mlp", _mlp(), False),
            ("autoencoder", _AUTOENCODER, False),
            ("quadratic", _QUADRATIC, True),
        )
        for times in (0.2, 0.5, 1, 2, 5, 10)
    ),
    baselines=("adam",),
)

_BASE_WIDTH = 32

WIDTHS = Suite(
    name="width",
    version=1,
    about=f"hidden layers of 0.5 to 32 times {_BASE_WIDTH}",
    cells=tuple(
        Cell(
            name=f"width {round(times * _BASE_WIDTH)}",
            probes=f"{times:g} times a width of meta-training",
            task=_mlp(round(times * _BASE_WIDTH)),
            horizon=500,
            seeds=SEEDS,
        )
        for times in (0.5, 1, 2, 4, 8, 16, 32)
    ),
    baselines=("adam",),
)

_WIDE_RANGE = [{"kind": "reparametrise", "scale": (1e-3, 1e3)}]

REPARAM = Suite(
    name="reparam",
    version=1,
    about="the same networks with weights in units of 0.001 to 1,000",
    cells=tuple(
        Cell(
            name=f"{name}, weights x {scale:g}",
            probes=f"weights times {scale:g} make the network",
            task={**task, "augment": _WIDE_RANGE},
            horizon=HORIZON,
            seeds=SEEDS,
            at={"scale": scale},
        )
        for name, task in (("mlp", _mlp()), ("autoencoder", _AUTOENCODER))
        for scale in (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
    ),
    baselines=("adam",),
)
