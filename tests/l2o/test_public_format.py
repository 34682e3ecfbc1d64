"""Published weights come in and go out with their bits, or an error says why not."""

import pickle
import re
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

import l2o
from l2o import public_format
from l2o.learned import ARCHITECTURES
from l2o.public_format import FORMS
from tests.helpers import run_python


pack: Any = msgpack.packb  # Its type says that it may give None.
GOLDEN = Path(__file__).parent.parent / "golden"
PUBLISHED = {
    "small_fc_lopt": "small_fc",
    "velo_small": "velo",
    "velo_tiny_bugged": "velo",
    "celo_released": "celo",
    "celo2": "celo2",
    "celo2_base": "celo2-base",
}
SIZES: dict[str, dict[str, Any]] = {
    "small_fc": {"hidden_size": 5, "hidden_layers": 3},
    "velo": {"lstm_size": 3, "mixtures": 2, "hidden_size": 5, "hidden_layers": 1},
    "celo": {"lstm_size": 3, "hidden_size": 2, "hidden_layers": 11},
    "celo_adam": {"lstm_size": 5},
    "celo2": {"hidden_size": 3, "hidden_layers": 1},
    "celo2_base": {"hidden_size": 2, "hidden_layers": 2, "orthogonalize": False},
}


def published(name: str) -> Path:
    return GOLDEN / f"{name}.theta.state"


def restored(name: str) -> Any:
    """The tree of a file as flax reads it."""
    return flax.serialization.msgpack_restore(published(name).read_bytes())


def bits(theta) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(theta)]


def random_theta(lopt):
    shapes = jax.eval_shape(lopt.init_theta, jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return tree.unflatten(
        [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves]
    )


def written(tmp_path, content: bytes) -> Path:
    path = tmp_path / "theta.state"
    path.write_bytes(content)
    return path


def error_of(path, arch: str, **flags) -> str:
    with pytest.raises(l2o.CheckpointError) as caught:
        l2o.import_public(path, arch, **flags)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize(("name", "arch"), PUBLISHED.items())
def test_an_imported_file_is_exported_as_it_was(tmp_path, name, arch):
    lopt, theta = l2o.import_public(published(name), arch=arch)
    for leaf in jax.tree.leaves(theta):
        assert isinstance(leaf, jax.Array)
    l2o.export_public(tmp_path / "again", lopt, theta)
    assert (tmp_path / "again").read_bytes() == published(name).read_bytes()


@pytest.mark.parametrize("arch", FORMS)
def test_other_sizes_come_back_with_their_bits(tmp_path, arch):
    lopt = ARCHITECTURES[FORMS[arch].architecture](**SIZES[arch])
    theta = random_theta(lopt)
    l2o.export_public(tmp_path / "x", lopt, theta)
    again, theta_again = l2o.import_public(tmp_path / "x", arch)
    assert again == lopt
    assert jax.tree.structure(theta_again) == jax.tree.structure(theta)
    assert bits(theta_again) == bits(theta)


def test_velo_in_its_published_size(tmp_path):
    lopt = l2o.VeLO(lstm_size=512, mixtures=256)
    theta = random_theta(lopt)
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == 2_320_385
    l2o.export_public(tmp_path / "x", lopt, theta)
    again, theta_again = l2o.import_public(tmp_path / "x", "velo")
    assert again == lopt
    assert bits(theta_again) == bits(theta)


def test_every_array_goes_where_it_belongs():
    """Against what flax reads, entry by entry; LSTM 64, 32 mixtures."""
    state = restored("velo_small")
    lopt, theta = l2o.import_public(published("velo_small"), "velo")
    assert lopt == l2o.VeLO()
    mlp, rnn = state["ff_mod_stack"]["~"], state["rnn_params"]
    # Features 3 to 5, the momenta, are the fourth group; row features are the tenth.
    groups = {0: slice(0, 1), 3: slice(3, 6), 9: slice(15, 18), 13: slice(27, 30)}
    for number, rows in groups.items():
        np.testing.assert_array_equal(
            theta["mlps"][0]["w"][:, rows], mlp[f"w0__{number}"]
        )
    for i in range(3):
        np.testing.assert_array_equal(theta["mlps"][i]["b"], mlp[f"b{i}"])
    np.testing.assert_array_equal(theta["mlps"][2]["w"], mlp["w2"])
    ours = {
        "unused": "linear",
        "mix": "linear_1",
        "inputs": "linear_2",
        "cell": "rnn/linear",
        "controls": "rnn_to_controls",
        "step_size": "step_size",
    }
    assert set(theta["lstm"]) == set(ours)
    for own, public in ours.items():
        for kind in ("w", "b"):
            np.testing.assert_array_equal(theta["lstm"][own][kind], rnn[public][kind])
    for kind in ("hidden", "cell"):
        np.testing.assert_array_equal(
            theta["initial_state"][kind], state["lstm_init_state"][kind]
        )


def test_the_exported_celo_adam_is_laid_out_as_the_published_one(tmp_path):
    """The published file has 147,803 bytes and these entries."""
    lopt = ARCHITECTURES["celo_adam"]()
    l2o.export_public(tmp_path / "x", lopt, random_theta(lopt))
    content = (tmp_path / "x").read_bytes()
    assert len(content) == 147_803
    shapes = jax.tree.map(np.shape, flax.serialization.msgpack_restore(content))
    linear = {"b": (64,), "w": (18, 64)}
    assert shapes == {
        "lstm_init_state": {"hidden": (1, 64), "cell": (1, 64)},
        "rnn_params": {
            "linear": linear,
            "linear_1": linear,
            "linear_2": linear,
            "rnn/linear": {"b": (256,), "w": (128, 256)},
            "step_size": {"b": (1,), "w": (64, 1)},
        },
    }


def test_arrays_in_chunks(tmp_path, monkeypatch):
    """Flax cuts arrays of more than 2^30 bytes; here of more than 64."""
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    content = flax.serialization.msgpack_serialize(restored("small_fc_lopt"))
    assert content.count(b"__msgpack_chunked_array__") == 1  # w0
    _, theta = l2o.import_public(written(tmp_path, content), "small_fc")
    assert bits(theta) == bits(
        l2o.import_public(published("small_fc_lopt"), "small_fc")[1]
    )


def test_weights_in_a_parameter_checkpoint(tmp_path):
    """As learned_optimization's gradient_learner.ParameterCheckpoint is written."""
    state = {"params": restored("celo2"), "gen_id": "aug12", "step": np.int32(5)}
    content = flax.serialization.msgpack_serialize(state)
    _, theta = l2o.import_public(written(tmp_path, content), "celo2")
    assert bits(theta) == bits(l2o.import_public(published("celo2"), "celo2")[1])


def test_flags_say_what_weights_do_not():
    path = published("velo_tiny_bugged")
    lopt, _ = l2o.import_public(
        path, "velo", bugged_lstm_state=True, bugged_loss_features=True, step_mult=1
    )
    assert lopt == l2o.VeLO(
        lstm_size=16,
        mixtures=8,
        step_mult=1.0,
        bugged_lstm_state=True,
        bugged_loss_features=True,
    )


@pytest.mark.parametrize(
    ("name", "arch", "flags", "message"),
    [
        ("celo2", "velo2", {}, "got 'velo2' (did you mean 'velo'?)"),
        ("velo_small", "velo", {"bugged_lstm": True}, "(did you mean 'bugged_lstm_"),
        ("velo_small", "velo", {"step_mult": "1"}, "velo: step_mult must be a finite"),
        ("velo_small", "velo", {"lstm_size": 64}, "velo: lstm_size must be left out"),
        ("celo2", "celo2", {"hidden_layers": 2}, "hidden_layers must be left out"),
        ("celo2", "celo2-base", {"orthogonalize": True}, "orthogonalize must be left"),
    ],
)
def test_wrong_flags_are_not_the_fault_of_the_file(name, arch, flags, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        l2o.import_public(published(name), arch, **flags)
    assert not isinstance(caught.value, l2o.CheckpointError)


@pytest.mark.parametrize(
    ("name", "arch", "message"),
    [
        (
            "velo_small",
            "celo",
            "not of arch celo: leaf 'ff_mod_stack/~/b0' must be float32[1, 4], got "
            "float32[32, 4] (arch velo fits)",
        ),
        (
            "celo_released",
            "velo",
            "leaf 'rnn_params/linear/w' must be float32[30, 64], got float32[18, 64] "
            "(arch celo fits)",
        ),
        (
            "celo_released",
            "celo_adam",
            "leaf 'ff_mod_stack/~/b0' must be absent, got float32[1, 4] (arch celo "
            "fits)",
        ),
        (
            "celo2",
            "small_fc",
            "leaf 'adafactor_decays' must be float32[3], got absent (arch celo2 or "
            "celo2_base fits)",
        ),
    ],
)
def test_weights_of_another_architecture(name, arch, message):
    assert message in error_of(published(name), arch)


def changed(key, value):
    """The file of small_fc with one entry of the MLP replaced, removed or added."""
    state = restored("small_fc_lopt")
    if value is None:
        del state["nn"]["~"][key]
    else:
        state["nn"]["~"][key] = value
    return flax.serialization.msgpack_serialize(state)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("w1", None, "leaf 'nn/~/w1' must be float32[4, 4], got absent"),
        ("b1", None, "leaf 'nn/~/b1' must be float32[2], got absent"),
        ("b0", None, "leaf 'nn/~/b0' must be float32[4], got absent"),
        ("x", np.ones(2, "f4"), "leaf 'nn/~/x' must be absent, got float32[2]"),
        ("w1", np.ones((4, 5), "f4"), "must be float32[4, 4], got float32[4, 5]"),
        ("w1", np.ones((4, 4)), "must be float32[4, 4], got float64[4, 4]"),
        ("w1", np.ones((4, 4), "i4"), "must be float32[4, 4], got int32[4, 4]"),
        ("b0", np.ones((1, 4), "f4"), "must be float32[4], got float32[1, 4]"),
        ("b0", np.ones((), "f4"), "leaf 'nn/~/b0' must be float32[4], got float32[]"),
        ("b0", np.float32(1), "leaf 'nn/~/b0' must be an array of numbers, got "),
        ("b0", 1j, "ValueError: extension type 2"),
        ("b0", 1.5, "leaf 'nn/~/b0' must be an array or a map, got float"),
        ("b0", "x", "leaf 'nn/~/b0' must be an array or a map, got str"),
        ("b0", {}, "leaf 'nn/~/b0' must be float32[4], got absent"),
        ("b0", np.ones(4, bool), "got ValueError: dtype 'bool'"),
        ("b0", np.ones(0, "f4"), "got ValueError: 0 numbers for the shape [0]"),
        ("b0", {"w": np.ones(4, "f4")}, "leaf 'nn/~/b0' must be float32[4], got abs"),
        ("w0", {"__msgpack_chunked_array__": True}, "must be a chunked array, got Key"),
        (
            "w0",
            {
                "__msgpack_chunked_array__": True,
                "shape": {"0": 2**62},
                "chunks": {"0": np.ones(4, "f4")},
            },
            "ValueError: 4 numbers for the shape [4611686018427387904]",
        ),
    ],
)
def test_an_entry_that_does_not_fit(tmp_path, key, value, message):
    assert message in error_of(written(tmp_path, changed(key, value)), "small_fc")


def packed(shape, dtype, content) -> bytes:
    """A file with one array, which says of itself what is given."""
    return pack({"rms_decays": msgpack.ExtType(1, pack((shape, dtype, content)))})


FOREIGN = {
    "empty": b"",
    "text": b"theta",
    "pickle": pickle.dumps({"nn": np.ones(3)}),
    "zip": b"PK\x03\x04" + bytes(100),
    "random": np.random.default_rng(0).bytes(1000),
    "a number": pack(3),
    "a list": pack([1, 2]),
    "nothing": pack(None),
    "an empty map": pack({}),
    "numbers as names": pack({1: 2}),
    "bytes as names": pack({b"nn": {}}),
    "names with a line": pack({"a\nb\x1b[31m": 1}),
    "a long name": pack({"n" * 10**5: {}}),
    "two of a name": b"\x82\xa1a\x80\xa1a\x80",
    "two messages": published("small_fc_lopt").read_bytes() * 2,
    "a time": pack({"nn": msgpack.Timestamp(1)}),
    "many maps": b"\x81\xa1a" * 900 + b"\x80",
    "too many maps": b"\x81\xa1a" * 10**5,
    "a huge map": b"\xdf\xff\xff\xff\xff",
    "a huge list": b"\xdd\xff\xff\xff\xff" * 1000,
    "a huge array": b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
    "a negative shape": packed((-1, -3), "float32", bytes(12)),
    "a lying shape": packed((2**31, 2**31), "float32", bytes(12)),
    "a shape that overflows": packed((2**32, 2**32), "float32", b""),
    "a shape with 0": packed((0, 2**62), "float32", b""),
    "a shape of floats": packed((3.0,), "float32", bytes(12)),
    "a shape of bools": packed((True, 3), "float32", bytes(12)),
    "a shape of many axes": packed((1,) * 1000, "float32", bytes(4)),
    "no shape": packed(3, "float32", bytes(12)),
    "an odd number of bytes": packed((3,), "float32", bytes(13)),
    "objects": packed((1,), "object", bytes(8)),
    "records": packed((1,), "f4,f4", bytes(8)),
    "a dtype that is no name": packed((3,), 7, bytes(12)),
    "text for bytes": packed((3,), "float32", "x" * 12),
    "an array within": packed((3,), "float32", msgpack.ExtType(1, bytes(12))),
    "no array within": pack({"nn": msgpack.ExtType(1, b"\xc1")}),
    "another extension": pack({"nn": msgpack.ExtType(5, b"x")}),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_something_else(tmp_path, content):
    message = error_of(written(tmp_path, content), "small_fc")
    assert " must " in message
    assert message.isprintable()


def test_a_file_that_is_not_there(tmp_path):
    assert "must be a file of weights, none is there" in error_of(tmp_path, "velo")
    assert "none is there" in error_of(tmp_path / "x", "velo")


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(public_format, "_MAX_BYTES", 1000)
    message = error_of(published("small_fc_lopt"), "small_fc")
    assert re.search(r"got ValueError: \d,\d{3} bytes, more than 1,000$", message)


def test_sizes_that_contradict_each_other_take_no_memory(tmp_path):
    """An LSTM of that size would have 2 TB."""
    state = restored("velo_small")
    state["lstm_init_state"]["hidden"] = np.zeros((1, 500_000), "f4")
    content = flax.serialization.msgpack_serialize(state)
    assert "leaf 'lstm_init_state/cell' must be float32[1, 500000], got " in error_of(
        written(tmp_path, content), "velo"
    )


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 42, 127])
def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Bomb())
    pickle.loads(bomb)
    Path("exploded").unlink()  # It does explode.
    for content in (
        bomb,
        pack({"nn": msgpack.ExtType(code, bomb)}),
        pack({"nn": bomb}),
        packed((len(bomb),), "object", bomb),
        packed((1,), bomb, bytes(4)),
    ):
        error_of(written(tmp_path, content), "small_fc")
    assert not Path("exploded").exists()


def outcome(path, original: list[bytes]) -> str:
    """What an import gives: an error of ours, or other bits."""
    try:
        _, theta = l2o.import_public(path, "small_fc")
    except l2o.CheckpointError:
        return "error"
    assert bits(theta) != original
    return "other bits"


def test_damaged_files(tmp_path):
    path = published("small_fc_lopt")
    content = path.read_bytes()
    original = bits(l2o.import_public(path, "small_fc")[1])
    for length in range(0, len(content), 97):
        assert outcome(written(tmp_path, content[:length]), original) == "error"
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= rng.integers(1, 256)
        outcomes.append(outcome(written(tmp_path, bytes(damaged)), original))
    # Most of the bytes are numbers, in which no change can be detected.
    assert 50 < outcomes.count("error") < 250


def test_export_errors(tmp_path):
    lopt, theta = l2o.import_public(published("celo2"), "celo2")
    path = tmp_path / "x"
    with pytest.raises(ValueError, match=r"must be one of \[.*\], got relative_mlp"):
        l2o.export_public(path, l2o.RelativeMLP(), {})
    with pytest.raises(ValueError, match="theta is not small_fc's: leaf"):
        l2o.export_public(path, l2o.SmallFC(), theta)
    assert list(tmp_path.iterdir()) == []
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="x must not exist, it does"):
        l2o.export_public(path, lopt, theta)
    assert path.read_text() == "mine"


def test_no_flax_is_needed():
    code = f"""
import sys
import l2o
l2o.import_public({str(published("small_fc_lopt"))!r}, "small_fc")
print("flax" in sys.modules)
"""
    assert run_python(code).strip() == "False"
