"""The end of a run: made where it is not there, or where what it follows from is not what it was.

A driver that is started again on a finished run, as a pod's may be, has nothing to do, and finds that out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from shapely.geometry.base import BaseGeometry

from cryoscale.ledger import Ledger
from cryoscale.manifest import commit, versions
from cryoscale.records import Record
from cryoscale.sealing import digest_of, is_sealed, place_of, seal
from cryoscale.settings import Settings

_OF_THE_RUN = frozenset({"catalogs", "sources", "model", "loader", "cluster", "document", "known_glaciers"})
"""Settings that the run's own record holds, that change nothing of its end, or that name a file."""


def end(settings: Settings, out: str, stage: Callable[[str], None]) -> None:
    """Make what follows from all blocks, unless it lies there as it would be made."""
    basis = basis_of(settings, out)  # before anything is made, so that what changes meanwhile is noticed
    if is_sealed(out, basis):
        stage("finding all there is to make there (`cryoscale outline` makes it anew)")
        return
    from cryoscale.finish import finish

    finish(settings, out, stage)
    seal(out, basis)


def basis_of(settings: Settings, out: str) -> str:
    """A digest of all that a run's end is made from.

    That is what the markers and the set-aside blocks tell, the run's record, what is asked of its end, the
    file of known glaciers, and the program with its libraries.
    """
    ledger, total = Ledger(out), hashlib.sha256()
    asked = {one.name: getattr(settings, one.name) for one in fields(settings) if one.name not in _OF_THE_RUN}
    program = {**versions(), "commit": commit()}
    total.update(json.dumps([ledger.manifest(), program, asked], sort_keys=True, default=_plain).encode())
    # where a run was copied to, its shards have other stamps and the same content
    done = {place_of(one.key): _told(one, exclude={"shards"}) for one in ledger.markers()}
    aside = {place_of(work): _told(record) for work, record in ledger.set_asides().items()}
    for found in (done, aside, _files_of(settings.known_glaciers)):
        total.update(digest_of(found).encode())
    return total.hexdigest()


def _told(record: Record, exclude: set[str] | None = None) -> str:
    return hashlib.sha256(record.model_dump_json(exclude=exclude).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.wkb_hex if isinstance(value, BaseGeometry) else asdict(value)


def _files_of(path: str | None) -> dict[str, str]:
    """Digests of a file and of those that belong to it: a shapefile is several of one name."""
    found = {}
    for one in Path(path).parent.glob(f"{Path(path).stem}.*") if path is not None else ():
        if one.is_file():
            with one.open("rb") as file:
                found[one.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
