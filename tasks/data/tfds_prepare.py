"""Preparing data sets of TensorFlow Datasets: download once, read offline after."""

import contextlib
import importlib.util
import itertools
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tasks.data.tfds import library, said
from tasks.data.tfds_find import data_directory, find, nearest, parse


_TIMEOUT = 3.0  # seconds
_HOSTS = 3  # asked before there is said to be no network


def prepare(name: str, data_dir: str | Path | None = None) -> Path:
    """Downloads a data set and writes it as array_record; progress goes to stderr.

    Args:
        name: in TensorFlow Datasets, like `cifar10` or `imagenet_resized/8x8`.
        data_dir: where data sets are kept; by default `$TFDS_DATA_DIR`, else
            `~/tensorflow_datasets`.

    Returns:
        The directory of the data set; one that is there is left as it is.

    Raises:
        ValueError: there is no such data set, a package is missing, or the preparation
            failed.
        OSError: there is no network.
    """
    where = data_directory(data_dir)
    found = find(name, where)
    if found is not None:
        return found
    # What the library prints on stdout is progress as well.
    with contextlib.redirect_stdout(sys.stderr):
        builder = _builder(name, where)
        if type(builder).__module__.startswith("tensorflow_datasets."):
            _require_tensorflow(name)
        _require_network(name, builder.url_infos or ())
        try:
            builder.download_and_prepare()
        except Exception as error:
            if _lacks_tensorflow(error):
                raise _needs_tensorflow(name) from error
            raise _failed(name, error) from error
    return Path(builder.data_dir)


def _builder(name: str, data_dir: Path) -> Any:
    package = library()
    try:
        return package.builder(name, data_dir=data_dir, file_format="array_record")
    except package.core.DatasetNotFoundError as error:
        known = package.list_builders(with_community_datasets=False)
        base = parse(name)["name"]
        raise ValueError(
            "a data set to prepare must be one of TensorFlow Datasets, got "
            f"{name!r}{nearest(base, known)}; l2o list datasets shows those that need "
            "no preparation"
        ) from error
    except Exception as error:
        raise _failed(name, error) from error


def _require_tensorflow(name: str) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        raise _needs_tensorflow(name)


def _needs_tensorflow(name: str) -> ValueError:
    return ValueError(
        f"to prepare {name} TensorFlow must be installed (not to read it): "
        "pip install tensorflow-cpu, or pip install 'l2o[prepare]'"
    )


def _lacks_tensorflow(error: BaseException) -> bool:
    return any("No module named 'tensorflow'" in str(e) for e in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _failed(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name} could not be prepared, got {said(error)}")


def _require_network(name: str, urls: Iterable[str]) -> None:
    """Fails at once where the library would try for minutes, and say nothing."""
    addresses = dict.fromkeys(_address(url) for url in urls)
    errors = []
    for address in itertools.islice(addresses, _HOSTS):
        try:
            socket.create_connection(address, timeout=_TIMEOUT).close()
            return
        except OSError as error:
            errors.append(f"{address[0]}: {error}")
    if errors:
        raise OSError(
            f"to prepare {name} there must be a network, got {'; '.join(errors)}"
        )


def _address(url: str) -> tuple[str, int]:
    """The host and the port that a download connects to first: a proxy's, if any."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    default = 443 if parts.scheme == "https" else 80
    return parts.hostname or "", parts.port or default
