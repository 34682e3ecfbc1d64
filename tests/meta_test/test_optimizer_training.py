import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_test.optimizer_training import OptimizerTraining
from tasks import Quadratic


FAMILY = OptimizerTraining(Quadratic(dim=4, noise=0.1), steps=3, problems=2)
TASK = FAMILY.task(FAMILY.nominal())


@pytest.fixture(scope="module")
def theta():
    return TASK.init(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    return TASK.batch(jax.random.key(1), "train")


def test_the_loss_is_the_mean_over_steps_and_problems(theta, batch):
    """Written out: every inner step of every problem by hand, after the first."""
    specs, params, batches = batch
    losses = []
    for n in range(2):
        spec, x, noise = jax.tree.map(
            lambda leaf, n=n: leaf[n], (specs, params, batches)
        )
        inner = FAMILY.inner.task(spec)
        tx = FAMILY.optimizer.with_theta(theta, num_steps=3)
        state = tx.init(x)
        for t in range(3):
            loss, grads = jax.value_and_grad(
                lambda x, n=noise[t], i=inner: i.loss(x, jax.random.key(0), n)[0]
            )(x)
            updates, state = tx.update(grads, state, x, value=loss)
            x = jax.tree.map(jnp.add, x, updates)
            after = inner.loss(x, jax.random.key(0), noise[t + 1])[0]
            losses.append(inner.normalise(after))
    found, _ = jax.jit(TASK.loss)(theta, jax.random.key(0), batch)
    assert float(found) == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_the_gradient_goes_through_all_inner_steps(theta, batch):
    """Along one direction, in float32: the difference is good to three digits."""
    loss = jax.jit(lambda theta: TASK.loss(theta, jax.random.key(0), batch)[0])
    direction = jax.tree.map(lambda x: jnp.sign(x) + 0.5, theta)
    along = lambda h: jax.tree.map(lambda p, d: p + h * d, theta, direction)
    measured = (loss(along(1e-3)) - loss(along(-1e-3))) / 2e-3
    grads = jax.grad(loss)(theta)
    computed = sum(
        jnp.vdot(g, d)
        for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
    )
    assert float(computed) == pytest.approx(float(measured), rel=2e-2)


def test_gradient_descent_trains_the_optimizer():
    @jax.jit
    def train(theta):
        def step(theta, key):
            batch = TASK.batch(key, "train")
            loss, grads = jax.value_and_grad(lambda t: TASK.loss(t, key, batch)[0])(
                theta
            )
            return jax.tree.map(lambda p, g: p - 0.3 * g, theta, grads), loss

        return jax.lax.scan(step, theta, jax.random.split(jax.random.key(2), 200))[1]

    losses = train(TASK.init(jax.random.key(0)))
    assert float(losses[-50:].mean()) < 0.9 * float(losses[:50].mean())
