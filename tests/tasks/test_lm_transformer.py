import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks import LMTransformer, load_text
from tasks.language import predictions
from tasks.network import NetworkChoices


FAMILY = LMTransformer(
    load_text("kjv"),
    width=8,
    length=5,
    batch_size=4,
    network=NetworkChoices(init_scale=(3.0, 3.0)),
)


@jax.jit
def losses_of(family, params, passages):
    return predictions(family.model(family.nominal()), params, passages)[0]


@pytest.fixture(scope="module")
def start():
    task = FAMILY.task(FAMILY.nominal())
    return task.init(jax.random.key(0)), task.batch(jax.random.key(1), "train")


@pytest.mark.parametrize("positions", [0.0, 1.0])
def test_order_is_known_from_positions_alone(start, positions):
    """One block sees earlier bytes as a set: the last loss, with those turned round."""
    params, passages = start
    body = {**params["body"], "positions": params["body"]["positions"] * positions}
    params = {**params, "body": body}
    turned = passages.at[:, :4].set(passages[:, 3::-1])
    one, other = (losses_of(FAMILY, params, x)[:, -1] for x in (passages, turned))
    apart = float(jnp.abs(one - other).max())
    assert apart > 1e-2 if positions else apart < 1e-5


def test_every_block_has_the_parameters_of_its_width():
    def size(depth):
        family = LMTransformer(load_text("kjv"), width=8, depth=depth, length=5)
        init = family.task(family.nominal()).init
        shapes = jax.eval_shape(init, jax.random.key(0))
        return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))

    # Queries, keys, values and output; a perceptron of twice the width; two norms.
    block = 4 * 8 * 8 + 2 * 2 * 8 * 8 + 2 * 2 * 8
    embedding, positions, norm = 256 * 8, 5 * 8, 2 * 8
    assert size(1) == embedding + positions + norm + block
    assert size(3) - size(1) == 2 * block
