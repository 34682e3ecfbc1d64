"""Learned optimizers: one architecture a file, on shared accumulators and networks.

A new architecture is one file with a frozen dataclass and one row in `ARCHITECTURES`.
The other files here are what several architectures share: `accumulators`, `features`,
`loss_features`, `groups`, `network`, `per_parameter`; the steps of a kin, `velo_step`
and `muon_step`; and what sizes them, `tensor_lstm` and `muon_control`.
"""

from l2o.learned.base import LearnedOptimizer as LearnedOptimizer
from l2o.learned.celo import Celo as Celo
from l2o.learned.celo2 import Celo2 as Celo2
from l2o.learned.celo_adam import CeloAdam as CeloAdam
from l2o.learned.learnable_adam import LearnableAdam as LearnableAdam
from l2o.learned.learnable_sgd import LearnableSGD as LearnableSGD
from l2o.learned.lstm import LSTM as LSTM
from l2o.learned.muon_lstm import MuonLSTM as MuonLSTM
from l2o.learned.muon_mlp import MuonMLP as MuonMLP
from l2o.learned.relative_mlp import RelativeMLP as RelativeMLP
from l2o.learned.rnnprop import RNNProp as RNNProp
from l2o.learned.small_fc import SmallFC as SmallFC
from l2o.learned.velo import VeLO as VeLO


ARCHITECTURES: dict[str, type[LearnedOptimizer]] = {
    "learnable_sgd": LearnableSGD,
    "learnable_adam": LearnableAdam,
    "small_fc": SmallFC,
    "relative_mlp": RelativeMLP,
    "muon_mlp": MuonMLP,
    "muon_lstm": MuonLSTM,
    "lstm": LSTM,
    "rnnprop": RNNProp,
    "velo": VeLO,
    "celo": Celo,
    "celo_adam": CeloAdam,
    "celo2": Celo2,
}
"""Architectures by the name that configs and manifests use."""
