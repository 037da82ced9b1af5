"""A disk that takes no more, told from every other fault."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cryoscale.errors import NoRoomError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ROOM = _FULL | {errno.EROFS}


@contextmanager
def room(out: str) -> Iterator[None]:
    """Write to ``out`` in the body; that it is full, over quota or read-only is no fault of what is written.

    Raises:
        NoRoomError: in place of the error that says so, whatever it is wrapped in.
    """
    try:
        yield
    except (OSError, NoRoomError) as error:
        cause = _cause(error, _NO_ROOM)
        if cause is None:
            raise
        raise _told(out, cause, "what is done is kept, make room and start the same command again") from error


@contextmanager
def full_disk_told(path: str, do: str = "make room and start the same command again") -> Iterator[None]:
    """Write ``path`` in the body; what is no full disk, a read-only one too, is raised as it comes.

    Raises:
        NoRoomError: names ``path``, in place of the error that the disk is full or over quota.
    """
    try:
        yield
    except OSError as error:
        cause = _cause(error, _FULL)
        if cause is None:
            raise
        raise _told(path, cause, do) from error


def _told(path: str, cause: OSError, do: str) -> NoRoomError:
    return NoRoomError(f"{path} takes no more ({cause.strerror}); {do}")


def _cause(error: BaseException | None, codes: frozenset[int]) -> OSError | None:
    seen = 0
    while error is not None and seen < 10:  # what wraps what may go round in a circle
        if isinstance(error, OSError) and error.errno in codes:
            return error
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None
