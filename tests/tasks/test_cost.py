"""Counts are compared with sums done by hand."""

import jax
import jax.numpy as jnp
import pytest

from tasks import ImageMLP, Quadratic, load
from tasks.cost import Cost, ReferenceCore, estimate
from tests.helpers import count_compiles
from tests.meta_train.problems import Polynomial


def mlp(*hidden, batch_size=64):
    return ImageMLP(load("digits"), hidden=hidden, batch_size=batch_size)


def test_parameters_and_flops_of_a_perceptron():
    """Three products a layer, but no gradient with respect to the images."""
    cost = estimate(mlp(32))
    assert cost.parameters == 64 * 32 + 32 + 32 * 10 + 10
    products = 2 * 64 * (2 * 64 * 32 + 3 * 32 * 10)
    assert products < cost.flops < 1.2 * products


def test_a_loop_counts_as_often_as_it_runs():
    """The body of `lax.scan` is a product of matrices; XLA's analysis sees one."""

    class Looped(Polynomial):
        def task(self, spec):
            task = super().task(spec)

            def loss(x, key, batch):
                matrix = jnp.outer(x, x)

                def body(carry, _):
                    return carry @ matrix / 2, None

                carry, _ = jax.lax.scan(body, matrix, None, length=LENGTH)
                return jnp.sum(carry), {}

            return type(task)(task.init, task.batch, loss, task.normalise)

    jax.tree_util.register_dataclass(Looped)
    found = {}
    for LENGTH in (10, 20, 40):
        found[LENGTH] = estimate(Looped())
    for field in ("flops", "bytes", "operations"):
        short, middle, long = (getattr(found[n], field) for n in (10, 20, 40))
        assert long - middle == pytest.approx(2 * (middle - short), rel=1e-6)
        assert long > 2.5 * short


@pytest.mark.parametrize("field", ["parameters", "flops", "bytes", "memory", "seconds"])
def test_a_wider_network_costs_more(field):
    costs = [getattr(estimate(mlp(width)), field) for width in (8, 32, 128)]
    assert costs == sorted(costs)
    assert costs[2] > 2 * costs[0]


def test_memory_is_what_is_held_between_the_passes():
    """Of a wide batch: the images, the hidden layer before and after its relu, ..."""
    cost = estimate(mlp(32, batch_size=1024))
    least = 4 * 1024 * (64 + 32 + 10)
    assert least < cost.memory < 3 * least


def test_the_compiled_program_holds_about_as_much():
    """XLA may keep less, where it computes again, and some more for scratch."""
    family = mlp(256, batch_size=512)

    def step(family, key):
        task = family.task(family.nominal())
        params = task.init(key)
        batch = task.batch(key, "train")
        return task.gradients.step((), params, key, batch)[:2]

    compiled = jax.jit(step).lower(family, jax.random.key(0)).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    held = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    assert 0.3 < estimate(family).memory / held < 3.0


def test_nothing_is_compiled():
    family = mlp(16)
    estimate(family)  # Keys and zeros are programs too.
    with count_compiles() as names:
        estimate(mlp(24))
    assert names == []


def test_seconds_are_a_sum_of_its_parts():
    core = ReferenceCore()
    cost = Cost(parameters=1, flops=3e9, bytes=2e9, operations=5.0, memory=0)
    want = 5.0 * core.seconds_per_operation
    want += 3e9 / core.flops_per_second + 2e9 / core.bytes_per_second
    assert cost.seconds == pytest.approx(want)


def test_a_quadratic_is_cheaper_than_a_network():
    assert estimate(Quadratic(dim=8)).seconds < estimate(mlp(32)).seconds
