"""The theorems of evolution strategies, on problems with known meta-gradients."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators.credit import (
    Credit,
    Credited,
    Fresh,
    Persistent,
    Reused,
)
from meta_train.estimators.method import Outcome
from meta_train.estimators.span import Truncated, Whole
from meta_train.meta_loss import MetaLoss
from meta_train.perturb import Gaussian
from meta_train.schedules import LogUniform
from tests.meta_train.problems import (
    FULL_GRADIENT,
    HESSIAN,
    HORIZON,
    TRUNCATED_GRADIENT,
    WINDOW,
    Follow,
    Influence,
    Jump,
    LossScaled,
    Polynomial,
    assert_within,
    init,
    make_estimator,
    strategies,
    window,
    windows,
)


pytestmark = pytest.mark.usefixtures("quick_compilation")
THETA = jnp.array([0.75])
POINT = jnp.array([0.4, -0.3])
SIGMA = 0.5


# Bias and variance


def jumps(quartic, method):
    """Estimates at `POINT`, `[64, 2]`.

    Of the two losses of a problem the second is `1/2 x' H x + q sum(x^4)` at theta.
    """
    estimator = make_estimator(
        Polynomial(jnp.float32(quartic)),
        Jump(),
        method,
        horizon=2,
        pairs=256,
        block=256,
    )
    got = windows(estimator, POINT, jax.random.key(0), 64).gradient
    return np.asarray(got, np.float64)


@pytest.mark.statistical
@pytest.mark.parametrize("second", [SIGMA, 0.25])
@pytest.mark.parametrize("quartic", [0.0, 0.5])
def test_mean_is_the_gradient_of_the_smoothed_loss(quartic, second):
    """False alarms: below 1e-4; 4.5 standard errors in two coordinates, four times.

    Gaussian smoothing has the gradient `H x + 4 q x^3 + 12 q sigma^2 x`, with sigma
    that of each coordinate.
    """
    tensors = () if second == SIGMA else (("second", second),)
    got = jumps(quartic, strategies(sigma=SIGMA, tensors=tensors))
    x, sigma = np.asarray(POINT, np.float64), np.array([SIGMA, second])
    want = HESSIAN @ x + quartic * (4 * x**3 + 12 * sigma**2 * x)
    assert_within(got, want / 2, 4.5)


def test_bias_falls_as_the_square_of_sigma():
    """Exact in the mean over any noise: an antithetic difference has no even orders.

    The estimates at sigma, 2 sigma and 4 sigma are from the same normal numbers, and
    the unbiased share of all three is the same: it cancels.
    """
    one, two, four = (jumps(0.5, strategies(sigma=s)) for s in (SIGMA / 2, SIGMA, 1.0))
    slopes = np.log2((four - two).mean(axis=0) / (two - one).mean(axis=0))
    np.testing.assert_allclose(slopes, 2.0, atol=1e-3)


CYCLES = 1024


def gradients(credit=None, *, window=HORIZON, pairs=4, span=Truncated):
    """One estimate per problem that every pair has gone through: `[CYCLES]`.

    A cycle is the windows of one problem; its mean estimates the gradient of the mean
    loss over the problem. Cycles share nothing, so that they are independent.
    """
    method = strategies(credit, SIGMA)
    estimator = make_estimator(
        Influence(),
        Follow(),
        method,
        window=window,
        pairs=pairs,
        block=pairs,
        span=span,
    )
    count = CYCLES * (1 if span is Whole else HORIZON // window)
    got = windows(estimator, THETA, jax.random.key(0), count).gradient
    return np.asarray(got).reshape(CYCLES, -1).mean(axis=1)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("credit", "span", "want"),
    [
        (Fresh(), Truncated, TRUNCATED_GRADIENT),
        (Persistent(), Truncated, FULL_GRADIENT),
        (Reused(), Truncated, FULL_GRADIENT),
        (Fresh(), Whole, FULL_GRADIENT),
    ],
)
def test_all_but_truncated_are_unbiased_where_that_has_the_wrong_sign(
    credit, span, want
):
    """False alarms: below 3e-5; four means, each within 4.5 standard errors."""
    assert FULL_GRADIENT > 0 > TRUNCATED_GRADIENT
    assert_within(gradients(credit, window=WINDOW, span=span), want, 4.5)


@dataclasses.dataclass(frozen=True)
class Coarse(Credit):
    """A credit of noise in multiples of 1/16: with `Influence` every sum is exact."""

    credit: Credit

    def init(self, theta):
        return self.credit.init(theta)

    def assign(self, memory, fresh, restarted):
        return self.credit.assign(memory, jnp.round(16 * fresh) / 16, restarted)


@pytest.mark.parametrize(
    ("credit", "span", "window"),
    [
        (Persistent(), Truncated, HORIZON),
        (Reused(), Truncated, HORIZON),
        # And so are whole problems, though in several windows.
        (Fresh(), Whole, WINDOW),
    ],
)
def test_one_window_a_problem_is_full_evolution_strategies(credit, span, window):
    """Bit for bit: every window begins a problem, and nothing is carried over.

    Of numbers that need no rounding, which may differ from program to program.
    """
    full = gradients(Coarse(Fresh()))
    assert len(np.unique(full)) > CYCLES / 4
    got = gradients(Coarse(credit), span=span, window=window)
    np.testing.assert_array_equal(got, full)


@pytest.mark.statistical
def test_variance_falls_as_one_over_the_number_of_pairs():
    """False alarms: below 2e-5; slope and variance within 4.5 standard errors.

    The excess kurtosis of one contribution, `g e^2 / sigma^2`, is 12: the relative
    standard error of a variance over 1024 problems is 0.07 with 4 pairs and 0.05 with
    64, that of the slope 0.03.
    """
    few, many = (float(np.var(gradients(pairs=n), ddof=1)) for n in (4, 64))
    slope = math.log(many / few) / math.log(64 / 4)
    assert slope == pytest.approx(-1.0, abs=4.5 * 0.03)
    assert few == pytest.approx(2 * FULL_GRADIENT**2 / 4, rel=4.5 * 0.07)


@pytest.mark.statistical
def test_reused_noise_has_less_variance_here_than_persistent():
    """False alarms: below 1e-5; two variances, each within 4.5 standard errors.

    With e_j the noise of window j in units of sigma, and `late` and `now` written out,
    the loss of window k is `sum_j m_kj e_j`. The mean of a problem is a quadratic form
    in e for persistent noise, `sum_k (sum_j<=k e_j) (sum_j m_kj e_j)`, whose variance
    is twice the squared norm of its symmetric part; for one noise e it is `g e^2`. The
    standard error of a variance is 0.07 of it: 1024 problems of 4 pairs, where the
    excess kurtosis of a form is at most 12.
    """
    m = np.array([[-2, 0, 0, 0], [1, -2, 0, 0], [4, 1, -2, 0], [4, 4, 1, -2]]) / HORIZON
    form = np.triu(np.ones((4, 4))) @ m
    assert (np.trace(form), m.sum()) == (FULL_GRADIENT, FULL_GRADIENT)
    want = 2 * np.sum(((form + form.T) / 2) ** 2), 2 * FULL_GRADIENT**2
    assert want[0] / want[1] == pytest.approx(3.5, abs=0.02)
    for credit, variance in zip((Persistent(), Reused()), want, strict=True):
        got = gradients(credit, window=WINDOW)
        assert np.var(got, ddof=1) * 4 == pytest.approx(variance, rel=4.5 * 0.07)


# Whole problems


@pytest.mark.parametrize("reduce", ["mean", "last", "minimum"])
def test_whole_problems_are_a_plain_loop(reduce):
    """Horizons of one to three windows: what an optimizer is told, and what is read.

    A few of the problems diverge, and are capped.
    """
    theta, sigma, cap = jnp.array([-1.0]), 0.3, 3.0
    estimator = make_estimator(
        Polynomial(),
        LossScaled(),
        # It remembers the noise that was used.
        strategies(Reused(), sigma),
        span=Whole,
        schedule=LogUniform(1, 6),
        meta_loss=MetaLoss(reduce=reduce, cap=cap),
        pairs=24,
    )
    state = init(estimator, theta, jax.random.key(0))
    estimate, state = window(estimator, theta, state, jax.random.key(5))
    noise = np.asarray(state.memory, np.float64).reshape(24)
    horizons = np.asarray(state.unrolls.horizon)
    np.testing.assert_array_equal(state.unrolls.step, horizons)
    # One in every block.
    assert (horizons == horizons[:, :1, :1]).all()
    horizons = horizons[..., 0].ravel()
    assert set(horizons.tolist()) == {2, 4, 6}
    assert int(estimate.inner_steps) == 2 * horizons.sum()
    starts = np.asarray(state.unrolls.spec, np.float64).reshape(24, 2, 2)
    losses, gradient, ups = [], 0.0, 0
    for pair, horizon in enumerate(horizons.tolist()):
        two = []
        for sign in (1, -1):
            x, curve = starts[pair, 0], []
            rate = math.exp(float(theta[0]) + sign * noise[pair])
            for t in range(horizon):
                loss = 0.5 * x @ HESSIAN @ x
                curve.append(min(cap, loss))
                x = x - rate * loss * (1 - t / horizon) * HESSIAN @ x
            made = {"mean": np.mean(curve), "last": curve[-1], "minimum": min(curve)}
            two.append(made[reduce])
            ups += curve[-1] > min(curve)
        losses += two
        gradient += noise[pair] * (two[0] - two[1]) / (2 * sigma**2) / 24
    assert 0 < ups < 48
    assert float(estimate.meta_loss) == pytest.approx(np.mean(losses), rel=1e-4)
    assert float(estimate.gradient[0]) == pytest.approx(gradient, rel=1e-3)


# The difference of losses


def test_the_sign_of_a_difference_is_all_that_counts_if_so_asked():
    used = Credited(noise=(), credit=jnp.array([0.5, -0.25]), memory=())
    outcomes = Outcome(jnp.array([3.0, 7.0]), ())
    got = {
        difference: strategies(sigma=0.5, difference=difference).contribution(
            Jump(), used, outcomes
        )["gradient"]
        for difference in ("raw", "sign")
    }
    # credit (3 - 7) / (2 * 0.25), and credit (-1) / (2 * 0.25).
    np.testing.assert_array_equal(got["raw"], [-4.0, 2.0])
    np.testing.assert_array_equal(got["sign"], [-1.0, 0.5])
    none = strategies(difference="sign").contribution(
        Jump(), used, Outcome(jnp.array([3.0, 3.0]), ())
    )
    np.testing.assert_array_equal(none["gradient"], 0.0)


def test_the_mean_is_over_the_units_that_counted():
    sums = {"gradient": jnp.array([6.0, -3.0])}
    mean, none = (strategies().combine(sums, jnp.int32(n)) for n in (3, 0))
    np.testing.assert_array_equal(mean, [2.0, -1.0])
    np.testing.assert_array_equal(none, sums["gradient"])


# Credit


def test_credit_after_a_reset_is_the_fresh_noise():
    memory, fresh = jnp.array([3.0, jnp.nan]), jnp.array([0.5, -0.25])
    for credit in (Persistent(), Reused()):
        reset = credit.assign(memory, fresh, jnp.bool_(True))
        for got in reset:
            np.testing.assert_array_equal(got, fresh)


def test_credit_within_a_problem_by_hand():
    memory, fresh = jnp.array([3.0, 1.0]), jnp.array([0.5, -0.25])
    go_on = jnp.bool_(False)
    carried = Persistent().assign(memory, fresh, go_on)
    np.testing.assert_array_equal(carried.credit, [3.5, 0.75])
    np.testing.assert_array_equal(carried.memory, carried.credit)
    np.testing.assert_array_equal(carried.noise, fresh)
    for got in Reused().assign(memory, fresh, go_on):
        np.testing.assert_array_equal(got, memory)
    forgetful = Fresh().assign((), fresh, go_on)
    np.testing.assert_array_equal(forgetful.noise, fresh)
    np.testing.assert_array_equal(forgetful.credit, fresh)


@pytest.mark.parametrize("credit", [Persistent(), Reused()])
def test_memory_lasts_as_long_as_a_problem(credit):
    """Under one key it is the sum with the old one, or the old; or the noise alone."""
    estimator = make_estimator(Influence(), Follow(), strategies(credit))
    state = init(estimator, THETA, jax.random.key(0))
    memories, restarts = [], []
    for i in range(2 * HORIZON // WINDOW):
        before = state
        estimate, state = window(estimator, THETA, before, jax.random.key(i))
        ended = before._replace(broken=jnp.ones_like(before.broken))
        _, reset = window(estimator, THETA, ended, jax.random.key(i))
        restarts.append(int(estimate.restarts))
        kept = before.memory if credit == Reused() else before.memory + reset.memory
        want = reset.memory if restarts[-1] else kept
        np.testing.assert_allclose(state.memory, want, rtol=1e-6)
        memories.append(np.asarray(state.memory))
    # Both problems of every pair began together, after four windows.
    assert restarts == [estimator.units, 0, 0, 0] * 2
    assert (memories[3] != memories[4]).all()


def test_methods_are_values():
    for make in (
        lambda: strategies(Persistent()),
        lambda: Gaussian(0.1, (("a", 0.0),)),
    ):
        assert make() == make()
        assert hash(make()) == hash(make())
