"""The LSTM of VeLO and Celo: what its rows tell each other, and what it reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import VeLO
from l2o.learned.features import TRAINING_FRACTIONS
from l2o.learned.tensor_lstm import (
    NUM_COURSE_FEATURES,
    init_tensor_lstm_state,
    move_lstm,
    observe,
    tensor_lstm_init,
)


INPUTS, SIZE, ROWS = 3, 2, 4
LOPT = VeLO()
move = jax.jit(move_lstm)


@jax.jit
def seen(state, value):
    return observe(LOPT, state, value, state.num_steps)


def random_theta(inputs=INPUTS):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + rng.normal(size=x.shape).astype(np.float32),
        tensor_lstm_init(jax.random.key(0), inputs, SIZE, {"one": 1, "more": 5}),
    )


THETA = random_theta()
ROW_INPUTS = np.random.default_rng(1).normal(size=(ROWS, INPUTS)).astype(np.float32)


def begin(rows, theta=THETA, num_steps=10):
    return init_tensor_lstm_state(theta, rows, num_steps)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def test_one_step_is_the_written_out_arithmetic():
    layers, x = jax.tree.map(np.float64, THETA["lstm"]), ROW_INPUTS.astype(np.float64)

    def affine(name, x):
        return x @ layers[name]["w"] + layers[name]["b"]

    largest = np.maximum(affine("mix", x), 0.0).max(axis=0)
    joined = affine("inputs", x) + largest
    hidden = np.tile(THETA["initial_state"]["hidden"], (ROWS, 1))
    cell = np.tile(THETA["initial_state"]["cell"], (ROWS, 1))
    gates = affine("cell", np.concatenate([joined, hidden], axis=1))
    i, candidate, f, o = np.split(gates, 4, axis=1)
    cell = sigmoid(f + 1.0) * cell + sigmoid(i) * np.tanh(candidate)
    hidden = sigmoid(o) * np.tanh(cell)
    out, state = move(THETA["lstm"], ROW_INPUTS, begin(ROWS))
    np.testing.assert_allclose(out, hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.hidden, out)
    np.testing.assert_allclose(state.cell, cell, rtol=1e-5, atol=1e-6)


def test_rows_have_no_order():
    order = np.array([2, 0, 3, 1])
    out, _ = move(THETA["lstm"], ROW_INPUTS, begin(ROWS))
    permuted, _ = move(THETA["lstm"], ROW_INPUTS[order], begin(ROWS))
    np.testing.assert_allclose(permuted, np.asarray(out)[order], rtol=1e-6)


def test_rows_hear_of_each_other_by_the_maximum_only():
    out, _ = move(THETA["lstm"], ROW_INPUTS, begin(ROWS))
    mixed = ROW_INPUTS @ THETA["lstm"]["mix"]["w"] + THETA["lstm"]["mix"]["b"]
    direction = THETA["lstm"]["mix"]["w"].sum(axis=1)
    # Below its own zero a row is mute: the others, whose largest is not it, stay.
    mute = int(np.argmin(mixed.max(axis=1)))
    others = np.arange(ROWS) != mute
    assert (mixed[others].max(axis=0) >= mixed[mute]).all()
    low = ROW_INPUTS.copy()
    low[mute] = np.linalg.lstsq(
        THETA["lstm"]["mix"]["w"].T, np.full(SIZE, -9.0, np.float32)
    )[0]
    got, _ = move(THETA["lstm"], low, begin(ROWS))
    np.testing.assert_array_equal(np.asarray(got)[others], np.asarray(out)[others])
    loud = ROW_INPUTS.copy()
    loud[mute] += 10.0 * direction
    got, _ = move(THETA["lstm"], loud, begin(ROWS))
    assert (np.asarray(got)[others] != np.asarray(out)[others]).any()


def test_equal_rows_move_as_one():
    """This is why Celo has one row for all tensors."""
    state, alone = begin(ROWS), begin(1)
    for x in ROW_INPUTS:
        out, state = move(THETA["lstm"], np.tile(x, (ROWS, 1)), state)
        single, alone = move(THETA["lstm"], x[None], alone)
        np.testing.assert_allclose(out, np.tile(single, (ROWS, 1)), rtol=1e-5)


def test_no_rows_are_no_error():
    out, state = move(THETA["lstm"], np.zeros((0, INPUTS), np.float32), begin(0))
    assert out.shape == state.cell.shape == (0, SIZE)


def test_the_unused_layer_is_dead():
    zeros = jax.tree.map(np.zeros_like, THETA["lstm"]["unused"])
    layers = THETA["lstm"] | {"unused": zeros}
    np.testing.assert_array_equal(
        move(layers, ROW_INPUTS, begin(ROWS))[0],
        move(THETA["lstm"], ROW_INPUTS, begin(ROWS))[0],
    )


def test_heads_have_their_sizes():
    assert THETA["lstm"]["one"]["w"].shape == (SIZE, 1)
    assert THETA["lstm"]["more"]["w"].shape == (SIZE, 5)


def test_observed_features_are_the_fraction_done_and_the_loss():
    state = begin(1, num_steps=4)
    for t, value in enumerate([3.0, 2.0, 1.0, 0.5]):
        features, state = seen(state, np.float32(value))
        assert features.shape == (NUM_COURSE_FEATURES,)
        split = len(TRAINING_FRACTIONS)
        want = np.tanh(10.0 * (t / 4 - np.array(TRAINING_FRACTIONS)))
        np.testing.assert_allclose(features[:split], want, rtol=1e-5, atol=1e-6)
        # A loss that falls is at its lowest: the shorter averages stand at -1.
        expected = 0.0 if t < 2 else -1.0
        np.testing.assert_array_equal(features[split:], expected)
    assert int(state.step) == 4
    np.testing.assert_array_equal(state.hidden, THETA["initial_state"]["hidden"])


def test_a_missing_loss_is_asked_for():
    with pytest.raises(ValueError, match=r"^VeLO .* update\(grads, .*value=loss\)"):
        observe(LOPT, begin(1), None, jnp.float32(10.0))
