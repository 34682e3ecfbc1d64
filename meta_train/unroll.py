"""One inner problem in flight, and the loop that moves it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.learned.base import LearnedOptimizer, Theta
from tasks.base import TaskFamily


class UnrollState(NamedTuple):
    """An inner problem between two windows."""

    spec: Any  # which task of the family
    params: Any  # the task's parameters
    opt_state: Any  # the learned optimizer's state
    memory: Any  # what the task's source of gradients carries; mostly ()
    step: jax.Array  # shape=(), int32: inner steps made
    horizon: jax.Array  # shape=(), int32: inner steps in all
    key: jax.Array  # of the batches


class WindowLosses(NamedTuple):
    """Normalised losses of one problem over a window."""

    train: jax.Array  # [window], on the batch of each inner step, before it
    held_out: jax.Array  # shape=(), on a batch of `outer_valid` after the window


def start(
    family: TaskFamily,
    lopt: LearnedOptimizer,
    theta: Theta,
    horizon: jax.Array,
    key: jax.Array,
) -> UnrollState:
    """Draws a task of the family and its initial parameters."""
    spec_key, init_key, batch_key, memory_key = jax.random.split(key, 4)
    spec = family.sample(spec_key)
    task = family.task(spec)
    params = task.init(init_key)
    return UnrollState(
        spec=spec,
        params=params,
        opt_state=lopt.with_theta(theta, num_steps=horizon).init(params),
        memory=task.gradients.init(params, memory_key),
        step=jnp.zeros((), jnp.int32),
        horizon=horizon,
        key=batch_key,
    )


def unroll(
    family: TaskFamily,
    lopt: LearnedOptimizer,
    theta: Theta,
    state: UnrollState,
    window: int,
) -> tuple[UnrollState, WindowLosses]:
    """Makes `window` inner steps with the optimizer that theta defines.

    Args:
        family: the distribution that the problem is of.
        lopt: the architecture; static.
        theta: its meta-parameters.
        state: the problem; its horizon is a multiple of `window`, so that it does not
            end within.
        window: number of inner steps; static.

    Returns:
        The state after the window, and the losses.
    """
    task = family.task(state.spec)
    tx = lopt.with_theta(theta, num_steps=state.horizon)
    gradients = task.gradients
    train_key, held_out_key = jax.random.split(state.key)

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
        body,
        (state.params, state.opt_state, state.memory),
        state.step + jnp.arange(window, dtype=jnp.int32),
    )
    step = state.step + window
    batch_key, loss_key = jax.random.split(jax.random.fold_in(held_out_key, step))
    # A meta-loss that does not ask for it does not pay: the compiler drops it.
    held_out, _ = task.loss(params, loss_key, task.batch(batch_key, "outer_valid"))
    return (
        state._replace(params=params, opt_state=opt_state, memory=memory, step=step),
        WindowLosses(train=losses, held_out=task.normalise(held_out)),
    )
