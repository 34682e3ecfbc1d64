"""What is read is what was written, or an error says why; no write can lose a tree."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o import storage, trees
from tests.helpers import run_python


class State(NamedTuple):
    key: jax.Array
    step: int


def varied_tree():
    """Everything that an outer state may hold, and bits that are easily lost."""
    return {
        "state": State(jax.random.key(3), 7),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "no_keys": jax.random.split(jax.random.key(0), (0, 2)),
        "adam": optax.adam(1e-3).init({"w": jnp.ones((2, 3))}),
        "bfloat16": jnp.arange(3, dtype=jnp.bfloat16),
        "bool": jnp.array([True, False]),
        "empty": np.zeros((0, 3), np.int16),
        "minus_zero": np.full((4, 4), -0.0, np.float32),
        "nan_payload": np.array([0x7FC00001, 0xFF800001], np.uint32).view(np.float32),
        "float64": np.float64(1) / 3,
        "uint64": np.uint64(2**63 + 1),
        "number": 2.5,
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "none": None,
        "no_leaves": {},
        "slash/key": {"": [np.ones(1), (np.ones(()),)]},
    }


def small_tree(value: float = 1.0):
    return {"w": np.full((2,), value, np.float32), "n": np.zeros((), np.int32)}


def bits(tree) -> list:
    leaves = jax.tree.leaves(tree)
    data = [
        jax.random.key_data(x)
        if jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key)
        else x
        for x in leaves
    ]
    return [(np.asarray(x).dtype, np.shape(x), np.asarray(x).tobytes()) for x in data]


def error_of(path, like=None) -> str:
    with pytest.raises(storage.CheckpointError) as caught:
        storage.read_tree(path, like)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "ck"
    storage.write_tree(path, {"a": small_tree()}, {"step": 1})
    return path


@pytest.fixture
def checkpoint(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "ck"))


def test_round_trip_is_bitwise(tmp_path):
    tree = varied_tree()
    path = tmp_path / "deep" / "down" / "ck"
    storage.write_tree(path, {"state": tree, "leaf": np.arange(3)}, {"pair": (1, 2)})
    like = {"state": tree, "leaf": jax.ShapeDtypeStruct((3,), np.int64)}
    read, manifest = storage.read_tree(path, like)
    assert bits(read) == bits({"state": tree, "leaf": np.arange(3)})
    assert jax.tree.structure(read["state"]) == jax.tree.structure(tree)
    assert read["state"]["keys"].dtype == tree["keys"].dtype
    assert jax.random.key_impl(read["state"]["keys"]) == "rbg"
    assert isinstance(read["state"]["transposed"], np.ndarray)
    assert manifest["pair"] == [1, 2]
    assert manifest == storage.read_manifest(path)
    assert os.listdir(path.parent) == ["ck"]  # noqa: PTH208


def test_without_like_trees_are_nested_dicts(tmp_path):
    storage.write_tree(tmp_path / "ck", {"a": varied_tree(), "b": np.arange(2.0)}, {})
    read, _ = storage.read_tree(tmp_path / "ck")
    assert read["a"]["state"]["step"] == 7
    assert read["a"]["adam"]["0"]["mu"]["w"].shape == (2, 3)
    assert read["a"]["slash/key"][""]["1"]["0"] == 1
    assert read["b"].tolist() == [0, 1]
    assert "none" not in read["a"]


def test_like_may_ask_for_some_of_the_trees(tmp_path):
    storage.write_tree(tmp_path / "ck", {"a": small_tree(), "b": small_tree(2)}, {})
    read, _ = storage.read_tree(tmp_path / "ck", {"b": small_tree()})
    assert list(read) == ["b"]
    assert read["b"]["w"].tolist() == [2, 2]


def test_a_megabyte_is_written_fast(tmp_path):
    tree = {f"w{i}": np.full((100, 104), i, np.float32) for i in range(24)}
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        storage.write_tree(tmp_path / "ck", {"a": tree}, {}, overwrite=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1  # 0.1 s on an idle machine, most of it fsync


def test_every_flipped_bit_is_detected(checkpoint):
    files = [file for file in checkpoint.rglob("*") if file.is_file()]
    assert len(files) >= 6
    flips = 0
    for file in files:
        intact = file.read_bytes()
        # Every byte of the manifest, whose own hash must cover all that matters.
        stride = 1 if file.name == storage.MANIFEST else 5
        for i in range(0, len(intact), stride):
            damaged = bytearray(intact)
            damaged[i] ^= 1 << (i % 8)
            file.write_bytes(damaged)
            error_of(checkpoint)
            flips += 1
        file.write_bytes(intact)
    assert flips > 1000
    storage.read_tree(checkpoint, {"a": small_tree()})


def test_every_truncated_or_missing_file_is_detected(checkpoint):
    for file in [file for file in checkpoint.rglob("*") if file.is_file()]:
        intact = file.read_bytes()
        name = file.relative_to(checkpoint).as_posix()
        for size in (0, len(intact) // 2, len(intact) - 2):  # -1: only a newline
            file.write_bytes(intact[:size])
            assert name in error_of(checkpoint)
        file.unlink()
        assert name in error_of(checkpoint)
        file.write_bytes(intact)


@pytest.mark.parametrize("name", ["extra", "a/extra", "a/d/extra", ".hidden"])
def test_an_extra_file_is_detected(checkpoint, name):
    (checkpoint / name).write_bytes(b"")
    assert f"file {name} must not be there" in error_of(checkpoint)


def test_a_link_is_not_followed(checkpoint):
    file = checkpoint / "a" / "_METADATA"
    file.rename(checkpoint.parent / "elsewhere")
    file.symlink_to(checkpoint.parent / "elsewhere")
    assert "a/_METADATA must be a regular file" in error_of(checkpoint)


def test_the_model_card_may_be_edited(checkpoint):
    (checkpoint / storage.MODEL_CARD).write_text("by hand")
    storage.read_tree(checkpoint)
    storage.write_tree(checkpoint, {"a": small_tree(2)}, {}, overwrite=True)
    assert (checkpoint / storage.MODEL_CARD).read_text() == "by hand"
    storage.read_tree(checkpoint)


def test_the_layout_of_the_manifest_does_not_count(checkpoint):
    file = checkpoint / storage.MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text())).replace(",", ",\r\n"))
    assert storage.read_manifest(checkpoint)["step"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must be as it was written, got JSONDecodeError"),
        ("[]", "must be as it was written, got TypeError"),
        ("{}", "must be as it was written, got KeyError: 'format'"),
        ('{"format": 2, "manifest_sha256": ""}', "format must be 1, got 2"),
        ('{"format": 1, "manifest_sha256": ""}', "its sha256 differs"),
        ("[" * 100_000, "must be as it was written, got RecursionError"),
    ],
)
def test_a_damaged_manifest(checkpoint, content, message):
    (checkpoint / storage.MANIFEST).write_text(content)
    assert message in error_of(checkpoint)


def test_no_checkpoint_there(tmp_path):
    assert "none is there" in error_of(tmp_path / "no")
    assert "must have a manifest.json" in error_of(tmp_path)
    assert not storage.exists(tmp_path)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"b": small_tree()}, "tree 'b' must be one of those written, ['a']"),
        (
            {"a": {"w": np.zeros(2, np.float32)}},
            "leaf 'n' must be absent, got int32[]",
        ),
        (
            {"a": small_tree() | {"x": np.zeros(1)}},
            "leaf 'x' must be float64[1], got absent",
        ),
        (
            {"a": small_tree() | {"w": np.zeros(3, np.float32)}},
            "leaf 'w' must be float32[3], got float32[2]",
        ),
        (
            {"a": small_tree() | {"w": np.zeros(2, np.float16)}},
            "leaf 'w' must be float16[2], got float32[2]",
        ),
        (
            {"a": small_tree() | {"w": jax.eval_shape(lambda: jax.random.key(0))}},
            "leaf 'w' must be key<fry>[], got float32[2]",
        ),
    ],
)
def test_like_must_match(written, like, message):
    assert message in error_of(written, like)


@pytest.mark.parametrize(
    ("tree", "manifest", "error", "message"),
    [
        ({"a": {"x": "text"}}, {}, TypeError, "tree 'a': leaf 'x' must be an array of"),
        ({"a": {"x": object()}}, {}, TypeError, "tree 'a': leaf 'x' must be an array"),
        ({"a": {"x.y": 1, "x": {"y": 2}}}, {}, ValueError, "got 'x.y' twice"),
        ({"../a": {}}, {}, ValueError, "a tree's name must match"),
        ({"a": {}}, {"files": 1}, ValueError, "fields ['files'] are written by"),
        ({"a": {}}, {"x": {1}}, TypeError, "manifest.x must be made of finite"),
        ({"a": {}}, {"x": float("nan")}, TypeError, "manifest.x must be made of"),
    ],
)
def test_what_cannot_be_written(tmp_path, tree, manifest, error, message):
    with pytest.raises(error) as caught:
        storage.write_tree(tmp_path / "ck", tree, manifest)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_only_a_checkpoint_is_written_over_and_only_when_asked(checkpoint, tmp_path):
    with pytest.raises(FileExistsError, match="must not exist, or pass overwrite=True"):
        storage.write_tree(checkpoint, {"a": small_tree(2)}, {})
    storage.write_tree(checkpoint, {"a": small_tree(2)}, {}, overwrite=True)
    assert storage.read_tree(checkpoint)[0]["a"]["w"].tolist() == [2, 2]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    with pytest.raises(FileExistsError, match="must be a checkpoint to be overwritten"):
        storage.write_tree(tmp_path / "thesis", {"a": small_tree()}, {}, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ck", "thesis"]


def test_an_empty_directory_is_written_to(tmp_path):
    storage.write_tree(tmp_path, {"a": small_tree(2)}, {})
    assert storage.read_tree(tmp_path)[0]["a"]["w"].tolist() == [2, 2]


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "target",
    [
        "os.fsync",
        "pathlib.Path.write_text",
        "orbax.checkpoint.PyTreeCheckpointHandler.save",
        "orbax.checkpoint.PyTreeCheckpointHandler.finalize",
    ],
)
def test_a_full_disk_leaves_the_old_checkpoint(checkpoint, monkeypatch, target):
    with monkeypatch.context() as patch:
        patch.setattr(target, no_space)
        with pytest.raises(OSError, match="No space left") as caught:
            storage.write_tree(checkpoint, {"a": small_tree(2)}, {}, overwrite=True)
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in checkpoint.parent.iterdir()] == ["ck"]
    assert storage.read_tree(checkpoint)[0]["a"]["w"].tolist() == [1, 1]


def test_free_space_is_checked_first(checkpoint, monkeypatch):
    usage = shutil.disk_usage(checkpoint)._replace(free=3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    storage.write_tree(checkpoint, {"a": np.zeros(2**20, np.uint8)}, {}, overwrite=True)
    with pytest.raises(OSError, match=r"needs 3,145,730 bytes free.* got 3,145,728"):
        storage.write_tree(
            checkpoint, {"a": np.zeros(2**20 + 1, np.uint8)}, {}, overwrite=True
        )
    assert [p.name for p in checkpoint.parent.iterdir()] == ["ck"]


def test_a_full_disk_in_tensorstore_has_its_errno(tmp_path, monkeypatch):
    def exhausted(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: ...\n[os_error_code='28']")

    monkeypatch.setattr("orbax.checkpoint.PyTreeCheckpointHandler.save", exhausted)
    with pytest.raises(OSError, match="cannot write") as caught:
        storage.write_tree(tmp_path / "ck", {"a": small_tree()}, {})
    assert caught.value.errno == errno.ENOSPC
    assert "\n" not in str(caught.value)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(RuntimeError, match="by process 0, this is 1"):
        storage.write_tree(tmp_path / "ck", {"a": small_tree()}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_rename_that_fails_puts_the_old_one_back(checkpoint, monkeypatch):
    rename = Path.rename

    def fail_on_commit(self, target):
        if ".tmp-" in self.name:
            no_space()
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_on_commit)
        with pytest.raises(OSError, match="No space left"):
            storage.write_tree(checkpoint, {"a": small_tree(2)}, {}, overwrite=True)
    assert [p.name for p in checkpoint.parent.iterdir()] == ["ck"]
    assert storage.read_tree(checkpoint)[0]["a"]["w"].tolist() == [1, 1]


def test_writes_that_fail_inside_tensorstore_are_one_line(tmp_path):
    """A limit on file sizes makes the C++ side fail as a full disk does."""
    code = f"""
import os, resource
import numpy as np
os.dup2(1, 2)  # anything logged is printed too
from l2o import storage
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.frombuffer(np.random.default_rng(0).bytes(10**6), np.uint8)
try:
    storage.write_tree({str(tmp_path / "ck")!r}, {{"a": noise}}, {{}})
except OSError as error:
    print(error)
"""
    (line,) = run_python(code).splitlines()
    assert "cannot write" in line
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = tmp_path / f".ck.tmp-{os.getppid()}"
    others = tmp_path / ".ck2.tmp-1"
    for leftover in (tmp_path / f".ck.tmp-{dead.pid}", living, others):
        leftover.mkdir()
        (leftover / "part").write_text("x")
    (tmp_path / f".ck.tmp-{os.getpid()}").mkdir()
    storage.write_tree(tmp_path / "ck", {"a": small_tree()}, {})
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"ck", living.name, others.name}


def test_a_kill_between_the_renames_is_recovered(checkpoint):
    old = checkpoint.rename(checkpoint.with_name(".ck.old"))
    assert storage.exists(checkpoint)
    assert storage.read_tree(checkpoint)[0]["a"]["w"].tolist() == [1, 1]
    with pytest.raises(FileExistsError):
        storage.write_tree(checkpoint, {"a": small_tree(2)}, {})
    assert checkpoint.is_dir()
    assert not old.exists()


# Kills itself at the k-th change to the file system that Python makes, for every k.
# Each life is a fork: an interpreter that has orbax already and no JAX backend yet.
KILL = """
import itertools, os, shutil, signal, sys
from pathlib import Path
import numpy as np
import orbax.checkpoint
from l2o import storage
root = Path({root!r})
MUTATIONS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

def life(k, path):
    count = itertools.count(1)
    def hook(event, args):
        writes = event == "open" and isinstance(args[1], str) and args[1][0] in "wax"
        if (writes or event in MUTATIONS) and next(count) == k:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    tree = {{"w": np.full((2,), 2.0, np.float32), "n": np.zeros((), np.int32)}}
    storage.write_tree(path, {{"a": tree}}, {{"step": 2}}, overwrite=True)

for k in itertools.count(1):
    path = root / str(k) / "ck"
    shutil.copytree({written!r}, path)
    pid = os.fork()
    if not pid:
        life(k, path)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
print(k - 1)
"""


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(written, tmp_path):
    code = KILL.format(root=str(tmp_path), written=str(written))
    kills = int(run_python(code))
    assert kills >= 10
    seen = []
    for k in range(1, kills + 2):
        path = tmp_path / str(k) / "ck"
        read, manifest = storage.read_tree(path, {"a": small_tree()})
        assert read["a"]["w"].tolist() == [manifest["step"]] * 2
        seen.append(manifest["step"])
        if k % 4 == 0:
            storage.write_tree(path, {"a": small_tree(3)}, {}, overwrite=True)
            assert [p.name for p in path.parent.iterdir()] == ["ck"]
    assert set(seen) == {1, 2}
    assert seen == sorted(seen)


def test_hash_covers_paths_types_shapes_and_bytes():
    def sha256(tree):
        return trees.sha256(trees.to_host(tree))

    tree = {"a": np.zeros((2, 3), np.float32), "b": np.ones(1, np.float32)}
    jax_tree = jax.tree.map(jnp.asarray, dict(reversed(tree.items())))
    assert sha256(tree) == sha256(jax_tree)
    others = [
        {"a": tree["a"], "c": tree["b"]},
        tree | {"a": np.zeros((3, 2), np.float32)},
        tree | {"a": np.zeros((2, 3), np.int32)},
        tree | {"a": -tree["a"]},
        tree | {"b": np.nextafter(tree["b"], np.float32(2))},
        {"b": tree["a"], "a": tree["b"]},
    ]
    assert len({sha256(t) for t in [tree, *others]}) == 7


def test_nothing_is_logged(tmp_path, capfd, caplog):
    storage.write_tree(tmp_path / "ck", {"a": small_tree()}, {})
    storage.read_tree(tmp_path / "ck", {"a": small_tree()})
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert caplog.records == []
