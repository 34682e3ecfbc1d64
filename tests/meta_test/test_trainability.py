"""Maps of trainings whose boundaries are known."""

import collections
import itertools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from l2o.learned import LearnableSGD
from meta_test.baselines import BASELINES
from meta_test.fractal import boundary
from meta_test.optimizers import learned
from meta_test.trainability import (
    LARGEST,
    LAST,
    TrainabilityMap,
    as_json,
    explore,
)
from meta_test.trainability_axes import INIT_SCALE, Axis, of_baseline, of_learned
from meta_test.trainability_figure import colours, draw, write
from meta_test.variants import MULTIPLIER
from tasks import from_functions
from tests.helpers import assert_no_recompile, run_python
from tests.meta_test.problems import line


SGD = of_baseline("sgd+constant")
RATE = Axis("learning_rate", 0.1, 10.0)
SCALE = Axis(INIT_SCALE, 0.1, 10.0)
NO_DATA = np.zeros((40,), np.float32)

# x^4, from x = 1: gradient descent shrinks x if and only if 4 rate x^2 < 2.
QUARTIC = from_functions(
    lambda key: {"x": jnp.float32(1.0)}, lambda params, _: params["x"] ** 4, NO_DATA
)


def whole(*arguments: Any, **options: Any) -> tuple[TrainabilityMap, ...]:
    """All frames, in the end."""
    return collections.deque(explore(*arguments, **options), maxlen=1)[0]


@pytest.fixture(scope="module")
def quartic():
    [found] = whole(QUARTIC, SGD, RATE, SCALE, size=64, steps=40)
    return found


def test_gradient_descent_on_a_bowl():
    """It converges below 2 / curvature, in ratios of a closed form."""
    curvature, steps, size = 0.7, 30, 16
    [found] = whole(line(curvature), SGD, RATE, SCALE, size=size, steps=steps, seed=3)
    rates = np.tile(np.float64(RATE.values(size)), (size, 1))
    np.testing.assert_array_equal(found.converged, rates * curvature < 2.0)
    assert 0 < found.converged.sum() < size**2

    factors = (1 - rates * curvature) ** 2
    ratios = factors ** np.arange(steps)[:, None, None]
    ratios = np.clip(ratios, 1 / LARGEST, LARGEST)
    sums = np.where(found.converged, ratios.sum(axis=0), (1 / ratios).sum(axis=0))
    np.testing.assert_allclose(found.sums, sums, rtol=1e-4)
    assert (found.optimizer, found.task) == ("sgd+constant", "Line")


def test_initial_parameters_are_scaled(quartic):
    rates, scales = np.meshgrid(RATE.values(64), SCALE.values(64))
    np.testing.assert_array_equal(quartic.converged, 4 * rates * scales**2 < 2.0)
    assert 0.2 < quartic.share_converged < 0.8
    # A straight line in the logarithm.
    assert quartic.dimension is not None
    assert quartic.dimension.value == pytest.approx(1.0, abs=0.1)


def test_a_loss_that_overflows_diverges_at_once(quartic):
    """The largest steps on x^4 leave float32 after two."""
    assert not quartic.finite[-1, -1]
    assert not quartic.converged[-1, -1]
    assert quartic.sums[-1, -1] == pytest.approx(1 + 39 / LARGEST, abs=3e-6)
    assert as_json(quartic)["not_finite"] == (~quartic.finite).sum() > 0
    assert np.isfinite(quartic.sums).all()


def test_a_training_that_never_was_finite():
    family = from_functions(
        lambda key: {"x": jnp.float32(1.0)},
        lambda params, _: jnp.where(params["x"] > 1.0, jnp.nan, params["x"] ** 2),
        NO_DATA,
    )
    [found] = whole(family, SGD, Axis("learning_rate", 0.01, 0.4), SCALE, size=8)
    below_one = np.repeat([True, False], 4)
    np.testing.assert_array_equal(found.finite, np.tile(below_one[:, None], (1, 8)))
    np.testing.assert_array_equal(found.converged, found.finite)
    np.testing.assert_allclose(found.sums[~found.finite], 100 / LARGEST, rtol=1e-5)


@pytest.mark.parametrize(
    ("last", "converged"),
    [
        ((0.5, 1.4), True),
        ((0.5, 1.6), False),
        ((-3.0, 2.1), False),  # Below 1 / LARGEST it counts as that.
        ((0.5, np.inf), False),
    ],
)
def test_the_mean_of_the_last_losses_decides(last, converged):
    """Of a training whose losses are a given list: x is the number of the step."""
    losses = np.array([2.0, *(9 * [10.0]), *(LAST // 2 * last)])
    ratios = np.array([1.0, *(9 * [5.0]), *(LAST // 2 * last)])

    def loss(params, _):
        x = params["x"]
        step = jnp.round(jax.lax.stop_gradient(-x)).astype(jnp.int32)
        given = 2.0 * jnp.asarray(ratios, jnp.float32)[step]
        return given + x - jax.lax.stop_gradient(x)

    family = from_functions(lambda key: {"x": jnp.float32(0.0)}, loss, NO_DATA)
    rate = Axis("learning_rate", 1.0, 1.0001)
    [found] = whole(family, SGD, rate, SCALE, size=2, steps=len(losses))
    assert (found.converged == converged).all()
    assert (found.finite == np.isfinite(losses).all()).all()
    ratios = np.clip(ratios, 1 / LARGEST, LARGEST)
    expected = ratios.sum() if converged else (1 / ratios).sum()
    np.testing.assert_allclose(found.sums, expected, rtol=1e-5)


def test_heavy_ball():
    """Stable below 2 (1 + momentum) / curvature (Polyak 1964)."""
    axis = Axis("one_minus_momentum", 0.2, 0.9)
    subject = of_baseline("momentum+constant")
    rate = Axis("learning_rate", 1.0, 8.0)
    [found] = whole(line(), subject, rate, axis, size=12, steps=300)
    rates, decays = np.meshgrid(rate.values(12), 1 - axis.values(12))
    np.testing.assert_array_equal(found.converged, rates < 2 * (1 + decays))
    assert len(set(found.converged.sum(axis=1))) > 2


def test_a_learned_optimizer_has_a_multiplier():
    lopt = LearnableSGD(learning_rate=0.1)
    subject = of_learned(learned("mine", lopt, lopt.init_theta(jax.random.key(0))))
    assert set(subject.ranges) == {MULTIPLIER, INIT_SCALE}
    axis = subject.axis(f"{MULTIPLIER}:2:200", "--x")
    [found] = whole(line(), subject, axis, SCALE, size=8, steps=30)
    expected = np.tile(0.1 * axis.values(8) < 2.0, (8, 1))
    np.testing.assert_array_equal(found.converged, expected)


def test_all_see_the_same_batches():
    """Under noise too: with one rate the map does not depend on where a pixel is."""
    family = line(noise=0.3)
    rate = Axis("learning_rate", 0.1, 0.1 * (1 + 1e-4))
    scale = Axis(INIT_SCALE, 1.0, 1 + 1e-4)
    one, other = (
        whole(family, SGD, rate, scale, size=16, steps=20, seed=seed)[0]
        for seed in (0, 1)
    )
    assert one.sums.max() / one.sums.min() < 1.001
    assert other.sums.max() / other.sums.min() < 1.001
    assert abs(one.sums[0, 0] / other.sums[0, 0] - 1) > 0.01


def test_where_pixels_are():
    axis = Axis("learning_rate", 1e-2, 1e2)
    np.testing.assert_allclose(axis.values(4), 10.0 ** np.array([-1.5, -0.5, 0.5, 1.5]))
    assert axis.place(1.0) == pytest.approx(0.5)
    assert axis.value(axis.place(3.0)) == pytest.approx(3.0)
    inner = axis.zoomed(0.5, 4.0)
    np.testing.assert_allclose([inner.low, inner.high], [10**-0.5, 10**0.5])
    # Not over an edge.
    at_edge = axis.zoomed(0.99, 4.0)
    np.testing.assert_allclose([at_edge.low, at_edge.high], [10.0, 100.0])
    assert at_edge.high <= axis.high


def test_a_zoom_follows_the_boundary():
    options: dict[str, Any] = {"size": 16, "steps": 30, "frames": 4, "factor": 3.0}
    free = whole(QUARTIC, SGD, RATE, SCALE, **options)
    point = 0.5, 1.4
    near = whole(QUARTIC, SGD, RATE, SCALE, at=point, **options)
    for frames in (free, near):
        assert len(frames) == 4
        for outer, inner in itertools.pairwise(frames):
            for a, b in ((outer.x, inner.x), (outer.y, inner.y)):
                assert b.width == pytest.approx(a.width / 3.0)
                assert a.low <= b.low < b.high <= a.high
            # The line goes through the middle.
            where = 4 * inner.x.value(0.5) * inner.y.value(0.5) ** 2
            assert abs(np.log(where / 2.0)) < 2 * (outer.x.width + outer.y.width) / 16
            assert boundary(inner.converged).any()
    # From the point straight to the line, but for the size of pixels.
    off = np.log(2.0 * point[0] * point[1] ** 2)
    found = [near[1].x.value(0.5) / point[0], near[1].y.value(0.5) / point[1]]
    np.testing.assert_allclose(np.log(found), [-off / 5, -2 * off / 5], atol=0.3)


def test_a_zoom_ends_where_there_is_no_boundary():
    rate = Axis("learning_rate", 0.01, 0.1)
    assert len(whole(line(), SGD, rate, SCALE, size=8, steps=5, frames=3)) == 1


def test_other_numbers_compile_nothing():
    whole(QUARTIC, SGD, RATE, SCALE, size=12, steps=5)
    other = Axis("learning_rate", 0.2, 5.0), Axis(INIT_SCALE, 0.5, 5.0)
    with assert_no_recompile():
        frames = whole(QUARTIC, SGD, *other, size=12, steps=9, seed=4, frames=3)
    assert len(frames) == 3


def test_pieces_come_one_after_another(tmp_path):
    options: dict[str, Any] = {"size": 16, "steps": 5, "frames": 2}
    pieces = list(explore(QUARTIC, SGD, RATE, SCALE, **options))
    done = [[int(found.trained.sum()) for found in frames] for frames in pieces]
    assert done == [[0], [128], [256], [256, 0], [256, 128], [256, 256]]
    begun, half = pieces[0][-1], pieces[1][-1]
    np.testing.assert_array_equal(half.trained, np.arange(256).reshape(16, 16) < 128)
    kept = half.trained
    np.testing.assert_array_equal(half.sums[kept], pieces[2][-1].sums[kept])
    for found in (begun, half):
        assert found.dimension is None
        tree = as_json(found)
        assert json.loads(json.dumps(tree, allow_nan=False)) == tree
        assert tree["boundary_pixels"] is None
    assert as_json(begun)["share_converged"] is None
    # What was not trained is of no colour.
    shown = colours(half)
    grey = (shown == shown[..., :1]).all(axis=-1)
    np.testing.assert_array_equal(grey, ~kept)
    write([begun], tmp_path / "begun.png")


DIGITS = """
import hashlib
import jax
from meta_test.trainability import explore
from meta_test.trainability_axes import Axis, of_baseline
from tasks import ImageMLP, load

family = ImageMLP(load("digits"), hidden=(16,), batch_size=32)
axes = Axis("learning_rate", 0.1, 10.0), Axis("init_scale", 0.1, 10.0)
subject = of_baseline("momentum+constant")
*_, (found,) = explore(family, subject, *axes, size=20, steps=40)
print(len(jax.devices()), hashlib.sha256(found.sums.tobytes()).hexdigest())
"""


def test_devices_do_not_matter_to_a_single_bit(capsys):
    """Where trainings are chaotic a bit would do."""
    exec(DIGITS, {})
    ours = capsys.readouterr().out.split()
    theirs = run_python(DIGITS, devices=2).split()
    assert (ours[0], theirs[0]) == ("1", "2")
    assert ours[1] == theirs[1]


def test_colours_tell_ranks():
    """However the sums are spread; of two scales, each over its whole length."""
    sums = np.array([[1.0, 2.0, 1e6], [30.0, 4.0, 4.0], [4.0, 5.0, 6.0]], np.float32)
    converged = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0]], bool)
    found = TrainabilityMap(
        "sgd", "Line", RATE, SCALE, 10, converged, sums, np.ones((3, 3), bool)
    )
    red, _, blue = np.moveaxis(colours(found), -1, 0)
    np.testing.assert_array_equal(blue > red, converged)
    light = colours(found).sum(axis=-1)
    # Evenly spaced ranks, and so the shades in the middle of their scales.
    order = [light[0], light.ravel()[[4, 7, 8, 3]]]
    assert all((np.diff(shades) < 0).all() for shades in order)
    assert light[1, 1] == light[1, 2] == light[2, 0]
    others = TrainabilityMap(
        "sgd", "Line", RATE, SCALE, 10, converged, np.sqrt(sums), found.finite
    )
    np.testing.assert_array_equal(colours(found), colours(others))


def test_pictures(quartic, tmp_path):
    figure = draw(quartic)
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == "sgd+constant on Custom, 40 steps"
    assert f"{100 * quartic.share_converged:.3g} % converged, dimension" in texts[1]
    axes = figure.axes[0]
    assert axes.get_xlabel() == "learning rate"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.1", "1", "10"]
    titles = [axes.get_title(loc="left") for axes in figure.axes[1:]]
    # What stays where it began did not diverge.
    assert titles == ["converged", "not converged"]
    path = tmp_path / "new" / "map.png"
    write([quartic], path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(path.parent.iterdir()) == [path]


def test_what_is_no_axis_is_in_the_title():
    """The learning rate, in the middle of its grid; but nothing of what has no axis."""
    momentum, rates = of_baseline("momentum+constant"), BASELINES["momentum"]
    axis = momentum.axis("one_minus_momentum", "--x")
    [found] = whole(QUARTIC, momentum, axis, SCALE, size=4, steps=2)
    grid = rates.learning_rates
    middle = grid[len(grid) // 2]
    assert found.fixed == {"learning_rate": pytest.approx(middle)}
    assert as_json(found)["fixed"] == found.fixed
    heading = draw(found).texts[0].get_text()
    assert heading == (
        f"momentum+constant on Custom, 2 steps, learning rate {middle:.3g}"
    )


def test_a_film_has_a_frame_a_map(tmp_path):
    frames = whole(QUARTIC, SGD, RATE, SCALE, size=8, steps=5, frames=3, factor=2.0)
    path = tmp_path / "zoom.gif"
    write(frames, path)
    with Image.open(path) as film:
        assert len(list(ImageSequence.Iterator(film))) == 3
        assert film.info["duration"] == 1000
        assert film.info["loop"] == 0
    assert list(tmp_path.iterdir()) == [path]


def test_labels_of_a_narrow_axis_differ():
    axis = Axis("learning_rate", 0.31234, 0.31235)
    deep = TrainabilityMap(
        "sgd",
        "Line",
        axis,
        SCALE,
        10,
        np.ones((2, 2), bool),
        np.ones((2, 2), np.float32),
        np.ones((2, 2), bool),
    )
    labels = [label.get_text() for label in draw(deep).axes[0].get_xticklabels()]
    assert labels == ["0.312341", "0.312345", "0.312349"]


@pytest.mark.parametrize(
    ("name", "low"), [("learning_rate", 0.01), ("one_minus_b1", 0.01)]
)
@pytest.mark.parametrize("high", [0.013, 1.0])
def test_the_limit_of_float32(name, low, high):
    """Up to it neighbours differ in what the optimizer is given, far beyond not."""
    axis, size = Axis(name, low, high), 64
    with pytest.raises(ValueError, match="must be distinct in float32") as caught:
        axis.require_distinct(size, 1e9)
    deepest = float(str(caught.value).split("magnification of ")[1].split()[0])
    for place in np.linspace(0.0, 1.0, 50):
        inner = axis.zoomed(place, 0.99 * deepest)
        inner.require_distinct(size)
        values = inner.values(size)
        assert len(np.unique(values)) == size
        if name == "one_minus_b1":
            assert len(np.unique(np.float32(1.0) - values)) == size
    beyond = axis.zoomed(0.0, 10.0 * deepest).values(size)
    given = np.float32(1.0) - beyond if name == "one_minus_b1" else beyond
    assert len(np.unique(given)) < size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rate",
            "--x of adam must be one of learning_rate, init_scale, one_minus_b1, ",
        ),
        ("learning_rates:1:2", r"got 'learning_rates' \(did you mean 'learning_rate'"),
        ("learning_rate:1", "--x must be AXIS or AXIS:LOW:HIGH, got 'learning_rate:1'"),
        ("learning_rate:a:b", "--x must be AXIS or AXIS:LOW:HIGH, got"),
        ("learning_rate:1:2:3", "--x must be AXIS or AXIS:LOW:HIGH, got"),
        ("learning_rate:0:1", "1e-30 <= low < high <= 1e\\+30, got 0 to 1"),
        ("learning_rate:2:1", "low < high <= .*, got 2 to 1"),
        ("learning_rate:nan:1", "got nan to 1"),
        ("one_minus_b1:0.1:2", "one_minus_b1 must .* high <= 1, got 0.1 to 2"),
        ("multiplier", "got 'multiplier'"),
    ],
)
def test_what_is_no_axis(text, message):
    with pytest.raises(ValueError, match=message):
        of_baseline("adam").axis(text, "--x")


def test_ranges_of_axes():
    subject = of_baseline("adam")
    assert subject.axis("learning_rate", "x") == Axis("learning_rate", 1e-4, 10.0)
    assert subject.axis("init_scale", "x") == Axis(INIT_SCALE, 0.01, 100.0)
    assert subject.axis("one_minus_b2", "x") == Axis("one_minus_b2", 1e-4, 0.1)
    assert subject.fixed["learning_rate"] == pytest.approx(0.03)
    with pytest.raises(ValueError, match="got memory_size, a whole number that makes"):
        of_baseline("lbfgs").axis("memory_size:3:30", "--x")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"size": 0}, "size must be an integer of at least 1, got 0"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"frames": 0}, "frames must be an integer of at least 1, got 0"),
        ({"x": SCALE}, "the axes must differ, got init_scale twice"),
        (
            {"x": Axis("one_minus_b1", 0.1, 0.2)},
            "must be one of .*, got 'one_minus_b1'",
        ),
        ({"frames": 2, "factor": 1.0}, "above 1 and at most size / 4 = 2, got 1"),
        ({"frames": 2, "factor": 3.0}, "above 1 and at most size / 4 = 2, got 3"),
        ({"frames": 30, "factor": 2.0}, "learning_rate must be distinct in float32, "),
        ({"x": Axis("learning_rate", 1.0, 1.000001)}, "must be distinct in float32"),
        ({"at": (1.0, 20.0)}, r"init_scale of it in 0.1\.\.10, got 20"),
    ],
)
def test_refuses_at_once(changed, message):
    options: dict[str, Any] = {"x": RATE, "y": SCALE, "size": 8} | changed
    with pytest.raises(ValueError, match=message):
        explore(QUARTIC, SGD, **options)


def test_losses_that_are_not_above_zero():
    family = from_functions(
        lambda key: {"x": jnp.float32(1.0)},
        lambda params, _: params["x"] - 1.0,
        NO_DATA,
        start=1.0,
    )
    with pytest.raises(
        ValueError, match=r"loss is above 0, got -0\.8.* at learning_rate"
    ):
        whole(family, SGD, RATE, SCALE, size=8, steps=2)
