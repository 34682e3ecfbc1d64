"""One training, measured from within: what `l2o inspect` computes."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.config import require_positive_int
from l2o.gradients import angle
from l2o.inspect import (
    cosine_similarity,
    effective_learning_rates,
    hessian_vector_product,
    largest_eigenvalues,
    stable_ranks,
)
from l2o.inspect.vectors import widen
from l2o.trees import by_path
from meta_test.inner_loop import (
    Hyper,
    MakeOptimizer,
    Seen,
    begin_training,
    derive_keys,
    step_batch,
    training_step,
)
from meta_test.optimizers import Contender
from tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    r"""What a training looked like, at the last step of each record.

    The gradient g is what the optimizer was given, the update u what it added to the
    parameters; curvature and ranks are those of the parameters before that update.
    Numbers are float32, and non-finite where the training is.

    Attributes:
        optimizer: name of the contender.
        candidate: label of its candidate; a learning rate, for most baselines.
        learned: whether it came from meta-training.
        shapes: of the parameters, by the path to a tensor: "Dense_0/kernel".
        steps: `[records]` integers, numbers of the measured steps; the first step is 1.
        loss: `[records]`, mean training loss of the steps since the last record.
        gradient_norm: `[records]`, |g| over all parameters.
        update_norm: `[records]`, |u| over all parameters.
        cosine: `[records]`, of the angle between -u and g: 1 for gradient descent.
        alignment: `[records]`, the angle between g and the gradient that
            backpropagation gives of the loss of the same batch, in degrees: 0 where
            that is the source of gradients, below 90 where a small step along -g
            descends.
        sharpness: `[records]`, the algebraically largest eigenvalue of the Hessian of
            the loss of one batch of training data, the same at every record.
        update_sizes: root mean square of u by tensor, `[records]` each.
        effective_rates: |u| / |g| by tensor, `[records]` each.
        stable_ranks: of the tensors of two axes or more, `[records]` each.
    """

    optimizer: str
    candidate: str
    learned: bool
    shapes: Mapping[str, tuple[int, ...]]
    steps: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    update_norm: np.ndarray
    cosine: np.ndarray
    alignment: np.ndarray
    sharpness: np.ndarray
    update_sizes: Mapping[str, np.ndarray]
    effective_rates: Mapping[str, np.ndarray]
    stable_ranks: Mapping[str, np.ndarray]

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def critical(self) -> np.ndarray:
        r"""The sharpness above which gradient descent with steps so long is unstable.

        $$ \frac{2}{\eta}, \qquad \eta = \frac{|u|}{|g|} $$

        `[records]`. For plain SGD $\eta$ is the learning rate, and full-batch training
        makes the sharpness rise to this level and hover there. For other optimizers,
        whose stability depends on their preconditioner, it is a rough guide.

        Source: Cohen et al. 2021, "Gradient descent on neural networks typically occurs
        at the edge of stability", arXiv 2103.00065.
        """
        # At rest it is infinite, or undefined where there is no gradient either.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return 2.0 / (self.update_norm / self.gradient_norm)


def inspect_training(
    family: TaskFamily,
    contender: Contender,
    *,
    candidate: int = 0,
    steps: int,
    records: int = 50,
    seed: int = 0,
    lanczos_steps: int = 20,
) -> Inspection:
    """Trains once on the nominal task of a family and measures on the way.

    It is the training of `meta_test.inner_loop.run` with the keys of this seed.

    Args:
        family: of the task.
        contender: the optimizer.
        candidate: which of its candidates, counted from 0.
        steps: of the training.
        records: how often is measured; at the last step of each of as many equal parts.
        seed: of the initial parameters and the batches.
        lanczos_steps: Hessian-vector products per record, at most one a parameter; they
            cost about two gradients each.

    Returns:
        The measurements, on the host.

    Raises:
        ValueError: a number is not positive, `records` does not divide `steps`, or
            there is no such candidate.
    """
    require_positive_int("steps", steps)
    require_positive_int("records", records)
    require_positive_int("lanczos_steps", lanczos_steps)
    if steps % records:
        raise ValueError(f"records must divide steps = {steps}, got {records}")
    if not 0 <= candidate < len(contender.labels):
        raise ValueError(
            f"candidate of {contender.name} must be in 0..{len(contender.labels) - 1}, "
            f"got {candidate}"
        )
    every = steps // records
    spec = family.nominal()
    init = lambda: family.task(spec).init(jax.random.key(0))
    measured = _train(
        family,
        spec,
        contender.make,
        jax.tree.map(lambda x: x[candidate], contender.candidates),
        seed,
        records=records,
        every=every,
        lanczos_steps=lanczos_steps,
    )
    return Inspection(
        optimizer=contender.name,
        candidate=contender.labels[candidate],
        learned=contender.learned,
        shapes={name: x.shape for name, x in _named(jax.eval_shape(init)).items()},
        steps=every * np.arange(1, records + 1),
        **jax.device_get(measured),
    )


@functools.partial(
    jax.jit, static_argnames=("make_optimizer", "records", "lanczos_steps")
)
def _train(
    family: TaskFamily,
    spec: Any,
    make_optimizer: MakeOptimizer,
    hyper: Hyper,
    seed: jax.Array | int,
    *,
    records: int,
    every: jax.Array | int,
    lanczos_steps: int,
) -> dict[str, Any]:
    """The fields of `Inspection` that are measured, `[records]` each."""
    task, keys = family.task(spec), derive_keys(seed)
    tx = optax.with_extra_args_support(
        make_optimizer(hyper, jnp.asarray(records * every))
    )
    start = begin_training(task, tx, keys)

    batch_key, loss_key, lanczos_key = jax.random.split(keys.evaluation, 3)
    fixed_batch = task.batch(batch_key, "train")
    fixed_loss = lambda params: task.loss(params, loss_key, fixed_batch)[0]
    num_parameters = sum(x.size for x in jax.tree.leaves(start.params))

    def measure(seen: Seen, count: jax.Array) -> dict[str, Any]:
        step_key, batch = step_batch(task, keys, count)
        slope = jax.grad(lambda params: task.loss(params, step_key, batch)[0])
        product = lambda v: hessian_vector_product(fixed_loss, seen.params, v)
        size = min(lanczos_steps, num_parameters)
        top = largest_eigenvalues(product, seen.params, lanczos_key, 1, size)
        grads, updates = widen(seen.grads), widen(seen.updates)
        root_mean_square = lambda u: jnp.sqrt(jnp.mean(jnp.square(u)))
        return {
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "cosine": cosine_similarity(optax.tree.scale(-1.0, updates), grads),
            "alignment": angle(grads, widen(slope(seen.params))),
            "sharpness": top[0],
            "update_sizes": _named(jax.tree.map(root_mean_square, updates)),
            "effective_rates": _named(effective_learning_rates(updates, grads)),
            "stable_ranks": _named(stable_ranks(seen.params)),
        }

    def record(state: Any, index: jax.Array) -> tuple[Any, dict[str, Any]]:
        def one(count: jax.Array, carry: Any) -> Any:
            state, total, _ = carry
            state, loss, seen = training_step(task, tx, keys, count, state)
            return state, total + loss, seen

        # The loop hands out its last step: to measure it apart would be to compile the
        # optimizer twice. What is handed in is never looked at.
        like = jax.eval_shape(
            lambda state: training_step(task, tx, keys, index, state)[2], state
        )
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        first = index * every
        after = first + every
        state, total, seen = jax.lax.fori_loop(
            first, after, one, (state, jnp.zeros(()), blank)
        )
        return state, {"loss": total / every, **measure(seen, after - 1)}

    return jax.lax.scan(record, start, jnp.arange(records))[1]


def _named(tree: Any) -> dict[str, Any]:
    """The leaves by their paths; a tree that is one leaf has the path "params"."""
    return {"/".join(path) or "params": x for path, x in by_path(tree).items()}


def as_json(inspection: Inspection) -> dict[str, Any]:
    """The measurements as a tree that strict JSON can hold.

    Returns:
        Dicts, lists, strings, finite numbers, and None for what is not finite.
    """
    fields = [field.name for field in dataclasses.fields(inspection)]
    derived = ["num_parameters", "critical"]
    return {name: _strict(getattr(inspection, name)) for name in fields + derived}


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _strict(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return _strict(value.tolist())
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        # Nine digits tell any two float32 apart.
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
