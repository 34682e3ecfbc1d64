"""What docs/ says: tables are what commands print, and code runs."""

import inspect
import re
import subprocess
import tomllib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o.learned import per_parameter
from l2o.learned.facts import table
from l2o.learned.per_parameter import plain_outputs
from meta_train import status
from meta_train.build import build_families, build_trainer
from meta_train.commands.listing import listing
from tests.helpers import ROOT


PAGE = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")


def test_table_is_what_the_command_prints():
    """To mend it, paste the output of the command that the comment names."""
    (shown,) = re.findall(
        r"<!-- table: l2o list architectures -->\n(.*?)\n?<!-- end -->", PAGE, re.DOTALL
    )
    assert shown == table(listing("architectures")["architectures"])


@pytest.fixture(scope="module")
def names():
    """What the blocks of code define, run from the first to the last."""
    # The function that the page quotes has annotations of its module.
    scope = dict(vars(per_parameter))
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        exec(block, scope)
    return scope


PARAMS = {"w": np.array([[1.0, -2.0], [3.0, 0.5]], np.float32)}
GRADS = {"w": np.array([[30.0, -40.0], [0.0, 0.0]], np.float32)}


def first(tx, grads=GRADS) -> Any:
    """The first update."""
    return tx.update(grads, tx.init(PARAMS), PARAMS, value=jnp.float32(1.0))[0]["w"]


def test_chains_do_what_the_page_says(names):
    plain = l2o.optimizer("digits-mlp", num_steps=10_000)
    step = first(plain)
    clipped = first(plain, {"w": GRADS["w"] / 50})
    np.testing.assert_allclose(first(names["clipped"]), clipped, rtol=1e-5)
    np.testing.assert_allclose(first(names["halved"]), 0.5 * step, rtol=1e-6)
    decay = 1e-5 * PARAMS["w"]
    np.testing.assert_allclose(first(names["decayed"]), step - decay, rtol=1e-5)
    penalised = first(plain, {"w": GRADS["w"] + 1e-6 * PARAMS["w"]})
    np.testing.assert_allclose(first(names["penalised"]), penalised, rtol=1e-5)
    np.testing.assert_allclose(first(names["tx"]), 0.5 * clipped - decay, rtol=1e-5)


def test_accumulated_gradients(names):
    plain = l2o.optimizer("digits-mlp", num_steps=133_333)
    want = first(plain)
    for name in ("long", "by_hand"):
        tx: Any = names[name]
        state = tx.init(PARAMS)
        for part in (0.5, 0.5, 2.0):
            grads = {"w": part * GRADS["w"]}
            step, state = tx.update(grads, state, PARAMS, value=jnp.float32(1.0))
        np.testing.assert_allclose(step["w"], want, rtol=1e-5)


def test_the_readable_mlp_is_the_one_that_runs():
    """To mend it, paste the function; the docstring is left out on the page."""
    (shown,) = re.findall(
        r"<!-- source: l2o.learned.per_parameter.plain_outputs -->\n"
        r"```python\n(.*?)```\n<!-- end -->",
        PAGE,
        re.DOTALL,
    )
    source = re.sub(r' *r""".*?"""\n', "", inspect.getsource(plain_outputs), flags=re.S)
    assert shown == source


def test_configs_of_the_page_on_meta_training():
    page = (ROOT / "docs" / "meta_training.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {}
    exec(code, scope)
    (tables,) = re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    families = build_families(tuple(tomllib.loads(tables)["task"]))
    assert {name: f.weight for name, f in families.items()} == {
        "digits": 2.0,
        "quadratic": 1.0,
    }
    trainer = build_trainer(scope["config"])
    assert trainer.mix.names == ("image_mlp",)


def test_launch_files_are_listed_and_scripts():
    page = (ROOT / "docs" / "pods.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "examples" / "launch").iterdir())
    for file in files:
        assert f"[{file.name}](../examples/launch/{file.name})" in page
        if file.suffix != ".yaml":
            subprocess.run(["bash", "-n", str(file)], check=True)
    assert len(files) == 3


def test_statuses_of_the_page_on_pods():
    page = (ROOT / "docs" / "pods.md").read_text(encoding="utf-8")
    named = {value for value in vars(status).values() if isinstance(value, int)}
    assert {f"| {value} | " in page for value in named} == {True}
