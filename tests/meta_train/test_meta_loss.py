"""Meta-losses by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.meta_loss import REDUCTIONS, MetaLoss, Readings


NAN, INF = math.nan, math.inf


def readings(steps, made=None, fresh=(), held_out=(), done=1.0):
    count = len(steps) if made is None else made
    return Readings(
        steps=jnp.array(steps, jnp.float32),
        made=jnp.arange(len(steps)) < count,
        fresh=jnp.array(fresh, jnp.float32),
        held_out=jnp.array(held_out, jnp.float32),
        done=jnp.float32(done),
    )


@pytest.mark.parametrize(
    ("reduce", "want"), [("mean", 2.0), ("last", 3.0), ("minimum", 1.0)]
)
def test_only_the_steps_that_were_made_are_read(reduce, want):
    """The others hold what they may, and are not a loss of zero."""
    meta_loss = MetaLoss(reduce=reduce)
    for rest in ([], [0.0, 0.0], [9.0, 9.0], [-9.0, NAN]):
        value, finite = meta_loss(readings([2.0, 1.0, 3.0, *rest], made=3))
        assert (float(value), bool(finite)) == (want, True)


def test_final_is_the_mean_of_fresh_losses():
    value, _ = MetaLoss(reduce="final")(readings([9.0, 9.0], fresh=[1.0, 2.0, 6.0]))
    assert float(value) == 3.0


def test_a_logarithm_is_taken_of_every_loss_before_they_are_reduced():
    meta_loss = MetaLoss(scale="log", floor=0.5)
    got = float(meta_loss(readings([0.5, 3.5]))[0])
    assert got == pytest.approx((math.log(1.0) + math.log(4.0)) / 2, rel=1e-6)
    # What noise has brought below zero counts as zero.
    low, zero = (float(meta_loss(readings([x]))[0]) for x in (-2.0, 0.0))
    assert low == zero == pytest.approx(math.log(0.5), rel=1e-6)


@pytest.mark.parametrize(("weight", "want"), [(0.0, 2.0), (0.25, 3.0), (1.0, 6.0)])
def test_held_out_losses_are_mixed_in_by_weight(weight, want):
    value, _ = MetaLoss(held_out=weight)(readings([1.0, 3.0], held_out=[5.0, 7.0]))
    assert float(value) == want


@pytest.mark.parametrize(
    ("late", "done", "want"), [(0.0, 0.1, 4.0), (1.0, 0.25, 2.0), (2.0, 0.5, 3.0)]
)
def test_late_windows_weigh_more(late, done, want):
    meta_loss = MetaLoss(held_out=0.5, late=late)
    value, _ = meta_loss(readings([3.0], held_out=[5.0], done=done))
    assert float(value) == want


def test_the_weights_of_short_windows_have_a_mean_of_one():
    one = lambda done: MetaLoss(late=3.0)(readings([1.0], done=done))[0]
    means = [np.mean([one(i / n) for i in range(1, n + 1)]) for n in (1, 100, 200)]
    assert means[0] == 4.0
    # The sum of the ends of n windows is above the integral by 2 / n.
    np.testing.assert_allclose(means[1:], [1.02, 1.01], atol=2e-4)


def test_a_share_that_is_not_asked_for_cannot_spoil_the_rest():
    """Zero times NaN would be NaN."""
    bad, good = [NAN, INF], [1.0, 3.0]
    value, finite = MetaLoss(held_out=0.0)(readings(good, held_out=[]))
    assert (float(value), bool(finite)) == (2.0, True)
    value, _ = MetaLoss(held_out=1.0)(readings(bad, held_out=good))
    assert float(value) == 2.0


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_without_a_cap_what_is_not_finite_stays_so_and_is_told(bad):
    for given in (
        readings([1.0, bad]),
        readings([1.0], held_out=[bad]),
        readings([1.0], held_out=[1.0, bad]),
    ):
        value, finite = MetaLoss(held_out=0.5 if given.held_out.size else 0.0)(given)
        assert not np.isfinite(value)
        assert not finite


@pytest.mark.parametrize(
    ("losses", "want", "told"),
    [([1.0, 9.0], 3.0, True), ([1.0, NAN], 3.0, False), ([1.0, INF], 3.0, False)],
)
def test_what_exceeds_the_cap_counts_as_it_and_is_told_if_not_finite(
    losses, want, told
):
    value, finite = MetaLoss(cap=5.0)(readings(losses))
    assert (float(value), bool(finite)) == (want, told)


def test_a_cap_comes_before_the_logarithm():
    value, _ = MetaLoss(cap=5.0, scale="log", floor=1.0)(readings([INF]))
    assert float(value) == pytest.approx(math.log(6.0), rel=1e-6)


def test_derivative_of_what_is_capped_is_zero():
    """So that one bad loss leaves the derivative of the others."""

    def value(x):
        steps = jnp.stack([x, 10.0 * x, jnp.float32(jnp.nan)])
        return MetaLoss(cap=5.0)(readings([0.0] * 3)._replace(steps=steps))[0]

    got = jax.grad(value)(jnp.float32(1.0))
    assert float(got) == pytest.approx(1 / 3, rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "train", "held_out"),
    [
        ({}, 0, 0),
        ({"reduce": "final", "samples": 3}, 3, 0),
        ({"held_out": 0.5, "samples": 2}, 0, 2),
        ({"reduce": "final", "held_out": 0.5, "samples": 2}, 2, 2),
        ({"reduce": "final", "held_out": 1.0, "samples": 2}, 0, 2),
    ],
)
def test_no_batch_is_drawn_that_is_not_read(fields, train, held_out):
    want = {"train": train, "outer_valid": held_out}
    assert MetaLoss(**fields).samples_of == want


def test_meta_losses_are_values():
    assert MetaLoss() == MetaLoss()
    assert hash(MetaLoss(reduce="last")) == hash(MetaLoss(reduce="last"))
    assert set(REDUCTIONS) == {"mean", "last", "minimum", "final"}


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("reduce", "median"),
        ("scale", "root"),
        ("floor", 0.0),
        ("held_out", 1.5),
        ("samples", 0),
        ("cap", -1.0),
    ],
)
def test_bad_fields_are_refused_in_one_line(field, bad):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {bad!r}$"):
        MetaLoss(**{field: bad})
