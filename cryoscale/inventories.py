"""The inventory of a year, from the run's map and what the run kept beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shapely.geometry import Polygon

from cryoscale.crew import Each
from cryoscale.settings import Settings
from cryoscale.write import (
    bootstrap,
    columns,
    corrections,
    mosaic,
    outlines,
    quicklook,
    snow,
)
from cryoscale.write.carried import KnownGlaciers
from cryoscale.write.corrections import Corrections
from cryoscale.write.coverage import Coverage
from cryoscale.write.divides import DEM
from cryoscale.write.evidence import Evidence, open_evidence
from cryoscale.write.fronts import Finder, Fronts, find_fronts
from cryoscale.write.glaciers import Divider, divide_inventory
from cryoscale.write.ground import Ground
from cryoscale.write.inventory import Description, Inventory
from cryoscale.write.vectors import put_text, read_parts
from cryoscale.write.waters import Waters

_DEM_NAMES = {"cop-dem-glo-30": "COPDEM30", "cop-dem-glo-90": "COPDEM90"}
"""Elevation models by the names that the RGI 7 has for them."""


def write_inventory(
    settings: Settings,
    out: str,
    folder: Path,
    year: int,
    manifest: dict[str, Any],
    known: KnownGlaciers | None,
    each: Each = map,
) -> Path:
    """Glaciers of one year over all zones, as ``inventory/<year>.parquet`` and ``.gpkg`` under ``folder``.

    Beside them the complexes that they are parts of, the divides that they share, their hypsometry, the area
    of all with its interval, and what the columns of all years mean. Blocks are looked at, complexes divided,
    glaciers described and their fronts found by ``each``.
    """
    hand = corrections_of(out, year)
    maps = {epsg: mosaic.open_mosaic(out, year, epsg, dask=False) for epsg in mosaic.zones(out, year)}
    maps = {epsg: hand.over(found, epsg) for epsg, found in maps.items()}
    parquet = folder / "inventory" / f"{year}.parquet"
    model, run_id = str(manifest["model"]["name"]), str(manifest["identity_sha256"])[:16]
    ground = ground_of(settings, out, year)
    with (
        outlines.survey(
            maps, min_area_km2=settings.min_area_km2, year=year, model=model, run_id=run_id, each=each
        ) as found,
        Inventory({"year": year, "model": model, "run_id": run_id}) as glaciers,
    ):
        found.write_outlines(parquet.with_name(f"{year}-complexes.parquet"))
        divider = Divider(ground, known, settings.min_area_km2) if settings.divides else Divider(None, None)
        divide_inventory(found, glaciers, divider, maps, settings.block_px, each)
        glaciers.describe(_Describer(ground, known, evidence_of(out, year), hand), each)
        elevations = {} if ground is None else ground.elevations
        with Waters(maps, elevations, settings.block_px, each) as waters, Fronts(year) as fronts:
            find_fronts(glaciers, Finder(maps, waters), ground, fronts, each)
            glaciers.write(parquet, parquet.with_suffix(".gpkg"), {"fronts": fronts.frames()})
            fronts.write(parquet.with_name(f"{year}-fronts.parquet"))
        glaciers.write_divides(parquet.with_name(f"{year}-intersects.parquet"))
        glaciers.write_hypsometry(parquet.with_name(f"{year}-hypsometry.csv"))
    region = json.dumps(bootstrap.region_of(read_parts(str(parquet), bootstrap.COLUMNS)), indent=2)
    put_text(f"{region}\n", parquet.with_name(f"{year}-region.json"))
    text = json.dumps(columns.metadata(), indent=2, ensure_ascii=False)
    put_text(f"{text}\n", parquet.with_name("attributes_metadata.json"))
    return parquet


@dataclass(frozen=True, eq=False)
class _Describer:
    """What elevation, evidence, corrections and the RGI say of an outline, as far as the run has them."""

    ground: Ground | None
    known: KnownGlaciers | None
    seen: Evidence | None
    hand: Corrections

    def __call__(self, outline: Polygon, source: str | None) -> Description:
        told = self.ground.under(outline) if self.ground is not None else Description({})
        if self.seen is not None:
            slope_deg = told.values.get("slope_deg", math.nan)
            found = snow.columns_of(snow.signs_under(outline, self.seen, slope_deg))
            told = replace(told, values={**told.values, **found})
        told = replace(told, values={**told.values, "corrected_fraction": self.hand.share(outline)})
        # what flow divided from the RGI's glaciers is none of them
        if self.known is None or source == DEM:
            return told
        return replace(told, values={**told.values, **self.known.over(outline)})


def coverage_of(out: str, year: int) -> Coverage:
    """Where the maps of a year have data."""
    hand, found = corrections_of(out, year), {}
    for epsg in mosaic.zones(out, year):
        labels = mosaic.open_labels(out, year, epsg)
        found[epsg] = hand.over(labels.to_dataset(name="label"), epsg)["label"]
    return Coverage(found)


def corrections_of(out: str, year: int) -> Corrections:
    """What was set by hand in the maps of a year, which may be nothing."""
    return (corrections.kept(out) or corrections.NONE).of(year)


def ground_of(settings: Settings, out: str, year: int) -> Ground | None:
    """The elevation of a year's zones as the run saw it; None where it had none or its quicklook is gone."""
    source = settings.sources.get("terrain")
    if source is None:
        return None
    name = source.collection or source.href or ""
    try:
        elevations = {epsg: quicklook.open_elevation(out, year, epsg) for epsg in mosaic.zones(out, year)}
    except (FileNotFoundError, KeyError):
        return None
    return Ground(elevations, _DEM_NAMES.get(name, name))


def evidence_of(out: str, year: int) -> Evidence | None:
    """What the run saw of a year's zones; None where it kept none of it or it is gone."""
    found = {epsg: open_evidence(out, year, epsg) for epsg in mosaic.zones(out, year)}
    kept = {epsg: seen for epsg, seen in found.items() if seen is not None}
    return Evidence(kept) if kept else None
