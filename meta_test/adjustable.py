"""What people have to set of an optimizer, so that it can be set wrongly."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from meta_test.baselines import LEARNING_RATE, ONE_MINUS, Range, find_baseline
from meta_test.inner_loop import Hyper, MakeOptimizer
from meta_test.optimizers import Contender, FromTheta, Tuned, baseline
from meta_test.variants import AROUND_ONE, MULTIPLIER, Multiplied
from meta_test.variation import CANDIDATE, NOISE, TOLD, Varied


FACTORS = (0.1, 1 / 3, 3.0, 10.0)
"""By how much a setting is off."""

LEAST_DECAY = 0.01
"""What is left of a decay that is off: at 0 an average may be undefined."""


@dataclasses.dataclass(frozen=True, eq=False)
class Adjustable:
    """A contender as `meta_test.variation.Varied` has it, and its settings.

    Attributes:
        make: gives the optimizer for a candidate.
        candidates: on the host, one by one; dicts by setting, where there are any.
        ranges: of the settings that a candidate has.
        told: whether it has to be told the number of steps.
        known: whether these are all of its settings.
    """

    make: MakeOptimizer
    candidates: tuple[Hyper, ...]
    ranges: Mapping[str, Range]
    told: bool
    known: bool = True

    @property
    def count(self) -> int:
        """Of its candidates."""
        return len(self.candidates)

    @property
    def varied(self) -> Varied:
        """The optimizer, for hypers like those below."""
        return Varied(self.make)

    def hyper(self, index: int, noise: float = 0.0) -> Hyper:
        """A candidate with nothing off, and a share of noise in its gradients."""
        return {
            CANDIDATE: self.candidates[index],
            NOISE: np.float32(noise),
            TOLD: np.float32(1.0),
        }

    def alone(self, index: int) -> "Adjustable":
        """One candidate, of whose settings but the rate none is traced.

        In float32, as they are then, they would widen what an optimizer keeps in less.
        """
        if not isinstance(self.make, Tuned):
            return dataclasses.replace(self, candidates=(self.candidates[index],))
        settings = dict(self.candidates[index])
        rate = {LEARNING_RATE: settings.pop(LEARNING_RATE)}
        fixed = tuple((name, float(value)) for name, value in settings.items())
        make = dataclasses.replace(self.make, sizes=self.make.sizes + fixed)
        return dataclasses.replace(self, make=make, candidates=(rate,))

    def off(self, index: int) -> Iterator[tuple[str, float, Hyper]]:
        """Every setting of a candidate times every of `FACTORS`, one at a time.

        Of a decay, `one_minus_d`, at least `LEAST_DECAY` is left; a setting that is not
        spread in the logarithm stays in its range.

        Yields:
            The name of the setting, the factor, and the hyper.
        """
        plain = self.hyper(index)
        for name, where in self.ranges.items():
            for factor in FACTORS:
                value = plain[CANDIDATE][name] * factor
                if name.startswith(ONE_MINUS):
                    value = min(value, 1.0 - LEAST_DECAY)
                if not where.log:
                    value = np.clip(value, where.low, where.high)
                settings = {**plain[CANDIDATE], name: np.float32(value)}
                yield name, factor, {**plain, CANDIDATE: settings}
        for factor in FACTORS if self.told else ():
            yield TOLD, factor, {**plain, TOLD: np.float32(factor)}


def adjustable(contender: Contender) -> Adjustable:
    """The settings of a contender.

    Those of a baseline are its learning rate and all of its space but the whole
    numbers; where a candidate does not say otherwise they are optax's defaults, and one
    that is 0 then, as a decay of weights, is nothing that could be off. A learned
    optimizer has none, or what multiplies its updates. The number of steps of a
    training is one of whatever plans for its end: of schedules too.
    """
    make = contender.make
    name = _baseline(contender)
    if name is not None:
        row = find_baseline(name)
        own = make if isinstance(make, Tuned) else Tuned(name)
        given = contender.candidates
        if not isinstance(make, Tuned):
            given = {LEARNING_RATE: given}
        fixed = dict(own.sizes)
        default = {
            setting: np.full(len(contender.labels), value, np.float32)
            for setting, value in row.defaults.items()
            if value and not row.space[setting].is_whole and setting not in fixed
        }
        candidates = {**default, **given}
        ranges = {
            name: where for name, where in row.settings.items() if name in candidates
        }
        told = row.schedule not in (None, "constant")
        return Adjustable(own, _one_by_one(candidates), ranges, told)
    candidates = _one_by_one(contender.candidates)
    if isinstance(make, FromTheta):
        return Adjustable(make, candidates, {}, make.lopt.needs_num_steps)
    if isinstance(make, Multiplied) and isinstance(make.make, FromTheta):
        ranges = {MULTIPLIER: AROUND_ONE}
        return Adjustable(make, candidates, ranges, make.make.lopt.needs_num_steps)
    return Adjustable(make, candidates, {}, told=False, known=False)


def _baseline(contender: Contender) -> str | None:
    """The name by which `find_baseline` knows a contender; None if it does not."""
    if isinstance(contender.make, Tuned):
        return contender.make.name
    try:
        same = baseline(contender.name).make == contender.make
    except ValueError:
        return None
    return contender.name if same else None


def _one_by_one(candidates: Hyper) -> tuple[Hyper, ...]:
    """Candidates that are stacked on a leading axis."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, candidates))
    return tuple(map(structure.unflatten, zip(*leaves, strict=True)))
