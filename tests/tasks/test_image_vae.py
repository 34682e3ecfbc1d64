import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import ImageVAE, load
from tasks.image_vae import divergence
from tasks.reconstruction import entropy


GRID = np.linspace(-12.0, 12.0, 4001)
STEP = GRID[1] - GRID[0]


def log_normal(z, mean, log_variance):
    away = (z - mean) ** 2 / np.exp(log_variance)
    return -0.5 * (away + log_variance + np.log(2 * np.pi))


@pytest.mark.parametrize(("mean", "log_variance"), [(0.3, -1.0), (-1.5, 0.8), (0, 0)])
def test_divergence_is_the_integral_that_defines_it(mean, log_variance):
    log_q = log_normal(GRID, mean, log_variance)
    log_p = log_normal(GRID, 0.0, 0.0)
    integral = STEP * np.sum(np.exp(log_q) * (log_q - log_p))
    got = divergence(jnp.array([mean]), jnp.array([log_variance]))
    assert float(got) == pytest.approx(integral, abs=1e-5)


def test_divergence_adds_up_over_the_code():
    mean, log_variance = jnp.array([0.3, -1.5]), jnp.array([-1.0, 0.8])
    parts = divergence(mean[:, None], log_variance[:, None])
    assert float(divergence(mean, log_variance)) == pytest.approx(float(parts.sum()))


FAMILY = ImageVAE(load("digits"), hidden=(8,), latent=1, batch_size=2, beta=(0.5, 2.0))
PIXELS = 64


@jax.jit
def terms(params, key, batch, spec):
    """Loss and aux of one batch."""
    return FAMILY.task(spec).loss(params, key, batch)


@pytest.fixture(scope="module")
def start():
    task = FAMILY.task(FAMILY.nominal())
    # Weights of twice the size: a decoder that depends on the code.
    params = jax.tree.map(lambda p: 2.0 * p, task.init(jax.random.key(0)))
    return params, task.batch(jax.random.key(1), "train")


def test_beta_weighs_the_divergence(start):
    params, batch = start
    spec = FAMILY.nominal()
    one, aux = terms(params, jax.random.key(2), batch, spec)
    two, _ = terms(params, jax.random.key(2), batch, spec._replace(beta=spec.beta * 2))
    assert float(two - one) == pytest.approx(float(aux["divergence"]), rel=1e-4)
    assert float(aux["divergence"]) > 1e-4


@pytest.mark.statistical
def test_the_loss_falls_short_of_the_evidence_by_the_error_of_the_posterior(start):
    r"""$-\mathrm{ELBO} = -\log p(x) + \mathrm{KL}(q(z) \| p(z | x))$, for one image.

    The code is one number, so the right side is a matter of quadrature. The left is a
    mean over 65,536 samples: four standard errors, false alarms 0.006 %.
    """
    params, batch = start
    samples = 65_536
    pixels = np.asarray(batch[:1]).reshape(1, -1)

    def through(layers, x):
        for i, name in enumerate(sorted(layers)):
            x = np.maximum(x, 0.0) if i else x
            weights = jax.tree.map(np.asarray, layers[name])
            x = x @ weights["kernel"] + weights["bias"]
        return x

    mean, log_variance = through(params["encoder"], pixels)[0]
    chance = float(FAMILY.nominal().pixels.mean)
    logits = np.log(chance / (1 - chance)) + through(params["decoder"], GRID[:, None])
    log_likelihood = np.sum(pixels * logits - np.logaddexp(0.0, logits), axis=1)
    log_joint = log_likelihood + log_normal(GRID, 0.0, 0.0)
    evidence = np.log(STEP * np.sum(np.exp(log_joint)))
    log_q = log_normal(GRID, mean, log_variance)
    error = STEP * np.sum(np.exp(log_q) * (log_q - log_joint + evidence))
    spread = np.sqrt(
        STEP * np.sum(np.exp(log_q) * log_likelihood**2)
        - (STEP * np.sum(np.exp(log_q) * log_likelihood)) ** 2
    )

    images = jnp.repeat(batch[:1], samples, axis=0)
    loss, _ = terms(params, jax.random.key(3), images, FAMILY.nominal())
    tolerance = 4 * spread / np.sqrt(samples)
    assert tolerance < error / 20
    assert float(loss) * PIXELS == pytest.approx(error - evidence, abs=tolerance)


def test_gradient_descent_finds_more_than_the_mean_image():
    """A decoder that ignores its code does best by the mean image: its loss there."""
    family = ImageVAE(load("digits"), hidden=(16,), latent=4, batch_size=32)

    @jax.jit
    def descend(family):
        task = family.task(family.nominal())

        def step(params, key):
            batch = task.batch(key, "train")
            grads, _ = jax.grad(task.loss, has_aux=True)(params, key, batch)
            # A mean over pixels has small gradients.
            return jax.tree.map(lambda p, g: p - 3.0 * g, params, grads), None

        keys = jax.random.split(jax.random.key(1), 2000)
        params, _ = jax.lax.scan(step, task.init(jax.random.key(0)), keys)
        unseen = family.data.inputs["test"]
        mean_image = jnp.mean(unseen, axis=0)
        return task.loss(params, jax.random.key(2), unseen)[0], entropy(mean_image)

    loss, silent = descend(family)
    assert float(loss) < 0.97 * float(silent.mean())
