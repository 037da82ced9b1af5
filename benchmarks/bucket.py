"""moto's S3 on loopback in a process of its own, its bucket filled before it serves.

``python -m benchmarks.bucket N`` puts N markers into the bucket, past the server, and prints the port.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.command import Parser, at_least, command
from cryoscale.bench import idle
from cryoscale.ledger import DONE, name_of

BUCKET, RUN = "benchmark", "run"
ACCOUNT = "123456789012"
_ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def serve(count: int) -> Iterator[str]:
    """The URL of a run with ``count`` markers, which fsspec opens for the body's duration."""
    command = [sys.executable, "-m", "benchmarks.bucket", str(count)]
    with subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        before = dict(fsspec.config.conf)
        try:
            assert process.stdout is not None
            fsspec.config.conf["s3"] = _options(int(process.stdout.readline()))
            yield f"s3://{BUCKET}/{RUN}"
        finally:
            fsspec.config.conf.clear()
            fsspec.config.conf.update(before)
            process.terminate()


def _options(port: int) -> dict[str, Any]:
    """What s3fs has to know; the keys open nothing but this server."""
    return {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "key": "testing",
        "secret": "testing",
        "client_kwargs": {"region_name": "us-east-1"},
    }


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the bucket, serve it and print the port."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("markers", type=at_least(0))
    given = parser.parse_args(arguments)
    from moto.s3.models import s3_backends
    from moto.server import ThreadedMotoServer

    backend = s3_backends[ACCOUNT]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    for work in idle.works(given.markers):
        content = idle.marker_of(work).to_bytes()
        backend.put_object(BUCKET, f"{RUN}/{name_of(DONE, work)}", content)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
