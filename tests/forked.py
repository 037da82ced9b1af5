"""Commands as forks of one process that has imported what they need, as a run's own workers are.

``python -m cryoscale`` imports for three processor seconds before it does anything, and tests that kill what
they start start it a hundred times. A fork is a process like any other: it has a session, an environment and
pipes of its own, and can be killed, frozen, and looked at. What is read of the environment while a module is
imported has been read by then: who sets such a variable starts an interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import fsspec

_IMPORTED = (
    "cryoscale.cli",
    "dask.array",
    "distributed.cli.dask_scheduler",
    "distributed.cli.dask_worker",
    "distributed.nanny",
    "cryoscale.blocktask",
    "cryoscale.featurise",
    "cryoscale.infer.actor",
    "cryoscale.kube.scaling",
    "cryoscale.learn.train",
    "cryoscale.models.loading",
    "cryoscale.models.predictor",
    "cryoscale.pipeline",
    "cryoscale.preload",
    "cryoscale.reporting",
    "cryoscale.specimen",
    "cryoscale.trial",
)
_LONGEST_REQUEST = 2**20


class Forked:
    """A module run as ``python -m`` would, in a fork; used as a :class:`subprocess.Popen` is.

    Attributes:
        pid: of the process.
        returncode: how it ended; None where that has not been asked since.
        stdout: what it says, where that was not sent elsewhere.
        stderr: what it complains of, likewise.
    """

    def __init__(
        self,
        module: str,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] = subprocess.PIPE,
        stderr: int | IO[Any] = subprocess.PIPE,
    ) -> None:
        self.returncode: int | None = None
        self.stdout, out = _stream(stdout)
        self.stderr, err = _stream(stderr)
        self._readers: list[threading.Thread] = []
        self._texts = ["", ""]
        self._told, tell = os.pipe()
        document = {
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "env": dict(env if env is not None else os.environ),
            "folder": os.getcwd(),
        }
        try:
            self.pid = _Parent.here().fork(json.dumps(document).encode(), (out, err, tell))
        finally:
            for end in (out, err, tell):
                os.close(end)

    def poll(self) -> int | None:
        """How it ended, if it has."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """How it ended, once it has.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it and what it started say until they end.

        Raises:
            subprocess.TimeoutExpired: they have not.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def read(number: int, stream: IO[str]) -> None:
            self._texts[number] = stream.read()

        if not self._readers:
            for number, stream in enumerate((self.stdout, self.stderr)):
                if stream is not None:
                    self._readers.append(threading.Thread(target=read, args=(number, stream), daemon=True))
                    self._readers[-1].start()
        for reader in self._readers:
            reader.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        if any(reader.is_alive() for reader in self._readers):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        self.wait(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        return self._texts[0], self._texts[1]

    def send_signal(self, number: int) -> None:
        """To the process alone; nothing where it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._told, selectors.EVENT_READ)
                if not selector.select(timeout):
                    return None
            told = os.read(self._told, 64)
            assert told, "the process that forks is gone, and how this one ended is not known"
            os.close(self._told)
            self.returncode = int(told)
        return self.returncode


def _stream(where: int | IO[Any]) -> tuple[IO[str] | None, int]:
    """Our end of a pipe, if it is to be one, and the process's."""
    if where == subprocess.PIPE:
        ours, theirs = os.pipe()
        return os.fdopen(ours, encoding="utf-8", errors="replace"), theirs
    if where == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    return None, os.dup(where if isinstance(where, int) else where.fileno())


class _Parent:
    """What forks, of this process of tests."""

    _one: _Parent | None = None

    @classmethod
    def here(cls) -> _Parent:
        """Started by the first who asks."""
        if cls._one is None or cls._one._process.poll() is not None:
            cls._one = cls()
        return cls._one

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST_REQUEST)
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads do not survive a fork
        root = str(Path(__file__).parents[1])
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env={**os.environ, **single}, cwd=root
        )
        theirs.close()
        atexit.register(self._end)

    def fork(self, request: bytes, ends: tuple[int, ...]) -> int:
        """The new process."""
        socket.send_fds(self._socket, [request], list(ends))
        answer = self._socket.recv(64)
        assert answer, "the process that forks is gone"
        return int(answer)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks for each request; returns in each fork, and with nothing when nobody asks any more."""
    children: dict[
        int, tuple[int, int]
    ] = {}  # by what tells that it has ended: the process, and whom to tell
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not requests:
                    selector.unregister(key.fd)
                    pid, tell = children.pop(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(BrokenPipeError):
                        os.write(tell, str(code).encode())
                    os.close(tell)
                    os.close(key.fd)
                    continue
                request, ends, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 3)
                if not request:
                    return None
                pid = os.fork()
                if pid == 0:
                    for watched, (_, tell) in children.items():
                        os.close(watched)
                        os.close(tell)
                    requests.close()
                    os.close(ends[2])
                    return {**json.loads(request), "ends": ends[:2]}
                watched = os.pidfd_open(pid)
                children[watched] = (pid, ends[2])
                selector.register(watched, selectors.EVENT_READ)
                for end in ends[:2]:
                    os.close(end)
                requests.send(str(pid).encode())


def _become(order: Mapping[str, Any]) -> None:
    """Run what was ordered, in the place of this process's own script."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, end in enumerate((nothing, *order["ends"])):
        os.dup2(end, number)
        os.close(end)
    # what Python knows of its streams, such as whether they have a place, is of those that were there before
    sys.stdout, sys.stderr = (
        os.fdopen(known.fileno(), "w", encoding=known.encoding, errors=known.errors, closefd=False)
        for known in (sys.stdout, sys.stderr)
    )
    sys.stderr.reconfigure(line_buffering=True)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.path[:0] = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    tempfile.tempdir = None
    fsspec.config.conf.clear()  # read when it was imported, of the environment of then
    fsspec.config.set_conf_files(fsspec.config.conf_dir, fsspec.config.conf)
    fsspec.config.set_conf_env(fsspec.config.conf)
    time.tzset()
    faulthandler.enable()
    sys.argv[1:] = order["arguments"]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def _main() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    running = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    running -= {Path("/proc/self/comm").read_text().strip(), "jemalloc_bg_thd"}  # which begins anew in a fork
    assert not running, f"imports have started threads, which no fork would have: {running}"
    gc.freeze()
    order = _serve(socket.socket(fileno=int(sys.argv[1])))
    if order is not None:
        _become(order)


if __name__ == "__main__":
    _main()
