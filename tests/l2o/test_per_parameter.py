"""The ways to the outputs of a per-parameter MLP, and what they cost."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.learned import Celo, Celo2, RelativeMLP, SmallFC, VeLO, groups, per_parameter
from l2o.learned.accumulators import DECAYS, init_stats, read_stats, update_stats
from l2o.learned.features import (
    Feature,
    mean_squares,
    small_fc_inputs,
    velo_inputs,
)


MLP: Any = {"hidden_size": 3, "hidden_layers": 2}
LOPTS = {
    "small_fc": SmallFC(**MLP),
    "velo": VeLO(**MLP, lstm_size=4, mixtures=3, step_mult=1.0),
    "celo": Celo(**MLP, lstm_size=4, step_mult=1.0),
    "celo2": Celo2(**MLP),
    "celo2_base": Celo2(**MLP, orthogonalize=False),
    "relative_mlp": RelativeMLP(**MLP),
}
# SMALL and BATCHED under which all tensors are taken one way.
WAYS = {"plain": (10**9, 10**9), "batched": (-1, 10**9), "looped": (-1, -1)}
STEPS = 4
SHAPES = {
    "bias": (5,),
    "conv": (3, 3, 2, 4),
    "first": (4, 3),
    "gain": (5,),
    "last": (3, 3, 2, 4),
    "number": (),
    "second": (4, 3),
    "third": (4, 3),
}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def normal_tree(seed, *leading):
    return {
        k: normal(seed + i, *leading, *s) for i, (k, s) in enumerate(SHAPES.items())
    }


PARAMS = normal_tree(0)
# Of the sign with which its direction and its decay do not cancel: what would be left
# of them has the roundings of both, and those are of the CPU.
PARAMS["number"] = -PARAMS["number"]
GRADS = normal_tree(20, STEPS)
LOSSES = np.array([3.0, 2.5, 2.75, 1.0], np.float32)


def random_theta(lopt):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32),
        lopt.init_theta(jax.random.key(0)),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _follow(lopt, way, theta, grads):
    del way  # Under which this is traced: it tells the compiled programs apart.
    tx = lopt.with_theta(theta, num_steps=10)

    def body(state, given):
        g, loss = given
        step, state = tx.update(g, state, PARAMS, value=loss)
        return state, step

    return jax.lax.scan(body, tx.init(PARAMS), (grads, LOSSES))[1]


@pytest.fixture
def follow(monkeypatch):
    """`(lopt, way, grads) -> updates, [T, ...]`, all at the same parameters."""

    def follow(lopt, way, grads=GRADS):
        small, batched = WAYS[way]
        monkeypatch.setattr(per_parameter, "SMALL", small)
        monkeypatch.setattr(groups, "BATCHED", batched)
        return jax.device_get(_follow(lopt, way, random_theta(lopt), grads))

    return follow


# Largest difference between the ways, in units of a tensor's largest update: some
# roundings of float32.
TOLERANCE = dict.fromkeys(LOPTS, 1e-6)
# A step is what is left of a direction and a decay.
TOLERANCE["relative_mlp"] = 2e-6
# Every Newton-Schulz iteration multiplies what is smallest by 3.4: five, by 480.
TOLERANCE["celo2"] = 480 * 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", LOPTS)
def test_all_ways_lead_to_the_same_updates(follow, name):
    want = follow(LOPTS[name], "plain")
    for way in ("batched", "looped"):
        got = follow(LOPTS[name], way)
        for key, w in want.items():
            scale = np.abs(w).max()
            assert np.isfinite(w).all()
            assert scale > 1e-5, key
            assert np.abs(got[key] - w).max() <= TOLERANCE[name] * scale, (way, key)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["small_fc", "celo2_base"])
def test_a_nan_stays_in_its_tensor(follow, name, way):
    """It is in all of the tensor from then on, and in no other tensor of its shape."""
    want = follow(LOPTS[name], way)
    for broken in ("second", "gain", "number"):
        grads = jax.tree.map(np.copy, GRADS)
        grads[broken].reshape(STEPS, -1)[1, 0] = np.nan
        got = follow(LOPTS[name], way, grads)
        assert np.isfinite(got[broken][0]).all()
        assert np.isnan(got[broken][1:]).all()
        for key in want.keys() - {broken}:
            np.testing.assert_array_equal(got[key], want[key], err_msg=key)


def float64(x):
    return np.asarray(x, np.float64)


def squares_in_float64(feature, shape):
    """The mean of the square of the formed feature."""
    x = np.ones(shape) if feature.base is None else float64(feature.base)
    for factor in feature.factors:
        x = x * float64(factor)
    if feature.variance is not None:
        x = x / np.sqrt(float64(feature.variance) + feature.floor)
    if feature.bound is not None:
        x = np.clip(x, -feature.bound, feature.bound)
    return np.mean(np.square(x))


def features_of_every_kind(g, m, v, row, col, scale):
    """Arrays are used again and again, in features of other kinds."""
    return [
        Feature(g),
        Feature(g),
        Feature(m),
        Feature(v),
        Feature(row),
        Feature(g, bound=0.5),
        Feature(g, bound=0.5 * scale),
        Feature(m, (row,), bound=0.5 * scale),
        Feature(g, (row,)),
        Feature(g, (row, col)),
        Feature(m, (row, col)),
        Feature(m, (col,)),
        Feature(m, variance=v, floor=1e-6),
        Feature(g, variance=v, floor=1e-6),
        Feature(g, variance=v, floor=1e-9),
        Feature(g, (row,), variance=v, floor=1e-6),
        Feature(m, variance=v, floor=1e-6, bound=0.5),
        Feature(m, (row,), variance=v, bound=0.5),
        Feature(m, variance=v),
        Feature(variance=v, floor=1e-6),
        Feature(variance=v, floor=1e-8),
        Feature(variance=row, floor=1e-8),
        Feature(m, (col,), variance=row, floor=1e-8),
    ]


# Nothing beside the eps of any normaliser, 1e-9 or more; float32 may make zero of it.
BELOW_EPS = 1e-25


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e6])
def test_mean_square_of_every_kind_of_feature(scale):
    g, m = np.float32(scale) * normal(0, 6, 5), np.float32(scale) * normal(1, 6, 5)
    v = np.square(np.float32(scale) * normal(2, 6, 5))
    row, col = np.square(normal(3, 6, 1)) + 0.1, np.square(normal(4, 1, 5)) + 0.1
    arrays = [jnp.asarray(x, jnp.float32) for x in (g, m, v, row, col)]

    @jax.jit
    def measure(g, *others):
        return mean_squares(features_of_every_kind(g, *others, scale=scale), g)

    features = features_of_every_kind(*arrays, scale=scale)
    want = [squares_in_float64(f, g.shape) for f in features]
    np.testing.assert_allclose(measure(*arrays), want, rtol=1e-5, atol=BELOW_EPS)
    formed = [np.mean(np.square(float64(f.value()))) for f in features]
    np.testing.assert_allclose(formed, want, rtol=1e-5, atol=BELOW_EPS)


def test_a_known_mean_square_is_taken_as_it_is():
    known = Feature(mean_square=jnp.float32(7.0))
    assert mean_squares([known, known], jnp.ones((2, 2))).tolist() == [7.0, 7.0]


@pytest.mark.parametrize("shape", [(), (7,), (6, 5), (2, 3, 4), (0, 3)])
@pytest.mark.parametrize("scale", [0.0, 1e-15, 1.0, 1e6])
@pytest.mark.parametrize("inputs", [small_fc_inputs, velo_inputs])
def test_mean_squares_of_all_inputs(inputs, scale, shape):
    gradients = np.float32(scale) * normal(0, 3, *shape)
    p = jnp.asarray(normal(1, *shape))

    @jax.jit
    def read(gradients):
        stats = init_stats(p, DECAYS)
        for g in gradients:
            stats = update_stats(stats, g, DECAYS)
        return read_stats(stats, shape)

    readings = read(gradients)
    g = jnp.asarray(gradients[-1])
    features = inputs(readings, g, Feature(p))
    got = jax.jit(lambda r, g: mean_squares(inputs(r, g, Feature(p)), g))(readings, g)
    assert got.shape == (len(features),)
    if not p.size:
        assert np.isfinite(got).all()
        return
    want = np.array([squares_in_float64(f, shape) for f in features])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=BELOW_EPS)


SIDE = 512


def compiled(lopt, shapes, *, donate=()):
    """The program of a step of a training, and how many parameters that has."""
    params = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    theta = jax.eval_shape(lopt.init_theta, jax.random.key(0))

    def transformation(theta):
        return lopt.with_theta(theta, num_steps=10)

    def step(params, state, grads, theta):
        updates, state = transformation(theta).update(grads, state, params, value=1.0)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(lambda theta: transformation(theta).init(params), theta)
    program = jax.jit(step, donate_argnums=donate).lower(params, state, params, theta)
    return program.compile(), sum(math.prod(s) for s in shapes)


@pytest.mark.parametrize(
    ("name", "floats"),
    [
        ("small_fc", 2.0),
        ("velo", 2.0),
        ("celo", 2.0),
        # The outputs for one of three matrices, of which it takes the mean square.
        ("celo2_base", 2.0 + 1 / 3),
    ],
)
def test_a_step_needs_no_more_memory_than_two_copies_of_the_parameters(name, floats):
    """A feature that was formed would be one more; there are up to 30."""
    program, size = compiled(LOPTS[name], [(SIDE, SIDE)] * 3, donate=(0, 1))
    # Rows, columns and weights are a few thousandths of that.
    memory: Any = program.memory_analysis()
    assert memory.temp_size_in_bytes <= (floats + 0.03) * 4 * size


# What costs next to nothing to compile.
TRIVIAL = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}


def instructions(program):
    """The number of instructions of a program that are not trivial."""
    found = re.findall(
        r"^ +(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(", program.as_text(), re.MULTILINE
    )
    assert "multiply" in found
    return sum(name not in TRIVIAL for name in found)


@pytest.mark.slow
@pytest.mark.parametrize("batched", [groups.BATCHED, -1])
@pytest.mark.parametrize("name", ["small_fc", "velo", "celo2_base"])
def test_programs_grow_with_shapes_and_not_with_tensors(monkeypatch, name, batched):
    """A tensor more is stacked, measured, cut out and added, whatever is done to it.

    An MLP of its own would be 150 instructions and more.
    """
    monkeypatch.setattr(groups, "BATCHED", batched)
    lopt = dataclasses.replace(LOPTS[name], hidden_layers=1)
    few, many = (compiled(lopt, [(24, 32)] * n)[0] for n in (3, 23))
    assert instructions(many) - instructions(few) <= 20 * 25


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("batched", [groups.BATCHED, -1])
def test_a_hundred_layers_are_at_most_twice_the_program_of_six(monkeypatch, batched):
    monkeypatch.setattr(groups, "BATCHED", batched)
    shapes = [(24, 32), (32, 24), (32, 32)]
    few, many = (compiled(SmallFC(), (34 * shapes)[:n])[0] for n in (6, 100))
    assert instructions(many) <= 2 * instructions(few)
