"""One training, measured from within: what `l2o inspect` computes and draws."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2o.config import require_positive_int
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
    training_step,
)
from meta_test.optimizers import Contender
from tasks.base import TaskFamily


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MAX_TENSORS = 12
"""So many tensors are drawn, the largest: more lines are not told apart."""


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

    def measure(seen: Seen) -> dict[str, Any]:
        product = lambda v: hessian_vector_product(fixed_loss, seen.params, v)
        size = min(lanczos_steps, num_parameters)
        top = largest_eigenvalues(product, seen.params, lanczos_key, 1, size)
        grads, updates = widen(seen.grads), widen(seen.updates)
        root_mean_square = lambda u: jnp.sqrt(jnp.mean(jnp.square(u)))
        return {
            "gradient_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "cosine": cosine_similarity(optax.tree.scale(-1.0, updates), grads),
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
        state, total, seen = jax.lax.fori_loop(
            first, first + every, one, (state, jnp.zeros(()), blank)
        )
        return state, {"loss": total / every, **measure(seen)}

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


# Colours of Okabe and Ito, told apart by colour-blind eyes; of tensors beyond these the
# lines are dashed.
_TENSORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#B8A000", "#8C8C8C"),
)


def draw(inspection: Inspection) -> "Figure":
    """Draws every measurement against the number of the step.

    Of the tensors the `MAX_TENSORS` largest are drawn. Logarithmic panels leave out
    what is not finite or not above 0.

    Args:
        inspection: of any training, also of one that diverged.

    Returns:
        A matplotlib figure that no window or global state knows of.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17.0, 7.4), layout="constrained")
    panels = figure.subplots(2, 4)
    (loss, norms, sharpness, cosine), (sizes, rates, ranks, legend) = panels
    look: dict[str, Any] = {"color": "#D55E00" if inspection.learned else "#0072B2"}
    steps = inspection.steps

    _line(loss, steps, inspection.loss, **look)
    _title(loss, "Training loss", "mean since the last record")
    _line(norms, steps, inspection.gradient_norm, label="gradient", color="#333333")
    _line(norms, steps, inspection.update_norm, label="update", **look)
    _title(norms, "Gradient and update", "Euclidean norm, all parameters")
    _line(sharpness, steps, inspection.sharpness, label="sharpness", **look)
    _line(
        sharpness,
        steps,
        inspection.critical,
        label="edge of stability: 2 / learning rate,\nas |update| / |gradient|",
        color="#333333",
        linestyle="--",
    )
    _title(sharpness, "Sharpness", "largest eigenvalue of the Hessian")
    _line(cosine, steps, inspection.cosine, **look)
    _title(cosine, "Is it gradient descent?", "cosine of -update and gradient")

    drawn = _largest(inspection.shapes)
    left_out = len(inspection.shapes) - len(drawn)
    for index, name in enumerate(drawn):
        shape = " x ".join(map(str, inspection.shapes[name])) or "scalar"
        style = {
            "color": _TENSORS[index % len(_TENSORS)],
            "linestyle": "-" if index < len(_TENSORS) else "--",
            "label": f"{_short(name)}  ({shape})",
        }
        _line(sizes, steps, inspection.update_sizes[name], **style)
        _line(rates, steps, inspection.effective_rates[name], **style)
        if name in inspection.stable_ranks:
            _line(ranks, steps, inspection.stable_ranks[name], **style)
    beside = f" ({left_out} smaller tensors left out)" if left_out else ""
    _title(sizes, f"Update sizes{beside}", "root mean square, by tensor")
    _title(rates, "Effective learning rates", "|update| / |gradient|, by tensor")
    _title(ranks, "Stable ranks of matrices", "sum of $s^2$ / largest $s^2$, by tensor")

    for axes in (loss, norms, sharpness, sizes, rates):
        _logarithmic(axes)
    for axes in (norms, sharpness):
        axes.legend(fontsize=8, framealpha=0.8, edgecolor="none")
    lowest = np.nanmin([0.0, *inspection.cosine[np.isfinite(inspection.cosine)]])
    cosine.set_ylim(min(-0.1, lowest - 0.1), 1.05)
    cosine.axhline(0.0, color="#AAAAAA", linewidth=0.8, zorder=1)
    for axes in panels.flat[:-1]:  # They look like those of `meta_test.figure`.
        axes.set_xlim(0, steps[-1] * 1.01)
        axes.set_xlabel("step", fontsize=9)
        axes.grid(True, which="major", color="#E6E6E6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8.5)
    legend.set_axis_off()
    legend.legend(
        *sizes.get_legend_handles_labels(),
        loc="upper left",
        frameon=False,
        fontsize=9,
        title="tensors, the largest first",
        title_fontsize=9,
        alignment="left",
    )
    figure.suptitle(f"{_heading(inspection)}\n", fontsize=13)
    return figure


def write(inspection: Inspection, path: Path) -> None:
    """Draws into a file, whose suffix says in which format.

    The file is whole or not there; an older one is replaced.

    Raises:
        ValueError: matplotlib does not know that format.
    """
    figure = draw(inspection)
    known = sorted(figure.canvas.get_supported_filetypes())
    if path.suffix.removeprefix(".") not in known:
        raise ValueError(f"a picture must end in one of {', '.join(known)}, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix comes last, for matplotlib reads it.
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        figure.savefig(partial, dpi=130)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _heading(inspection: Inspection) -> str:
    """Who was trained, and where the training broke off."""
    who = inspection.optimizer
    if not inspection.learned:
        who += f" at {inspection.candidate}"
    text = f"{who}, {inspection.num_parameters:,} parameters"
    broken = inspection.steps[~np.isfinite(inspection.loss)]
    return f"{text}: loss not finite by step {broken[0]}" if broken.size else text


def _largest(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """The tensors that are drawn, the largest first."""
    return sorted(shapes, key=lambda name: -math.prod(shapes[name]))[:MAX_TENSORS]


def _short(name: str, length: int = 34) -> str:
    """The end of a path, where tensors differ."""
    return name if len(name) <= length else f"...{name[3 - length :]}"


def _line(axes: "Axes", steps: np.ndarray, values: np.ndarray, **look: Any) -> None:
    # Small dots: a record between two that are not finite is no line.
    shown = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    axes.plot(steps, shown, linewidth=1.4, marker=".", markersize=3, **look)


def _title(axes: "Axes", title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axes.set_ylabel(unit, fontsize=9)


def _logarithmic(axes: "Axes") -> None:
    """Makes the vertical axis logarithmic and at least one decade high."""
    drawn = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines])
    positive = drawn[drawn > 0]
    if not positive.size:
        positive = np.ones(1)  # A panel of the same kind, with nothing in it.
    low, high = np.log10(positive.min()), np.log10(positive.max())
    # What does not change is a flat line and not a picture of rounding errors.
    margin = max(0.05 * (high - low), 0.5 * (1.0 - (high - low)))
    # The limits first: a scale that has to find them warns where nothing is positive.
    axes.set_ylim(10 ** (low - margin), 10 ** (high + margin))
    axes.set_yscale("log", nonpositive="mask")
