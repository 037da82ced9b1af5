"""A web server on loopback that misbehaves as it is told: what real hosts do on bad days, on request."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PREFIXES = count()
"""First parts of addresses that no header is kept of yet."""

STALL_S = 20.0
"""How long a stalled answer is held; any client is gone by then."""


@dataclass(frozen=True)
class Fault:
    """What one answer shall suffer.

    Kinds: ``status`` (with code and headers), ``reset`` (mid-body), ``hang-up`` (before any answer),
    ``truncate`` (the body ends early), ``stall`` (half the body, then silence), ``short`` (a range of half
    the length, honestly declared), ``whole`` (the range is ignored), ``trickle`` (a byte now and then),
    ``garble`` (as many bytes, and others).
    """

    kind: str
    code: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"busy"


@dataclass
class Asked:
    """One request as the server saw it."""

    path: str
    status: int
    at_s: float
    span: str = ""
    query: str = ""


@dataclass
class Server:
    """Files under ``root`` below ``/<anything>/``; the rest goes to the ``upstream`` API, if there is one.

    Attributes:
        plan: gives the fault of a request from its path and how often that path was asked before.
        token_life_s: where set, files want a token of the endpoint ``/sas/token/...``, for so long.
        told_life_s: how long tokens claim to live.
        marks: headers that tell versions of a file apart, from its content and how many were given before.
    """

    root: Path
    upstream: str | None = None
    plan: Callable[[str, int], Fault | None] = lambda path, number: None
    token_life_s: float | None = None
    told_life_s: float = 3600.0
    marks: Callable[[bytes, int], dict[str, str]] = lambda data, number: {}
    asked: list[Asked] = field(default_factory=list)
    suffered: list[str] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    url: str = ""
    _seen: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, path: str) -> Fault | None:
        """The fault of the next request for ``path``."""
        with self._lock:
            number = self._seen.get(path, 0)
            self._seen[path] = number + 1
            found = self.plan(path, number)
            if found is not None:
                self.suffered.append(f"{found.code}" if found.kind == "status" else found.kind)
            return found

    def note(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def token(self) -> dict[str, str]:
        """A new token, as Planetary Computer gives them."""
        with self._lock:
            self.tokens.append(time.monotonic())
            number = len(self.tokens) - 1
        expiry = datetime.now(UTC) + timedelta(seconds=self.told_life_s)
        return {"msft:expiry": expiry.isoformat(), "token": f"se=x&sp=r&sig={number}"}

    def admits(self, query: str) -> bool:
        if self.token_life_s is None:
            return True
        number = parse_qs(query).get("sig", [""])[0]
        return number.isdigit() and time.monotonic() - self.tokens[int(number)] <= self.token_life_s


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        """GDAL's own client asks so for the size."""
        path = self.server_state.root / urlsplit(self.path).path.split("/", 3)[3]
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        state, parts = self.server_state, urlsplit(self.path)
        fault = state.fault(parts.path)
        if fault is not None and fault.kind == "status":
            self._send(fault.code, dict(fault.headers), fault.body, None)
        elif fault is not None and fault.kind == "hang-up":
            self._note(0)
            self._reset()
        elif parts.path.startswith("/sas/token/"):
            self._send(200, {"Content-Type": "application/json"}, json.dumps(state.token()).encode(), fault)
        elif parts.path.startswith("/files/"):
            self._file(parts.path.split("/", 3)[3], parts.query, fault)
        elif state.upstream is not None:
            self._forward(body, fault)
        else:
            self._send(404, {}, b"nothing here", None)

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        """Ask the API behind; it is told our name, so that its links lead back to us."""
        upstream = urlsplit(self.server_state.upstream or "")
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port)
        headers = {"Host": self.headers["Host"], "Content-Type": self.headers.get("Content-Type", "")}
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self._send(answer.status, {"Content-Type": answer.headers["Content-Type"]}, data, fault)

    def _file(self, name: str, query: str, fault: Fault | None) -> None:
        path = self.server_state.root / name
        if not self.server_state.admits(query):
            self._send(403, {}, b"the token has expired", None)
        elif not path.is_file():
            self._send(404, {}, b"no such file", None)
        else:
            data = path.read_bytes()
            marks = self.server_state.marks(data, len(self.server_state.asked))
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted is None or (fault is not None and fault.kind == "whole"):
                self._send(200, marks, data, fault)
                return
            start, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
            if start > last:
                self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"", None)
                return
            if fault is not None and fault.kind == "short":
                last = start + (last - start) // 2
            span = {"Content-Range": f"bytes {start}-{last}/{len(data)}"}
            self._send(206, span | marks, data[start : last + 1], fault)

    def _send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None) -> None:
        self._note(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        kind = fault.kind if fault is not None else ""
        if kind == "garble":
            body = bytes(255 - byte for byte in body)
        if kind == "trickle":
            with contextlib.suppress(OSError):
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            return
        if kind not in ("reset", "truncate", "stall"):
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        self.close_connection = True
        if kind == "reset":
            self._reset()
        elif kind == "stall":
            self.connection.settimeout(STALL_S)
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # returns when the client has had enough

    def _reset(self) -> None:
        """Close so that the client sees a reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.close()
        self.rfile.close()
        self.connection.close()

    def _note(self, status: int) -> None:
        parts = urlsplit(self.path)
        span = self.headers.get("Range", "")
        self.server_state.note(Asked(parts.path, status, time.monotonic(), span, parts.query))


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are the point."""


@contextlib.contextmanager
def misbehaving(root: Path, port: int = 0, **state: Any) -> Iterator[Server]:
    """The server, listening; on ``port`` where one went away before that is to come back."""
    served = Server(root, **state)
    server = _Quiet(("127.0.0.1", port), type("Bound", (_Handler,), {"server_state": served}))
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def remote_catalogue(folder: Path, into: Path, url: str) -> None:
    """The range's catalogue with its assets on the host."""
    for path in folder.rglob("*.json"):
        document = json.loads(path.read_text())
        for asset in document.get("assets", {}).values():
            where = (path.parent / asset["href"]).resolve()
            if where.suffix == ".tif":
                asset["href"] = f"{url}/files/{next(PREFIXES)}/{where.relative_to(folder.resolve())}"
        if document.get("type") == "Feature":
            target = into / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(document))


def by_content(data: bytes, number: int) -> dict[str, str]:
    """Marks that are another one for other bytes; for ``marks``."""
    return {"ETag": hashlib.sha256(data).hexdigest()}
