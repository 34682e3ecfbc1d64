"""Evolution strategies over windows of antithetic pairs of unrolls."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P

from l2o.learned.base import LearnedOptimizer, unflatten
from meta_train.estimators.base import (
    GradientEstimator,
    MetaGradient,
    fixed_order_sum,
)
from meta_train.estimators.credit import Credit, Credited
from meta_train.meta_loss import MetaLoss
from meta_train.perturb import antithetic_gradient, antithetic_points, sample_noise
from meta_train.schedules import TruncationSchedule
from meta_train.unroll import UnrollState, WindowLosses, start, unroll
from tasks.base import TaskFamily


AXIS = "blocks"
"""Name of the mesh axis that blocks of pairs are spread over."""


class PairState(NamedTuple):
    """An antithetic pair between two windows."""

    unrolls: UnrollState  # leading axis 2: theta plus, theta minus the noise
    memory: jax.Array  # [size of theta], what the credit rule carries
    broken: jax.Array  # shape=(), bool: the last window was not finite


class _Row(NamedTuple):
    """What a block of pairs adds to the estimate: sums over its pairs."""

    gradient: jax.Array
    loss: jax.Array
    finite: jax.Array
    valid: jax.Array
    restarts: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EvolutionStrategies(GradientEstimator):
    r"""Meta-gradients from differences of losses between antithetic unrolls.

    Each of `pairs` pairs carries two copies of one problem, with the same task, initial
    parameters and batches, under $\theta + \epsilon$ and $\theta - \epsilon$. A window
    of every pair gives the mean of `antithetic_gradient`; `credit` decides what noise
    is used and credited. A pair whose problem has ended starts another before the
    window.

    Pairs live in blocks of `block`. A block is computed whole, on one device, from a
    key that depends on its number alone, and block sums are added in the order of these
    numbers: the estimate does not depend on how many devices there are.

    A pair whose loss is not finite in a window contributes nothing, is counted, and
    starts a new problem.

    Attributes:
        family: the task distribution; its data are this object's only arrays.
        lopt: the architecture.
        schedule: horizons of the problems.
        credit: which noise is credited.
        meta_loss: what is minimised.
        sigma: deviation of the noise.
        pairs: number of antithetic pairs, a multiple of `block`.
        block: pairs that are computed together.
        window: inner steps per estimate.
        mesh: devices, along the axis `AXIS`.
    """

    family: TaskFamily
    lopt: LearnedOptimizer = dataclasses.field(metadata={"static": True})
    schedule: TruncationSchedule = dataclasses.field(metadata={"static": True})
    credit: Credit = dataclasses.field(metadata={"static": True})
    meta_loss: MetaLoss = dataclasses.field(metadata={"static": True})
    sigma: float = dataclasses.field(metadata={"static": True})
    pairs: int = dataclasses.field(metadata={"static": True})
    block: int = dataclasses.field(metadata={"static": True})
    window: int = dataclasses.field(metadata={"static": True})
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return self.pairs // self.block

    def init(self, theta: jax.Array, key: jax.Array) -> PairState:
        def one(key: jax.Array) -> PairState:
            return PairState(
                unrolls=self._start(antithetic_points(theta, 0.0 * theta), key, 0),
                memory=jnp.zeros_like(theta),
                # The first window then starts every pair's problem with a key of its
                # own, as any other restart does.
                broken=jnp.ones((), bool),
            )

        keys = jax.random.split(key, (self.num_blocks, self.block))
        return jax.vmap(jax.vmap(one))(keys)

    def estimate(
        self,
        theta: jax.Array,
        state: PairState,
        key: jax.Array,
        outer_step: jax.Array,
    ) -> tuple[MetaGradient, PairState]:
        def local(
            estimator: "EvolutionStrategies",
            theta: jax.Array,
            state: PairState,
            key: jax.Array,
            outer_step: jax.Array,
            blocks: jax.Array,
        ) -> tuple[_Row, PairState]:
            def one(args: tuple[jax.Array, PairState]) -> tuple[_Row, PairState]:
                number, state = args
                block_key = jax.random.fold_in(key, number)
                return estimator._block(theta, state, block_key, outer_step)

            return jax.lax.map(one, (blocks, state))

        spread = jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(P(), P(), P(AXIS), P(), P(), P(AXIS)),
            out_specs=(P(AXIS), P(AXIS)),
            check_vma=False,
        )
        blocks = jnp.arange(self.num_blocks, dtype=jnp.int32)
        rows, state = spread(self, theta, state, key, outer_step, blocks)
        rows = jax.lax.with_sharding_constraint(
            rows, jax.sharding.NamedSharding(self.mesh, P())
        )
        total = jax.tree.map(fixed_order_sum, rows)
        gradient = MetaGradient(
            gradient=total.gradient / jnp.maximum(total.valid, 1),
            meta_loss=total.loss / total.finite,
            valid=total.valid,
            non_finite=self.pairs - total.valid,
            restarts=total.restarts,
        )
        return gradient, state

    def _start(
        self, thetas: jax.Array, key: jax.Array, outer_step: jax.Array | int
    ) -> UnrollState:
        """The same new problem under each of `thetas` `[2, size]`."""
        horizon_key, problem_key = jax.random.split(key)
        horizon = self.schedule.num_steps(
            horizon_key, jnp.asarray(outer_step), self.window
        )
        return jax.vmap(
            lambda theta: start(
                self.family,
                self.lopt,
                unflatten(self.lopt, theta),
                horizon,
                problem_key,
            )
        )(thetas)

    def _begin(
        self,
        theta: jax.Array,
        state: PairState,
        key: jax.Array,
        outer_step: jax.Array,
    ) -> tuple[Credited, jax.Array, jax.Array, UnrollState]:
        """What one pair does before a window: noise, thetas `[2, size]`, problems."""
        noise_key, problem_key = jax.random.split(key)
        fresh = sample_noise(noise_key, theta.size, self.sigma)
        ended = state.unrolls.step[0] >= state.unrolls.horizon[0]
        restarted = ended | state.broken
        used = self.credit.assign(state.memory, fresh, restarted)
        thetas = antithetic_points(theta, used.noise)
        new = self._start(thetas, problem_key, outer_step)
        unrolls = jax.tree.map(
            lambda a, b: jnp.where(restarted, a, b), new, state.unrolls
        )
        return used, restarted, thetas, unrolls

    def _end(
        self, used: Credited, restarted: jax.Array, losses: WindowLosses
    ) -> tuple[_Row, jax.Array]:
        """What one pair's losses `[2, ...]` add, and whether they are finite."""
        meta = jax.vmap(self.meta_loss)(losses)
        plus, minus = meta
        gradient = antithetic_gradient(used.credit, plus, minus, self.sigma)
        valid = jnp.isfinite(plus - minus)
        finite = jnp.isfinite(meta)
        row = _Row(
            gradient=jnp.where(valid, gradient, 0.0),
            loss=jnp.sum(jnp.where(finite, meta, 0.0)),
            finite=jnp.sum(finite),
            valid=valid.astype(jnp.int32),
            restarts=restarted.astype(jnp.int32),
        )
        return row, valid

    def _block(
        self,
        theta: jax.Array,
        state: PairState,
        key: jax.Array,
        outer_step: jax.Array,
    ) -> tuple[_Row, PairState]:
        """One window of one block; the only place where problems are vmapped."""
        keys = jax.random.split(key, self.block)
        used, restarted, thetas, unrolls = jax.vmap(
            lambda state, key: self._begin(theta, state, key, outer_step)
        )(state, keys)
        # Both signs of all pairs along one axis: a vmap inside another would trace and
        # batch the unrolled loop twice.
        unrolls, losses = jax.vmap(
            lambda theta, state: unroll(
                self.family, self.lopt, unflatten(self.lopt, theta), state, self.window
            )
        )(*jax.tree.map(_merge, (thetas, unrolls)))
        unrolls, losses = jax.tree.map(_split, (unrolls, losses))
        rows, valid = jax.vmap(self._end)(used, restarted, losses)
        state = PairState(unrolls=unrolls, memory=used.memory, broken=~valid)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), rows), state


def _merge(x: jax.Array) -> jax.Array:
    """`[pairs, 2, ...]` to `[2 pairs, ...]`."""
    return x.reshape(-1, *x.shape[2:])


def _split(x: jax.Array) -> jax.Array:
    """`[2 pairs, ...]` to `[pairs, 2, ...]`."""
    return x.reshape(-1, 2, *x.shape[1:])
