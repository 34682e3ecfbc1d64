"""Averages of the gradient against sums written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned.accumulators import (
    Decays,
    factored_dims,
    init_stats,
    read_stats,
    safe_rsqrt,
    start_correction,
    update_stats,
)


TWO = Decays(momentum=(0.9, 0.5), rms=(0.99,), factored=(0.8, 0.5))


@functools.partial(jax.jit, static_argnums=1)
def stats_after(gradients, decays=TWO):
    stats = init_stats(jnp.zeros_like(gradients[0]), decays)
    for g in gradients:
        stats = update_stats(stats, jnp.asarray(g), decays)
    return stats


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((), None),
        ((5,), None),
        ((4, 6), (0, 1)),
        ((6, 4), (1, 0)),
        # The later of two equal axes counts as the larger.
        ((4, 4), (0, 1)),
        ((3, 3, 2, 4), (1, 3)),
        ((2, 3, 4), (1, 2)),
        ((0, 3), (0, 1)),
    ],
)
def test_factored_axes_are_the_two_largest(shape, dims):
    assert factored_dims(shape) == dims


def test_scalar_by_hand():
    stats = stats_after([np.float32(2.0), np.float32(-1.0)])
    assert float(stats.momentum[0]) == pytest.approx(0.9 * 0.1 * 2.0 - 0.1)
    assert float(stats.momentum[1]) == pytest.approx(0.5 * 0.5 * 2.0 - 0.5)
    assert float(stats.rms[0]) == pytest.approx(0.99 * 0.01 * 4.0 + 0.01)
    assert float(stats.diag[0]) == pytest.approx(0.8 * 0.2 * 4.0 + 0.2)
    assert float(stats.diag[1]) == pytest.approx(0.5 * 0.5 * 4.0 + 0.5)
    assert stats.row == stats.col == ()


def test_matrix_by_hand():
    g = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    stats = stats_after([g])
    # Axis 1 is the larger: a row average runs over it, a column average over the other.
    row, col = np.array([[14 / 3], [77 / 3]]), np.array([[17 / 2, 29 / 2, 45 / 2]])
    np.testing.assert_allclose(stats.row[0], 0.2 * row, rtol=1e-6)
    np.testing.assert_allclose(stats.col[0], 0.2 * col, rtol=1e-6)
    np.testing.assert_allclose(stats.col[1], 0.5 * col, rtol=1e-6)
    np.testing.assert_allclose(stats.rms[0], 0.01 * g**2, rtol=1e-5)
    assert stats.diag == ()


def test_preconditioner_is_the_root_of_adafactors_rank_one_estimate():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(3, 2, 3, 4)).astype(np.float32)
    stats = stats_after(list(gradients))
    read = read_stats(stats, (2, 3, 4))
    for i, d in enumerate(TWO.factored):
        weights = (1 - d) * d ** np.array([2.0, 1.0, 0.0])
        square = np.einsum("t,tijk->ijk", weights, gradients.astype(np.float64) ** 2)
        row = square.mean(axis=2, keepdims=True)
        col = square.mean(axis=1, keepdims=True)
        estimate = row * col / row.mean(axis=1, keepdims=True)
        factor = read.left[i] * read.right[i]
        np.testing.assert_allclose(factor, estimate**-0.5, rtol=1e-4)


def test_preconditioner_is_exact_for_rank_one_gradients():
    """The factored estimate of a rank-one square is that square."""
    g = np.outer([1.0, 2.0], [3.0, -1.0, 2.0]).astype(np.float32)
    read = read_stats(stats_after([g]), g.shape)
    got = g * read.left[0] * read.right[0]
    np.testing.assert_allclose(got, np.sign(g) / 0.2**0.5, rtol=1e-5)


def test_no_gradient_leaves_finite_statistics():
    for shape in [(), (3,), (2, 3), (0, 3), (3, 0), (0,)]:
        stats = stats_after([np.zeros(shape, np.float32)] * 2)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(stats)), shape
        read = read_stats(stats, shape)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(read)), shape


@pytest.mark.parametrize("decay", [-0.5, 1.5])
def test_second_moments_are_not_negative_whatever_was_learned(decay):
    decays = Decays(momentum=(decay,), rms=(decay,), factored=(decay,))
    rng = np.random.default_rng(0)
    gradients = list(rng.normal(size=(4, 2, 3)).astype(np.float32))
    stats = stats_after(gradients, decays)
    for x in (*stats.rms, *stats.row, *stats.col):
        assert (np.asarray(x) >= 0).all()


def test_statistics_of_bfloat16_parameters_are_float32():
    stats = init_stats(jnp.zeros((2, 3), jnp.bfloat16), TWO)
    assert {x.dtype for x in jax.tree.leaves(stats)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_a_corrected_average_of_a_constant_is_the_constant(decay):
    average = 0.0
    for count in range(1, 5):
        average = decay * average + (1 - decay) * 3.0
        corrected = average * start_correction(decay, count)
        np.testing.assert_allclose(corrected, 3.0, rtol=1e-4)


def test_safe_rsqrt_is_floored():
    assert float(safe_rsqrt(jnp.float32(4.0))) == pytest.approx(0.5)
    assert float(safe_rsqrt(jnp.float32(0.0))) == pytest.approx(1e9**0.5)
    assert float(jax.grad(safe_rsqrt)(jnp.float32(0.0))) == 0.0


@pytest.mark.parametrize("shape", [(), (3,)])
def test_vectors_are_read_off_their_full_second_moment(shape):
    stats = stats_after([np.full(shape, 2.0, np.float32)])
    read = read_stats(stats, shape)
    assert read.left == read.right == ()
    for got in (read.row, read.col):
        # Of weights 1 - 0.8 and 1 - 0.5.
        np.testing.assert_allclose(got[0], np.full(shape, 0.8), rtol=1e-6)
        np.testing.assert_allclose(got[1], np.full(shape, 2.0), rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4)])
def test_statistics_side_by_side_are_those_of_each_tensor(shape):
    """Under vmap, along the tensors of one shape, axes are still counted rightly."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(2, 3, *shape)).astype(np.float32)
    stats = jax.vmap(lambda g: stats_after(list(g)))(gradients.swapaxes(0, 1))
    reads = jax.vmap(lambda s: read_stats(s, shape))(stats)
    for i in range(3):
        want = stats_after(list(gradients[:, i]))
        for together, alone in ((stats, want), (reads, read_stats(want, shape))):
            jax.tree.map(
                lambda x, w, i=i: np.testing.assert_allclose(x[i], w, rtol=1e-5),
                together,
                alone,
            )


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (2, 4, 3)])
def test_readings_broadcast_to_the_tensor(shape):
    read = read_stats(stats_after([np.ones(shape, np.float32)]), shape)
    for x in (*read.row, *read.left, *read.col, *read.right):
        assert np.broadcast_shapes(x.shape, shape) == shape
        assert x.size < np.prod(shape)
