"""From a config to the objects of a run."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from l2o.config import build
from l2o.learned import ARCHITECTURES
from l2o.learned.base import LearnedOptimizer
from meta_test.families import build_family, choose
from meta_train.config import EstimatorConfig, TrainConfig
from meta_train.estimators.credit import CREDITS
from meta_train.estimators.evolution import AXIS, EvolutionStrategies
from meta_train.meta_loss import META_LOSSES, MetaLoss
from meta_train.outer import OuterState, OuterTrainer
from meta_train.schedules import SCHEDULES, TruncationSchedule
from tasks import TaskFamily


def build_trainer(
    config: TrainConfig, family: TaskFamily | None = None
) -> OuterTrainer:
    """Builds everything that a config names, on all devices.

    Args:
        config: what to build.
        family: a task family of the caller's own, in the place of `config.task`.

    Raises:
        ValueError: a name is unknown, a field is wrong, or parts do not fit together.
    """
    lopt = build_optimizer(config.optimizer)
    schedule = build_schedule(config.schedule, config.estimator.window)
    estimator = EvolutionStrategies(
        family=build_family(config.task) if family is None else family,
        lopt=lopt,
        schedule=schedule,
        credit=CREDITS[config.estimator.credit](),
        meta_loss=build_meta_loss(config.meta_loss),
        sigma=config.estimator.sigma,
        pairs=config.estimator.pairs,
        block=config.estimator.block,
        window=config.estimator.window,
        mesh=block_mesh(config.estimator),
    )
    trainer = OuterTrainer(estimator=estimator, lopt=lopt, config=config.outer)
    return jax.device_put(trainer, NamedSharding(estimator.mesh, P()))


def build_optimizer(table: Mapping[str, Any]) -> LearnedOptimizer:
    """The architecture that `arch` names, with the other fields of the table."""
    cls, fields = choose("optimizer.arch", ARCHITECTURES, table)
    return build(cls, fields, where="optimizer")


def build_schedule(table: Mapping[str, Any], window: int) -> TruncationSchedule:
    """The truncation schedule that `kind` names; its bounds must fit the window."""
    cls, fields = choose("schedule.kind", SCHEDULES, table)
    schedule = build(cls, fields, where="schedule")
    for horizon in schedule.bounds():
        if horizon % window:
            raise ValueError(
                "estimator.window must divide the schedule's horizons, "
                f"got window {window} and horizon {horizon}"
            )
    return schedule


def build_meta_loss(table: Mapping[str, Any]) -> MetaLoss:
    """The meta-loss that `kind` names, with the other fields of the table."""
    cls, fields = choose("meta_loss.kind", META_LOSSES, table)
    return build(cls, fields, where="meta_loss")


def block_mesh(config: EstimatorConfig) -> Mesh:
    """As many devices as can share the blocks evenly."""
    blocks = config.pairs // config.block
    devices = jax.devices()
    count = max(n for n in range(1, len(devices) + 1) if blocks % n == 0)
    return jax.make_mesh(
        (count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count]
    )


def state_sharding(mesh: Mesh, state: Any) -> OuterState:
    """Where the parts of an outer state live: particles in blocks, the rest everywhere.

    Args:
        mesh: from `block_mesh`.
        state: an outer state, or its shapes.
    """
    everywhere, blocks = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    shardings = jax.tree.map(lambda _: everywhere, state)
    return shardings._replace(particles=jax.tree.map(lambda _: blocks, state.particles))
