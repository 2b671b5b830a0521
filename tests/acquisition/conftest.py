"""A host on the loopback that can be told to misbehave, and small items to get from it."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from tests.conftest import WAIT

from t2ipal.acquisition.catalogue import Archive, Item
from t2ipal.acquisition.download import Patience


@dataclass
class Answer:
    """How one request is answered: well, unless told otherwise."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # in place of the file's own content
    cut: int | None = None  # close the connection after so many bytes of the body
    ranges: bool = True
    first: int | None = None  # claim that the part that is sent begins here
    length: bool = True  # name the length
    packed: bool = False  # gzip for the way
    etag: str | None = "content"  # None: none; "content": of what is sent
    gate: threading.Event | None = None  # wait for it after the cut, before closing


@dataclass
class Request:
    """What was asked, and how many bytes of the body went out."""

    path: str
    range: str | None
    condition: str | None
    encoding: str | None
    sent: int = 0


class Host:
    """Serves ``files``; ``plan`` has the answers to the next requests for a path."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.plans: dict[str, list[Answer]] = {}
        self.requests: list[Request] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host.answer(self)

            def log_message(self, *arguments: Any) -> None:
                """Nothing: the test's output is for the test."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_port}"

    def url(self, path: str) -> str:
        return f"{self.base}/{path}"

    def plan(self, path: str, *answers: Answer) -> None:
        self.plans[path] = list(answers)

    @property
    def sent(self) -> int:
        return sum(request.sent for request in self.requests)

    @property
    def ranges(self) -> list[str | None]:
        return [request.range for request in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        asked = handler.headers
        request = Request(path, asked["Range"], asked["If-Range"], asked["Accept-Encoding"])
        self.requests.append(request)
        plan = self.plans.get(path)
        told = plan.pop(0) if plan else Answer()
        handler.close_connection = True
        content = told.body if told.body is not None else self.files.get(path)
        if content is None or told.status != 200:
            handler.send_response(told.status if told.status != 200 else 404)
            for name, value in told.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.send_header("Connection", "close")
            handler.end_headers()
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"' if told.etag == "content" else told.etag
        start, status = self._start(request, told, tag), 200
        if start is not None and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.send_header("Connection", "close")
            handler.end_headers()
            return
        if start is not None:
            status = 206
            claimed = start if told.first is None else told.first
            told.headers.setdefault("Content-Range", f"bytes {claimed}-{len(content) - 1}/{len(content)}")
        body = content[start or 0 :]
        if told.packed:
            body = gzip.compress(body)
            told.headers.setdefault("Content-Encoding", "gzip")
        handler.send_response(status)
        if tag is not None:
            handler.send_header("ETag", tag)
        for name, value in told.headers.items():
            handler.send_header(name, value)
        if told.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        body = body[: told.cut]
        try:
            for place in range(0, len(body), 4096):
                block = body[place : place + 4096]
                request.sent += len(block)  # first: who has the whole body may ask at once
                handler.wfile.write(block)
            handler.wfile.flush()
            if told.gate is not None:
                told.gate.wait(WAIT)
        except OSError:
            return

    @staticmethod
    def _start(request: Request, told: Answer, tag: str | None) -> int | None:
        """The first byte to send, as the standard has it; None for all of them."""
        match = re.fullmatch(r"bytes=(\d+)-", request.range or "")
        if match is None or not told.ranges:
            return None
        known = {tag, told.headers.get("Last-Modified")}
        return int(match[1]) if request.condition is None or request.condition in known else None


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Host()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds an answer back until it is set."""
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def patience() -> Patience:
    """Little of it, but for answers: the host is a thread of this process, which others may keep from its work."""
    return Patience(attempts=3, first_pause=0.01, longest_pause=0.05, connect=30, answer=60)


@pytest.fixture
def content() -> bytes:
    """A file of 300,000 bytes that no packing makes smaller."""
    return np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def new_answer() -> type[Answer]:
    return Answer


@pytest.fixture
def make_archive(host: Host) -> Callable[..., Archive]:
    """An archive of the catalogue for this content, which the host serves under ``names``."""

    def make(content: bytes, *names: str, **changes: Any) -> Archive:
        for name in names or ("a.bin",):
            host.files[name] = content
        values = {
            "urls": [host.url(name) for name in names or ("a.bin",)],
            "bytes": len(content),
            "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "kind": "file",
            "directory": "files",
        }
        return Archive(**{**values, **changes})

    return make


@pytest.fixture
def make_item() -> Callable[..., Item]:
    """An item of these archives; of a single file by default."""

    def make(*archives: Archive, **changes: Any) -> Item:
        values = {
            "name": "tiny",
            "home": "https://example.org",
            "terms": "none",
            "files": list(archives),
            "unpacked_bytes": 1_000_000,
            "expected": {"files/*.bin": 1},
        }
        return Item(**{**values, **changes})

    return make
