"""What is kept of trainings is what they were, or is made again."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.learned import SmallFC
from meta_test import evaluate as evaluation, results as kept
from meta_test.baselines import BASELINES
from meta_test.evaluate import evaluate
from meta_test.optimizers import baseline, learned
from meta_test.results import Indescribable, Results, default_folder, plain
from meta_test.suites import SUITES, Cell
from meta_test.sweep import sweep
from tasks import ImageMLP, load
from tests.meta_test.problems import Constant, line_suite, sgd


@pytest.fixture
def trained(monkeypatch):
    """How many trainings each sweep made, but for short ones that only tell a cost."""
    made = []

    def listen(*args, record_every, **settings):
        if record_every > 1:
            made.append(len(args[5]))
        return sweep(*args, record_every=record_every, **settings)

    monkeypatch.setattr(evaluation, "sweep", listen)
    return lambda: [count for count in made if count]


@pytest.fixture
def said():
    return []


def judged(folder: Path, said: list[str], *contenders, **how):
    return evaluate(
        contenders or [sgd("sgd", 0.1, 0.5)],
        line_suite(),
        results=Results(folder, said.append, **how),
    )


def bits(report):
    leaves = jax.tree.leaves([row.fitted.curve for row in report.rows])
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def test_a_second_evaluation_trains_nothing(tmp_path, trained, said):
    folder = tmp_path / "new" / "results"
    first = judged(folder, said)
    assert trained() == [6, 5]
    again = judged(folder, said)
    assert trained() == [6, 5]
    assert bits(first) == bits(again)
    assert first.rows[0].seconds_per_step == again.rows[0].seconds_per_step
    judged(folder, said, read=False)
    assert trained() == [6, 5, 6, 5]
    # Another candidate is tuned with; the one that is chosen is known.
    judged(folder, said, sgd("sgd", 0.1, 0.5, 1e-3))
    assert trained() == [6, 5, 6, 5, 9]
    assert said == []


def test_what_was_cut_off_goes_on(tmp_path, trained):
    """As by a signal before the second optimizer: the first is not trained again."""
    contenders = [sgd("one", 0.1), sgd("other", 0.2)]

    def cut(progress):
        if progress.done == 1:
            raise InterruptedError

    judge = functools.partial(
        evaluate, contenders, line_suite(), results=Results(tmp_path, print)
    )
    with pytest.raises(InterruptedError):
        judge(on_progress=cut)
    assert trained() == [5]
    assert len(judge().rows) == 2
    assert trained() == [5, 5]


def test_whatever_a_training_depends_on_is_in_its_key(tmp_path, trained, monkeypatch):
    folder = tmp_path
    theta = SmallFC().init_theta(jax.random.key(0))
    other = jax.tree.map(lambda x: x + 1e-3, theta)
    judged(folder, [], learned("a", SmallFC(), theta))
    judged(folder, [], learned("b", SmallFC(), theta))
    assert trained() == [5]
    judged(folder, [], learned("a", SmallFC(), other))
    judged(folder, [], learned("a", SmallFC(hidden_size=8), SmallFC(8).init_theta(KEY)))
    assert trained() == [5] * 3
    evaluate(
        [learned("a", SmallFC(), theta)],
        line_suite(curvature=2.0),
        results=Results(folder, print),
    )
    assert trained() == [5] * 4
    kept.environment.cache_clear()
    monkeypatch.setattr(kept, "source_sha256", lambda: "of other code")
    judged(folder, [], learned("a", SmallFC(), theta))
    assert trained() == [5] * 5
    kept.environment.cache_clear()


KEY = jax.random.key(0)


def test_so_are_the_data_themselves(tmp_path):
    """What has the same name, and a pixel more or other lengths, is something else."""
    digits = ImageMLP(load("digits"))

    def key(**changes):
        data = dataclasses.replace(digits.data, **changes)
        cell = Cell("a", "", dataclasses.replace(digits, data=data), horizon=10)
        # In a family around it as well, and with the name that is published.
        fed = cell.with_gradients("forward_gradient")
        assert (cell.hash, fed.hash) == published
        cells = cell, fed
        results = Results(tmp_path, print)
        return tuple(
            results.key(cell=one.fingerprint(), contender=None, settings={})
            for one in cells
        )

    unchanged = Cell("a", "", digits, horizon=10)
    published = unchanged.hash, unchanged.with_gradients("forward_gradient").hash
    pixels = digits.data.inputs
    brighter = pixels["train"].at[5, 3, 2, 0].add(1)
    train, *others = digits.data.counts
    cut = ((train[0] - 1, 1), *((count[0] - 1, 1) for count in others))
    keys = [
        key(),
        key(inputs={**pixels, "train": brighter}),
        key(labels={**digits.data.labels, "outer_test": digits.data.labels["train"]}),
        key(counts=cut),
    ]
    assert key() == keys[0]
    assert len(set(sum(keys, ()))) == 2 * len(keys)


def test_what_is_damaged_is_made_again(tmp_path, trained, said):
    first = judged(tmp_path, said)
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        content = bytearray(file.read_bytes())
        if number:
            content = content[:100]
        else:
            content[len(content) // 2] ^= 1
        file.write_bytes(content)
    again = judged(tmp_path, said)
    assert trained() == [6, 5, 6, 5]
    assert bits(first) == bits(again)
    assert len(said) == 2
    assert all("must be whole" in line for line in said)


def test_a_disk_that_is_full_ends_nothing(tmp_path, said):
    (tmp_path / "file").touch()
    report = judged(tmp_path / "file" / "results", said)
    assert np.isfinite(report.rows[0].train_loss.median)
    assert len(said) == 2
    assert all("results could not be kept" in line for line in said)


def test_what_has_no_name_is_not_kept(tmp_path, trained):
    nameless = Constant(lambda rate: optax.sgd(rate))
    contender = dataclasses.replace(sgd("mine", 0.1), make=nameless)
    for _ in range(2):
        judged(tmp_path, [], contender)
    assert trained() == [5, 5]
    assert list(tmp_path.iterdir()) == []


def test_descriptions():
    assert plain(functools.partial(optax.sgd, momentum=0.9)) == [
        "optax._src.alias.sgd",
        [],
        {"momentum": 0.9},
    ]
    assert plain(Constant()) == {
        "class": "tests.meta_test.problems.Constant",
        "optimizer": "optax._src.alias.sgd",
    }
    one, same, other = (plain(jnp.array([1.0, x])) for x in (2.0, 2.0, 3.0))
    assert one == same != other
    with pytest.raises(Indescribable, match="must be found in a module by its name"):
        plain(object())


def test_every_baseline_and_cell_can_be_kept(tmp_path):
    results = Results(tmp_path, print)
    cells = SUITES["digits"].cells
    keys = [
        results.key(
            cell=cells[0].fingerprint(), contender=baseline(name).make, settings={}
        )
        for name in BASELINES
    ]
    keys += [
        results.key(cell=cell.fingerprint(), contender=None, settings={})
        for cell in cells
    ]
    assert None not in keys
    assert len(set(keys)) == len(BASELINES) + len(cells)


def test_where_results_are(monkeypatch):
    monkeypatch.setenv("L2O_CACHE_DIR", "/there")
    assert default_folder() == Path("/there")
    monkeypatch.delenv("L2O_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_folder() == Path("/cache/l2o/results")
