"""Guards in an evaluation, and the promise that they are for."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2o
from l2o.learned import RelativeMLP
from meta_test import guards, results as kept
from meta_test.evaluate import Protocol, evaluate
from meta_test.optimizers import Contender, FromTheta, Scheduled, learned
from meta_test.report import as_json, write
from meta_test.results import Results
from meta_test.suites import Cell
from meta_test.sweep import run_grid
from meta_test.table import plain_text
from meta_test.variants import FALLBACK, Guarded, fallback, guarded
from tests.helpers import nightly
from tests.meta_test.problems import line_suite, sgd


@pytest.fixture(scope="module")
def protocol():
    return Protocol(guards=True)


@pytest.fixture(scope="module")
def report(protocol):
    mine = protocol.with_variants(
        [sgd("good", 0.5, learned=True), sgd("bad", -0.1, learned=True)]
    )
    contenders = [*mine, *protocol.baselines(())]
    return evaluate(contenders, line_suite(horizon=100), protocol=protocol)


def test_who_takes_part(report):
    assert [(c.name, c.variant_of, c.learned) for c in report.contenders] == [
        ("good", "", True),
        ("good guarded", "good", True),
        ("bad", "", True),
        ("bad guarded", "bad", True),
        (FALLBACK, "", False),
    ]
    assert Protocol().baselines(()) == ()


def test_what_is_told(report):
    """The race is one of 1, 1 and 2 steps: of so few, only who climbs is out early."""
    good, bad = guards.guardings(report)
    assert (good.cell, good.contender) == ("line", "good guarded")
    assert [tuple(events[0]) for events in good.decisions] == [(13, "won")] * 5
    assert bad.excess is not None
    assert good.excess is not None
    assert [[tuple(e) for e in events] for events in bad.decisions] == [
        [(3, "lost")]
    ] * 5
    assert (good.excess < -0.5).all()
    assert (bad.excess < 0.05).all()
    assert (bad.skipped == 0).all()


def test_the_report_has_it(report, tmp_path):
    paths = write(report, tmp_path)
    tree = json.loads(paths.json.read_text())
    assert tree == as_json(report)
    assert [one["contender"] for one in tree["guards"]] == [
        "good guarded",
        "bad guarded",
    ]
    assert tree["guards"][1]["decisions"][0] == [{"step": 3, "reason": "lost"}]
    assert "excess" in tree["conventions"]["guards"]
    text = paths.text.read_text()
    assert "3 lost; 3 lost; 3 lost; 3 lost; 3 lost" in text
    bare = evaluate([sgd("good", 0.5, learned=True)], line_suite())
    assert guards.text(bare) == ""
    assert "guards" not in as_json(bare)
    assert FALLBACK not in plain_text(bare)


def test_no_scale_where_the_fallback_ends_above_its_start(report):
    """And none at all where it takes no part."""
    [row] = [r for r in report.rows if r.contender == FALLBACK]
    others = tuple(r for r in report.rows if r is not row)
    curve = row.fitted.curve
    ends = np.array(curve.evaluations.train_loss)
    ends[0, -1] = 2 * curve.initial.train_loss[0]
    evaluations = curve.evaluations._replace(train_loss=ends)
    chosen = dataclasses.replace(
        row.fitted, curve=curve._replace(evaluations=evaluations)
    )
    changed = dataclasses.replace(row, fitted=chosen)
    _, bad = guards.guardings(dataclasses.replace(report, rows=(*others, changed)))
    assert bad.excess is not None
    assert np.isnan(bad.excess).tolist() == [True] + [False] * 4
    without = dataclasses.replace(report, rows=others)
    assert guards.guardings(without)[0].excess is None
    assert "good guarded  -" in guards.text(without)


def test_decisions_are_kept_with_the_trainings(protocol, tmp_path, monkeypatch):
    contenders = protocol.with_variants([sgd("bad", -0.1, learned=True)])
    said = []
    judge = lambda: evaluate(
        contenders, line_suite(horizon=100), results=Results(tmp_path, said.append)
    )
    first = guards.guardings(judge())
    monkeypatch.setattr(kept.Results, "keep", lambda *args: pytest.fail("trained"))
    again = guards.guardings(judge())
    assert [one.decisions for one in again] == [one.decisions for one in first]
    assert said == []


# What it is for


STEPS = 1_000
SEEDS = (0, 1, 2)
FAULTS = (
    "good",
    "stands still",
    "ascends",
    "far too large",
    "far too small",
    "not a number from a third on",
    "explodes from a third on",
    "stuck from a third on",
    "ascends from a third on",
)


def cell(name, **task):
    return Cell(name, "", task, horizon=STEPS, seeds=SEEDS)


CELLS = {
    "perceptron": cell("perceptron", family="image_mlp", data="digits", hidden=(8,)),
    "quadratic": cell("quadratic", family="quadratic", dim=8, spectrum=(1e-2, 1.0)),
    "conv": cell(
        "conv", family="image_conv", data="mnist@8", channels=(8, 8), batch_size=16
    ),
}


@dataclasses.dataclass(frozen=True)
class Faulty:
    """Adam at 0.01 with the fault of this number, all in one program."""

    def __call__(self, fault, num_steps):
        inner = Scheduled(optax.adam)(jnp.float32(0.01), num_steps)
        third = (num_steps // 3).astype(jnp.int32)

        def init(params):
            return inner.init(params), jnp.zeros((), jnp.int32)

        def update(updates, state, params=None, **extra_args):
            del extra_args
            own, count = state
            steps, own = inner.update(updates, own, params)
            since = jnp.maximum(count - third, 0).astype(jnp.float32)
            late = jnp.stack([jnp.nan, -(1.3 ** jnp.minimum(since, 200.0)), 0.0, -0.3])
            late = jnp.where(count < third, 1.0, late)
            always = jnp.array([1.0, 0.0, -1.0, 1e3, 1e-3])
            factor = jnp.concatenate([always, late])[fault]
            steps = jax.tree.map(lambda u: u * factor, steps)
            return steps, (own, count + 1)

        return optax.GradientTransformationExtraArgs(init, update)


def final_losses(name, contender):
    """Initial and final train losses `[candidates, seeds]`."""
    family = CELLS[name].family()
    curve = run_grid(
        family,
        CELLS[name].specs(family),
        contender.make,
        contender.candidates,
        SEEDS,
        num_records=10,
        record_every=STEPS // 10,
        eval_batches=4,
        summarised=contender.summarised,
    )
    return curve.initial.train_loss, curve.final.train_loss, curve.summary


def excess(name, contender):
    """Medians over the seeds, of every candidate, and the decisions."""
    initial, alone, _ = final_losses(name, fallback())
    _, losses, summary = final_losses(name, contender)
    return np.median((losses - alone) / (initial - alone), axis=1), summary


@pytest.mark.slow
@pytest.mark.parametrize("name", nightly(CELLS, but=["quadratic"]))
def test_whatever_is_guarded_ends_within_5_percent_of_the_fallback(name):
    candidates = jnp.arange(len(FAULTS))
    faulty = guarded(Contender("faulty", Faulty(), candidates, FAULTS, learned=True))
    found, summary = excess(name, faulty)
    assert dict(zip(FAULTS, found > 0.05, strict=True)) == dict.fromkeys(FAULTS, False)
    assert found[0] < 0.0  # What helps, does.
    assert (summary["switches"][1:] == 1).all()


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("name", ["perceptron", "quadratic"])
def test_so_do_thetas_of_noise(name):
    lopt, rng = RelativeMLP(), np.random.default_rng(0)
    thetas = jax.tree.map(
        lambda x: np.asarray(x) + rng.normal(size=(3, *x.shape)).astype(np.float32),
        lopt.init_theta(jax.random.key(0)),
    )
    noise = Contender("noise", FromTheta(lopt), thetas, ("0", "1", "2"), learned=True)
    found, _ = excess(name, guarded(noise))
    assert (found <= 0.05).all()


@pytest.mark.nightly
@pytest.mark.slow
def test_a_released_optimizer_that_helps_is_kept():
    """Final losses within 2 % of the way from the initial one to its own."""
    mine = learned("digits-mlp", *l2o.load("digits-mlp"))
    initial, bare, _ = final_losses("perceptron", mine)
    _, losses, summary = final_losses("perceptron", guarded(mine))
    assert isinstance(guarded(mine).make, Guarded)
    assert (summary["switches"] == 0).all()
    assert (losses - bare <= 0.02 * (initial - bare)).all()
