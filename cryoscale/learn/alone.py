"""One training at a time in a work folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoscale.errors import OutputError
from cryoscale.write.disk import make_folder, unmake


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """In the body no other process trains in ``work``, which is made where it is missing.

    The folder itself is locked, by the kernel, so that nothing stays behind of a process that is killed.
    Where nothing was put in, what was made here goes again.

    Raises:
        OutputError: another process does.
    """
    made = make_folder(os.path.abspath(work))
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            given = f"work folder {work}, in which another process trains"
            raise OutputError(given, "one training at a time", "wait for it, or give another --out") from None
        except OSError:
            pass  # a file system without locks: nobody is kept from it, as before there were any
        yield
    finally:
        unmake(made)
        os.close(folder)
