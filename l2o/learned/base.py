"""The contract of a learned optimizer."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree


Theta = Any
"""Meta-parameters: a nested dict of float32 arrays."""


class LearnedOptimizer(abc.ABC):
    """An architecture: static, hashable, holding sizes and never arrays.

    The meta-parameters *theta* travel beside it as an argument, so that a jitted
    function takes `(lopt, theta)` with `lopt` static and `theta` traced, may be vmapped
    over theta, and may be differentiated with respect to it.

    Subclasses are frozen dataclasses whose fields are plain numbers, strings and tuples
    of these: the fields are what a checkpoint's manifest records.
    """

    needs_value: ClassVar[bool]
    """Whether `update` must be given the current loss as `value=`."""

    inputs: ClassVar[str]
    """What the network reads, in a line of the table that `l2o list` prints."""

    source: ClassVar[str]
    """Where it is published, likewise."""

    @property
    @abc.abstractmethod
    def needs_num_steps(self) -> bool:
        """Whether `with_theta` must be given the number of steps of the training."""

    @abc.abstractmethod
    def init_theta(self, key: jax.Array) -> Theta:
        """Draws untrained meta-parameters.

        Args:
            key: a typed PRNG key.

        Returns:
            A nested dict of float32 arrays.
        """

    @abc.abstractmethod
    def with_theta(
        self, theta: Theta, *, num_steps: int | jax.Array | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """Binds theta, giving an optax optimizer.

        The returned updates are added to the parameters, as everywhere in optax: sign
        and learning rate are already in them.

        Args:
            theta: meta-parameters with the structure of `init_theta`; may be traced.
            num_steps: how many updates the training will make; may be traced.

        Returns:
            An optax transformation. Its `update` needs `params`, and `value=loss` where
            `needs_value` is set.

        Raises:
            ValueError: when `num_steps` is needed and missing.
        """


def require_num_steps(lopt: LearnedOptimizer, num_steps: Any) -> None:
    """Raises unless an architecture that needs it was given a sound `num_steps`.

    A value under tracing is taken as it is.
    """
    if lopt.needs_num_steps and num_steps is None:
        raise ValueError(
            f"{type(lopt).__name__} schedules its steps by the fraction of training "
            "that is done and so needs num_steps: pass num_steps=<number of updates>"
        )
    if lopt.needs_num_steps:
        require_steps(num_steps)


def require_steps(num_steps: Any) -> None:
    """Raises unless it is a sound number of updates, or under tracing."""
    try:
        sound = bool(num_steps >= 1) and num_steps == int(num_steps)
    except jax.errors.ConcretizationTypeError:
        return
    except (TypeError, OverflowError):  # no number, or infinity
        sound = False
    if not sound or isinstance(num_steps, bool):
        raise ValueError(f"num_steps must be at least 1 and whole, got {num_steps!r}")


def unflatten(lopt: LearnedOptimizer, flat: jax.Array) -> Theta:
    """Theta from the one vector `[size]` that meta-training moves."""
    like = jax.eval_shape(lopt.init_theta, jax.random.key(0))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    return ravel_pytree(zeros)[1](flat)


def tensors_by_path(theta: Theta) -> dict[str, Any]:
    """The tensors of theta, or their shapes, by paths like `mlp/0/w`, in order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(theta)
    }


def map_tensors(
    update_one: Callable[..., tuple[jax.Array, Any]], updates: Any, *others: Any
) -> tuple[Any, Any]:
    """Applies an update to every tensor of a tree.

    Args:
        update_one: `(g, *others) -> (step, state)`, for one tensor.
        updates: the gradients.
        *others: trees that begin like `updates`; what they hold below its leaves is
            handed over whole.

    Returns:
        Steps, and states, both in the structure of `updates`.
    """
    leaves, tree = jax.tree.flatten(updates)
    columns = [tree.flatten_up_to(other) for other in others]
    results = [update_one(*row) for row in zip(leaves, *columns, strict=True)]
    return (
        tree.unflatten([step for step, _ in results]),
        tree.unflatten([state for _, state in results]),
    )


def require_params(lopt: LearnedOptimizer, params: Any) -> None:
    """Raises unless real `params` were given to `update`."""
    if params is None:
        raise ValueError(
            f"{type(lopt).__name__} reads the parameters: "
            "call update(grads, state, params), got params=None"
        )
    for leaf in jax.tree.leaves(params):
        if jnp.iscomplexobj(leaf):
            raise ValueError(
                f"{type(lopt).__name__} moves real parameters, got {leaf.dtype}: split "
                "complex ones, as optax.contrib.split_real_and_imaginary does"
            )


def require_value(lopt: LearnedOptimizer, value: Any) -> None:
    """Raises unless an architecture that needs it was given the loss."""
    if lopt.needs_value and value is None:
        raise ValueError(
            f"{type(lopt).__name__} reads the course of the loss: "
            "call update(grads, state, params, value=loss), got value=None"
        )
