"""Gradient descent on what a task hands to optimizers, and what it is compared with."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tasks import TaskFamily
from tasks.base import Spec


RATE = 0.1


class Steps(NamedTuple):
    """What happened, with a leading axis of steps."""

    params: Any  # before each step
    batch_keys: jax.Array
    loss_keys: jax.Array
    losses: jax.Array  # as the optimizer is fed them
    grads: Any


@functools.partial(jax.jit, static_argnums=2)
def descend(family: TaskFamily, spec: Spec, steps: int) -> Steps:
    """`steps` steps of gradient descent from one start, on one stream of batches."""
    task = family.task(spec)
    gradients = task.gradients

    def step(carry, key):
        params, memory = carry
        batch_key, loss_key = jax.random.split(key)
        batch = task.batch(batch_key, "train")
        loss, grads, memory = gradients.step(memory, params, loss_key, batch)
        moved = jax.tree.map(lambda p, g: (p - RATE * g).astype(p.dtype), params, grads)
        return (moved, memory), Steps(params, batch_key, loss_key, loss, grads)

    params = task.init(jax.random.key(0))
    memory = gradients.init(params, jax.random.key(1))
    keys = jax.random.split(jax.random.key(2), steps)
    return jax.lax.scan(step, (params, memory), keys)[1]


@jax.jit
def look(family: TaskFamily, spec: Spec) -> Any:
    """Start, loss, auxiliary output and gradient of a task on its first batch."""
    task = family.task(spec)
    params = task.init(jax.random.key(0))
    batch = task.batch(jax.random.key(1), "train")
    value, grads = jax.value_and_grad(task.loss, has_aux=True)(
        params, jax.random.key(2), batch
    )
    return params, value, grads


@functools.partial(jax.jit, static_argnums=2)
def many_first_steps(family: TaskFamily, spec: Spec, count: int) -> Any:
    """Losses `[count]` and gradients `[count, ...]` at one point, of `count` keys."""
    task = family.task(spec)
    params = task.init(jax.random.key(0))
    batch = task.batch(jax.random.key(1), "train")
    memory = task.gradients.init(params, jax.random.key(2))

    def one(key):
        return task.gradients.step(memory, params, key, batch)[:2]

    return jax.vmap(one)(jax.random.split(jax.random.key(3), count))


def vector(tree: Any) -> jax.Array:
    """All entries of a tree, one after another."""
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)])
