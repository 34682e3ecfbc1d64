import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import ImageViT, load
from tasks.image_vit import patches
from tests.tasks.descent import held_out_accuracy


@pytest.fixture(scope="module")
def family():
    return ImageViT(load("digits"), patch=4, width=16, batch_size=16)


def test_patches_are_the_squares_of_an_image_row_by_row():
    image = np.arange(4 * 6 * 2).reshape(1, 4, 6, 2)
    cut = np.asarray(patches(jnp.asarray(image), 2))
    assert cut.shape == (1, 6, 8)
    np.testing.assert_array_equal(cut[0, 1], image[0, :2, 2:4].reshape(-1))
    np.testing.assert_array_equal(cut[0, 3], image[0, 2:, :2].reshape(-1))


def test_patches_are_told_apart_by_their_positions_alone(family):
    task = family.task(family.nominal())

    @jax.jit
    def look(order, halves):
        """The loss with positions in some order, and the image's halves in one."""
        params = task.init(jax.random.key(0))
        images, labels = task.batch(jax.random.key(1), "train")
        parts = images.reshape(len(images), 2, 4, 8, 1)[:, halves]
        moved = {**params, "positions": params["positions"][order]}
        batch = (parts.reshape(images.shape), labels)
        return task.loss(moved, jax.random.key(2), batch)[0]

    # Patches are numbered row by row: those of the lower half are 2 and 3.
    order, halves = np.arange(4), np.arange(2)
    plain = float(look(order, halves))
    image_only = float(look(order, halves[::-1].copy()))
    both = float(look(np.array([2, 3, 0, 1]), halves[::-1].copy()))
    assert both == pytest.approx(plain, rel=1e-5)
    assert image_only != pytest.approx(plain, rel=1e-3)


def test_patches_that_do_not_cover_the_image_are_refused():
    family = ImageViT(load("digits"), patch=3)
    with pytest.raises(ValueError, match=r"^image_vit.patch must divide .* got 3$"):
        family.task(family.nominal())


def test_gradient_descent_learns_the_digits(family):
    assert held_out_accuracy(family, rate=0.2, steps=400) > 0.8
