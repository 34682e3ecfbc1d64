"""The contract of methods: from the losses of perturbed unrolls to a meta-gradient."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax

from l2o.learned.base import LearnedOptimizer
from meta_train.estimators.credit import Credited


class Outcome(NamedTuple):
    """What one unroll under one theta gave."""

    loss: jax.Array  # shape=(), the meta-loss
    gradient: Any  # [size of theta], its derivative, where the method takes it; or ()


Loss = Callable[[jax.Array], tuple[jax.Array, Any]]
"""`theta [size] -> (meta-loss, what else the unroll gives)`."""


class Method(abc.ABC):
    """How a meta-gradient is made of unrolls; static and hashable.

    A *unit* is one problem, unrolled under `points` thetas at once. What units add to
    the estimate is summed over them, and `combine` makes the estimate of the sums.
    """

    points: ClassVar[int]

    @abc.abstractmethod
    def init(self, theta: jax.Array) -> Any:
        """What a unit carries from window to window, before the first."""

    @abc.abstractmethod
    def assign(
        self,
        lopt: LearnedOptimizer,
        theta: jax.Array,
        memory: Any,
        key: jax.Array,
        restarted: jax.Array,
    ) -> Credited:
        """The noise of one unit.

        Args:
            lopt: the architecture, for the names of theta's parts.
            theta: `[size]`.
            memory: from the last window, or `init`.
            key: of this unit and window.
            restarted: scalar bool: the problem begins with this window.
        """

    @abc.abstractmethod
    def thetas(self, theta: jax.Array, noise: Any) -> jax.Array:
        """`[points, size]`: where a unit is unrolled."""

    @abc.abstractmethod
    def outcome(self, loss: Loss, theta: jax.Array) -> tuple[Outcome, Any]:
        """Evaluates an unroll at one point."""

    @abc.abstractmethod
    def contribution(
        self, lopt: LearnedOptimizer, used: Credited, outcomes: Outcome
    ) -> dict[str, jax.Array]:
        """What a unit adds: vectors `[size]` by name.

        Args:
            lopt: the architecture.
            used: from `assign`.
            outcomes: of all points, along a leading axis.
        """

    @abc.abstractmethod
    def combine(self, sums: dict[str, jax.Array], valid: jax.Array) -> jax.Array:
        """The estimate `[size]` from sums over `valid` units; 0 when there are none."""
