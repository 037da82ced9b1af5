"""Rarer garbage collection, from the import of this on: for processes of cryoscale's own.

Importing what a run needs makes a million objects that stay. At Python's own pace, a look after every 700 new
ones, a fifth of the time of all imports goes into looking through them
(https://docs.python.org/3/library/gc.html#gc.set_threshold). Nor does it look through all of it several times
more before it ends, which takes a command 0.8 s. Who imports cryoscale keeps the pace they have.
"""

from __future__ import annotations

import atexit
import gc

gc.set_threshold(50_000, 10, 10)
atexit.register(gc.freeze)
