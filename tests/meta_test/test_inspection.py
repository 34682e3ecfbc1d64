"""What is seen of a training, against what is known of it."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.gradients import angle
from l2o.learned import SmallFC
from meta_test.gradient_source import GradientSource
from meta_test.inner_loop import derive_keys, run, step_batch
from meta_test.inspection import as_json, inspect_training
from meta_test.inspection_figure import MAX_TENSORS, draw, write
from meta_test.optimizers import baseline, learned
from tasks import ImageMLP, Quadratic, from_functions, load
from tests.helpers import assert_no_recompile
from tests.meta_test.problems import line, sgd


pytestmark = pytest.mark.usefixtures("quick_compilation")

NO_DATA = np.zeros((40,), np.float32)
BOWL = Quadratic(dim=6, spectrum=(0.1, 3.0), noise=0.1)


def refuse(literal: str) -> None:
    raise AssertionError(f"{literal} is not JSON")


def titles(figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.fixture(scope="module")
def digits():
    return ImageMLP(load("digits"), hidden=(8,), batch_size=32)


@pytest.fixture(scope="module")
def on_digits(digits):
    return inspect_training(
        digits, baseline("adam"), candidate=6, steps=20, records=5, lanczos_steps=5
    )


@pytest.fixture(scope="module")
def diverged():
    """The first record is finite, the others are not."""
    return inspect_training(BOWL, sgd("wild", 1e16), steps=12, records=6)


def test_gradient_descent_on_a_bowl():
    found = inspect_training(
        BOWL, sgd("sgd", 0.3, 0.2), candidate=1, steps=12, records=4
    )
    np.testing.assert_array_equal(found.steps, [3, 6, 9, 12])
    np.testing.assert_allclose(found.sharpness, np.full(4, 3.0), rtol=1e-4)
    np.testing.assert_allclose(found.critical, np.full(4, 2 / 0.2), rtol=1e-5)
    np.testing.assert_allclose(found.cosine, np.ones(4), rtol=1e-5)
    np.testing.assert_allclose(found.alignment, np.zeros(4), atol=0.05)
    assert found.shapes == {"x": (6,)}
    assert found.num_parameters == 6
    assert found.effective_rates.keys() == found.update_sizes.keys() == {"x"}
    np.testing.assert_allclose(found.effective_rates["x"], np.full(4, 0.2), rtol=1e-5)
    np.testing.assert_allclose(
        found.update_sizes["x"], found.update_norm / np.sqrt(6), rtol=1e-5
    )
    assert found.stable_ranks == {}
    assert (found.optimizer, found.candidate, found.learned) == ("sgd", "0.2", False)


def test_the_last_step_of_a_record_is_measured():
    """x goes to its minimiser by a factor a step, and the gradient with it."""
    found = inspect_training(line(0.5), sgd("sgd", 0.2), steps=6, records=3, seed=4)
    task = line(0.5).task(line(0.5).nominal())
    away = task.init(derive_keys(4).init)["x"] - 3.0
    expected = 0.5 * abs(away) * (1 - 0.5 * 0.2) ** np.array([1, 3, 5])
    np.testing.assert_allclose(found.gradient_norm, expected, rtol=1e-5)
    np.testing.assert_allclose(found.update_norm, 0.2 * expected, rtol=1e-5)
    np.testing.assert_allclose(found.sharpness, np.full(3, 0.5), rtol=1e-5)


def test_sharpness_is_the_largest_and_not_the_steepest_eigenvalue():
    """A saddle: -4 is larger in size only."""

    saddle = from_functions(
        lambda key: {"x": jax.random.normal(key, (2,))},
        lambda params, batch: jnp.dot(jnp.array([-2.0, 0.5]), jnp.square(params["x"])),
        NO_DATA,
        start=1.0,
    )
    found = inspect_training(saddle, sgd("sgd", 0.01), steps=2, records=1)
    np.testing.assert_allclose(found.sharpness, [1.0], rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "contender"),
    [
        (BOWL, baseline("adam")),
        # One that looks at what else a step is told: value, gradient, loss.
        (line(0.7, noise=0.3), baseline("lbfgs")),
    ],
    ids=["adam", "lbfgs"],
)
def test_trains_as_the_inner_loop_does(family, contender):
    found = inspect_training(
        family, contender, candidate=3, steps=12, records=4, seed=3
    )
    curve = jax.jit(
        lambda hyper: run(
            family,
            family.nominal(),
            contender.make,
            hyper,
            derive_keys(3),
            num_records=4,
            record_every=3,
            eval_batches=1,
        )
    )(contender.candidates[3])
    assert len(set(found.loss)) == 4
    np.testing.assert_allclose(found.loss, curve.train_loss, rtol=1e-5)


def test_tensors_of_a_network(on_digits, digits):
    vectors = {"Dense_0/bias": (8,), "Dense_1/bias": (10,)}
    matrices = {"Dense_0/kernel": (64, 8), "Dense_1/kernel": (8, 10)}
    assert on_digits.shapes == vectors | matrices
    assert on_digits.num_parameters == 64 * 8 + 8 + 8 * 10 + 10
    assert on_digits.update_sizes.keys() == on_digits.shapes.keys()
    assert on_digits.effective_rates.keys() == on_digits.shapes.keys()
    assert on_digits.stable_ranks.keys() == matrices.keys()
    for ranks in on_digits.stable_ranks.values():
        assert ((ranks >= 1.0) & (ranks <= 8.0)).all()
    squares = [
        np.prod(shape) * on_digits.update_sizes[name] ** 2
        for name, shape in on_digits.shapes.items()
    ]
    np.testing.assert_allclose(np.sqrt(sum(squares)), on_digits.update_norm, rtol=1e-5)
    assert (on_digits.sharpness > 0).all()
    assert ((on_digits.cosine > 0) & (on_digits.cosine < 1)).all()
    # Seen from the start: initial tensors, and Adam's first step is one of signs.
    first = inspect_training(digits, baseline("adam"), candidate=6, steps=1, records=1)
    rate = baseline("adam").candidates[6]
    np.testing.assert_allclose(first.update_sizes["Dense_1/bias"], [rate], rtol=1e-3)


def test_alignment_with_backpropagation(digits):
    fed = GradientSource(digits, "feedback_alignment:scale=0.5")
    found = inspect_training(
        fed, sgd("sgd", 0.3), steps=160, records=160, lanczos_steps=1
    )
    task, keys = fed.task(fed.nominal()), derive_keys(0)
    params = task.init(keys.init)
    key, batch = step_batch(task, keys, jnp.int32(0))
    loss = lambda params: task.loss(params, key, batch)[0]
    given = task.gradients.step((), params, key, batch)[1]
    expected = angle(given, jax.grad(loss)(params))
    np.testing.assert_allclose(found.alignment[0], expected, rtol=1e-4)
    # The weights learn to suit the feedback.
    assert found.alignment[-40:].mean() < 60 < found.alignment[0]


def test_a_learned_optimizer(digits):
    lopt = SmallFC()
    contender = learned("mine", lopt, lopt.init_theta(jax.random.key(0)))
    found = inspect_training(digits, contender, steps=4, records=2, lanczos_steps=3)
    assert found.learned
    assert found.loss.shape == (2,)
    assert np.isfinite(as_array(as_json(found))).all()
    assert "mine, 610 parameters" in draw(found).get_suptitle()


def as_array(tree) -> np.ndarray:
    numbers = [x for x in jax.tree.leaves(tree) if not isinstance(x, str)]
    return np.array(numbers, np.float64)


def test_another_length_or_learning_rate_compiles_nothing():
    contender = sgd("sgd", 0.1, 0.2)
    inspect_training(line(), contender, steps=6, records=3)
    inspect_training(line(), contender, candidate=1, steps=6, records=3)
    with assert_no_recompile():
        inspect_training(line(2.0), contender, steps=60, records=3, seed=1)


def test_json_is_strict(on_digits):
    tree = as_json(on_digits)
    assert json.loads(json.dumps(tree, allow_nan=False), parse_constant=refuse) == tree
    assert tree["optimizer"] == "adam"
    assert tree["steps"] == [4, 8, 12, 16, 20]
    assert tree["shapes"]["Dense_0/kernel"] == [64, 8]
    np.testing.assert_allclose(tree["critical"], on_digits.critical, rtol=1e-6)
    np.testing.assert_allclose(
        tree["effective_rates"]["Dense_0/bias"],
        on_digits.effective_rates["Dense_0/bias"],
        rtol=1e-6,
    )


def test_a_diverged_training_is_told_and_drawn(diverged, tmp_path):
    tree = as_json(diverged)
    json.dumps(tree, allow_nan=False)
    assert tree["loss"][0] > 0
    assert tree["loss"][1:] == [None] * 5
    assert tree["gradient_norm"][-1] is None
    assert tree["effective_rates"]["x"][-1] is None
    assert np.isnan(diverged.gradient_norm[-1])
    assert "loss not finite by step 4" in draw(diverged).get_suptitle()
    write(diverged, tmp_path / "new" / "folder" / "wild.png")


def test_a_training_that_never_was_finite_is_drawn(tmp_path):
    found = inspect_training(line(float("nan")), sgd("sgd", 0.1), steps=2, records=2)
    assert as_json(found)["loss"] == as_json(found)["sharpness"] == [None, None]
    scales = {
        axes.get_title(loc="left"): axes.get_yscale() for axes in draw(found).axes
    }
    assert scales["Training loss"] == scales["Update sizes"] == "log"
    write(found, tmp_path / "nothing.png")


def test_at_rest_there_is_no_critical_sharpness(tmp_path):
    found = inspect_training(line(), sgd("still", 0.0), steps=2, records=2)
    assert np.isposinf(found.critical).all()
    assert as_json(found)["critical"] == [None, None]
    assert as_json(found)["effective_rates"]["x"] == [0.0, 0.0]
    write(found, tmp_path / "still.png")


def test_pictures_are_written_whole(on_digits, tmp_path):
    path = tmp_path / "new" / "picture.png"
    path.parent.mkdir()
    path.write_text("an older one")
    write(on_digits, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"must end in one of .*png.*, got .*\.xyz"):
        write(on_digits, tmp_path / "picture.xyz")


def test_the_largest_of_many_tensors_are_drawn():
    sizes = {f"w{n:02}": n for n in range(1, MAX_TENSORS + 4)}
    family = from_functions(
        lambda key: {name: jnp.ones((n,)) for name, n in sizes.items()},
        lambda params, batch: optax.tree.norm(params, squared=True),
        NO_DATA,
        start=1.0,
    )
    found = inspect_training(family, sgd("sgd", 0.1), steps=2, records=1)
    figure = draw(found)
    assert "Update sizes (3 smaller tensors left out)" in titles(figure)
    legend: Any = figure.axes[-1].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert len(names) == MAX_TENSORS
    assert names[0] == "w15  (15)"
    assert names[-1] == "w04  (4)"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"records": 4}, "records must divide steps = 10, got 4"),
        ({"records": 0}, "records must be an integer of at least 1, got 0"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"lanczos_steps": 0}, "lanczos_steps must be an integer of at least 1, got 0"),
        ({"candidate": 2}, r"candidate of sgd must be in 0\.\.1, got 2"),
        ({"candidate": -1}, r"candidate of sgd must be in 0\.\.1, got -1"),
    ],
)
def test_refuses(changed, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        inspect_training(
            line(), sgd("sgd", 0.1, 0.2), **{"steps": 10, "records": 5} | changed
        )
