"""Curvature, spectra, noise and ranks against dense computations on a small network."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from l2o import inspect


EXAMPLES = 6
RNG = np.random.default_rng(0)
PARAMS = {
    "hidden": {"w": RNG.normal(size=(4, 3)), "b": RNG.normal(size=3)},
    "out": {"w": RNG.normal(size=(3, 3)), "b": RNG.normal(size=3)},
    "scale": np.array(1.5),
}
PARAMS = jax.tree.map(np.float32, PARAMS)
VECTOR = jax.tree.map(lambda p: np.float32(RNG.normal(size=np.shape(p))), PARAMS)
INPUTS = RNG.normal(size=(EXAMPLES, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
FLAT, UNRAVEL = ravel_pytree(PARAMS)
SIZE = 28
KEY = jax.random.key(0)


def model(params, inputs):
    hidden = jnp.tanh(inputs @ params["hidden"]["w"] + params["hidden"]["b"][None])
    return params["scale"] * (hidden @ params["out"]["w"] + params["out"]["b"][None])


def cross_entropy(outputs, labels):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], 1)
    return -chosen.mean()


def loss(params, inputs, labels):
    return cross_entropy(model(params, inputs), labels)


def example_loss(params, x, label):
    return loss(params, x[None], label[None])


def hessian_product(vector):
    return inspect.hessian_vector_product(loss, PARAMS, vector, INPUTS, LABELS)


def matrix_product(matrix):
    """The product of a symmetric matrix, on trees of two tensors and a scalar."""
    _, unravel = ravel_pytree(like_of(len(matrix)))
    return lambda v: unravel(jnp.dot(matrix, ravel_pytree(v)[0], precision="highest"))


def like_of(size):
    return {"a": jnp.zeros((2, 2)), "b": jnp.zeros(size - 5), "c": jnp.zeros(())}


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0], np.float64)


@functools.cache
def hessian():
    dense = jax.jit(jax.hessian(lambda x: loss(UNRAVEL(x), INPUTS, LABELS)))(FLAT)
    dense = np.asarray(dense, np.float64)
    assert dense.shape == (SIZE, SIZE)
    return (dense + dense.T) / 2


@functools.cache
def gauss_newton():
    outputs = lambda x: model(UNRAVEL(x), INPUTS).ravel()
    of_outputs = lambda o: cross_entropy(o.reshape(EXAMPLES, 3), LABELS)

    @jax.jit
    def parts(x):
        return jax.jacobian(outputs)(x), jax.hessian(of_outputs)(outputs(x))

    jacobian, curvature = (np.asarray(part, np.float64) for part in parts(FLAT))
    return jacobian.T @ curvature @ jacobian


def off_diagonal_squares(matrix):
    return matrix**2 - np.diag(np.diag(matrix) ** 2)


# Curvature


def test_hessian_vector_product():
    got = jax.jit(hessian_product)(VECTOR)
    assert jax.tree.structure(got) == jax.tree.structure(PARAMS)
    np.testing.assert_allclose(flat(got), hessian() @ flat(VECTOR), atol=1e-5)


def test_gauss_newton_vector_product():
    product = jax.jit(
        lambda v: inspect.ggn_vector_product(
            model, cross_entropy, PARAMS, v, INPUTS, LABELS
        )
    )
    want = gauss_newton() @ flat(VECTOR)
    np.testing.assert_allclose(flat(product(VECTOR)), want, atol=1e-5)
    # The two matrices differ, or the test would say nothing.
    assert abs(want - hessian() @ flat(VECTOR)).max() > 0.1


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    linear = lambda p, x: x @ p["w"] + p["b"][None]
    params, vector = PARAMS["hidden"], VECTOR["hidden"]
    got = inspect.ggn_vector_product(
        linear, cross_entropy, params, vector, INPUTS, LABELS
    )
    of_params = lambda p: cross_entropy(linear(p, INPUTS), LABELS)
    want = inspect.hessian_vector_product(of_params, params, vector)
    np.testing.assert_allclose(flat(got), flat(want), atol=1e-6)


def test_exact_diagonals():
    got = jax.jit(functools.partial(inspect.hessian_diagonal, loss))(
        PARAMS, INPUTS, LABELS
    )
    assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, PARAMS)
    np.testing.assert_allclose(flat(got), np.diag(hessian()), atol=1e-5)
    got = jax.jit(functools.partial(inspect.ggn_diagonal, model, cross_entropy))(
        PARAMS, INPUTS, LABELS
    )
    np.testing.assert_allclose(flat(got), np.diag(gauss_newton()), atol=1e-5)


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_estimated_diagonals(kind):
    """False alarms: below 1e-4; 28 entries within 5 standard errors, known ones."""
    probes = 2000
    if kind == "hessian":
        dense = hessian()
        estimate = lambda params: inspect.estimate_hessian_diagonal(
            loss, params, KEY, probes, INPUTS, LABELS
        )
    else:
        dense = gauss_newton()
        estimate = lambda params: inspect.estimate_ggn_diagonal(
            model, cross_entropy, params, KEY, probes, INPUTS, LABELS
        )
    errors = np.sqrt(off_diagonal_squares(dense).sum(axis=1) / probes)
    z = (flat(jax.jit(estimate)(PARAMS)) - np.diag(dense)) / errors
    assert abs(z).max() < 5
    # The probes are random: the errors are as large as the formula says.
    assert 0.5 < np.sqrt(np.mean(z**2)) < 2


@pytest.mark.statistical
def test_estimated_trace():
    """False alarms: below 1e-6; within 5 standard errors, which are known."""
    probes = 2000
    got = jax.jit(
        lambda params: inspect.hutchinson_trace(
            lambda v: inspect.hessian_vector_product(loss, params, v, INPUTS, LABELS),
            params,
            KEY,
            probes,
        )
    )(PARAMS)
    assert got.shape == ()
    assert got.dtype == jnp.float32
    error = np.sqrt(2 * off_diagonal_squares(hessian()).sum() / probes)
    assert abs(float(got) - np.trace(hessian())) < 5 * error


def test_one_probe_finds_a_diagonal_matrix():
    entries = np.array([3, -1, 0.5, 2, 0, 7, -4], np.float32)
    product = matrix_product(np.diag(entries))
    got = inspect.hutchinson_diagonal(product, like_of(7), KEY, 1)
    np.testing.assert_array_equal(flat(got), entries)
    assert float(inspect.hutchinson_trace(product, like_of(7), KEY, 1)) == 7.5
    exact = inspect.exact_diagonal(product, like_of(7))
    np.testing.assert_array_equal(flat(exact), entries)


def test_diagonals_of_bfloat16_parameters_are_summed_in_float32():
    params = {"w": jnp.ones((2, 3), jnp.bfloat16)}
    quadratic = lambda p: 1.5 * jnp.sum(p["w"] ** 2)
    exact = inspect.hessian_diagonal(quadratic, params)["w"]
    # In bfloat16 a sum of threes gets stuck at 1024.
    estimate = inspect.estimate_hessian_diagonal(quadratic, params, KEY, 700)["w"]
    for got in (exact, estimate):
        assert got.dtype == jnp.float32
        np.testing.assert_array_equal(got, np.full((2, 3), 3.0))


# Spectrum


@functools.partial(jax.jit, static_argnums=(1, 2))
def largest(key, count, steps):
    return inspect.largest_eigenvalues(hessian_product, PARAMS, key, count, steps)


def test_largest_eigenvalues():
    want = np.linalg.eigvalsh(hessian())[::-1]
    assert want[-1] < -0.01
    got = largest(KEY, SIZE, SIZE)
    np.testing.assert_allclose(got, want, atol=2e-5)
    # Fewer steps come close, from below.
    few = largest(KEY, 3, 8)
    assert few.shape == (3,)
    np.testing.assert_allclose(few[0], want[0], rtol=1e-2)
    assert (np.asarray(few) <= want[:3] + 1e-5).all()


@jax.jit
def spectrum_of_seven(dense):
    """All eigenvalues, and the nodes and weights of two probes."""
    product, like = matrix_product(dense), like_of(7)
    eigenvalues = inspect.largest_eigenvalues(product, like, KEY, 7, 7)
    return eigenvalues, *inspect.spectral_density(product, like, KEY, 2, 7)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        [0.0] * 7,
        [1.0] * 7,
        [-2.0] * 7,
        [-1.0] * 5 + [-3.0] * 2,
        [5.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0],
        [1e20, 0.0, 0.0, 0.0, 0.0, 0.0, -1e-20],
    ],
)
def test_multiple_eigenvalues_are_found_as_often_as_they_are(eigenvalues):
    """The Krylov space of one vector holds each only once: the iteration goes on."""
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))
    dense = rotation @ np.diag(eigenvalues) @ rotation.T
    got, nodes, weights = spectrum_of_seven(np.float32(dense))
    atol = 1e-5 * max(map(abs, eigenvalues))
    np.testing.assert_allclose(got, sorted(eigenvalues, reverse=True), atol=atol)
    assert np.isfinite(nodes).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)


def test_a_graded_spectrum_is_not_lost_to_rounding():
    """Without orthogonalisation the largest would appear several times."""
    eigenvalues = np.concatenate([[1e4, 1e3, 1e2], np.linspace(1, 2, 27)])
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))
    dense = np.float32(rotation @ np.diag(eigenvalues) @ rotation.T)
    got = inspect.largest_eigenvalues(matrix_product(dense), like_of(30), KEY, 4, 30)
    np.testing.assert_allclose(got, [1e4, 1e3, 1e2, 2.0], rtol=1e-4, atol=1e-2)


def test_nodes_and_weights_are_the_quadrature_of_the_probe():
    """Exact up to degree 2 steps - 1, with the vectors that the product was given."""
    seen = []

    def product(vector):
        jax.debug.callback(seen.append, ravel_pytree(vector)[0], ordered=True)
        return hessian_product(vector)

    nodes, weights = inspect.spectral_density(product, PARAMS, KEY, 2, 3)
    jax.effects_barrier()
    assert nodes.shape == weights.shape == (2, 3)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    for k, start in enumerate((seen[0], seen[3])):
        z = np.asarray(start, np.float64)
        np.testing.assert_allclose(abs(z), SIZE**-0.5, rtol=1e-6)
        for degree in range(6):
            want = z @ np.linalg.matrix_power(hessian(), degree) @ z / (z @ z)
            got = np.sum(np.float64(weights[k]) * np.float64(nodes[k]) ** degree)
            assert got == pytest.approx(want, rel=1e-4, abs=1e-5), degree
    assert np.abs(seen[0] - seen[3]).max() > 0.1


@pytest.mark.statistical
def test_mean_moments_of_the_density():
    """False alarms: below 1e-5; two moments within 5 standard errors, which are known.

    The variance of a probe's moment is that of the trace of the matrix's power.
    """
    probes = 500
    nodes, weights = jax.jit(
        lambda key: inspect.spectral_density(hessian_product, PARAMS, key, probes, 2)
    )(KEY)
    nodes, weights = np.float64(nodes), np.float64(weights)
    for power in (1, 2):
        dense = np.linalg.matrix_power(hessian(), power)
        error = np.sqrt(2 * off_diagonal_squares(dense).sum() / probes) / SIZE
        got = (weights * nodes**power).sum(axis=1).mean()
        assert abs(got - np.trace(dense) / SIZE) < 5 * error


def test_nodes_with_all_steps_are_the_eigenvalues():
    nodes, _ = inspect.spectral_density(hessian_product, PARAMS, KEY, 1, SIZE)
    np.testing.assert_allclose(nodes[0], np.linalg.eigvalsh(hessian()), atol=2e-5)


def test_density_on_a_grid():
    nodes = jnp.array([[-1.0, 2.0], [0.0, 1.0]])
    weights = jnp.array([[0.25, 0.75], [0.5, 0.5]])
    grid = jnp.linspace(-4.0, 5.0, 901)
    density = np.asarray(inspect.density_on_grid(nodes, weights, grid, 0.5))
    want = np.zeros(901)
    for node, weight in zip(nodes.ravel(), weights.ravel(), strict=True):
        bump = np.exp(-0.5 * ((grid - node) / 0.5) ** 2) / (0.5 * np.sqrt(2 * np.pi))
        want += weight * bump / 2
    np.testing.assert_allclose(density, want, atol=1e-6)
    assert density.sum() * 0.01 == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: inspect.hutchinson_diagonal(p, like_of(7), KEY, 0),
            "probes must be an integer of at least 1, got 0",
        ),
        (
            lambda p: inspect.hutchinson_trace(p, like_of(7), KEY, -1),
            "probes must be an integer of at least 1, got -1",
        ),
        (
            lambda p: inspect.spectral_density(p, like_of(7), KEY, 0, 2),
            "probes must be an integer of at least 1, got 0",
        ),
        (
            lambda p: inspect.spectral_density(p, like_of(7), KEY, 1, 8),
            "steps must be at most the number of parameters = 7, got 8",
        ),
        (
            lambda p: inspect.largest_eigenvalues(p, like_of(7), KEY, 0, 2),
            "count must be an integer of at least 1, got 0",
        ),
        (
            lambda p: inspect.largest_eigenvalues(p, like_of(7), KEY, 1, 0),
            "steps must be an integer of at least 1, got 0",
        ),
        (
            lambda p: inspect.largest_eigenvalues(p, like_of(7), KEY, 4, 3),
            "count must be at most steps = 3, got 4",
        ),
        (
            lambda _: inspect.density_on_grid(
                jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.zeros(3), 0.0
            ),
            "width must be a finite number above 0, got 0.0",
        ),
        (
            lambda _: inspect.gradient_moments({"w": jnp.zeros((1, 3))}),
            "gradients must be of 2 examples or more, got 1",
        ),
        (
            lambda _: inspect.gradient_noise_scale({"w": jnp.zeros((1, 3))}),
            "gradients must be of 2 examples or more, got 1",
        ),
        (
            lambda _: inspect.noise_scale_of_batches(1.0, 1.0, 4, 4),
            "small must be below large = 4, got 4",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(matrix_product(np.eye(7, dtype=np.float32)))


# Examples


@functools.cache
def example_gradients():
    return jax.jit(functools.partial(inspect.per_example_gradients, example_loss))(
        PARAMS, INPUTS, LABELS
    )


@functools.cache
def gradients_in_a_loop():
    """`[examples, parameters]`, in float64."""
    gradient = jax.jit(jax.grad(example_loss))
    rows = [flat(gradient(PARAMS, x, y)) for x, y in zip(INPUTS, LABELS, strict=True)]
    return np.stack(rows)


def test_per_example_gradients_and_their_norms():
    gradients = example_gradients()
    for i, want in enumerate(gradients_in_a_loop()):
        got = flat(jax.tree.map(lambda g, i=i: g[i], gradients))
        np.testing.assert_allclose(got, want, atol=1e-6)
    norms = inspect.per_example_norms(gradients)
    want = np.linalg.norm(gradients_in_a_loop(), axis=1)
    np.testing.assert_allclose(norms, want, rtol=1e-5)


def test_moments_of_gradients():
    moments = jax.jit(inspect.gradient_moments)(example_gradients())
    rows = gradients_in_a_loop()
    np.testing.assert_allclose(flat(moments.mean), rows.mean(axis=0), atol=1e-6)
    variance = rows.var(axis=0, ddof=1)
    np.testing.assert_allclose(flat(moments.variance), variance, rtol=1e-4, atol=1e-7)
    second = np.mean(rows**2, axis=0)
    np.testing.assert_allclose(flat(moments.second), second, rtol=1e-4, atol=1e-7)
    batch = jax.grad(loss)(PARAMS, INPUTS, LABELS)
    np.testing.assert_allclose(flat(moments.mean), flat(batch), atol=1e-6)


def test_noise_scale_by_hand():
    got = jax.jit(inspect.gradient_noise_scale)(example_gradients())
    rows = gradients_in_a_loop()
    trace = np.trace(np.cov(rows.T))
    square = np.sum(rows.mean(axis=0) ** 2) - trace / EXAMPLES
    np.testing.assert_allclose(got, [square, trace, trace / square], rtol=1e-4)
    # Batches of one example and of all: the formulas of the paper.
    small, large = np.sum(rows**2, axis=1).mean(), np.sum(rows.mean(axis=0) ** 2)
    pair = inspect.noise_scale_of_batches(small, large, 1, EXAMPLES)
    np.testing.assert_allclose(pair, [square, trace, trace / square], rtol=1e-6)


def test_noise_scale_of_two_batch_sizes_by_hand():
    # |G|^2 = 3 and a trace of 8: squares of 3 + 8 / 2 and of 3 + 8 / 16.
    got = inspect.noise_scale_of_batches(7.0, 3.5, 2, 16)
    np.testing.assert_allclose(got, [3.0, 8.0, 8 / 3], rtol=1e-6)


def test_without_noise_the_scale_is_zero():
    same = {"w": jnp.ones((4, 3)), "b": jnp.ones(4)}
    np.testing.assert_array_equal(inspect.gradient_noise_scale(same), [4.0, 0.0, 0.0])


@pytest.mark.statistical
def test_estimates_of_the_noise_scale_are_unbiased():
    """False alarms: below 1e-5; two means within 5 of their standard errors."""
    trials, examples, sigma = 20_000, 4, 0.7
    truth = {"w": jnp.array([[0.3, -0.2], [0.1, 0.5]]), "b": jnp.array([0.4])}
    square, trace = 0.09 + 0.04 + 0.01 + 0.25 + 0.16, 5 * sigma**2

    def trial(key):
        noise = jax.random.normal(key, (examples, 5))
        noise = jax.vmap(ravel_pytree(truth)[1])(noise)
        gradients = jax.tree.map(lambda g, e: g[None] + sigma * e, truth, noise)
        moments = inspect.gradient_moments(gradients)
        plain = jnp.sum(jnp.square(ravel_pytree(moments.mean)[0]))
        return inspect.gradient_noise_scale(gradients), plain

    found, plain = jax.jit(jax.vmap(trial))(jax.random.split(KEY, trials))
    for got, want in ((found.gradient_square, square), (found.trace, trace)):
        got = np.float64(got)
        assert abs(got.mean() - want) < 5 * got.std() / trials**0.5
    # The square of the mean gradient is not: it is the correction that counts.
    plain = np.float64(plain)
    assert plain.mean() - square > 50 * plain.std() / trials**0.5


# Weights


def test_stable_ranks():
    params = {**PARAMS, "kernel": np.float32(RNG.normal(size=(3, 2, 2, 5)))}
    got = jax.jit(inspect.stable_ranks)(params)
    assert got["hidden"]["b"] is got["out"]["b"] is got["scale"] is None
    assert got["kernel"].shape == ()
    for rank, matrix in (
        (got["hidden"]["w"], params["hidden"]["w"]),
        (got["out"]["w"], params["out"]["w"]),
        (got["kernel"], params["kernel"].reshape(12, 5)),
    ):
        singular = np.linalg.svd(np.float64(matrix), compute_uv=False)
        want = np.sum(singular**2) / singular[0] ** 2
        assert float(rank) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    ("matrix", "want"),
    [
        (np.eye(4), 4.0),
        (1e-30 * np.eye(4), 4.0),
        (np.outer([1, 2, 3], [4, 5]), 1.0),
        (np.diag([2.0, 1.0, 1.0]), 1.5),
        (np.zeros((2, 3)), 0.0),
        (np.zeros((0, 3)), 0.0),
        (np.zeros((3, 0)), 0.0),
    ],
)
def test_stable_rank_of_known_matrices(matrix, want):
    assert float(inspect.stable_ranks(np.float32(matrix))) == pytest.approx(want)


def test_cosine_similarity():
    a, b = flat(PARAMS), flat(VECTOR)
    want = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    got = jax.jit(inspect.cosine_similarity)(PARAMS, VECTOR)
    assert float(got) == pytest.approx(want, abs=1e-6)
    opposite = jax.tree.map(lambda g: -0.1 * g, PARAMS)
    assert float(inspect.cosine_similarity(opposite, PARAMS)) == pytest.approx(-1)
    zeros = jax.tree.map(np.zeros_like, PARAMS)
    assert float(inspect.cosine_similarity(zeros, PARAMS)) == 0.0


def test_effective_learning_rates():
    got = jax.jit(inspect.effective_learning_rates)(VECTOR, PARAMS)
    want = jax.tree.map(
        lambda u, g: np.linalg.norm(u) / np.linalg.norm(g), VECTOR, PARAMS
    )
    np.testing.assert_allclose(flat(got), flat(want), rtol=1e-5)
    assert jax.tree.structure(got) == jax.tree.structure(PARAMS)
    updates = {"still": np.zeros(2), "pushed": np.ones(2), "sgd": np.array([-0.3, 0.4])}
    gradients = {
        "still": np.zeros(2),
        "pushed": np.zeros(2),
        "sgd": np.array([3.0, -4]),
    }
    rates = inspect.effective_learning_rates(updates, gradients)
    assert float(rates["still"]) == 0.0
    assert float(rates["pushed"]) == np.inf
    assert float(rates["sgd"]) == pytest.approx(0.1)


def test_what_is_not_finite_is_not_hidden():
    broken = {"w": jnp.full((2, 2), jnp.nan)}
    for got in (
        inspect.stable_ranks(broken)["w"],
        inspect.cosine_similarity(broken, broken),
        inspect.effective_learning_rates(broken, broken)["w"],
        inspect.largest_eigenvalues(lambda v: broken, broken, KEY, 1, 2)[0],
    ):
        assert np.isnan(float(got))
