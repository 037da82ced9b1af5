"""One driver at a time: who drives a run says so in the run's own folder, over and over.

A lease is a file ``OUT/ledger/lease/<generation>.json``, created by exactly one driver and put anew every
:data:`BEAT_S` seconds with a count. Whoever finds one watches it by a clock of its own: if the count stands
still for :data:`SILENCE_S` seconds, the holder is dead, and the watcher creates the next generation. No
clock of two machines is ever compared, and none is asked for the time of day, so that clocks may
jump. On the holder's own machine its process is looked at, which takes no waiting.

A driver that was frozen, and not dead, finds the next generation at its next beat and stops. What its
workers still write until then is what the other's write: a block has one content.

A run may also be driven in slices (:mod:`cryoscale.slices`), each under a lease of its own below
``OUT/ledger/slices``. Slices go side by side; a driver of the whole run and any slice exclude each other.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryoscale.errors import DrivenError, LeaseLostError, StillDrivenError
from cryoscale.write.objects import Objects

log = logging.getLogger("cryoscale")

FOLDER = "ledger/lease"
SLICES = "ledger/slices"
"""Below it are the leases of a run that is driven in slices."""

AS_SLICE = "driving as slice "
"""The role of the driver of a slice begins so."""

BEAT_S = 5.0
"""How often the holder says that it lives."""

SILENCE_S = 30.0
"""How long a holder must be silent to count as dead; six beats, so that a slow store is no death."""

POLL_S = 0.5

Facts = Callable[[], Mapping[str, Any]]

Found = tuple[int, dict[str, Any]]
"""A lease's generation and content."""


@dataclass
class Lease:
    """A held lease; ``lost`` is set once another driver has taken over."""

    objects: Objects
    folder: str
    generation: int
    holder: Mapping[str, Any]
    facts: Facts = field(default=lambda: {})
    lost: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _speaking: threading.Lock = field(default_factory=threading.Lock)
    _beats: int = 0

    def require(self) -> None:
        """Go on only while the lease is ours.

        Raises:
            LeaseLostError: another driver has taken over.
        """
        if self.lost.is_set():
            raise LeaseLostError(
                f"another driver has taken over {self.objects.root} while this one stood still; "
                "it goes on from what is done"
            )

    def beat(self) -> None:
        """Say once that this driver lives, and what it is doing; notice a successor."""
        last = newest(self.objects, self.folder)
        session = self.holder["session"]
        # those of slices are deleted by whoever drives the whole run next, and then numbered from 1 again
        if last is None or last[0] > self.generation or last[1].get("session", session) != session:
            self.lost.set()
            return
        self._beats += 1
        self._put({"beat": self._beats, "live": dict(self.facts())})

    def tell(self) -> None:
        """Beat now, whatever the store answers."""
        with self._speaking:
            try:
                self.beat()
            except Exception as error:
                # A store that is away or full must not end the run: its blocks will tell, if it stays so.
                log.debug("the lease could not be renewed: %s", error)

    def release(self) -> None:
        """Let the run go, so that the next driver need not wait."""
        if self.lost.is_set():
            return
        try:
            self._put({"beat": self._beats, "live": dict(self.facts()), "released": True})
        except OSError as error:  # the next driver finds this process dead, or silent
            log.debug("the lease could not be released: %s", error)

    def _put(self, more: Mapping[str, Any]) -> None:
        self.objects.put(_name(self.folder, self.generation), _encode({**self.holder, **more}))

    def _keep(self) -> None:
        while not self._over.wait(BEAT_S) and not self.lost.is_set():
            self.tell()


def refuse_driven(out: str, folder: str = FOLDER) -> None:
    """Refuse, before any work, a run whose driver is known to live; one that is merely silent passes.

    Raises:
        DrivenError: the line names the driver.
    """
    objects = Objects(out)
    for name, (_, document) in {**_rivals(objects, folder), **newest_below(objects, folder)}.items():
        if is_alive(document):
            _refuse(objects, name, document)


@contextmanager
def held(
    out: str, facts: Facts = lambda: {}, *, folder: str = FOLDER, role: str = "driving"
) -> Iterator[Lease]:
    """Drive the run at ``out``, or what ``folder`` is the lease of, alone, for the body's duration.

    Args:
        out: the run's folder or URL.
        facts: what to tell of the run with every beat, for ``cryoscale status``.
        folder: where the lease lies.
        role: what the holder does, for whoever is refused.

    Raises:
        DrivenError: another driver drives it; the line names it.
        LeaseLostError: another one was quicker to follow a dead one.
    """
    objects = Objects(out)
    last, rivals = newest(objects, folder), _rivals(objects, folder)
    _outwait(objects, rivals if last is None else {**rivals, folder: last})
    generation = last[0] + 1 if last else 1
    holder = {**_me(), "role": role}
    if not objects.create(_name(folder, generation), _encode({**holder, "beat": 0, "live": {}})):
        raise LeaseLostError(f"another driver took {out} in this moment; look with cryoscale status")
    lease = Lease(objects, folder, generation, holder, facts)
    try:
        _refuse_new(objects, rivals, _rivals(objects, folder))
    except DrivenError:
        lease.release()
        raise
    thread = threading.Thread(target=lease._keep, name="cryoscale-lease", daemon=True)
    thread.start()
    try:
        if last is not None:  # one file is enough: the newest
            objects.delete(_name(folder, last[0]))
        yield lease
    finally:
        lease._over.set()
        thread.join(timeout=BEAT_S)
        lease.release()


def newest(objects: Objects, folder: str = FOLDER) -> Found | None:
    """Generation and content of the newest lease; an unreadable one counts as held by nobody known."""
    return newest_below(objects, folder).get(folder)


def newest_below(objects: Objects, top: str) -> dict[str, Found]:
    """The newest lease of each folder below ``top``, by one listing."""
    names: dict[str, str] = {}
    for key in sorted(entry.key for entry in objects.list(top)):
        if key.endswith(".json"):
            names[key.rpartition("/")[0]] = key
    contents = objects.get_many(list(names.values())) if names else {}
    found: dict[str, Found] = {}
    for folder, name in names.items():
        try:
            document = json.loads(contents[name] or b"{}")
        except ValueError:
            document = {}
        generation = int(name.rpartition("/")[2].removesuffix(".json"))
        found[folder] = generation, document if isinstance(document, dict) else {}
    return found


def slice_of(document: Mapping[str, Any]) -> str | None:
    """The slice ``I/N`` that a lease is of, or None."""
    words = str(document.get("role", "")).rpartition(AS_SLICE)
    return words[2] if words[1] else None


def is_alive(document: Mapping[str, Any]) -> bool | None:
    """Whether a lease's holder lives; None where that cannot be seen from this process."""
    if document.get("released"):
        return False
    if document.get("place") != _place() or document.get("process_started") is None:
        return None
    return _started(int(document.get("pid", -1))) == document.get("process_started")


def _rivals(objects: Objects, folder: str) -> dict[str, Found]:
    """The leases that exclude that of ``folder``: slices the whole, and the whole each slice."""
    return newest_below(objects, SLICES if folder == FOLDER else FOLDER)


def _outwait(objects: Objects, found: Mapping[str, Found]) -> None:
    """Return once all holders are known to be dead; raise as soon as one is known to live."""
    unknown, since = dict(found), time.monotonic()
    while True:
        for folder, (_, document) in list(unknown.items()):
            alive = is_alive(document)
            if alive:
                _refuse(objects, folder, document)
            if alive is False:
                del unknown[folder]
        if not unknown:
            return
        if time.monotonic() - since > SILENCE_S:
            for _, document in unknown.values():
                log.warning("the driver %s fell silent; this one takes over", _who(document))
            return
        time.sleep(POLL_S)
        now = {**newest_below(objects, FOLDER), **newest_below(objects, SLICES)}
        for folder, known in list(unknown.items()):
            if folder not in now or now[folder][1].get("released"):
                del unknown[folder]
            elif now[folder] != known:
                _refuse(objects, folder, known[1])


def _refuse_new(objects: Objects, before: Mapping[str, Found], now: Mapping[str, Found]) -> None:
    """Refuse rivals that came while this one's lease was made; of two that do so at once both may go."""
    for folder, found in now.items():
        if found != before.get(folder) and is_alive(found[1]) is not False:
            _refuse(objects, folder, found[1])


def _refuse(objects: Objects, folder: str, document: Mapping[str, Any]) -> None:
    refused = StillDrivenError if os.environ.get("CRYOSCALE_JOB_UID") else DrivenError
    raise refused(
        f"output {objects.root}, which {_who(document)} is {document.get('role', 'driving')}",
        "a run that nobody drives",
        "wait for it, look with cryoscale status, or give another --out",
        lease=folder,
    )


def _me() -> dict[str, Any]:
    return {
        "session": uuid.uuid4().hex[:12],
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "place": _place(),
        "process_started": _started(os.getpid()),
    }


def _place() -> str:
    """Host, boot and process namespace: where the same pid is the same process."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since boot, which no later process of that pid shares."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else fields[19]


def _who(document: Mapping[str, Any]) -> str:
    if "pid" not in document:
        return "a driver whose lease cannot be read"
    return f"process {document['pid']} on {document['host']} (session {document['session']})"


def _encode(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _name(folder: str, generation: int) -> str:
    return f"{folder}/{generation:08d}.json"
