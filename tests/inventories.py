"""A year's inventory on disk, made of the real glaciers around Hintereisferner, for tests of what follows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from cryoscale.write import zones
from cryoscale.write.carried import KnownGlaciers
from cryoscale.write.inventory import Description, Inventory
from cryoscale.write.partition import borders_of
from cryoscale.write.succession import write_links
from cryoscale.write.topography import Hypsometry
from cryoscale.write.zonal import Tally

YEAR, DAY = 2018, 17_770
ATTRIBUTES = {"year": YEAR, "model": "by hand", "run_id": "0123456789abcdef"}


def write_inventory(folder: Path, rgi: gpd.GeoDataFrame, *, cut: str, beside: shapely.Polygon) -> None:
    """``<year>.parquet`` and all that a run puts beside it, into ``folder``.

    Args:
        folder: the inventory's.
        rgi: glaciers of the RGI 7 in degrees; those that touch each other are a complex.
        cut: rgi_id of the one that is cut into two in its middle.
        beside: a glacier that the RGI does not have.
    """
    rgi = rgi.set_geometry(shapely.force_2d(rgi.geometry.to_numpy()), crs=rgi.crs)
    at = rgi.set_index("rgi_id").geometry[cut]
    west, south, east, north = at.bounds
    halves = [
        at.intersection(shapely.box(west, south, west + 0.4 * (east - west), north)),
        at.intersection(shapely.box(west + 0.4 * (east - west), south, east, north)),
    ]
    outlines = [*rgi.geometry[rgi["rgi_id"] != cut], *halves, beside]
    polygons = np.array([max(shapely.get_parts(one), key=shapely.area) for one in outlines], object)
    debris = np.array([shapely.buffer(shapely.point_on_surface(one), 5e-4) for one in polygons], object)
    complexes = shapely.get_parts(shapely.union_all(polygons))
    known = KnownGlaciers(rgi)
    with Inventory(ATTRIBUTES) as whole, Inventory(ATTRIBUTES) as glaciers:
        add(whole, complexes, np.empty(0, object))
        whole.write_outlines(folder / f"{YEAR}-complexes.parquet")
        names = {shapely.to_wkb(one.outline): one.name for one in whole.complexes()}
        for outline, name in names.items():
            mine = shapely.covers(shapely.buffer(shapely.from_wkb(outline), 1e-9), polygons)
            first = add(glaciers, polygons[mine], debris[mine])
            borders = borders_of(polygons[mine])
            source = np.array(["rgi"] * int(mine.sum()))
            glaciers.note_divides(first, name, source, borders.pairs, borders.lines)
        glaciers.describe(lambda outline, source: _described(known, outline))
        glaciers.write(folder / f"{YEAR}.parquet", folder / f"{YEAR}.gpkg")
        glaciers.write_divides(folder / f"{YEAR}-intersects.parquet")
        glaciers.write_hypsometry(folder / f"{YEAR}-hypsometry.csv")
    write_links(folder, {YEAR: None}, rgi)


def _described(known: KnownGlaciers, outline: shapely.Polygon) -> Description:
    lowest_m = 2400.0 + 100.0 * round(outline.area * 1e4)
    values = {"zmin_m": lowest_m, "zmed_m": lowest_m + 75.0, "zmax_m": lowest_m + 150.0, "lmax_m": 1234}
    return Description(known.over(outline) | values, Hypsometry(int(lowest_m), (100, 700, 200)))


def add(inventory: Inventory, polygons: np.ndarray, debris: np.ndarray) -> int:
    """Outlines of one image, a quarter of each under debris; the number of the first."""
    tally = Tally(len(polygons))
    tally.ice_px[:], tally.debris_px[:], tally.confidence_px[:] = 1000, 250, 1000
    tally.confidence_sum[:] = 200_000.0
    tally.days = [Counter({DAY: 1000}) for _ in polygons]
    owner = np.arange(debris.size, dtype=np.int64)
    return inventory.add(
        polygons, zones.area_km2(polygons), tally, debris, owner, np.zeros(len(polygons), bool)
    )
