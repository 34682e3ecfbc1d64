import collections
import math
from typing import Any

import jax
import pytest

from tasks import ImageMLP, Quadratic, ReduceBatch, Reparametrise, load
from tasks.augmentations import recipe
from tasks.augmentations.recipe import VELO, draw


DRAWS = 2_000
BOWL = Quadratic(dim=2)


def layers(family):
    """The augmentations, innermost first."""
    found = []
    while family is not BOWL and not isinstance(family, ImageMLP):
        found.insert(0, family)
        family = family.inner
    return found


@pytest.fixture(scope="module")
def drawn():
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return [layers(draw(key, BOWL)) for key in keys]


def assert_share(count, share, of=DRAWS):
    """Within 4.5 deviations: false alarms 7 in a million each."""
    bound = 4.5 * math.sqrt(of * share * (1 - share))
    assert count == pytest.approx(of * share, abs=bound)


@pytest.mark.statistical
def test_every_augmentation_has_its_probability(drawn):
    """2,000 draws, seven counts; see `assert_share`."""
    counts: Any = collections.Counter(type(part) for one in drawn for part in one)
    for part in VELO:
        share = 0.0 if part.make is ReduceBatch else part.probability
        assert_share(counts[part.make], share)


@pytest.mark.statistical
def test_levels_and_ranges_have_their_probabilities(drawn):
    """Seven configurations of levels as likely, three of ranges; see `assert_share`."""
    found = [part for one in drawn for part in one if isinstance(part, Reparametrise)]
    levels = collections.Counter(part.level for part in found)
    for level, share in {"global": 2 / 7, "tensor": 2 / 7, "parameter": 1 / 7}.items():
        assert_share(levels[level], share)
    ranges = collections.Counter(part.scale for part in found)
    for scale in ((1e-3, 1e3), (1e-2, 1e2), (0.1, 10.0)):
        assert_share(ranges[scale], 1 / 3, of=len(found))


@pytest.mark.statistical
def test_augmentations_are_independent(drawn):
    """Two of them together as often as their product says; see `assert_share`."""
    both = sum(
        {recipe.Reparametrise, recipe.LowPrecision} <= {type(part) for part in one}
        for one in drawn
    )
    assert_share(both, 5 / 7 * 0.2)


ALWAYS = tuple(part._replace(probability=1.0) for part in VELO)


def test_all_at_once_nest_in_the_order_of_the_recipe():
    family = draw(jax.random.key(0), ImageMLP(load("digits"), hidden=()), ALWAYS)
    assert [type(part) for part in layers(family)] == [part.make for part in VELO]


def test_what_does_not_apply_is_skipped():
    found = [type(part) for part in layers(draw(jax.random.key(0), BOWL, ALWAYS))]
    assert found == [part.make for part in VELO if part.make is not ReduceBatch]
    # Evolution around a source of gradients would make it vanish.
    delayed_first = (ALWAYS[-1], *ALWAYS[:2])
    found = [type(p) for p in layers(draw(jax.random.key(0), BOWL, delayed_first))]
    assert found == [recipe.DelayGradient, recipe.Reparametrise]


def test_the_same_key_draws_the_same():
    keys = jax.random.split(jax.random.key(1), 50)
    one, two = ([draw(key, BOWL) for key in keys] for _ in range(2))
    assert one == two
    assert len(set(one)) > 10
