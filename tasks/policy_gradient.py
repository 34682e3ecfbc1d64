"""Policies that learn by trial to balance a pendulum."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tasks.base import Batch, Params, Split, Task, TaskFamily, bounded, static
from tasks.checks import require_number, require_range, require_sizes
from tasks.network import MLP, NetworkChoices, NetworkSpec
from tasks.sampling import log_uniform, middle


# Seconds between two actions.
_STEP = 0.05
# Per second; what is left of a swing's speed after t seconds is exp(-t).
_FRICTION = 1.0
# Episodes that tell what it costs to know nothing.
_IDLE_EPISODES = 256


class PolicyGradientSpec(NamedTuple):
    """One pendulum, and the policy that balances it."""

    network: NetworkSpec
    gravity: jax.Array  # shape=(), float32: m / s^2
    length: jax.Array  # shape=(), float32: of the rod, m
    strength: jax.Array  # shape=(), float32: largest torque, in units of the weight's
    gain: jax.Array  # shape=(), float32: of an action, which has deviation 1


class _Episodes(NamedTuple):
    observations: jax.Array  # [horizon, episodes, 3]
    actions: jax.Array  # [horizon, episodes]
    costs: jax.Array  # [horizon, episodes]


def _play(
    policy: Callable[[jax.Array], jax.Array],
    spec: PolicyGradientSpec,
    angles: jax.Array,
    noise: jax.Array,
) -> _Episodes:
    """Plays episodes from angles `[episodes]`, with noise `[horizon, episodes]`."""
    # A rod that turns about its end, its mass divided out.
    weight = 1.5 * spec.gravity / spec.length

    def step(
        state: tuple[jax.Array, jax.Array], noise: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], _Episodes]:
        angle, rate = state
        seen = jnp.stack([jnp.sin(angle), jnp.cos(angle), rate], axis=-1)
        action = policy(seen) + noise
        torque = spec.strength * jnp.tanh(spec.gain * action)
        push = weight * (jnp.sin(angle) + torque) - _FRICTION * rate
        rate = rate + _STEP * push
        angle = angle + _STEP * rate
        cost = 1.0 - jnp.cos(angle) + 0.01 * jnp.square(rate)
        return (angle, rate), _Episodes(seen, action, cost)

    return jax.lax.scan(step, (angles, jnp.zeros_like(angles)), noise)[1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyGradient(TaskFamily):
    r"""Balance a pendulum by REINFORCE with a baseline.

    A rod that stands on its end at angle $\theta$ from upright falls as

    $$ \ddot\theta = \tfrac{3 g}{2 l} (\sin\theta + c \tanh \kappa a) - \dot\theta $$

    in SI units. The action is drawn from the policy, $a \sim N(\mu(s), 1)$, 20 times a
    second, and $\mu$ is a network of $s = (\sin\theta, \cos\theta, \dot\theta)$. The
    loss is the cost $1 - \cos\theta + 0.01\,\dot\theta^2$, averaged over an episode and
    over the batch's episodes: the mean return, negated. Its gradient is estimated,

    $$ \sum_t \nabla \log p(a_t | s_t) \Big(\sum_{t' \ge t} c_{t'} - b_t\Big), $$

    where $c_t$ is the cost over the horizon, and the baseline $b_t$ the mean of what
    the batch's other episodes cost from t on, so that the estimate is unbiased. Finite
    differences of the loss, whose actions move with the parameters, measure another
    gradient.

    In no other family do the data depend on the parameters, is the gradient so noisy,
    or is it no slope of the loss beside it.

    The loss is normalised by what it costs on average to act at random about zero,
    measured on 256 episodes of the same pendulum.

    Source: Williams (1992), "Simple statistical gradient-following algorithms for
    connectionist reinforcement learning".

    Attributes:
        hidden: widths of the policy's hidden layers.
        num_envs: episodes per step, two or more.
        horizon: actions in an episode.
        tilt: the angle at the start is uniform up to this, either way, in radians; from
            pi the pendulum must be swung up.
        gravity: range of g in m/s^2, log-uniform.
        length: range of l in m, log-uniform.
        strength: range of c, log-uniform: at 1 the torque just holds a level rod.
        gain: range of kappa, log-uniform: how strongly exploring shakes the rod.
        network: what is drawn for each network.
    """

    hidden: tuple[int, ...] = static((16, 16))
    num_envs: int = static(16)
    horizon: int = static(32)
    tilt: float = static(0.5)
    gravity: tuple[float, float] = static((5.0, 15.0))
    length: tuple[float, float] = static((0.5, 2.0))
    strength: tuple[float, float] = static((0.7, 1.4))
    gain: tuple[float, float] = static((0.2, 0.5))
    network: NetworkChoices = static(NetworkChoices(activation=("tanh",)))

    def __post_init__(self) -> None:
        require_sizes("policy_gradient.hidden", self.hidden)
        for name in ("num_envs", "horizon"):
            require_sizes(f"policy_gradient.{name}", [getattr(self, name)])
        require_number("policy_gradient.num_envs", self.num_envs, 2)
        require_number("policy_gradient.tilt", self.tilt, 0.0, math.pi)
        for name in ("gravity", "length", "strength", "gain"):
            require_range(f"policy_gradient.{name}", getattr(self, name))

    def sample(self, key: jax.Array) -> PolicyGradientSpec:
        network_key, gravity_key, length_key, strength_key, gain_key = jax.random.split(
            key, 5
        )
        return PolicyGradientSpec(
            network=self.network.sample(network_key),
            gravity=log_uniform(gravity_key, self.gravity),
            length=log_uniform(length_key, self.length),
            strength=log_uniform(strength_key, self.strength),
            gain=log_uniform(gain_key, self.gain),
        )

    def nominal(self) -> PolicyGradientSpec:
        """The middle of the ranges."""
        return PolicyGradientSpec(
            network=self.network.nominal(),
            gravity=middle(self.gravity),
            length=middle(self.length),
            strength=middle(self.strength),
            gain=middle(self.gain),
        )

    def _draw(self, key: jax.Array, episodes: int) -> tuple[jax.Array, jax.Array]:
        """Angles at the start and the noise of actions, as `_play` takes them."""
        angle_key, noise_key = jax.random.split(key)
        angles = jax.random.uniform(
            angle_key, (episodes,), minval=-self.tilt, maxval=self.tilt
        )
        return angles, jax.random.normal(noise_key, (self.horizon, episodes))

    def task(self, spec: PolicyGradientSpec) -> Task:
        module = MLP((*self.hidden, 1), self.network.activate(spec.network))

        def act(params: Params, seen: jax.Array) -> jax.Array:
            output: Any = module.apply({"params": params}, seen)
            return output[:, 0]

        # Always the same key: a scale is no place for noise.
        draw = self._draw(jax.random.key(0), _IDLE_EPISODES)
        idle = jnp.mean(_play(lambda seen: jnp.zeros(len(seen)), spec, *draw).costs)

        def init(key: jax.Array) -> Params:
            return self.network.init(module, spec.network, key, jnp.zeros((1, 3)))

        def batch(key: jax.Array, split: Split) -> Batch:
            del split  # Fresh noise is unseen noise.
            return self._draw(key, self.num_envs)

        def loss(
            params: Params, key: jax.Array, batch: Batch
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            del key  # All randomness is in the batch.
            frozen = jax.lax.stop_gradient(params)
            episodes = _play(lambda seen: act(frozen, seen), spec, *batch)
            # One product for all steps, and no backward pass through the episodes.
            means = act(params, episodes.observations.reshape(-1, 3))
            away = episodes.actions - means.reshape(episodes.actions.shape)
            log_probability = -0.5 * jnp.square(away)
            to_come = jnp.cumsum(episodes.costs[::-1], axis=0)[::-1] / self.horizon
            others = jnp.sum(to_come, axis=1, keepdims=True) - to_come
            advantage = to_come - others / (self.num_envs - 1)
            score = jnp.sum(jnp.mean(log_probability * advantage, axis=1))
            value = jnp.mean(episodes.costs)
            return value + (score - jax.lax.stop_gradient(score)), {}

        def normalise(loss: jax.Array) -> jax.Array:
            return bounded(loss, idle)

        return Task(init=init, batch=batch, loss=loss, normalise=normalise)
