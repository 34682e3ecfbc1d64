"""Learned optimizers: one architecture a file, on shared accumulators and networks.

A new architecture is one file with a frozen dataclass and one row in `ARCHITECTURES`.
"""

from l2o.learned.base import LearnedOptimizer as LearnedOptimizer
from l2o.learned.lstm import LSTM as LSTM
from l2o.learned.relative_mlp import RelativeMLP as RelativeMLP
from l2o.learned.small_fc import SmallFC as SmallFC
from l2o.learned.velo import VeLO as VeLO


ARCHITECTURES: dict[str, type[LearnedOptimizer]] = {
    "small_fc": SmallFC,
    "relative_mlp": RelativeMLP,
    "lstm": LSTM,
    "velo": VeLO,
}
"""Architectures by the name that configs and manifests use."""
