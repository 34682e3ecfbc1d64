"""What enters a comparison: hand-designed and learned optimizers, on equal terms."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from l2o.baselines.adahessian import adahessian
from l2o.config import nearest
from l2o.learned.base import LearnedOptimizer, Theta
from meta_test.inner_loop import Evaluated, Hyper, MakeOptimizer, last_params
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
        learned: whether it came from meta-training; such curves are drawn in front.
        evaluated: `(state, params) -> params`, those that are judged; static.
        provenance: for the report: where it came from, as the sha256 of theta.
    """

    name: str
    make: MakeOptimizer
    candidates: Hyper
    labels: tuple[str, ...]
    learned: bool = False
    evaluated: Evaluated = last_params
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


def momentum(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Heavy-ball SGD with decay 0.9."""
    return optax.sgd(learning_rate, momentum=0.9)


def nesterov(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum of decay 0.9."""
    return optax.sgd(learning_rate, momentum=0.9, nesterov=True)


def adam_l2(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Adam with 1e-4 / 2 times the squared weights in the loss: not AdamW's decay."""
    return optax.chain(optax.add_decayed_weights(1e-4), optax.adam(learning_rate))


def lbfgs(scale: jax.Array) -> optax.GradientTransformation:
    """L-BFGS, whose steps a line search finds; `scale` multiplies what it starts at."""
    inner = optax.lbfgs(scale)

    def update(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        # Its line search takes what it does not know for arguments of the loss.
        known = {name: extra_args[name] for name in ("value", "grad", "value_fn")}
        return inner.update(updates, state, params, **known)

    return optax.GradientTransformationExtraArgs(inner.init, update)


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a number is searched for.

    Attributes:
        low: the smallest.
        high: the largest.
        log: whether it is spread in the logarithm.
    """

    low: float
    high: float
    log: bool = True


def _rates(low: int, high: int) -> Range:
    """Learning rates from 10^(low/2) to 10^(high/2)."""
    return Range(10 ** (low / 2), 10 ** (high / 2))


# One minus a decay is what is spread in the logarithm.
_FAST, _SLOW = Range(0.01, 0.5), Range(1e-4, 0.1)
_MOMENTS = {"one_minus_b1": _FAST, "one_minus_b2": _SLOW}
_DECAY = {"weight_decay": Range(1e-6, 0.1)}


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A hand-designed optimizer, and where its settings are searched for.

    Attributes:
        optimizer: `(learning_rate) -> optax transformation`, at its defaults but for
            that.
        rates: of the learning rate.
        space: of its other settings, by their keyword in optax; of a decay d stands
            `one_minus_d`.
        schedule: a key of `meta_test.schedules.SHAPES`, or None for an optimizer that
            takes a number.
        evaluated: `(state, params) -> params`, those that it means to be judged by.
    """

    optimizer: Callable[[Any], optax.GradientTransformation]
    rates: Range
    space: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    schedule: str | None = "cosine"
    evaluated: Evaluated = last_params

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """A grid of half decades, rounded to the usual 1, 3, 10, ..., increasing."""
        low, high = (
            round(2 * math.log10(x)) for x in (self.rates.low, self.rates.high)
        )
        return tuple(float(f"{10 ** (k / 2):.0e}") for k in range(low, high + 1))


BASELINES: Mapping[str, Baseline] = {
    # The grids reach two decades to either side of what suits the plain digits MLP: the
    # suites also pose problems whose best rates are elsewhere.
    "sgd": Baseline(optax.sgd, _rates(-6, 6)),
    "momentum": Baseline(momentum, _rates(-8, 4), {"one_minus_momentum": _FAST}),
    "nesterov": Baseline(nesterov, _rates(-8, 4), {"one_minus_momentum": _FAST}),
    "adagrad": Baseline(optax.adagrad, _rates(-6, 2)),
    "rmsprop": Baseline(optax.rmsprop, _rates(-8, 0), {"one_minus_decay": _SLOW}),
    "adam": Baseline(optax.adam, _rates(-8, 2), _MOMENTS),
    "adam_l2": Baseline(adam_l2, _rates(-8, 2), _MOMENTS | _DECAY),
    "adamw": Baseline(optax.adamw, _rates(-8, 2), _MOMENTS | _DECAY),
    "nadamw": Baseline(optax.nadamw, _rates(-8, 2), _MOMENTS | _DECAY),
    "lion": Baseline(optax.lion, _rates(-10, 0), _MOMENTS | _DECAY),
    "adafactor": Baseline(optax.adafactor, _rates(-6, 2)),
    "lamb": Baseline(optax.lamb, _rates(-6, 2), _MOMENTS | _DECAY),
    "yogi": Baseline(optax.yogi, _rates(-7, 2), _MOMENTS),
    "adabelief": Baseline(optax.adabelief, _rates(-8, 2), _MOMENTS),
    "sophia": Baseline(
        optax.contrib.sophia,
        _rates(-8, 2),
        _MOMENTS | _DECAY | {"gamma": Range(1e-3, 1.0)},
    ),
    "adahessian": Baseline(
        adahessian,
        _rates(-5, 3),
        _MOMENTS | _DECAY | {"hessian_power": Range(0.5, 1.0, log=False)},
    ),
    "muon": Baseline(
        optax.contrib.muon, _rates(-7, 2), {"one_minus_beta": _FAST} | _DECAY
    ),
    "schedule_free_adamw": Baseline(
        optax.contrib.schedule_free_adamw,
        _rates(-8, 2),
        _MOMENTS | _DECAY,
        schedule=None,
        evaluated=optax.contrib.schedule_free_eval_params,
    ),
    # What it multiplies is an estimate of the right rate.
    "prodigy": Baseline(
        optax.contrib.prodigy, _rates(-2, 2), {"estim_lr_coef": Range(0.1, 10.0)}
    ),
    "lbfgs": Baseline(
        lbfgs, _rates(-2, 1), {"memory_size": Range(3, 30)}, schedule=None
    ),
}
"""With optax's own defaults but for the momentum; a row adds a baseline.

optax has no Shampoo and no SOAP.
"""


def baseline(name: str, learning_rates: Sequence[float] | None = None) -> Contender:
    """A hand-designed optimizer with its grid.

    Args:
        name: a key of `BASELINES`, with its own schedule; or `NAME+SCHEDULE`, with
            another of `meta_test.schedules.SHAPES`.
        learning_rates: in the place of its grid.

    Returns:
        One candidate a learning rate.

    Raises:
        ValueError: when there is no such baseline or schedule.
    """
    own, _, schedule = name.partition("+")
    if own not in BASELINES:
        raise ValueError(
            f"a baseline must be one of {', '.join(BASELINES)}, "
            f"got {own!r}{nearest(own, BASELINES)}"
        )
    row = BASELINES[own]
    if schedule and (schedule not in SHAPES or row.schedule is None):
        known = "none" if row.schedule is None else f"one of {', '.join(SHAPES)}"
        raise ValueError(f"the schedule of {own} must be {known}, got {schedule!r}")
    shape = schedule or row.schedule
    rates = learning_rates or row.learning_rates
    return Contender(
        name=name,
        make=Unscheduled(row.optimizer)
        if shape is None
        else Scheduled(row.optimizer, shape),
        candidates=jnp.asarray(rates, jnp.float32),
        labels=tuple(f"{rate:g}" for rate in rates),
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
