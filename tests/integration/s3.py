"""An object store on loopback that can go away: moto's S3 in a process of its own, behind a proxy of ours.

What was stored stays while the proxy refuses connections, hangs up or answers 503. The proxy also
notes every request, so that a test can tell whether an object was put in one piece.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest

from tests.ports import free_port

_CODES = {"503": "SlowDown", "500": "InternalError", "429": "TooManyRequests", "403": "AccessDenied"}


@dataclass(frozen=True)
class Asked:
    """One request as the proxy saw it."""

    method: str
    path: str
    body_bytes: int


@dataclass
class S3:
    """A bucket of its own, and the power over its server.

    Attributes:
        plan: what befalls a request: a status (``"503"``) is answered without more, ``"hang-up"`` resets
            the connection half-way through the body, ``"lost"`` carries it out and resets instead of
            answering, ``"feigned"`` says that all is well and does nothing, and None lets it pass.
        asked: all requests.
        suffered: what befell them, in order.
        refused_s: for how long connections were refused, planned.
    """

    upstream: tuple[str, int]
    bucket: str
    plan: Callable[[Asked], str | None] = lambda asked: None
    asked: list[Asked] = field(default_factory=list)
    suffered: list[str] = field(default_factory=list)
    refused_s: float = 0.0
    _port: int = 0
    _server: _Server | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, name: str = "") -> str:
        """The URL of ``name`` in the bucket."""
        return f"s3://{self.bucket}/{name}".rstrip("/")

    @property
    def options(self) -> dict[str, Any]:
        """What fsspec has to know; the keys open nothing but this server."""
        return {
            "endpoint_url": f"http://127.0.0.1:{self._port}",
            "key": "testing",
            "secret": "testing",
            "client_kwargs": {"region_name": "us-east-1"},
        }

    def come(self) -> None:
        """Takes connections, again on the same port."""
        with self._lock:
            if self._server is None:
                self._server = _Server(("127.0.0.1", self._port or free_port()), self)
                self._port = self._server.server_address[1]
                threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def go(self) -> None:
        """Refuses connections and resets those that are open."""
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.leave()

    def go_for(self, seconds: float) -> None:
        """Goes, and comes back after a while."""
        self.go()
        self.refused_s += seconds
        threading.Timer(seconds, self.come).start()

    def puts(self) -> list[Asked]:
        """The objects that were put, each as often as it was tried."""
        return [one for one in self.asked if one.method == "PUT"]


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], s3: S3) -> None:
        super().__init__(address, _Handler)
        self.s3 = s3
        self.conditional = threading.Lock()
        self.open: set[socket.socket] = set()

    def leave(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                reset(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is what is wanted here."""


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)
    connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _pass_on(self) -> None:
        s3, length = self.server.s3, int(self.headers.get("Content-Length", 0))
        asked = Asked(self.command, self.path, length)
        s3.asked.append(asked)
        fault = s3.plan(asked)
        if fault:
            s3.suffered.append(fault)
        if fault == "hang-up":
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self.rfile.read(length)
        if fault in _CODES:
            told = f"<Error><Code>{_CODES[fault]}</Code><Message>as the test wants</Message></Error>"
            self._answer(int(fault), [("Content-Type", "application/xml")], told.encode())
            return
        if fault == "feigned":
            self._answer(200, [("Content-Type", "application/xml")], b"<DeleteResult></DeleteResult>")
            return
        # S3 decides between two conditional puts; moto looks first and stores afterwards
        with self.server.conditional if self.headers.get("If-None-Match") else contextlib.nullcontext():
            status, headers, content = self._upstream(body)
        if fault == "lost":
            self._reset()
            return
        self._answer(status, headers, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def _upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self.server.s3.upstream)
        with contextlib.closing(connection):
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        given = None
        for name, value in headers:
            if name.lower() == "content-length":
                given = value
            elif name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        # a HEAD tells the length of what it does not send
        self.send_header("Content-Length", given if self.command == "HEAD" and given else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            reset(self.connection)


@pytest.fixture(scope="session")
def s3_process() -> Iterator[tuple[str, int]]:
    """Address of moto's server, in a process of its own, once a session."""
    address = ("127.0.0.1", free_port())
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", address[0], "-p", str(address[1])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(address, 1):
                break
            assert process.poll() is None, "moto's server ended at once"
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def s3(s3_process: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An empty bucket, known to this process and to those it starts."""
    made = S3(s3_process, f"cryoscale-{uuid.uuid4().hex[:12]}")
    made.come()
    with contextlib.closing(http.client.HTTPConnection(*s3_process)) as connection:
        connection.request("PUT", f"/{made.bucket}", headers={"Host": "s3.amazonaws.com"})
        assert connection.getresponse().status == 200
    monkeypatch.setitem(fsspec.config.conf, "s3", made.options)
    monkeypatch.setenv("FSSPEC_S3", json.dumps(made.options))
    yield made
    made.go()
