"""The step of `MuonMLP` and `MuonLSTM`, against plain arithmetic of one tensor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import MuonLSTM, MuonMLP, groups
from l2o.learned.celo2 import newton_schulz
from l2o.learned.groups import group_tensors
from l2o.learned.muon_average import (
    AverageControls,
    average_steps,
    init_averages,
    straightness,
)
from l2o.learned.muon_control import plan_features
from l2o.learned.muon_step import as_matrix, is_matrix


BOTH = [
    MuonMLP(hidden_size=3, control_size=2),
    MuonMLP(hidden_size=3, control_size=2, timed=False),
    MuonMLP(hidden_size=3, control_size=2, orthogonalize=False),
    MuonLSTM(lstm_size=3, mixtures=2, hidden_size=3),
]
REACHING = MuonLSTM(lstm_size=3, mixtures=2, hidden_size=3, reach=0.5)
AVERAGING = MuonLSTM(lstm_size=3, mixtures=2, hidden_size=3, averages=2)
FALLING = MuonLSTM(lstm_size=3, mixtures=2, hidden_size=3, fall=True)
HORIZON = 40
SHAPES = {"matrix": (5, 4), "conv": (2, 3, 2, 4), "bias": (4,), "gain": ()}


def arrays(seed, shapes=SHAPES, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda shape: np.float32(scale * rng.normal(size=shape))
    return {name: draw(shape) for name, shape in shapes.items()}


def random_theta(lopt, scale=0.3):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: np.asarray(x) + scale * rng.normal(size=x.shape).astype(np.float32),
        lopt.init_theta(jax.random.key(0)),
    )


def follow(lopt, theta, params, grads, values=None):
    """The updates of every step, at parameters that follow them."""
    tx = lopt.with_theta(theta, num_steps=HORIZON)
    update = jax.jit(tx.update)
    state, found = jax.jit(tx.init)(params), []
    for t, g in enumerate(grads):
        value = np.float32(3.0 - 0.3 * t if values is None else values[t])
        updates, state = update(g, state, params, value=value)
        params = jax.tree.map(jnp.add, params, updates)
        found.append(updates)
    return found, state


def rms(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


@pytest.mark.parametrize("lopt", [*BOTH, REACHING, AVERAGING, FALLING], ids=str)
@pytest.mark.parametrize(
    ("loss_scale", "scale"), [(1e3, 1.0), (1e-3, 1.0), (1.0, 1e3), (1.0, 1e-3)]
)
def test_units_of_loss_and_parameters_do_not_matter(lopt, loss_scale, scale):
    """Loss times c and parameters times d: gradients times c / d, steps times d."""
    theta, params = random_theta(lopt), arrays(1)
    # So small that units are made longer, where they are.
    grads = [arrays(2 + t, scale=0.002) for t in range(4)]
    values = np.array([3.0, 2.0, 2.5, 1.0])
    want, _ = follow(lopt, theta, params, grads, values)
    got, _ = follow(
        lopt,
        theta,
        jax.tree.map(lambda p: scale * p, params),
        [jax.tree.map(lambda g: loss_scale / scale * g, tree) for tree in grads],
        loss_scale * values,
    )
    for name in SHAPES:
        for mine, theirs in zip(want, got, strict=True):
            # Newton-Schulz enlarges what rounding does to the smallest directions.
            np.testing.assert_allclose(
                theirs[name] / scale, mine[name], rtol=2e-3, atol=2e-5, err_msg=name
            )


@pytest.mark.parametrize("orthogonalize", [True, False])
def test_untrained_it_is_muon_and_adam_in_units_of_the_initial_weights(orthogonalize):
    lopt = MuonMLP(orthogonalize=orthogonalize)
    theta = lopt.init_theta(jax.random.key(0))
    params, grads = arrays(1), [arrays(2 + t) for t in range(5)]
    found, _ = follow(lopt, theta, params, grads)
    momenta = {d: jax.tree.map(np.zeros_like, params) for d in (0.9, 0.99)}
    second = jax.tree.map(np.zeros_like, params)
    at = params
    for t, g in enumerate(grads):
        for d, m in momenta.items():
            momenta[d] = jax.tree.map(lambda m, g, d=d: d * m + (1 - d) * g, m, g)
        second = jax.tree.map(lambda v, g: 0.998 * v + 0.002 * g * g, second, g)
        plan = ((1 - t / HORIZON) ** 0.9) * np.sqrt(
            min(1.0, (t + 1) / (1 + 0.03 * HORIZON))
        )
        for name, p in at.items():
            kind = theta["matrix" if is_matrix(p.shape) else "vector"]["constants"]
            inputs = [g[name], momenta[0.9][name], momenta[0.99][name]]
            inputs += [x / np.sqrt(second[name]) for x in inputs]
            shares = zip(np.array(kind[3:]), inputs, strict=True)
            d = np.sum([s * x / rms(x) for s, x in shares], axis=0)
            move = d / rms(d)
            if orthogonalize and is_matrix(p.shape):
                turned = np.asarray(newton_schulz(d.reshape(as_matrix(p.shape))))
                turned = turned.reshape(p.shape) / rms(turned)
                move = turned + float(kind[2]) * (move - turned)
            rate = plan * np.exp(4 * float(kind[0]))
            decay = np.exp(4 * float(kind[1]))
            want = -rate * (rms(params[name]) * move + decay * p)
            np.testing.assert_allclose(
                found[t][name], want, rtol=1e-3, atol=1e-5, err_msg=f"{name} {t}"
            )
        at = jax.tree.map(jnp.add, at, found[t])


def test_all_begin_at_the_same_steps():
    """The networks of both have outputs of zero before meta-training."""
    params, grads = arrays(1), [arrays(2 + t) for t in range(3)]
    one, other = (
        follow(lopt, lopt.init_theta(jax.random.key(3)), params, grads)[0]
        for lopt in (MuonMLP(), MuonLSTM())
    )
    for a, b in zip(one, other, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lopt", BOTH, ids=str)
@pytest.mark.parametrize("gradient", [0.0, 1e-12, 1e10])
def test_no_step_is_longer_than_the_bound(lopt, gradient):
    """Rate and decay are at most 1, the direction at most 1 + 2 |w|."""
    theta, params = random_theta(lopt, 3.0), arrays(1)
    theta["matrix"]["constants"][2] = theta["vector"]["constants"][2] = 0.5
    heads = theta.get("lstm", theta)
    heads["controls"] = jax.tree.map(np.zeros_like, heads["controls"])
    [updates], _ = follow(lopt, theta, params, [arrays(2, scale=gradient)])
    for name, p in params.items():
        assert np.isfinite(updates[name]).all()
        assert rms(updates[name]) <= (1 + 2 * 0.5) * rms(p) + rms(p) + 1e-6


@pytest.mark.parametrize(
    ("gradient", "loss", "want"),
    [(0.01, -3.0, "between"), (1e-9, 3.0, 100.0), (10.0, 3.0, 1.0)],
)
def test_units_are_longer_where_a_step_would_change_no_loss(gradient, loss, want):
    theta, params = REACHING.init_theta(jax.random.key(0)), arrays(1)
    for kind in ("matrix", "vector"):  # Decay is no matter of units.
        theta[kind]["constants"] = theta[kind]["constants"].at[1].set(-10.0)
    grads = [arrays(2, scale=gradient), arrays(3, scale=1e3 * gradient)]
    units = {name: rms(p) for name, p in params.items()}
    if want == "between":
        lengths = {
            name: np.sqrt(g.size) * np.linalg.norm(g.ravel().astype(np.float64))
            for name, g in grads[0].items()
        }
        want = 0.5 * abs(loss) / sum(units[n] * lengths[n] for n in SHAPES)
        assert 1.5 < want < 50
    found, state = follow(REACHING, theta, params, grads, [loss, loss])
    lengths = [want * units[name] for name in sorted(SHAPES)]
    np.testing.assert_allclose(state.unit, lengths, rtol=1e-5)
    plain = dataclasses.replace(REACHING, reach=0.0)
    [short], _ = follow(plain, theta, params, grads[:1], [loss])
    for name in SHAPES:
        np.testing.assert_allclose(found[0][name], want * short[name], rtol=1e-4)


@pytest.mark.parametrize(
    ("gradient", "loss"),
    [(0.0, 1.0), (1e-3, 0.0), (np.nan, 1.0), (1e-3, np.nan), (1e-3, np.inf)],
)
def test_units_stay_where_it_cannot_be_told_how_far_to_go(gradient, loss):
    theta, params = REACHING.init_theta(jax.random.key(0)), arrays(1)
    _, state = follow(REACHING, theta, params, [arrays(2, scale=gradient)], [loss])
    want = [rms(params[name]) for name in sorted(SHAPES)]
    np.testing.assert_allclose(state.unit, want, rtol=1e-5)


@pytest.mark.parametrize("reach", [-0.1, 1.5, np.nan, True, "1"])
def test_a_reach_is_a_share(reach):
    with pytest.raises(ValueError, match=r"^reach must be a number in \[0.0, 1.0\]"):
        MuonLSTM(reach=reach)


def averaging(shares, powers=(1.0, 5.0)):
    """A theta of `AVERAGING` with these shares and powers, and steps of their own."""
    theta = random_theta(AVERAGING)
    theta["lstm"]["averages"] = jax.tree.map(np.zeros_like, theta["lstm"]["averages"])
    logits = np.log(np.array(shares) / (1 - sum(shares)))
    for kind in theta["averages"].values():
        kind["constants"] = np.concatenate([logits, np.log(powers)]) / np.float32(4)
        kind["shares"], kind["straight"] = 0 * kind["shares"], 0 * kind["straight"]
    return theta


def test_parameters_are_between_an_iterate_and_its_averages():
    """By z and its weighted means, which are kept in so many words."""
    shares, powers = (0.5, 0.3), (1.0, 5.0)
    params, grads = arrays(1), [arrays(2 + t) for t in range(6)]
    tx = AVERAGING.with_theta(averaging(shares, powers), num_steps=HORIZON)
    theta = averaging((1e-30, 1e-30))
    plain = AVERAGING.with_theta(theta, num_steps=HORIZON)
    update, step = jax.jit(tx.update), jax.jit(plain.update)
    state, other = tx.init(params), plain.init(params)
    at, ways = params, [params]
    for t, g in enumerate(grads):
        value = np.float32(3.0 - 0.3 * t)
        # At the same parameters both make the same steps u of z.
        u, other = step(g, other, at, value=value)
        updates, state = update(g, state, at, value=value)
        at = jax.tree.map(jnp.add, at, updates)
        ways.append(jax.tree.map(lambda z, u: np.float64(z) + u, ways[-1], u))
        for name in SHAPES:
            want = (1 - sum(shares)) * ways[-1][name]
            for share, power in zip(shares, powers, strict=True):
                x = ways[0][name]
                for n, z in enumerate(ways[1:], 1):
                    x = x + (1 + power) / (n + power) * (z[name] - x)
                want = want + share * x
            np.testing.assert_allclose(at[name], want, rtol=1e-4, atol=1e-5)


def test_shares_may_change_from_step_to_step():
    """Parameters are where the last shares put them, whatever those before were."""
    rng = np.random.default_rng(0)
    shapes = {"matrix": (3, 2), "other": (3, 2), "bias": (4,)}
    params = {name: np.zeros(shape) for name, shape in shapes.items()}
    tree = jax.tree.map(jnp.float32, params)
    groups_of = group_tensors(tree, tree)
    averages, z = init_averages(tree, len(shapes), 2), dict(params)
    x = {name: [p, p] for name, p in params.items()}
    for step in range(6):
        shares = rng.uniform(0.0, 0.5, (len(shapes), 2))
        powers = rng.uniform(1.0, 9.0, (len(shapes), 2))
        u = arrays(step, shapes)
        made = [jnp.stack([u[sorted(shapes)[i]] for i in g.indices]) for g in groups_of]
        controls = AverageControls(
            jnp.float32(shares), jnp.float32(powers), jnp.zeros(len(shapes))
        )
        moves, averages = average_steps(
            groups_of, made, averages, controls, jnp.array(step)
        )
        for group, moved in zip(groups_of, moves, strict=True):
            for i, move in zip(group.indices, moved, strict=True):
                name = sorted(shapes)[i]
                params[name] = params[name] + move
                z[name] = z[name] + u[name]
                rates = (1 + powers[i]) / (step + 1 + powers[i])
                pairs = zip(x[name], rates, strict=True)
                x[name] = [a + c * (z[name] - a) for a, c in pairs]
                want = (1 - shares[i].sum()) * z[name]
                want = want + shares[i][0] * x[name][0] + shares[i][1] * x[name][1]
                np.testing.assert_allclose(params[name], want, rtol=1e-4, atol=1e-5)


def test_polynomial_weights_span_a_share_of_the_time():
    """Of z that moves by 1 a step, an average of power r lags t / (r + 2) behind."""
    [group] = group_tensors({"x": jnp.zeros(3)}, {"x": jnp.zeros(3)})
    averages = init_averages({"x": jnp.zeros(3)}, 1, 2)
    powers = jnp.array([[1.0, 8.0]])
    controls = AverageControls(jnp.zeros((1, 2)), powers, jnp.zeros(1))
    for step in range(1000):
        _, averages = average_steps(
            [group], [jnp.ones((1, 3))], averages, controls, jnp.array(step)
        )
    [lags] = averages.lags.values()
    for lag, power in zip(lags, (1, 8), strict=True):
        # Of weights as n^r, up to the first order in 1 / t.
        np.testing.assert_allclose(lag, 1000 / (power + 2), rtol=5e-3)
    np.testing.assert_allclose(straightness([group], averages), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("ways", "want"), [([1.0, -1.0], 0.0), ([1.0, 1.0], 1.0), ([3.0, -1.0], 0.5)]
)
def test_straightness_tells_to_and_fro_from_onwards(ways, want):
    params = {"x": jnp.zeros((2, 2))}
    [group] = group_tensors(params, params)
    averages = init_averages(params, 1, 1)
    np.testing.assert_allclose(straightness([group], averages), 1.0, atol=1e-5)
    controls = AverageControls(jnp.zeros((1, 1)), jnp.full((1, 1), 2.0), jnp.zeros(1))
    for step in range(2000):
        made = jnp.full((1, 2, 2), ways[step % len(ways)])
        _, averages = average_steps(
            [group], [made], averages, controls, jnp.array(step)
        )
    np.testing.assert_allclose(straightness([group], averages), want, atol=0.01)


def test_a_crooked_way_slows_the_steps_where_theta_says_so():
    theta = jax.tree.map(np.array, AVERAGING.init_theta(jax.random.key(0)))
    for kind in theta["averages"].values():
        kind["constants"] = np.array(
            [-9, -9, 0, 0], np.float32
        )  # No share of them; r = 1.
    grads = [jax.tree.map(lambda g, t=t: (-1.0) ** t * g, arrays(2)) for t in range(30)]
    slowed, _ = follow(AVERAGING, theta, arrays(1), grads)
    for kind in theta["averages"].values():
        kind["straight"] = 0 * kind["straight"]
    plain, _ = follow(AVERAGING, theta, arrays(1), grads)
    for name in SHAPES:
        assert rms(slowed[0][name]) > rms(plain[0][name])
        assert rms(slowed[-1][name]) < 0.9 * rms(plain[-1][name])


def test_a_tensor_that_did_not_move_went_no_crooked_way():
    params = {"x": jnp.zeros((2, 2))}
    [group] = group_tensors(params, params)
    averages = init_averages(params, 1, 1)
    controls = AverageControls(jnp.zeros((1, 1)), jnp.full((1, 1), 8.0), jnp.zeros(1))
    for step in range(5):
        still = jnp.zeros((1, 2, 2))
        _, averages = average_steps(
            [group], [still], averages, controls, jnp.array(step)
        )
    np.testing.assert_array_equal(straightness([group], averages), 1.0)


@pytest.mark.parametrize("averages", [-1, 1.0, True])
def test_averages_are_counted(averages):
    with pytest.raises(ValueError, match=r"^averages must be an integer of at least 0"):
        MuonLSTM(averages=averages)


def test_large_tensors_are_moved_as_small_ones_are(monkeypatch):
    """Above `BATCHED` they go through a loop, not side by side."""
    lopt = MuonMLP()
    theta = random_theta(lopt, 0.1)
    shapes = dict.fromkeys(("first", "second"), (6, 5)) | {"other": (3, 2)}
    params, grads = arrays(1, shapes), [arrays(2 + t, shapes) for t in range(2)]
    want, _ = follow(lopt, theta, params, grads)
    monkeypatch.setattr(groups, "BATCHED", 1)
    got, _ = follow(lopt, theta, params, grads)
    for mine, theirs in zip(got, want, strict=True):
        for name in shapes:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-3, atol=1e-6)


def test_the_plan_is_made_of_powers():
    features = np.asarray(plan_features(jnp.int32(30), jnp.float32(40.0)))
    left, warm, horizon = np.exp(4 * features[:3])
    np.testing.assert_allclose([left, warm, horizon], [0.25, 1.0, 0.04], rtol=1e-5)
    # After its end the plan stays at its last step.
    after = np.exp(4 * np.asarray(plan_features(jnp.int32(99), jnp.float32(40.0)))[0])
    np.testing.assert_allclose(after, 1 / 40, rtol=1e-5)
    start = np.exp(4 * np.asarray(plan_features(jnp.int32(0), jnp.float32(100.0)))[1])
    np.testing.assert_allclose(start, 1 / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "rows", "matrix"),
    [
        ((), (1, 1), False),
        ((7,), (1, 7), False),
        ((7, 1), (7, 1), False),
        ((1, 7), (1, 7), False),
        ((3, 4), (3, 4), True),
        ((3, 3, 2, 5), (18, 5), True),
    ],
)
def test_what_is_a_matrix(shape, rows, matrix):
    assert as_matrix(shape) == rows
    assert is_matrix(shape) == matrix


@pytest.mark.parametrize("powers", [(0.3, 0.0), (0.0, -0.5)])
def test_rates_follow_a_power_of_the_fall_of_the_loss(powers):
    """By the averages of the loss, in so many words; the direction stays as it is."""
    theta, still = random_theta(FALLING), random_theta(FALLING)
    for kind, power in zip(("matrix", "vector"), powers, strict=True):
        theta["fall"][kind]["power"] = np.float32(power)
        still["fall"][kind]["power"] = np.float32(0.0)
        for of_both in (theta, still):  # far below where a rate is cut off
            of_both[kind]["constants"][0] = -2.0
            of_both[kind]["rate"] *= np.float32(0.1)
    values = (3.0 * 0.5 ** np.arange(12)).astype(np.float32)
    params, grads = arrays(1), [arrays(2 + t) for t in range(len(values))]
    short, long = 0.0, 0.0
    followed, other = (FALLING.with_theta(t, num_steps=HORIZON) for t in (theta, still))
    update, step = jax.jit(followed.update), jax.jit(other.update)
    state, plain = followed.init(params), other.init(params)
    for t, (g, value) in enumerate(zip(grads, values, strict=True)):
        got, state = update(g, state, params, value=value)
        want, plain = step(g, plain, params, value=value)
        short, long = (
            np.exp(-1 / halflife) * (mean - value) + value
            for mean, halflife in ((short, 10), (long, HORIZON))
        )
        corrected = [
            mean / (1 - np.exp(-(t + 1) / halflife))
            for mean, halflife in ((short, 10), (long, HORIZON))
        ]
        fall = corrected[1] / corrected[0]
        assert fall > 1 or t == 0
        for name, shape in SHAPES.items():
            power = powers[0 if is_matrix(shape) else 1]
            np.testing.assert_allclose(
                got[name], fall**power * want[name], rtol=1e-4, atol=1e-7
            )
