"""What a map of trainings varies: the axes that an optimizer has."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2o.config import nearest
from meta_test.baselines import LEARNING_RATE, ONE_MINUS, Range, find_baseline
from meta_test.inner_loop import MakeOptimizer
from meta_test.optimizers import Contender, Tuned
from meta_test.variants import MULTIPLIER, Multiplied


INIT_SCALE = "init_scale"
"""The axis that multiplies the initial parameters."""

_AROUND_ONE = Range(0.01, 100.0)

_BOUNDS = (1e-30, 1e30)


@dataclasses.dataclass(frozen=True)
class Axis:
    """A hyper-parameter between two bounds, spread in the logarithm.

    Attributes:
        name: `INIT_SCALE`, `MULTIPLIER`, `learning_rate`, or one of a baseline's space.
        low: the left or lower edge of a map.
        high: the other edge.

    Raises:
        ValueError: the bounds are not 1e-30 <= low < high <= 1e30, or leave a decay
            below 0.
    """

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        least, most = _BOUNDS[0], 1.0 if self._of_decay else _BOUNDS[1]
        if not least <= self.low < self.high <= most:
            raise ValueError(
                f"{self.name} must go from low to high with "
                f"{least:g} <= low < high <= {most:g}, "
                f"got {self.low:g} to {self.high:g}"
            )

    @property
    def _of_decay(self) -> bool:
        return self.name.startswith(ONE_MINUS)

    @property
    def width(self) -> float:
        """The natural logarithm of high / low."""
        return math.log(self.high / self.low)

    def value(self, place: float) -> float:
        """What is at a place, a share of the width counted from low."""
        return self.low * math.exp(place * self.width)

    def place(self, value: float) -> float:
        """Where a value is: the inverse of `value`."""
        return math.log(value / self.low) / self.width

    def values(self, size: int) -> np.ndarray:
        """The middles of `size` pixels, float32."""
        places = (np.arange(size) + 0.5) / size
        return (self.low * np.exp(places * self.width)).astype(np.float32)

    def zoomed(self, place: float, factor: float) -> "Axis":
        """A part around a place that is `factor` times narrower; inside of this one."""
        first = min(max(place - 0.5 / factor, 0.0), 1.0 - 1.0 / factor)
        # Rounding must not reach over the edge.
        low = max(self.value(first), self.low)
        high = min(self.value(first + 1.0 / factor), self.high)
        return Axis(self.name, low, high)

    def require_distinct(self, size: int, magnification: float = 1.0) -> None:
        """Raises ValueError where neighbours could be one number in float32.

        Numbers round apart if they differ by twice the distance of neighbours in
        float32: 2^-23 of a value at most, and of a decay 1 - v, which is what an
        optimizer then has, 2^-24.

        Args:
            size: pixels along the axis.
            magnification: of a part of it that is looked at.
        """
        apart = 2.0**-22
        if self._of_decay:
            apart = max(apart, 2.0**-23 / self.low)
        if self.width / (magnification * size) < apart:
            deepest = self.width / (apart * size)
            raise ValueError(
                f"neighbouring values of {self.name} must be distinct in float32, "
                f"which ends at a magnification of {deepest:.3g} for {size} pixels "
                f"from {self.low:g} to {self.high:g}, got {magnification:.3g}"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """An optimizer whose map is drawn.

    Attributes:
        name: of the optimizer.
        make: `(hyper, num_steps) -> optax transformation`, where `hyper` is a dict.
        fixed: `hyper` where no axis says otherwise.
        ranges: what may be an axis, and from where to where it is, if not told.
        whole: settings that are whole numbers and so cannot be one.
    """

    name: str
    make: MakeOptimizer
    fixed: Mapping[str, Any]
    ranges: Mapping[str, Range]
    whole: tuple[str, ...] = ()

    def axis(self, text: str, where: str) -> Axis:
        """The axis that a text describes.

        Args:
            text: `NAME` or `NAME:LOW:HIGH`.
            where: what the text is, for error messages.

        Raises:
            ValueError: it is not of that form, or there is no such axis.
        """
        name, *bounds = text.split(":")
        if name in self.whole:
            raise ValueError(
                f"{where} must be spread continuously, got {name}, a whole number that "
                "makes shapes"
            )
        if name not in self.ranges:
            raise ValueError(
                f"{where} of {self.name} must be one of {', '.join(self.ranges)}, "
                f"got {name!r}{nearest(name, self.ranges)}"
            )
        if not bounds:
            return Axis(name, self.ranges[name].low, self.ranges[name].high)
        try:
            low, high = map(float, bounds)
        except ValueError:
            raise ValueError(
                f"{where} must be AXIS or AXIS:LOW:HIGH, got {text!r}"
            ) from None
        return Axis(name, low, high)


def of_baseline(name: str) -> Subject:
    """A hand-designed optimizer: its learning rate and settings are axes.

    The learning rate is the middle of its grid where it is no axis.

    Args:
        name: as `meta_test.baselines.find_baseline` takes it.
    """
    row = find_baseline(name)
    rates = row.learning_rates
    whole = tuple(setting for setting, r in row.space.items() if r.is_whole)
    spread = {setting: r for setting, r in row.space.items() if not r.is_whole}
    return Subject(
        name=name,
        make=Tuned(name),
        fixed={LEARNING_RATE: jnp.float32(rates[len(rates) // 2])},
        ranges={LEARNING_RATE: row.rates, INIT_SCALE: _AROUND_ONE, **spread},
        whole=whole,
    )


def of_learned(contender: Contender) -> Subject:
    """An optimizer without a learning rate: what multiplies its updates is an axis.

    Args:
        contender: any; its first candidate is taken.
    """
    return Subject(
        name=contender.name,
        make=Multiplied(contender.make),
        fixed={
            "candidate": jax.tree.map(lambda x: x[0], contender.candidates),
            MULTIPLIER: jnp.float32(1.0),
        },
        ranges={MULTIPLIER: _AROUND_ONE, INIT_SCALE: _AROUND_ONE},
    )
