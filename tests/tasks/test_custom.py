import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasks
from meta_train.unroll import draw, start, unroll
from tests.helpers import assert_no_recompile
from tests.meta_train.problems import LossScaled


X = np.linspace(-1.0, 1.0, 80, dtype=np.float32)[:, None]
Y = (X[:, 0] > 0).astype(np.int32)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.tanh(nn.Dense(4)(x)))


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=False)(nn.Dense(4)(x)))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(2)(x))


@pytest.fixture(scope="module")
def family():
    return tasks.from_flax(
        Net(), (X, Y), loss="cross_entropy", batch_size=8, init_scale=(0.5, 2.0)
    )


def test_splits_are_disjoint_and_complete(family):
    parts = [np.asarray(family.arrays[s][0]).ravel() for s in tasks.SPLITS]
    assert [len(part) for part in parts] == [56, 8, 8, 8]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), X.ravel())


def test_inputs_keep_their_targets(family):
    task = family.task(family.nominal())
    for split in tasks.SPLITS:
        x, y = task.batch(jax.random.key(0), split)
        np.testing.assert_array_equal(y, x[:, 0] > 0)


def test_the_loss_at_initialisation_is_one(family):
    task = family.task(family.nominal())
    losses = [
        task.loss(task.init(key), key, task.batch(key, "train"))[0]
        for key in jax.random.split(jax.random.key(1), 16)
    ]
    assert float(task.normalise(jnp.stack(losses).mean())) == pytest.approx(1, rel=0.2)


def test_it_is_meta_trained_on_without_a_new_program(family):
    lopt, key = LossScaled(), jax.random.key(0)
    theta = lopt.init_theta(key)

    @jax.jit
    def run(family, key):
        problem = draw(family, key)
        state = start(lopt, theta, problem, jnp.int32(4), jnp.int32(0))
        return unroll(family, lopt, theta, state, 4)[1]

    losses = run(family, key)
    assert jnp.isfinite(losses).all()
    other = jax.random.key(1)
    with assert_no_recompile():
        run(family, other)


def test_from_functions_without_a_key():
    """Least squares by hand: the loss at w = 1 of targets 3 x is 4 times x squared."""
    family = tasks.from_functions(
        lambda key: {"w": jnp.ones(())},
        lambda params, batch: jnp.mean(
            (params["w"] * batch["x"] - 3.0 * batch["x"]) ** 2
        ),
        {"x": np.full(20, 2.0, np.float32)},
        batch_size=4,
    )
    assert float(family.start) == pytest.approx(16.0)
    task = family.task(family.nominal())
    batch = task.batch(jax.random.key(0), "train")
    loss, aux = task.loss({"w": jnp.float32(3.0)}, jax.random.key(0), batch)
    assert (float(loss), aux) == (0.0, {})


@pytest.mark.parametrize(
    "loss",
    [
        lambda params, batch, power=2: jnp.mean(batch**power),
        lambda params, batch, *, power=2: jnp.mean(batch**power),
        lambda params, key, batch, power=2: jnp.mean(batch**power),
    ],
)
def test_arguments_with_a_default_are_not_given(loss):
    ones = np.full((20,), 2.0, np.float32)
    family = tasks.from_functions(lambda key: {}, loss, ones, batch_size=4)
    assert float(family.start) == pytest.approx(4.0)


def test_a_module_may_drop_out():
    family = tasks.from_flax(Dropped(), (X, Y), loss="cross_entropy", batch_size=8)
    task = family.task(family.nominal())
    params, batch = task.init(jax.random.key(0)), task.batch(jax.random.key(1), "train")
    one, two = (task.loss(params, jax.random.key(i), batch)[0] for i in (2, 3))
    assert float(one) != float(two)


def test_a_loss_of_ones_own():
    family = tasks.from_flax(
        Net(), (X, Y), loss=lambda outputs, labels: jnp.mean(outputs**2), batch_size=8
    )
    assert float(family.start) > 0


REFUSED = {
    "lengths": (lambda: (Net(), (X, Y[:-1])), {}, "arrays must have the same number"),
    "empty": (lambda: (Net(), (X[:5], Y[:5])), {}, "every split must have examples"),
    "state": (lambda: (Normed(), (X, Y)), {}, "must have parameters as its only"),
    "loss": (lambda: (Net(), (X, Y)), {"loss": "hinge"}, "loss must be one of"),
    "shape": (
        lambda: (Net(), (X, Y)),
        {"loss": "squared"},
        "outputs and targets must have one shape",
    ),
    "column": (
        lambda: (Net(), (X, Y[:, None])),
        {},
        "labels must be integers",
    ),
    "fractions": (
        lambda: (Net(), (X, 0.5 * Y)),
        {},
        "labels must be integers",
    ),
    "classes": (lambda: (Net(), (X, Y + 1)), {}, "labels must be 0 to 1"),
    "vector": (
        lambda: (Net(), (X, Y)),
        {"loss": lambda outputs, labels: outputs[:, 0]},
        "loss must be a scalar",
    ),
    "negative": (
        lambda: (Net(), (X, Y)),
        {"loss": lambda outputs, labels: -jnp.ones(())},
        "the loss at initialisation must be finite and above 0",
    ),
    "batch": (lambda: (Net(), (X, Y)), {"batch_size": 0}, "batch_size must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(case):
    make, settings, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^.*{message}.*, got .+$") as error:
        tasks.from_flax(*make(), **{"loss": "cross_entropy", **settings})
    assert "\n" not in str(error.value)
