"""Problems and optimizers whose meta-gradients are known in closed form."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.learned import LearnedOptimizer
from meta_train.build import build_outer_optimizer
from meta_train.config import OuterConfig
from meta_train.estimators.credit import Credit, Fresh
from meta_train.estimators.evolution import EvolutionStrategies
from meta_train.estimators.method import Method
from meta_train.estimators.span import Span, Truncated
from meta_train.estimators.totals import AXIS
from meta_train.estimators.windows import WindowEstimator
from meta_train.meta_loss import MetaLoss
from meta_train.outer import FamilyMix, OuterTrainer
from meta_train.perturb import Gaussian
from meta_train.schedules import Constant, TruncationSchedule
from tasks import Task, TaskFamily


class _Direct(LearnedOptimizer):
    """An optimizer of parameters alone, which may ignore the gradient."""

    needs_value: ClassVar[bool] = False

    @property
    def needs_num_steps(self) -> bool:
        return False


def _stateless(update: Any) -> optax.GradientTransformationExtraArgs:
    """Parameters move by `update(params)`."""

    def apply(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        del updates, extra_args
        return update(params), state

    return optax.GradientTransformationExtraArgs(lambda params: (), apply)


@dataclasses.dataclass(frozen=True)
class Follow(_Direct):
    """`now` becomes theta, and `late` gains what `now` was."""

    def init_theta(self, key: jax.Array) -> Any:
        return {"rate": jax.random.normal(key, (1,))}

    def with_theta(self, theta: Any, *, num_steps: Any = None) -> Any:
        del num_steps
        return _stateless(
            lambda p: {"now": theta["rate"][0] - p["now"], "late": p["now"]}
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Influence(TaskFamily):
    """Loss `late - 2 now`: a larger theta pays at once and costs in the long run.

    After the manner of influence balancing (Vicol et al. 2021). Under `Follow`, with
    windows of 2 in a problem of 8 steps, theta enters a window only through the `now`
    before its last step: truncated gradient -2 / 2. Over all, `late` before step t has
    gained theta t - 1 times: gradient (0 + .. + 6 - 2 * 7) / 8. Start and batches add
    to the loss and cancel within a pair. They are multiples of 1/64, so that their sums
    are exact, in any order.
    """

    def sample(self, key: jax.Array) -> Any:
        return _coarse(key, ())

    def nominal(self) -> Any:
        return jnp.zeros(())

    def task(self, spec: Any) -> Task:
        def init(key: jax.Array) -> Any:
            now, late = _coarse(key, (2,))
            return {"now": now, "late": late}

        return Task(
            init=init,
            batch=lambda key, split: _coarse(key, ()),
            loss=lambda p, key, batch: (p["late"] - 2.0 * p["now"] + batch + spec, {}),
            normalise=lambda loss: loss,
        )


def _coarse(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.round(64.0 * jax.random.normal(key, shape)) / 64.0


WINDOW, HORIZON = 2, 8
TRUNCATED_GRADIENT = -1.0
FULL_GRADIENT = (21 - 14) / 8


@dataclasses.dataclass(frozen=True)
class Jump(_Direct):
    """Parameters become theta, which has a tensor for each."""

    def init_theta(self, key: jax.Array) -> Any:
        first, second = jax.random.normal(key, (2, 1))
        return {"first": first, "second": second}

    def with_theta(self, theta: Any, *, num_steps: Any = None) -> Any:
        del num_steps
        point = jnp.concatenate([theta["first"], theta["second"]])
        return _stateless(lambda p: point - p)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Polynomial(TaskFamily):
    """Loss `1/2 x' H x + q sum(x^4)`, without noise, from the start that is sampled.

    Attributes:
        quartic: q.
    """

    quartic: float | jax.Array = 0.0

    def sample(self, key: jax.Array) -> Any:
        return jax.random.normal(key, (2,))

    def nominal(self) -> Any:
        return jnp.zeros((2,))

    def task(self, spec: Any) -> Task:
        def loss(x: jax.Array, key: Any, batch: Any) -> tuple[jax.Array, dict]:
            del key, batch
            return 0.5 * x @ HESSIAN @ x + self.quartic * jnp.sum(x**4), {}

        return Task(
            init=lambda key: spec,
            batch=lambda key, split: jnp.zeros(()),
            loss=loss,
            normalise=lambda loss: loss,
        )


HESSIAN = np.array([[2.0, 0.5], [0.5, 1.0]], np.float32)


@dataclasses.dataclass(frozen=True)
class LossScaled(LearnedOptimizer):
    """Gradient descent that reads all that an unroll hands out.

    Its rate is exp(theta), times the loss, times the fraction of training left.
    """

    needs_value: ClassVar[bool] = True

    @property
    def needs_num_steps(self) -> bool:
        return True

    def init_theta(self, key: jax.Array) -> Any:
        return {"log_rate": -3.0 + 0.1 * jax.random.normal(key, (1,))}

    def with_theta(self, theta: Any, *, num_steps: Any = None) -> Any:
        def update(
            updates: Any, state: Any, params: Any = None, **extra_args: Any
        ) -> Any:
            del params
            value = extra_args["value"]
            left = 1.0 - state.astype(jnp.float32) / num_steps
            rate = -jnp.exp(theta["log_rate"][0]) * value * left
            return jax.tree.map(lambda g: rate * g, updates), state + 1

        return optax.GradientTransformationExtraArgs(
            lambda params: jnp.zeros((), jnp.int32), update
        )


@dataclasses.dataclass(frozen=True)
class HeavyBall(_Direct):
    """Momentum of a learned decay; theta's `start` is the velocity it begins with."""

    def init_theta(self, key: jax.Array) -> Any:
        start, decay = 0.1 * jax.random.normal(key, (2, 1))
        return {"start": start, "decay": 0.5 + decay}

    def with_theta(self, theta: Any, *, num_steps: Any = None) -> Any:
        del num_steps

        def update(
            updates: Any, state: Any, params: Any = None, **extra_args: Any
        ) -> Any:
            del params, extra_args
            move = lambda v, g: theta["decay"] * v - 0.1 * g
            velocity = jax.tree.map(move, state, updates)
            return velocity, velocity

        return optax.GradientTransformationExtraArgs(
            lambda params: jax.tree.map(
                lambda p: jnp.broadcast_to(theta["start"], p.shape), params
            ),
            update,
        )


def mesh(devices: int = 1) -> jax.sharding.Mesh:
    """The first few devices."""
    return jax.make_mesh(
        (devices,),
        (AXIS,),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


def strategies(
    credit: Credit | None = None, sigma: float = 0.5, **fields: Any
) -> EvolutionStrategies:
    """Truncated evolution strategies, or another credit."""
    tensors = fields.pop("tensors", ())
    return EvolutionStrategies(credit or Fresh(), Gaussian(sigma, tensors), **fields)


def make_estimator(
    family: TaskFamily,
    lopt: LearnedOptimizer,
    method: Method | None = None,
    *,
    span: type[Span] = Truncated,
    horizon: int = HORIZON,
    schedule: TruncationSchedule | None = None,
    window: int = WINDOW,
    pairs: int = 6,
    block: int = 2,
    devices: int = 1,
    meta_loss: MetaLoss | None = None,
    stagger: float = 0.0,
) -> WindowEstimator:
    """An estimator, by default of the mean loss by truncated evolution strategies."""
    return WindowEstimator(
        family=family,
        lopt=lopt,
        schedule=schedule or Constant(horizon),
        span=span(window),
        method=method or strategies(),
        meta_loss=meta_loss or MetaLoss(),
        units=pairs,
        block=block,
        mesh=mesh(devices),
        stagger=stagger,
    )


def make_trainer(
    *estimators: Any,
    weights: tuple[float, ...] | None = None,
    per_step: int | None = None,
    balance: float = 0.0,
    tx: optax.GradientTransformation | None = None,
    **outer: Any,
) -> OuterTrainer:
    """Meta-training on families without names of their own, by default with Adam."""
    count = len(estimators)
    fields: dict[str, Any] = {"steps": 10, "steps_per_dispatch": 1, **outer}
    config = OuterConfig(**fields)
    return OuterTrainer(
        estimators=estimators,
        mix=FamilyMix(
            names=tuple(str(i) for i in range(count)),
            weights=weights or (1.0,) * count,
            per_step=per_step or count,
            balance=balance,
        ),
        lopt=estimators[0].lopt,
        tx=tx or build_outer_optimizer(config, {"name": "adam"}),
        config=config,
    )


init = jax.jit(lambda estimator, theta, key: estimator.init(theta, key))


@jax.jit
def window(estimator: WindowEstimator, theta: Any, state: Any, key: Any) -> Any:
    """One estimate, through a program that the tests of a module share."""
    return estimator.estimate(theta, state, key, jnp.int32(0))


@functools.partial(jax.jit, static_argnums=3)
def windows(estimator: WindowEstimator, theta: Any, key: Any, count: int) -> Any:
    """That many estimates in a row."""

    def body(state: Any, i: jax.Array) -> Any:
        estimate, state = estimator.estimate(
            theta, state, jax.random.fold_in(key, i), i
        )
        return state, estimate

    state = estimator.init(theta, key)
    return jax.lax.scan(body, state, jnp.arange(count))[1]


def assert_within(
    samples: Any, mean: Any, errors: float, precision: float = 0.05
) -> None:
    """The mean of independent samples is within so many standard errors.

    These are below `precision`, so that another method's answer would be seen.
    """
    samples = np.asarray(samples, np.float64)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    assert (error < precision).all()
    assert (np.abs(samples.mean(axis=0) - mean) < errors * error).all()


def bits(tree: Any) -> list[bytes]:
    """What two trees have in common if they are bitwise the same."""
    return [
        np.asarray(
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        ).tobytes()
        for x in jax.tree.leaves(tree)
    ]
