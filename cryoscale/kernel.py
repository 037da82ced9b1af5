"""The one way in which loops over pixels are compiled: once a machine, however many processes begin at once.

numba keeps on disk what it has compiled, but does not look whether another process is just at it: workers
that are started together would each compile every kernel, 13 s of a core, and could lose from the index what
another has added meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock

_Function = TypeVar("_Function", bound=Callable[..., object])

LOCK = "cryoscale-compiles.lock"
"""Held in a folder of kernels by the process that compiles one of them."""

WAIT_S = 60.0
"""How long a process waits for one that compiles, once: it may be frozen, and there are many kernels."""

_POLL_S = 0.02


def kernel(function: _Function) -> _Function:
    """Compile a loop over a block with numba: cached on disk, free of the GIL, on one thread.

    Blocks are the unit of parallel work, so a kernel never starts threads of its own. Fast-math stays
    off: it would let sums be reordered, and a pixel must not depend on where its block begins.
    """
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    # A container with a read-only image and no home has nowhere to cache, which numba tells by an error.
    # Compiling costs some seconds a process there.
    with contextlib.suppress(RuntimeError):
        cache = _SharedCache(function)
        compiled._cache = cache
        compiled.compile = _in_turn(compiled.compile, cache.turn)
    return cast(_Function, compiled)


class _Turn:
    """Whose turn it is to compile what a folder's files hold; a kernel may call others of its own folder.

    To be used under numba's lock, which one thread of a process has at a time.
    """

    def __init__(self, folder: str) -> None:
        self.depth = 0
        self._folder, self._file, self._in_vain = folder, -1, False

    def take(self) -> None:
        """Wait for it, for ``WAIT_S`` at most and once in vain; where there can be no lock nobody waits."""
        self.depth += 1
        if self.depth > 1:
            return
        with contextlib.suppress(OSError):
            os.makedirs(self._folder, exist_ok=True)
            self._file = os.open(Path(self._folder) / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
            give_up = time.monotonic() + (0.0 if self._in_vain else WAIT_S)
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                if time.monotonic() >= give_up:
                    break
                time.sleep(_POLL_S)
            self._in_vain = True

    def back_to(self, depth: int) -> None:
        """Leave it as often as it was taken since it had that depth."""
        if self.depth > depth == 0 and self._file >= 0:
            os.close(self._file)  # and with it the lock
            self._file = -1
        self.depth = min(self.depth, depth)


_turns: dict[str, _Turn] = {}


class _SharedCache(FunctionCache):
    """numba's cache of a function's machine code; who finds nothing there has the turn to make it."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]  # as all of numba's
        self.turn = _turns.setdefault(self.cache_path, _Turn(self.cache_path))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        if found is None:
            self.turn.take()
            # another may have made it meanwhile
            found = super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        return found


def _in_turn(compile_: Callable[[Any], Any], turn: _Turn) -> Callable[[Any], Any]:
    def in_turn(sig: Any) -> Any:
        with global_compiler_lock:
            depth = turn.depth
            try:
                return compile_(sig)
            finally:
                turn.back_to(depth)

    return in_turn
