"""Optimizers that benchmarks know by name."""

from collections.abc import Mapping
from typing import TypeVar

from l2o.config import spelled
from l2o.learned import (
    LSTM,
    Celo,
    Celo2,
    CeloAdam,
    LearnableAdam,
    LearnableSGD,
    LearnedOptimizer,
    MuonLSTM,
    MuonMLP,
    RelativeMLP,
    RNNProp,
    SmallFC,
    VeLO,
)


T = TypeVar("T")

OPTIMIZERS: dict[str, LearnedOptimizer] = {
    "learnable_sgd": LearnableSGD(),
    "learnable_adam": LearnableAdam(),
    "small_fc": SmallFC(),
    "velo": VeLO(),
    "celo": Celo(),
    "celo-adam": CeloAdam(),
    "celo2-base": Celo2(orthogonalize=False),
    "celo2": Celo2(),
    "relative_mlp": RelativeMLP(),
    "muon_mlp": MuonMLP(),
    "muon_lstm": MuonLSTM(),
    "lstm": LSTM(),
    "rnnprop": RNNProp(),
}
"""At the sizes that are meta-trained: VeLO with an LSTM of 64 and 32 mixtures."""


def named(optimizer: str, known: Mapping[str, T]) -> tuple[str, T]:
    """The name in its own spelling, and what it stands for.

    Args:
        optimizer: a name, in any case and with hyphens or underscores.
        known: what there is.

    Raises:
        ValueError: there is no such name.
    """
    name = spelled(optimizer, known)
    if name not in known:
        raise ValueError(
            f"optimizer must be one of {', '.join(known)}, got {optimizer!r}"
        )
    return name, known[name]
