"""What every learned optimizer must do. A new architecture is a row of `ROWS`."""

import dataclasses
import functools
import inspect
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import train_state

from l2o.learned import (
    ARCHITECTURES,
    LSTM,
    Celo,
    Celo2,
    CeloAdam,
    LearnableAdam,
    LearnableSGD,
    LearnedOptimizer,
    MuonLSTM,
    MuonMLP,
    RelativeMLP,
    RNNProp,
    SmallFC,
    VeLO,
)
from tests.helpers import assert_no_recompile, nightly, on_explicit_axes


# Every architecture, small; more than once where a field makes another program.
ROWS: dict[str, Any] = {
    "learnable_sgd": LearnableSGD(),
    "learnable_adam": LearnableAdam(),
    "small_fc": SmallFC(hidden_size=2, hidden_layers=1),
    "relative_mlp": RelativeMLP(hidden_size=2, hidden_layers=1),
    "muon_mlp": MuonMLP(hidden_size=2, control_size=2),
    "muon_mlp_without_plan": MuonMLP(hidden_size=2, control_size=2, timed=False),
    "muon_mlp_elementwise": MuonMLP(hidden_size=2, control_size=2, orthogonalize=False),
    "muon_lstm": MuonLSTM(lstm_size=2, mixtures=2, hidden_size=2),
    "muon_lstm_reaching": MuonLSTM(lstm_size=2, mixtures=2, hidden_size=2, reach=0.9),
    "muon_lstm_averaging": MuonLSTM(lstm_size=2, mixtures=2, hidden_size=2, averages=1),
    "muon_lstm_falling": MuonLSTM(lstm_size=2, mixtures=2, hidden_size=2, fall=True),
    "lstm": LSTM(hidden_size=2, num_layers=2),
    "rnnprop": RNNProp(hidden_size=2, num_layers=2),
    "velo": VeLO(lstm_size=2, mixtures=2, hidden_size=2, hidden_layers=1),
    "celo": Celo(lstm_size=2, hidden_size=2, hidden_layers=1),
    "celo_adam": CeloAdam(lstm_size=2),
    "celo2": Celo2(hidden_size=2, hidden_layers=1),
    "celo2_base": Celo2(hidden_size=2, hidden_layers=1, orthogonalize=False),
}
SHAPES = {"scalar": (), "vector": (3,), "conv": (2, 1, 3, 2), "none": (0, 3)}
STEPS = 3
HORIZON = 10


def normal(seed, shapes, dtype: Any = np.float32, scale=1.0):
    """A tree of arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return {k: scale * rng.normal(size=s).astype(dtype) for k, s in shapes.items()}


PARAMS = normal(0, SHAPES)
GRADS = [normal(1 + t, SHAPES) for t in range(STEPS)]
# Not constant: VeLO divides by how far its averages of the loss are apart.
VALUES = [np.float32(v) for v in (2.0, 1.5, 1.25)]
VALUE = VALUES[0]
SMALL = {"matrix": (2, 2)}


class Moved(NamedTuple):
    """One update."""

    updates: Any
    state: Any


@functools.partial(jax.jit, static_argnums=0)
def begin(lopt, theta, params, num_steps):
    return lopt.with_theta(theta, num_steps=num_steps).init(params)


@functools.partial(jax.jit, static_argnums=0)
def move(lopt, theta, grads, state, params, num_steps, value):
    tx = lopt.with_theta(theta, num_steps=num_steps)
    return Moved(*tx.update(grads, state, params, value=value))


@dataclasses.dataclass(frozen=True)
class Subject:
    """An architecture with a theta, all of whose entries matter."""

    lopt: Any
    theta: Any

    def tx(self) -> Any:
        """The plain optimizer."""
        return self.lopt.with_theta(self.theta, num_steps=HORIZON)

    def compiled(self) -> Any:
        """The same through programs that all tests share."""

        def init(params):
            return begin(self.lopt, self.theta, params, HORIZON)

        def update(updates, state, params=None, *, value=None, **extra_args):
            del extra_args  # Those that are ignored are tested on `tx`.
            assert value is not None, "wrappers must pass it on"
            return tuple(
                move(self.lopt, self.theta, updates, state, params, HORIZON, value)
            )

        return optax.GradientTransformationExtraArgs(init, update)


# Every architecture always; more of one by night.
@pytest.fixture(params=nightly(ROWS, but=ARCHITECTURES), scope="module")
def subject(request) -> Subject:
    lopt = ROWS[request.param]
    return Subject(lopt, random_theta(lopt, 0))


def random_theta(lopt, seed):
    """Weights with noise: an untrained head may be zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32),
        lopt.init_theta(jax.random.key(seed)),
    )


def follow(tx: Any, params: Any, grads: Any) -> tuple[Any, Any]:
    """The parameters after updates with each of `grads`, and the last state."""
    state = tx.init(params)
    for g, value in zip(grads, VALUES, strict=False):
        updates, state = tx.update(g, state, params, value=value)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_trees_equal(got, want):
    assert_trees_close(got, want, rtol=0, atol=0)


def assert_trees_close(got, want, *, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, g), w in zip(
        jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(g, w, rtol=rtol, atol=atol, err_msg=name)


def shapes_of(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def test_every_architecture_has_a_row():
    assert {type(lopt) for lopt in ROWS.values()} == set(ARCHITECTURES.values())
    assert ARCHITECTURES.keys() <= ROWS.keys()
    for name in ARCHITECTURES:
        assert type(ROWS[name]) is ARCHITECTURES[name]


# The architecture itself


def test_architecture_is_a_value(subject):
    again = dataclasses.replace(subject.lopt)
    assert again is not subject.lopt
    assert again == subject.lopt
    assert hash(again) == hash(subject.lopt)
    size, kind = next(
        (f.name, f.type) for f in dataclasses.fields(again) if f.type in (int, float)
    )
    assert dataclasses.replace(again, **{size: kind(7)}) != subject.lopt


def test_what_the_table_says_is_a_line(subject):
    for line in (subject.lopt.inputs, subject.lopt.source):
        assert line
        assert not set(line) & set("|\n")


def test_arguments_have_the_names_of_the_contract(subject):
    for method in ("init_theta", "with_theta"):
        own = inspect.signature(getattr(type(subject.lopt), method))
        contract = inspect.signature(getattr(LearnedOptimizer, method))
        assert list(own.parameters) == list(contract.parameters)
    update = inspect.signature(subject.tx().update).parameters
    assert list(update)[:3] == ["updates", "state", "params"]
    assert list(inspect.signature(subject.tx().init).parameters) == ["params"]


def test_theta_is_a_tree_of_float32_whose_matrices_depend_on_the_key(subject):
    one, two = (subject.lopt.init_theta(jax.random.key(i)) for i in (0, 1))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(one))
    assert shapes_of(one) == shapes_of(two)
    # One number may begin at a value of its field.
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    drawn = [(a, b) for a, b in pairs if a.ndim >= 2 and a.any()]
    assert all(bool((a != b).any()) for a, b in drawn)
    assert_trees_equal(subject.lopt.init_theta(jax.random.key(0)), one)


BAD_SIZES = [
    (name, field.name, bad)
    for name, lopt in ROWS.items()
    for field in dataclasses.fields(lopt)
    if field.type is int
    for bad in (0, -1, 1.5, True)
    if bad or field.default != 0  # Of some there may be none.
]


@pytest.mark.parametrize(("name", "field", "bad"), BAD_SIZES)
def test_bad_sizes_are_refused_in_one_line(name, field, bad):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {bad!r}$") as error:
        type(ROWS[name])(**{field: bad})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, "1", True])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("small_fc", "step_mult"),
        ("relative_mlp", "step_mult"),
        ("relative_mlp", "schedule_gain"),
        ("lstm", "preprocess_p"),
        ("lstm", "output_scale"),
        ("rnnprop", "output_scale"),
        ("rnnprop", "epsilon"),
        ("learnable_sgd", "learning_rate"),
        ("learnable_adam", "learning_rate"),
        ("learnable_adam", "epsilon"),
        ("velo", "step_mult"),
        ("celo", "step_mult"),
        ("celo_adam", "step_mult"),
        ("celo2", "step_mult"),
        ("celo2", "adam_mult"),
    ],
)
def test_bad_factors_are_refused_in_one_line(name, field, bad):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {bad!r}$"):
        ARCHITECTURES[name](**{field: bad})


# What is missing


def assert_one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_params_are_asked_for(subject):
    tx = subject.tx()
    state = begin(subject.lopt, subject.theta, PARAMS, HORIZON)
    with pytest.raises(ValueError, match="params") as error:
        tx.update(GRADS[0], state, value=VALUE)
    assert_one_line(error, type(subject.lopt).__name__, "update(grads, state, params")


def test_missing_value_is_asked_for_where_it_is_needed(subject):
    tx = subject.tx()
    state = begin(subject.lopt, subject.theta, PARAMS, HORIZON)
    if subject.lopt.needs_value:
        with pytest.raises(ValueError, match="value=loss") as error:
            tx.update(GRADS[0], state, PARAMS)
        assert_one_line(error, type(subject.lopt).__name__)
    else:
        shapes = jax.eval_shape(tx.update, GRADS[0], state, PARAMS)
        assert shapes_of(shapes[0]) == shapes_of(PARAMS)


def test_missing_num_steps_are_asked_for_where_they_are_needed(subject):
    if subject.lopt.needs_num_steps:
        with pytest.raises(ValueError, match="num_steps=") as error:
            subject.lopt.with_theta(subject.theta)
        assert_one_line(error, type(subject.lopt).__name__)
    else:
        tx = subject.lopt.with_theta(subject.theta)
        got = jax.eval_shape(tx.init, PARAMS)
        want = jax.eval_shape(subject.tx().init, PARAMS)
        assert shapes_of(got) == shapes_of(want)


@pytest.mark.parametrize(
    "bad", [0, -5, math.nan, math.inf, 10.5, True, "10", np.int64(0), np.float32(-3)]
)
def test_a_training_of_no_steps_is_refused(subject, bad):
    if subject.lopt.needs_num_steps:
        with pytest.raises(
            ValueError, match=r"^num_steps must be at least 1 and whole, got"
        ) as error:
            subject.lopt.with_theta(subject.theta, num_steps=bad)
        assert_one_line(error)


# Values, through the programs that all tests share


def test_it_is_an_optax_transformation(subject):
    assert isinstance(subject.tx(), optax.GradientTransformationExtraArgs)


def test_updates_are_finite_move_everything_and_are_deterministic(subject):
    params, state = follow(subject.compiled(), PARAMS, GRADS)
    again, state_again = follow(subject.compiled(), PARAMS, GRADS)
    assert_trees_equal((again, state_again), (params, state))
    for name, value in params.items():
        assert np.isfinite(value).all(), name
        assert (value != PARAMS[name]).all(), name
        assert value.shape == SHAPES[name]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_zero_gradients_give_finite_updates(subject):
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    params, state = follow(subject.compiled(), PARAMS, [zeros] * STEPS)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))


def test_zero_parameters_give_finite_updates(subject):
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    params, state = follow(subject.compiled(), zeros, GRADS)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((params, state)))


def test_a_non_finite_gradient_shows(subject):
    """It may not vanish: who trains must be able to see it."""
    grads = GRADS[0] | {"vector": np.array([np.nan, 1.0, 1.0], np.float32)}
    params, _ = follow(subject.compiled(), PARAMS, [grads])
    assert np.isnan(params["vector"][0])


def test_second_call_compiles_nothing(subject):
    lopt, theta, other = subject.lopt, subject.theta, random_theta(subject.lopt, 1)
    state = begin(lopt, theta, PARAMS, HORIZON)
    _, state = move(lopt, theta, GRADS[0], state, PARAMS, HORIZON, VALUE)
    equal = dataclasses.replace(lopt)
    with assert_no_recompile():
        _, state = move(lopt, theta, GRADS[1], state, PARAMS, HORIZON, VALUE)
        # Neither do another theta, another horizon and an equal architecture.
        begin(equal, theta, PARAMS, 2 * HORIZON)
        move(equal, other, GRADS[1], state, PARAMS, 2 * HORIZON, VALUE)


def test_num_steps_matters_where_it_is_needed_and_only_there(subject):
    lopt, theta = subject.lopt, subject.theta

    # The first step of every training is the same.
    def second(steps):
        state = begin(lopt, theta, PARAMS, steps)
        _, state = move(lopt, theta, GRADS[0], state, PARAMS, steps, VALUE)
        return move(lopt, theta, GRADS[1], state, PARAMS, steps, VALUE).updates

    differ = bool((second(2)["conv"] != second(1000)["conv"]).any())
    assert differ == lopt.needs_num_steps


def test_value_matters_where_it_is_needed_and_only_there(subject):
    """After the steps for which VeLO has no features of the loss."""
    lopt, theta = subject.lopt, subject.theta

    def fourth(values):
        out = Moved({}, begin(lopt, theta, PARAMS, HORIZON))
        for t, value in enumerate(np.array(values, np.float32)):
            g = GRADS[t % STEPS]
            out = move(lopt, theta, g, out.state, PARAMS, HORIZON, value)
        return out.updates

    falls, rises = fourth([4, 3, 2, 1]), fourth([1, 2, 3, 4])
    differ = bool((falls["conv"] != rises["conv"]).any())
    assert differ == lopt.needs_value


def test_initial_state_may_be_donated(subject):
    """Twice the same buffer in it, or theta's own, would fail or destroy theta."""
    theta, num_steps = jax.device_put(subject.theta), jnp.float32(HORIZON)
    tx = subject.lopt.with_theta(theta, num_steps=num_steps)
    params = {"w": jnp.ones((2, 2))}
    state = tx.init(params)
    given = (theta, num_steps, params)
    kept = jax.tree.map(np.array, (state, given))
    donate = jax.jit(lambda s: jax.tree.map(lambda x: x * 1, s), donate_argnums=0)
    passed = donate(state)
    assert_trees_equal((passed, given), kept)


def test_nothing_to_optimize_is_no_error(subject):
    params, state = follow(subject.tx(), {}, [{}])
    assert params == {}
    assert shapes_of(state) == shapes_of(subject.tx().init({}))


# Types and shapes, which are decided when a program is traced


def traced_update(subject, params, grads):
    tx = subject.tx()
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(
        lambda g, s, p: tx.update(g, s, p, value=VALUE), grads, state, params
    )
    return state, updates, after


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_parameters_keep_their_type_and_statistics_are_float32(subject, dtype):
    params, grads = normal(0, SHAPES, dtype), normal(1, SHAPES, dtype)
    state, updates, after = traced_update(subject, params, grads)
    assert shapes_of(updates) == shapes_of(params)
    assert shapes_of(after) == shapes_of(state)
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, np.floating)]
    assert all(x.dtype == jnp.float32 for x in floats)
    assert not any(getattr(x, "weak_type", False) for x in jax.tree.leaves(state))


def test_float32_gradients_of_bfloat16_parameters(subject):
    params, grads = normal(0, SHAPES, jnp.bfloat16), normal(1, SHAPES)
    _, updates, _ = traced_update(subject, params, grads)
    assert shapes_of(updates) == shapes_of(params)


def test_state_and_updates_keep_their_types_in_double_precision(subject, x64):
    """Also where several tensors of one shape are large enough for a loop."""
    del x64
    lopt = subject.lopt
    theta = jax.eval_shape(lopt.init_theta, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(theta)} == {jnp.dtype(jnp.float32)}
    large = dict.fromkeys(("first", "second"), (130, 130))
    params = normal(0, SHAPES | large) | normal(0, {"double": (2, 2)}, np.float64)
    state, updates, after = traced_update(subject, params, params)
    assert shapes_of(updates) == shapes_of(params)
    assert shapes_of(after) == shapes_of(state)


def test_types_are_converted_explicitly(subject):
    with jax.numpy_dtype_promotion("strict"):
        _, updates, _ = traced_update(subject, PARAMS, GRADS[0])
    assert shapes_of(updates) == shapes_of(PARAMS)


def test_bfloat16_update_is_the_float32_update_rounded(subject):
    half = normal(0, {"vector": (3,)}, jnp.bfloat16)
    whole = jax.tree.map(lambda x: x.astype(np.float32), half)
    moves = [
        move(
            subject.lopt,
            subject.theta,
            normal(1, {"vector": (3,)}),
            begin(subject.lopt, subject.theta, params, HORIZON),
            params,
            HORIZON,
            VALUE,
        )
        for params in (half, whole)
    ]
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), moves[1].updates)
    got, want = moves[0].updates["vector"], rounded["vector"]
    np.testing.assert_allclose(
        got.astype(np.float32), want.astype(np.float32), rtol=2**-7
    )
    assert_trees_close(moves[0].state, moves[1].state)


def test_state_is_stable_in_scan_and_cond(subject):
    tx = subject.tx()

    def both(params, grads, flag):
        def body(carry, g):
            params, state = carry
            updates, state = tx.update(g, state, params, value=VALUE)
            return (optax.apply_updates(params, updates), state), None

        start = (params, tx.init(params))
        scanned, _ = jax.lax.scan(body, start, grads)
        first = jax.tree.map(lambda g: g[0], grads)
        return jax.lax.cond(flag, lambda c: body(c, first)[0], lambda c: c, scanned)

    stacked = jax.tree.map(lambda *g: np.stack(g), *GRADS)
    params, state = jax.eval_shape(both, PARAMS, stacked, True)
    assert shapes_of(params) == shapes_of(PARAMS)
    assert shapes_of(state) == shapes_of(jax.eval_shape(tx.init, PARAMS))


# Derivatives and batches with respect to theta


@functools.partial(jax.jit, static_argnums=0)
def move_all(lopt, thetas, grads, states, params, num_steps, value):
    def one(theta, state, params):
        tx = lopt.with_theta(theta, num_steps=num_steps)
        return Moved(*tx.update(grads, state, params, value=value))

    return jax.vmap(one)(thetas, states, params)


def test_vmap_over_theta_equals_a_loop(subject):
    lopt = subject.lopt
    start, grads = normal(0, SMALL), [normal(1 + t, SMALL) for t in range(2)]
    thetas = [random_theta(lopt, seed) for seed in (0, 1)]

    def stack(trees):
        return jax.tree.map(lambda *x: np.stack(x), *trees)

    params = stack([start] * 2)
    states = stack([begin(lopt, theta, start, HORIZON) for theta in thetas])
    for g, value in zip(grads, VALUES, strict=False):
        updates, states = move_all(
            lopt, stack(thetas), g, states, params, HORIZON, value
        )
        params = optax.apply_updates(params, updates)
    for i, theta in enumerate(thetas):
        alone, _ = follow(Subject(lopt, theta).compiled(), start, grads)
        assert_trees_close(alone, jax.tree.map(lambda x, i=i: x[i], params))


@functools.partial(jax.jit, static_argnums=0)
def slope(lopt, theta, params, grads):
    """Gradient with respect to theta of the parameters' sum after three updates."""

    def last_sum(theta):
        tx = lopt.with_theta(theta, num_steps=HORIZON)

        def body(carry, given):
            params, state = carry
            g, value = given
            updates, state = tx.update(g, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        given = (grads, jnp.array(VALUES))
        (last, _), _ = jax.lax.scan(body, (params, tx.init(params)), given)
        return sum(jnp.sum(x) for x in jax.tree.leaves(last))

    return jax.grad(last_sum)(theta)


def test_gradient_with_respect_to_theta_is_finite(subject):
    params = normal(0, SMALL)
    grads = jax.tree.map(
        lambda *g: np.stack(g), *[normal(1 + t, SMALL) for t in range(STEPS)]
    )
    for given in (grads, jax.tree.map(np.zeros_like, grads)):
        slopes = slope(subject.lopt, subject.theta, params, given)
        for path, leaf in jax.tree.leaves_with_path(slopes):
            assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        # Without gradients, gradient descent stands still whatever theta is.
        if given is grads:
            assert max(np.abs(x).max() for x in jax.tree.leaves(slopes)) > 0


def test_gradient_with_respect_to_theta_passes_parameters_that_have_none(subject):
    """As those behind a relu that is off: gradients are functions of theta too."""
    params = normal(0, SMALL | {"dead": (3,)})

    def last_loss(theta):
        tx = subject.lopt.with_theta(theta, num_steps=HORIZON)

        def loss(p):
            first_column = p["matrix"] @ jnp.array([1.0, 0.0])
            off = jax.nn.relu(p["dead"] - 5.0) + 0.0 * p["dead"] ** 2
            return jnp.sum(first_column**2) + jnp.sum(off)

        def body(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        start = (params, tx.init(params))
        (params_after, _), _ = jax.lax.scan(body, start, length=STEPS)
        return loss(params_after)

    slopes = jax.jit(jax.grad(last_loss))(subject.theta)
    for path, leaf in jax.tree.leaves_with_path(slopes):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def test_sharded_tensors(subject):
    """Several tensors of one shape, of every size, under checks of what varies."""
    shapes = {"one": (3,), "two": (3,), "large": (130, 130), "larger": (130, 130)}
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")

    def step(params, grads):
        tx = subject.tx()
        return tx.update(grads, tx.init(params), params, value=VALUE)[0]

    params = normal(0, shapes)
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    assert shapes_of(jax.eval_shape(sharded, params, params)) == shapes_of(params)


def test_tensors_on_explicit_axes(subject):
    """The default of `jax.make_mesh`: what comes out lies as what goes in."""
    P = jax.sharding.PartitionSpec
    lie = {"one": P("x", "y"), "two": P("x", "y"), "large": P(None, "y"), "row": P("y")}
    shapes = {"one": (4, 6), "two": (4, 6), "large": (130, 132), "row": (6,)}
    mesh, params = on_explicit_axes(shapes, lie)

    def step(params, grads):
        tx = subject.tx()
        state = tx.init(params)
        return *tx.update(grads, state, params, value=VALUE), state

    with jax.sharding.use_abstract_mesh(mesh):
        updates, state, before = jax.eval_shape(step, params, params)
    assert {name: update.sharding.spec for name, update in updates.items()} == lie
    assert state == before
    large = [x for x in jax.tree.leaves(state) if x.size >= 130 * 132]
    assert all("y" in x.sharding.spec for x in large)


def test_explicit_axes_do_not_change_a_bit(subject):
    """Theta and horizon may lie on the mesh as well."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    params, grads = normal(0, SMALL), normal(1, SMALL)
    plain = follow(subject.compiled(), params, [grads])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    on_mesh = dataclasses.replace(
        subject, theta=jax.device_put(subject.theta, everywhere)
    )
    with jax.set_mesh(mesh):
        got = follow(on_mesh.compiled(), *jax.device_put((params, [grads]), place))
    assert_trees_equal(got, plain)


# In the company of optax


def test_unknown_extra_arguments_are_ignored(subject):
    """To the point that the program is the same."""
    tx = subject.tx()
    state = jax.eval_shape(tx.init, PARAMS)

    def program(**extra):
        update = functools.partial(tx.update, value=VALUE, **extra)
        return str(jax.make_jaxpr(update)(GRADS[0], state, PARAMS))

    assert program(grad=GRADS[1], weather="fine") == program()


def test_chain_with_clipping_and_weight_decay(subject):
    tx = optax.chain(
        optax.clip(0.5), subject.compiled(), optax.add_decayed_weights(-0.01)
    )
    got, _ = follow(tx, PARAMS, GRADS[:1])
    clipped = jax.tree.map(lambda g: np.clip(g, -0.5, 0.5), GRADS[0])
    alone, _ = follow(subject.compiled(), PARAMS, [clipped])
    want = jax.tree.map(lambda a, p: a - 0.01 * p, alone, PARAMS)
    assert_trees_close(got, want)


def test_injected_scale(subject):
    @optax.inject_hyperparams
    def scaled(factor):
        return optax.chain(subject.compiled(), optax.scale(factor))

    tx: Any = scaled(factor=0.5)
    state = tx.init(PARAMS)
    half, state = tx.update(GRADS[0], state, PARAMS, value=VALUE)
    state.hyperparams["factor"] = jnp.float32(0.0)
    none, _ = tx.update(GRADS[1], state, PARAMS, value=VALUE)
    whole = once(subject.compiled(), PARAMS, GRADS[0])
    assert_trees_equal(half, jax.tree.map(lambda u: 0.5 * u, whole))
    assert_trees_equal(none, jax.tree.map(np.zeros_like, PARAMS))


def once(tx: Any, params: Any, grads: Any) -> Any:
    """The first update."""
    return tx.update(grads, tx.init(params), params, value=VALUE)[0]


def split_case():
    params = {"in": normal(0, SMALL), "out": normal(7, SMALL)}
    grads = {"in": normal(1, SMALL), "out": normal(8, SMALL)}
    return params, grads


def test_masked_leaves_the_rest_alone(subject):
    params, grads = split_case()
    tx = optax.masked(subject.compiled(), {"in": True, "out": False})
    updates = once(tx, params, grads)
    want = once(subject.compiled(), params["in"], grads["in"])
    assert_trees_close(updates["in"], want)
    assert_trees_equal(updates["out"], grads["out"])


def test_none_is_no_tensor(subject):
    """As equinox leaves it in place of what is not trained."""
    params, grads = split_case()
    updates = once(
        subject.compiled(), params | {"static": None}, grads | {"static": None}
    )
    assert_trees_equal(
        updates, once(subject.compiled(), params, grads) | {"static": None}
    )


def test_multi_transform_gives_each_its_part(subject):
    params, grads = split_case()
    tx = optax.multi_transform(
        {"learned": subject.compiled(), "sgd": optax.sgd(0.1)},
        {"in": "learned", "out": "sgd"},
    )
    updates = once(tx, params, grads)
    want = once(subject.compiled(), params["in"], grads["in"])
    assert_trees_close(updates["in"], want)
    assert_trees_close(updates["out"], jax.tree.map(lambda g: -0.1 * g, grads["out"]))


def test_multi_steps_updates_with_the_mean_gradient(subject):
    tx: Any = optax.MultiSteps(subject.compiled(), every_k_schedule=2)
    params, grads = normal(0, SMALL), [normal(t, SMALL) for t in (1, 2)]
    state = tx.init(params)
    first, state = tx.update(grads[0], state, params, value=VALUE)
    assert_trees_equal(first, jax.tree.map(np.zeros_like, params))
    second, _ = tx.update(grads[1], state, params, value=VALUE)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
    want = once(subject.compiled(), params, mean)
    assert_trees_close(second, want)


def test_apply_if_finite_skips_a_bad_gradient(subject):
    tx: Any = optax.apply_if_finite(subject.compiled(), max_consecutive_errors=2)
    params, good = normal(0, SMALL), normal(1, SMALL)
    bad = {"matrix": np.full((2, 2), np.nan, np.float32)}
    state = tx.init(params)
    skipped, state = tx.update(bad, state, params, value=VALUE)
    assert_trees_equal(skipped, jax.tree.map(np.zeros_like, params))
    updates, _ = tx.update(good, state, params, value=VALUE)
    want = once(subject.compiled(), params, good)
    assert_trees_close(updates, want)


def test_flax_train_state(subject):
    """`apply_gradients` passes no loss: with one, update and replace by hand."""
    params, grads = normal(0, SMALL), normal(1, SMALL)
    tx: Any = subject.compiled()
    if not subject.lopt.needs_value:
        # What the optimizer does not read may be anything.
        tx = optax.GradientTransformationExtraArgs(
            tx.init, functools.partial(tx.update, value=VALUE)
        )
    state: Any = train_state.TrainState.create(apply_fn=None, params=params, tx=tx)
    if subject.lopt.needs_value:
        updates, opt_state = state.tx.update(
            grads, state.opt_state, state.params, value=VALUE
        )
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        )
    else:
        state = state.apply_gradients(grads=grads)
    want, _ = follow(subject.compiled(), params, [grads])
    assert state.step == 1
    assert_trees_equal(state.params, want)
