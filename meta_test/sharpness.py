"""How sharp the loss is where trainings end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from l2o.inspect import hessian_vector_product, largest_eigenvalues
from meta_test.compilation import compiler_options
from meta_test.inner_loop import (
    Evaluated,
    Hyper,
    MakeOptimizer,
    begin_training,
    derive_keys,
    training_step,
)
from tasks.base import Spec, TaskFamily


BATCHES = 4
"""Of training data, over which a sharpness is averaged."""

LANCZOS_STEPS = 20
"""Hessian-vector products for each of them, at most one a parameter."""


def end_sharpness(
    family: TaskFamily,
    specs: Spec,
    make_optimizer: MakeOptimizer,
    hyper: Hyper,
    seeds: ArrayLike,
    *,
    steps: int,
    evaluated: Evaluated,
) -> np.ndarray:
    """The sharpness at the end of trainings, those of `meta_test.inner_loop.run`.

    That of a batch is the algebraically largest eigenvalue of the Hessian of its loss;
    the mean is over `BATCHES` of training data.

    Args:
        family: of the task.
        specs: the task of each seed, stacked on a leading axis.
        make_optimizer: gives the optax optimizer; static.
        hyper: the candidate that is trained with.
        seeds: `[seeds]` integers.
        steps: of each training.
        evaluated: of the optimizer; static.

    Returns:
        `[seeds]` float32, one after another; not finite where a training is not.
    """
    # A program of its own, which is forgotten once it has run: nobody asks twice.
    program = jax.jit(
        functools.partial(
            _end_sharpness, make_optimizer=make_optimizer, evaluated=evaluated
        ),
        compiler_options=compiler_options(),
    )
    seeds, count = np.asarray(seeds, np.int32), np.int32(steps)
    return np.asarray(program(family, specs, hyper, seeds, count))


def _end_sharpness(
    family: TaskFamily,
    specs: Spec,
    hyper: Hyper,
    seeds: jax.Array,
    steps: jax.Array,
    *,
    make_optimizer: MakeOptimizer,
    evaluated: Evaluated,
) -> jax.Array:
    def one(training_of: tuple[Spec, jax.Array]) -> jax.Array:
        spec, seed = training_of
        task, keys = family.task(spec), derive_keys(seed)
        tx = optax.with_extra_args_support(make_optimizer(hyper, steps))
        ended = jax.lax.fori_loop(
            0,
            steps,
            lambda count, training: training_step(task, tx, keys, count, training)[0],
            begin_training(task, tx, keys),
        )
        params = evaluated(ended.opt_state, ended.params)
        size = sum(x.size for x in jax.tree.leaves(params))

        def of_batch(key: jax.Array) -> jax.Array:
            batch_key, loss_key, lanczos_key = jax.random.split(key, 3)
            batch = task.batch(batch_key, "train")
            loss = lambda params: task.loss(params, loss_key, batch)[0]
            product = lambda v: hessian_vector_product(loss, params, v)
            products = min(LANCZOS_STEPS, size)
            return largest_eigenvalues(product, params, lanczos_key, 1, products)[0]

        return jnp.mean(
            jax.lax.map(of_batch, jax.random.split(keys.evaluation, BATCHES))
        )

    return jax.lax.map(one, (specs, seeds))
