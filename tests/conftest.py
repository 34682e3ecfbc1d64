"""How the tests run: on the CPU, with one device, strict about shapes and warnings.

Nothing here imports the packages under test, so that plugins that hook their import
(jaxtyping's) come first.
"""

import os
import tempfile
from pathlib import Path


# Before jax is imported, which reads it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from tests import buckets


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options must be known before tests/golden is collected."""
    parser.addoption(
        "--golden",
        metavar="DIR",
        help="recorded trajectories for tests/golden, in place of those beside it",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Settings that hold for every test."""
    # A rank that grows by accident is a silent outer product.
    jax.config.update("jax_numpy_rank_promotion", "raise")
    use_compile_cache()


def use_compile_cache() -> None:
    """Keeps compiled programs between runs; most of the tests' time is compilation.

    Cached programs are executed as they are, so the folder must be nobody else's. The
    variable JAX_COMPILATION_CACHE_DIR, where it is set, wins.
    """
    # Through the environment, so that the tests' subprocesses share the folder.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            folder = Path(home) / "l2o-tests" / f"jax-{jax.__version__}"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # no home, or not ours to write
            folder = Path(tempfile.mkdtemp(prefix="l2o-tests-"))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    settings = {
        "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.1,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": -1,
    }
    for name, value in settings.items():
        os.environ[name] = str(value)
        jax.config.update(name.lower(), value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips `gpu` tests where there is none; only a gpu test starts the backend."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and jax.default_backend() != "gpu":
        skip = pytest.mark.skip(
            reason="needs a GPU: JAX_PLATFORMS=cuda and a GPU build"
        )
        for item in marked:
            item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def own_results(tmp_path_factory):
    """Trainings that tests make are kept for the tests of this process alone."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("L2O_CACHE_DIR", str(tmp_path_factory.mktemp("results")))
        yield


@pytest.fixture(scope="session")
def shared_store():
    """A store of objects, which clients keep the address of."""
    with buckets.serving() as store:
        yield store


@pytest.fixture
def store(shared_store):
    """The store of objects, without faults."""
    yield shared_store
    shared_store.mend()


@pytest.fixture
def folder(store, tmp_path):
    """The name of a folder of its own in the store."""
    del store
    return tmp_path.name


@pytest.fixture
def x64():
    """Double precision in this test: for finite differences and exact identities."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def clear_programs():
    """Frees a module's programs: a process may map only so many pieces of memory."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def quick_compilation():
    """Programs that are compiled fast and run slowly: where many run only once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def rank_promotion():
    """Allows implicit rank promotion, for other people's code that relies on it."""
    with jax.numpy_rank_promotion("allow"):
        yield
