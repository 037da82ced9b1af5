"""What describes a map, put back where it is no longer as it was made: metadata and coordinates.

All of it is a function of the run's manifest, so that nothing is lost with it: it is made once more in
memory, and what differs is written. The blocks' shards are no part of it; the ledger answers for them.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from cryoscale.grid import Window
from cryoscale.write import mosaic
from cryoscale.write.objects import Objects
from cryoscale.write.store import consolidate, open_store


def mend_metadata(
    store_url: str | os.PathLike[str],
    *,
    year: int,
    window: Window,
    block_px: int,
    classes: Sequence[str],
    attrs: Mapping[str, Any],
) -> list[str]:
    """Writes what :func:`cryoscale.write.mosaic.create` would have made and is not there so; its keys.

    A zone that was never made to the end is left to ``create``.
    """
    stored, scratch = Objects(os.fspath(store_url)), Objects(f"memory://{uuid.uuid4().hex}")
    if next(iter(stored.list(f"{year}/{window.epsg}")), None) is None:
        return []
    mosaic.create(scratch.root, year=year, window=window, block_px=block_px, classes=classes, attrs=attrs)
    mended = []
    try:
        for entry in scratch.list(""):
            wanted, found = scratch.get(entry.key), stored.get(entry.key)
            if wanted is not None and not _holds(entry.key, found, wanted):
                stored.put(entry.key, wanted)
                mended.append(entry.key)
    finally:
        scratch.delete_all("")
    if mended:
        consolidate(open_store(store_url))
    return mended


def _holds(key: str, found: bytes | None, wanted: bytes) -> bool:
    """Whether what is stored says what is wanted; a group may say more, which later steps have added."""
    if found is None:
        return False
    document = json.loads(wanted) if key.endswith("zarr.json") else {}
    if document.get("node_type") != "group":
        return found == wanted
    try:
        attributes = json.loads(found)["attributes"]
        return all(_includes(attributes.get(name), value) for name, value in document["attributes"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _includes(found: Any, wanted: Any) -> bool:
    """Whether an attribute is as it was made; to the list of conventions the coarser levels add theirs."""
    if isinstance(found, list) and wanted and isinstance(wanted, list) and isinstance(wanted[0], dict):
        return all(entry in found for entry in wanted)
    return bool(found == wanted)
