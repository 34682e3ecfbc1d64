"""What enters a comparison: hand-designed and learned optimizers, on equal terms."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.learned.base import LearnedOptimizer, Theta
from meta_test.inner_loop import Hyper, MakeOptimizer


@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
    """An optimizer and the candidates among which its best is chosen.

    Attributes:
        name: what tables and figures call it; unique in a comparison.
        make: `(hyper, num_steps) -> optax transformation`; hashable and equal by value,
            for it is static in the compiled program.
        candidates: values of `hyper`, stacked on a leading axis.
        labels: one a candidate, in increasing order where the candidates have one.
        learned: whether it came from meta-training; such curves are drawn in front.
        provenance: for the report: where it came from, as the sha256 of theta.
    """

    name: str
    make: MakeOptimizer
    candidates: Hyper
    labels: tuple[str, ...]
    learned: bool = False
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(self.candidates)}
        if sizes != {(len(self.labels),)}:
            raise ValueError(
                f"every leaf of the candidates of {self.name!r} must have one entry "
                f"per label on its leading axis, got {len(self.labels)} labels and "
                f"leading axes {sorted(sizes)}"
            )


@dataclasses.dataclass(frozen=True)
class WithCosineDecay:
    """An optax optimizer whose learning rate falls to zero along half a cosine.

    Attributes:
        optimizer: `(learning_rate) -> optax transformation`; `learning_rate` is a
            schedule. Hashable: a function of a module, not a lambda made on the spot.
    """

    optimizer: Callable[[optax.Schedule], optax.GradientTransformation]

    def __call__(
        self, learning_rate: jax.Array, num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The optimizer for one peak learning rate and length of training."""
        # optax checks the sign of decay_steps, which a traced number does not allow:
        # decay over the fraction of training, whose length is 1.
        decay = optax.cosine_decay_schedule(1.0, 1)
        return self.optimizer(lambda count: learning_rate * decay(count / num_steps))


@dataclasses.dataclass(frozen=True)
class FromTheta:
    """A learned optimizer, whose candidates are values of theta."""

    lopt: LearnedOptimizer

    def __call__(
        self, theta: Theta, num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The optimizer for one theta and length of training."""
        return self.lopt.with_theta(theta, num_steps=num_steps)


def momentum(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Heavy-ball SGD with decay 0.9."""
    return optax.sgd(learning_rate, momentum=0.9)


def nesterov(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum of decay 0.9."""
    return optax.sgd(learning_rate, momentum=0.9, nesterov=True)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A hand-designed optimizer and its grid of learning rates.

    The grid is of half decades: the values 10^(k/2) for `low` <= k <= `high`.
    """

    optimizer: Callable[[optax.Schedule], optax.GradientTransformation]
    low: int
    high: int

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The grid, increasing, rounded to the usual 1, 3, 10, ..."""
        halves = range(self.low, self.high + 1)
        return tuple(float(f"{10 ** (k / 2):.0e}") for k in halves)


BASELINES: Mapping[str, Baseline] = {
    # The grids reach two decades to either side of what suits the plain digits MLP: the
    # suites also pose problems whose best rates are elsewhere.
    "sgd": Baseline(optax.sgd, -6, 6),
    "momentum": Baseline(momentum, -8, 4),
    "nesterov": Baseline(nesterov, -8, 4),
    "adagrad": Baseline(optax.adagrad, -6, 2),
    "adam": Baseline(optax.adam, -8, 2),
    "adamw": Baseline(optax.adamw, -8, 2),
    "lion": Baseline(optax.lion, -10, 0),
}
"""Each with optax's own defaults but for the momentum; add a row to add a baseline."""


def baseline(name: str) -> Contender:
    """A hand-designed optimizer with its grid.

    Args:
        name: a key of `BASELINES`.

    Returns:
        One candidate a learning rate.

    Raises:
        ValueError: when there is no such baseline.
    """
    if name not in BASELINES:
        raise ValueError(
            f"a baseline must be one of {', '.join(BASELINES)}, got {name!r}"
        )
    row = BASELINES[name]
    return Contender(
        name=name,
        make=WithCosineDecay(row.optimizer),
        candidates=jnp.asarray(row.learning_rates, jnp.float32),
        labels=tuple(f"{rate:g}" for rate in row.learning_rates),
    )


def baselines(names: Iterable[str] = tuple(BASELINES)) -> tuple[Contender, ...]:
    """Several hand-designed optimizers; all of them when no names are given."""
    return tuple(map(baseline, names))


def learned(
    name: str, lopt: LearnedOptimizer, theta: Theta, **provenance: Any
) -> Contender:
    """A learned optimizer, which has a single candidate: nothing of it is tuned.

    Args:
        name: what tables and figures call it.
        lopt: the architecture.
        theta: its meta-parameters.
        **provenance: values for the report that JSON can hold, for instance
            `theta_sha256=...`.

    Returns:
        The contender.
    """
    return Contender(
        name=name,
        make=FromTheta(lopt),
        candidates=jax.tree.map(lambda x: jnp.asarray(x)[None], theta),
        labels=("-",),
        learned=True,
        provenance={"architecture": repr(lopt), **provenance},
    )
