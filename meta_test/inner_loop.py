"""The inner loop: any optax optimizer on any task, as one compiled program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tasks.base import Spec, Split, Task, TaskFamily


Hyper = Any
"""What distinguishes one candidate of an optimizer from the next: a pytree of arrays.

A learning rate for a hand-designed optimizer, theta for a learned one.
"""

MakeOptimizer = Callable[[Hyper, jax.Array], optax.GradientTransformation]
"""`(hyper, num_steps) -> optax transformation`; hashable, with traced arguments."""

Evaluated = Callable[[Any, Any], Any]
"""`(state, params) -> params`: what a training ends with, in an optimizer's eyes."""


def last_params(state: Any, params: Any) -> Any:
    """The parameters that were stepped to: `Evaluated` of most optimizers."""
    del state
    return params


EVALUATION_DOMAIN = 0x65_76_61_6C
"""Folded into every key of meta-testing, and into no key of meta-training.

Seed 3 of an evaluation and seed 3 of a meta-training thus draw different
initialisations, tasks and batches. (The bytes spell "eval".)
"""


class Evaluation(NamedTuple):
    """How good parameters are, as means over fixed batches; float32 scalars."""

    train_loss: jax.Array
    test_loss: jax.Array
    train_accuracy: jax.Array  # nan where the task has none
    test_accuracy: jax.Array  # nan where the task has none


class Curve(NamedTuple):
    """What one training leaves behind; float32.

    Grids of trainings are this tree with leading axes.
    """

    initial: Evaluation
    train_loss: jax.Array  # [num_records], mean over the steps since the last record
    final: Evaluation


class Keys(NamedTuple):
    """The randomness of one training.

    It depends on the seed alone, never on the optimizer: two optimizers at one seed
    start from the same parameters, see the same batches and are judged on the same
    ones.
    """

    task: jax.Array
    init: jax.Array
    steps: jax.Array
    evaluation: jax.Array


def derive_keys(seed: jax.Array | int) -> Keys:
    """Keys of the training with this seed; `seed` may be traced."""
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION_DOMAIN)
    return Keys(*jax.random.split(key, 4))


def evaluate_params(
    task: Task, params: Any, key: jax.Array, num_batches: int
) -> Evaluation:
    """Mean loss and accuracy over batches that depend on `key` alone.

    Args:
        task: the problem.
        params: where to evaluate.
        key: of the batches.
        num_batches: batches per split; static.

    Returns:
        Means over the batches of the splits `train` and `test`.
    """
    splits: tuple[Split, Split] = ("train", "test")

    def one(split: Split, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch_key, loss_key = jax.random.split(key)
        loss, aux = task.loss(params, loss_key, task.batch(batch_key, split))
        return loss, jnp.asarray(aux.get("accuracy", jnp.nan), jnp.float32)

    def body(carry: None, key: jax.Array) -> tuple[None, list[Any]]:
        return carry, [one(split, key) for split in splits]

    # A scan and not a vmap: the memory is that of one batch, as in training.
    _, values = jax.lax.scan(body, None, jax.random.split(key, num_batches))
    (train_loss, train_accuracy), (test_loss, test_accuracy) = jax.tree.map(
        jnp.mean, values
    )
    return Evaluation(train_loss, test_loss, train_accuracy, test_accuracy)


class Training(NamedTuple):
    """A training between two steps."""

    params: Any
    opt_state: Any  # the optimizer's
    memory: Any  # of the task's source of gradients


class Seen(NamedTuple):
    """What one step looked at, and what came of it."""

    params: Any  # before the step
    grads: Any
    updates: Any


def begin_training(
    task: Task, tx: optax.GradientTransformationExtraArgs, keys: Keys
) -> Training:
    """A training before its first step."""
    params = task.init(keys.init)
    memory = task.gradients.init(params, jax.random.fold_in(keys.init, 1))
    return Training(params, tx.init(params), memory)


def training_step(
    task: Task,
    tx: optax.GradientTransformationExtraArgs,
    keys: Keys,
    count: jax.Array,
    training: Training,
) -> tuple[Training, jax.Array, Seen]:
    """Step number `count`: the training after it, its loss, and what it saw."""
    params, opt_state, memory = training
    batch_key, loss_key = jax.random.split(jax.random.fold_in(keys.steps, count))
    batch = task.batch(batch_key, "train")
    loss, grads, memory = task.gradients.step(memory, params, loss_key, batch)
    # What second-order methods and line searches look at: this step's loss.
    objective = lambda params: task.loss(params, loss_key, batch)[0]
    updates, opt_state = tx.update(
        grads,
        opt_state,
        params,
        value=loss,
        grad=grads,
        value_fn=objective,
        obj_fn=objective,
    )
    seen = Seen(params, grads, updates)
    params = optax.apply_updates(params, updates)
    return Training(params, opt_state, memory), loss, seen


def run(
    family: TaskFamily,
    spec: Spec,
    make_optimizer: MakeOptimizer,
    hyper: Hyper,
    keys: Keys,
    *,
    num_records: int,
    record_every: jax.Array | int,
    eval_batches: int,
    evaluated: Evaluated = last_params,
) -> Curve:
    """Trains once.

    The training has `num_records * record_every` steps. Step t draws its batch from
    `keys.steps` folded with t, so that it does not depend on how steps are recorded.

    Args:
        family: of the task.
        spec: which task of the family.
        make_optimizer: gives the optax optimizer.
        hyper: the candidate that is trained with.
        keys: all randomness.
        num_records: points on the curve; static.
        record_every: steps per point; may be traced, so that trainings of any length
            share one program.
        eval_batches: batches per evaluation; static.
        evaluated: of the optimizer.

    Returns:
        The curve. Non-finite values are left in it.
    """
    task = family.task(spec)
    tx = optax.with_extra_args_support(
        make_optimizer(hyper, jnp.asarray(num_records * record_every))
    )

    def step(count: jax.Array, state: Any) -> Any:
        training, total = state
        training, loss, _ = training_step(task, tx, keys, count, training)
        return training, total + loss

    def interval(state: Any, record: jax.Array) -> tuple[Any, jax.Array]:
        start = record * record_every
        state, total = jax.lax.fori_loop(
            start, start + record_every, step, (state, jnp.zeros(()))
        )
        return state, total / record_every

    start = begin_training(task, tx, keys)
    initial = evaluate_params(task, start.params, keys.evaluation, eval_batches)
    (params, opt_state, _), losses = jax.lax.scan(
        interval, start, jnp.arange(num_records)
    )
    params = evaluated(opt_state, params)
    final = evaluate_params(task, params, keys.evaluation, eval_batches)
    return Curve(initial=initial, train_loss=losses, final=final)


@functools.partial(
    jax.jit,
    static_argnames=("make_optimizer", "num_records", "eval_batches", "evaluated"),
)
def run_grid(
    family: TaskFamily,
    specs: Spec,
    make_optimizer: MakeOptimizer,
    hypers: Hyper,
    seeds: jax.Array,
    *,
    num_records: int,
    record_every: jax.Array | int,
    eval_batches: int,
    evaluated: Evaluated = last_params,
) -> Curve:
    """Trains every candidate at every seed, in one program.

    It compiles once for the shapes of the family, the optimizer, and the numbers of
    candidates, seeds, records and batches; the length of the training is traced.

    Args:
        family: of the task; a traced pytree, so that its data are not constants.
        specs: the task of each seed, stacked on a leading axis.
        make_optimizer: gives the optax optimizer; static.
        hypers: candidates, stacked on a leading axis.
        seeds: `[seeds]` integers.
        num_records: points on a curve; static.
        record_every: steps per point.
        eval_batches: batches per evaluation; static.
        evaluated: of the optimizer; static.

    Returns:
        Curves with leading axes `[candidates, seeds]`.
    """

    def one(hyper: Hyper, spec: Spec, seed: jax.Array) -> Curve:
        return run(
            family,
            spec,
            make_optimizer,
            hyper,
            derive_keys(seed),
            num_records=num_records,
            record_every=record_every,
            eval_batches=eval_batches,
            evaluated=evaluated,
        )

    over_seeds = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(over_seeds, in_axes=(0, None, None))(hypers, specs, seeds)
