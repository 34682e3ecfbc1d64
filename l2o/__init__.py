"""Learned optimizers for optax.

    import l2o

    tx = l2o.optimizer("NAME", num_steps=10_000)  # released weights
    state = tx.init(params)
    updates, state = tx.update(grads, state, params, value=loss)

`l2o.load` gives the architecture and its meta-parameters apart, to fine-tune or to run
under vmap; `l2o.save` writes them back. Architectures (`SmallFC`, `VeLO`, `LSTM` and
so on) are `LearnedOptimizer`s: sizes without weights. `l2o.import_public` and
`l2o.export_public` are for the published weights of other projects. `l2o.gradients` has
other sources of a gradient than backpropagation, `l2o.adahessian` is a hand-designed
optimizer that optax lacks, `l2o.guard` runs an optimizer while it helps and another one
when it does not, and `l2o.inspect` looks at losses and steps.

Names are imported at first use, so that `import l2o` costs nothing.
"""

import importlib.metadata
from typing import TYPE_CHECKING, Any

from l2o import lazy


if TYPE_CHECKING:
    from l2o import gradients, inspect
    from l2o.baselines.adahessian import adahessian
    from l2o.checkpoint import load, optimizer, save
    from l2o.learned import (
        LSTM,
        Celo,
        Celo2,
        CeloAdam,
        LearnableAdam,
        LearnableSGD,
        MuonLSTM,
        MuonMLP,
        RelativeMLP,
        RNNProp,
        SmallFC,
        VeLO,
    )
    from l2o.learned.base import LearnedOptimizer
    from l2o.public_format import export_public, import_public
    from l2o.safeguard import guard, guard_events
    from l2o.storage import CheckpointError

__all__ = [
    "LSTM",
    "Celo",
    "Celo2",
    "CeloAdam",
    "CheckpointError",
    "LearnableAdam",
    "LearnableSGD",
    "LearnedOptimizer",
    "MuonLSTM",
    "MuonMLP",
    "RNNProp",
    "RelativeMLP",
    "SmallFC",
    "VeLO",
    "__version__",
    "adahessian",
    "export_public",
    "gradients",
    "guard",
    "guard_events",
    "import_public",
    "inspect",
    "load",
    "optimizer",
    "save",
]

try:
    __version__ = importlib.metadata.version("l2o")
except importlib.metadata.PackageNotFoundError:  # run from a checkout
    __version__ = "0+unknown"

_MODULES = {
    "Celo": "l2o.learned",
    "Celo2": "l2o.learned",
    "CeloAdam": "l2o.learned",
    "CheckpointError": "l2o.storage",
    "LSTM": "l2o.learned",
    "LearnableAdam": "l2o.learned",
    "LearnableSGD": "l2o.learned",
    "LearnedOptimizer": "l2o.learned.base",
    "MuonLSTM": "l2o.learned",
    "MuonMLP": "l2o.learned",
    "RNNProp": "l2o.learned",
    "RelativeMLP": "l2o.learned",
    "SmallFC": "l2o.learned",
    "VeLO": "l2o.learned",
    "adahessian": "l2o.baselines.adahessian",
    "export_public": "l2o.public_format",
    "gradients": "l2o.gradients",
    "guard": "l2o.safeguard",
    "guard_events": "l2o.safeguard",
    "import_public": "l2o.public_format",
    "inspect": "l2o.inspect",
    "load": "l2o.checkpoint",
    "optimizer": "l2o.checkpoint",
    "save": "l2o.checkpoint",
}


def __getattr__(name: str) -> Any:
    return lazy.load(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
