"""Gradient sources against backpropagation, and against the papers' formulas."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.gradients import (
    SOURCES,
    activity_perturbation,
    angle,
    backprop,
    evolution_strategies,
    feedback_alignment,
    forward_gradient,
    source,
)
from l2o.gradients.registry import parse
from tests.helpers import on_explicit_axes


class MLP(nn.Module):
    widths: tuple[int, ...] = (7, 6, 3)

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:-1]:
            x = nn.tanh(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), strides=2)(x))
        x = nn.tanh(nn.Conv(4, (2, 2), padding="VALID")(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


def cross_entropy(logits, labels):
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)


LABELS = jnp.array([0, 1, 2, 0, 1])
KEY = jax.random.key(7)


def problem(model, *shape):
    """Parameters, and arguments of the gradient function after the key."""
    inputs = jax.random.normal(jax.random.key(1), (len(LABELS), *shape))
    params = model.init(jax.random.key(0), inputs)["params"]
    # A bias of zero would hide what is done with it.
    params = jax.tree.map(lambda p: p + 0.1, params)
    return params, (inputs, LABELS)


NETWORKS = {"mlp": (MLP(), 5), "conv": (ConvNet(), 6, 6, 2)}
SETTINGS: dict[str, dict[str, Any]] = {
    "backprop": {},
    "forward_gradient": {"tangents": 2},
    "activity_perturbation": {"tangents": 2},
    "feedback_alignment": {},
    "evolution_strategies": {"pairs": 2},
}


def assert_close(got, want, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda g, w: np.testing.assert_allclose(g, w, rtol=rtol, atol=atol), got, want
    )


def test_every_source_is_here():
    assert SETTINGS.keys() == SOURCES.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_a_loss_and_a_model_are_the_same_to_a_source(name):
    """And the gradient is like the parameters, and has the key as its only chance."""
    model = MLP()
    params, args = problem(model, 5)

    def loss(params, inputs, labels):
        return cross_entropy(model.apply({"params": params}, inputs), labels)

    make = SOURCES[name]
    of_loss = jax.jit(make(loss, **SETTINGS[name]))
    value, grads = of_loss(params, KEY, *args)
    other = jax.jit(make(model, cross_entropy, **SETTINGS[name]))(params, KEY, *args)
    assert_close((value, grads), other)
    assert value.shape == ()
    jax.tree.map(lambda g, p: (g.shape, g.dtype) == (p.shape, p.dtype), grads, params)
    draws = name not in ("backprop", "feedback_alignment")
    again = of_loss(params, jax.random.key(8), *args)[1]
    same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), grads, again)
    assert all(jax.tree.leaves(same)) != draws
    if name != "evolution_strategies":
        assert float(value) == pytest.approx(float(loss(params, *args)), rel=1e-6)


@pytest.mark.parametrize("microbatches", [2, 3, 6])
def test_microbatches_have_the_gradient_of_the_whole(microbatches):
    params = {"w": jnp.array([1.0, -2.0])}
    x, y = jnp.arange(12.0).reshape(6, 2), {"y": jnp.arange(6.0)}

    def loss(params, x, y):
        return jnp.mean((x @ params["w"] - y["y"]) ** 2)

    got = jax.jit(backprop(loss, microbatches=microbatches))(params, KEY, x, y)
    assert_close(got, jax.value_and_grad(loss)(params, x, y))
    with pytest.raises(ValueError, match=r"microbatches must divide.*got 4.*\(6, 2\)"):
        backprop(loss, microbatches=4)(params, KEY, x, y)


def test_a_long_sum_of_microbatches_does_not_come_to_a_halt():
    loss = lambda w, x: jnp.mean(w * x)
    x, w = jnp.ones((1024,), jnp.bfloat16), jnp.ones((), jnp.bfloat16)
    value, grads = backprop(loss, microbatches=1024)(w, KEY, x)
    assert (value, grads) == (1.0, 1.0)
    assert (value.dtype, grads.dtype) == (jnp.bfloat16, jnp.bfloat16)


CURVATURE = jnp.array([0.5, 1.0, 3.0, 2.0])


def quadratic(params):
    return 0.5 * jnp.sum(CURVATURE[:3] * params["a"] ** 2) + jnp.sum(
        0.5 * CURVATURE[3] * params["b"] ** 2
    )


POINT = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array(3.0)}
SLOPE = np.array([0.5, -2.0, 1.5, 6.0])


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


DRAWS = 20_000


@pytest.mark.statistical
@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize(
    ("kind", "sign"), [("gaussian", 1.0), ("rademacher", -1.0), ("es", 1.0)]
)
def test_mean_and_variance_of_projections_on_random_directions(kind, sign, number):
    r"""The gradient, and $(|g|^2 \pm g_j^2) / n$.

    Evolution strategies on a quadratic are forward gradients of Gaussian directions.
    False alarms: 24 numbers at 5 deviations, 1e-5 in all; variances within 10 %, whose
    deviation is below 2 %.
    """
    if kind == "es":
        gradient = evolution_strategies(quadratic, std=0.3, pairs=number)
    else:
        gradient = forward_gradient(quadratic, tangents=number, distribution=kind)
    keys = jax.random.split(jax.random.key(3), DRAWS)
    _, grads = jax.jit(jax.vmap(lambda key: gradient(POINT, key)))(keys)
    rows = np.concatenate([np.asarray(grads["a"]), np.asarray(grads["b"])[:, None]], 1)
    variance = (SLOPE @ SLOPE + sign * SLOPE**2) / number
    np.testing.assert_array_less(
        np.abs(rows.mean(axis=0) - SLOPE), 5.0 * np.sqrt(variance / DRAWS)
    )
    np.testing.assert_allclose(rows.var(axis=0), variance, rtol=0.1)


@pytest.mark.statistical
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["forward_gradient", "activity_perturbation"])
def test_forward_gradients_of_networks_are_unbiased(name, network):
    """Within 5 deviations of the mean over keys; false alarms below 1e-3 in all."""
    model, *shape = NETWORKS[network]
    params, args = problem(model, *shape)
    gradient = SOURCES[name](model, cross_entropy, tangents=4)
    keys = jax.random.split(jax.random.key(5), 1000)
    grads = jax.jit(
        lambda keys: jax.lax.map(lambda key: gradient(params, key, *args)[1], keys)
    )(keys)
    want = jax.grad(
        lambda p: cross_entropy(model.apply({"params": p}, args[0]), LABELS)
    )
    for got, exact in zip(
        jax.tree.leaves(grads), jax.tree.leaves(want(params)), strict=True
    ):
        error = np.asarray(got.mean(axis=0) - exact)
        deviation = np.asarray(got.std(axis=0)) / math.sqrt(len(keys))
        assert (deviation > 0).all()
        assert np.abs(error / deviation).max() < 5.0


@pytest.mark.statistical
def test_perturbed_activities_have_less_noise_than_perturbed_weights():
    """Where there are fewer of them; no false alarms seen, the ratio is 10."""
    model = MLP((20, 3))
    params, args = problem(model, 30)
    keys = jax.random.split(KEY, 200)

    def noise(make):
        gradient = make(model, cross_entropy)
        grads = jax.jit(jax.vmap(lambda key: gradient(params, key, *args)[1]))(keys)
        return sum(float(g.var(axis=0).sum()) for g in jax.tree.leaves(grads))

    assert noise(activity_perturbation) < 0.5 * noise(forward_gradient)


@pytest.mark.statistical
def test_local_losses_are_those_of_the_readouts():
    """The mean is the gradient of the local losses; false alarms below 1e-4."""
    model = MLP((4, 3))
    params, (inputs, labels) = problem(model, 5)
    readout = jax.random.normal(
        jax.random.fold_in(jax.random.key(2), 1), (4, 3)
    ) / math.sqrt(4)

    def local(params):
        first, second = params["Dense_0"], params["Dense_1"]
        hidden = jnp.tanh(inputs @ first["kernel"] + first["bias"][None])
        logits = jax.lax.stop_gradient(hidden) @ second["kernel"] + second["bias"][None]
        return cross_entropy(hidden @ readout, labels) + cross_entropy(logits, labels)

    gradient = activity_perturbation(
        model, cross_entropy, tangents=4, local_losses=True, seed=2
    )
    keys = jax.random.split(jax.random.key(5), 1000)
    grads = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: gradient(params, key, inputs, labels)[1], keys
        )
    )(keys)
    for got, exact in zip(
        jax.tree.leaves(grads), jax.tree.leaves(jax.grad(local)(params)), strict=True
    ):
        deviation = got.std(axis=0) / math.sqrt(len(keys))
        assert float(jnp.abs((got.mean(axis=0) - exact) / deviation).max()) < 5.0


def names_in(jaxpr):
    """The transformations that the equations of a jaxpr came from."""
    for eqn in jaxpr.eqns:
        yield str(eqn.source_info.name_stack)
        for value in jax.tree.leaves(
            eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from names_in(inner)


def test_there_is_no_reverse_pass():
    model = MLP()
    params, args = problem(model, 5)

    def reverse(gradient):
        jaxpr = jax.make_jaxpr(gradient)(params, KEY, *args)
        return any("transpose" in name for name in names_in(jaxpr.jaxpr))

    assert reverse(backprop(model, cross_entropy))
    assert not reverse(forward_gradient(model, cross_entropy, tangents=3))
    assert not reverse(evolution_strategies(model, cross_entropy))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(forward_gradient, tangents=1),
        pytest.param(
            functools.partial(forward_gradient, tangents=16, together=1),
            marks=pytest.mark.nightly,
        ),
        pytest.param(activity_perturbation, marks=pytest.mark.nightly),
        pytest.param(
            functools.partial(activity_perturbation, local_losses=True),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["forward_gradient", "16 tangents", "activity", "local losses"],
)
def test_activation_memory_does_not_grow_with_depth(make):
    """Beside buffers of the parameters' size; backpropagation keeps every layer's.

    XLA's own plateau, which it does not fill at four layers, is ten to twenty of them.
    """
    examples, width = 1024, 32
    activations = 4 * examples * width

    def peak(make, depth):
        """In activations of a layer, without what grows with the parameters."""
        model = MLP((width,) * depth)
        params = jax.eval_shape(model.init, KEY, jnp.zeros((1, width)))["params"]
        inputs = jax.ShapeDtypeStruct((examples, width), jnp.float32)
        labels = jax.ShapeDtypeStruct((examples,), jnp.int32)
        gradient = jax.jit(make(model, cross_entropy))
        analysis = gradient.lower(params, KEY, inputs, labels).compile()
        memory: Any = analysis.memory_analysis()
        size = sum(4 * p.size for p in jax.tree.leaves(params))
        return (memory.temp_size_in_bytes - 5 * size) / activations

    depths = (4, 8, 64)
    kept = [peak(backprop, depth) for depth in depths]
    assert kept[2] - kept[1] > 45
    four, eight, most = (peak(make, depth) for depth in depths)
    assert most - eight < 0.15 * (kept[2] - kept[1])
    assert most - four < 0.25 * (kept[2] - kept[0])
    assert most < 0.5 * kept[2]


def test_direct_feedback_alignment_by_hand():
    """Nokland's formula, written out for three layers."""
    params, (x, labels) = problem(MLP(), 5)
    w = [params[f"Dense_{i}"]["kernel"] for i in range(3)]
    b = [params[f"Dense_{i}"]["bias"][None] for i in range(3)]
    h1 = np.tanh(x @ w[0] + b[0])
    h2 = np.tanh(h1 @ w[1] + b[1])
    logits = h2 @ w[2] + b[2]
    error = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)) / len(labels)
    b1, b2 = (
        jax.random.normal(jax.random.fold_in(jax.random.key(4), i), (3, n))
        * (2.0 / math.sqrt(3))
        for i, n in ((1, 7), (2, 6))
    )
    d2 = (error @ b2) * (1 - h2**2)
    d1 = (error @ b1) * (1 - h1**2)
    want = {
        f"Dense_{i}": {"kernel": h.T @ d, "bias": d.sum(axis=0)}
        for i, (h, d) in enumerate(((x, d1), (h1, d2), (h2, error)))
    }
    gradient = jax.jit(feedback_alignment(MLP(), cross_entropy, seed=4, scale=2.0))
    value, grads = gradient(params, KEY, x, labels)
    assert_close(grads, want)
    assert float(value) == pytest.approx(float(cross_entropy(logits, labels)))


def test_layerwise_feedback_alignment_by_hand():
    params, (x, labels) = problem(MLP((4, 3)), 5)
    first, second = params["Dense_0"], params["Dense_1"]
    hidden = np.tanh(x @ first["kernel"] + first["bias"][None])
    logits = hidden @ second["kernel"] + second["bias"][None]
    error = (jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)) / len(labels)
    back = jax.random.normal(jax.random.fold_in(jax.random.key(0), 1), (4, 3)) / 2.0
    told = (error @ back.T) * (1 - hidden**2)
    gradient = feedback_alignment(MLP((4, 3)), cross_entropy, rule="layerwise")
    _, grads = gradient(params, KEY, x, labels)
    assert_close(grads["Dense_0"], {"kernel": x.T @ told, "bias": told.sum(axis=0)})


@pytest.mark.parametrize("rule", ["direct", "layerwise", "sign"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_last_layer_has_the_gradient_of_backpropagation(network, rule):
    model, *shape = NETWORKS[network]
    params, args = problem(model, *shape)
    _, got = feedback_alignment(model, cross_entropy, rule=rule)(params, KEY, *args)
    _, want = backprop(model, cross_entropy)(params, KEY, *args)
    last = list(params)[-1]
    assert_close(got[last], want[last])
    assert float(angle(got, want)) > 1.0


@pytest.mark.parametrize("network", NETWORKS)
def test_sign_symmetry_is_backpropagation_where_all_weights_have_one_size(network):
    model, *shape = NETWORKS[network]
    params, args = problem(model, *shape)
    params = jax.tree.map(lambda p: 0.3 * jnp.sign(p) if p.ndim > 1 else p, params)
    gradient = feedback_alignment(model, cross_entropy, rule="sign")
    assert_close(
        gradient(params, KEY, *args), backprop(model, cross_entropy)(params, KEY, *args)
    )


def test_places_of_a_sequence_are_told_their_own_errors():
    class Sequence(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.tanh(nn.Dense(4)(x)))

    model, x = Sequence(), jax.random.normal(KEY, (2, 6, 5))
    params = model.init(KEY, x)["params"]

    def loss(outputs):
        return jnp.mean(outputs[:, 2] ** 2)  # Of one place alone.

    def told(x):
        gradient = feedback_alignment(model, lambda outputs: loss(outputs))
        return gradient(params, KEY, x)[1]["Dense_0"]

    others = x.at[:, 3:].set(0.0).at[:, :2].set(1.0)
    assert_close(told(x), told(others))


def test_direct_feedback_does_not_mix_examples():
    class Merged(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Dense(6)(nn.Dense(4)(x)).reshape(-1, 6))

    model, x = Merged(), jnp.ones((4, 5, 2))
    params = model.init(KEY, x)["params"]
    loss = lambda outputs: jnp.mean(outputs[0] ** 2)
    with pytest.raises(ValueError, match="direct feedback needs examples as the first"):
        feedback_alignment(model, loss)(params, KEY, x)
    feedback_alignment(model, loss, rule="layerwise")(params, KEY, x)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.LayerNorm(name="norm")(nn.Dense(4)(x)))


class Own(nn.Module):
    """Looks like a linear layer; is one without a curve."""

    curve: Any
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 4))
        outputs = self.curve(x @ kernel)
        if not self.use_bias:
            return outputs
        bias = self.param("bias", nn.initializers.zeros, (1, 4))
        return outputs + bias


class WithOwn(nn.Module):
    curve: Any

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.tanh(Own(self.curve, name="own")(x)))


class Tied(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(5, name="tied")
        return layer(nn.tanh(layer(x)))


@pytest.mark.parametrize("make", [feedback_alignment, activity_perturbation])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Normed(), "must be Dense, Conv or linear .*, got LayerNorm norm"),
        (WithOwn(jnp.square), "must be Dense, Conv or linear .*, got Own own"),
        (Tied(), "must be called once .*, got Dense tied a second time"),
    ],
)
def test_a_layer_that_cannot_be_handled_is_named(model, message, make):
    params, args = problem(model, 5)
    with pytest.raises(ValueError, match=message):
        make(model, cross_entropy)(params, KEY, *args)


def test_a_linear_layer_of_ones_own_is_as_good_as_dense():
    params, args = problem(WithOwn(lambda x: x), 5)
    as_dense = {"Dense_0": params["own"], "Dense_1": params["Dense_0"]}
    as_dense["Dense_0"] = params["own"] | {"bias": params["own"]["bias"][0]}
    for make in (feedback_alignment, activity_perturbation):
        _, got = make(WithOwn(lambda x: x), cross_entropy)(params, KEY, *args)
        _, want = make(MLP((4, 3)), cross_entropy)(as_dense, KEY, *args)
        assert_close(got["own"]["kernel"], want["Dense_0"]["kernel"])
        assert_close(got["own"]["bias"][0], want["Dense_0"]["bias"])


@pytest.mark.parametrize("make", [feedback_alignment, activity_perturbation])
def test_a_loss_without_layers_is_refused(make):
    with pytest.raises(ValueError, match="got a loss that calls none"):
        make(lambda params, x: jnp.sum(x @ params))(jnp.ones(2), KEY, jnp.ones((1, 2)))


def test_perturbed_activities_need_the_parameters_of_the_model():
    model = MLP()
    params, args = problem(model, 5)

    def loss(params, inputs, labels):
        halved = jax.tree.map(lambda p: p / 2, params)
        return cross_entropy(model.apply({"params": halved}, inputs), labels)

    with pytest.raises(ValueError, match="got others for Dense_0/"):
        activity_perturbation(loss)(params, KEY, *args)
    # Feedback has no such need.
    _, got = feedback_alignment(loss)(params, KEY, *args)
    _, want = backprop(loss)(params, KEY, *args)
    assert_close(got["Dense_2"], want["Dense_2"])


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "largest"), [("direct", 85), ("layerwise", 60)])
def test_feedback_alignment_trains_on_digits(rule, largest):
    """To 95 % of unseen digits, while the angle to the gradient falls below 90."""
    from tasks import ImageMLP, load

    family = ImageMLP(load("digits"), hidden=(64, 64))
    task = family.task(family.nominal())
    own, true = (
        make(lambda p, key, batch: task.loss(p, key, batch)[0])
        for make in (lambda loss: feedback_alignment(loss, rule=rule), backprop)
    )
    tx = optax.adam(1e-3)

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            batch = task.batch(key, "train")
            _, grads = own(params, key, key, batch)
            hidden = [
                {k: v for k, v in g.items() if k != "Dense_2"}
                for g in (grads, true(params, key, key, batch)[1])
            ]
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), angle(*hidden)

        keys = jax.random.split(jax.random.key(1), 2000)
        (params, _), angles = jax.lax.scan(step, (params, tx.init(params)), keys)
        keys = jax.random.split(jax.random.key(2), 32)
        accuracies = jax.lax.map(
            lambda k: task.loss(params, k, task.batch(k, "test"))[1]["accuracy"], keys
        )
        return jnp.mean(accuracies), angles

    accuracy, angles = train(task.init(jax.random.key(0)))
    assert float(accuracy) >= 0.95
    assert float(angles[:10].mean()) > largest
    assert float(angles[200:].mean()) < 0.9 * float(angles[:10].mean())
    assert float(angles[200:].max()) < 90.0


def test_angles():
    a = {"x": jnp.array([1.0, 0.0]), "y": jnp.array(0.0)}
    b = {"x": jnp.array([1.0, 0.0]), "y": jnp.array(1.0)}
    assert float(angle(a, b)) == pytest.approx(45.0)
    assert float(angle(a, jax.tree.map(jnp.negative, a))) == pytest.approx(180.0)
    assert np.isnan(float(angle(a, jax.tree.map(jnp.zeros_like, a))))


def test_sources_by_name():
    found = source("forward_gradient", tangents=8, distribution="rademacher")
    assert found == parse("forward_gradient:tangents=8,distribution=rademacher")
    assert found == parse(str(found))
    assert hash(found) == hash(parse(str(found)))
    assert str(source("backprop")) == "backprop"
    assert parse("feedback_alignment:rule=sign").settings == (("rule", "sign"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forward", "must be one of .*, got 'forward'"),
        ("backprop:tangents=1", "settings of backprop must be among microbatches"),
        ("forward_gradient:tangents", "name=value, got 'tangents'"),
        ("forward_gradient:tangents=0", "tangents must be an integer of at least 1"),
        ("forward_gradient:distribution=cauchy", "distribution must be one of"),
        ("feedback_alignment:rule=drect", r"got 'drect' \(did you mean 'direct'\?\)"),
        ("feedback_alignment:seed=x", "seed must be an integer, got 'x'"),
        ("activity_perturbation:local_losses=no", "must be true or false, got 'no'"),
        ("evolution_strategies:std=0", "std must be a finite number above 0"),
    ],
)
def test_bad_sources_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)


def test_local_losses_need_a_model():
    with pytest.raises(ValueError, match="local_losses need a flax model"):
        activity_perturbation(quadratic, local_losses=True)


@pytest.mark.parametrize(
    "make", [backprop, forward_gradient, evolution_strategies], ids=lambda f: f.__name__
)
def test_gradients_lie_as_parameters_do_on_explicit_axes(make):
    """The default of `jax.make_mesh`."""
    P = jax.sharding.PartitionSpec
    lie = {"kernel": P("x", "y"), "bias": P("y")}
    mesh, params = on_explicit_axes({"kernel": (4, 6), "bias": (6,)}, lie)

    def loss(params):
        return sum(jnp.sum(p**2) for p in params.values())

    with jax.sharding.use_abstract_mesh(mesh):
        _, grads = jax.eval_shape(make(loss), params, KEY)
        assert jax.eval_shape(angle, grads, params).shape == ()
    assert {name: g.sharding.spec for name, g in grads.items()} == lie
