"""Which theta of a run is the best: judged on a small suite as it goes on."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2o.learned.base import LearnedOptimizer, Theta
from meta_test.evaluate import Protocol, evaluate
from meta_test.optimizers import learned
from meta_test.suites import Cell, Suite


FLOOR = 1e-3
"""Normalised losses well below it are all as good."""

WORST = 2.0
"""What a training counts that did not end with a finite loss."""


class Best(NamedTuple):
    """The best theta so far."""

    score: float
    step: int  # the outer step after which it was judged


def score(
    lopt: LearnedOptimizer,
    theta: Theta,
    suite: Suite,
    check: Callable[[], None] = lambda: None,
) -> float:
    r"""How well an optimizer trains the tasks of a suite; lower is better.

    $$ \frac{1}{|C|} \sum_{c \in C} \log_{10}(\max(\tilde L_c, 0) + 10^{-3}) $$

    over the cells c, with the median over the seeds of the final test loss, normalised
    as the task does; what is not finite counts as 2. About 0 where nothing is learned.

    Args:
        lopt: the architecture.
        theta: its meta-parameters.
        suite: what to train on.
        check: called before every cell; what it raises ends the judgement.
    """
    contender = learned("theta", lopt, theta)
    report = evaluate(
        [contender],
        suite,
        protocol=Protocol(evaluations=1),
        on_progress=lambda _: check(),
    )
    losses = {r.cell: np.asarray(r.fitted.curve.final.test_loss) for r in report.rows}
    scores = []
    for cell in suite.cells:
        values = np.nan_to_num(_normalised(cell, losses[cell.name]), nan=WORST)
        level = max(float(np.median(np.minimum(values, WORST))), 0.0)
        scores.append(np.log10(level + FLOOR))
    return float(np.mean(scores))


def _normalised(cell: Cell, losses: np.ndarray) -> np.ndarray:
    """Losses `[seeds]` on the scale that the tasks of a cell share."""
    family = cell.family()
    one = lambda spec, loss: family.task(spec).normalise(loss)
    return np.asarray(jax.vmap(one)(cell.specs(family), jnp.asarray(losses)))
