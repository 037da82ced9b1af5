"""The page served on loopback, until it is interrupted."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator

from cryoscale.errors import InputError, OperatorError
from cryoscale.view.shown import Shown

START_DEADLINE_S = 15.0
"""How long to wait for the server to answer before giving up."""


def serve(shown: Shown, port: int, ready: Callable[[str], None]) -> None:
    """Serves the page on ``127.0.0.1:port`` (0 for any) until Ctrl-C.

    Args:
        shown: what the page shows.
        port: where.
        ready: told the address as soon as one can ask for it; who does waits while libraries are loaded.

    Raises:
        InputError: the port is taken, or may not be used.
    """
    with contextlib.suppress(KeyboardInterrupt), served(shown, port, ready) as (_, thread):
        while thread.is_alive():  # until Ctrl-C
            thread.join(timeout=1.0)


@contextlib.contextmanager
def served(
    shown: Shown, port: int = 0, ready: Callable[[str], None] = lambda address: None
) -> Iterator[tuple[str, threading.Thread]]:
    """The page served from a thread, which ends with the context; yields its address and the thread.

    Args as of :func:`serve`.

    Raises:
        InputError: the port is taken, or may not be used.
        OperatorError: the server did not start in time.
    """
    with _listener(port) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        ready(address)
        import uvicorn

        from cryoscale.view.app import application

        server = uvicorn.Server(
            uvicorn.Config(application(shown), log_level="error", lifespan="off", access_log=False)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="view")
        thread.start()
        try:
            deadline = time.monotonic() + START_DEADLINE_S
            while not server.started:
                if not thread.is_alive() or time.monotonic() > deadline:
                    raise OperatorError("the page's server did not start on 127.0.0.1")
                time.sleep(0.01)
            yield address, thread
        finally:
            server.should_exit = True
            thread.join(timeout=5.0)


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a page closed a moment ago
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        taken = "which is in use" if error.errno == errno.EADDRINUSE else "which needs an administrator"
        raise InputError(
            f"--port {port}, {taken}", "a port that is free", "give another, or 0 for any"
        ) from error
    return listener


def open_page(address: str) -> None:
    """Opens an address in a graphical browser, if there is one; one in the terminal would hide it."""
    with contextlib.suppress(webbrowser.Error):
        browser = webbrowser.get()
        if type(browser) is not webbrowser.GenericBrowser:
            browser.open(address)
