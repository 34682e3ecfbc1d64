"""Trainings of one candidate in parts, so that whoever looks on may cut them short."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec as P
from jax.typing import ArrayLike

from meta_test import statistics
from meta_test.baselines import find_baseline
from meta_test.evaluate import Protocol
from meta_test.inner_loop import (
    HOPELESS,
    Curve,
    Evaluated,
    Evaluation,
    MakeOptimizer,
    Training,
    begin_training,
    derive_keys,
    evaluate_params,
    training_step,
)
from meta_test.optimizers import fixed_sizes
from meta_test.suites import Cell, Suite
from tasks.base import Spec, TaskFamily


class Part(NamedTuple):
    """How far trainings at several seeds have come."""

    number: int  # of parts that are done
    loss: float  # median over the seeds on `inner_valid`; inf: as many have diverged
    ceiling: float  # what no useful training is above, see `InParts`
    diverged: int  # seeds that have
    steps: int  # of all seeds, since the beginning


@dataclasses.dataclass(frozen=True, eq=False)
class InParts:
    """A baseline on a cell, trained at the seeds of tuning.

    A training has as many parts as it has evaluations by the protocol, and a part is
    what `meta_test.inner_loop.run` calls a record: by its mean loss a training is given
    up. The schedule spans the whole horizon, however many parts are made.

    The programs, one that begins and one that makes a part, are compiled once for the
    shapes of the family and the optimizer. Settings, data, seeds and steps are traced,
    but for whole numbers, which are shapes: each value of one is another program.
    Seeds are dealt to the devices in turn; on a CPU one follows the other there, as in
    `meta_test.sweep`.

    `ceiling` is $L_0 + |L_0|$ with the median initial loss $L_0$ on `inner_valid`.

    Attributes:
        name: of the baseline, as `meta_test.baselines.find_baseline` takes it.
        cell: what is trained on.
        suite: of the cell: numbers of records and of batches in an evaluation.
        protocol: seeds, number of parts, and when a training is given up.
    """

    name: str
    cell: Cell
    suite: Suite
    protocol: Protocol

    @property
    def parts(self) -> int:
        """Of a whole training."""
        return math.gcd(self.protocol.evaluations, self.suite.num_records)

    def train(self, settings: Mapping[str, float]) -> Iterator[Part]:
        """Trains at all seeds, and says after each part how they stand.

        Ends after the last part, or once as many seeds have diverged as make the median
        infinite. The last part is judged as a finished training is: one whose train
        loss ends above where it began has diverged.

        Args:
            settings: by the names of `meta_test.baselines.Baseline.settings`.

        Raises:
            ValueError: the initial loss on `inner_valid` is not finite.
        """
        make, traced = fixed_sizes(self.name, settings)
        traced = {name: np.float32(value) for name, value in traced.items()}
        given = _Given(self._family, traced, np.int32(self.cell.horizon))
        optimizer = _Optimizer(
            make, find_baseline(self.name).evaluated, self.suite.eval_batches
        )
        count = len(self.protocol.seeds)
        places, active = self._places, np.arange(len(self._places[0])) < count
        trainings = _begin(given, (places, active), optimizer=optimizer)

        def advance(
            trainings: _Trainings, first: int, steps: int, limit: ArrayLike
        ) -> tuple[_Trainings, np.ndarray, Evaluation]:
            limits = np.full(len(active), np.inf, np.float32)
            limits[:count] = limit
            trainings, loss, found = _advance(
                given,
                (*places, trainings, limits),
                np.int32(first),
                np.int32(steps),
                optimizer=optimizer,
            )
            seen = jax.device_get((loss, found))
            return trainings, *jax.tree.map(lambda x: x[:count], seen)

        # No step is made: this is how the initial parameters are judged.
        unlimited = np.full(count, np.inf)
        trainings, _, initial = advance(trainings, 0, 0, unlimited)
        start = float(statistics.quantile(initial.valid_loss, 0.5))
        if not math.isfinite(start):
            raise ValueError(
                "the initial validation loss of a cell must be finite to tune on it, "
                f"got {start} for {self.cell.name!r}"
            )
        ceiling = start + HOPELESS * abs(start)
        above = initial.train_loss + self.protocol.hopeless * abs(initial.train_loss)
        every, total = self.cell.horizon // self.parts, 0
        failed, losses = np.zeros(count, bool), []
        for part in range(self.parts):
            limit = unlimited if part < self.parts // 4 else above
            total += every * int((~failed).sum())
            trainings, loss, found = advance(trainings, part * every, every, limit)
            losses.append(loss)
            failed = ~np.asarray(trainings.going)[:count]
            if part == self.parts - 1:
                failed = statistics.diverged(_curve(initial, losses, found))
            values = statistics.losses(found.valid_loss, failed)
            median = float(statistics.quantile(values, 0.5))
            yield Part(part + 1, median, ceiling, int(failed.sum()), total)
            if math.isinf(median):
                return

    @functools.cached_property
    def _family(self) -> TaskFamily:
        return self.cell.family()

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, Spec]:
        """The seeds, the last again where devices are left over, and their tasks."""
        seeds = self.protocol.seeds
        seeds += seeds[-1:] * (-len(seeds) % jax.local_device_count())
        return np.asarray(seeds, np.int32), self.cell.specs(self._family, seeds)


def _curve(initial: Evaluation, losses: list[np.ndarray], final: Evaluation) -> Curve:
    """Whole trainings, as `meta_test.statistics` takes them."""
    return Curve(
        initial=initial,
        train_loss=np.stack(losses, axis=1),  # pyright: ignore[reportArgumentType]
        evaluations=jax.tree.map(lambda x: x[:, None], final),
        steps=np.zeros(len(losses[0]), np.int32),  # pyright: ignore[reportArgumentType]
    )


class _Optimizer(NamedTuple):
    """What is static."""

    make: MakeOptimizer
    evaluated: Evaluated
    eval_batches: int


class _Given(NamedTuple):
    """What all seeds share."""

    family: TaskFamily
    settings: dict[str, Any]
    horizon: Any


class _Trainings(NamedTuple):
    """Between two parts, with a leading axis of places."""

    training: Training
    going: jax.Array  # false once given up


@functools.partial(jax.jit, static_argnames=("optimizer",))
def _begin(given: _Given, places: Any, *, optimizer: _Optimizer) -> _Trainings:
    """The trainings before their first step."""

    def one(place: Any, given: _Given) -> _Trainings:
        (seed, spec), active = place
        task, tx = given.family.task(spec), _transformation(optimizer, given)
        return _Trainings(begin_training(task, tx, derive_keys(seed)), active)

    return _spread(one, places, given)


@functools.partial(jax.jit, static_argnames=("optimizer",))
def _advance(
    given: _Given,
    places: Any,
    first: jax.Array,
    steps: jax.Array,
    *,
    optimizer: _Optimizer,
) -> tuple[_Trainings, jax.Array, Evaluation]:
    """The trainings after so many steps, their mean losses, and what they are worth."""

    def one(place: Any, shared: Any) -> tuple[_Trainings, jax.Array, Evaluation]:
        seed, spec, (training, going), limit = place
        given, first, steps = shared
        task, tx = given.family.task(spec), _transformation(optimizer, given)
        keys = derive_keys(seed)

        def step(count: jax.Array, state: Any) -> Any:
            training, total = state
            training, loss, _ = training_step(task, tx, keys, count, training)
            return training, total + loss

        def go(training: Training) -> Any:
            training, total = jax.lax.fori_loop(
                first, first + steps, step, (training, jnp.zeros(()))
            )
            params = optimizer.evaluated(training.opt_state, training.params)
            found = evaluate_params(
                task, params, keys.evaluation, optimizer.eval_batches
            )
            return training, total / jnp.maximum(steps, 1), found

        def stay(training: Training) -> Any:
            _, loss, found = jax.eval_shape(go, training)
            nothing = lambda x: jnp.full(x.shape, jnp.nan, x.dtype)
            return training, *jax.tree.map(nothing, (loss, found))

        training, loss, found = jax.lax.cond(going, go, stay, training)
        going &= jnp.isfinite(loss) & (loss <= limit)
        return _Trainings(training, going), loss, found

    return _spread(one, places, (given, first, steps))


def _transformation(
    optimizer: _Optimizer, given: _Given
) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(optimizer.make(given.settings, given.horizon))


def _spread(one: Callable[[Any, Any], Any], places: Any, shared: Any) -> Any:
    """`one(place, shared)` of every place, dealt to the devices."""

    def on_device(places: Any, shared: Any) -> Any:
        each = lambda place: one(place, shared)
        if jax.default_backend() == "cpu":
            return jax.lax.map(each, places)
        return jax.vmap(each)(places)

    return jax.shard_map(
        on_device,
        mesh=Mesh(np.asarray(jax.local_devices()), "places"),
        in_specs=(P("places"), P()),
        out_specs=P("places"),
        check_vma=False,
    )(places, shared)
