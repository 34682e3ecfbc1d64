"""Networks that solve a differential equation."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, static
from tasks.checks import require_choices, require_range, require_sizes
from tasks.network import MLP, NetworkChoices, NetworkSpec
from tasks.sampling import log_uniform, middle


# Those whose second derivative is neither zero nor a spike.
_SMOOTH = ("tanh", "gelu", "sigmoid", "swish")


class PhysicsInformedSpec(NamedTuple):
    """One equation, and the network that solves it."""

    network: NetworkSpec
    reaction: jax.Array  # shape=(), float32: k
    forcing: jax.Array  # [modes]: amplitudes b


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PhysicsInformed(TaskFamily):
    r"""Solve the reaction-diffusion equation $-u'' + k u = f$, $u(0) = u(1) = 0$.

    The forcing is a sum of sine waves,

    $$ f(x) = \sum_{m=1}^M b_m \sin(m \pi x), \qquad
       u(x) = \sum_{m=1}^M \frac{b_m}{(m \pi)^2 + k} \sin(m \pi x), $$

    the network's solution $x (1 - x) N(x)$ meets the boundary conditions as it is, and
    the loss is the mean square of $-u'' + k u - f$ at random points: residuals, not
    errors of the solution. Nothing is fitted to data, all batches are fresh, and the
    splits differ by their points alone.

    Its gradient is that of second derivatives of the network. They weigh an error in
    the m-th wave by m^4, so that the loss is far worse conditioned than a fit of u:
    which no other family shows.

    Sources: Lagaris, Likas and Fotiadis (1998), "Artificial neural networks for solving
    ordinary and partial differential equations"; Raissi, Perdikaris and Karniadakis
    (2019), "Physics-informed neural networks".

    `aux` has `relative_error`, the root mean square error of u at the batch's points
    relative to that of zero.

    Attributes:
        hidden: widths of N's hidden layers.
        batch_size: points per step.
        modes: M.
        reaction: range of k, log-uniform.
        strength: range of the root mean square of f, log-uniform: well above 1, or the
            loss at initialisation is not that of f.
        network: what is drawn for each network; its activations must be smooth.
    """

    hidden: tuple[int, ...] = static((32, 32))
    batch_size: int = static(32)
    modes: int = static(4)
    reaction: tuple[float, float] = static((1.0, 100.0))
    strength: tuple[float, float] = static((5.0, 20.0))
    network: NetworkChoices = static(NetworkChoices(activation=("tanh",)))

    def __post_init__(self) -> None:
        require_sizes("physics_informed.hidden", self.hidden)
        require_sizes("physics_informed.batch_size", [self.batch_size])
        require_sizes("physics_informed.modes", [self.modes])
        require_range("physics_informed.reaction", self.reaction)
        require_range("physics_informed.strength", self.strength)
        require_choices(
            "physics_informed.network.activation", self.network.activation, _SMOOTH
        )

    def sample(self, key: jax.Array) -> PhysicsInformedSpec:
        network_key, reaction_key, strength_key, wave_key = jax.random.split(key, 4)
        waves = jax.random.normal(wave_key, (self.modes,))
        return PhysicsInformedSpec(
            network=self.network.sample(network_key),
            reaction=log_uniform(reaction_key, self.reaction),
            forcing=_scaled(waves, log_uniform(strength_key, self.strength)),
        )

    def nominal(self) -> PhysicsInformedSpec:
        """The middle of the ranges, all waves as high."""
        waves = jnp.ones((self.modes,))
        return PhysicsInformedSpec(
            network=self.network.nominal(),
            reaction=middle(self.reaction),
            forcing=_scaled(waves, middle(self.strength)),
        )

    def task(self, spec: PhysicsInformedSpec) -> Task:
        module = MLP((*self.hidden, 1), self.network.activate(spec.network))
        rates = math.pi * jnp.arange(1, self.modes + 1, dtype=jnp.float32)
        exact = spec.forcing / (jnp.square(rates) + spec.reaction)

        def init(key: jax.Array) -> Params:
            return self.network.init(module, spec.network, key, jnp.zeros((1, 1)))

        def batch(key: jax.Array, split: Split) -> Batch:
            del split  # Fresh points are unseen points.
            return jax.random.uniform(key, (self.batch_size,))

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # All randomness is in the batch.

            def solution(x: jax.Array) -> jax.Array:
                output: Any = module.apply({"params": params}, 2.0 * x[:, None] - 1.0)
                return x * (1.0 - x) * output[:, 0]

            def along(x: jax.Array) -> tuple[jax.Array, jax.Array]:
                # No point's solution depends on another point.
                return jax.jvp(solution, (x,), (jnp.ones_like(x),))

            (u, _), (_, curvature) = jax.jvp(along, (batch,), (jnp.ones_like(batch),))
            sines = jnp.sin(batch[:, None] * rates[None])
            residual = spec.reaction * u - curvature - sines @ spec.forcing
            wanted = sines @ exact
            error = jnp.mean(jnp.square(u - wanted)) / jnp.mean(jnp.square(wanted))
            aux = {"relative_error": jnp.sqrt(error)}
            return jnp.mean(jnp.square(residual)), aux

        def normalise(loss: jax.Array) -> jax.Array:
            # The mean square of f over the interval.
            return bounded(loss, 0.5 * jnp.sum(jnp.square(spec.forcing)))

        return Task(
            init=init, batch=batch, loss=loss, normalise=normalise, examples=True
        )


def _scaled(waves: jax.Array, strength: jax.Array) -> jax.Array:
    """The waves' amplitudes, so that their sum has root mean square `strength`."""
    power = 0.5 * jnp.sum(jnp.square(waves))
    return waves * (strength / jnp.sqrt(power))
