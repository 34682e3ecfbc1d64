"""What every family of tasks must do. A new family is a row of `ROWS`."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_test.families import AUGMENTATIONS, FAMILIES
from tasks import SPLITS, Task, TaskFamily
from tests.contracts.task_rows import AUGMENTED, REFUSED, ROWS, Row
from tests.helpers import assert_no_recompile, nightly


pytestmark = pytest.mark.usefixtures("quick_compilation")
KEYS = 64
# A key's shape and type, for what is only traced.
KEY = jax.eval_shape(lambda: jax.random.key(0))


@jax.jit
def sample(family, key):
    return family.sample(key)


def look_eagerly(family, spec, key):
    """Everything a task computes on one batch at one initialisation."""
    task = family.task(spec)
    init_key, batch_key, loss_key = jax.random.split(key, 3)
    params = task.init(init_key)
    batch = task.batch(batch_key, "train")
    (loss, aux), grads = jax.value_and_grad(task.loss, has_aux=True)(
        params, loss_key, batch
    )
    return {
        "params": params,
        "batch": batch,
        "loss": loss,
        "aux": aux,
        "grads": grads,
        "normalised": task.normalise(loss),
    }


# One program for one task and one for many: compiling them is what these tests cost.
look = jax.jit(look_eagerly)
look_at_many = jax.jit(jax.vmap(look_eagerly, in_axes=(None, 0, 0)))


@dataclasses.dataclass(frozen=True)
class Subject:
    """A family, and what one of its tasks computes."""

    row: Row
    family: TaskFamily
    spec: Any
    seen: dict[str, Any]


# Every family always; more of one by night.
@pytest.fixture(
    params=nightly(ROWS | AUGMENTED, but=FAMILIES | AUGMENTATIONS), scope="module"
)
def subject(request) -> Subject:
    row = (ROWS | AUGMENTED)[request.param]
    family = row.make()
    spec = sample(family, jax.random.key(0))
    return Subject(row, family, spec, look(family, spec, jax.random.key(1)))


def floats_as(dtype, tree):
    def cast(x):
        return np.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)


def assert_trees_close(got, want, *, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("rows", "registry"),
    [(ROWS, FAMILIES), (AUGMENTED, AUGMENTATIONS)],
    ids=["families", "augmentations"],
)
def test_every_registered_family_has_a_row(rows, registry):
    covered = {name.split("-")[0] for name in rows}
    assert covered == set(registry)
    for name, row in rows.items():
        assert type(row.make()) is registry[name.split("-")[0]], name


def test_everything_is_finite(subject):
    for path, leaf in jax.tree.leaves_with_path(subject.seen):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def test_loss_is_a_float32_scalar_and_aux_a_dict_of_scalars(subject):
    for name in ("loss", "normalised"):
        value = subject.seen[name]
        assert (value.shape, value.dtype) == ((), jnp.float32)
    assert isinstance(subject.seen["aux"], dict)
    assert all(value.shape == () for value in subject.seen["aux"].values())


def test_loss_at_initialisation_is_known(subject):
    nominal = subject.family.nominal()
    specs = jax.tree.map(lambda x: np.stack([x] * KEYS), nominal)
    keys = jax.random.split(jax.random.key(0), KEYS)
    seen = look_at_many(subject.family, specs, keys)
    mean = float(seen["loss"].mean())
    assert mean == pytest.approx(subject.row.initial, rel=subject.row.rel)
    assert float(seen["normalised"].mean()) == pytest.approx(1.0, rel=subject.row.rel)


def test_normalise_bounds_finite_losses_and_shows_the_others(subject):
    normalise = subject.family.task(subject.family.nominal()).normalise
    losses = jnp.array([0.0, 0.5, 1.0, 2.0, 1e6, 1e30])
    scaled = np.asarray(jax.vmap(normalise)(losses))
    assert (np.diff(scaled) >= 0).all(), "normalise must keep the order of losses"
    assert scaled[-1] <= 10.0
    assert not np.isfinite(normalise(jnp.float32(jnp.nan)))
    assert not np.isfinite(normalise(jnp.float32(jnp.inf)))


def test_same_key_same_bits(subject):
    again = look(subject.family, subject.spec, jax.random.key(1))
    assert_trees_close(again, subject.seen, rtol=0, atol=0)


def test_another_key_another_batch_and_start(subject):
    other = look(subject.family, subject.spec, jax.random.key(2))
    for part in ("batch", "params")[: 1 + subject.row.random_start]:
        one, two = (jax.tree.leaves(seen[part]) for seen in (subject.seen, other))
        differ = [bool((a != b).any()) for a, b in zip(one, two, strict=True)]
        assert any(differ), part


def test_every_split_gives_batches_of_one_shape(subject):
    task = subject.family.task(subject.family.nominal())
    shapes = [jax.eval_shape(lambda k, s=s: task.batch(k, s), KEY) for s in SPLITS]
    assert all(shape == shapes[0] for shape in shapes)


def test_nominal_is_a_specification_like_any_other(subject):
    sampled = jax.eval_shape(subject.family.sample, KEY)
    nominal = jax.eval_shape(subject.family.nominal)
    assert nominal == sampled


def test_vmap_over_specs_equals_a_loop(subject):
    specs = [sample(subject.family, jax.random.key(i)) for i in range(KEYS)]
    keys = jax.random.split(jax.random.key(1), KEYS)
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *specs)
    together = look_at_many(subject.family, stacked, keys)
    for i in range(3):
        one = jax.tree.map(lambda x, i=i: x[i], together)
        assert_trees_close(one, look(subject.family, specs[i], keys[i]), atol=1e-5)


def test_sampling_calls_no_lapack(subject):
    """Its batched decompositions wait for threads that wait for them: a deadlock."""
    program = sample.lower(subject.family, jax.random.key(0)).as_text()
    assert "lapack" not in program


def test_another_spec_is_no_new_program(subject):
    keys = list(jax.random.split(jax.random.key(3), 3))
    with assert_no_recompile():
        for key in keys:
            look(subject.family, sample(subject.family, key), key)


def test_an_equal_family_is_no_new_program(subject):
    """Static fields are compared by value, and data are arguments."""
    again, key = subject.row.make(), jax.random.key(1)
    with assert_no_recompile():
        look(again, subject.spec, key)


def test_family_is_a_pytree_of_arrays(subject):
    leaves, structure = jax.tree.flatten(subject.family)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    rebuilt = jax.tree.unflatten(structure, leaves)
    assert type(rebuilt) is type(subject.family)
    assert jax.tree.structure(rebuilt) == structure
    hash(structure)
    through_jit = jax.jit(lambda family: family)(subject.family)
    assert_trees_close(through_jit, subject.family, rtol=0, atol=0)


def test_data_are_not_constants_of_the_program(subject):
    program = jax.make_jaxpr(look_eagerly)(subject.family, subject.spec, KEY)
    assert sum(np.size(const) for const in program.consts) < 100


def test_gradient_agrees_with_finite_differences(subject, x64):
    """Along random directions: the central difference is off by O(step**2)."""
    if not subject.row.smooth:
        pytest.skip("its gradient is no slope of this loss, or of three digits")
    family, spec, params, batch = floats_as(
        np.float64,
        (subject.family, subject.spec, subject.seen["params"], subject.seen["batch"]),
    )

    @jax.jit
    def along_line(family, spec, params, direction, batch, distance):
        point = jax.tree.map(lambda p, d: p + distance * d, params, direction)
        return family.task(spec).loss(point, jax.random.key(3), batch)[0]

    slope = jax.jit(jax.grad(along_line, argnums=5))
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    step = 1e-6
    for _ in range(3):
        direction = structure.unflatten(rng.normal(size=x.shape) for x in leaves)
        line = (family, spec, params, direction, batch)
        measured = (along_line(*line, step) - along_line(*line, -step)) / (2 * step)
        computed = float(slope(*line, 0.0))
        assert computed == pytest.approx(float(measured), rel=1e-6, abs=1e-8)


def test_gradients_are_like_the_parameters_and_memory_like_itself(subject):
    def train(family, spec, key):
        task = family.task(spec)
        params = task.init(key)
        memory = task.gradients.init(params, key)
        batch = task.batch(key, "train")
        loss, grads, after = task.gradients.step(memory, params, key, batch)
        return params, grads, memory, after, loss

    params, grads, memory, after, loss = jax.eval_shape(
        train, subject.family, subject.spec, KEY
    )
    assert grads == params
    assert after == memory
    assert (loss.shape, loss.dtype) == ((), jnp.float32)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("init", ["key"]),
        ("batch", ["key", "split"]),
        ("loss", ["params", "key", "batch"]),
        ("normalise", ["loss"]),
    ],
)
def test_arguments_have_the_names_of_the_contract(subject, function, names):
    task = subject.family.task(subject.family.nominal())
    assert isinstance(task, Task)
    assert list(inspect.signature(getattr(task, function)).parameters) == names


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_in_one_line(case):
    make, name = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{name} must .*, got .+$") as error:
        make()
    assert "\n" not in str(error.value)
