"""One pure outer step: estimate a meta-gradient on every family, move theta."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from l2o.learned.base import (
    LearnedOptimizer,
    Theta,
    tensors_by_path,
    unflatten,
)
from meta_train.config import OuterConfig
from meta_train.estimators.base import GradientEstimator, MetaGradient, fixed_order_sum
from meta_train.perturb import by_tensor


class OuterState(NamedTuple):
    """All that changes during meta-training: saved whole, resumed bit for bit."""

    theta: jax.Array  # [size], the flat meta-parameters
    average: Any  # [size], their exponential average; () where there is none
    opt_state: Any  # the outer optimizer's
    particles: tuple[Any, ...]  # of each family's estimator: problems, noise
    square: jax.Array  # [families], running mean of the meta-gradient's squared norm
    uses: jax.Array  # [families], int32: meta-gradients in that mean
    key: jax.Array  # of the run; outer step n uses fold_in(key, n)
    step: jax.Array  # shape=(), int32: outer steps made
    skipped: jax.Array  # shape=(), int32: the last steps in a row that left theta alone


class FamilyMetrics(NamedTuple):
    """What each family did in an outer step; every array is `[families]`."""

    meta_loss: jax.Array  # mean over the particles that are finite; NaN if not used
    gradient_norm: jax.Array  # of its meta-gradient; NaN if not used
    valid: jax.Array  # contributions that counted
    non_finite: jax.Array  # units with something that is not finite
    restarts: jax.Array  # problems begun
    used: jax.Array  # int32: whether it took part


class OuterMetrics(NamedTuple):
    """What an outer step reports; scalars but for `families`."""

    meta_loss: jax.Array  # weighted mean over the families that were used
    gradient_norm: jax.Array  # of the meta-gradient before clipping
    skipped: jax.Array  # outer steps in a row, up to this one, that left theta alone
    inner_steps: jax.Array  # int32: made in this outer step
    families: FamilyMetrics


@dataclasses.dataclass(frozen=True)
class FamilyMix:
    """How families share an outer step.

    Attributes:
        names: of the families.
        weights: of each; positive.
        per_step: how many an outer step uses, drawn without replacement with
            probabilities that go as the weights. All of them: each has its weight.
        balance: decay of the running mean square of each family's meta-gradient, whose
            root it is divided by; 0 leaves meta-gradients as they are.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    per_step: int
    balance: float = 0.0

    @property
    def takes_all(self) -> bool:
        """Whether every outer step uses every family."""
        return self.per_step == len(self.names)

    def draw(self, key: jax.Array) -> jax.Array:
        """Which families the outer step with this key uses, bool `[families]`."""
        if self.takes_all:
            return jnp.ones((len(self.names),), bool)
        # The families themselves are given 0 to n - 1.
        key = jax.random.fold_in(key, len(self.names))
        # The largest of log w + Gumbel noise are a weighted sample (Vieira 2014).
        logits = jnp.log(jnp.array(self.weights))
        keys = logits + jax.random.gumbel(key, logits.shape)
        _, chosen = jax.lax.top_k(keys, self.per_step)
        return jnp.zeros(logits.shape, bool).at[chosen].set(True)

    def combine(
        self, gradients: jax.Array, meta_losses: jax.Array, counted: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Weighted means over the families that count.

        Args:
            gradients: `[families, size]`.
            meta_losses: `[families]`.
            counted: bool `[families]`.

        Returns:
            The meta-gradient, 0 where no family counts, and the meta-loss, NaN there.
        """
        weights = jnp.array(self.weights if self.takes_all else [1.0] * len(self.names))
        weights = jnp.where(counted, weights, 0.0)
        total = jnp.sum(weights)
        rows = jnp.where(counted[:, None], weights[:, None] * gradients, 0.0)
        gradient = fixed_order_sum(rows) / jnp.where(total > 0.0, total, 1.0)
        losses = jnp.where(counted, weights * meta_losses, 0.0)
        return gradient, jnp.sum(losses) / total


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Given:
    """A tensor that the first theta of a run takes from a checkpoint.

    Attributes:
        tensor: of the checkpoint.
        share: of it in a mean with what is drawn.
    """

    tensor: jax.Array
    share: float = dataclasses.field(default=1.0, metadata={"static": True})

    def beside(self, drawn: jax.Array) -> jax.Array:
        """The mean of both, or the tensor bit for bit where its share is 1."""
        if self.share == 1.0:
            return self.tensor
        return self.share * self.tensor + (1.0 - self.share) * drawn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OuterTrainer:
    """Meta-training as a pure function of its state; a pytree whose leaves are data.

    Attributes:
        estimators: one a family, each gives its meta-gradient.
        mix: how families share an outer step.
        lopt: the architecture that theta belongs to.
        tx: moves theta along the meta-gradient; any optax transformation of one flat
            vector.
        config: of the outer loop.
        scale: what theta's movement is multiplied by: less than 1 after a run was
            rolled back.
    """

    estimators: tuple[GradientEstimator, ...]
    mix: FamilyMix = dataclasses.field(metadata={"static": True})
    lopt: LearnedOptimizer = dataclasses.field(metadata={"static": True})
    tx: optax.GradientTransformation = dataclasses.field(metadata={"static": True})
    config: OuterConfig = dataclasses.field(metadata={"static": True})
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})

    def init(
        self, key: jax.Array, given: Mapping[str, Given] | None = None
    ) -> OuterState:
        """The state before the first outer step.

        Args:
            key: of the run.
            given: tensors of theta, by paths like `mlp/0/w`, in the place of those that
                are drawn.
        """
        theta_key, particle_key, run_key = jax.random.split(key, 3)
        drawn = tensors_by_path(self.lopt.init_theta(theta_key))
        given = given or {}
        first = [given[p].beside(x) if p in given else x for p, x in drawn.items()]
        flat, _ = ravel_pytree(first)
        families = len(self.estimators)
        return OuterState(
            theta=flat,
            average=flat if self.config.average else (),
            opt_state=self.tx.init(flat),
            particles=tuple(
                estimator.init(flat, jax.random.fold_in(particle_key, i))
                for i, estimator in enumerate(self.estimators)
            ),
            square=jnp.zeros((families,)),
            uses=jnp.zeros((families,), jnp.int32),
            key=run_key,
            step=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
        )

    def result(self, state: OuterState) -> Theta:
        """The meta-parameters that the run has arrived at: averaged, if it averages."""
        flat = state.average if self.config.average else state.theta
        return unflatten(self.lopt, flat)

    def step(self, state: OuterState) -> tuple[OuterState, OuterMetrics]:
        """One outer step.

        A family without a single valid contribution, or whose meta-gradient is not
        finite after all, does not count; where none counts, theta, its average and the
        outer optimizer are left bitwise as they were.
        """
        key = jax.random.fold_in(state.key, state.step)
        used = self.mix.draw(key)
        estimates, particles = [], []
        for i, estimator in enumerate(self.estimators):
            estimate, moved = self._estimate(
                estimator,
                state,
                state.particles[i],
                jax.random.fold_in(key, i),
                used[i],
            )
            estimates.append(estimate)
            particles.append(moved)
        each: MetaGradient = jax.tree.map(lambda *xs: jnp.stack(xs), *estimates)
        norms = jnp.linalg.norm(each.gradient, axis=1)
        counted = used & (each.valid > 0) & jnp.isfinite(norms)
        square, uses, scales = self._balanced(state, norms, counted)
        gradient, meta_loss = self.mix.combine(
            each.gradient / scales[:, None], each.meta_loss, counted
        )
        applied = jnp.any(counted)
        theta, average, opt_state = jax.tree.map(
            lambda new, old: jnp.where(applied, new, old),
            self._moved(state, gradient),
            (state.theta, state.average, state.opt_state),
        )
        metrics = OuterMetrics(
            meta_loss=meta_loss,
            gradient_norm=jnp.linalg.norm(gradient),
            skipped=jnp.where(applied, 0, state.skipped + 1),
            inner_steps=jnp.sum(each.inner_steps),
            families=FamilyMetrics(
                meta_loss=each.meta_loss,
                gradient_norm=jnp.where(used, norms, jnp.nan),
                valid=each.valid,
                non_finite=each.non_finite,
                restarts=each.restarts,
                used=used.astype(jnp.int32),
            ),
        )
        state = OuterState(
            theta=theta,
            average=average,
            opt_state=opt_state,
            particles=tuple(particles),
            square=square,
            uses=uses,
            key=state.key,
            step=state.step + 1,
            skipped=metrics.skipped,
        )
        return state, metrics

    def dispatch(self, state: OuterState) -> tuple[OuterState, OuterMetrics]:
        """`config.steps_per_dispatch` outer steps in one program.

        Returns:
            The state after them, and metrics with a leading axis of that length.
        """
        return jax.lax.scan(
            lambda state, _: self.step(state),
            state,
            None,
            length=self.config.steps_per_dispatch,
        )

    def _estimate(
        self,
        estimator: GradientEstimator,
        state: OuterState,
        particles: Any,
        key: jax.Array,
        used: jax.Array,
    ) -> tuple[MetaGradient, Any]:
        """The meta-gradient of one family; zeros, at no cost, if it is not used."""

        def run(particles: Any) -> tuple[MetaGradient, Any]:
            return estimator.estimate(state.theta, particles, key, state.step)

        if self.mix.takes_all:
            return run(particles)

        def rest(particles: Any) -> tuple[MetaGradient, Any]:
            zero = jnp.zeros((), jnp.int32)
            nothing = MetaGradient(
                gradient=jnp.zeros_like(state.theta),
                meta_loss=jnp.float32(jnp.nan),
                valid=zero,
                non_finite=zero,
                restarts=zero,
                inner_steps=zero,
            )
            return nothing, particles

        return jax.lax.cond(used, run, rest, particles)

    def _balanced(
        self, state: OuterState, norms: jax.Array, counted: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The next running squares and counts, and what to divide by; `[families]`."""
        decay = self.mix.balance
        if decay == 0.0:
            return state.square, state.uses, jnp.ones_like(norms)
        square = decay * state.square + (1.0 - decay) * norms**2
        square = jnp.where(counted, square, state.square)
        uses = state.uses + counted
        corrected = square / (1.0 - decay ** jnp.maximum(uses, 1))
        # Of entries and not of the whole: clipping works on entries.
        root = jnp.sqrt(corrected / state.theta.size)
        return square, uses, jnp.where(root > 0.0, root, 1.0)

    def _moved(self, state: OuterState, gradient: jax.Array) -> Any:
        """Theta, its average and the outer optimizer's state after a step."""
        frozen = tuple((pattern, 0.0) for pattern in self.config.freeze)
        free = by_tensor(self.lopt, 1.0, frozen) > 0.0 if frozen else None
        if free is not None:
            gradient = jnp.where(free, gradient, 0.0)
        updates, opt_state = self.tx.update(gradient, state.opt_state, state.theta)
        # Even a product with 1 would change what a compiler rounds, and all later bits.
        if self.scale != 1.0:
            updates = jax.tree.map(lambda update: self.scale * update, updates)
        theta: Any = optax.apply_updates(state.theta, updates)
        if free is not None:
            # Weight decay would move it even so.
            theta = jnp.where(free, theta, state.theta)
        average = state.average
        if self.config.average:
            # As many steps as there were count alike, until there are enough.
            fresh = 1.0 - jnp.minimum(
                self.config.average, state.step / (state.step + 1.0)
            )
            average = average + fresh * (theta - average)
        return theta, average, opt_state
