"""Tensors of one shape side by side: there and back, and ways through them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import groups
from l2o.learned.groups import (
    for_each,
    group_tensors,
    in_tree_order,
    init_groups,
    rows_of,
    shape_name,
    ungroup,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Shapes return in an order that is not that of the groups.
TREE = {
    "a": normal(0, 3, 2),
    "b": [normal(1, 4), normal(2), normal(3, 3, 2)],
    "c": {"empty": normal(4, 0, 2), "half": jnp.bfloat16(normal(5, 3, 2))},
    "d": normal(6),
    "e": (normal(7, 2, 3), normal(8, 0, 2), np.float16(normal(9, 4))),
}
LEAVES = jax.tree.leaves(TREE)


def assert_trees_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_array_equal(g, w)


def test_every_shape_has_a_group_and_every_tensor_a_place():
    found = group_tensors(TREE, TREE)
    assert {g.name: g.indices for g in found} == {
        "3x2": (0, 3, 5),
        "4": (1, 9),
        "scalar": (2, 6),
        "0x2": (4, 8),
        "2x3": (7,),
    }
    for group in found:
        assert group.gradients.dtype == jnp.float32
        assert group.name == shape_name(group.shape)
        for g, p, i in zip(group.gradients, group.params, group.indices, strict=True):
            assert p is LEAVES[i]
            np.testing.assert_array_equal(g, LEAVES[i].astype(np.float32))


@pytest.mark.parametrize("tree", [TREE, {}, {"a": ()}, normal(0), [normal(0, 0)]])
def test_there_and_back(tree):
    """Values of 16 bits go through float32 unharmed."""
    found = group_tensors(tree, tree)
    assert_trees_equal(ungroup(tree, found, [g.gradients for g in found]), tree)
    # Also as stacks of matrices, of which a tensor of more axes has several.
    turned = [g.matrices() if len(g.shape) > 1 else g for g in found]
    assert_trees_equal(ungroup(tree, found, [g.gradients for g in turned]), tree)


def test_steps_have_the_type_of_the_parameter_and_gradients_are_converted():
    gradients = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), TREE)
    found = group_tensors(gradients, TREE, lambda g: 2 * g.astype(jnp.float32))
    got = ungroup(gradients, found, [g.gradients for g in found])
    want = jax.tree.map(lambda g, p: (2 * g).astype(p.dtype), gradients, TREE)
    assert_trees_equal(got, want)


def test_params_may_be_a_tree_that_begins_like_the_gradients():
    found = group_tensors([normal(0, 2)], [normal(1, 2)])
    assert found[0].indices == (0,)
    with pytest.raises(ValueError, match="list"):
        group_tensors([normal(0, 2)], {"a": normal(1, 2)})


@pytest.mark.parametrize("columns", [(), (2,)])
def test_tree_order_is_the_inverse_of_rows(columns):
    rows = normal(0, len(LEAVES), *columns)
    found = group_tensors(TREE, TREE)
    parts = [rows_of(g, rows) for g in found]
    for group, part in zip(found, parts, strict=True):
        np.testing.assert_array_equal(part, rows[list(group.indices)])
    np.testing.assert_array_equal(in_tree_order(found, parts), rows)


def test_states_by_shape():
    def init_one(p):
        return {"zeros": jnp.zeros(p.shape), "ndim": jnp.full((), p.ndim)}

    states = init_groups(TREE, init_one)
    assert {name: s["zeros"].shape for name, s in states.items()} == {
        "3x2": (3, 3, 2),
        "4": (2, 4),
        "scalar": (2,),
        "0x2": (2, 0, 2),
        "2x3": (1, 2, 3),
    }
    assert {name: s["ndim"].tolist() for name, s in states.items()} == {
        "3x2": [2] * 3,
        "4": [1] * 2,
        "scalar": [0] * 2,
        "0x2": [2] * 2,
        "2x3": [2],
    }
    assert init_groups({}, init_one) == {}


@pytest.mark.parametrize("shape", [(), (4,), (3, 2), (2, 3, 4), (0, 2)])
def test_mean_squares_of_tensors_and_of_their_matrices(shape):
    params = [np.float32(10.0**i) * normal(i, *shape) for i in range(3)]
    (group,) = group_tensors(params, params)
    want = [np.square(p.astype(np.float64)).sum() / max(1, p.size) for p in params]
    np.testing.assert_allclose(group.mean_squares(), want, rtol=1e-6)
    if len(shape) == 3:
        want = [np.square(m.astype(np.float64)).mean() for p in params for m in p]
        np.testing.assert_allclose(group.matrices().mean_squares(), want, rtol=1e-6)


def test_one_parameter_is_that_of_all():
    params = [normal(i, 2, 3, 4) for i in range(3)]
    (group,) = group_tensors(params, params)
    for group in (group, group.matrices()):  # noqa: B020
        for i in range(len(group.gradients)):
            got = group.parameter(jnp.array(i))
            np.testing.assert_array_equal(got, group.stacked()[i])


@pytest.fixture(params=["batched", "looped"])
def way(request, monkeypatch):
    """Several tensors of one shape as one batch, or one after another."""
    if request.param == "looped":
        monkeypatch.setattr(groups, "BATCHED", -1)
    return request.param


def step(g, p, own):
    """Something of a tensor in which all its entries, and what is its own, matter."""
    return jnp.sin(g) * jnp.sum(p * p) + own["rate"] * p * own["more"][0]


CASES = pytest.mark.parametrize(
    ("n", "shape", "matrices"),
    [
        (1, (3, 2), False),
        (3, (3, 2), False),
        (2, (), False),
        (2, (0, 2), False),
        (1, (2, 3, 2), True),
        (3, (2, 3, 2), True),
    ],
)


def problem(n, shape, matrices):
    """Gradients, parameters (of two types), and what belongs to each of them."""
    gradients = [normal(i, *shape) for i in range(n)]
    params = [jnp.asarray(normal(9 + i, *shape)) for i in range(n)]
    params[-1] = params[-1].astype(jnp.bfloat16)
    each = shape[0] if matrices else 1
    own = {"rate": normal(20, n * each), "more": normal(21, n * each, 2)}
    return gradients, params, own


def grouped(gradients, params, own, matrices, defined=None):
    (group,) = group_tensors(gradients, params)
    group = group.matrices() if matrices else group
    if defined is None:
        defined = jnp.ones(len(group.gradients), bool)
    return for_each(step, group, own, defined)


def one_by_one(gradients, params, own, matrices):
    ones = []
    for g, p in zip(gradients, params, strict=True):
        p = p.astype(jnp.float32)
        pairs = zip(g, p, strict=True) if matrices else [(g, p)]
        for one in pairs:
            i = len(ones)
            ones.append(step(*one, jax.tree.map(lambda x, i=i: x[i], own)))
    return jnp.stack(ones)


def assert_close(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


@CASES
def test_for_each_is_a_loop_in_python(way, n, shape, matrices):
    given = problem(n, shape, matrices)
    run = functools.partial(grouped, matrices=matrices)
    want = one_by_one(*given, matrices)
    assert_close(jax.jit(run)(*given), want)
    # The way that was meant is the one that is taken.
    loops = "while" in str(jax.make_jaxpr(run)(*given))
    loops |= "scan" in str(jax.make_jaxpr(run)(*given))
    assert loops == (way == "looped" and len(want) > 1)


@CASES
def test_for_each_of_many_problems(way, n, shape, matrices):
    """Under vmap every problem is moved as if it were alone."""
    given = problem(n, shape, matrices)
    factors = jnp.array([1.0, -2.0, 0.5])

    def scaled(c):
        return jax.tree.map(lambda x: (c * x).astype(x.dtype), given)

    got = jax.jit(jax.vmap(lambda c: grouped(*scaled(c), matrices=matrices)))(factors)
    for c, moved in zip(factors, got, strict=True):
        assert_close(moved, one_by_one(*scaled(c), matrices=matrices))


@CASES
def test_derivative_of_for_each_by_what_belongs_to_the_tensors(way, n, shape, matrices):
    gradients, params, own = problem(n, shape, matrices)

    def slope(function):
        def loss(own):
            return jnp.sum(jnp.sin(function(gradients, params, own, matrices)))

        return jax.jit(jax.grad(loss))(own)

    got = slope(grouped)
    assert_close(got, slope(one_by_one))
    assert got["rate"].any() == (0 not in shape)
    assert not got["more"][:, 1].any()


@pytest.mark.parametrize(("shape", "matrices"), [((3, 2), False), ((2, 3, 2), True)])
def test_what_is_not_defined_is_nan_and_nothing_else(monkeypatch, shape, matrices):
    monkeypatch.setattr(groups, "BATCHED", -1)
    given = problem(3, shape, matrices)
    want = np.array(one_by_one(*given, matrices))
    defined = jnp.arange(len(want)) != 1
    want[1] = np.nan
    run = functools.partial(grouped, matrices=matrices, defined=defined)
    got = jax.jit(run)(*given)
    np.testing.assert_allclose(got, want, rtol=1e-5)

    def loss(own):
        return jnp.sum(
            grouped(*given[:2], own, matrices, defined)[np.flatnonzero(defined)]
        )

    slope = jax.jit(jax.grad(loss))(given[2])["rate"]
    np.testing.assert_array_equal(np.isfinite(slope), True)
    np.testing.assert_array_equal(slope != 0.0, defined)
