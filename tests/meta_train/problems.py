"""Problems and optimizers whose meta-gradients are known in closed form."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.learned import LearnedOptimizer
from meta_train.estimators.credit import Credit, Fresh
from meta_train.estimators.evolution import AXIS, EvolutionStrategies
from meta_train.meta_loss import Mean
from meta_train.schedules import Constant
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
    to the loss and cancel within a pair.
    """

    def sample(self, key: jax.Array) -> Any:
        return jax.random.normal(key, ())

    def nominal(self) -> Any:
        return jnp.zeros(())

    def task(self, spec: Any) -> Task:
        def init(key: jax.Array) -> Any:
            now, late = jax.random.normal(key, (2,))
            return {"now": now, "late": late}

        return Task(
            init=init,
            batch=lambda key, split: jax.random.normal(key, ()),
            loss=lambda p, key, batch: (p["late"] - 2.0 * p["now"] + batch + spec, {}),
            normalise=lambda loss: loss,
        )


WINDOW, HORIZON = 2, 8
TRUNCATED_GRADIENT = -1.0
FULL_GRADIENT = (21 - 14) / 8


@dataclasses.dataclass(frozen=True)
class Jump(_Direct):
    """Parameters become theta."""

    def init_theta(self, key: jax.Array) -> Any:
        return {"point": jax.random.normal(key, (2,))}

    def with_theta(self, theta: Any, *, num_steps: Any = None) -> Any:
        del num_steps
        return _stateless(lambda p: theta["point"] - p)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Polynomial(TaskFamily):
    """Loss `1/2 x' H x + q sum(x^4)` from a random start.

    Attributes:
        quartic: q.
    """

    quartic: float | jax.Array = 0.0

    def sample(self, key: jax.Array) -> Any:
        del key
        return jnp.zeros(())

    def nominal(self) -> Any:
        return jnp.zeros(())

    def task(self, spec: Any) -> Task:
        del spec

        def loss(x: jax.Array, key: Any, batch: Any) -> tuple[jax.Array, dict]:
            del key, batch
            return 0.5 * x @ HESSIAN @ x + self.quartic * jnp.sum(x**4), {}

        return Task(
            init=lambda key: jax.random.normal(key, (2,)),
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


def mesh(devices: int = 1) -> jax.sharding.Mesh:
    """The first few devices."""
    return jax.make_mesh(
        (devices,),
        (AXIS,),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


def strategies(
    family: TaskFamily,
    lopt: LearnedOptimizer,
    *,
    credit: Credit | None = None,
    horizon: int = HORIZON,
    window: int = WINDOW,
    sigma: float = 0.5,
    pairs: int = 6,
    block: int = 2,
    devices: int = 1,
) -> EvolutionStrategies:
    """An estimator of the mean loss."""
    return EvolutionStrategies(
        family=family,
        lopt=lopt,
        schedule=Constant(horizon),
        credit=credit or Fresh(),
        meta_loss=Mean(),
        sigma=sigma,
        pairs=pairs,
        block=block,
        window=window,
        mesh=mesh(devices),
    )


init = jax.jit(lambda estimator, theta, key: estimator.init(theta, key))


@jax.jit
def window(estimator: EvolutionStrategies, theta: Any, state: Any, key: Any) -> Any:
    """One estimate, through a program that the tests of both files share."""
    return estimator.estimate(theta, state, key, jnp.int32(0))
