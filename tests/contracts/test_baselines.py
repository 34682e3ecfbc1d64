"""What every hand-designed optimizer must do. The table is `BASELINES` itself."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_test.baselines import BASELINES
from meta_test.inner_loop import derive_keys, run
from meta_test.optimizers import Contender, baseline
from tasks.base import Batch, Params, Split, Task, TaskFamily
from tests.helpers import assert_no_recompile


pytestmark = pytest.mark.usefixtures("quick_compilation")

# The exceptions, and why.

NEEDS = {
    "sophia": ("obj_fn", "estimates the Hessian of the loss"),
    "adahessian": ("obj_fn", "estimates the Hessian of the loss"),
    "lbfgs": ("value", "evaluates the loss in its line search"),
}
"""Cannot step without this argument, nor on a part of the parameters.

optax's wrappers for parts hide the other parameters, but leave the loss and its
gradient those of all.
"""

NOT_FINITE_AT_ZERO = {"prodigy": "divides by a sum of its steps"}
"""At a learning rate of zero, parameters do not stay."""


SHAPES = {"dense": (3, 2), "conv": (2, 1, 3, 2), "bias": (3,), "scalar": ()}
CURVATURES = {"dense": 1.0, "conv": 0.5, "bias": 2.0, "scalar": 4.0}
PART = ("dense", "bias")
STEPS = 5


def normal(seed: int, dtype: Any = np.float32) -> Any:
    """A dense and a convolutional kernel, a bias and a scalar."""
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=s).astype(dtype) for k, s in SHAPES.items()}


PARAMS = normal(0)


def loss(params: Any) -> jax.Array:
    """A separable quadratic in float32, least where all parameters are one."""
    return sum(
        (
            0.5 * c * jnp.sum(jnp.square(params[k].astype(np.float32) - 1.0))
            for k, c in CURVATURES.items()
        ),
        start=jnp.float32(0.0),
    )


def bound(make: Any, rate: Any, num_steps: Any) -> Any:
    """The optimizer as the inner loop has it."""
    return optax.with_extra_args_support(make(rate, num_steps))


def extra_args(params: Any, grads: Any) -> dict[str, Any]:
    """What the inner loop passes."""
    return {
        "value": loss(params),
        "grad": grads,
        "value_fn": loss,
        "obj_fn": loss,
    }


class Moved(NamedTuple):
    """After one step."""

    params: Any
    state: Any
    loss: jax.Array  # before it


@functools.partial(jax.jit, static_argnames="make")
def begin(make, rate, num_steps, params):
    return bound(make, rate, num_steps).init(params)


def step(make, rate, num_steps, params, state, **more):
    grads = jax.grad(loss)(params)
    given = extra_args(params, grads)
    tx = bound(make, rate, num_steps)
    updates, state = tx.update(grads, state, params, **given, **more)
    return Moved(optax.apply_updates(params, updates), state, given["value"])


move = functools.partial(jax.jit, static_argnames="make")(step)


def follow(make: Any, rate: Any, *, steps: int = STEPS) -> tuple[Moved, list[float]]:
    """Steps of one training, by the programs that all tests share, and its losses."""
    num_steps = jnp.int32(steps)
    state = begin(make, rate, num_steps, PARAMS)
    found, losses = Moved(PARAMS, state, jnp.float32(0.0)), []
    for _ in range(steps):
        found = move(make, rate, num_steps, found.params, found.state)
        losses.append(float(found.loss))
    return found, losses


@pytest.fixture(params=BASELINES, scope="module")
def subject(request) -> Contender:
    return baseline(request.param)


def middle(subject: Contender) -> jax.Array:
    """A learning rate."""
    return subject.candidates[len(subject.labels) // 2]


def assert_trees_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def assert_trees_close(got, want, tolerance=1e-5):
    """To `tolerance` of a tensor's largest entry."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, g), w in zip(
        jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        atol = tolerance * float(np.max(np.abs(w)))
        np.testing.assert_allclose(
            g, w, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path)
        )


def shapes_of(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)


def test_exceptions_are_of_baselines():
    assert {*NEEDS, *NOT_FINITE_AT_ZERO} <= BASELINES.keys()


# Types, which are decided when a program is traced


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_types_and_shapes_are_kept(subject, dtype):
    """Parameters', and the state's, which is thus one of a scan."""
    params = normal(0, dtype)
    given = subject.make, jnp.float32(0.1), jnp.int32(STEPS)
    state = jax.eval_shape(lambda p: bound(*given).init(p), params)
    moved = jax.eval_shape(lambda p, s: step(*given, p, s), params, state)
    assert shapes_of(moved.params) == shapes_of(params)
    assert shapes_of(moved.state) == shapes_of(state)
    judged = jax.eval_shape(subject.evaluated, moved.state, moved.params)
    assert shapes_of(judged) == shapes_of(params)
    # A weak type would be another program for the second step.
    assert not any(x.weak_type for x in jax.tree.leaves((state, moved)))


def test_unknown_extra_arguments_are_ignored(subject):
    """To the point that the program is the same."""
    given = subject.make, jnp.float32(0.1), jnp.int32(STEPS)
    state = jax.eval_shape(lambda p: bound(*given).init(p), PARAMS)

    def program(**more):
        return str(
            jax.make_jaxpr(lambda p, s: step(*given, p, s, **more))(PARAMS, state)
        )

    assert program(weather="fine", batch=jnp.ones(3)) == program()


def test_the_loss_is_needed_where_it_is_said_and_only_there(subject):
    tx = bound(subject.make, jnp.float32(0.1), jnp.int32(STEPS))
    state = jax.eval_shape(tx.init, PARAMS)
    if subject.name in NEEDS:
        argument, _ = NEEDS[subject.name]
        with pytest.raises((KeyError, ValueError), match=argument):
            jax.eval_shape(tx.update, PARAMS, state, PARAMS)
    else:
        updates, _ = jax.eval_shape(tx.update, PARAMS, state, PARAMS)
        assert shapes_of(updates) == shapes_of(PARAMS)


# Values, through the programs that all tests share


def test_one_program_for_all_rates_lengths_and_steps(subject):
    rates, lengths = subject.candidates[:2], jnp.array([STEPS, 1000])
    (one, two), (short, long) = rates, lengths
    state = begin(subject.make, one, short, PARAMS)
    params, state, _ = move(subject.make, one, short, PARAMS, state)
    equal = baseline(subject.name).make
    with assert_no_recompile():
        params, state, _ = move(subject.make, one, short, params, state)
        begin(equal, two, long, PARAMS)
        move(equal, two, long, params, state)


def test_same_bits_again(subject):
    first, second = (follow(subject.make, middle(subject)) for _ in range(2))
    assert_trees_equal(second, first)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(first))
    assert any((first[0].params[k] != PARAMS[k]).any() for k in SHAPES)


def test_without_compilation_it_steps_the_same(subject):
    rate, num_steps = middle(subject), jnp.int32(2)
    want, _ = follow(subject.make, rate, steps=2)
    params, state = PARAMS, bound(subject.make, rate, num_steps).init(PARAMS)
    for _ in range(2):
        params, state, _ = step(subject.make, rate, num_steps, params, state)
    assert_trees_close(params, want.params)


def test_a_rate_of_zero_moves_nothing(subject):
    """But for rounding: schedule-free interpolates between what is equal."""
    found, _ = follow(subject.make, jnp.float32(0.0))
    if subject.name in NOT_FINITE_AT_ZERO:
        assert np.isnan(found.params["bias"]).all()
    else:
        assert_trees_close(found.params, PARAMS, 1e-6)


# In the inner loop


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bowl(TaskFamily):
    """`loss` from `PARAMS`, whatever the key."""

    def sample(self, key: jax.Array) -> tuple[()]:
        del key
        return ()

    def nominal(self) -> tuple[()]:
        return ()

    def task(self, spec: tuple[()]) -> Task:
        del spec

        def init(key: jax.Array) -> Params:
            del key
            return jax.tree.map(jnp.asarray, PARAMS)

        def batch(key: jax.Array, split: Split) -> Batch:
            del key, split
            return ()

        def of_params(params: Params, key: jax.Array, batch: Batch) -> Any:
            del key, batch
            return loss(params), {}

        return Task(init=init, batch=batch, loss=of_params, normalise=lambda x: x)


@functools.partial(jax.jit, static_argnames=("make", "evaluated"))
def trainings(make, evaluated, rates, record_every):
    """A training at each rate, all at once."""

    def one(rate):
        return run(
            Bowl(),
            (),
            make,
            rate,
            derive_keys(0),
            num_records=STEPS,
            record_every=record_every,
            eval_batches=1,
            evaluated=evaluated,
        )

    return jax.vmap(one)(rates)


def on_grid(subject: Contender, record_every: int) -> Any:
    """Its grid, trained."""
    make, evaluated = subject.make, subject.evaluated
    return trainings(make, evaluated, subject.candidates, jnp.int32(record_every))


def test_all_rates_at_once_are_each_alone(subject):
    """And in the inner loop what they are outside of it, as long as they are finite.

    Losses to 1e-4, or to 1e-6 of the first.
    """
    together = on_grid(subject, 1).train_loss
    for rate, losses in zip(subject.candidates, together, strict=True):
        _, alone = follow(subject.make, rate)
        finite = np.isfinite(alone)
        np.testing.assert_array_equal(np.isfinite(losses), finite)
        np.testing.assert_allclose(
            losses[finite], np.array(alone)[finite], rtol=1e-4, atol=1e-6 * alone[0]
        )


def test_it_learns_at_some_rate_of_its_grid(subject):
    """By an order of magnitude in 60 steps; a grid has several rates."""
    assert len(subject.labels) >= 4
    curve = on_grid(subject, 60 // STEPS)
    assert jnp.nanmin(curve.final.train_loss) < 0.1 * loss(PARAMS)


# In the company of optax


@functools.partial(jax.jit, static_argnames=("make", "parts"))
def in_wrappers(make, rate, num_steps, parts):
    """First updates of the optimizer alone and in wrappers: one program."""
    tx = bound(make, rate, num_steps)
    params = jax.tree.map(jnp.asarray, PARAMS)
    grads = jax.grad(loss)(params)
    given = extra_args(params, grads)

    def first(tx, grads, params=params):
        return tx.update(grads, tx.init(params), params, **given)

    def two(tx, *grads):
        one, state = first(tx, grads[0])
        return one, tx.update(grads[1], state, params, **given)[0]

    half = jax.tree.map(lambda g: 0.5 * g, grads)
    clip = optax.clip_by_global_norm(optax.tree.norm(half))
    everything = dict.fromkeys(SHAPES, "own")
    bad = grads | {"scalar": jnp.float32(jnp.nan)}
    found = {
        "alone": first(tx, grads)[0],
        "alone on half": first(tx, half)[0],
        "chain": first(optax.chain(clip, tx), grads)[0],
        "MultiSteps": two(optax.MultiSteps(tx, 2), grads, grads),
        "masked": first(optax.masked(tx, dict.fromkeys(SHAPES, True)), grads)[0],
        "partition": first(optax.partition({"own": tx}, everything), grads)[0],
        "apply_if_finite": two(optax.apply_if_finite(tx, 2), bad, grads),
    }
    if parts:
        own = lambda tree: {k: tree[k] for k in PART}
        found |= {
            "alone on parts": first(tx, own(grads), own(params))[0],
            "masked parts": first(by_mask(tx), grads)[0],
            "partition of parts": first(by_label(tx), grads)[0],
        }
    return found


def by_mask(tx: Any) -> Any:
    """It on a part of the parameters."""
    return optax.masked(tx, {k: k in PART for k in SHAPES})


def by_label(tx: Any) -> Any:
    """The same, the others by SGD."""
    labels = {k: "own" if k in PART else "sgd" for k in SHAPES}
    return optax.partition({"own": tx, "sgd": optax.sgd(0.1)}, labels)


@pytest.fixture(scope="module")
def updates(subject) -> Any:
    return in_wrappers(
        subject.make, middle(subject), jnp.int32(STEPS), subject.name not in NEEDS
    )


def test_chain_with_clipping(updates):
    assert_trees_close(updates["chain"], updates["alone on half"])


def test_multi_steps_of_the_same_gradient_is_one_step(updates):
    none, one = updates["MultiSteps"]
    assert_trees_equal(none, jax.tree.map(jnp.zeros_like, none))
    assert_trees_close(one, updates["alone"])


@pytest.mark.parametrize("wrapper", ["masked", "partition"])
def test_all_parameters_in_a_wrapper_for_parts(updates, wrapper):
    assert_trees_close(updates[wrapper], updates["alone"])


def once(wrap: Any, make: Any) -> Any:
    """The first update in a wrapper."""
    tx = wrap(bound(make, jnp.float32(0.1), jnp.int32(STEPS)))
    grads = jax.grad(loss)(PARAMS)
    return tx.update(grads, tx.init(PARAMS), PARAMS, **extra_args(PARAMS, grads))[0]


def test_parts_of_the_parameters(subject, updates):
    if subject.name in NEEDS:
        for wrap in (by_mask, by_label):
            with pytest.raises((AttributeError, ValueError), match="MaskedNode"):
                jax.eval_shape(functools.partial(once, wrap, subject.make))
    else:
        want, grads = updates["alone on parts"], jax.grad(loss)(PARAMS)
        for wrapper, factor in (("masked parts", 1.0), ("partition of parts", -0.1)):
            others = {k: factor * grads[k] for k in SHAPES if k not in PART}
            assert_trees_close(updates[wrapper], want | others)


def test_apply_if_finite_skips_a_bad_gradient(updates):
    skipped, good = updates["apply_if_finite"]
    assert_trees_equal(skipped, jax.tree.map(jnp.zeros_like, skipped))
    assert_trees_close(good, updates["alone"])
