"""One pure outer step: estimate a meta-gradient, move theta."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from l2o.learned.base import LearnedOptimizer
from meta_train.config import OuterConfig
from meta_train.estimators.base import GradientEstimator


class OuterState(NamedTuple):
    """All that changes during meta-training: saved whole, resumed bit for bit."""

    theta: jax.Array  # [size], the flat meta-parameters
    opt_state: Any  # the outer optimizer's
    particles: Any  # the estimator's: inner problems, accumulated noise
    key: jax.Array  # of the run; outer step n uses fold_in(key, n)
    step: jax.Array  # shape=(), int32: outer steps made
    skipped: jax.Array  # shape=(), int32: the last steps in a row that left theta alone


class OuterMetrics(NamedTuple):
    """What an outer step reports; scalars."""

    meta_loss: jax.Array  # mean normalised training loss over windows and particles
    gradient_norm: jax.Array  # of the meta-gradient before clipping
    valid: jax.Array  # contributions that counted
    non_finite: jax.Array  # contributions left out
    restarts: jax.Array  # problems begun
    skipped: jax.Array  # outer steps in a row, up to this one, that left theta alone


def outer_optimizer(config: OuterConfig) -> optax.GradientTransformation:
    """The transformation of the meta-gradient that `config` describes."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup,
        decay_steps=config.steps,
        end_value=config.final_fraction * config.learning_rate,
    )
    return optax.chain(optax.clip(config.clip), optax.adam(schedule))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OuterTrainer:
    """Meta-training as a pure function of its state; a pytree whose leaves are data.

    Attributes:
        estimator: gives the meta-gradient.
        lopt: the architecture that theta belongs to.
        config: of the outer loop.
    """

    estimator: GradientEstimator
    lopt: LearnedOptimizer = dataclasses.field(metadata={"static": True})
    config: OuterConfig = dataclasses.field(metadata={"static": True})

    def init(self, key: jax.Array) -> OuterState:
        """The state before the first outer step."""
        theta_key, particle_key, run_key = jax.random.split(key, 3)
        theta, _ = ravel_pytree(self.lopt.init_theta(theta_key))
        return OuterState(
            theta=theta,
            opt_state=outer_optimizer(self.config).init(theta),
            particles=self.estimator.init(theta, particle_key),
            key=run_key,
            step=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
        )

    def step(self, state: OuterState) -> tuple[OuterState, OuterMetrics]:
        """One outer step.

        A meta-gradient without a single valid contribution, or that is not finite after
        all, leaves theta and the outer optimizer bitwise as they were.
        """
        estimate, particles = self.estimator.estimate(
            state.theta,
            state.particles,
            jax.random.fold_in(state.key, state.step),
            state.step,
        )
        tx = outer_optimizer(self.config)
        updates, opt_state = tx.update(estimate.gradient, state.opt_state, state.theta)
        theta = optax.apply_updates(state.theta, updates)
        applied = (estimate.valid > 0) & jnp.all(jnp.isfinite(estimate.gradient))
        theta, opt_state = jax.tree.map(
            lambda new, old: jnp.where(applied, new, old),
            (theta, opt_state),
            (state.theta, state.opt_state),
        )
        metrics = OuterMetrics(
            meta_loss=estimate.meta_loss,
            gradient_norm=jnp.linalg.norm(estimate.gradient),
            valid=estimate.valid,
            non_finite=estimate.non_finite,
            restarts=estimate.restarts,
            skipped=jnp.where(applied, 0, state.skipped + 1),
        )
        state = OuterState(
            theta=theta,
            opt_state=opt_state,
            particles=particles,
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
