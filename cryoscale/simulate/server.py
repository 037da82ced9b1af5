"""An embedded STAC API on loopback over a folder of static STAC, so that clients really search.

The API is stac-fastapi's; only what it leaves to a backend is ours: the search over items held in
memory. Asset links are file URIs, which GDAL opens without a server between; plain paths would be
taken as paths on the server.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cryoscale.errors import OperatorError
from cryoscale.simulate.search import Index

if TYPE_CHECKING:
    from fastapi import FastAPI

START_DEADLINE_S = 15.0
"""How long to wait for the server to answer before giving up."""


def application(index: Index) -> FastAPI:
    """The STAC API over ``index``."""
    # stac-fastapi warns at import when its title is not set through the environment; ours is set below.
    logging.getLogger("stac_fastapi.types.config").setLevel(logging.ERROR)
    from cryoscale.simulate.api import build

    return build(index)


@contextlib.contextmanager
def serve(folder: str | Path) -> Iterator[str]:
    """Serve the static catalogue in ``folder`` as a STAC API on loopback; yields its base address.

    Raises:
        SourceError: ``folder`` holds no catalogue.
        OperatorError: the server did not start in time.
    """
    import uvicorn

    app = application(Index(Path(folder)))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="stac-api")
    thread.start()
    try:
        deadline = time.monotonic() + START_DEADLINE_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise OperatorError("the embedded STAC API did not start on 127.0.0.1")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=5.0)
        listener.close()
