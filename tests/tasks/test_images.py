import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import ImageConv, ImageResNet, ImageViT, load
from tasks.images import Convolution


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("sides", [(4, 6), (5, 7), (1, 2)])
def test_convolution_is_that_of_flax(stride, sides):
    """In value and in gradient, with the same parameters."""
    ours = Convolution(3, stride)
    theirs = nn.Conv(3, (3, 3), stride)
    x = jax.random.normal(jax.random.key(0), (2, *sides, 2))
    params = theirs.init(jax.random.key(1), x)["params"]
    params["bias"] = jnp.arange(3.0)
    shapes = jax.eval_shape(ours.init, jax.random.key(1), x)["params"]
    assert shapes == jax.eval_shape(lambda: params)

    def look(module):
        def score(params, x):
            y = module.apply({"params": params}, x)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(score, argnums=(0, 1), has_aux=True)(params, x)

    for got, want in zip(*map(jax.tree.leaves, map(look, (ours, theirs))), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_initial_kernels_have_variance_one_over_inputs():
    x = jnp.zeros((1, 4, 4, 20))
    variables = Convolution(50).init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])
    assert float(kernel.var()) == pytest.approx(1.0 / (9 * 20), rel=0.05)


@pytest.mark.parametrize("family", [ImageConv, ImageResNet, ImageViT])
def test_vectors_are_refused(family):
    vectors = family(load("digits").flat())
    with pytest.raises(ValueError, match=r"^data must be images .*, got .*\(64,\)$"):
        vectors.task(vectors.nominal())
