"""Outlines of the ice: from the maps of a year's zones to one dated inventory of polygons.

A polygon is ice of one piece, clean and debris-covered together, that is 4-connected on the map (see
:mod:`cryoscale.write.polygons`); holes (rock inside the ice) stay. It is a glacier complex: ice
divides are not drawn here. Columns follow the RGI 7 where it has them
(https://www.glims.org/rgi_user_guide/).
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from pyproj import CRS

from cryoscale.errors import SourceError
from cryoscale.grid import utm_epsg
from cryoscale.write import zones
from cryoscale.write.polygons import PolygonArray, owners_of_points, polygons_of
from cryoscale.write.store import put
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS, Tally, affine_of, tally

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
        One row an outline, the largest first: glac_id, year, cenlon and cenlat (degrees, inside the
        outline), utm_zone, area_km2, clean_area_km2, debris_area_km2, debris_fraction,
        src_date (median over its pixels), src_date_first, src_date_last, confidence (0-1, mean),
        model, run_id, geometry.

    Raises:
        SourceError: if a map carries no CRS, or not that of its zone.
    """
    maps = _by_zone(mosaics)
    where = zones.cuts(list(maps))
    outlines = _outlines(maps, where, (CLEAN_ICE, DEBRIS), min_area_km2)
    area = zones.area_km2(outlines)
    keep = np.flatnonzero(area >= min_area_km2)
    keep = keep[np.argsort(-area[keep], kind="stable")]
    outlines, area = outlines[keep], area[keep]
    counted = tally(outlines, maps, where, _step_px(maps))
    return gpd.GeoDataFrame(
        _columns(outlines, area, counted) | {"year": year, "model": model, "run_id": run_id},
        geometry=list(outlines),
        crs="EPSG:4326",
    )


def debris_polygons(mosaics: Maps, glaciers: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Debris-covered parts of the outlines that :func:`polygonise` found on the same maps.

    Returns:
        One row a part: glac_id of its outline, area_km2, geometry (WGS 84).
    """
    maps = _by_zone(mosaics)
    parts = _outlines(maps, zones.cuts(list(maps)), (DEBRIS,), 0.0)
    owner = owners_of_points(glaciers.geometry.to_numpy(), shapely.point_on_surface(parts))
    parts, owner = parts[owner >= 0], owner[owner >= 0]
    return gpd.GeoDataFrame(
        {"glac_id": glaciers["glac_id"].to_numpy()[owner], "area_km2": zones.area_km2(parts)},
        geometry=list(parts),
        crs="EPSG:4326",
    )


def write_inventory(
    glaciers: gpd.GeoDataFrame,
    path_parquet: str | os.PathLike[str],
    path_gpkg: str | os.PathLike[str],
    *,
    debris: gpd.GeoDataFrame | None = None,
) -> None:
    """Writes outlines as GeoParquet and as GeoPackage (layers glaciers and debris).

    Paths may be fsspec URLs. Each file appears complete or not at all, and replaces what was there.

    Raises:
        OutputError: if a file cannot be written.
    """
    parquet = io.BytesIO()
    glaciers.to_parquet(parquet, index=False, schema_version="1.1.0", write_covering_bbox=True)
    put(path_parquet, parquet.getvalue())
    with tempfile.TemporaryDirectory() as folder:  # SQLite needs a real file
        geopackage = Path(folder, "outlines.gpkg")
        glaciers.to_file(geopackage, layer="glaciers", driver="GPKG", index=False)
        if debris is not None:
            debris.to_file(geopackage, layer="debris", driver="GPKG", index=False)
        put(path_gpkg, geopackage.read_bytes())


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


def _outlines(
    maps: Mapping[int, xr.Dataset],
    where: Mapping[int, zones.Cut],
    classes: tuple[int, ...],
    min_area_km2: float,
) -> PolygonArray:
    """Polygons of ``classes`` in degrees over all zones; a first sieve takes out what is far too small."""
    by_zone = {}
    for epsg, dataset in maps.items():
        label = dataset["label"]

        def read(y: slice, x: slice, label: xr.DataArray = label) -> NDArray[np.uint8]:
            return np.asarray(label[y, x].values)

        pixels = polygons_of(read, label.shape, classes, _step_px(maps))  # type: ignore[arg-type]  # 2-D
        affine = affine_of(dataset)
        scale, corner = np.array([affine.a, affine.e]), np.array([affine.c, affine.f])
        projected = np.asarray(
            shapely.transform(pixels, lambda xy, scale=scale, corner=corner: corner + scale * xy), object
        )
        degrees = zones.to_degrees(projected, f"EPSG:{epsg}")
        # the scale of UTM strays by 0.1 % within a zone, so a margin of 2 % errs on the safe side
        large = (shapely.area(projected) > 0.98e6 * min_area_km2) | zones.crosses_cut(degrees, where[epsg])
        by_zone[epsg] = degrees[large]
    return zones.join(by_zone, where)


def _columns(outlines: PolygonArray, area: NDArray[np.float64], counted: Tally) -> dict[str, Any]:
    points = shapely.get_coordinates(shapely.point_on_surface(outlines)).reshape(-1, 2)
    fraction = counted.debris_fraction()
    return {
        "glac_id": _identifiers(points),
        "cenlon": points[:, 0],
        "cenlat": points[:, 1],
        "utm_zone": np.array([utm_epsg(lon, lat) % 100 for lon, lat in points], np.int16),
        "area_km2": area,
        "clean_area_km2": area * (1 - fraction),
        "debris_area_km2": area * fraction,
        "debris_fraction": fraction,
        "src_date": counted.date(0.5).astype("datetime64[ms]"),
        "src_date_first": counted.date(0.0).astype("datetime64[ms]"),
        "src_date_last": counted.date(1.0).astype("datetime64[ms]"),
        "confidence": counted.mean_confidence(),
    }


def _identifiers(points: NDArray[np.float64]) -> list[str]:
    """Ids from the points, written as GLIMS writes them: longitude 0-360 E and latitude in 0.001 degrees."""
    seen: dict[str, int] = {}
    identifiers = []
    for lon, lat in points:
        east = round(lon % 360.0 * 1000) % 360_000
        base = f"G{east:06d}E{round(abs(lat) * 1000):05d}{'N' if lat >= 0 else 'S'}"
        seen[base] = seen.get(base, 0) + 1
        identifiers.append(base if seen[base] == 1 else f"{base}-{seen[base]}")
    return identifiers
