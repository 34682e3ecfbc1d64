"""Hand-designed optimizers, and where their settings are searched for."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from numpy.typing import ArrayLike

from l2o.baselines.adahessian import adahessian
from l2o.config import nearest
from meta_test.inner_loop import Evaluated, last_params
from meta_test.schedules import SHAPES


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


def settings_label(settings: Mapping[str, float]) -> str:
    """Settings in a few characters, like `0.0123 b1=0.92 b2=0.9988`.

    Args:
        settings: `learning_rate`, told by its value alone, to three digits; and others,
            told by optax's keyword, to two digits, those of 1 less a decay.
    """
    words = []
    for name, value in settings.items():
        rounded, keyword = f"{value:.{digits(name)}g}", name.removeprefix(ONE_MINUS)
        if keyword != name:
            rounded = f"{1 - float(rounded):g}"
        words.append(rounded if name == LEARNING_RATE else f"{keyword}={rounded}")
    return " ".join(words)


def digits(setting: str) -> int:
    """How many of a setting's digits are told."""
    return 3 if setting == LEARNING_RATE else 2
