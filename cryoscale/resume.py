"""Which blocks of a run need not be done again: those whose marker is whole and whose shards it still fits.

Reading everything back would take as long as reading the map. So a marker keeps the length and the stamp of
each shard, as git's index keeps those of files, and one listing of the store tells which have been touched
since. Only these, and those that ``verify`` found damaged, are read. Damage that leaves length and stamp
alone (a bit that flips on the medium) is for ``verify`` to find.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from cryoscale.ledger import DONE, Ledger, Marker, Work, name_of
from cryoscale.write import mosaic, quicklook

log = logging.getLogger("cryoscale")

READERS = 8
"""Blocks that are read back side by side."""

_ROUND = 2**64


def sound(ledger: Ledger, stage: Callable[[str], None], among: Collection[Work] | None = None) -> set[Work]:
    """The blocks that are done and lie in the store as their markers say; other markers go.

    Takes a few hundred bytes of memory a block, and reads none that has not been touched. Blocks that are
    not ``among`` those given are not looked at: somebody else may be writing them.
    """
    expected: dict[Work, int] = {}
    zones: set[tuple[int, int]] = set()
    run = ledger.identity()
    for _, marker in ledger.scan():
        if marker is None or (among is not None and marker.key not in among):
            continue
        if not marker.is_of(run):
            log.warning(
                "block %s of %d is of a run that lay here before: done again", marker.block.key, marker.year
            )
            ledger.unmark(*marker.key)
            continue
        expected[marker.key] = _sum_of(marker)
        zones.add((marker.year, marker.epsg))
    if not expected:
        return set()
    stage(f"looking through {len(expected)} blocks that are done")
    found = dict.fromkeys(expected, 0)
    store = f"{ledger.out}/mosaic.zarr"
    for year, epsg in sorted(zones):
        for block, name, entry in mosaic.zone_entries(store, year, epsg):
            if (year, block) in found:
                number = _number(name, entry.size_bytes, entry.stamp)
                found[year, block] = (found[year, block] + number) % _ROUND
    reported = ledger.damaged()
    touched = [work for work, total in expected.items() if found[work] != total or _name(work) in reported]
    if touched:
        stage(f"reading back {len(touched)} of them that were touched since")
    return expected.keys() - _damaged(ledger, store, touched)


def forget(ledger: Ledger, works: Iterable[Work]) -> int:
    """Have blocks done again, whether they are done or set aside; how many there are."""
    count = 0
    for work in works:
        ledger.unmark(*work)
        ledger.take_back(work)
        count += 1
    return count


def _damaged(ledger: Ledger, store: str, touched: Collection[Work]) -> set[Work]:
    """Those of the touched blocks that are not what their markers say; the others get their new stamps."""
    gone: set[Work] = set()
    proof = quicklook.Proof(ledger.out)

    def look(work: Work) -> tuple[Marker | None, bool]:
        content = ledger.objects.get(name_of(DONE, work))
        marker = Marker.from_bytes(content) if content is not None else None
        return marker, marker is not None and (
            mosaic.read_block_checksum(store, *work).checksum == marker.checksum
            and proof.of_block(*work) is None
        )

    with ThreadPoolExecutor(READERS) as pool:
        for work, (marker, whole) in zip(touched, pool.map(look, touched), strict=True):
            if marker is not None and whole:
                ledger.mark(marker.model_copy(update={"shards": mosaic.stamps(store, *work)}))
                continue
            year, block = work
            log.warning("block %s of %d is damaged on disk and is done again", block.key, year)
            ledger.unmark(year, block)
            gone.add(work)
    return gone


def _sum_of(marker: Marker) -> int:
    """A number for all shards of a block, to which each adds its own, in any order."""
    return sum(_number(name, *entry) for name, entry in marker.shards.items()) % _ROUND


def _number(name: str, size_bytes: int, stamp: str) -> int:
    digest = hashlib.blake2b(f"{name} {size_bytes} {stamp}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def _name(work: Work) -> str:
    return name_of("", work)[1:].removesuffix(".json")
