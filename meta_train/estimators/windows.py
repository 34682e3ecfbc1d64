"""Meta-gradients from windows of unrolls, in blocks that are spread over devices."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from l2o.config import require_range
from l2o.learned.base import LearnedOptimizer, unflatten
from meta_train.estimators.base import GradientEstimator, MetaGradient
from meta_train.estimators.credit import Credited
from meta_train.estimators.method import Method, Outcome
from meta_train.estimators.span import Span, Whole
from meta_train.estimators.totals import AXIS, total_over_blocks
from meta_train.estimators.words import to_words
from meta_train.meta_loss import MetaLoss, Readings
from meta_train.schedules import TruncationSchedule
from meta_train.unroll import (
    Problem,
    UnrollState,
    draw,
    fresh_losses,
    start,
    unroll_windows,
)
from tasks.base import TaskFamily


class UnitState(NamedTuple):
    """A unit of the method between two windows: one problem under all its points."""

    unrolls: UnrollState  # leading axis: the points; horizon 0 before the first window
    memory: Any  # what the method carries
    broken: jax.Array  # shape=(), bool: the last window was not finite


class _Begun(NamedTuple):
    """What a unit has before a window."""

    used: Credited
    thetas: jax.Array  # [points, size]
    problem: Problem  # a new one, for those that restart
    horizon: jax.Array
    offset: jax.Array
    restarted: jax.Array


class _Row(NamedTuple):
    """What a block of units adds to the estimate: sums over its units."""

    sums: dict[str, jax.Array]
    loss: jax.Array
    finite: jax.Array
    valid: jax.Array
    non_finite: jax.Array
    restarts: jax.Array
    inner_steps: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WindowEstimator(GradientEstimator):
    """Units of a method, unrolled window by window.

    A unit whose problem has ended starts another before the window.

    Units live in blocks of `block`. A block is computed whole, on one device, from a
    key that depends on its number alone, and block sums are added in the order of these
    numbers: the estimate does not depend on how many devices there are. (XLA may still
    simplify the arithmetic of a block otherwise for one device than for several, whose
    programs it partitions; where it does, several agree and one has other last bits.)

    A unit with a loss or a contribution that is not finite contributes nothing, is
    counted, and starts a new problem.

    Attributes:
        family: the task distribution; its data are this object's only arrays.
        lopt: the architecture.
        schedule: horizons of the problems.
        span: how much of a problem an estimate unrolls.
        method: what is made of the unrolls.
        meta_loss: what is minimised.
        units: number of units, a multiple of `block`: antithetic pairs, or problems.
        block: units that are computed together.
        mesh: devices, along the axis `AXIS`.
        stagger: the first problem of a unit begins as if a random share of it, at most
            this, were done: it ends early, and units are out of step from then on.
    """

    family: TaskFamily
    lopt: LearnedOptimizer = dataclasses.field(metadata={"static": True})
    schedule: TruncationSchedule = dataclasses.field(metadata={"static": True})
    span: Span = dataclasses.field(metadata={"static": True})
    method: Method = dataclasses.field(metadata={"static": True})
    meta_loss: MetaLoss = dataclasses.field(metadata={"static": True})
    units: int = dataclasses.field(metadata={"static": True})
    block: int = dataclasses.field(metadata={"static": True})
    mesh: Mesh = dataclasses.field(metadata={"static": True})
    stagger: float = dataclasses.field(default=0.0, metadata={"static": True})

    def __post_init__(self) -> None:
        require_range("stagger", self.stagger, 0.0, 1.0)
        if self.stagger and isinstance(self.span, Whole):
            # They would go on past their horizons.
            raise ValueError(
                f"stagger must be 0 where problems are whole, got {self.stagger}"
            )

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return self.units // self.block

    def init(self, theta: jax.Array, key: jax.Array) -> UnitState:
        del key  # Problems begin with the first window, with a key of their own.

        def state(theta: jax.Array) -> UnrollState:
            problem = draw(self.family, jax.random.key(0))
            zero = jnp.zeros((), jnp.int32)
            return start(self.lopt, unflatten(self.lopt, theta), problem, zero, zero)

        shape = (self.num_blocks, self.block)
        points = (*shape, self.method.points)
        memory = self.method.init(theta)
        units = UnitState(
            unrolls=jax.tree.map(
                lambda x: jnp.zeros(points + x.shape, x.dtype),
                jax.eval_shape(state, theta),
            ),
            memory=jax.tree.map(lambda x: jnp.zeros(shape + x.shape, x.dtype), memory),
            broken=jnp.zeros(shape, bool),
        )
        # As they are after every window, so that the first is the same program.
        return jax.lax.with_sharding_constraint(
            units, NamedSharding(self.mesh, P(AXIS))
        )

    def estimate(
        self,
        theta: jax.Array,
        state: UnitState,
        key: jax.Array,
        outer_step: jax.Array,
    ) -> tuple[MetaGradient, UnitState]:
        def local(
            estimator: "WindowEstimator",
            theta: jax.Array,
            state: UnitState,
            key: jax.Array,
            outer_step: jax.Array,
            blocks: jax.Array,
        ) -> tuple[jax.Array, UnitState]:
            def one(args: tuple[jax.Array, UnitState]) -> tuple[jax.Array, UnitState]:
                number, state = args
                block_key = jax.random.fold_in(key, number)
                row, state = estimator._block(theta, state, block_key, outer_step)
                like.append(jax.eval_shape(lambda: row))
                return to_words(row), state

            if len(blocks) > 1:
                return jax.lax.map(one, (blocks, state))
            # A loop would copy all states once more, by a kernel each to compile.
            alone = one(jax.tree.map(lambda x: x[0], (blocks, state)))
            return jax.tree.map(lambda x: x[None], alone)

        like: list[_Row] = []  # The shapes of a row, known when `local` is traced.
        spread = jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(P(), P(), P(AXIS), P(), P(), P(AXIS)),
            out_specs=(P(AXIS), P(AXIS)),
            check_vma=False,
        )
        blocks = jnp.arange(self.num_blocks, dtype=jnp.int32)
        words, state = spread(self, theta, state, key, outer_step, blocks)
        # The one place where devices exchange anything.
        total: _Row = total_over_blocks(words, like[0], self.mesh)
        gradient = MetaGradient(
            gradient=self.method.combine(total.sums, total.valid),
            meta_loss=total.loss / total.finite,
            valid=total.valid,
            non_finite=total.non_finite,
            restarts=total.restarts,
            inner_steps=total.inner_steps,
        )
        return gradient, state

    def _begin(
        self,
        theta: jax.Array,
        state: UnitState,
        key: jax.Array,
        outer_step: jax.Array,
    ) -> _Begun:
        """What one unit does before a window."""
        # One after another they would take longer to compile than all that uses them.
        noise_key, horizon_key, problem_key, share_key = jax.random.split(key, 4)
        step, before = state.unrolls.step[0], state.unrolls.horizon[0]
        restarted = (step >= before) | state.broken
        used = self.method.assign(self.lopt, theta, state.memory, noise_key, restarted)
        window = self.span.window
        horizon = self.schedule.num_steps(horizon_key, outer_step, window)
        share = self.stagger * jax.random.uniform(share_key) if self.stagger else 0.0
        offset = jnp.int32(share * (horizon // window)) * window
        return _Begun(
            used=used,
            thetas=self.method.thetas(theta, used.noise),
            problem=draw(self.family, problem_key),
            horizon=horizon,
            offset=jnp.where(before == 0, offset, 0),
            restarted=restarted,
        )

    def _point(
        self,
        theta: jax.Array,
        state: UnrollState,
        begun: tuple[Problem, jax.Array, jax.Array, jax.Array],
        count: jax.Array,
    ) -> tuple[Outcome, tuple[UnrollState, jax.Array]]:
        """One problem under one theta: the outcome, its next state, all finite."""
        problem, horizon, offset, restarted = begun

        def loss(
            theta: jax.Array,
        ) -> tuple[jax.Array, tuple[UnrollState, jax.Array]]:
            bound = unflatten(self.lopt, theta)
            new = start(self.lopt, bound, problem, horizon, offset)
            begin = jax.tree.map(lambda a, b: jnp.where(restarted, a, b), new, state)
            window, most = self.span.window, self.span.most(self.schedule)
            after, losses = unroll_windows(
                self.family, self.lopt, bound, begin, window, most, count
            )
            task = self.family.task(after.spec)
            fresh, held_out = (
                fresh_losses(task, after, split, samples)
                if samples
                else jnp.zeros((0,))
                for split, samples in self.meta_loss.samples_of.items()
            )
            made = jnp.arange(losses.size) < count * window
            done = after.step / jnp.maximum(after.horizon, 1)
            value, finite = self.meta_loss(
                Readings(losses, made, fresh, held_out, done)
            )
            return value, (after, finite)

        return self.method.outcome(loss, theta)

    def _end(
        self,
        begun: _Begun,
        outcomes: Outcome,
        finite: jax.Array,
        count: jax.Array,
    ) -> tuple[_Row, jax.Array]:
        """What one unit adds, and whether it must begin anew."""
        sums = self.method.contribution(self.lopt, begun.used, outcomes)
        counted = jnp.isfinite(outcomes.loss)
        valid = jnp.all(counted)
        for vector in jax.tree.leaves(sums):
            valid &= jnp.all(jnp.isfinite(vector))
        broken = ~(valid & jnp.all(finite))
        row = _Row(
            sums=jax.tree.map(lambda x: jnp.where(valid, x, 0.0), sums),
            loss=jnp.sum(jnp.where(counted, outcomes.loss, 0.0)),
            finite=jnp.sum(counted),
            valid=valid.astype(jnp.int32),
            non_finite=broken.astype(jnp.int32),
            restarts=begun.restarted.astype(jnp.int32),
            inner_steps=jnp.int32(self.method.points * self.span.window) * count,
        )
        return row, broken

    def _block(
        self,
        theta: jax.Array,
        state: UnitState,
        key: jax.Array,
        outer_step: jax.Array,
    ) -> tuple[_Row, UnitState]:
        """One window of one block; the only place where problems are vmapped."""
        keys = jax.random.split(key, self.block)
        begun = jax.vmap(lambda state, key: self._begin(theta, state, key, outer_step))(
            state, keys
        )
        begun = begun._replace(horizon=self.span.horizons(begun.horizon))
        count = self.span.count(begun.horizon)
        points = self.method.points
        shared = jax.tree.map(
            lambda x: jnp.repeat(x, points, axis=0),
            (begun.problem, begun.horizon, begun.offset, begun.restarted),
        )
        # All points of all units along one axis: a vmap inside another would trace and
        # batch the unrolled loop twice.
        thetas, before = jax.tree.map(_merge, (begun.thetas, state.unrolls))
        outcomes, (unrolls, finite) = jax.vmap(
            lambda theta, state, begun: self._point(theta, state, begun, count)
        )(thetas, before, shared)
        outcomes, unrolls, finite = jax.tree.map(
            lambda x: x.reshape(-1, points, *x.shape[1:]), (outcomes, unrolls, finite)
        )
        rows, broken = jax.vmap(
            lambda begun, outcomes, finite: self._end(begun, outcomes, finite, count)
        )(begun, outcomes, finite)
        state = UnitState(unrolls=unrolls, memory=begun.used.memory, broken=broken)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), rows), state


def _merge(x: jax.Array) -> jax.Array:
    """`[units, points, ...]` to `[units * points, ...]`."""
    return x.reshape(-1, *x.shape[2:])
