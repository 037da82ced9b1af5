"""A headless Chromium, driven by its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketClientConnection, websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""WebGL where there is no graphics card."""


def find() -> str | None:
    """The browser's program, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


class Page:
    """One tab.

    Attributes:
        events: what the browser has told without being asked.
    """

    def __init__(self, loop: IOLoop, socket: WebSocketClientConnection) -> None:
        self._loop, self._socket, self._number = loop, socket, 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Answers of a method of the protocol."""

        async def ask() -> dict[str, Any]:
            self._number += 1
            await self._socket.write_message(
                json.dumps({"id": self._number, "method": method, "params": parameters})
            )
            while True:
                told = json.loads(await self._socket.read_message() or "{}")
                if told.get("id") == self._number:
                    assert "error" not in told, told
                    return dict(told["result"])
                self.events.append(told)

        return self._loop.run_sync(ask, timeout=60)

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, script: str, seconds: float = 60.0) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}; {self.troubles()}"
            time.sleep(0.05)
        return value

    def open(self, address: str) -> None:
        """Goes to an address, from a page that is not the same with another hash."""
        for url in ("about:blank", address):
            self.call("Page.navigate", url=url)
            there = json.dumps(url.partition("#")[0])  # the page may write its own hash at once
            self.wait(f"document.readyState === 'complete' && location.href.startsWith({there})")

    def click(self, x: float, y: float) -> None:
        """A click at a place of the window, pixels."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requested(self) -> set[str]:
        """All addresses that were asked for."""
        return {
            one["params"]["request"]["url"]
            for one in self.events
            if one.get("method") == "Network.requestWillBeSent"
        }

    def troubles(self) -> list[dict[str, Any]]:
        """Exceptions, and what the console was told."""
        kinds = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
        return [one["params"] for one in self.events if one.get("method") in kinds]


@contextmanager
def browser(program: str, profile: Path, size: tuple[int, int] = (1200, 800)) -> Iterator[Page]:
    """A tab of a browser of its own, which ends with the context."""
    arguments = ["--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    arguments += ["--no-first-run", "--disable-background-networking", *_SOFTWARE_GL, "about:blank"]
    process = subprocess.Popen(
        [program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    loop = IOLoop(make_current=False)
    try:
        port = _patiently(lambda: (profile / "DevToolsActivePort").read_text().split()[0])
        listed = loop.run_sync(lambda: AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json"))
        tab = next(one for one in json.loads(listed.body) if one["type"] == "page")
        socket = loop.run_sync(
            lambda: websocket_connect(tab["webSocketDebuggerUrl"], max_message_size=100_000_000)
        )
        page = Page(loop, socket)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=False,
        )
        yield page
        page.call("Browser.close")
    finally:
        process.terminate()
        process.wait(timeout=30)
        loop.close()


def _patiently(read: Callable[[], str], seconds: float = 60.0) -> str:
    """What is read as soon as it can be."""
    end = time.monotonic() + seconds
    while True:
        try:
            return read()
        except (FileNotFoundError, IndexError):
            assert time.monotonic() < end, "the browser did not start"
            time.sleep(0.05)
