"""A file server on loopback with latency: range requests, keep-alive, and an account of what was asked.

It runs in a process of its own, so that it does not share the reader's interpreter. The first part of an
address is ignored (``/7/scene/B02.tif`` is ``scene/B02.tif``): a new one makes every file new to clients
that remember addresses.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_TAKE = "/-/take"


@dataclass(frozen=True)
class Request:
    """One request as the server saw it; ``start`` is the first byte asked for."""

    method: str
    path: str
    start: int
    sent_bytes: int


@dataclass(frozen=True)
class RangeServer:
    """A running server."""

    url: str

    def take(self) -> list[Request]:
        """Every request since the last call, in order of arrival."""
        with urllib.request.urlopen(self.url + _TAKE, timeout=10) as answer:
            return [Request(*entry) for entry in json.load(answer)]


@contextlib.contextmanager
def serve(folder: Path, latency_s: float) -> Iterator[RangeServer]:
    """Files of ``folder`` over HTTP from another process, each answer ``latency_s`` late."""
    command = [sys.executable, "-m", "cryoscale.bench.ranges", str(folder), str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield RangeServer(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path
    latency_s: float
    lock = threading.Lock()
    seen: list[Any] = []  # noqa: RUF012  one server a process, and handlers are made per connection

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        if self.path == _TAKE:
            with self.lock:
                body = json.dumps(self.seen).encode()
                self.seen.clear()
            self._send(200, body, {}, with_body=True)
            return
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        time.sleep(self.latency_s)
        name = self.path.split("?", 1)[0].lstrip("/").partition("/")[2]
        path = self.folder / name
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not path.is_file():
            self._send(404, b"", {}, with_body)
            return
        status = path.stat()
        size = status.st_size
        start = int(asked[1]) if asked else 0
        stop = min(int(asked[2]) + 1, size) if asked and asked[2] else size
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(max(stop - start, 0))
        headers = {"Last-Modified": formatdate(status.st_mtime, usegmt=True)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        with self.lock:
            self.seen.append((self.command, name, start, len(body) if with_body else 0))
        self._send(206 if asked else 200, body, headers, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {"Accept-Ranges": "bytes", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are counted, not printed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of our business."""


def main() -> None:
    """``python -m cryoscale.bench.ranges FOLDER LATENCY_S``: serve, and print the port."""
    _Handler.folder, _Handler.latency_s = Path(sys.argv[1]), float(sys.argv[2])
    with _Server(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
