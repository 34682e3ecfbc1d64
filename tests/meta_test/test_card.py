"""Report cards on a parabola, where every wish can be worked out by hand."""

import dataclasses
import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.learned import LearnableSGD
from meta_test import card_trainings, program, wishes
from meta_test.card import CONVENTION, as_json, as_text, cards
from meta_test.card_figure import draw
from meta_test.card_trainings import train
from meta_test.evaluate import PROTOCOL, Progress, Protocol, evaluate
from meta_test.figure import strokes
from meta_test.inner_loop import Curve, Evaluation
from meta_test.optimizers import baseline, learned
from meta_test.report import as_json as report_as_json, print_report, write
from meta_test.results import Results
from meta_test.suites import Cell, Suite
from meta_test.suites.card import CARD
from meta_test.variants import FALLBACK
from meta_test.way import Way
from tasks.base import Batch, Params, Split, Task, TaskFamily
from tests.helpers import count_compiles
from tests.meta_test.problems import sgd


pytestmark = pytest.mark.usefixtures("quick_compilation")

CURVATURE = 1.0
STEPS = 20


class Network(NamedTuple):
    init_scale: jax.Array


class BowlSpec(NamedTuple):
    network: Network


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bowl(TaskFamily):
    """Half of x squared, from twice the initial scale, whatever the seed."""

    curvature: jax.Array

    def sample(self, key: jax.Array) -> BowlSpec:
        del key
        return self.nominal()

    def nominal(self) -> BowlSpec:
        return BowlSpec(Network(jnp.float32(1.0)))

    def task(self, spec: BowlSpec) -> Task:
        def init(key: jax.Array) -> Params:
            del key
            return {"x": 2.0 * spec.network.init_scale}

        def batch(key: jax.Array, split: Split) -> Batch:
            del key, split
            return ()

        def loss(params: Params, key: jax.Array, batch: Batch):
            del key, batch
            # In the precision of the parameters.
            half = (0.5 * self.curvature).astype(params["x"].dtype)
            return half * params["x"] ** 2, {}

        return Task(init=init, batch=batch, loss=loss, normalise=lambda loss: loss)


SUITE = Suite(
    name="bowl",
    version=1,
    about="",
    cells=(Cell("bowl", "", Bowl(jnp.float32(CURVATURE)), STEPS, seeds=(0, 1)),),
    num_records=10,
    eval_batches=1,
)


def constant(*rates):
    return baseline("sgd+constant", rates)


def learnable():
    lopt = LearnableSGD()
    return learned("learnable", lopt, lopt.init_theta(jax.random.key(0)))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results(tmp_path_factory.mktemp("results"), print)


@pytest.fixture(scope="module")
def report(results):
    """One that lands on the minimum, one that explodes, one without settings, Adam."""
    contenders = [
        learnable(),
        constant(0.01, 0.5),
        sgd("exploding", 1e20),
        baseline("adam"),
    ]
    return evaluate(contenders, SUITE, results=results)


@pytest.fixture(scope="module")
def progress():
    return []


@pytest.fixture(scope="module")
def made(report, results, progress):
    return cards(report, suite=SUITE, results=results, on_progress=progress.append)


@pytest.fixture(scope="module")
def by_name(made):
    return {card.contender: {w.name: w for w in card.wishes} for card in made}


@pytest.fixture(scope="module")
def trained(results):
    """At a rate of 0.1 the loss becomes 0.9^40 = 0.0148 of what it was."""
    contender = constant(0.1)
    return train(contender, SUITE.cells[0], SUITE, PROTOCOL, results)


def measured(trained):
    """Where the way ends at the minimum."""
    return [wishes.Measured(trained, Way(initial=2.0, end=0.0))]


def test_from_which_weights_a_parabola_is_left(trained):
    wish = wishes.any_weights(measured(trained))
    # 0.0148 s^2 of the loss at s = 1 is left: at most a tenth where s is at most 2.6.
    assert wish.values == {
        f"x {scale:g}": float(scale < 2.6) for scale in card_trainings.SCALES
    }
    assert wish.score == pytest.approx(5 / 9)
    assert wish.shown == "56 %"
    assert "10 of 18 trainings" in wish.detail


def test_what_a_wrong_rate_loses(trained):
    wish = wishes.no_tuning(constant(0.1), measured(trained))
    left = {f: (1 - 0.1 * f) ** 40 for f in (0.1, 1 / 3, 1.0, 3.0, 10.0)}
    lost = {f: (x - left[1.0]) / (1 - left[1.0]) for f, x in left.items()}
    assert wish.values == pytest.approx(
        {
            "learning_rate x 0.1": lost[0.1],
            "learning_rate x 0.33": lost[1 / 3],
            # These are closer.
            "learning_rate x 3": 0.0,
            "learning_rate x 10": 0.0,
        },
        abs=1e-5,
    )
    assert wish.score == pytest.approx(1 - (lost[0.1] + lost[1 / 3]) / 4, abs=1e-5)


def test_a_rate_that_is_too_large_loses_everything(by_name):
    """A rate of 0.5 was chosen; 5 is above the limit of 2, and 1.5 comes as far."""
    wish = by_name["sgd+constant"]["no tuning"]
    assert wish.values["learning_rate x 10"] == 1.0
    assert wish.values["learning_rate x 3"] == pytest.approx(0.0, abs=1e-5)
    assert 0.7 < wish.score < 0.75
    assert "learning_rate 28 %" in wish.detail


def test_what_small_perturbations_change(trained):
    wish = wishes.robust(measured(trained))
    values: Any = wish.values
    # No data, and the same initial weights for every seed: these change nothing.
    assert set(wish.values) == {"gradient noise", "data order", "bfloat16"}
    assert values["data order"] == 0.0
    assert 0 < values["gradient noise"] < 0.02
    assert 0 < values["bfloat16"] < 0.02
    assert wish.score == pytest.approx(1 - max(values.values()))


def test_memory():
    names = ("sgd+constant", "momentum+constant", "adam+constant")
    found = [wishes.small(baseline(name)) for name in names]
    for wish, floats in zip(found, (0, 1, 2), strict=True):
        # And counters.
        values: Any = wish.values
        assert values["state"] == pytest.approx(floats, abs=2e-5)
        assert values["temporary"] < 0.01
        assert wish.score == pytest.approx(1 / (1 + floats / 2), abs=1e-2)
    assert [wish.shown for wish in found] == ["0.0 floats", "1.0 floats", "2.0 floats"]
    assert found[0].values["parameters"] == 4 * (256 * 256 + 256)


def test_wishes_of_the_report_itself(by_name, report):
    fast = by_name["sgd+constant"]
    assert fast["converges"].score == 1.0
    assert fast["fast"].values["steps"] > 1.5
    score = fast["fast"].values["steps"]
    assert fast["fast"].score == pytest.approx(score / (1 + score))
    assert by_name["adam"]["fast"].score == 0.5
    assert by_name["adam"]["fast"].shown == "1x"
    assert fast["generalises"].shown == "1/1"
    # Train and test data are the same, and the curvature is everywhere.
    assert fast["generalises"].values["gap"] == 0.0
    assert fast["generalises"].values["times_as_sharp"] == pytest.approx(1.0)


def test_what_diverges_is_the_worst(by_name):
    exploding = by_name["exploding"]
    assert exploding["converges"].score == exploding["any weights"].score == 0.0
    assert exploding["converges"].values["diverged"] == 2
    assert exploding["robust"].score == 0.0
    assert exploding["generalises"].score == 0.0
    assert exploding["generalises"].values["gap"] is None
    assert exploding["generalises"].values["times_as_sharp"] is None
    # It is made by a class of this test.
    assert exploding["no tuning"].score is None


def test_nothing_to_set_is_set_rightly(by_name):
    assert by_name["learnable"]["no tuning"].score == 1.0
    assert by_name["learnable"]["no tuning"].shown == "nothing to set"


def test_scores(made):
    for card in made:
        assert len(card.wishes) == 7
        for wish in card.wishes:
            assert wish.score is None or 0 <= wish.score <= 1


def test_what_is_lost_of_the_way():
    def curve(*losses):
        values = jnp.array(losses)
        return Curve(
            initial=Evaluation(*[jnp.full_like(values, 3.0)] * 6),
            train_loss=jnp.ones((len(values), 2)),
            evaluations=Evaluation(*[jnp.expand_dims(values, 1)] * 6),
            steps=jnp.ones(len(values), int),
        )

    way = Way(initial=3.0, end=1.0)
    plain, varied = curve(1.0, 0.0, 2.0, 1.0, np.inf), curve(2.0, 1.0, 1.0, np.nan, 1.0)
    np.testing.assert_allclose(way.left(plain), [0.0, -0.5, 0.5, 0.0, 1.0])
    np.testing.assert_allclose(
        way.lost(plain, varied), [0.5, 1 / 3, -1.0, 1.0, 1.0], rtol=1e-6
    )
    assert Way.of(plain) == (3.0, 1.0)


def test_one_program_for_tuning_and_all_variations():
    """And one in bfloat16, and one for the sharpness; whatever is traced."""
    cell = dataclasses.replace(SUITE.cells[0], seeds=(0, 1, 2))
    with count_compiles() as names:
        train(constant(0.2, 0.1), cell, SUITE, PROTOCOL, None)
    assert [name for name in names if "sweep" in name or "sharp" in name] == [
        "jit(_sweep)",
        "jit(_sweep)",
        "jit(_end_sharpness)",
    ]
    other = dataclasses.replace(cell, task=Bowl(jnp.float32(3.0)), horizon=40)
    with count_compiles() as names:
        train(constant(0.3, 0.02), other, SUITE, PROTOCOL, None)
    assert not [name for name in names if "sweep" in name]


def test_a_second_time_nothing_is_trained(made, report, results, progress, monkeypatch):
    assert [(p.done, p.total, p.contender.name) for p in progress] == [
        (0, 4, "adam"),
        (1, 4, "learnable"),
        (2, 4, "sgd+constant"),
        (3, 4, "exploding"),
    ]
    assert all(isinstance(p, Progress) for p in progress)
    monkeypatch.setattr(program, "sweep", None)
    monkeypatch.setattr(program, "end_sharpness", None)
    assert cards(report, suite=SUITE, results=results) == made
    with pytest.raises(TypeError):
        cards(report, suite=SUITE)


def test_without_the_reference(results):
    report = evaluate([constant(0.5)], SUITE, results=results)
    seen = []
    [card] = cards(report, suite=SUITE, results=results, on_progress=seen.append)
    assert [p.contender.name for p in seen] == ["adam", "sgd+constant"]
    found = {wish.name: wish.score for wish in card.wishes}
    assert [name for name, score in found.items() if score is None] == [
        "converges",
        "fast",
        "generalises",
    ]


def refuse(literal):
    raise AssertionError(f"{literal} is not JSON")


def test_beside_what_guards_fall_back_to(results):
    """It comes with the baselines of such a protocol, and is not the reference."""
    protocol = Protocol(guards=True)
    contenders = protocol.baselines(["adam"])
    report = evaluate(contenders, SUITE, protocol=protocol, results=results)
    names = [card.contender for card in cards(report, suite=SUITE, results=results)]
    assert names == ["adam", FALLBACK]


def test_files(made, report, tmp_path):
    paths = write(report, tmp_path, cards=made)
    tree = json.loads(paths.json.read_text(), parse_constant=refuse)
    assert tree["conventions"]["cards"] == CONVENTION
    assert [card["contender"] for card in tree["cards"]] == [
        contender["name"] for contender in tree["contenders"]
    ]
    for card in tree["cards"]:
        assert list(card) == ["contender", "wishes"]
        for wish in card["wishes"]:
            assert list(wish) == ["name", "score", "shown", "detail", "values"]
            assert isinstance(wish["shown"], str)
            assert isinstance(wish["detail"], str)
            numbers = [wish["score"], *wish["values"].values()]
            assert all(x is None or isinstance(x, int | float) for x in numbers)
    json.dumps(as_json(made), allow_nan=False)
    assert (tmp_path / "cards.png").read_bytes().startswith(b"\x89PNG")
    assert tmp_path / "cards.png" in paths.pictures
    assert as_text(made) in paths.text.read_text()
    assert "Report cards" in paths.page.read_text()
    assert "cards" not in report_as_json(report)
    bare = write(report, tmp_path / "bare")
    assert not (tmp_path / "bare" / "cards.png").exists()
    assert "Report cards." not in bare.text.read_text()


def test_the_text(made, report, capsys):
    lines = as_text(made).splitlines()
    assert lines[0].split()[:2] == ["optimizer", "converges"]
    assert [line.split()[0] for line in lines[2:6]] == [card.contender for card in made]
    print_report(report, sys.stdout, made)
    assert as_text(made) in capsys.readouterr().out


def test_the_picture(made, report):
    figure = draw(made, strokes(report))
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == [
        card.contender for card in made
    ]
    shown = [text.get_text() for text in panels[1].texts]
    assert shown == [wish.shown for wish in made[1].wishes]
    draw(made[:1], strokes(report))


def test_the_problems_are_as_they_were():
    """They are frozen: a change is a new version and a new hash."""
    assert (CARD.version, CARD.hash[:16]) == (1, "974c0c4168e6bb25")
    assert all(cell.horizon == 500 and len(cell.seeds) == 3 for cell in CARD.cells)
