"""Arrays as words: nothing is lost on the way."""

import jax
import jax.numpy as jnp
import numpy as np

from meta_train.estimators.words import from_words, to_words


def test_every_bit_comes_back():
    tree = {
        "floats": jnp.array([[1.5, -0.0], [jnp.nan, 1e-40]], jnp.float32),
        "count": jnp.int32(2**31 - 1),
        "none": jnp.zeros((0, 3)),
    }
    words = to_words(tree)
    assert (words.shape, words.dtype) == ((5,), jnp.int32)
    back = from_words(words, jax.eval_shape(lambda: tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def test_double_precision_takes_two_words(x64):
    del x64
    tree = (jnp.array([0.1, -1e300]), jnp.float32(2.0))
    words = to_words(tree)
    assert words.shape == (5,)
    back = from_words(words, tree)
    assert back[0].dtype == jnp.float64
    np.testing.assert_array_equal(back[0], tree[0])
    np.testing.assert_array_equal(back[1], tree[1])
