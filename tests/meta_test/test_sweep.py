"""Many trainings at once are the trainings one by one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_test.inner_loop import derive_keys, run
from meta_test.sweep import run_grid, sweep
from tests.helpers import assert_no_recompile, run_python
from tests.meta_test.problems import Constant, line


NUM_RECORDS, RECORD_EVERY = 4, 3
SIZES: dict[str, Any] = {"num_records": NUM_RECORDS, "eval_batches": 2}


def stacked(family, seeds):
    """A task for every seed."""
    return jax.vmap(lambda s: family.sample(derive_keys(s).task))(jnp.asarray(seeds))


def test_grid_equals_a_loop_over_candidates_and_seeds():
    family = line(0.7, noise=0.3)
    rates, seeds = jnp.array([0.1, 0.3]), (0, 1, 2)
    specs = stacked(family, seeds)
    grid = run_grid(
        family, specs, Constant(), rates, seeds, record_every=RECORD_EVERY, **SIZES
    )
    assert grid.train_loss.shape == (2, 3, NUM_RECORDS)

    @jax.jit
    def single(spec, rate, seed):
        keys = derive_keys(seed)
        return run(
            family, spec, Constant(), rate, keys, record_every=RECORD_EVERY, **SIZES
        )

    for i, rate in enumerate(rates):
        for j, seed in enumerate(seeds):
            one = single(jax.tree.map(lambda x, j=j: x[j], specs), rate, seed)
            for ours, theirs in zip(
                jax.tree.leaves(grid), jax.tree.leaves(one), strict=True
            ):
                np.testing.assert_allclose(ours[i, j], theirs, rtol=1e-5, atol=1e-6)


def test_any_choice_of_trials_has_the_bits_of_all():
    family, seeds = line(0.7, noise=0.3), (5, 6, 7)
    rates = jnp.array([0.1, 0.3, 0.2])
    given = family, stacked(family, seeds), Constant(), rates, seeds
    settings = {"record_every": RECORD_EVERY, **SIZES}
    grid = run_grid(*given, **settings)
    with assert_no_recompile():
        trials = np.array([[2, 1], [0, 0]])
        found = sweep(*given, trials, capacity=9, **settings)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(grid), strict=True):
        np.testing.assert_array_equal(ours, np.stack([theirs[2, 1], theirs[0, 0]]))
    for capacity in (0, 9):
        none = sweep(*given, trials[:0], capacity=capacity, **settings)
        assert none.steps.shape == (0,)


def test_same_bits_on_two_devices_and_on_four():
    code = """
        import hashlib, jax, jax.numpy as jnp
        from meta_test.optimizers import baseline
        from meta_test.sweep import run_grid
        from tasks import ImageMLP, load

        family = ImageMLP(load("digits"), hidden=(4,), batch_size=8)
        specs = jax.tree.map(lambda x: jnp.stack([x] * 3), family.nominal())
        adam = baseline("adam", [1e-3, 1e-2, 0.1])
        curves = run_grid(
            family, specs, adam.make, adam.candidates, (0, 1, 2), num_records=2,
            record_every=3, eval_batches=1,
        )
        leaves = jax.tree.leaves(curves)
        digest = hashlib.sha256(b"".join(x.tobytes() for x in leaves))
        print(jax.device_count(), digest.hexdigest())
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    found = [run_python(code, devices=n).split() for n in (2, 4)]
    assert [count for count, _ in found] == ["2", "4"]
    assert len({digest for _, digest in found}) == 1


def test_another_length_or_curvature_compiles_nothing():
    rates, seeds = jnp.array([0.1]), (0, 1)
    families = line(1.0), line(2.0)
    specs = stacked(families[0], seeds)

    def grid(family, record_every):
        return run_grid(
            family,
            specs,
            Constant(),
            rates,
            seeds,
            num_records=4,
            record_every=record_every,
            eval_batches=1,
        )

    grid(families[0], 2)
    with assert_no_recompile():
        grid(families[1], 50)
