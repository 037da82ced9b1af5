"""Outlines of the ice: from the maps of a year's zones to one dated inventory of polygons.

A polygon is ice of one piece, clean and debris-covered together, that is 4-connected on the map (see
:mod:`cryoscale.write.rims`); holes (rock inside the ice) stay. Its line runs between the pixel centres of the
two sides, without the staircase and with the area of its pixels (:mod:`cryoscale.write.arcs`). It is a
glacier complex: ice divides are not drawn here. Columns follow the RGI 7 where it has them
(https://www.glims.org/rgi_user_guide/).

Outlines are let go one by one as they are complete (:mod:`cryoscale.write.bodies`); held to the end
are only those that reach the border of two zones. Ice that goes on and on is severed along straight
lines before its outline is too large to be held; its parts are told from the others by ``is_part``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr
from affine import Affine
from pyproj import CRS

from cryoscale.crew import Each
from cryoscale.errors import SourceError
from cryoscale.write import zones
from cryoscale.write.bodies import MOST_CORNERS, Bodies, bodies_of
from cryoscale.write.inventory import Inventory
from cryoscale.write.polygons import Place, PolygonArray, owners_of_points
from cryoscale.write.zonal import affine_of, tally

_STEP_PX = 2048

Maps = Mapping[int, xr.Dataset] | xr.Dataset | xr.DataArray


def polygonise(
    mosaics: Maps,
    *,
    min_area_km2: float = 0.01,
    year: int | None = None,
    model: str = "",
    run_id: str = "",
) -> gpd.GeoDataFrame:
    """Ice outlines (WGS 84) of a year's maps, stitched over block and zone borders.

    Args:
        mosaics: by EPSG code, the map of each UTM zone (from ``open_mosaic``): ``label`` ``(y, x)``,
            and where there are, ``confidence`` and ``source_date``. Or one such map, or one label
            array, whose CRS is known to it.
        min_area_km2: ice of a smaller area on the ellipsoid is left out.
        year: the year mapped, for the column of that name.
        model: name of the model, likewise.
        run_id: identifier of the run, likewise.

    Returns:
        One row an outline, the largest first: glac_id, cenlon and cenlat (degrees, inside the
        outline), utm_zone, area_km2, clean_area_km2, debris_area_km2, debris_fraction,
        src_date (median over its pixels), src_date_first, src_date_last, confidence (0-1, mean),
        is_part, year, model, run_id, geometry.

    Raises:
        SourceError: if a map carries no CRS, or not that of its zone.
    """
    with survey(mosaics, min_area_km2=min_area_km2, year=year, model=model, run_id=run_id) as found:
        parts = list(found.glaciers())
    whole: gpd.GeoDataFrame = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    return whole


def survey(
    mosaics: Maps,
    *,
    min_area_km2: float = 0.01,
    year: int | None = None,
    model: str = "",
    run_id: str = "",
    most_corners: int = MOST_CORNERS,
    each: Each = map,
) -> Inventory:
    """What :func:`polygonise` finds, and the debris-covered parts, in memory that does not grow with them.

    Args:
        most_corners: a body with more is severed, see :func:`cryoscale.write.bodies.bodies_of`; the others
            are as for :func:`polygonise`.
        each: by what blocks are looked at, see :class:`cryoscale.crew.Crew`.

    Returns:
        The inventory, to be closed by the caller (it is a context manager).

    Raises:
        SourceError: if a map carries no CRS, or not that of its zone.
    """
    maps = _by_zone(mosaics)
    where = zones.cuts(list(maps))
    inventory = Inventory({"year": year, "model": model, "run_id": run_id})
    try:
        at_cuts: dict[int, _AtCut] = {}
        for epsg, dataset in maps.items():
            zone = _Zone(epsg, dataset, affine_of(dataset), _step_px(maps), where[epsg], min_area_km2)
            at_cuts[epsg] = _AtCut()
            for found in bodies_of(
                dataset,
                step_px=zone.step_px,
                least_px=zone.least_px,
                keeps=zone.reaches_cut,
                most_corners=most_corners,
                each=each,
            ):
                zone.sort_out(found, inventory, at_cuts[epsg])
        _join(maps, where, at_cuts, min_area_km2, inventory)
    except BaseException:
        inventory.close()
        raise
    return inventory


def _by_zone(mosaics: Maps) -> dict[int, xr.Dataset]:
    if isinstance(mosaics, Mapping) and not isinstance(mosaics, xr.Dataset):
        return {int(epsg): dataset for epsg, dataset in sorted(mosaics.items())}
    dataset = mosaics.to_dataset(name="label") if isinstance(mosaics, xr.DataArray) else mosaics
    return {_epsg_of(dataset): dataset}


def _epsg_of(data: xr.Dataset) -> int:
    """EPSG code that a map carries: attributes, or the CF grid mapping of rioxarray and odc."""
    given: Any = data.attrs.get("proj:code") or data.attrs.get("crs") or data["label"].attrs.get("crs")
    if given is None and "spatial_ref" in data.variables:
        attributes = data["spatial_ref"].attrs
        given = attributes.get("crs_wkt") or attributes.get("spatial_ref")
    code = CRS.from_user_input(given).to_epsg() if given is not None else None
    if code is None:
        raise SourceError(
            "a label map without a CRS",
            'attrs["crs"] such as "EPSG:32645", or a spatial_ref coordinate with a known EPSG code',
            "set it, e.g. with label.rio.write_crs(32645)",
        )
    return code


def _step_px(maps: Mapping[int, xr.Dataset]) -> int:
    """Blocks of the store where it says so: each shard is then read once."""
    return max([int(data.attrs.get("cryoscale:block_px", _STEP_PX)) for data in maps.values()])


@dataclass
class _AtCut:
    """Polygons (degrees) of bodies that reach the cut to another zone, and their debris."""

    ice: list[PolygonArray] = field(default_factory=lambda: [np.empty(0, object)])
    debris: list[PolygonArray] = field(default_factory=lambda: [np.empty(0, object)])


@dataclass(frozen=True)
class _Zone:
    """One zone's map: how its pixels lie and are read, where it is cut, and how small its bodies may be."""

    epsg: int
    dataset: xr.Dataset
    affine: Affine
    step_px: int
    cut: zones.Cut
    min_area_km2: float

    @property
    def least_px(self) -> float:
        """A first sieve: the scale of UTM strays by 0.1 % within a zone, so a margin of 2 % is safe."""
        return 0.98e6 * self.min_area_km2 / abs(self.affine.a * self.affine.e)

    def to_degrees(self, polygons: PolygonArray) -> PolygonArray:
        """Pixel coordinates to longitude and latitude."""
        scale, corner = np.array([self.affine.a, self.affine.e]), np.array([self.affine.c, self.affine.f])
        projected = shapely.transform(polygons, lambda xy: corner + scale * xy)
        return zones.to_degrees(np.asarray(projected, object), f"EPSG:{self.epsg}")

    def reaches_cut(self, place: Place) -> bool:
        """Whether a body in this part, its line half a pixel off at most, may reach a cut to another zone."""
        sides = shapely.box(place.x.start - 1, place.y.start - 1, place.x.stop + 1, place.y.stop + 1)
        return bool(zones.straddles(self.to_degrees(np.array([sides], object)), self.cut).any())

    def sort_out(self, found: Bodies, inventory: Inventory, at_cut: _AtCut) -> None:
        """What lies inside the zone goes into the inventory, what reaches a cut waits for the other side."""
        if not found.polygons.size:
            return
        polygons = self.to_degrees(found.polygons)
        crosses = zones.straddles(polygons, self.cut)
        area = zones.area_km2(polygons)
        waits = crosses & ~found.part
        keep = ~crosses & zones.lies_in(polygons, self.cut) & ((area >= self.min_area_km2) | found.part)
        if waits.any():
            at_cut.ice.append(polygons[waits])
            at_cut.debris.append(self.to_degrees(found.debris[waits[found.owner]]))
        for index in np.flatnonzero(crosses & found.part).tolist():
            debris = self.to_degrees(found.debris[found.owner == index])
            self._cut_off(polygons[index : index + 1], debris, inventory)
        kept = np.flatnonzero(keep)
        mine = keep[found.owner]
        owner = np.searchsorted(kept, found.owner[mine])
        debris = self.to_degrees(found.debris[mine])
        inventory.add(polygons[keep], area[keep], found.tally.take(kept), debris, owner, found.part[keep])

    def _cut_off(self, part: PolygonArray, debris: PolygonArray, inventory: Inventory) -> None:
        """A part of a severed body ends at the cut too: joined to what lies beyond it could be too large."""
        clipped = [zones.clip(part, self.cut), zones.clip(debris, self.cut)]
        pieces, covered = zones.share_vertices(clipped, [self.cut])
        owner = owners_of_points(pieces, shapely.point_on_surface(covered))
        counted = tally(pieces, {self.epsg: self.dataset}, {self.epsg: self.cut}, self.step_px)
        inventory.add(
            pieces,
            zones.area_km2(pieces),
            counted,
            covered[owner >= 0],
            owner[owner >= 0],
            np.ones(pieces.size, bool),
        )


def _join(
    maps: Mapping[int, xr.Dataset],
    where: Mapping[int, zones.Cut],
    at_cuts: Mapping[int, _AtCut],
    min_area_km2: float,
    inventory: Inventory,
) -> None:
    """The outlines over zone borders."""
    outlines = zones.join({epsg: np.concatenate(one.ice) for epsg, one in at_cuts.items()}, where)
    area = zones.area_km2(outlines)
    outlines, area = outlines[area >= min_area_km2], area[area >= min_area_km2]
    if not outlines.size:
        return
    debris = zones.join({epsg: np.concatenate(one.debris) for epsg, one in at_cuts.items()}, where)
    debris = zones.turned_into(debris, outlines)
    outlines, debris = zones.share_vertices([outlines, debris], where.values())
    owner = owners_of_points(outlines, shapely.point_on_surface(debris))
    counted = tally(outlines, maps, where, _step_px(maps))
    whole = np.zeros(outlines.size, bool)
    inventory.add(outlines, area, counted, debris[owner >= 0], owner[owner >= 0], whole)
