"""Proof of a finished run: every planned block is there, is what was written, and what follows agrees.

Nothing is believed that can be looked at: shards are read back against their markers' checksums, outlines
are laid over the labels again, the STAC items are held against the arrays that they describe.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from cryoscale.agreement import Fault, items_and_map, outlines_and_map
from cryoscale.errors import CryoscaleError, IntegrityError
from cryoscale.ledger import DONE, ITEMS, SEAL, Ledger, Marker, Work, name_of
from cryoscale.manifest import digest
from cryoscale.read import snapshot
from cryoscale.sealing import digest_of, made_files, place_of, sealed_in
from cryoscale.write import mosaic, quicklook

READERS = 8
"""Blocks that are read back side by side."""


@dataclass
class Verification:
    """What looking at a run from its first block to its last file showed."""

    planned: int = 0
    checked: int = 0
    """Blocks that were read back."""
    set_aside: tuple[str, ...] = ()
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether the run is finished and every part of it is right."""
        return not self.faults and not self.set_aside

    @property
    def damaged(self) -> tuple[str, ...]:
        """Blocks whose shards are not what was written, or whose quicklook is broken."""
        return tuple(fault.where for fault in self.faults if fault.kind == "shard")

    @property
    def seconds_per_1000_blocks(self) -> float | None:
        """How long a thousand blocks take to verify."""
        return round(1000 * self.seconds / self.checked, 2) if self.checked else None

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            **asdict(self),
            "damaged": list(self.damaged),
            "sound": self.sound,
            "seconds": round(self.seconds, 2),
            "seconds_per_1000_blocks": self.seconds_per_1000_blocks,
        }


def verify(out: str) -> Verification:
    """Look at everything that the run at ``out`` says of itself.

    Blocks that are found damaged are noted in the ledger, where that can be written, so that the next
    ``cryoscale run`` does them again.
    """
    start, ledger = time.perf_counter(), Ledger(out)
    found = Verification()
    manifest = ledger.manifest() or {}
    works = _planned(ledger, manifest, found)
    found.planned = len(works)
    aside = {place_of(work) for work in ledger.set_asides()}
    markers = _markers(ledger, works, aside, found, manifest.get("identity_sha256"))
    found.set_aside = tuple(sorted(aside & {place_of(work) for work in works} - markers.keys()))
    shards = list(_shards(ledger, markers))
    found.checked = len(markers)
    found.faults += [*shards, *_quicklooks(ledger, markers)]
    complete = len(markers) == found.planned and not shards
    if complete:  # what follows from the blocks can only agree where all of them are right
        found.faults += _files(ledger, markers)
        for year in manifest["identity"]["years"]:
            found.faults += outlines_and_map(ledger, manifest, year, markers)
        # a map that cannot be opened is told once
        found.faults += [one for one in items_and_map(ledger, manifest) if one not in found.faults]
    _note(ledger, shards, markers)
    found.seconds = time.perf_counter() - start
    return found


# --- what was planned, and what is there ------------------------------------------------------------


def _planned(ledger: Ledger, manifest: Mapping[str, Any], found: Verification) -> list[Work]:
    """The blocks of the plan; what was frozen with it is held against the manifest."""
    if digest(manifest.get("identity", {})) != manifest.get("identity_sha256"):
        found.faults.append(
            Fault("plan", "run.json", "its identity is not the one it was sealed with", False)
        )
    try:
        ledger.require_whole_manifest()
    except IntegrityError as error:
        found.faults.append(Fault("plan", "run.json", str(error), False))
    try:
        items = snapshot.thaw(f"{ledger.out}/{ITEMS}")
        if snapshot.digest(items) != manifest["identity"]["catalogue"]:
            found.faults.append(Fault("plan", ITEMS, "is not the catalogue of the run", False))
    except (CryoscaleError, OSError, ValueError) as error:
        found.faults.append(Fault("plan", ITEMS, f"cannot be read: {error}", False))
    try:
        blocks = ledger.planned(manifest)
    except IntegrityError as error:
        found.faults.append(Fault("plan", "ledger/blocks.json", str(error), False))
        blocks = None
    if blocks is None:  # a run begun before plans were kept is held against its own markers
        return sorted(marker.key for marker in ledger.markers())
    return [(year, block) for year in manifest["identity"]["years"] for block in blocks]


def _markers(
    ledger: Ledger, works: Iterable[Work], aside: set[str], found: Verification, run: str | None
) -> dict[str, tuple[Work, str]]:
    """Work and checksum of every planned block that has a whole marker of the run, by its place."""
    wanted = {place_of(work): work for work in works}
    there: dict[str, tuple[Work, str]] = {}
    wrong: dict[str, str] = {}
    for place, marker in ledger.scan():
        if marker is None or place != place_of(marker.key):
            wrong[place] = "its marker is damaged"
        elif place in wanted and not marker.is_of(run):
            wrong[place] = "was done for another run, which lay here before"
        elif place in wanted:
            there[place] = (wanted[place], marker.checksum)
        else:
            found.faults.append(Fault("marker", place, "was never planned", False))
    for place in sorted(wanted.keys() - there.keys() - (aside - wrong.keys())):
        found.faults.append(Fault("marker", place, wrong.get(place, "has no marker: it is not done")))
    return there


def _shards(ledger: Ledger, markers: Mapping[str, tuple[Work, str]]) -> Iterator[Fault]:
    """Blocks whose stored bytes have another checksum than was written down, or whose quicklook is broken."""
    store = f"{ledger.out}/mosaic.zarr"
    proof = quicklook.Proof(ledger.out)

    def look(place: str) -> Fault | None:
        work, checksum = markers[place]
        try:
            if mosaic.read_block_checksum(store, *work).checksum == checksum:
                reason = proof.of_block(*work)
                return None if reason is None else Fault("shard", place, reason)
        except (CryoscaleError, ValueError) as error:
            return Fault("shard", place, str(error))
        return Fault("shard", place, _what_changed(ledger, store, work))

    with ThreadPoolExecutor(READERS) as pool:
        yield from (fault for fault in pool.map(look, sorted(markers)) if fault is not None)


def _quicklooks(ledger: Ledger, markers: Mapping[str, tuple[Work, str]]) -> Iterator[Fault]:
    """Zones whose quicklook cannot be opened."""
    proof = quicklook.Proof(ledger.out)
    for year, epsg in sorted({(year, block.epsg) for (year, block), _ in markers.values()}):
        if reason := proof.of_zone(year, epsg):
            told = f"cannot be opened: {reason}; copy it back, or delete it and give its region to --redo"
            yield Fault("file", f"quicklook.zarr/{year}/{epsg}", told, False)


def _what_changed(ledger: Ledger, store: str, work: Work) -> str:
    """The arrays whose length or stamp is not what it was, for whoever looks for the cause."""
    content = ledger.objects.get(name_of(DONE, work))
    marker = Marker.from_bytes(content) if content is not None else None
    now = mosaic.stamps(store, *work)
    then = marker.shards if marker is not None else {}
    told = []
    for name in sorted({*then, *now}):
        if name not in now:
            told.append(f"{name} is gone")
        elif name in then and now[name][0] != then[name][0]:
            told.append(f"{name} has {now[name][0]} bytes, not {then[name][0]}")
        elif name in then and now[name] != then[name]:
            told.append(f"{name} was written to since")
    return "its checksum is not the one that was written" + (f": {', '.join(told)}" if told else "")


def _note(ledger: Ledger, shards: Iterable[Fault], markers: Mapping[str, tuple[Work, str]]) -> None:
    for fault in shards:
        try:
            ledger.note_damage(markers[fault.where][0], fault.reason)
        except OSError:
            return  # a run that can only be read is verified all the same


# --- what follows from the blocks -------------------------------------------------------------------


def _files(ledger: Ledger, markers: Mapping[str, tuple[Work, str]]) -> Iterator[Fault]:
    """Files of the run's end that are not what was made, or were made from other blocks."""
    try:
        sealed = sealed_in(ledger)
    except IntegrityError as error:
        yield Fault("file", SEAL, str(error))
        return
    if sealed is None:
        yield Fault("file", SEAL, "is not there: the run has not come to its end")
        return
    blocks = {place: checksum for place, (_, checksum) in markers.items()}
    if sealed.get("blocks") != digest_of(blocks):
        yield Fault("file", "inventory", "was made from other blocks than lie there now")
    now, then = dict(made_files(ledger)), dict(sealed.get("files", {}))
    for name in sorted({*now, *then}):
        if now.get(name) != then.get(name):
            what = "is gone" if name not in now else "is not what was written"
            yield Fault("file", name, what)
