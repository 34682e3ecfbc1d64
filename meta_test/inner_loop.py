"""The inner loop: any optax optimizer on any task, as one compiled program."""

import math
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


Summarised = Callable[[Any], dict[str, jax.Array]]
"""`(state) -> arrays by name`: what a report tells of an optimizer's last state."""


def no_summary(state: Any) -> dict[str, jax.Array]:
    """Nothing: `Summarised` of most optimizers."""
    del state
    return {}


EVALUATION_DOMAIN = 0x65_76_61_6C
"""Folded into every key of meta-testing, and into no key of meta-training.

Seed 3 of an evaluation and seed 3 of a meta-training thus draw different
initialisations, tasks and batches. (The bytes spell "eval".)
"""


class Evaluation(NamedTuple):
    """How good parameters are, as means over fixed batches; float32.

    `valid` is the split `inner_valid`, which tuning may look at.
    """

    train_loss: jax.Array
    valid_loss: jax.Array
    test_loss: jax.Array
    train_accuracy: jax.Array  # nan where the task has none
    valid_accuracy: jax.Array
    test_accuracy: jax.Array


class Curve(NamedTuple):
    """What one training leaves behind; float32.

    Many trainings are this tree with leading axes.
    """

    initial: Evaluation
    train_loss: jax.Array  # [num_records], mean over the steps since the last record
    evaluations: Evaluation  # [evaluations] each, at as many equal parts of the steps
    steps: jax.Array  # integer; fewer than planned where the training was given up
    summary: dict[str, jax.Array] = no_summary(None)  # of the optimizer's last state

    @property
    def final(self) -> Evaluation:
        """The last evaluation."""
        return jax.tree.map(lambda x: x[..., -1], self.evaluations)


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
    """Keys of the training with this seed.

    Args:
        seed: an integer, which may be traced; or `[4]` of them, in the order of `Keys`,
            each of which has the seed that it is of.
    """
    if jnp.ndim(seed):
        return Keys(*(derive_keys(one)[i] for i, one in enumerate(jnp.asarray(seed))))
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
        Means over the batches of the splits `train`, `inner_valid` and `test`.
    """
    return _as_evaluation(_evaluate(task, params, key, num_batches))


def _as_evaluation(values: jax.Array) -> Evaluation:
    """Fields of `[..., 2, 3]`: loss and accuracy of three splits."""
    shape = values.shape[:-2]
    # Neighbours in one row: XLA takes them apart and together again for nothing.
    row = jnp.moveaxis(values, (-2, -1), (0, 1)).reshape(-1)
    return Evaluation(*(part.reshape(shape) for part in jnp.split(row, 6)))


def _evaluate(task: Task, params: Any, key: jax.Array, num_batches: int) -> jax.Array:
    """The values of `evaluate_params` in one array, which is sooner compiled.

    Returns:
        `[2, 3]`, losses and accuracies of the splits.
    """
    splits: tuple[Split, ...] = ("train", "inner_valid", "test")

    def body(carry: None, key: jax.Array) -> tuple[None, Any]:
        batch_key, loss_key = jax.random.split(key)
        batches = [task.batch(batch_key, split) for split in splits]

        def one(carry: None, batch: Any) -> tuple[None, Any]:
            loss, aux = task.loss(params, loss_key, batch)
            accuracy = jnp.asarray(aux.get("accuracy", jnp.nan), jnp.float32)
            return carry, (loss, accuracy)

        # So that the loss is compiled once and not once a split.
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        return jax.lax.scan(one, carry, stacked, length=len(splits))

    # Scans and not vmaps: the memory is that of one batch of each split.
    _, values = jax.lax.scan(body, None, jax.random.split(key, num_batches))
    return jnp.mean(jnp.stack(values), axis=1)


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


def step_batch(task: Task, keys: Keys, count: jax.Array) -> tuple[jax.Array, Any]:
    """The key of the loss and the batch of step number `count`."""
    batch_key, loss_key = jax.random.split(jax.random.fold_in(keys.steps, count))
    return loss_key, task.batch(batch_key, "train")


def training_step(
    task: Task,
    tx: optax.GradientTransformationExtraArgs,
    keys: Keys,
    count: jax.Array,
    training: Training,
) -> tuple[Training, jax.Array, Seen]:
    """Step number `count`: the training after it, its loss, and what it saw."""
    params, opt_state, memory = training
    loss_key, batch = step_batch(task, keys, count)
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


HOPELESS = 1.0
"""How far above the initial loss tuning gives a training up, in units of it."""


class _Running(NamedTuple):
    """A training between two records."""

    training: Training
    going: jax.Array  # bool; false once it is given up
    limit: jax.Array  # a mean loss above it is hopeless
    steps: jax.Array  # int32: made
    losses: jax.Array  # [num_records], so far


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
    evaluations: int = 1,
    evaluated: Evaluated = last_params,
    summarised: Summarised = no_summary,
    hopeless: jax.Array | float = math.inf,
) -> Curve:
    r"""Trains once.

    The training has `num_records * record_every` steps. Step t draws its batch from
    `keys.steps` folded with t, so that it does not depend on how steps are recorded.

    It is given up once the mean loss since the last record is not finite or, after the
    first quarter, above $L_0 + h |L_0|$ with the initial loss $L_0$ and h = `hopeless`.
    What was not reached is NaN, which counts as diverged.

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
        evaluations: of the parameters, after as many equal parts of the training; a
            divisor of `num_records`; static.
        evaluated: of the optimizer.
        summarised: of the optimizer.
        hopeless: as above.

    Returns:
        The curve. Non-finite values are left in it.

    Raises:
        ValueError: `evaluations` does not divide `num_records`.
    """
    if evaluations < 1 or num_records % evaluations:
        raise ValueError(
            f"evaluations must divide the {num_records} records, got {evaluations}"
        )
    task = family.task(spec)
    tx = optax.with_extra_args_support(
        make_optimizer(hyper, jnp.asarray(num_records * record_every))
    )
    start = begin_training(task, tx, keys)
    per_part = num_records // evaluations

    def step(count: jax.Array, state: Any) -> Any:
        training, total = state
        training, loss, _ = training_step(task, tx, keys, count, training)
        return training, total + loss

    def interval(record: jax.Array, state: _Running) -> _Running:
        first = record * record_every

        def go(training: Training) -> tuple[Training, jax.Array]:
            training, total = jax.lax.fori_loop(
                first, first + record_every, step, (training, jnp.zeros(()))
            )
            return training, total / record_every

        stay = lambda training: (training, jnp.full((), jnp.nan))
        training, loss = jax.lax.cond(state.going, go, stay, state.training)
        early = record < num_records // 4
        return _Running(
            training=training,
            going=state.going & jnp.isfinite(loss) & (early | (loss <= state.limit)),
            limit=state.limit,
            steps=state.steps + state.going * record_every,
            losses=state.losses.at[record].set(loss),
        )

    def part(state: _Running, number: jax.Array) -> tuple[_Running, jax.Array]:
        # Part 0 has no steps: the initial parameters are judged by the code that
        # judges all others, which is compiled once.
        first = jnp.maximum(number - 1, 0) * per_part
        state = jax.lax.fori_loop(first, number * per_part, interval, state)
        training, initial = state.training, number == 0
        params = jax.tree.map(
            lambda ours, theirs: jnp.where(initial, ours, theirs),
            training.params,
            evaluated(training.opt_state, training.params),
        )
        judge = lambda params: _evaluate(task, params, keys.evaluation, eval_batches)
        nothing = lambda _: jnp.full((2, 3), jnp.nan)
        found = jax.lax.cond(state.going, judge, nothing, params)
        train_loss = _as_evaluation(found).train_loss
        above = train_loss + hopeless * jnp.abs(train_loss)
        above = jnp.where(jnp.isfinite(hopeless), above, jnp.inf)
        return state._replace(limit=jnp.where(initial, above, state.limit)), found

    state = _Running(
        training=start,
        going=jnp.asarray(True),
        limit=jnp.asarray(jnp.inf),
        steps=jnp.zeros((), jnp.int32),
        losses=jnp.full((num_records,), jnp.nan),
    )
    last, found = jax.lax.scan(part, state, jnp.arange(evaluations + 1))
    return Curve(
        initial=_as_evaluation(found[0]),
        train_loss=last.losses,
        evaluations=_as_evaluation(found[1:]),
        steps=last.steps,
        summary=summarised(last.training.opt_state),
    )
