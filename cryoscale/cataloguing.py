"""A run described as STAC, from its record and its frozen catalogue."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Any

from cryoscale.read import snapshot
from cryoscale.scenes import is_simulated
from cryoscale.settings import Settings
from cryoscale.write import (
    files,
    mosaic,
    stac,
)

_SCENES_LINKED = 1000
"""Scenes of a year that a map's STAC item names; it says how many more the frozen catalogue has."""


def write_catalog(settings: Settings, out: str, manifest: dict[str, Any]) -> None:
    """``OUT/catalog.json`` and its items."""
    season, scenes, further = {}, {}, {}
    for year in settings.years:
        begins, ends = settings.imagery_days(year)
        season[year] = (
            datetime.combine(begins, time.min, UTC),
            datetime.combine(ends, time(23, 59, 59), UTC),
        )
        first, count = _scenes(out, year)
        scenes[year], further[year] = [(name, None) for name in first], count - len(first)
    model = manifest["model"]
    record = stac.RunRecord(
        name=settings.name.replace(" ", "-"),
        description=f"Glacier classes and outlines of {settings.name}, mapped with {model['name']}.",
        season=season,
        scenes=scenes,
        further=further,
        model=stac.ModelRecord(
            name=str(model["name"]),
            architecture=str(model.get("architecture", model["name"])),
            channels=model["channels"],
            classes=model["classes"],
            tile_px=settings.tile_px,
            href=settings.model.weights,
            sha256=model["identity"]["sha256"],
        ),
        attributes={"cryoscale:simulated": True} if is_simulated(out) else {},
    )
    mosaics = {
        (year, epsg): mosaic.open_mosaic(out, year, epsg)
        for year in settings.years
        for epsg in mosaic.zones(out, year)
    }
    found = {zone: files.found_of(out, *zone) for zone in mosaics}
    stac.write_catalog(out, mosaics, replace(record, files=found))


def _scenes(out: str, year: int) -> tuple[list[str], int]:
    """The first scenes of a year by source, time and name, and how many there are."""
    count = itertools.count()
    frozen = (
        (source, _moment(item["properties"]), item["id"], next(count))
        for source, item in snapshot.scan(f"{out}/items.parquet")
        if source.startswith((f"{year}/", "all/"))
    )
    return [name for _, _, name, _ in heapq.nsmallest(_SCENES_LINKED, frozen)], next(count)


def _moment(properties: dict[str, Any]) -> str:
    return str(properties.get("datetime") or properties.get("start_datetime") or "")
