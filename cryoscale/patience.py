"""How long to go on asking an object store that does not answer, and which of its errors pass."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from cryoscale.errors import StoreUnavailableError

RETRY_S = 120.0
"""For how long an operation is repeated, from its first failure on."""
_FIRST_S, _LONGEST_S = 0.25, 8.0
"""Bounds of the pause between two attempts; it doubles, less a random part of up to half of it."""

_PASSING_STATUS = frozenset({408, 425, 429})
_PASSING_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "OperationAborted", "ConditionalRequestConflict"}
)
_PASSING_ERRNO = frozenset(
    {errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}
)
# By name, since none of the libraries need be installed: the clients of S3, of Google and of Azure
# raise their own classes for a connection that fails, and few of them are OSErrors.
_PASSING_NAMES = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ResponseParserError",
        "ServiceRequestError",
        "ServiceResponseError",
        "TimeoutError",
    }
)

T = TypeVar("T")


def patiently(where: str, call: Callable[[], T], retry_s: float = RETRY_S) -> T:
    """What ``call`` answers, repeated while it fails in a way that passes.

    Raises:
        StoreUnavailableError: if it still fails so after ``retry_s`` seconds.
        OSError: at once, if it fails in any other way.
    """
    tries = _Tries(where, retry_s)
    while True:
        try:
            return call()
        except Exception as error:
            time.sleep(tries.pause_s(error))


async def patiently_awaited(where: str, call: Callable[[], Awaitable[T]], retry_s: float = RETRY_S) -> T:
    """As :func:`patiently`, for a coroutine function."""
    import asyncio

    tries = _Tries(where, retry_s)
    while True:
        try:
            return await call()
        except Exception as error:
            pause_s = tries.pause_s(error)
        await asyncio.sleep(pause_s)


class _Tries:
    """The attempts of one operation on the store at ``where``."""

    def __init__(self, where: str, retry_s: float) -> None:
        self._where = where
        self._retry_s = retry_s
        self._until: float | None = None
        self._next_s = _FIRST_S

    def pause_s(self, error: Exception) -> float:
        """Seconds to wait before the next attempt after ``error``.

        Raises:
            StoreUnavailableError: if the time is over.
            OSError: if ``error`` does not pass; any other kind of a client's error becomes one.
        """
        if not passes(error):
            if isinstance(error, OSError) or type(error).__module__ == "builtins":
                raise error
            raise OSError(errno.EIO, _one_line(error)) from error
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._retry_s
        if now >= self._until:
            raise StoreUnavailableError(
                f"{self._where} has not answered for {self._retry_s:.0f} s: {_one_line(error)}"
            ) from error
        pause_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, _LONGEST_S)
        return min(pause_s, max(self._until - now, 0.0))


def passes(error: BaseException) -> bool:
    """Whether an error of a remote filesystem is one that waiting mends."""
    if isinstance(error, StoreUnavailableError):
        return False
    for one in chain(error):
        status = status_of(one)
        if status is not None:
            return (
                status in _PASSING_STATUS
                or (status >= 500 and status != 501)
                or code_of(one) in _PASSING_CODES
            )
    if "CERTIFICATE_VERIFY" in str(error):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _PASSING_NAMES) or (isinstance(error, OSError) and error.errno in _PASSING_ERRNO)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was made from; s3fs keeps the server's answer only in the latter."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def status_of(error: BaseException) -> int | None:
    """HTTP status that a client's error carries, wherever that client keeps it."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = next(
            (getattr(error, n, None) for n in ("status", "status_code", "code") if hasattr(error, n)), None
        )
    return found if isinstance(found, int) else None


def code_of(error: BaseException) -> str:
    """S3's own word for what went wrong, or ""."""
    for one in chain(error):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return str(answer.get("Error", {}).get("Code", ""))
    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
