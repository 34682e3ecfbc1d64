"""From names and numbers of a config to the objects of a run."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec as P

import l2o
from l2o.config import build
from l2o.learned import LSTM, MuonLSTM, MuonMLP, SmallFC
from l2o.learned.base import tensors_by_path
from meta_test.suites import suite_named
from meta_train.build import (
    block_mesh,
    build_families,
    build_method,
    build_outer_optimizer,
    build_trainer,
    placed,
    warm_start,
)
from meta_train.config import EstimatorConfig, OuterConfig, TrainConfig
from meta_train.estimators.backpropagation import Backpropagation
from meta_train.estimators.credit import Fresh, Persistent, Reused
from meta_train.estimators.evolution import EvolutionStrategies
from meta_train.estimators.mixture import Mixture
from meta_train.estimators.span import Truncated, Whole
from meta_train.outer import Given
from meta_train.perturb import Gaussian
from tests.helpers import assert_no_recompile
from tests.meta_train.problems import Influence, Jump, Polynomial


# Where arrays live


def test_arrays_are_placed_without_a_program_for_every_shape():
    everywhere = NamedSharding(block_mesh(EstimatorConfig(pairs=4, block=2)), P())
    given = [*(np.full(n, 0.5, np.float32) for n in (3, 17, 29)), np.int32(2), 2.5]
    with assert_no_recompile():
        found = placed(given, [everywhere] * len(given))
    jax.tree.map(np.testing.assert_array_equal, found, given)
    assert [str(leaf.dtype) for leaf in found] == ["float32"] * 3 + ["int32", "float32"]


# The outer optimizer


GRADIENTS = np.array([[0.5, -1.0], [2.0, 0.1], [-0.3, 0.4]], np.float32)


def moved(tx, start=(1.0, -2.0)):
    """Thetas under `GRADIENTS`."""
    theta = jnp.array(start)
    state, thetas = tx.init(theta), []
    for gradient in GRADIENTS:
        updates, state = tx.update(jnp.array(gradient), state, theta)
        theta = optax.apply_updates(theta, updates)
        thetas.append(np.asarray(theta))
    return np.array(thetas)


@pytest.mark.parametrize(
    ("table", "want"),
    [
        ({"name": "sgd", "momentum": 0.5}, optax.sgd(0.1, momentum=0.5)),
        (
            {"name": "adamw", "b1": 0.5, "weight_decay": 0.2},
            optax.adamw(0.1, b1=0.5, weight_decay=0.2),
        ),
        ({"name": "contrib.muon", "beta": 0.5}, optax.contrib.muon(0.1, beta=0.5)),
    ],
)
def test_any_optax_transformation_moves_theta(table, want):
    config = OuterConfig(steps=10, steps_per_dispatch=10, learning_rate=0.1, clip=0.0)
    got = moved(build_outer_optimizer(config, table))
    np.testing.assert_allclose(got, moved(want), rtol=1e-6)
    # Under decay the gradient is not all that counts.
    assert len(np.unique(np.round(np.diff(got, axis=0), 6))) > 2


def test_learning_rate_is_warmed_up_and_falls_along_half_a_cosine():
    config = OuterConfig(
        steps=8,
        steps_per_dispatch=8,
        learning_rate=2.0,
        warmup=2,
        final_fraction=0.25,
        clip=0.0,
    )
    tx = build_outer_optimizer(config, {"name": "sgd"})
    theta = jnp.zeros(1)
    state, rates = tx.init(theta), []
    for _ in range(9):
        updates, state = tx.update(jnp.ones(1), state, theta)
        rates.append(-np.asarray(updates)[0])
    cosine = 0.5 * (1 + np.cos(np.pi * np.arange(7) / 6))
    want = [0.0, 1.0, *(0.5 + 1.5 * cosine)]
    np.testing.assert_allclose(rates, want, atol=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "adamm"}, r"outer_optimizer\.name must be a .*, got 'adamm' \(did "),
        ({}, r"outer_optimizer\.name must be a function of optax .*, got ''"),
        # Not an optimizer, though it is in optax.
        ({"name": "clip"}, r"outer_optimizer\.name must be a .*, got 'clip'"),
        (
            {"name": "adam", "b3": 0.5},
            r"outer_optimizer\.b3 must be an argument of optax\.adam, one of b1, b2, ",
        ),
        ({"name": "sgd", "learning_rate": 1.0}, r"outer_optimizer\.learning_rate must"),
        (
            {"name": "contrib.dpsgd"},
            r"outer_optimizer\.name must be one .* optax\.contrib\.dpsgd .* missing 3 ",
        ),
        # It asks for the loss at every step.
        ({"name": "lbfgs"}, r"outer_optimizer\.name must be one .* optax\.lbfgs does"),
        ({"name": "rprop"}, r"outer_optimizer\.name must be one .* optax\.rprop does"),
    ],
)
def test_a_wrong_outer_optimizer_is_refused_in_one_line(table, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        build_outer_optimizer(OuterConfig(), table)
    assert "\n" not in str(caught.value)


# The estimator


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, EvolutionStrategies(Persistent(), Gaussian(0.01))),
        ({"credit": "fresh"}, EvolutionStrategies(Fresh(), Gaussian(0.01))),
        (
            {"credit": "reused", "difference": "sign"},
            EvolutionStrategies(Reused(), Gaussian(0.01), difference="sign"),
        ),
        ({"method": "backpropagation"}, Backpropagation()),
        (
            {"method": "mixture", "sigma": 0.1, "sigma_of": {"a": 0.2}},
            Mixture(Gaussian(0.1, (("a", 0.2),))),
        ),
    ],
)
def test_methods_are_what_the_config_says(fields, want):
    assert build_method(EstimatorConfig(**fields)) == want


def test_tensors_that_are_frozen_are_not_perturbed():
    """Whatever deviation they were given."""
    config = EstimatorConfig(sigma=0.5, sigma_of={"*": 0.25})
    method = build_method(config, freeze=("first",))
    assert isinstance(method, EvolutionStrategies)
    np.testing.assert_array_equal(method.noise.deviations(Jump()), [0.0, 0.25])


BASE: dict[str, Any] = {
    "name": "given",
    "optimizer": {"arch": "learnable_sgd"},
    "task": {"family": "quadratic", "dim": 2},
    "schedule": {"kind": "constant", "horizon": 10},
    "estimator": {"window": 5},
}


def built(*family, **tables) -> Any:
    """A trainer, of a config with fields of these tables replaced."""
    mapping = dict(BASE)
    for name, value in tables.items():
        mapping[name] = value if name == "task" else mapping.get(name, {}) | value
    return build_trainer(build(TrainConfig, mapping), *family)


TWO = [
    {"family": "quadratic", "dim": 2, "weight": 3},
    {"family": "nonconvex", "dim": 2, "name": "valley"},
    {"family": "quadratic", "dim": 4},
]


def test_families_of_a_list_have_names_and_weights():
    members = build_families(TWO)
    assert list(members) == ["quadratic", "valley", "quadratic-2"]
    assert [member.weight for member in members.values()] == [3.0, 1.0, 1.0]
    trainer = built(task=TWO, outer={"families_per_step": 2})
    assert trainer.mix.names == tuple(members)
    assert trainer.mix.weights == (3.0, 1.0, 1.0)
    assert trainer.mix.per_step == 2
    shapes = [
        jax.eval_shape(e.family.task(e.family.nominal()).init, jax.random.key(0))
        for e in trainer.estimators
    ]
    assert shapes[0] != shapes[2]


def test_all_families_take_part_unless_told_otherwise():
    assert built(task=TWO).mix.takes_all
    assert built().mix.names == ("quadratic",)


def test_a_suite_gives_the_families_of_its_cells():
    name = "train-small"
    members = build_families({"suite": name})
    assert list(members) == [cell.name for cell in suite_named(name, where="").cells]


def test_families_of_a_suite_have_weights_by_patterns():
    members = build_families(
        {"suite": "train-small", "weights": {"*": 1.5, "*8*": 3, "conv*": 0.5}}
    )
    assert {name: member.weight for name, member in members.items()} == {
        "mlp 32": 1.5,
        "conv 8-16": 0.5,
        "gru 16": 1.5,
        "autoencoder 32-8-32": 3.0,
        "softmax regression": 1.5,
        "quadratic 32": 1.5,
        "nonconvex 8": 3.0,
    }


def test_families_of_the_callers_own():
    trainer = built(Polynomial())
    assert trainer.mix.names == ("Polynomial",)
    both = built({"one": Polynomial(), "two": Influence()})
    assert both.mix.names == ("one", "two")
    assert isinstance(both.estimators[1].family, Influence)


def test_parts_are_what_the_config_says():
    trainer = built(
        estimator={"span": "problem", "window": 2, "pairs": 12, "block": 3},
        meta_loss={"reduce": "last", "cap": 5.0},
        outer={"balance": 0.5},
    )
    (estimator,) = trainer.estimators
    assert estimator.span == Whole(2)
    assert (estimator.units, estimator.block) == (12, 3)
    assert (estimator.meta_loss.reduce, estimator.meta_loss.cap) == ("last", 5.0)
    assert trainer.mix.balance == 0.5
    assert built().estimators[0].span == Truncated(5)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"outer": {"families_per_step": 2}},
            "outer.families_per_step must be at most the 1 families of task, got 2",
        ),
        ({"task": []}, "task must have at least one family, got none"),
        (
            {"task": [{"family": "quadratic", "weight": 0}]},
            "task[0].weight must be a finite number above 0, got 0",
        ),
        ({"task": {"suite": "train-smal"}}, "task.suite must be one of"),
        (
            {"task": {"suite": "train-small", "dim": 3}},
            "task must have a suite or a family, got a suite and dim",
        ),
        (
            {"task": {"suite": "train-small", "weights": {"mlpp*": 1}}},
            "task.weights must match families of the suite",
        ),
        (
            {"task": {"suite": "train-small", "weights": {"mlp*": 0}}},
            "task.weights.'mlp*' must be",
        ),
        (
            {"task": {"suite": "train-small", "weights": 2}},
            "task.weights must be a table, got 2",
        ),
        (
            {"estimator": {"sigma_of": {"log_rat": 0.1}}},
            "estimator.sigma_of: a pattern must match a tensor of theta, one of ",
        ),
        (
            {"outer": {"freeze": ["none/*"]}},
            "outer.freeze: a pattern must match a tensor of theta, one of ",
        ),
        (
            {"estimator": {"window": 3}},
            "estimator.window must divide the schedule's horizons, got window 3 and ",
        ),
        (
            {"meta_loss": {"reduce": "median"}},
            "meta_loss: reduce must be one of",
        ),
        ({"meta_loss": {"scale": "root"}}, "meta_loss: scale must be one of"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_line(tables, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        built(**tables)
    assert "\n" not in str(caught.value)


# The first theta


def begun_with(source, lopt, **tables):
    """What a run takes from a checkpoint."""
    fields = {"name": "begun", "optimizer": {}, "task": {}, "schedule": {}}
    many = isinstance(source, tuple)
    begun = tuple(map(str, source)) if many else str(source)
    return warm_start(TrainConfig(**fields, warm_start=begun, **tables), lopt)


def test_a_warm_start_takes_theta_as_it_is(tmp_path):
    lopt = LSTM(hidden_size=2, num_layers=1)
    theta = lopt.init_theta(jax.random.key(3))
    l2o.save(tmp_path / "saved", lopt, theta)
    got = begun_with(tmp_path / "saved", lopt)
    assert {given.share for given in got.values()} == {1.0}
    got = {path: given.tensor for path, given in got.items()}
    jax.tree.map(np.testing.assert_array_equal, got, tensors_by_path(theta))
    for other in (LSTM(hidden_size=3, num_layers=1), SmallFC(hidden_size=2)):
        message = rf"^warm_start must have the tensors of {type(other).__name__}, "
        with pytest.raises(ValueError, match=message) as caught:
            begun_with(tmp_path / "saved", other)
        assert "\n" not in str(caught.value)
    assert begun_with("", lopt) == {}


def test_a_warm_start_may_take_some_tensors_of_another_architecture(tmp_path):
    source, lopt = MuonMLP(), MuonLSTM()
    saved = tmp_path / "saved"
    theta = jax.tree.map(lambda x: x + 1.0, source.init_theta(jax.random.key(3)))
    l2o.save(saved, source, theta)
    got = begun_with(saved, lopt, warm_start_tensors=("matrix/*", "vector/*"))
    assert sorted(got) == [
        *("matrix/constants", "matrix/rate", "vector/constants", "vector/rate")
    ]
    np.testing.assert_array_equal(got["matrix/rate"].tensor, theta["matrix"]["rate"])
    message = r"^warm_start must have the tensors of MuonLSTM, lstm/cell/b of "
    with pytest.raises(ValueError, match=message):
        begun_with(saved, lopt, warm_start_tensors=("lstm/*",))
    with pytest.raises(ValueError, match=r"^warm_start_tensors: .* got 'mlp/\*'"):
        begun_with(saved, lopt, warm_start_tensors=("mlp/*",))


def test_a_warm_start_may_be_a_part_of_the_way(tmp_path):
    """By hand: a quarter of what is saved, three quarters of what is drawn."""
    lopt = LSTM(hidden_size=2, num_layers=1)
    key = jax.random.key(0)
    trainer = dataclasses.replace(built(), lopt=lopt, estimators=())
    drawn, _ = ravel_pytree(lopt.init_theta(jax.random.split(key, 3)[0]))
    theta = lopt.init_theta(jax.random.key(3))
    saved, _ = ravel_pytree(theta)
    l2o.save(tmp_path / "saved", lopt, theta)
    for shares, expected in (
        ({"*": 0.25}, 0.25 * saved + 0.75 * drawn),
        ({"*": 0.0}, drawn),
        ({}, saved),
    ):
        given = begun_with(tmp_path / "saved", lopt, warm_start_shares=shares)
        found = trainer.init(key, given).theta
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_a_warm_start_may_be_the_mean_of_several(tmp_path):
    lopt = LSTM(hidden_size=2, num_layers=1)
    thetas = [lopt.init_theta(jax.random.key(seed)) for seed in range(3)]
    sources = tuple(tmp_path / str(seed) for seed in range(3))
    for source, theta in zip(sources, thetas, strict=True):
        l2o.save(source, lopt, theta)
    for pattern in ((), ("cells/*",)):
        got = begun_with(sources, lopt, warm_start_tensors=pattern)
        for path, given in got.items():
            tensors = [tensors_by_path(theta)[path] for theta in thetas]
            want = np.mean([np.float64(x) for x in tensors], axis=0)
            np.testing.assert_allclose(given.tensor, want, rtol=1e-6, atol=1e-8)
    assert len(got) < len(begun_with(sources[:1], lopt))
    message = r"^warm_start must have the tensors of LSTM, .* \(SmallFC\) is "
    l2o.save(tmp_path / "other", SmallFC(), SmallFC().init_theta(jax.random.key(0)))
    with pytest.raises(ValueError, match=message):
        begun_with((sources[0], tmp_path / "other"), lopt)


def test_the_last_of_the_shares_that_match_a_tensor_counts(tmp_path):
    lopt = MuonMLP()
    l2o.save(tmp_path / "saved", lopt, lopt.init_theta(jax.random.key(3)))
    given = begun_with(
        tmp_path / "saved",
        lopt,
        warm_start_tensors=("matrix/*", "vector/*"),
        warm_start_shares={"*/rate": 0.25, "vector/*": 0.5},
    )
    assert {path: tensor.share for path, tensor in given.items()} == {
        "matrix/constants": 1.0,
        "matrix/rate": 0.25,
        "vector/constants": 0.5,
        "vector/rate": 0.5,
    }
    with pytest.raises(ValueError, match=r"^warm_start_shares: a .* got 'mlp/\*'"):
        begun_with(
            tmp_path / "saved",
            lopt,
            warm_start_tensors=("matrix/*",),
            warm_start_shares={"mlp/*": 0.5},
        )


@pytest.mark.parametrize(
    ("source", "shares", "message"),
    [
        ("", {"*": 0.5}, "warm_start_shares must be left out without a warm_start"),
        ("lopt-base", {"*": 1.5}, "warm_start_shares.'*' must be"),
    ],
)
def test_wrong_shares_of_a_warm_start(source, shares, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        begun_with(source, MuonMLP(), warm_start_shares=shares)


def test_a_trainer_begins_with_the_tensors_that_it_is_given():
    trainer = built()
    key = jax.random.key(0)
    drawn = tensors_by_path(trainer.result(trainer.init(key)))
    first, *others = drawn
    begun = trainer.init(key, {first: Given(drawn[first] + 1.0)})
    state = jax.eval_shape(trainer.init, key)
    assert jax.tree.structure(begun) == jax.tree.structure(state)
    got = tensors_by_path(trainer.result(begun))
    np.testing.assert_array_equal(got[first], drawn[first] + 1.0)
    for path in others:
        np.testing.assert_array_equal(got[path], drawn[path])
