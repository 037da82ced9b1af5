"""The end of a run: made where it is not there, or where what it follows from is not what it was.

A driver that is started again on a finished run, as a pod's may be, has nothing to do, and finds that out.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shapely.geometry.base import BaseGeometry

import cryoscale
from cryoscale.ledger import Ledger
from cryoscale.records import Record
from cryoscale.sealing import digest_of, is_sealed, kept_told, place_of, require_kept, seal
from cryoscale.settings import Settings

_OF_THE_RUN = frozenset({"catalogs", "sources", "model", "loader", "cluster", "document", "known_glaciers"})
"""Settings that the run's own record holds, that change nothing of its end, or that name a file."""

_LIBRARIES = (
    *("numpy", "scipy", "numba", "xarray", "zarr", "pandas", "pyarrow", "rasterio", "pyproj", "shapely"),
    *("geopandas", "pyogrio", "matplotlib", "pystac", "pmtiles"),
)
"""What an end is made by beside cryoscale itself."""


def end(settings: Settings, out: str, stage: Callable[[str], None]) -> None:
    """Make what follows from all blocks, unless it lies there as it would be made."""
    basis = basis_of(settings, out)  # before anything is made, so that what changes meanwhile is noticed
    if is_sealed(out, basis):
        stage("finding all there is to make there (`cryoscale outline` makes it anew)")
        return
    from cryoscale.finish import finish

    require_kept(out)
    with kept_told(out):
        finish(settings, out, stage)
    seal(out, settings, basis)


def basis_of(settings: Settings, out: str) -> str:
    """A digest of all that a run's end is made from.

    That is what the markers and the set-aside blocks tell, the run's record, what is asked of its end, the
    file of known glaciers, what people corrected by hand, and the program with its libraries.
    """
    from cryoscale.write.corrections import FILE

    ledger, total = Ledger(out), hashlib.sha256()
    asked = {one.name: getattr(settings, one.name) for one in fields(settings) if one.name not in _OF_THE_RUN}
    asked["weights"] = settings.model.weights  # the STAC item says where they lie
    by_hand = hashlib.sha256(ledger.objects.get(FILE) or b"").hexdigest()
    found = [ledger.manifest(), _program(), asked, by_hand]
    total.update(json.dumps(found, sort_keys=True, default=_plain).encode())
    # where a run was copied to, its shards have other stamps and the same content
    done = {place_of(one.key): _told(one, exclude={"shards"}) for one in ledger.markers()}
    aside = {place_of(work): _told(record) for work, record in ledger.set_asides().items()}
    for digests in (done, aside, _files_of(settings.known_glaciers)):
        total.update(digest_of(digests).encode())
    return total.hexdigest()


def _told(record: Record, exclude: set[str] | None = None) -> str:
    return hashlib.sha256(record.model_dump_json(exclude=exclude).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.wkb_hex if isinstance(value, BaseGeometry) else asdict(value)


def _program() -> dict[str, str]:
    """Digests of cryoscale's own files, whose version may say less, and versions of the libraries."""
    package = Path(cryoscale.__file__).parent
    own = {str(path.relative_to(package)): _sha256(path) for path in package.rglob("*.py")}
    return {"cryoscale": digest_of(own), **{name: version(name) for name in _LIBRARIES}}


def _files_of(path: str | None) -> dict[str, str]:
    """Digests of a file and of those that belong to it: a shapefile is several of one name."""
    if path is None:
        return {}
    file = Path(path)
    beside = file.parent.glob(f"{glob.escape(file.stem)}.*")
    return {one.name: _sha256(one) for one in {file, *beside} if one.is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
