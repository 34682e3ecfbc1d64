"""Statistics over many tasks and seeds, for judging optimizers honestly.

The data are scores, one float array `[seeds]` per task; tasks may differ in their
number of seeds. A seed of a task is the same problem for every optimizer, so that
optimizers are compared pair by pair. Lower losses are better. A diverged training
counts as the worst value, plus infinity, and is never dropped; a nan is an error.

Intervals say how a result would vary with other seeds on the same tasks, or, where the
tasks are resampled too, on other tasks like these.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


Scores = Sequence[ArrayLike] | np.ndarray
"""One array `[seeds]` per task, or `[tasks, seeds]`."""


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    low: float
    estimate: float
    high: float


class Speedups(NamedTuple):
    """How many times faster than the reference, per seed."""

    values: np.ndarray
    bounded: np.ndarray  # where it is a bound, as a training missed the target


Verdict = Literal["better", "worse", "no difference"]


class Comparison(NamedTuple):
    """Two optimizers over the same tasks and seeds."""

    probability: Interval  # that ours has the lower loss
    p_value: float  # of the sign-flip test that they are exchangeable
    verdict: Verdict  # on ours


def normalised(losses: ArrayLike, initial: float, best: float) -> np.ndarray:
    """Losses of one task on a scale that tasks share.

    `(loss - best) / (initial - best)`, capped at 1: whatever ends no lower than it
    began is useless, and one useless training weighs no more than another. What beats
    the best baseline is below 0, without a floor.

    Args:
        losses: of any shape; plus infinity where the training diverged.
        initial: the loss at initialisation.
        best: the median loss of the best tuned baseline.

    Returns:
        Of the same shape, at most 1.

    Raises:
        ValueError: if the initial loss is not above the best one, one of them is not
            finite, or a loss is nan.
    """
    values = _numbers("losses", losses)
    if not (math.isfinite(initial) and math.isfinite(best) and initial > best):
        raise ValueError(
            f"the initial loss must be finite and above that of the best baseline, "
            f"got {initial} and {best}"
        )
    return np.minimum((values - best) / (initial - best), 1.0)


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half of a sample.

    Of n sorted values `int(n / 4)` are cut from each end, as in Agarwal et al., 2021,
    "Deep reinforcement learning at the edge of the statistical precipice". Infinite
    values among those cut do no harm. One that remains makes the mean infinite: more
    than a quarter of the trainings failed, and no number describes the middle half.

    As a statistic of scores, over all seeds of all tasks, it is
    `lambda tasks: interquartile_mean(np.concatenate(tasks))`.

    Args:
        values: of any shape, at least one.

    Returns:
        The mean.

    Raises:
        ValueError: if there are no values, one is nan, or infinities of both signs
            remain.
    """
    ordered = np.sort(_numbers("values", values), axis=None)
    if not len(ordered):
        raise ValueError("values must hold at least one value, got none")
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    if middle[0] == -np.inf and middle[-1] == np.inf:
        raise ValueError(
            "the middle half of values must not hold infinities of both signs, "
            f"got {middle[0]} and {middle[-1]}"
        )
    return float(middle.mean())


def stratified_bootstrap(
    scores: Scores,
    statistic: Callable[[list[np.ndarray]], float],
    *,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    over_tasks: bool = False,
) -> Interval:
    """Percentile interval of a statistic, by resampling the seeds within every task.

    As in Agarwal et al., 2021, and their library rliable: each resample draws, with
    replacement, as many seeds of a task as it has, and the interval lies between the
    quantiles `(1 - level) / 2` and `(1 + level) / 2` of the statistic. They are values
    that occurred, the outer ones where a quantile falls between two, and may be
    infinite.

    With few seeds the interval is too short: drawing n of n seeds gives a task's mean
    the variance `(n - 1) / n * s^2 / n`, where `s^2 / n` is unbiased. A task of one
    seed adds nothing to the width. `compare` mends both for its own statistic.

    Args:
        scores: one array `[seeds, ...]` per task. What lies on trailing axes, say the
            losses of two optimizers, is drawn together and so stays paired.
        statistic: of one array per task, shaped as in `scores`; must not change them.
        repetitions: number of resamples.
        level: share of the resamples within the interval, in (0, 1).
        seed: same seed, same interval.
        over_tasks: whether tasks are drawn with replacement too; a task that is drawn
            twice has its seeds drawn twice. The arrays then come in the order drawn.
            The interval is rather too long, as the spread of seeds counts twice: in the
            means of the tasks drawn, and in what is drawn of each.

    Returns:
        The interval around the statistic of `scores`.

    Raises:
        ValueError: if a task has no seeds, trailing axes differ, a score or a value of
            the statistic is nan, or a number is out of its range.
    """
    tasks = _tasks("scores", scores)
    if len({task.shape[1:] for task in tasks}) > 1:
        raise ValueError(
            "tasks must agree in all axes of scores but the first, got shapes "
            f"{[task.shape for task in tasks]}"
        )
    if repetitions < 1:
        raise ValueError(f"repetitions must be at least 1, got {repetitions}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    # Every seed of every task in one array, and where a task's seeds are in it: then
    # one call draws them all. Shorter tasks draw as many as the longest; the rest is
    # left over.
    sizes = np.array([len(task) for task in tasks])
    starts = np.cumsum(sizes) - sizes
    shape = (repetitions, len(tasks))
    # Numbers of a report, drawn on the host: no key is at hand, and none is needed.
    generator = np.random.default_rng(seed)  # noqa: TID251
    chosen = np.broadcast_to(np.arange(len(tasks)), shape)
    if over_tasks:
        chosen = generator.integers(len(tasks), size=shape)
    counts = sizes[chosen]
    seeds = generator.integers(counts[..., None], size=(*shape, sizes.max()))
    drawn = np.concatenate(tasks)[starts[chosen][..., None] + seeds]
    samples = np.array(
        [
            statistic([task[:count] for task, count in zip(*resample, strict=True)])
            for resample in zip(drawn, counts, strict=True)
        ]
    )
    estimate = float(statistic(tasks))
    undefined = int(np.isnan(samples).sum())
    if undefined or math.isnan(estimate):
        raise ValueError(
            f"the statistic must not be nan, got {estimate} for scores and nan for "
            f"{undefined} of {repetitions} resamples"
        )
    samples.sort()
    outside = (1 - level) / 2 * (repetitions - 1)
    low, high = samples[math.floor(outside)], samples[-1 - math.floor(outside)]
    return Interval(float(low), estimate, float(high))


def probability_of_improvement(ours: Scores, theirs: Scores) -> float:
    """How probable it is that ours has the lower loss at a seed of a task.

    The share of a task's seeds at which it has, where a tie, also of two infinities,
    counts one half; then the mean over tasks, so that each weighs the same. Agarwal et
    al., 2021, compare all seeds with all; here equal seeds are the same problem, and
    comparing these alone removes what the problem adds to both.

    Args:
        ours: losses, one array `[seeds]` per task.
        theirs: those of the other optimizer, at the same seeds.

    Returns:
        In [0, 1]; one half between equals.

    Raises:
        ValueError: if tasks or seeds do not match, there are none, or a loss is nan.
    """
    return float(np.mean([won.mean() for won in _wins(ours, theirs)]))


def performance_profile(costs: ArrayLike, factors: ArrayLike) -> np.ndarray:
    """On what share of problems each optimizer is within a factor of the best.

    `rho_s(tau) = |{p: c_sp / min_s c_sp <= tau}| / |{p}|`: Dolan and More, 2002,
    "Benchmarking optimization software with performance profiles". At 1 it is the share
    of problems on which an optimizer is best; for large factors, the share it solves.

    Args:
        costs: `[optimizers, problems]`, positive, say steps to a target; a failure is
            infinite. On a problem at which all fail none is within any factor.
        factors: `[factors]`.

    Returns:
        `[optimizers, factors]`, in [0, 1].

    Raises:
        ValueError: if there are no optimizers or problems, a cost is not positive, or
            something is nan.
    """
    values, limits = _numbers("costs", costs), _numbers("factors", factors)
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"costs must be [optimizers, problems] with at least one of each, "
            f"got shape {values.shape}"
        )
    _check_positive("costs", values)
    solved = np.isfinite(values)
    # Not by division alone: an infinite cost over an infinite best is nan.
    ratios = np.divide(
        values, values.min(axis=0), out=np.full_like(values, np.inf), where=solved
    )
    within = solved[..., None] & (ratios[..., None] <= limits)
    return within.mean(axis=1)


def speedups(reference_steps: ArrayLike, steps: ArrayLike, bound: float) -> Speedups:
    """How many times fewer steps than the reference an optimizer takes to a target.

    `reference_steps / steps`, seed by seed. A training that has not reached the target
    takes more than `bound` steps; it enters with `bound`, and the value is flagged:
    where only the optimizer failed, the speedup is less than the value; where only the
    reference did, more; where both did, nothing is known, and the value is 1.

    Args:
        reference_steps: `[seeds]`, infinite where the target was not reached.
        steps: those of the optimizer, at the same seeds.
        bound: the length of the trainings, in steps.

    Returns:
        `[seeds]` values, and whether they are bounds.

    Raises:
        ValueError: if shapes differ, steps are nan, not positive, or finite and above
            the bound, or the bound is not positive and finite.
    """
    if not 0 < bound < math.inf:
        raise ValueError(f"bound must be positive and finite, got {bound}")
    reference = _numbers("reference_steps", reference_steps)
    own = _numbers("steps", steps)
    if reference.shape != own.shape:
        raise ValueError(
            f"reference_steps and steps must have the same seeds, got shapes "
            f"{reference.shape} and {own.shape}"
        )
    for name, values in (("reference_steps", reference), ("steps", own)):
        _check_positive(name, values)
        late = values[np.isfinite(values) & (values > bound)]
        if late.size:
            raise ValueError(
                f"{name} must be at most the bound of {bound}, or infinite, "
                f"got {late[0]}"
            )
    return Speedups(
        values=np.minimum(reference, bound) / np.minimum(own, bound),
        bounded=np.isinf(reference) | np.isinf(own),
    )


def compare(
    ours: Scores,
    theirs: Scores,
    *,
    repetitions: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Whether ours is better than theirs on these tasks, by a rule declared beforehand.

    Ours is better if the interval of the probability of improvement lies wholly above
    one half, and worse if it lies wholly below, provided that the sign-flip test
    rejects at `1 - level` that the two are exchangeable. Otherwise there is no
    difference that these seeds could show.

    The interval is that of `stratified_bootstrap`, pairs kept together, with two
    remedies for few seeds. What is drawn deviates from the mean of its task by
    `sqrt(n / (n - 1))` times as much as it did, which makes the variance of a task's
    mean unbiased: the rescaling of Rao and Wu, 1988, "Resampling inference with complex
    survey data". Tasks of one seed, which alone show no spread, are drawn as one
    stratum, whose spread is no less on average: collapsed strata, Cochran, 1977,
    "Sampling techniques", section 5A.12.

    Neither helps where few pairs happen to agree (five wins in five have an interval of
    no width), and so the verdict needs the test. If the optimizers are exchangeable,
    swapping them within any pair changes nothing, and given which pairs are tied every
    sign of the others is equally likely. The p-value is the share of these sign
    patterns at which the probability of improvement is at least as far from one half as
    was found. It is computed, not sampled, and so false alarms are at most
    `1 - level` for any number of tasks and seeds: Fisher, 1935, "The design of
    experiments", section 21. With equal numbers of seeds and no ties it is the sign
    test, which holds that level also where ours wins on some tasks what it loses on
    others, as unequal probabilities only narrow the number of wins: Hoeffding, 1956,
    "On the distribution of the number of successes in independent trials".

    Both take the tasks as they are: nothing is said about others.

    Args:
        ours: losses, one array `[seeds]` per task.
        theirs: those of the other optimizer, at the same seeds.
        repetitions: of the bootstrap.
        level: of the interval and of the test, in (0, 1).
        seed: of the bootstrap.

    Returns:
        Probability of improvement, p-value and verdict.

    Raises:
        ValueError: if tasks or seeds do not match, there are none, a loss is nan, or a
            number is out of its range.
    """
    wins = _wins(ours, theirs)
    several = [won for won in wins if len(won) > 1]
    single = [won for won in wins if len(won) == 1]
    strata = several + ([np.concatenate(single)] if single else [])
    weights = np.concatenate(
        [np.full(len(won), 1 / len(won)) for won in several + single]
    )
    interval = stratified_bootstrap(
        [_rescaled(stratum) for stratum in strata],
        lambda drawn: float(np.concatenate(drawn) @ weights) / len(wins),
        repetitions=repetitions,
        level=level,
        seed=seed,
    )
    p_value = _sign_flip(wins)
    verdict: Verdict = "no difference"
    if p_value <= 1 - level and interval.low > 0.5:
        verdict = "better"
    if p_value <= 1 - level and interval.high < 0.5:
        verdict = "worse"
    # Rescaled deviations reach beyond what a probability can be.
    low, estimate, high = (min(max(end, 0.0), 1.0) for end in interval)
    return Comparison(Interval(low, estimate, high), p_value, verdict)


def _rescaled(stratum: np.ndarray) -> np.ndarray:
    """Values whose resampled mean has an unbiased variance."""
    mean, n = stratum.mean(), len(stratum)
    return mean + math.sqrt(n / max(n - 1, 1)) * (stratum - mean)


def _sign_flip(wins: list[np.ndarray]) -> float:
    """Two-sided p-value of the sum over tasks of `mean(won - 1/2)` under random signs.

    The sum is a whole number of units of `1 / (2 lcm(seeds))`, so that its distribution
    is exact on a grid: each pair that is not tied moves half of it up and half down.
    """
    seeds = math.lcm(*(len(won) for won in wins))
    found, law = 0, np.ones(1)
    for won in wins:
        step = seeds // len(won)
        signs = np.sign(won - 0.5)
        found += step * int(signs.sum())
        for _ in range(np.count_nonzero(signs)):
            wider = np.zeros(len(law) + 2 * step)
            wider[2 * step :] = law / 2
            wider[: len(law)] += law / 2
            law = wider
    sums = np.arange(len(law)) - len(law) // 2
    return min(float(law[np.abs(sums) >= abs(found)].sum()), 1.0)


def _wins(ours: Scores, theirs: Scores) -> list[np.ndarray]:
    """Per task `[seeds]`: 1 where ours is lower, 1/2 where they tie, else 0."""
    pairs = _tasks("ours", ours), _tasks("theirs", theirs)
    shapes = [[task.shape for task in tasks] for tasks in pairs]
    if shapes[0] != shapes[1] or any(len(shape) > 1 for shape in shapes[0]):
        raise ValueError(
            "ours and theirs must have the same tasks, with the same seeds on a single "
            f"axis, got shapes {shapes[0]} and {shapes[1]}"
        )
    return [((a < b) + (a <= b).astype(float)) / 2 for a, b in zip(*pairs, strict=True)]


def _tasks(name: str, scores: Scores) -> list[np.ndarray]:
    """Scores as arrays, with at least one task and one seed of each."""
    tasks = [_numbers(f"{name}[{k}]", task) for k, task in enumerate(scores)]
    shapes = [task.shape for task in tasks]
    if not tasks or any(not shape or 0 in shape for shape in shapes):
        raise ValueError(
            f"{name} must hold at least one task, each with at least one seed, "
            f"got shapes {shapes}"
        )
    return tasks


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    """Values in double precision; infinities are among them, nan is not."""
    numbers = np.asarray(values, np.float64)
    undefined = int(np.isnan(numbers).sum())
    if undefined:
        raise ValueError(
            f"{name} must not be nan (what failed counts as inf), "
            f"got {undefined} nan of {numbers.size}"
        )
    return numbers


def _check_positive(name: str, values: np.ndarray) -> None:
    """Raises if a value is zero or less."""
    if (values <= 0).any():
        raise ValueError(f"{name} must be positive, got {values.min()}")
