"""Learned optimizers for optax.

    import l2o

    tx = l2o.optimizer("NAME", num_steps=10_000)  # released weights
    state = tx.init(params)
    updates, state = tx.update(grads, state, params, value=loss)

`l2o.load` gives the architecture and its meta-parameters apart, to fine-tune or to run
under vmap; `l2o.save` writes them back. Architectures (`SmallFC`, `LSTM`, `VeLO`,
`RelativeMLP`) are `LearnedOptimizer`s: sizes without weights.

Names are imported at first use, so that `import l2o` costs nothing.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from l2o.checkpoint import load, optimizer, save
    from l2o.learned import LSTM, RelativeMLP, SmallFC, VeLO
    from l2o.learned.base import LearnedOptimizer
    from l2o.storage import CheckpointError

__all__ = [
    "LSTM",
    "CheckpointError",
    "LearnedOptimizer",
    "RelativeMLP",
    "SmallFC",
    "VeLO",
    "__version__",
    "load",
    "optimizer",
    "save",
]

try:
    __version__ = importlib.metadata.version("l2o")
except importlib.metadata.PackageNotFoundError:  # run from a checkout
    __version__ = "0+unknown"

_MODULES = {
    "CheckpointError": "l2o.storage",
    "LSTM": "l2o.learned",
    "LearnedOptimizer": "l2o.learned.base",
    "RelativeMLP": "l2o.learned",
    "SmallFC": "l2o.learned",
    "VeLO": "l2o.learned",
    "load": "l2o.checkpoint",
    "optimizer": "l2o.checkpoint",
    "save": "l2o.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'l2o' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
