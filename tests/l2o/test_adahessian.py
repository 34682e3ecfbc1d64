"""AdaHessian against its published rule, and on quadratics with known Hessians."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.baselines.adahessian import hutchinson_diagonal_of_loss, scale_by_adahessian


DIAGONAL = {"a": jnp.array([2.0, -0.5, 10.0]), "b": jnp.array([[4.0]])}
POINT = {"a": jnp.array([1.0, 2.0, -1.0]), "b": jnp.array([[0.5]])}


def separable(params):
    return 0.5 * sum(jnp.sum(DIAGONAL[k] * params[k] ** 2) for k in params)


def test_one_update_by_hand():
    """The estimate is exact where the Hessian is diagonal, with corrected averages."""
    tx = l2o.adahessian(0.15, eps=1e-3)
    grads = jax.grad(separable)(POINT)
    updates, _ = jax.jit(
        lambda g: tx.update(g, tx.init(POINT), POINT, obj_fn=separable)
    )(grads)
    for name, d in DIAGONAL.items():
        want = -0.15 * np.asarray(d * POINT[name]) / (np.abs(d) + 1e-3)
        np.testing.assert_allclose(updates[name], want, rtol=1e-5)


SHAPES = {"conv": (3, 3, 2, 4), "dense": (6, 4), "bias": (4,)}


def published_rule(params, grads, diagonals, *, lr, b1, b2, eps, decay, power, block):
    """The authors' optimizer, on given Hessian-vector products, in float64."""
    params = {k: np.float64(p) for k, p in params.items()}
    m, v = ({k: np.zeros(s) for k, s in SHAPES.items()} for _ in range(2))
    for t, (g, d) in enumerate(zip(grads, diagonals, strict=True), start=1):
        for k, p in params.items():
            size = np.abs(np.float64(d[k]))
            if k == "conv":
                size = np.broadcast_to(size.mean(axis=(0, 1)), size.shape)
            if k == "dense":
                rows = [
                    size[i : i + block].mean(axis=0) for i in range(0, len(size), block)
                ]
                size = np.repeat(rows, block, axis=0)
            m[k] = b1 * m[k] + (1 - b1) * g[k]
            v[k] = b2 * v[k] + (1 - b2) * size**2
            root = np.sqrt(v[k]) ** power / np.sqrt(1 - b2**t) ** power
            params[k] = p - lr * (m[k] / (1 - b1**t) / (root + eps) + decay * p)
    return params


@pytest.mark.parametrize(("power", "block"), [(1.0, 1), (0.5, 3)])
def test_the_published_rule_on_recorded_diagonals(power, block):
    rng = np.random.default_rng(0)
    tree = lambda: {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    params: Any
    params, grads, diagonals = (
        tree(),
        [tree() for _ in range(4)],
        [tree() for _ in range(4)],
    )

    def given(updates, state, params=None, **extra_args: Any):
        return extra_args["diagonal"], state

    recorded = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), given
    )
    tx = l2o.adahessian(
        0.15,
        weight_decay=0.01,
        hessian_power=power,
        block_size=block,
        hessian_diagonal_fn=recorded,
    )
    want = published_rule(
        params,
        grads,
        diagonals,
        lr=0.15,
        b1=0.9,
        b2=0.999,
        eps=1e-4,
        decay=0.01,
        power=power,
        block=block,
    )
    state, update = tx.init(params), jax.jit(tx.update)
    for g, d in zip(grads, diagonals, strict=True):
        updates, state = update(g, state, params, diagonal=d)
        params = optax.apply_updates(params, updates)
    for k, w in want.items():
        np.testing.assert_allclose(params[k], w, rtol=1e-6, atol=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize("probes", [1, 4])
def test_the_estimate_is_unbiased(probes):
    r"""With variance $\sum_{j \ne i} H_{ij}^2 / n$.

    False alarms: 10 numbers at 5 deviations, below 1e-5; variances within 10 %, whose
    deviation is 1 %.
    """
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(5, 5)).astype(np.float32)
    hessian = matrix + matrix.T
    draws = 20_000
    tx = hutchinson_diagonal_of_loss(probes, seed=3)
    params = jnp.ones(5)

    def step(state, _):
        diagonal, state = tx.update(
            params, state, params, obj_fn=lambda p: 0.5 * p @ jnp.asarray(hessian) @ p
        )
        return state, diagonal

    _, found = jax.jit(lambda state: jax.lax.scan(step, state, None, length=draws))(
        tx.init(params)
    )
    variance = (np.sum(hessian**2, axis=1) - np.diag(hessian) ** 2) / probes
    deviation = np.sqrt(variance / draws)
    assert (np.abs(found.mean(axis=0) - np.diag(hessian)) < 5 * deviation).all()
    np.testing.assert_allclose(found.var(axis=0), variance, rtol=0.1)


def test_it_beats_tuned_sgd_a_hundredfold_in_steps():
    """On a separable quadratic of condition 1e6, whose SGD is known in closed form."""
    curvature = np.logspace(-6, 0, 7)
    start = np.ones(7)
    goal = 1e-8 * 0.5 * np.sum(curvature)

    def loss(params):
        return 0.5 * jnp.sum(jnp.asarray(curvature, jnp.float32) * params**2)

    tx = l2o.adahessian(0.15, eps=1e-12)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params, obj_fn=loss)
        params = optax.apply_updates(params, updates)
        return (params, state), loss(params)

    params = jnp.asarray(start, jnp.float32)
    _, losses = jax.jit(
        lambda params: jax.lax.scan(step, (params, tx.init(params)), None, length=1000)
    )(params)
    # To stay: momentum may pass through.
    steps = 1 + int(np.flatnonzero(np.asarray(losses) > goal).max()) + 1
    assert steps < 500
    sgd = [
        0.5 * np.sum(curvature * (1 - rate * curvature) ** (2 * 100 * steps))
        for rate in np.logspace(-2, np.log10(1.999), 200)
    ]
    assert min(sgd) > goal


def test_the_hessian_is_looked_at_every_so_often():
    tx = scale_by_adahessian(update_interval=3)
    state: Any = tx.init(POINT)
    seen = []
    for t in range(7):
        params = jax.tree.map(lambda p, t=t: p + t, POINT)
        # The Hessian of a cubic moves with its point.
        cubic = lambda params: sum(jnp.sum(p**3) for p in jax.tree.leaves(params))
        _, state = tx.update(params, state, params, obj_fn=cubic)
        seen.append((int(state.hessians), float(state.nu["b"][0, 0])))
    assert [count for count, _ in seen] == [1, 1, 1, 2, 2, 2, 3]
    sixfold = [6 * 0.5, 6 * 3.5, 6 * 6.5]
    want, average = [], 0.0
    for d in sixfold:
        average = 0.999 * average + 0.001 * d**2
        want += [average] * 3
    np.testing.assert_allclose([v for _, v in seen], want[:7], rtol=1e-4)


def test_it_composes():
    tx = optax.MultiSteps(
        optax.chain(optax.clip_by_global_norm(1.0), l2o.adahessian(0.1)),
        every_k_schedule=2,
    )
    state, params = tx.init(POINT), POINT
    for _ in range(4):
        updates, state = tx.update(
            jax.grad(separable)(params), state, params, obj_fn=separable
        )
        params = optax.apply_updates(params, updates)
    assert float(separable(params)) < float(separable(POINT))


def test_what_it_lacks_is_named():
    tx = l2o.adahessian(0.1)
    with pytest.raises(ValueError, match="needs obj_fn, the loss of params"):
        tx.update(POINT, tx.init(POINT), POINT)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(POINT, tx.init(POINT), obj_fn=separable)
    with pytest.raises(ValueError, match=r"must divide .*, got 4 .*\(6, 4\)"):
        l2o.adahessian(0.1, block_size=4).init({"w": jnp.ones((6, 4))})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("b1", 1.0),
        ("b2", -0.1),
        ("eps", 0.0),
        ("hessian_power", 2.0),
        ("block_size", 0),
        ("update_interval", 0),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        l2o.adahessian(0.1, **{field: value})
