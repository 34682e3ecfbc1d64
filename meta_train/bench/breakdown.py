"""Where the time of an outer step goes."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from l2o.learned import LearnableSGD, LearnedOptimizer
from l2o.learned.accumulators import DECAYS, init_stats
from l2o.learned.base import Theta
from l2o.learned.groups import group_tensors, init_groups, ungroup
from l2o.learned.per_parameter import move_stats
from meta_train.bench.meta_training import WINDOW, OuterStep, benchmarked
from meta_train.bench.optimizers import OPTIMIZERS, named
from meta_train.bench.timing import median_seconds
from meta_train.devices import use_all_cores


@dataclasses.dataclass(frozen=True)
class Accumulators(LearnedOptimizer):
    """Gradient descent that also keeps the averages that per-parameter MLPs read."""

    needs_value: ClassVar[bool] = False

    @property
    def needs_num_steps(self) -> bool:
        return False

    def init_theta(self, key: jax.Array) -> Theta:
        return LearnableSGD().init_theta(key)

    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        del num_steps  # It does not plan for an end.
        rate = jnp.exp(theta["log_learning_rate"])

        def update(
            updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
        ) -> tuple[optax.Updates, Any]:
            del extra_args
            groups = group_tensors(updates, params)
            stats = {g.name: move_stats(g, state[g.name], DECAYS) for g in groups}
            steps = [-rate * g.gradients for g in groups]
            return ungroup(updates, groups, steps), stats

        return optax.GradientTransformationExtraArgs(
            lambda params: init_groups(params, lambda p: init_stats(p, DECAYS)), update
        )


def breakdown(optimizer: str, pairs: int, family: str = "image_mlp") -> dict[str, Any]:
    """Shares of an outer step's time, from programs that leave parts of it out.

    All are outer steps of the same blocks of the same problems, timed in turns. With t
    the time of one whose optimizer is

    * learnable SGD, at two windows: the line through both times gives what an outer
      step costs without an inner step, `around`: new problems, noise, credit, sums,
      the outer optimizer, and in it `dispatch`, the call of a program that hands all
      of the state through; and by the inner step `task`: sampling a batch, forward and
      backward;
    * SGD that also keeps the averages: `accumulators` is t less that of SGD;
    * the architecture with a single hidden unit: `features` is t less that of the
      former: inputs, their normalisers, and what else it has, such as VeLO's LSTM;
    * the architecture: `mlp` is t less that of the former.

    XLA fuses across parts, so that a part may cost less in company than alone: a share
    may be off by some hundredths, and below zero where a part is free.

    Args:
        optimizer: a name of `OPTIMIZERS` that has a per-parameter MLP.
        pairs: antithetic pairs.
        family: as for `meta_training`.

    Returns:
        Milliseconds and shares of each part.

    Raises:
        ValueError: the architecture has no per-parameter MLP.
    """
    use_all_cores()
    mlps = {
        name: lopt
        for name, lopt in OPTIMIZERS.items()
        if hasattr(lopt, "hidden_layers")
    }
    optimizer, found = named(optimizer, mlps)
    lopt: Any = found
    smallest = dataclasses.replace(lopt, **{"hidden_size": 1, "hidden_layers": 1})
    problems = benchmarked(family)
    short = WINDOW // 5
    steps = [
        OuterStep(LearnableSGD(), pairs, problems, window=short),
        OuterStep(LearnableSGD(), pairs, problems),
        OuterStep(Accumulators(), pairs, problems),
        OuterStep(smallest, pairs, problems),
        OuterStep(lopt, pairs, problems),
    ]
    for step in steps:
        step.start()
    calls: list[Callable[[], None]] = [*steps, steps[-1].handed_through()]
    brief, sgd, accumulators, small, whole, dispatch = median_seconds(calls)
    result = parts(brief, sgd, accumulators, small, whole, dispatch, short)
    return result | {
        "optimizer": optimizer,
        "family": family,
        "pairs": pairs,
    }


def parts(
    brief: float,
    sgd: float,
    accumulators: float,
    smallest: float,
    whole: float,
    dispatch: float,
    short: int,
) -> dict[str, Any]:
    """The parts of `whole`, from the seconds of the programs of `breakdown`."""
    an_inner_step = (sgd - brief) / (WINDOW - short)
    around = brief - short * an_inner_step
    seconds = {
        "task": WINDOW * an_inner_step,
        "accumulators": accumulators - sgd,
        "features": smallest - accumulators,
        "mlp": whole - smallest,
        "around": around - dispatch,
        "dispatch": dispatch,
    }
    return {
        "milliseconds": {name: 1e3 * s for name, s in seconds.items()},
        "shares": {name: s / whole for name, s in seconds.items()},
        "outer_step_milliseconds": 1e3 * whole,
    }
