"""The kubelet's own HTTPS server, as far as ``kubectl logs`` asks for it through the API server."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from tests.k8s.container import Container
from tests.k8s.pods import Pod

FindPod = Callable[[str, str], Pod | None]

KUBELET_PORT = 10250

FIRST_LINE_AT = datetime(2026, 1, 1)


def serve(address: str, certificate: Path, authority: Path, find: FindPod) -> None:
    """Answer the API server, and nobody who cannot show a certificate of the cluster's authority.

    Raises:
        OSError: somebody else is at that address.
    """
    server = ThreadingHTTPServer((address, KUBELET_PORT), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    server.find = find  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        """``/containerLogs/NAMESPACE/POD/CONTAINER``."""
        url = urlsplit(self.path)
        asked = {key: values[-1] for key, values in parse_qs(url.query).items()}
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if len(parts) != 4 or parts[0] != "containerLogs":
            self._say(404, f"not served here: {url.path}")
            return
        pod = self.server.find(parts[1], parts[2])  # type: ignore[attr-defined]
        try:
            if pod is None:
                raise KeyError(parts[2])
            path, container = pod.log(parts[3], asked.get("previous") == "true")
        except KeyError:
            self._say(400, f'container "{parts[3]}" in pod "{parts[2]}" is waiting to start')
            return
        with contextlib.suppress(OSError):
            self._send(path, container if asked.get("follow") == "true" else None, asked)

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def _send(self, path: Path, followed: Container | None, asked: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with open(path, "rb") as file:
            text = file.read()
            number = 0
            if "tailLines" in asked:
                lines = text.splitlines(keepends=True)
                number = max(0, len(lines) - int(asked["tailLines"]))
                text = b"".join(lines[number:])
            if asked.get("timestamps") == "true":
                self._send_stamped(file, text, number, followed, asked.get("sinceTime", ""))
            else:
                self._chunk(text[: int(asked["limitBytes"])] if "limitBytes" in asked else text)
                while followed is not None:
                    over = followed.exit_code is not None
                    self._chunk(file.read())
                    if over:
                        break
                    time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")

    def _send_stamped(
        self, file: BinaryIO, text: bytes, number: int, followed: Container | None, since: str
    ) -> None:
        """Whole lines behind the times of their writing, for which their numbers stand: a second each."""
        while True:
            over = followed is None or followed.exit_code is not None
            *lines, text = (text + file.read()).split(b"\n")
            for line in lines:
                at = (FIRST_LINE_AT + timedelta(seconds=number)).isoformat()
                number += 1
                if at[:19] >= since[:19]:
                    self._chunk(f"{at}.000000500Z ".encode() + line + b"\n")
            if over:
                return
            time.sleep(0.1)

    def _chunk(self, text: bytes) -> None:
        if text:
            self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
            self.wfile.flush()
