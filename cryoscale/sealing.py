"""What a finished run was made from: the digest of its blocks, and those of the files that follow from them.

A run is sealed once all that follows from its blocks is there; whoever verifies it holds what lies there
against the seal, and whoever is to make it tells by the seal that it is there already.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec

from cryoscale import records
from cryoscale.errors import CryoscaleError, IntegrityError, SourceError
from cryoscale.ledger import MADE, MAP_NAME, SEAL, Ledger, Work
from cryoscale.settings import Settings
from cryoscale.write.arrays import ARRAYS
from cryoscale.write.objects import Entry

_HELD_BYTES = 1 << 26
"""A file up to this length is digested in memory, where a failed read is repeated."""

ASKED = ("min_area_km2", "known_glaciers", "divides", "files", "o1region")
"""Settings of a run's end that may be others the next time."""


def seal(out: str, settings: Settings | None = None, basis: str | None = None) -> None:
    """Put down what a run's end was made from and what it made, once all of it is there.

    What was only half written there by processes that were killed is removed: by now nobody writes.

    Args:
        out: folder or URL of the run.
        settings: what was asked of the end; None keeps nothing of it.
        basis: from :func:`cryoscale.ending.basis_of`; None where something else was asked of the end than of
            the run.
    """
    ledger = Ledger(out)
    for name in MADE:
        ledger.objects.sweep(name)
    made = {"files": dict(made_files(ledger)), "pages": sorted(filter(_is_page, ledger.objects.names()))}
    asked = {name: getattr(settings, name) for name in ASKED} if settings is not None else None
    found = {"blocks": blocks_digest(ledger), "basis": basis, "asked": asked, "kept": _kept(ledger)}
    ledger.put(SEAL, records.sealed({**found, **made}))


def sealed_in(ledger: Ledger) -> dict[str, Any] | None:
    """What :func:`seal` put down, or None where it did not yet.

    Raises:
        IntegrityError: it is not what was put down.
    """
    found = ledger.get(SEAL)
    if found is None:
        return None
    sealed = records.unsealed(found)
    if sealed is None:
        raise IntegrityError(
            f"{ledger.out}/{SEAL} is not what was written; start the run again, which renews it"
        )
    return sealed


def is_sealed(out: str, basis: str) -> bool:
    """Whether a run's end was made from ``basis``, and all that it made is there as it was made."""
    ledger = Ledger(out)
    try:
        sealed = sealed_in(ledger) or {}
    except IntegrityError:
        return False
    pages = sealed.get("pages")
    return (
        sealed.get("basis") == basis
        and pages is not None
        and set(pages) <= set(ledger.objects.names())
        and sealed.get("files") == dict(made_files(ledger))
    )


def asked_of(out: str) -> dict[str, Any]:
    """What was asked of a sealed run's end, by the names of :data:`ASKED`; empty if that is not known."""
    found = (sealed_in(Ledger(out)) or {}).get("asked")
    return dict(found) if found else {}


def require_kept(out: str) -> None:
    """Refuse to make an end anew that would know less of the ground than the one that is there.

    Elevation and evidence lie in the quicklook, which decides no pixel and which no marker answers for.

    Raises:
        SourceError: some of it is no longer there.
    """
    ledger = Ledger(out)
    try:
        sealed = sealed_in(ledger) or {}
    except IntegrityError:
        return
    there, then = _kept(ledger), sealed.get("kept", {})
    same = bool(then) and sealed["blocks"] == blocks_digest(ledger)
    for zone, count in then.items():
        gone = count - there.get(zone, 0)
        if gone > (0 if same else count - 1):
            raise SourceError(
                f"{out}/quicklook.zarr/{zone}, of which {gone} of {count} chunks are gone",
                "what the run kept of elevation and evidence, without which its outlines would be poorer",
                "copy it back, or have the blocks done again by cryoscale run --redo",
            )


@contextmanager
def kept_told(out: str) -> Iterator[None]:
    """In the body, that elevation or evidence cannot be read is told as that.

    Raises:
        SourceError: some of it cannot be read, and the body failed.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, CryoscaleError):
            raise
        from cryoscale.write import quicklook

        proof = quicklook.Proof(out)
        for year, block in (marker.key for marker in Ledger(out).markers()):
            if reason := proof.of_block(year, block):
                raise SourceError(
                    f"block {block.key} of {year} in {out}, where {reason}",
                    "what the run kept of elevation and evidence, from which its outlines are described",
                    "run cryoscale verify, which notes such blocks, and cryoscale run, which does them again",
                ) from error
        raise


def _kept(ledger: Ledger) -> dict[str, int]:
    """Chunks of the quicklook by year and zone."""
    keys = (entry.key.split("/") for entry in ledger.objects.list("quicklook.zarr"))
    return dict(Counter("/".join(parts[1:3]) for parts in keys if len(parts) > 4 and parts[4] == "c"))


def _is_page(name: str) -> bool:
    """Whether a run's end makes it, and others write it anew: it is asked for no more than to be there."""
    return name == "report.html" or MAP_NAME.fullmatch(name) is not None


def blocks_digest(ledger: Ledger) -> str:
    """A digest of the blocks that are done and of what they hold."""
    return digest_of({place_of(marker.key): marker.checksum for marker in ledger.markers()})


def made_files(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Digests of what a run's end makes; what belongs to one year and zone of the map in one."""
    for prefix in ("inventory", "cog", "stac"):
        for entry in ledger.objects.list(prefix):
            yield entry.key, _sha256(ledger, entry)
    content = ledger.objects.get("catalog.json")
    if content is not None:
        yield "catalog.json", hashlib.sha256(content).hexdigest()
    groups: dict[str, list[str]] = {}
    for entry in ledger.objects.list("mosaic.zarr"):
        if not _is_shard(entry.key):
            groups.setdefault("/".join(entry.key.split("/")[:3]), []).append(entry.key)
    for group, keys in sorted(groups.items()):
        total = hashlib.sha256()
        for key in sorted(keys):
            total.update(f"{key}:{hashlib.sha256(ledger.objects.get(key) or b'').hexdigest()};".encode())
        yield f"{group}: metadata and coarser levels", total.hexdigest()


def _sha256(ledger: Ledger, entry: Entry) -> str:
    """Digest of an object; one that is large is read a little at a time."""
    if entry.size_bytes <= _HELD_BYTES:
        return hashlib.sha256(ledger.objects.get(entry.key) or b"").hexdigest()
    with fsspec.open(f"{ledger.out}/{entry.key}", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_shard(key: str) -> bool:
    """Whether an object of the map is a block's shard, which its marker answers for."""
    parts = key.split("/")
    return len(parts) > 4 and parts[3] in ARRAYS and parts[4] == "c"


def place_of(work: Work) -> str:
    """Year, zone and key of a block, as the ledger's files are named by them."""
    year, block = work
    return f"{year}/{block.epsg}/{block.key}"


def digest_of(checksums: Mapping[str, str]) -> str:
    """One digest of checksums by place."""
    total = hashlib.sha256()
    for place in sorted(checksums):
        total.update(f"{place} {checksums[place]}\n".encode())
    return total.hexdigest()
