"""One inner problem in flight, and the loop that moves it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.learned.base import LearnedOptimizer, Theta
from tasks.base import Split, Task, TaskFamily


class Problem(NamedTuple):
    """A new inner problem, whatever optimizer it is given to."""

    spec: Any  # which task of the family
    params: Any  # the task's initial parameters
    memory: Any  # what the task's source of gradients carries; mostly ()
    key: jax.Array  # of the batches


class UnrollState(NamedTuple):
    """An inner problem between two windows."""

    spec: Any  # which task of the family
    params: Any  # the task's parameters
    opt_state: Any  # the learned optimizer's state
    memory: Any  # what the task's source of gradients carries; mostly ()
    step: jax.Array  # shape=(), int32: inner steps made
    horizon: jax.Array  # shape=(), int32: inner steps in all
    key: jax.Array  # of the batches


def draw(family: TaskFamily, key: jax.Array) -> Problem:
    """Draws a task of the family and its initial parameters."""
    spec_key, init_key, batch_key, memory_key = jax.random.split(key, 4)
    spec = family.sample(spec_key)
    task = family.task(spec)
    params = task.init(init_key)
    memory = task.gradients.init(params, memory_key)
    return Problem(spec=spec, params=params, memory=memory, key=batch_key)


def start(
    lopt: LearnedOptimizer,
    theta: Theta,
    problem: Problem,
    horizon: jax.Array,
    offset: jax.Array,
) -> UnrollState:
    """A problem in the hands of the optimizer that theta defines.

    Args:
        lopt: the architecture; static.
        theta: its meta-parameters.
        problem: from `draw`.
        horizon: inner steps that the optimizer is told.
        offset: how many of them count as made, so that the problem ends earlier.
    """
    return UnrollState(
        spec=problem.spec,
        params=problem.params,
        opt_state=lopt.with_theta(theta, num_steps=horizon).init(problem.params),
        memory=problem.memory,
        step=offset,
        horizon=horizon,
        key=problem.key,
    )


def unroll(
    family: TaskFamily,
    lopt: LearnedOptimizer,
    theta: Theta,
    state: UnrollState,
    window: int,
) -> tuple[UnrollState, jax.Array]:
    """Makes `window` inner steps with the optimizer that theta defines.

    Differentiated with respect to theta it holds the states of all steps, and computes
    what lies within a step a second time.

    Args:
        family: the distribution that the problem is of.
        lopt: the architecture; static.
        theta: its meta-parameters.
        state: the problem; its horizon is a multiple of `window`, so that it does not
            end within.
        window: number of inner steps; static.

    Returns:
        The state after the window, and the normalised losses `[window]` on the batch of
        each step, before it.
    """
    task = family.task(state.spec)
    tx = lopt.with_theta(theta, num_steps=state.horizon)
    gradients = task.gradients
    train_key = _keys(state)["train"]

    def body(carry: Any, step: jax.Array) -> tuple[Any, jax.Array]:
        params, opt_state, memory = carry
        batch_key, loss_key = jax.random.split(jax.random.fold_in(train_key, step))
        batch = task.batch(batch_key, "train")
        loss, grads, memory = gradients.step(memory, params, loss_key, batch)
        # Else XLA may fuse the end of the backward pass into the optimizer's sums, in
        # an order that differs between one device and several: theta's last bits too.
        grads = jax.lax.optimization_barrier(grads)
        updates, opt_state = tx.update(grads, opt_state, params, value=loss)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, memory), task.normalise(loss)

    (params, opt_state, memory), losses = jax.lax.scan(
        jax.checkpoint(body, prevent_cse=False),
        (state.params, state.opt_state, state.memory),
        state.step + jnp.arange(window, dtype=jnp.int32),
    )
    step = state.step + window
    return (
        state._replace(params=params, opt_state=opt_state, memory=memory, step=step),
        losses,
    )


def unroll_windows(
    family: TaskFamily,
    lopt: LearnedOptimizer,
    theta: Theta,
    state: UnrollState,
    window: int,
    most: int,
    count: jax.Array,
) -> tuple[UnrollState, jax.Array]:
    """Makes `count` windows of inner steps, one after another.

    Args:
        family: the distribution that the problem is of.
        lopt: the architecture; static.
        theta: its meta-parameters.
        state: the problem.
        window: number of inner steps in each; static.
        most: `count` is at most that; static.
        count: int32. Where problems are vmapped it must be the same for all, and not
            vmapped: a window that is not made then costs nothing.

    Returns:
        The state after them, and losses `[most * window]`, of which those of windows
        that were made come first.
    """
    if most == 1:
        return unroll(family, lopt, theta, state, window)

    def body(state: UnrollState, i: jax.Array) -> tuple[UnrollState, jax.Array]:
        return jax.lax.cond(
            i < count,
            lambda state: unroll(family, lopt, theta, state, window),
            lambda state: (state, jnp.zeros((window,))),
            state,
        )

    state, losses = jax.lax.scan(
        jax.checkpoint(body, prevent_cse=False),
        state,
        jnp.arange(most, dtype=jnp.int32),
    )
    return state, losses.reshape(-1)


def fresh_losses(
    task: Task, state: UnrollState, split: Split, samples: int
) -> jax.Array:
    """Normalised losses `[samples]` of a problem as it is, on batches of a split."""
    key = jax.random.fold_in(_keys(state)[split], state.step)
    # One sample has the key of a single evaluation.
    keys = key[None] if samples == 1 else jax.random.split(key, samples)

    def one(key: jax.Array) -> jax.Array:
        batch_key, loss_key = jax.random.split(key)
        loss, _ = task.loss(state.params, loss_key, task.batch(batch_key, split))
        return task.normalise(loss)

    return jax.vmap(one)(keys)


def _keys(state: UnrollState) -> dict[str, jax.Array]:
    """Keys of the batches: one of those to train on, one for each split to measure."""
    train, held_out = jax.random.split(state.key)
    return {"train": train, "outer_valid": held_out}
