import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.network import MLP
from tasks.physics_informed import PhysicsInformed


FAMILY = PhysicsInformed(hidden=(16,), batch_size=16, modes=3)


@pytest.fixture(scope="module")
def spec():
    return jax.jit(FAMILY.sample)(jax.random.key(0))


def test_the_loss_is_the_mean_square_residual(spec, x64):
    """Derivatives by central differences, which are off by O(step**2)."""
    wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    task = FAMILY.task(spec._replace(forcing=wide(spec.forcing)))
    params = wide(task.init(jax.random.key(1)))
    points = np.linspace(0.05, 0.95, 16)

    def solution(x):
        module = MLP((16, 1), jnp.tanh)
        outputs = module.apply({"params": params}, 2 * x[:, None] - 1)
        return x * (1 - x) * np.asarray(outputs)[:, 0]

    step = 1e-4
    left, middle, right = (solution(points + d) for d in (-step, 0.0, step))
    curvature = (left - 2 * middle + right) / step**2
    rates = np.pi * np.arange(1, 4)
    forcing = np.sin(np.outer(points, rates)) @ np.asarray(spec.forcing)
    residual = -curvature + float(spec.reaction) * middle - forcing
    loss, _ = task.loss(params, jax.random.key(2), points)
    assert float(loss) == pytest.approx(np.mean(residual**2), rel=1e-5)


def test_the_forcing_is_as_strong_as_asked():
    family = PhysicsInformed(modes=3, strength=(7.0, 7.0))
    x = (np.arange(1000) + 0.5) / 1000
    for spec in (family.nominal(), family.sample(jax.random.key(3))):
        f = np.sin(np.outer(x, np.pi * np.arange(1, 4))) @ np.asarray(spec.forcing)
        assert np.mean(f**2) == pytest.approx(49.0, rel=1e-4)


def test_a_small_residual_is_a_small_error_of_the_solution():
    """Signs of momenta, with steps that shrink to nothing."""

    @jax.jit
    def train(family):
        task = family.task(family.nominal())

        def step(carry, at):
            params, momentum = carry
            key, size = at
            batch = task.batch(key, "train")
            grads, _ = jax.grad(task.loss, has_aux=True)(params, key, batch)
            momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, grads)
            move = lambda p, m: p - size * jnp.sign(m)
            return (jax.tree.map(move, params, momentum), momentum), None

        params = task.init(jax.random.key(0))
        carry = params, jax.tree.map(jnp.zeros_like, params)
        at = jax.random.split(jax.random.key(1), 1500), jnp.linspace(1e-2, 1e-5, 1500)
        (params, _), _ = jax.lax.scan(step, carry, at)
        points = (jnp.arange(16) + 0.5) / 16
        loss, aux = task.loss(params, jax.random.key(2), points)
        return task.normalise(loss), aux["relative_error"]

    residual, error = train(FAMILY)
    assert residual < 0.01
    assert error < 0.05
