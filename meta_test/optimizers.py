"""What enters a comparison: hand-designed and learned optimizers, on equal terms."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from numpy.typing import ArrayLike

from l2o.baselines.adahessian import adahessian
from l2o.config import nearest
from l2o.learned.base import LearnedOptimizer, Theta
from l2o.safeguard import guard, guard_summary
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


def momentum(
    learning_rate: optax.ScalarOrSchedule, momentum: Any = 0.9
) -> optax.GradientTransformation:
    """Heavy-ball SGD, with decay 0.9 where no other is given."""
    return optax.sgd(learning_rate, momentum=momentum)


def nesterov(
    learning_rate: optax.ScalarOrSchedule, momentum: Any = 0.9
) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum, of decay 0.9 where no other is given."""
    return optax.sgd(learning_rate, momentum=momentum, nesterov=True)


def adam_l2(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: Any = 1e-4,
    b1: Any = 0.9,
    b2: Any = 0.999,
) -> optax.GradientTransformation:
    """Adam with decay / 2 times the squared weights in the loss: not AdamW's decay."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1, b2)
    )


def schedule_free_adamw(
    learning_rate: jax.Array, b1: Any = 0.9, b2: Any = 0.999, weight_decay: Any = 0.0
) -> optax.GradientTransformation:
    """Schedule-free AdamW, whose weights of an average are summed in float32."""
    inner = optax.contrib.schedule_free_adamw(
        learning_rate, b1=b1, b2=b2, weight_decay=weight_decay
    )

    def init(params: optax.Params) -> Any:
        state: Any = inner.init(params)
        # In bfloat16, optax's choice for such parameters, the sum would soon stand
        # still, and the first learning rate in float32 would change its type.
        return state._replace(
            weight_sum=jnp.zeros((), jnp.float32), max_lr=jnp.zeros((), jnp.float32)
        )

    return optax.GradientTransformationExtraArgs(init, inner.update)


def lbfgs(scale: jax.Array, memory_size: int = 10) -> optax.GradientTransformation:
    """L-BFGS, whose steps a line search finds; `scale` multiplies what it starts at."""
    inner = optax.lbfgs(scale, memory_size)

    def init(params: optax.Params) -> Any:
        # Some of its numbers begin weakly typed: a program more, for the first step.
        return jax.tree.map(lambda x: jnp.asarray(x, x.dtype), inner.init(params))

    def update(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        # Its line search takes what it does not know for arguments of the loss.
        known = {name: extra_args[name] for name in ("value", "grad", "value_fn")}
        return inner.update(updates, state, params, **known)

    return optax.GradientTransformationExtraArgs(init, update)


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

    @property
    def is_whole(self) -> bool:
        """Whether it is of whole numbers, as both ends then are: of sizes of arrays."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def at(self, share: ArrayLike) -> np.ndarray:
        """The numbers at these shares, in [0, 1], of the way from low to high."""
        share = np.asarray(share, np.float64)
        if self.log:
            values = self.low * (self.high / self.low) ** share
        else:
            values = self.low + share * (self.high - self.low)
        # Not beyond the ends by a rounding.
        return np.clip(
            np.round(values) if self.is_whole else values, self.low, self.high
        )


def _rates(low: int, high: int) -> Range:
    """Learning rates from 10^(low/2) to 10^(high/2)."""
    return Range(10 ** (low / 2), 10 ** (high / 2))


LEARNING_RATE = "learning_rate"
"""The setting that every baseline has."""

ONE_MINUS = "one_minus_"
"""How the name of a setting begins that is 1 less a keyword of optax."""

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

    @property
    def settings(self) -> dict[str, Range]:
        """All that is searched for: the learning rate, then the space."""
        return {LEARNING_RATE: self.rates, **self.space}

    @property
    def defaults(self) -> dict[str, float]:
        """The settings of its space as they are where none are given."""
        keywords = inspect.signature(self.optimizer).parameters
        found = {}
        for name in self.space:
            keyword = name.removeprefix(ONE_MINUS)
            value = keywords[keyword].default
            found[name] = value if keyword == name else 1 - value
        return found

    def spread(self, count: int) -> tuple[float, ...]:
        """So many learning rates over the range, in the logarithm; its grid for 0."""
        if not count:
            return self.learning_rates
        rates = np.geomspace(self.rates.low, self.rates.high, count)
        return tuple(float(f"{rate:.2e}") for rate in rates)


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
        schedule_free_adamw,
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


def find_baseline(name: str) -> Baseline:
    """The row of a baseline, under the schedule that its name asks for.

    Args:
        name: a key of `BASELINES`, with its own schedule; or `NAME+SCHEDULE`, with
            another of `meta_test.schedules.SHAPES`.

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
    return dataclasses.replace(row, schedule=schedule or row.schedule)


def _scheduled(
    optimizer: Callable[[Any], optax.GradientTransformation], schedule: str | None
) -> MakeOptimizer:
    if schedule is None:
        return Unscheduled(optimizer)
    return Scheduled(optimizer, schedule)


def with_settings(
    row: Baseline, settings: Mapping[str, Any]
) -> Callable[[Any], optax.GradientTransformation]:
    """A baseline with settings other than its defaults.

    Args:
        row: of the baseline.
        settings: by names of `row.space`; `one_minus_d` becomes the keyword d. May be
            traced, but for whole numbers, which are sizes.

    Returns:
        `(learning_rate) -> optax transformation`.

    Raises:
        ValueError: there is no such setting.
    """
    keywords = {}
    for name, value in settings.items():
        if name not in row.space:
            known = f"one of {', '.join(row.space)}" if row.space else "left out"
            raise ValueError(
                f"a setting beside the learning rate must be {known}, "
                f"got {name!r}{nearest(name, row.space)}"
            )
        keyword = name.removeprefix(ONE_MINUS)
        keywords[keyword] = value if keyword == name else 1 - value
    return functools.partial(row.optimizer, **keywords)


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
            float(f"{value:.{_digits(setting)}g}")
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


def settings_label(settings: Mapping[str, float]) -> str:
    """Settings in a few characters, like `0.0123 b1=0.92 b2=0.9988`.

    Args:
        settings: `learning_rate`, told by its value alone, to three digits; and others,
            told by optax's keyword, to two digits, those of 1 less a decay.
    """
    words = []
    for name, value in settings.items():
        rounded, keyword = f"{value:.{_digits(name)}g}", name.removeprefix(ONE_MINUS)
        if keyword != name:
            rounded = f"{1 - float(rounded):g}"
        words.append(rounded if name == LEARNING_RATE else f"{keyword}={rounded}")
    return " ".join(words)


def _digits(setting: str) -> int:
    """How many of a setting's digits are told."""
    return 3 if setting == LEARNING_RATE else 2


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


MULTIPLIER = "multiplier"
"""What multiplies the updates of an optimizer that has no learning rate."""

AROUND_ONE = Range(10**-1.5, 10**1.5)
"""Where the multiplier of a learned optimizer is searched for."""


@dataclasses.dataclass(frozen=True)
class Multiplied:
    """An optimizer whose updates are multiplied.

    Attributes:
        make: gives it.
    """

    make: MakeOptimizer

    def __call__(
        self, hyper: Mapping[str, Any], num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The optimizer for one candidate and multiplier."""
        inner = self.make(hyper["candidate"], num_steps)
        return optax.chain(inner, optax.scale(hyper[MULTIPLIER]))


def with_multiplier(contender: Contender, count: int) -> Contender:
    """A learned optimizer whose updates may be scaled: one thing to tune.

    Args:
        contender: what `learned` gave.
        count: so many multipliers are tried, spread over `AROUND_ONE`.
    """
    factors = [float(f"{x:.2g}") for x in AROUND_ONE.at(np.linspace(0, 1, count))]
    return dataclasses.replace(
        contender,
        name=f"{contender.name} x rate",
        make=Multiplied(contender.make),
        candidates={
            "candidate": jax.tree.map(
                lambda x: jnp.repeat(x, count, axis=0), contender.candidates
            ),
            MULTIPLIER: jnp.asarray(factors, jnp.float32),
        },
        labels=tuple(f"{factor:g}" for factor in factors),
        variant_of=contender.name,
    )


FALLBACK_RATE = 0.003
"""The peak learning rate of the Adam that guards fall back to: a usual one, untuned."""

FALLBACK = f"adam at {FALLBACK_RATE:g}"
"""What it is called where it takes part alone."""


@dataclasses.dataclass(frozen=True)
class Guarded:
    """An optimizer under `l2o.guard`, with Adam under a cosine to fall back to.

    Attributes:
        make: gives it.
    """

    make: MakeOptimizer

    def __call__(
        self, hyper: Hyper, num_steps: jax.Array
    ) -> optax.GradientTransformation:
        """The guarded optimizer for one candidate and length of training."""
        own = Scheduled(optax.adam)(jnp.float32(FALLBACK_RATE), num_steps)
        return guard(self.make(hyper, num_steps), own, num_steps=num_steps)


def decisions(state: Any) -> dict[str, jax.Array]:
    """What the guard decided: `Contender.summarised` of guarded optimizers."""
    return guard_summary(state)._asdict()


def guarded(contender: Contender) -> Contender:
    """A learned optimizer under a guard.

    Args:
        contender: what `learned` gave.
    """
    return dataclasses.replace(
        contender,
        name=f"{contender.name} guarded",
        make=Guarded(contender.make),
        summarised=decisions,
        variant_of=contender.name,
    )


def fallback() -> Contender:
    """What guards fall back to, alone."""
    return dataclasses.replace(baseline("adam", [FALLBACK_RATE]), name=FALLBACK)
