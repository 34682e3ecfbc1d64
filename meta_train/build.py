"""From a config to the objects of a run."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from l2o.config import build, nearest
from l2o.learned import ARCHITECTURES
from l2o.learned.base import LearnedOptimizer
from meta_train.config import EstimatorConfig, TrainConfig
from meta_train.estimators.credit import CREDITS
from meta_train.estimators.evolution import AXIS, EvolutionStrategies
from meta_train.meta_loss import META_LOSSES, MetaLoss
from meta_train.outer import OuterState, OuterTrainer
from meta_train.schedules import SCHEDULES, TruncationSchedule
from tasks import DATASETS, FAMILIES, TaskFamily


T = TypeVar("T")


def build_trainer(config: TrainConfig) -> OuterTrainer:
    """Builds everything that a config names, on all devices.

    Raises:
        ValueError: a name is unknown, a field is wrong, or parts do not fit together.
    """
    lopt = build_optimizer(config.optimizer)
    schedule = build_schedule(config.schedule, config.estimator.window)
    estimator = EvolutionStrategies(
        family=build_family(config.task),
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
    cls, fields = _choose("optimizer.arch", ARCHITECTURES, table)
    return build(cls, fields, where="optimizer")


def build_schedule(table: Mapping[str, Any], window: int) -> TruncationSchedule:
    """The truncation schedule that `kind` names; its bounds must fit the window."""
    cls, fields = _choose("schedule.kind", SCHEDULES, table)
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
    cls, fields = _choose("meta_loss.kind", META_LOSSES, table)
    return build(cls, fields, where="meta_loss")


def build_family(table: Mapping[str, Any]) -> TaskFamily:
    """The family that `family` names, on the data set that `data` names."""
    cls, fields = _choose("task.family", FAMILIES, table)
    static = [f for f in dataclasses.fields(cls) if f.metadata.get("static")]
    arrays = {}
    if len(static) < len(dataclasses.fields(cls)):
        load, fields = _choose("task.data", DATASETS, fields)
        arrays["data"] = load()
    # Checked as a dataclass of the plain fields alone: arrays are not configuration.
    plain = dataclasses.make_dataclass(
        cls.__name__,
        [(f.name, f.type, dataclasses.field(default=f.default)) for f in static],
        frozen=True,
    )
    checked = build(plain, fields, where="task")
    return cls(**arrays, **{f.name: getattr(checked, f.name) for f in static})


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


def _choose(
    field: str, known: Mapping[str, T], table: Mapping[str, Any]
) -> tuple[T, dict[str, Any]]:
    """The entry that a table names, and the table's other fields."""
    fields = dict(table)
    name = fields.pop(field.split(".")[1], None)
    if name not in known:
        raise ValueError(
            f"{field} must be one of {', '.join(known)}, "
            f"got {name!r}{nearest(str(name), known)}"
        )
    return known[name], fields
