"""The configuration of a meta-training run. Imports no jax: it parses in an instant.

A config is a TOML file of the tables below, or a Python file that makes a `TrainConfig`
named `config`; what it leaves out has the value given here. Tables that choose between
things (`optimizer`, `task`, `schedule`) name one and give its fields beside the name;
they are checked against its class when the run is built.
"""

import dataclasses
import re
import runpy
import tomllib
from collections.abc import Iterable
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
    to_dict,
)


@dataclasses.dataclass(frozen=True)
class EstimatorConfig:
    """How the meta-gradient is estimated: a method, a span of problems, a credit.

    | known as | method | credit | span |
    |---|---|---|---|
    | full ES | evolution | fresh | problem |
    | truncated ES | evolution | fresh | window |
    | PES | evolution | persistent | window |
    | noise-reuse ES | evolution | reused | window |
    | truncated backpropagation | backpropagation | | window |
    | the whole gradient | backpropagation | | problem |
    | ES and backpropagation, by variance | mixture | | window or problem |

    Attributes:
        method: what is made of unrolls.
        credit: of evolution strategies: which noise a window is credited to; by default
            persistent. Other methods have none.
        span: what an estimate unrolls: a window of each problem, or all of it.
        sigma: deviation of the perturbation of theta.
        sigma_of: other deviations, by patterns of tensors of theta like `"lstm/*"`.
        difference: of evolution strategies: the raw difference of losses, or its sign.
        pairs: antithetic pairs; problems, for backpropagation.
        block: pairs computed together; part of what a run's bits depend on.
        window: inner steps that are unrolled at a time.
        stagger: the first problems end early, by a random share of at most this.
    """

    method: Literal["evolution", "backpropagation", "mixture"] = "evolution"
    credit: Literal["fresh", "persistent", "reused"] | None = None
    span: Literal["window", "problem"] = "window"
    sigma: float = 0.01
    sigma_of: dict[str, float] = dataclasses.field(default_factory=dict)
    difference: Literal["raw", "sign"] = "raw"
    pairs: int = 8
    block: int = 4
    window: int = 50
    stagger: float = 0.0

    def __post_init__(self) -> None:
        require_positive("sigma", self.sigma)
        for name in ("pairs", "block", "window"):
            require_positive_int(name, getattr(self, name))
        if self.pairs % self.block:
            raise ValueError(
                f"pairs must be a multiple of block, got {self.pairs} and {self.block}"
            )
        require_range("stagger", self.stagger, 0.0, 1.0)
        if self.method != "evolution":
            if self.credit is not None:
                raise ValueError(
                    f"credit must be left out with the method {self.method}, "
                    f"got {self.credit!r}"
                )
            if self.difference != "raw":
                raise ValueError(
                    f"difference must be raw with the method {self.method}, "
                    f"got {self.difference!r}"
                )


@dataclasses.dataclass(frozen=True)
class OuterConfig:
    """The outer loop, but for its optimizer's own arguments.

    The meta-gradient is clipped and given to the outer optimizer, whose learning rate
    is warmed up linearly and falls along half a cosine.

    Attributes:
        steps: outer steps in all.
        steps_per_dispatch: outer steps in one compiled call; divides `steps`.
        learning_rate: peak step size of the outer optimizer.
        clip: each entry of the meta-gradient is cut to -clip..clip; 0 does not clip.
        clip_norm: the meta-gradient is scaled down to this norm; 0 does not clip.
        warmup: outer steps of linear warm-up from zero.
        final_fraction: step size at the end, as a fraction of the peak.
        freeze: patterns of tensors of theta, like `"lstm/*"`, that stay as they are.
        average: decay of the exponential average of theta that is the result of the
            run; until it is 1 / (1 - decay) steps long, the plain mean. 0: no average.
        families_per_step: how many families an outer step uses, drawn by weight and
            without replacement; 0 uses all, weighted.
        balance: decay of the running norm that each family's meta-gradient is divided
            by, so that none counts more than another. 0: they are left as they are.
        max_skipped: after so many outer steps in a row without a single finite
            meta-loss the run is rolled back, see `faults.rollbacks`, or stops.
    """

    steps: int = 1000
    steps_per_dispatch: int = 10
    learning_rate: float = 1e-3
    clip: float = 3.0
    clip_norm: float = 0.0
    warmup: int = 0
    final_fraction: float = 1.0
    freeze: tuple[str, ...] = ()
    average: float = 0.0
    families_per_step: int = 0
    balance: float = 0.0
    max_skipped: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "steps_per_dispatch", "max_skipped"):
            require_positive_int(name, getattr(self, name))
        require_positive("learning_rate", self.learning_rate)
        for name in ("clip", "clip_norm"):
            require_range(name, getattr(self, name), 0.0, 1e30)
        # Something must be left for the decay.
        require_range("warmup", self.warmup, 0, self.steps - 1)
        require_range("final_fraction", self.final_fraction, 0.0, 1.0)
        for name in ("average", "balance"):
            require_range(name, getattr(self, name), 0.0, 1.0 - 1e-9)
        require_range("families_per_step", self.families_per_step, 0, 10**6)
        if self.steps % self.steps_per_dispatch:
            raise ValueError(
                "steps must be a multiple of steps_per_dispatch, "
                f"got {self.steps} and {self.steps_per_dispatch}"
            )


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Choosing the best theta rather than the last.

    Attributes:
        suite: what theta is judged on; empty for nothing.
        every: outer steps between judgements; a multiple of `steps_per_dispatch`.
    """

    suite: str = ""
    every: int = 500

    def __post_init__(self) -> None:
        require_positive_int("every", self.every)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """Where metrics go besides JSON lines and TensorBoard.

    Attributes:
        wandb: project of Weights & Biases; empty for none.
    """

    wandb: str = ""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the whole state is saved.

    Attributes:
        seconds: save when so many seconds have passed since the last save; 0 saves
            after every dispatch.
        keep: how many of the newest checkpoints stay.
        keep_every: those whose outer step is a multiple of it stay for good; 0: none.
    """

    seconds: float = 60.0
    keep: int = 3
    keep_every: int = 0

    def __post_init__(self) -> None:
        require_range("seconds", self.seconds, 0.0, 86400.0)
        require_positive_int("keep", self.keep)
        require_range("keep_every", self.keep_every, 0, 10**9)


@dataclasses.dataclass(frozen=True)
class FaultsConfig:
    """What a run does about faults that raise no error.

    Attributes:
        hang_seconds: a process without progress for so long, or for ten times the
            median time of a dispatch if that is longer, ends itself.
        compare_every: dispatches between two comparisons of theta over all devices.
        rollbacks: how often a run without a finite meta-loss goes back to a checkpoint
            from before, and takes smaller steps, until it stops for good.
        rollback_scale: what the steps are then multiplied by.
    """

    hang_seconds: float = 300.0
    compare_every: int = 100
    rollbacks: int = 3
    rollback_scale: float = 0.5

    def __post_init__(self) -> None:
        require_range("hang_seconds", self.hang_seconds, 1.0, 86400.0)
        require_positive_int("compare_every", self.compare_every)
        require_range("rollbacks", self.rollbacks, 0, 1000)
        require_range("rollback_scale", self.rollback_scale, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One meta-training run.

    Attributes:
        name: of the run and of the optimizer it makes.
        seed: of everything random.
        optimizer: `arch`, and the fields of that architecture.
        warm_start: a released optimizer or a directory to take the first theta from, or
            a list of them to begin at their mean; empty to draw it.
        warm_start_tensors: patterns of the tensors, like `"mlp/*"`, that are taken from
            there, while others are drawn; empty for all.
        warm_start_shares: of these, by patterns of which the last that matches counts:
            how much of a tensor is the checkpoint's, the rest is as this run's seed
            draws it. 1 where no pattern matches.
        task: a table with `family`, where it has one `data`, and the fields of that
            family; or a list of such tables, each with a `name` and a `weight` if they
            are not to be the family's and 1; or a table with `suite`, whose cells'
            families are meant, and `weights` of them by patterns like `"mlp*"`, the
            last that matches counting.
        schedule: `kind`, and the fields of that truncation schedule.
        meta_loss: the fields of `meta_train.meta_loss.MetaLoss`.
        estimator: how the meta-gradient is estimated.
        outer: the outer loop.
        outer_optimizer: `name`, that of an optax function with a `learning_rate`, and
            its other arguments.
        validation: when and how the best theta is chosen.
        checkpoint: when the state is saved.
        faults: what is watched, and how closely.
        log: where metrics go.
        suite: what to evaluate the result on; empty for nothing.
    """

    name: str
    optimizer: dict[str, Any]
    task: dict[str, Any] | tuple[dict[str, Any], ...]
    schedule: dict[str, Any]
    meta_loss: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    warm_start: str | tuple[str, ...] = ""
    warm_start_tensors: tuple[str, ...] = ()
    warm_start_shares: dict[str, float] = dataclasses.field(default_factory=dict)
    estimator: EstimatorConfig = dataclasses.field(default_factory=EstimatorConfig)
    outer: OuterConfig = OuterConfig()
    outer_optimizer: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"name": "adam"}
    )
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    faults: FaultsConfig = FaultsConfig()
    log: LogConfig = LogConfig()
    suite: str = ""

    def __post_init__(self) -> None:
        require_range("seed", self.seed, 0, 2**32 - 1)
        if not re.fullmatch(r"[\w+-][\w.+-]*", self.name):
            raise ValueError(
                "name must be a file name of letters, digits and _.+-, "
                f"got {self.name!r}"
            )
        if self.warm_start_tensors and not self.warm_start:
            raise ValueError(
                "warm_start_tensors must be left out without a warm_start, got "
                f"{', '.join(self.warm_start_tensors)}"
            )
        if self.warm_start_shares and not self.warm_start:
            raise ValueError(
                "warm_start_shares must be left out without a warm_start, got "
                f"{', '.join(self.warm_start_shares)}"
            )
        for pattern, share in self.warm_start_shares.items():
            require_range(f"warm_start_shares.{pattern!r}", share, 0.0, 1.0)
        if (
            self.validation.suite
            and self.validation.every % self.outer.steps_per_dispatch
        ):
            raise ValueError(
                "validation.every must be a multiple of outer.steps_per_dispatch, got "
                f"{self.validation.every} and {self.outer.steps_per_dispatch}"
            )

    def patterns(self) -> dict[str, list[str]]:
        """Patterns of which the last that matches counts, in their order, by field."""
        suite = self.task if isinstance(self.task, dict) else {}
        return {
            "estimator.sigma_of": list(self.estimator.sigma_of),
            "warm_start_shares": list(self.warm_start_shares),
            "task.weights": list(suite.get("weights", ())),
        }


DEFAULT = "small"
"""The config that `l2o train` runs when it is given none."""


def names() -> list[str]:
    """The configs that come with the package."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in _folder().iterdir()
        if entry.name.endswith(".toml")
    )


def about(name: str) -> str:
    """What a packaged config is: the comment in its first line."""
    return _read(name).splitlines()[0].removeprefix("# ")


def load(source: str, overrides: Iterable[str] = ()) -> TrainConfig:
    """Reads a config.

    Args:
        source: the name of a packaged config, the path of a TOML file, or that of a
            Python file, which is run: it is the caller's own program.
        overrides: assignments like `outer.steps=100`, applied in order.

    Returns:
        The checked config.

    Raises:
        ValueError: no such config, not TOML, or a field that is unknown or wrong.
    """
    mapping = _run(source) if source.endswith(".py") else _parse(source)
    for assignment in overrides:
        mapping = override(mapping, assignment)
    return build(TrainConfig, mapping, where=f"config {source}")


def _run(source: str) -> dict[str, Any]:
    if not Path(source).is_file():
        raise ValueError(f"a config must be a file that exists, got {source!r}")
    config = runpy.run_path(source).get("config")
    if not isinstance(config, TrainConfig):
        raise ValueError(
            f"{source}: a Python config must make a TrainConfig named config, "
            f"got {type(config).__name__}"
        )
    return to_dict(config)


def _parse(source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(source))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source}: a config must be TOML: {error}") from error


def _folder() -> Traversable:
    return resources.files("meta_train") / "configs"


def _read(source: str) -> str:
    if source in names():
        return (_folder() / f"{source}.toml").read_text(encoding="utf-8")
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"a config must be one of {', '.join(names())}, or a TOML or Python file, "
            f"got {source!r}{nearest(source, names())}"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: a config must be UTF-8 text: {error}") from error
