"""A disk that takes no more, told from every other fault."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cryoscale.errors import NoRoomError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


@contextmanager
def room(out: str) -> Iterator[None]:
    """Write to ``out`` in the body; that it is full, over quota or read-only is no fault of what is written.

    Raises:
        NoRoomError: in place of the error that says so, whatever it is wrapped in.
    """
    try:
        yield
    except OSError as error:
        cause = _no_room(error)
        if cause is None:
            raise
        raise NoRoomError(
            f"{out} takes no more ({cause.strerror}); what is done is kept, make room and start the same "
            "command again"
        ) from error


def _no_room(error: BaseException | None) -> OSError | None:
    seen = 0
    while error is not None and seen < 10:  # what wraps what may go round in a circle
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return error
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None
