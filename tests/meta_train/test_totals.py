"""Sums over the blocks of all devices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from meta_train.estimators.totals import (
    AXIS,
    GATHERED_BYTES,
    gathered_bytes,
    total_over_blocks,
)
from tests.helpers import run_python


LONG = 20_012  # with 15 more numbers no even number of devices divides it

TOTALS = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from meta_train.estimators.totals import AXIS, total_over_blocks
from meta_train.estimators.words import to_words

COLLECTIVES = "all-to-all", "all-gather", "all-reduce", "collective-permute"
BLOCKS, found = 16, {}
for size in (40, %d):
    keys = jax.random.split(jax.random.key(0), 3)
    rows = {
        "a": jax.random.normal(keys[0], (BLOCKS, size)),
        "b": jax.random.normal(keys[1], (BLOCKS, 3, 5)),
        "count": jnp.arange(BLOCKS, dtype=jnp.int32) + 2**24,
        "loss": jax.random.normal(keys[2], (BLOCKS,)),
    }
    like = jax.eval_shape(lambda: jax.tree.map(lambda x: x[0], rows))
    by_hand = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    for i in range(BLOCKS):
        by_hand = jax.tree.map(lambda t, x: t + np.asarray(x[i]), by_hand, rows)
    for devices in (1, 2, 4, 8):
        mesh = Mesh(np.array(jax.devices()[:devices]), (AXIS,))
        words = jax.device_put(jax.vmap(to_words)(rows), NamedSharding(mesh, P(AXIS)))
        run = jax.jit(lambda words: total_over_blocks(words, like, mesh))
        total = run(words)
        same = jax.tree.map(lambda a, b: np.array_equal(a, b), total, by_hand)
        types = jax.tree.map(lambda a, b: a.dtype == b.dtype, total, by_hand)
        program = run.lower(words).compile().as_text()
        found[f"{size} {devices}"] = {
            "same": jax.tree.leaves((same, types)),
            "collectives": sum(program.count(f"{name}(") for name in COLLECTIVES),
        }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def totals():
    return json.loads(run_python(TOTALS % LONG, devices=8))


@pytest.mark.parametrize("size", [40, LONG])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_blocks_are_added_in_their_order(totals, size, devices):
    """Bit for bit as numpy adds them, one after another, on any number of devices."""
    assert all(totals[f"{size} {devices}"]["same"])


@pytest.mark.parametrize(
    ("size", "devices", "collectives"),
    [(40, 1, 0), (40, 8, 1), (LONG, 1, 0), (LONG, 8, 2)],
)
def test_long_rows_are_added_by_parts(totals, size, devices, collectives):
    assert totals[f"{size} {devices}"]["collectives"] == collectives


def test_rows_of_several_types_are_refused():
    mesh = Mesh(np.array(jax.devices()[:1]), (AXIS,))
    like = [jax.ShapeDtypeStruct((2,), dtype) for dtype in (jnp.float32, jnp.int32)]
    with pytest.raises(TypeError, match=r"^rows must have vectors of one type, got "):
        total_over_blocks(jnp.zeros((1, 4), jnp.int32), like, mesh)


def test_what_devices_would_get():
    """By hand: 16 rows of 100 bytes, of which 4 devices have 4 each."""
    assert gathered_bytes(100, 16, 4) == 1_200
    assert gathered_bytes(100, 16, 1) == 0
    assert gathered_bytes(4 * LONG, 16, 2) > GATHERED_BYTES


ESTIMATES = """
import json
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from l2o.learned import SmallFC
from jax.flatten_util import ravel_pytree
from meta_train.estimators import totals
from tests.meta_train.problems import Polynomial, make_estimator

lopt, found = SmallFC(hidden_size=1, hidden_layers=1), []
for devices, most in ((1, 0), (4, 2**40), (4, 0)):
    totals.GATHERED_BYTES = most
    estimator = make_estimator(
        Polynomial(), lopt, horizon=4, pairs=8, block=2, devices=devices
    )
    estimator = jax.device_put(estimator, NamedSharding(estimator.mesh, P()))
    theta, _ = ravel_pytree(lopt.init_theta(jax.random.key(0)))
    run = jax.jit(
        lambda estimator, theta: estimator.estimate(
            theta, estimator.init(theta, jax.random.key(1)), jax.random.key(2), 0
        )[0]
    )
    program = run.lower(estimator, theta).compile()
    found.append({
        "by parts": "all-to-all(" in program.as_text(),
        "bits": [np.asarray(x).tobytes().hex() for x in program(estimator, theta)],
    })
print(json.dumps(found))
"""


def test_an_estimate_is_the_same_by_either_way():
    one, gathered, parts = json.loads(run_python(ESTIMATES, devices=4))
    assert not one["by parts"]
    assert not gathered["by parts"]
    assert parts["by parts"]
    assert one["bits"] == gathered["bits"] == parts["bits"]
