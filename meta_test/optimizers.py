"""What enters a comparison: hand-designed and learned optimizers, on equal terms."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.learned.base import LearnedOptimizer, Theta
from meta_test.baselines import (
    BASELINES,
    LEARNING_RATE,
    digits,
    find_baseline,
    settings_label,
    with_settings,
)
from meta_test.inner_loop import (
    Evaluated,
    Hyper,
    MakeOptimizer,
    Summarised,
    last_params,
    no_summary,
)
from meta_test.schedules import SHAPES


@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
    """An optimizer and the candidates among which its best is chosen.

    Attributes:
        name: what tables and figures call it; unique in a comparison.
        make: `(hyper, num_steps) -> optax transformation`; hashable and equal by value,
            for it is static in the compiled program.
        candidates: values of `hyper`, stacked on a leading axis.
        labels: one a candidate, in increasing order where the candidates have one.
        ordered: whether they have one, so that a best that is first or last is a hint
            that better ones lie beyond.
        learned: whether it came from meta-training; such curves are drawn in front.
        evaluated: `(state, params) -> params`, those that are judged; static.
        summarised: `(state) -> arrays by name`, of the last state; static.
        variant_of: name of the contender that this one is with something tuned, or
            guarded; it is shown apart.
        provenance: for the report: where it came from, as the sha256 of theta.
    """

    name: str
    make: MakeOptimizer
    candidates: Hyper
    labels: tuple[str, ...]
    ordered: bool = True
    learned: bool = False
    evaluated: Evaluated = last_params
    summarised: Summarised = no_summary
    variant_of: str = ""
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
class Scheduled:
    """An optax optimizer whose learning rate follows a schedule.

    Attributes:
        optimizer: `(learning_rate) -> optax transformation`; `learning_rate` is a
            schedule. Hashable: a function of a module, not a lambda made on the spot.
        schedule: a key of `meta_test.schedules.SHAPES`.
    """

    optimizer: Callable[[optax.Schedule], optax.GradientTransformation]
    schedule: str = "cosine"

    def __call__(
        self, learning_rate: jax.Array, num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The optimizer for one peak learning rate and length of training."""
        shape = SHAPES[self.schedule]
        return self.optimizer(lambda count: learning_rate * shape(count / num_steps))


@dataclasses.dataclass(frozen=True)
class Unscheduled:
    """An optax optimizer that takes a number as its learning rate."""

    optimizer: Callable[[Any], optax.GradientTransformation]

    def __call__(
        self, learning_rate: jax.Array, num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The optimizer for one learning rate."""
        del num_steps  # It plans for no end.
        return self.optimizer(learning_rate)


@dataclasses.dataclass(frozen=True)
class FromTheta:
    """A learned optimizer, whose candidates are values of theta."""

    lopt: LearnedOptimizer

    def __call__(
        self, theta: Theta, num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The optimizer for one theta and length of training."""
        return self.lopt.with_theta(theta, num_steps=num_steps)


def _scheduled(
    optimizer: Callable[[Any], optax.GradientTransformation], schedule: str | None
) -> MakeOptimizer:
    if schedule is None:
        return Unscheduled(optimizer)
    return Scheduled(optimizer, schedule)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A baseline whose candidates are dicts of its settings.

    They have `learning_rate`, and any names of its space.

    Attributes:
        name: as `find_baseline` takes it.
        sizes: settings that are the same in all candidates and not traced, by name: the
            whole numbers, and others where they are to have no type of their own.
    """

    name: str
    sizes: tuple[tuple[str, float], ...] = ()

    def __call__(
        self, settings: Mapping[str, Any], num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The optimizer for these settings and length of training."""
        row, others = find_baseline(self.name), {**settings, **dict(self.sizes)}
        learning_rate = others.pop(LEARNING_RATE)
        optimizer = with_settings(row, others)
        return _scheduled(optimizer, row.schedule)(learning_rate, num_steps)


def fixed_sizes(
    name: str, settings: Mapping[str, float]
) -> tuple[Tuned, dict[str, float]]:
    """A baseline with the whole numbers among its settings, and what is left to trace.

    Args:
        name: as `find_baseline` takes it.
        settings: by the names of `Baseline.settings`.
    """
    ranges = find_baseline(name).settings
    sizes = tuple((k, int(v)) for k, v in settings.items() if ranges[k].is_whole)
    traced = {k: v for k, v in settings.items() if not ranges[k].is_whole}
    return Tuned(name, sizes), traced


def baseline(name: str, learning_rates: Sequence[float] | None = None) -> Contender:
    """A hand-designed optimizer with its grid.

    Args:
        name: as `find_baseline` takes it.
        learning_rates: in the place of its grid.

    Returns:
        One candidate a learning rate.

    Raises:
        ValueError: when there is no such baseline or schedule.
    """
    row = find_baseline(name)
    rates = learning_rates or row.learning_rates
    return Contender(
        name=name,
        make=_scheduled(row.optimizer, row.schedule),
        candidates=jnp.asarray(rates, jnp.float32),
        labels=tuple(f"{rate:g}" for rate in rates),
        evaluated=row.evaluated,
    )


RANDOM_KEY = 0
"""Of `random_baseline`: its candidates are the same in every report."""


def random_baseline(name: str, count: int) -> Contender:
    """A hand-designed optimizer at random settings.

    Each is drawn from its range, uniformly in the logarithm where the range says so,
    and rounded to what its label tells. Whole numbers stay at their defaults: they are
    shapes, and all candidates share a program.

    Args:
        name: as `find_baseline` takes it.
        count: how many candidates; of more, the first are the same.

    Returns:
        One candidate a draw, in no order.

    Raises:
        ValueError: when there is no such baseline or schedule.
    """
    row, key = find_baseline(name), jax.random.key(RANDOM_KEY)
    drawn = {
        setting: [
            float(f"{value:.{digits(setting)}g}")
            for value in where.at(
                jax.random.uniform(jax.random.fold_in(key, index), (count,))
            )
        ]
        for index, (setting, where) in enumerate(row.settings.items())
        if not where.is_whole
    }
    return Contender(
        name=name,
        make=Tuned(name),
        candidates={k: jnp.asarray(v, jnp.float32) for k, v in drawn.items()},
        labels=tuple(
            settings_label(dict(zip(drawn, values, strict=True)))
            for values in zip(*drawn.values(), strict=True)
        ),
        ordered=False,
        evaluated=row.evaluated,
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
