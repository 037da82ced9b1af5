"""One process at a time in a folder that is written for hours: a training's, or that of a patch set."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoscale.errors import OutputError
from cryoscale.write.disk import make_folder, unmake


@contextmanager
def alone_in(work: Path, *, does: str = "trains") -> Iterator[None]:
    """In the body no other process is at the same in ``work``, which is made where it is missing.

    The folder itself is locked, by the kernel, so that nothing stays behind of a process that is killed.
    Where nothing was put in, what was made here goes again.

    Raises:
        OutputError: another process ``does``.
    """
    made = make_folder(os.path.abspath(work))
    try:
        folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # by another way than it was made: new/../work asks for new
        unmake(made)
        raise
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            given = f"folder {work}, in which another process {does}"
            raise OutputError(given, "one at a time", "wait for it, or give another --out") from None
        except OSError:
            pass  # a file system without locks: nobody is kept from it, as before there were any
        yield
    finally:
        unmake(made)
        os.close(folder)
