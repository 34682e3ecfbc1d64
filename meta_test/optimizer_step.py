"""One step of an optimizer, compiled: its memory, and what may be timed."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax


class CompiledStep:
    r"""A step on `layers` dense `width x width` matrices and their biases.

    It is jitted, with parameters and state donated, and includes their addition: what a
    training pays beside the gradient. Its gradients g are random numbers. What
    evaluates the loss is given one that costs next to nothing, whose gradient where the
    step begins, at p, is g:

    $$ L(q) = 1 + \sum_i g_i (q_i - p_i) + \tfrac12 (q_i - p_i)^2. $$

    Each call makes one step more.

    Attributes:
        parameters: their number.
        state_floats: numbers in the optimizer's state, counters included.
        temporary_floats: bytes that the program needs beside its arguments and results,
            by XLA's analysis, over 4.
        compile_seconds: of tracing and compiling.
    """

    def __init__(
        self, tx: optax.GradientTransformationExtraArgs, width: int, layers: int
    ) -> None:
        """Compiles, and makes no step yet.

        Args:
            tx: the optimizer.
            width: of a layer.
            layers: their number.

        Raises:
            RuntimeError: XLA does not say how much memory a program needs.
        """

        def make(seed: int, scale: float) -> Any:
            keys = jax.random.split(jax.random.key(seed), 2 * layers)
            return [
                {
                    "w": scale * jax.random.normal(keys[2 * i], (width, width)),
                    "b": scale * jax.random.normal(keys[2 * i + 1], (width,)),
                }
                for i in range(layers)
            ]

        def move(params: Any, state: Any, grads: Any, value: jax.Array) -> Any:
            def loss(at: Any) -> jax.Array:
                moved = jax.tree.map(jnp.subtract, at, params)
                linear, square = (optax.tree.vdot(x, moved) for x in (grads, moved))
                return value + linear + 0.5 * square

            updates, state = tx.update(
                grads,
                state,
                params,
                value=value,
                grad=grads,
                value_fn=loss,
                obj_fn=loss,
            )
            return optax.apply_updates(params, updates), state

        self._given = make(1, 1e-2), jnp.float32(1.0)
        params = make(0, width**-0.5)
        # Copied, for a state that holds the parameters is donated beside them.
        state = jax.jit(lambda params: jax.tree.map(jnp.copy, tx.init(params)))(params)
        began = time.perf_counter()
        lowered = jax.jit(move, donate_argnums=(0, 1)).lower(
            params, state, *self._given
        )
        self._compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - began
        self._moving = params, state
        self.parameters = sum(x.size for x in jax.tree.leaves(params))
        self.state_floats = sum(x.size for x in jax.tree.leaves(state))
        memory = self._compiled.memory_analysis()
        if memory is None:
            raise RuntimeError(
                "XLA must tell how much memory a program takes, "
                f"it does not on {jax.default_backend()}"
            )
        self.temporary_floats = memory.temp_size_in_bytes / 4

    def __call__(self) -> None:
        """Makes a step, and waits for it."""
        self._moving = self._compiled(*self._moving, *self._given)
        jax.block_until_ready(self._moving)

    @property
    def state(self) -> Any:
        """The optimizer's, after the steps that were made."""
        return self._moving[1]
