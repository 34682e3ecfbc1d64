"""The configuration of a meta-training run. Imports no jax: it parses in an instant.

A config is a TOML file of the tables below; what it leaves out has the value given
here. Tables that choose between things (`optimizer`, `task`, `schedule`, `meta_loss`)
name one and give its fields beside the name; they are checked against its class when
the run is built.
"""

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from l2o.config import (
    build,
    nearest,
    override,
    require_positive,
    require_positive_int,
    require_range,
)


@dataclasses.dataclass(frozen=True)
class EstimatorConfig:
    """How the meta-gradient is estimated.

    Attributes:
        credit: `persistent` (PES) or `fresh` (truncated ES).
        sigma: deviation of the perturbation of theta.
        pairs: antithetic pairs.
        block: pairs computed together; part of what a run's bits depend on.
        window: inner steps per meta-gradient.
    """

    credit: Literal["persistent", "fresh"] = "persistent"
    sigma: float = 0.01
    pairs: int = 8
    block: int = 4
    window: int = 50

    def __post_init__(self) -> None:
        require_positive("sigma", self.sigma)
        for name in ("pairs", "block", "window"):
            require_positive_int(name, getattr(self, name))
        if self.pairs % self.block:
            raise ValueError(
                f"pairs must be a multiple of block, got {self.pairs} and {self.block}"
            )


@dataclasses.dataclass(frozen=True)
class OuterConfig:
    """The outer loop: Adam on the elementwise clipped meta-gradient, cosine decay.

    Attributes:
        steps: outer steps in all.
        steps_per_dispatch: outer steps in one compiled call; divides `steps`.
        learning_rate: peak step size of Adam.
        clip: each entry of the meta-gradient is cut to -clip..clip.
        warmup: outer steps of linear warm-up from zero.
        final_fraction: step size at the end, as a fraction of the peak.
        max_skipped: the run stops after so many outer steps in a row without a single
            finite meta-loss.
    """

    steps: int = 1000
    steps_per_dispatch: int = 10
    learning_rate: float = 1e-3
    clip: float = 3.0
    warmup: int = 0
    final_fraction: float = 1.0
    max_skipped: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "steps_per_dispatch", "max_skipped"):
            require_positive_int(name, getattr(self, name))
        for name in ("learning_rate", "clip"):
            require_positive(name, getattr(self, name))
        # Something must be left for the decay.
        require_range("warmup", self.warmup, 0, self.steps - 1)
        require_range("final_fraction", self.final_fraction, 0.0, 1.0)
        if self.steps % self.steps_per_dispatch:
            raise ValueError(
                "steps must be a multiple of steps_per_dispatch, "
                f"got {self.steps} and {self.steps_per_dispatch}"
            )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the whole state is saved.

    Attributes:
        seconds: save when so many seconds have passed since the last save; 0 saves
            after every dispatch.
        keep: how many of the newest checkpoints stay.
    """

    seconds: float = 60.0
    keep: int = 3

    def __post_init__(self) -> None:
        require_range("seconds", self.seconds, 0.0, 86400.0)
        require_positive_int("keep", self.keep)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One meta-training run.

    Attributes:
        name: of the run and of the optimizer it makes.
        seed: of everything random.
        optimizer: `arch`, and the fields of that architecture.
        task: `family`, where it has one `data`, and the fields of that family.
        schedule: `kind`, and the fields of that truncation schedule.
        meta_loss: `kind`, and the fields of that meta-loss.
        estimator: how the meta-gradient is estimated.
        outer: the outer loop.
        checkpoint: when the state is saved.
        suite: what to evaluate the result on; empty for nothing.
    """

    name: str
    optimizer: dict[str, Any]
    task: dict[str, Any]
    schedule: dict[str, Any]
    meta_loss: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"kind": "mean"}
    )
    seed: int = 0
    estimator: EstimatorConfig = EstimatorConfig()
    outer: OuterConfig = OuterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    suite: str = ""

    def __post_init__(self) -> None:
        require_range("seed", self.seed, 0, 2**32 - 1)
        if not re.fullmatch(r"[\w+-][\w.+-]*", self.name):
            raise ValueError(
                "name must be a file name of letters, digits and _.+-, "
                f"got {self.name!r}"
            )


DEFAULT = "small"
"""The config that `l2o train` runs when it is given none."""


def names() -> list[str]:
    """The configs that come with the package."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in _folder().iterdir()
        if entry.name.endswith(".toml")
    )


def load(source: str, overrides: Iterable[str] = ()) -> TrainConfig:
    """Reads a config.

    Args:
        source: the name of a packaged config or the path of a TOML file.
        overrides: assignments like `outer.steps=100`, applied in order.

    Returns:
        The checked config.

    Raises:
        ValueError: no such config, not TOML, or a field that is unknown or wrong.
    """
    text = _read(source)
    try:
        mapping: Mapping[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source}: a config must be TOML: {error}") from error
    for assignment in overrides:
        mapping = override(mapping, assignment)
    return build(TrainConfig, mapping, where=f"config {source}")


def _folder() -> Traversable:
    return resources.files("meta_train") / "configs"


def _read(source: str) -> str:
    if source in names():
        return (_folder() / f"{source}.toml").read_text(encoding="utf-8")
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"a config must be one of {', '.join(names())} or a TOML file, "
            f"got {source!r}{nearest(source, names())}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: a config must be UTF-8 text: {error}") from error
