import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import ImageMLP, LowPrecision, NormaliseGradient, Reparametrise, load
from tasks.augmentations.base import Wrapped
from tests.tasks.augmentations.descent import descend, look, vector


INNER = ImageMLP(load("digits"), hidden=(), batch_size=8)
LEVELS = ("global", "tensor", "parameter")


@pytest.fixture(params=LEVELS, scope="module")
def subject(request):
    family = Reparametrise(INNER, request.param, scale=(0.1, 10.0))
    return family, jax.jit(family.sample)(jax.random.key(5))


@pytest.fixture(scope="module")
def plain(subject):
    return look(INNER, subject[1].inner)


def scales(family, spec, params):
    """A tree of what each parameter is multiplied by."""
    if family.level == "global":
        return jax.tree.map(lambda p: jnp.full_like(p, spec.scale), params)
    return jax.tree.map(lambda p, c: jnp.full_like(p, c), params, spec.scale)


def test_the_function_is_unchanged(subject, plain):
    _, (loss, aux), _ = look(*subject)
    _, (inner_loss, inner_aux), _ = plain
    assert float(loss) == pytest.approx(float(inner_loss), rel=1e-5)
    assert float(aux["accuracy"]) == float(inner_aux["accuracy"])


def test_start_is_divided_and_gradient_multiplied(subject, plain):
    params, _, grads = look(*subject)
    inner_params, _, inner_grads = plain
    family, spec = subject
    c = vector(scales(family, spec, params))
    np.testing.assert_allclose(vector(params) * c, vector(inner_params), rtol=1e-5)
    np.testing.assert_allclose(
        vector(grads), vector(inner_grads) * c, rtol=1e-4, atol=1e-6
    )


def test_every_level_has_its_number_of_scales(subject):
    family, spec = subject
    drawn = np.concatenate([np.ravel(c) for c in jax.tree.leaves(spec.scale)])
    tensors, parameters = 2, 64 * 10 + 10
    expected = {"global": 1, "tensor": tensors, "parameter": parameters}
    assert len(np.unique(drawn)) == len(drawn) == expected[family.level]
    assert drawn.min() >= 0.1
    assert drawn.max() <= 10.0
    if family.level == "parameter":
        # Uniform in the logarithm, over both decades: deviation 2 ln 10 / sqrt(12).
        assert np.log(drawn).std() == pytest.approx(2 * np.log(10) / 12**0.5, rel=0.1)


def test_nominal_scale_is_the_middle():
    for level in LEVELS:
        family = Reparametrise(INNER, level, scale=(1.0, 4.0))
        for c in jax.tree.leaves(family.nominal().scale):
            np.testing.assert_allclose(c, 2.0, rtol=1e-6)


def test_gradients_of_another_source_are_multiplied_too(subject):
    """Inside, the gradient has length one; outside, that is multiplied by c."""
    family, spec = subject
    outer = Reparametrise(NormaliseGradient(INNER), family.level, family.scale)
    steps = descend(outer, spec._replace(inner=Wrapped(spec.inner)), 1)
    first = jax.tree.map(lambda g: g[0], steps.grads)
    c = vector(scales(family, spec, first))
    assert float(jnp.linalg.norm(vector(first) / c)) == pytest.approx(1.0, rel=1e-4)


@pytest.fixture(scope="module")
def low():
    family = LowPrecision(INNER)
    return family, family.nominal()


def test_parameters_and_gradients_stay_in_low_precision(low):
    steps = descend(*low, 3)
    for leaf in jax.tree.leaves((steps.params, steps.grads)):
        assert leaf.dtype == jnp.bfloat16
    assert steps.losses.dtype == jnp.float32
    assert np.isfinite(steps.losses).all()


def test_only_floats_are_cast(low):
    batch = low[0].task(low[1]).batch(jax.random.key(0), "test")
    assert [x.dtype for x in batch] == [jnp.bfloat16, jnp.int32]


def test_low_precision_is_near_the_plain_task(low):
    """Eight bits: inner products of 64 terms are off by about one in 256."""
    params, (loss, _), grads = look(*low)
    plain_params, (plain_loss, _), plain_grads = look(INNER, low[1].inner)
    np.testing.assert_array_equal(
        vector(params), vector(plain_params).astype(jnp.bfloat16)
    )
    assert float(loss) != float(plain_loss)
    assert float(loss) == pytest.approx(float(plain_loss), rel=0.02)
    off = vector(grads).astype(jnp.float32) - vector(plain_grads)
    assert jnp.linalg.norm(off) < 0.05 * jnp.linalg.norm(vector(plain_grads))


def test_low_precision_keeps_what_is_inside(low):
    """Gradients of length one inside are of length one outside."""
    steps = descend(LowPrecision(NormaliseGradient(INNER)), Wrapped(low[1]), 1)
    lengths = jnp.linalg.norm(vector(steps.grads).astype(jnp.float32))
    assert float(lengths) == pytest.approx(1.0, rel=0.01)
