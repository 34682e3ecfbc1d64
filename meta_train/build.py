"""From a config to the objects of a run."""

import dataclasses
import fnmatch
import inspect
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import l2o
from l2o.config import build, nearest, require_positive
from l2o.learned import ARCHITECTURES
from l2o.learned.base import LearnedOptimizer, tensors_by_path
from meta_test.families import build_family, choose
from meta_test.suites import suite_named
from meta_train.config import EstimatorConfig, OuterConfig, TrainConfig
from meta_train.estimators.backpropagation import Backpropagation
from meta_train.estimators.credit import CREDITS, Persistent
from meta_train.estimators.evolution import EvolutionStrategies
from meta_train.estimators.method import Method
from meta_train.estimators.mixture import Mixture
from meta_train.estimators.span import SPANS
from meta_train.estimators.totals import AXIS
from meta_train.estimators.windows import WindowEstimator
from meta_train.meta_loss import MetaLoss
from meta_train.outer import FamilyMix, Given, OuterState, OuterTrainer
from meta_train.perturb import Gaussian, matching, shapes_by_path
from meta_train.schedules import SCHEDULES, TruncationSchedule
from tasks import TaskFamily


class Member(NamedTuple):
    """One of the families that a run trains on."""

    family: TaskFamily
    weight: float = 1.0


def build_trainer(
    config: TrainConfig,
    family: TaskFamily | Mapping[str, TaskFamily] | None = None,
) -> OuterTrainer:
    """Builds everything that a config names, on all devices.

    Args:
        config: what to build.
        family: a task family of the caller's own, or several by name, in the place of
            `config.task`.

    Raises:
        ValueError: a name is unknown, a field is wrong, or parts do not fit together.
    """
    lopt = build_optimizer(config.optimizer)
    schedule = build_schedule(config.schedule, config.estimator.window)
    shapes = shapes_by_path(lopt)
    _meant("estimator.sigma_of", config.estimator.sigma_of, shapes)
    _meant("outer.freeze", config.outer.freeze, shapes)
    method = build_method(config.estimator, config.outer.freeze)
    span = SPANS[config.estimator.span](config.estimator.window)
    meta_loss = build(MetaLoss, config.meta_loss, where="meta_loss")
    mesh = block_mesh(config.estimator)
    if isinstance(family, TaskFamily):
        members = {type(family).__name__: Member(family)}
    elif family is not None:
        members = {name: Member(one) for name, one in family.items()}
    else:
        members = build_families(config.task)
    per_step = config.outer.families_per_step
    if per_step > len(members):
        raise ValueError(
            f"outer.families_per_step must be at most the {len(members)} families of "
            f"task, got {per_step}"
        )
    estimators = tuple(
        WindowEstimator(
            family=member.family,
            lopt=lopt,
            schedule=schedule,
            span=span,
            method=method,
            meta_loss=meta_loss,
            units=config.estimator.pairs,
            block=config.estimator.block,
            mesh=mesh,
            stagger=config.estimator.stagger,
        )
        for member in members.values()
    )
    trainer = OuterTrainer(
        estimators=estimators,
        mix=FamilyMix(
            names=tuple(members),
            weights=tuple(member.weight for member in members.values()),
            per_step=per_step or len(members),
            balance=config.outer.balance,
        ),
        lopt=lopt,
        tx=build_outer_optimizer(config.outer, config.outer_optimizer),
        config=config.outer,
    )
    everywhere = NamedSharding(mesh, P())
    return placed(trainer, jax.tree.map(lambda _: everywhere, trainer))


def build_families(task: Mapping[str, Any] | Sequence[Any]) -> dict[str, Member]:
    """The families that `task` describes, by names that differ.

    Raises:
        ValueError: as `build_family`, for an unknown suite, or for a wrong weight.
    """
    if isinstance(task, Mapping) and "suite" in task:
        if others := set(task) - {"suite", "weights"}:
            raise ValueError(
                "task must have a suite or a family, got a suite and "
                f"{', '.join(sorted(others))}"
            )
        cells = suite_named(task["suite"], where="task.suite").cells
        weights = _weights([cell.name for cell in cells], task.get("weights", {}))
        return {cell.name: Member(cell.family(), weights[cell.name]) for cell in cells}
    if isinstance(task, Mapping):
        return {str(task.get("family")): Member(build_family(task))}
    if not task:
        raise ValueError("task must have at least one family, got none")
    members: dict[str, Member] = {}
    seen: Counter[str] = Counter()
    for i, table in enumerate(task):
        fields, where = dict(table), f"task[{i}]"
        name = str(fields.pop("name", fields.get("family")))
        weight = fields.pop("weight", 1.0)
        require_positive(f"{where}.weight", weight)
        seen[name] += 1
        numbered = name if seen[name] == 1 else f"{name}-{seen[name]}"
        members[numbered] = Member(build_family(fields, where), float(weight))
    return members


def _weights(names: Sequence[str], table: Any) -> dict[str, float]:
    """The weight of every name: 1, or that of the last pattern that matches it."""
    if not isinstance(table, Mapping):
        raise ValueError(f"task.weights must be a table, got {table!r}")
    weights = dict.fromkeys(names, 1.0)
    for pattern, weight in table.items():
        require_positive(f"task.weights.{pattern!r}", weight)
        found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(
                "task.weights must match families of the suite, which are "
                f"{', '.join(names)}, got {pattern!r}{nearest(pattern, names)}"
            )
        weights |= dict.fromkeys(found, float(weight))
    return weights


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


def build_method(config: EstimatorConfig, freeze: Sequence[str] = ()) -> Method:
    """The method of an estimator; tensors that are frozen are not perturbed."""
    tensors = (*config.sigma_of.items(), *((pattern, 0.0) for pattern in freeze))
    noise = Gaussian(sigma=config.sigma, tensors=tensors)
    if config.method == "backpropagation":
        return Backpropagation()
    if config.method == "mixture":
        return Mixture(noise=noise)
    credit = Persistent() if config.credit is None else CREDITS[config.credit]()
    return EvolutionStrategies(credit, noise=noise, difference=config.difference)


def build_outer_optimizer(
    config: OuterConfig, table: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The transformation of the meta-gradient.

    Args:
        config: clipping, and the course of the learning rate.
        table: `name`, that of a function of optax or, like `contrib.muon`, of
            optax.contrib, that takes a `learning_rate`; and its other arguments.

    Raises:
        ValueError: there is no such function, or it has no such argument.
    """
    fields = dict(table)
    name = str(fields.pop("name", ""))
    makers = {
        f"{prefix}{key}": value
        for prefix, module in (("", optax), ("contrib.", optax.contrib))
        for key, value in vars(module).items()
        if inspect.isfunction(value)
        and "learning_rate" in inspect.signature(value).parameters
    }
    if name not in makers:
        raise ValueError(
            "outer_optimizer.name must be a function of optax with a learning_rate, "
            f"got {name!r}{nearest(name, makers)}"
        )
    known = set(inspect.signature(makers[name]).parameters) - {"learning_rate"}
    for field in fields:
        if field not in known:
            raise ValueError(
                f"outer_optimizer.{field} must be an argument of optax.{name}, one of "
                f"{', '.join(sorted(known))}{nearest(field, known)}"
            )
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup,
        decay_steps=config.steps,
        end_value=config.final_fraction * config.learning_rate,
    )
    parts = []
    if config.clip:
        parts.append(optax.clip(config.clip))
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    try:
        tx = optax.chain(*parts, makers[name](schedule, **fields))
        # Some need more than a gradient, or a learning rate that is a number.
        theta = jax.ShapeDtypeStruct((2,), jnp.float32)
        jax.eval_shape(lambda x: tx.update(x, tx.init(x), x), theta)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"outer_optimizer.name must be one that moves theta by its gradient alone, "
            f"optax.{name} does not with these arguments: {reason}"
        ) from error
    return tx


def warm_start(config: TrainConfig, lopt: LearnedOptimizer) -> dict[str, Given]:
    """Tensors of a checkpoint, for the first theta of a run with `lopt`.

    Of several it is the mean. Where all are meant, none may be left over in one.

    Args:
        config: of the run.
        lopt: its architecture.

    Returns:
        By paths like `mlp/0/w`; none, where all are to be drawn.

    Raises:
        ValueError: there is no such checkpoint, or a tensor that is meant is not the
            same in both, or a pattern means none.
    """
    sources = config.warm_start
    if not sources:
        return {}
    if isinstance(sources, str):
        sources = (sources,)
    saved = [_saved(source, config.warm_start_tensors, lopt) for source in sources]
    # A mean of one is itself, bit for bit.
    mean = jax.tree.map(lambda *x: jnp.mean(jnp.stack(x), axis=0), *saved)
    given = {path: Given(tensor) for path, tensor in mean.items()}
    for pattern, share in config.warm_start_shares.items():
        for path in _meant("warm_start_shares", [pattern], given):
            given[path] = dataclasses.replace(given[path], share=float(share))
    return given


def _saved(
    source: str, patterns: Sequence[str], lopt: LearnedOptimizer
) -> dict[str, jax.Array]:
    """The tensors of a checkpoint that are meant; of all, where there is no pattern."""
    other, theta = l2o.load(source)
    theirs = tensors_by_path(theta)
    ours = shapes_by_path(lopt)
    meant = sorted({*theirs, *ours})
    if patterns:
        meant = _meant("warm_start_tensors", patterns, ours)
    for path in meant:
        found, wanted = (
            side[path].shape if path in side else "no such tensor"
            for side in (theirs, ours)
        )
        if found != wanted:
            raise ValueError(
                f"warm_start must have the tensors of {type(lopt).__name__}, {path} of "
                f"{source} ({type(other).__name__}) is {found} and not {wanted}"
            )
    return {path: theirs[path] for path in meant}


def _meant(field: str, patterns: Iterable[str], paths: Collection[str]) -> list[str]:
    """Those of the paths that patterns match; errors name the field of the config."""
    try:
        return [path for pattern in patterns for path in matching(paths, pattern)]
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error


def block_mesh(config: EstimatorConfig) -> Mesh:
    """As many devices of each process as can share the blocks evenly.

    A block of one pair is never alone on a device, unless there is no other: XLA would
    simplify an axis of one away, and with it change last bits.

    Raises:
        ValueError: there are more processes than can.
    """
    blocks = config.pairs // config.block
    processes = jax.process_count()
    devices = [jax.local_devices(process) for process in range(processes)]
    fitting = [
        count
        for count in range(1, min(map(len, devices)) + 1)
        if blocks % (count * processes) == 0
        and (config.block > 1 or blocks == 1 or count * processes < blocks)
    ]
    if not fitting:
        raise ValueError(
            f"the number of processes must divide the {blocks} blocks of pairs, "
            "estimator.pairs / estimator.block, which must be two a process where they "
            f"are of one pair, got {processes} processes"
        )
    count = max(fitting)
    return jax.make_mesh(
        (count * processes,),
        (AXIS,),
        axis_types=(AxisType.Auto,),
        devices=[device for own in devices for device in own[:count]],
    )


def placed(tree: Any, shardings: Any) -> Any:
    """Puts a tree that every process has on the devices of all.

    Without a word between processes, each of which puts its own parts.

    Args:
        tree: numbers, arrays and typed PRNG keys, of this process alone.
        shardings: a tree of them.
    """

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        # Not by JAX, which would compile a copy for every shape.
        host = np.asarray(leaf, dtype)
        return jax.make_array_from_callback(
            host.shape, sharding, lambda index: host[index]
        )

    return jax.tree.map(place, tree, shardings)


def state_sharding(mesh: Mesh, state: Any) -> OuterState:
    """Where the parts of an outer state live: particles in blocks, the rest everywhere.

    Args:
        mesh: from `block_mesh`.
        state: an outer state, or its shapes.
    """
    everywhere, blocks = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))
    shardings = jax.tree.map(lambda _: everywhere, state)
    return shardings._replace(particles=jax.tree.map(lambda _: blocks, state.particles))
