"""Bias, variance and cost of meta-gradients, estimator by estimator."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from l2o.learned import LearnedOptimizer
from l2o.learned.base import Theta
from meta_test.compilation import compiler_options
from meta_test.families import build_family
from meta_test.pictures import save
from meta_train.bench.timing import median_seconds
from meta_train.build import block_mesh, build_method, build_optimizer
from meta_train.config import EstimatorConfig
from meta_train.devices import use_all_cores
from meta_train.estimators.span import SPANS
from meta_train.estimators.windows import WindowEstimator
from meta_train.meta_loss import MetaLoss
from meta_train.schedules import Constant
from tasks.base import TaskFamily


if TYPE_CHECKING:
    from matplotlib.figure import Figure

ESTIMATORS: dict[str, dict[str, Any]] = {
    "full ES": {"credit": "fresh", "span": "problem"},
    "truncated ES": {"credit": "fresh"},
    "PES": {"credit": "persistent"},
    "noise-reuse ES": {"credit": "reused"},
    "truncated backprop": {"method": "backpropagation"},
    "full backprop": {"method": "backpropagation", "span": "problem"},
    "truncated mixture": {"method": "mixture"},
    "full mixture": {"method": "mixture", "span": "problem"},
}
"""What is measured, as fields of `EstimatorConfig`."""


CHEAP = 8
"""Evolution strategies have more variance, and take less time for an estimate."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A meta-gradient to estimate.

    Attributes:
        family: the problems.
        lopt: the architecture.
        theta: where the meta-gradient is taken.
        horizon: inner steps of a problem.
        window: inner steps of a window.
        sigma: deviation of the noise.
        units: antithetic pairs, or problems of backpropagation.
        problems: how many problems each unit goes through; `CHEAP` times as many where
            nothing is differentiated.
    """

    family: TaskFamily
    lopt: LearnedOptimizer
    theta: Theta
    horizon: int
    window: int
    sigma: float = 0.01
    units: int = 8
    problems: int = 64


class Samples(NamedTuple):
    """Independent estimates of one meta-gradient."""

    gradients: np.ndarray  # [n, size of theta]
    seconds: float  # of each
    inner_steps: int  # of each


def cases() -> dict[str, Case]:
    """The two tasks of `l2o bench estimators`."""
    adam = build_optimizer({"arch": "learnable_adam"})
    mlp = build_optimizer({"arch": "small_fc"})
    return {
        "quadratic, learnable Adam": Case(
            build_family({"family": "quadratic", "dim": 8}),
            adam,
            adam.init_theta(jax.random.key(0)),
            horizon=100,
            window=20,
        ),
        "digits 64-8-10, small_fc": Case(
            build_family({"family": "image_mlp", "data": "digits", "hidden": [8]}),
            mlp,
            mlp.init_theta(jax.random.key(0)),
            horizon=100,
            window=25,
            problems=32,
        ),
    }


def estimators(say: Callable[[str], None]) -> dict[str, Any]:
    """Measures every estimator on both tasks.

    An estimate here is what all units give over one problem each: a whole-problem
    estimate, or the mean over the windows of a problem, so that all are estimates of
    the gradient of the mean training loss over the problem, at the same theta.

    The reference is the mean of many estimates by the mixture over whole problems,
    of twice as many units and problems: unbiased but for the choice of its weights.

    Args:
        say: told what is being measured.

    Returns:
        Per task, `reference_error` (standard error of the reference, relative to its
        norm) and per estimator what `compare` gives.
    """
    use_all_cores()
    results: dict[str, Any] = {}
    for name, case in cases().items():
        say(f"{name}: reference")
        many = dataclasses.replace(
            case, units=2 * case.units, problems=2 * case.problems
        )
        reference = measure(many, ESTIMATORS["full mixture"], seed=1).gradients
        rows = {}
        for estimator, fields in ESTIMATORS.items():
            say(f"{name}: {estimator}")
            rows[estimator] = compare(measure(case, fields), reference)
        error = np.sqrt(_variance(reference) / len(reference))
        norm = np.linalg.norm(reference.mean(axis=0))
        results[name] = {
            "reference_error": float(error / norm),
            "estimators": rows,
        }
    return {
        "tasks": results,
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }


def measure(case: Case, fields: Mapping[str, Any], seed: int = 0) -> Samples:
    """Estimates of a meta-gradient, and the time that each takes.

    Args:
        case: what is estimated.
        fields: of `EstimatorConfig`, from `ESTIMATORS`.
        seed: of everything random.
    """
    config = EstimatorConfig(
        sigma=case.sigma,
        pairs=case.units,
        block=math.gcd(case.units, 4),
        window=case.window,
        **fields,
    )
    estimator = WindowEstimator(
        family=case.family,
        lopt=case.lopt,
        schedule=Constant(case.horizon),
        span=SPANS[config.span](case.window),
        method=build_method(config),
        meta_loss=MetaLoss(),
        units=config.pairs,
        block=config.block,
        mesh=block_mesh(config),
    )
    windows = 1 if config.span == "problem" else case.horizon // case.window
    problems = case.problems * (CHEAP if config.method == "evolution" else 1)
    theta, _ = ravel_pytree(case.theta)

    def run(estimator: WindowEstimator, theta: jax.Array, key: jax.Array) -> Any:
        def body(state: Any, i: jax.Array) -> Any:
            estimate, state = estimator.estimate(
                theta, state, jax.random.fold_in(key, i), i
            )
            return state, (estimate.gradient, estimate.inner_steps)

        state = estimator.init(theta, key)
        count = jnp.arange(problems * windows, dtype=jnp.int32)
        return jax.lax.scan(body, state, count)[1]

    arguments = estimator, theta, jax.random.key(seed)
    compiled = jax.jit(run).lower(*arguments).compile(compiler_options())
    gradients, steps = jax.device_get(compiled(*arguments))
    [seconds] = median_seconds(
        [lambda: jax.block_until_ready(compiled(*arguments)) and None],
        warm_up=0,
        repeats=1,
    )
    # The windows of one problem follow each other.
    cycles = gradients.reshape(problems, windows, -1).mean(axis=1)
    return Samples(
        gradients=cycles.astype(np.float64),
        seconds=seconds / problems,
        inner_steps=int(steps.sum()) // problems,
    )


def compare(samples: Samples, reference: np.ndarray) -> dict[str, float]:
    r"""Bias and variance beside a reference, in units of its squared norm.

    With the mean m of n samples and M of the N of the reference, and the variances v
    and V summed over the entries,

    $$ \mathrm{bias}^2 = |m - M|^2 - v / n - V / N , $$

    which has the mean 0 where there is no bias; below zero it counts as 0.

    Args:
        samples: of the estimator.
        reference: `[N, size of theta]`.

    Returns:
        `bias` and its `bias_error` (the norm of the noise of m - M), `variance` of one
        sample, `seconds` and `inner_steps` of one, `cost`: variance times seconds, the
        time until the relative variance is 1, the same for any number of units; and
        `cosine` of one sample with M, on average.
    """
    gradients = samples.gradients
    mean, truth = gradients.mean(axis=0), reference.mean(axis=0)
    scale = np.linalg.norm(truth)
    variance = _variance(gradients)
    noise = variance / len(gradients) + _variance(reference) / len(reference)
    square = max(float(np.sum((mean - truth) ** 2)) - noise, 0.0)
    cosines = gradients @ truth / np.linalg.norm(gradients, axis=1) / scale
    relative = float(variance / scale**2)
    return {
        "bias": float(np.sqrt(square) / scale),
        "bias_error": float(np.sqrt(noise) / scale),
        "variance": relative,
        "seconds": samples.seconds,
        "inner_steps": samples.inner_steps,
        "cost": relative * samples.seconds,
        "cosine": float(np.mean(cosines)),
    }


def _variance(samples: np.ndarray) -> float:
    """Summed over the entries."""
    return float(samples.var(axis=0, ddof=1).sum())


def text(result: Mapping[str, Any]) -> str:
    """A table for people."""
    lines = []
    for name, task in result["tasks"].items():
        lines.append(
            f"{name} (error of the reference {task['reference_error']:.3f})\n"
            f"  {'':20}{'bias':>14}{'variance':>12}{'ms':>9}{'cost, ms':>11}"
            f"{'cosine':>9}"
        )
        for estimator, row in task["estimators"].items():
            bias = f"{row['bias']:.3f}+-{row['bias_error']:.3f}"
            lines.append(
                f"  {estimator:20}{bias:>14}{row['variance']:12.3g}"
                f"{1e3 * row['seconds']:9.2f}{1e3 * row['cost']:11.3g}"
                f"{row['cosine']:9.2f}"
            )
    return "\n".join([*lines, f"devices: {result['devices']}"])


def draw(result: Mapping[str, Any]) -> "Figure":
    """Cost per unit of variance against bias, one panel a task."""
    from matplotlib.figure import Figure

    tasks = result["tasks"]
    figure = Figure(figsize=(5.6 * len(tasks), 4.4), layout="constrained")
    panels: Any = figure.subplots(1, len(tasks), squeeze=False)
    colours = ["#D55E00", "#E69F00", "#000000", "#CC79A7"] + 2 * ["#0072B2"]
    colours += 2 * ["#009E73"]
    for axes, (name, task) in zip(panels.flat, tasks.items(), strict=True):
        for colour, (estimator, row) in zip(
            colours, task["estimators"].items(), strict=True
        ):
            truncated = estimator.startswith("truncated")
            axes.errorbar(
                row["bias"],
                row["cost"],
                xerr=row["bias_error"],
                color=colour,
                marker="s" if truncated else "o",
                mfc="white" if truncated else colour,
                ms=7,
                capsize=3,
                label=estimator,
                ls="none",
            )
        axes.set_yscale("log")
        axes.set_xlim(-0.2, 1.2)
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlabel("bias, relative to the gradient's norm")
        axes.grid(alpha=0.25, lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].set_ylabel("seconds until the relative variance is 1")
    panels[0, 0].legend(fontsize=8, frameon=False)
    return figure


def write(result: Mapping[str, Any], out: Path) -> None:
    """Draws the result into a file, as `meta_test.pictures.save`."""
    save(draw(result), out)
