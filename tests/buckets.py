"""A store of objects on this machine, as far as gcsfs and tensorstore ask for one.

Its preconditions hold, which those of the emulators that can be installed do not: a
lease rests on them.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest


BUCKET = "a-bucket"

_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)")
_COPY = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")


class _Object(NamedTuple):
    content: bytes
    generation: int
    updated: str


class Store:
    """Its objects by their names, and what it does before it changes one.

    Attributes:
        address: where it listens.
        before: called with the method and the name of an object before each change;
            what it raises is told as an error that is not to be asked again.
        is_closed: whether all answers are such errors.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.before: Callable[[str, str], None] = lambda method, name: None
        self.is_closed = False
        self.lock = threading.RLock()
        self._objects: dict[str, _Object] = {}
        self._generation = 0

    def __getitem__(self, name: str) -> bytes:
        return self._objects[name].content

    def __setitem__(self, name: str, content: bytes) -> None:
        self._generation += 1
        now = datetime.now(UTC)
        self._objects[name] = _Object(content, self._generation, _text(now))

    def __delitem__(self, name: str) -> None:
        del self._objects[name]

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects that begin so, sorted."""
        with self.lock:
            return sorted(name for name in self._objects if name.startswith(prefix))

    def mend(self) -> None:
        """Makes it answer as it should."""
        self.before = lambda method, name: None
        self.is_closed = False

    def copy(self, prefix: str, target: str) -> None:
        """Copies what is in a folder to another one."""
        for name in self.names(f"{prefix}/"):
            self[f"{target}/{name.removeprefix(f'{prefix}/')}"] = self[name]

    def age(self, name: str, seconds: float) -> None:
        """Makes an object older."""
        found = self._objects[name]
        then = datetime.fromisoformat(found.updated) - timedelta(seconds=seconds)
        self._objects[name] = found._replace(updated=_text(then))

    def flip(self, name: str) -> None:
        """Flips a bit in the middle of an object."""
        content = bytearray(self[name])
        content[len(content) // 2] ^= 1
        self[name] = bytes(content)

    def find(self, name: str) -> _Object | None:
        """The object of that name."""
        return self._objects.get(name)


@contextmanager
def serving() -> Iterator[Store]:
    """A store with one bucket, `BUCKET`, which clients of this environment use."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", server.store.address)
            patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.store.address)
            # Else gcsfs looks for credentials, and logs that there are none.
            patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            yield server.store
        server.shutdown()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.store = Store(f"http://127.0.0.1:{self.server_address[1]}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that are killed, or no longer want to know."""


class _Failed(Exception):
    """An answer that is none."""

    def __init__(self, status: int) -> None:
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def store(self) -> Store:
        assert isinstance(self.server, _Server)
        return self.server.store

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self._asked = dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers: dict[str, str] = {}
        try:
            if self.store.is_closed:
                raise _Failed(403)
            with self.store.lock:
                status, content, headers = self._found(url.path, body)
        except _Failed as error:
            status, content = error.status, b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _found(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if match := _COPY.fullmatch(path):
            source, target = unquote(match[2]), unquote(match[4])
            self._change("copy", target)
            self.store[target] = self._object(source).content
            done = {"done": True, "resource": self._resource(target)}
            return self._json(done)
        if match := _UPLOAD.fullmatch(path):
            name, content = self._asked.get("name", ""), body
            if self._asked["uploadType"] == "multipart":
                name, content = _parts(self.headers["Content-Type"], body)
            if self._asked["uploadType"] == "resumable":
                if "upload_id" not in self._asked:
                    place = f"{self.store.address}{self.path}&upload_id=1"
                    return 200, b"", {"Location": place}
                last = f"0-{len(body) - 1}/{len(body)}"
                assert self.headers["Content-Range"] in (f"bytes {last}", "bytes */0")
            self._precondition(name)
            self._change("write", name)
            self.store[name] = content
            return self._json(self._resource(name))
        if match := _LIST.fullmatch(path):
            return self._json(self._listed())
        match = _OBJECT.fullmatch(path)
        if match is None or match[1] != BUCKET:
            raise _Failed(404)
        name = unquote(match[2])
        found = self._object(name)
        self._precondition(name)
        if self.command == "DELETE":
            self._change("delete", name)
            del self.store[name]
            return 204, b"", {}
        if self._asked.get("alt") != "media":
            return self._json(self._resource(name))
        headers = {
            "x-goog-generation": str(found.generation),
            "x-goog-hash": f"crc32c=,md5={_md5(found.content)}",
            "Content-Type": "application/octet-stream",
        }
        return self._part(found.content, headers)

    def _part(
        self, content: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return 200, content, headers
        first, last = int(match[1]), int(match[2] or len(content) - 1)
        if first >= len(content):
            raise _Failed(416)
        part = content[first : last + 1]
        place = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        return 206, part, headers | {"Content-Range": place}

    def _object(self, name: str) -> _Object:
        found = self.store.find(name)
        if found is None:
            raise _Failed(404)
        return found

    def _change(self, method: str, name: str) -> None:
        try:
            self.store.before(method, name)
        except Exception as error:
            raise _Failed(403) from error

    def _precondition(self, name: str) -> None:
        found = self.store.find(name)
        generation = str(found.generation if found else 0)
        if self._asked.get("ifGenerationMatch", generation) != generation:
            raise _Failed(412)
        if self._asked.get("ifGenerationNotMatch") == generation:
            raise _Failed(304)

    def _listed(self) -> dict[str, Any]:
        prefix = self._asked.get("prefix", "")
        delimiter = self._asked.get("delimiter", "")
        items, prefixes = [], set()
        for name in self.store.names(prefix):
            head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if delimiter and found:
                prefixes.add(f"{prefix}{head}{delimiter}")
            else:
                items.append(self._resource(name))
        return {"items": items, "prefixes": sorted(prefixes)}

    def _resource(self, name: str) -> dict[str, Any]:
        found = self._object(name)
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": BUCKET,
            "generation": str(found.generation),
            "metageneration": "1",
            "size": str(len(found.content)),
            "updated": found.updated,
            "timeCreated": found.updated,
            "md5Hash": _md5(found.content),
        }

    def _json(self, value: Any) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def _parts(kind: str, body: bytes) -> tuple[str, bytes]:
    """The name and the content of an upload in two parts."""
    match = re.search(r'boundary="?([^";]+)', kind)
    assert match is not None, kind
    mark = b"--" + match[1].encode()
    _, first, second, _ = body.split(mark)
    description = re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1]
    content = re.split(rb"\r?\n\r?\n", second, maxsplit=1)[1]
    end = b"\r\n" if content.endswith(b"\r\n") else b"\n"
    return json.loads(description)["name"], content.removesuffix(end)
