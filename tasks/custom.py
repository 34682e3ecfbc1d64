"""A user's own model and arrays as a task family."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tasks.base import SPLITS, Batch, Params, Split, Task, TaskFamily, bounded, static
from tasks.checks import require_sizes
from tasks.classification import cross_entropy
from tasks.data.arrays import deal_places, draw_places
from tasks.network import NetworkChoices, NetworkSpec


FRACTIONS: Mapping[Split, float] = {
    "train": 0.7,
    "inner_valid": 0.1,
    "outer_valid": 0.1,
    "test": 0.1,
}

Aux = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Custom(TaskFamily):
    """Tasks of one model on one set of arrays; made by the functions below.

    Attributes:
        arrays: per split, a pytree whose leaves have one entry per example.
        start: the loss at initialisation, shape `()`; the unit of `normalise`.
        init: `(key) -> params`.
        loss: `(params, key, batch) -> (loss, aux)`, a mean over the examples.
        batch_size: examples per step.
        network: what is drawn for each task: the scale of its initial weights.
    """

    arrays: dict[Split, Any]
    start: jax.Array
    init: Callable[[jax.Array], Params] = dataclasses.field(metadata={"static": True})
    loss: Callable[..., tuple[jax.Array, Aux]] = dataclasses.field(
        metadata={"static": True}
    )
    batch_size: int = static(64)
    network: NetworkChoices = static(NetworkChoices())

    def sample(self, key: jax.Array) -> NetworkSpec:
        return self.network.sample(key)

    def nominal(self) -> NetworkSpec:
        return self.network.nominal()

    def task(self, spec: NetworkSpec) -> Task:
        def init(key: jax.Array) -> Params:
            return self.network.rescale(self.init(key), spec)

        def batch(key: jax.Array, split: Split) -> Batch:
            arrays = self.arrays[split]
            count = len(jax.tree.leaves(arrays)[0])
            places = draw_places(key, self.batch_size, (count,))
            return jax.tree.map(lambda x: x[places], arrays)

        def loss(params: Params, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
            return self.loss(params, key, batch)

        return Task(
            init=init,
            batch=batch,
            loss=loss,
            normalise=lambda loss: bounded(loss, self.start),
            examples=True,
        )


def from_functions(
    init: Callable[[jax.Array], Params],
    loss: Callable[..., Any],
    arrays: Any,
    *,
    batch_size: int = 64,
    init_scale: tuple[float, float] = (1.0, 1.0),
    fractions: Mapping[Split, float] = FRACTIONS,
    seed: int = 0,
    start: float | None = None,
) -> Custom:
    """A task family from two functions and arrays.

    Args:
        init: `(key) -> params`.
        loss: `(params, batch) -> loss` or `(params, key, batch) -> loss`, a scalar that
            is a mean over the examples, or a pair of it and a dict of scalars to show.
        arrays: a pytree of arrays with one entry per example on the leading axis; a
            batch is the same tree. They are brought to the device.
        batch_size: examples per step, drawn with replacement.
        init_scale: range of what multiplies the initial weights from task to task,
            sampled log-uniformly; of parameters of two or more axes.
        fractions: share of the examples in each split.
        seed: of the permutation that deals examples to the splits.
        start: the loss at initialisation, which is the unit of the meta-loss; by
            default the mean over four initialisations. Must be positive.

    Returns:
        A family to meta-train or to evaluate on.

    Raises:
        ValueError: leaves disagree in the number of examples, a split would be empty,
            or the loss is not a positive scalar at initialisation.
    """
    require_sizes("batch_size", [batch_size])
    leaves = [np.shape(leaf) for leaf in jax.tree.leaves(arrays)]
    counts = {shape[:1] for shape in leaves}
    if len(counts) != 1 or () in counts:
        raise ValueError(
            "arrays must have the same number of examples on their leading axes, "
            f"got shapes {', '.join(map(str, leaves))}"
        )
    [(count,)] = counts
    parts = deal_places(count, fractions, seed)
    if empty := [s for s in SPLITS if not len(parts[s])]:
        raise ValueError(
            f"every split must have examples, got {count} in all and none for "
            f"{', '.join(empty)}"
        )
    with_key = _number_of_arguments(loss) > 2

    def checked(params: Params, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        value = loss(params, key, batch) if with_key else loss(params, batch)
        value, aux = value if isinstance(value, tuple) else (value, {})
        if jnp.shape(value) != ():
            raise ValueError(
                f"loss must be a scalar for a batch, got shape {jnp.shape(value)}"
            )
        return jnp.asarray(value, jnp.float32), aux

    family = Custom(
        arrays={split: _take(arrays, places) for split, places in parts.items()},
        start=jnp.float32(1.0 if start is None else start),
        init=init,
        loss=checked,
        batch_size=batch_size,
        network=NetworkChoices(init_scale=init_scale),
    )
    measured = _initial_loss(family) if start is None else float(start)
    if not 0 < measured < float("inf"):
        raise ValueError(
            "the loss at initialisation must be finite and above 0, pass start=... "
            f"where it is not, got {measured:g}"
        )
    return dataclasses.replace(family, start=jnp.float32(measured))


def _number_of_arguments(function: Callable[..., Any]) -> int:
    """How many arguments must be given by their place."""
    parameters = inspect.signature(function).parameters.values()
    by_place = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return sum(p.kind in by_place and p.default is p.empty for p in parameters)


def _take(arrays: Any, places: np.ndarray) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[places]), arrays)


def _initial_loss(family: Custom) -> float:
    """Mean over four initialisations, each on one batch."""
    task = family.task(family.nominal())
    losses = []
    # Not jitted: what is wrong with a user's functions then shows in their own lines.
    for key in jax.random.split(jax.random.key(0), 4):
        init_key, batch_key, loss_key = jax.random.split(key, 3)
        batch = task.batch(batch_key, "train")
        losses.append(float(task.loss(task.init(init_key), loss_key, batch)[0]))
    return sum(losses) / len(losses)


def from_flax(
    module: nn.Module,
    arrays: tuple[Any, Any],
    *,
    loss: Literal["cross_entropy", "squared"] | Callable[[Any, Any], jax.Array],
    **settings: Any,
) -> Custom:
    """A task family from a flax module and arrays.

    Args:
        module: a linen module whose only variables are parameters, called on the inputs
            of a batch. Its random numbers, if it draws any, are called "dropout".
        arrays: `(inputs, targets)`, each with one entry per example.
        loss: of the module's outputs and the targets of a batch: `"cross_entropy"` of
            logits `[examples, classes]` and integer labels `[examples]`, `"squared"`,
            the mean of squared differences, or a function that returns a scalar.
        **settings: as for `from_functions`.

    Returns:
        A family to meta-train or to evaluate on.

    Raises:
        ValueError: the module has variables that are not parameters, or labels are not
            those of its logits; or as `from_functions` does.
    """
    if callable(loss):
        measure = lambda outputs, targets: (loss(outputs, targets), {})
    elif loss in _LOSSES:
        measure = _LOSSES[loss]
    else:
        raise ValueError(
            f"loss must be one of {', '.join(_LOSSES)} or a function, got {loss!r}"
        )
    inputs, targets = arrays
    example = jax.tree.map(lambda x: jnp.asarray(x)[:1], inputs)
    found = jax.eval_shape(module.init, jax.random.key(0), example)
    if others := sorted(set(found) - {"params"}):
        raise ValueError(
            "a module of a task must have parameters as its only variables, "
            f"got {', '.join(others)}"
        )

    if loss == "cross_entropy":
        logits = jax.eval_shape(
            lambda x: module.init_with_output(jax.random.key(0), x)[0], example
        )
        _require_labels(np.asarray(targets), logits.shape[-1])

    def init(key: jax.Array) -> Params:
        return module.init(key, example)["params"]

    def of_batch(params: Params, key: jax.Array, batch: Batch) -> tuple[jax.Array, Aux]:
        inputs, targets = batch
        outputs = module.apply({"params": params}, inputs, rngs={"dropout": key})
        return measure(outputs, targets)

    return from_functions(init, of_batch, arrays, **settings)


def _require_labels(labels: np.ndarray, classes: int) -> None:
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"labels must be 0 to {classes - 1}, as many as there are logits, got "
            f"{lowest} to {highest}"
        )


def _classified(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, Aux]:
    are_whole = jnp.issubdtype(labels.dtype, jnp.integer)
    if labels.shape != logits.shape[:-1] or not are_whole:
        raise ValueError(
            "labels must be integers, one for each row of logits, got "
            f"{labels.dtype}{list(labels.shape)} for logits {list(logits.shape)}"
        )
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return jnp.mean(cross_entropy(logits, targets)), {"accuracy": accuracy}


def _squared(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, Aux]:
    if outputs.shape != targets.shape:
        raise ValueError(
            "outputs and targets must have one shape, "
            f"got {outputs.shape} and {targets.shape}"
        )
    return jnp.mean(jnp.square(outputs - targets)), {}


_LOSSES: dict[str, Callable[[Any, Any], tuple[jax.Array, Aux]]] = {
    "cross_entropy": _classified,
    "squared": _squared,
}
