"""Distributions of task configurations: what changes shapes, and so programs."""

import abc
import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from tasks.base import TaskFamily
from tasks.cost import Cost, estimate


class Choice(abc.ABC):
    """A distribution of one parameter of a family."""

    @abc.abstractmethod
    def draw(self, rng: random.Random) -> Any:
        """A value, on the host.

        Args:
            rng: only its `random()` is called, which all versions of Python agree on.
        """


@dataclasses.dataclass(frozen=True)
class OneOf(Choice):
    """Each of some values, as likely."""

    values: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        return self.values[int(rng.random() * len(self.values))]


@dataclasses.dataclass(frozen=True)
class LogInteger(Choice):
    """A whole number, log-uniform on a grid.

    The grid keeps configurations few and alike: `per_octave` values between a number
    and its double.

    Attributes:
        low: smallest value.
        high: largest value.
        per_octave: grid points per doubling.
    """

    low: int
    high: int
    per_octave: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high or self.per_octave < 1:
            raise ValueError(
                "a LogInteger must have 1 <= low <= high and per_octave of at least 1, "
                f"got {self}"
            )

    @property
    def grid(self) -> tuple[int, ...]:
        """The values, increasing."""
        steps = math.floor(math.log2(self.high / self.low) * self.per_octave + 1e-9)
        values = (self.low * 2 ** (i / self.per_octave) for i in range(steps + 1))
        return tuple(dict.fromkeys(round(v) for v in values))

    def draw(self, rng: random.Random) -> int:
        return OneOf(self.grid).draw(rng)


@dataclasses.dataclass(frozen=True)
class Layers(Choice):
    """Sizes of a random number of layers, all drawn from one distribution.

    Attributes:
        size: of a layer.
        fewest: least number of layers.
        most: largest number of layers.
        equal: whether all layers of a network have one size.
    """

    size: LogInteger
    fewest: int
    most: int
    equal: bool = False

    def draw(self, rng: random.Random) -> tuple[int, ...]:
        depth = OneOf(tuple(range(self.fewest, self.most + 1))).draw(rng)
        if self.equal:
            return (self.size.draw(rng),) * depth
        return tuple(self.size.draw(rng) for _ in range(depth))


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a step of a task may cost at most.

    Attributes:
        seconds: on the reference core of `tasks.cost`.
        memory: in bytes, per training.
    """

    seconds: float = math.inf
    memory: float = math.inf

    def allows(self, cost: Cost) -> bool:
        """Whether a task is within the budget."""
        return cost.seconds <= self.seconds and cost.memory <= self.memory


class Drawn(NamedTuple):
    """A configuration out of a parametric family.

    Attributes:
        family: one program, for all tasks that it samples.
        parameters: what was drawn for it.
        weight: its share of all draws; the weights of a sample sum to 1.
        cost: of a step of its nominal task.
    """

    family: TaskFamily
    parameters: Mapping[str, Any]
    weight: float
    cost: Cost


@dataclasses.dataclass(frozen=True)
class ParametricFamily:
    """Draws configurations of a family.

    A family's `sample` varies what leaves the program alone. This varies the rest:
    sizes, depths, batches. Each configuration is a program of its own, so that their
    number is given beforehand: draws that fall on a configuration already drawn add to
    its weight.

    Attributes:
        make: `(**parameters) -> TaskFamily`, for instance the family's class.
        choices: by name of a parameter, what to draw; other values are passed as they
            are.
        budget: configurations above it are drawn again, before anything is compiled.
        wrap: `(key, family) -> family`, for instance `augmentations.recipe.draw`: what
            is drawn around each configuration. None draws nothing.
    """

    make: Callable[..., TaskFamily]
    choices: Mapping[str, Any]
    budget: Budget = Budget()
    wrap: Callable[[jax.Array, TaskFamily], TaskFamily] | None = None

    def sample(
        self, key: jax.Array, programs: int, *, tries: int = 256
    ) -> tuple[Drawn, ...]:
        """Draws at most `programs` different configurations.

        Args:
            key: the same key draws the same configurations.
            programs: how many; fewer come where the choices have no more, or within
                `tries`.
            tries: draws in all.

        Returns:
            The configurations in the order in which they were drawn first.

        Raises:
            ValueError: no draw was within the budget.
        """
        # Not jax.random, whose calls for single numbers take a thousand times as long.
        rng = random.Random(jax.random.key_data(key).tobytes())
        found: dict[Any, Drawn] = {}
        counts: Counter[Any] = Counter()
        refused: dict[Any, Cost] = {}
        for number in range(tries):
            drawn = {
                name: choice.draw(rng)
                for name, choice in self.choices.items()
                if isinstance(choice, Choice)
            }
            family = self.make(**{**self.choices, **drawn})
            if self.wrap is not None:
                family = self.wrap(jax.random.fold_in(key, number), family)
            program = jax.tree.structure(family)
            if program not in found and program not in refused:
                if len(found) == programs:
                    continue
                cost = estimate(family)
                if self.budget.allows(cost):
                    found[program] = Drawn(family, drawn, 0.0, cost)
                else:
                    refused[program] = cost
            counts[program] += 1
        if not found:
            raise ValueError(
                "a parametric family must have tasks within its budget of "
                f"{self.budget.seconds:g} s and {self.budget.memory:g} bytes a step, "
                f"got {tries} draws above it, as {next(iter(refused.values()))}"
            )
        total = sum(counts[program] for program in found)
        return tuple(
            drawn._replace(weight=counts[program] / total)
            for program, drawn in found.items()
        )
