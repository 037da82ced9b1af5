"""What no map can know of a glacier, carried over from the RGI's glacier that it overlaps most."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from cryoscale.errors import SourceError
from cryoscale.write import zones
from cryoscale.write.around import box_around, layer_of, require_known_crs
from cryoscale.write.columns import COLUMNS
from cryoscale.write.polygons import PolygonArray, explode
from cryoscale.write.rings import crossing, names_of

CARRIED: tuple[str, ...] = tuple(column.name for column in COLUMNS if column.source.endswith("RGI"))
"""The columns that are carried over, by the names of the RGI 7."""

_WHOLE = "Int32"
_CODES = tuple(column.name for column in COLUMNS if column.name in CARRIED and column.dtype == _WHOLE)

LEAST_KM2 = 200e-6
"""A smaller overlap is none, as in the links of the RGI 7 to its forerunner."""


class KnownGlaciers:
    """The glaciers of an RGI file, to be asked for one outline at a time.

    Args:
        known: with the columns of the RGI 7 that it has, in any CRS; invalid rings are mended.

    Raises:
        SourceError: if it has no CRS, or not an identifier of the RGI for each.
    """

    def __init__(self, known: gpd.GeoDataFrame) -> None:
        _check(known)
        present = known.to_crs("EPSG:4326")
        # some files have heights at their corners, which would come into the outlines with the divides
        self._shapes = shapely.make_valid(shapely.force_2d(present.geometry.to_numpy()))
        self._tree = shapely.STRtree(self._shapes)
        self._values = present.reindex(columns=list(CARRIED))

    def over(self, outline: Polygon) -> dict[str, Any]:
        """The carried columns of one outline (degrees); nothing where no glacier overlaps it by 200 m2."""
        near, common = [], []
        for _, there, found in self._meeting(outline):
            near += found.tolist()
            common += shapely.intersection(self._shapes[found], there).tolist()
        if not near:
            return {}
        area = np.array([zones.area_km2(explode(part)).sum() for part in common])
        if area.max() < LEAST_KM2:
            return {}
        best = self._values.iloc[near[int(np.argmax(area))]]
        return {name: _plain(value) for name, value in best.items() if not pd.isna(value)}

    def near(self, outline: Polygon) -> PolygonArray:
        """The glaciers that meet an outline (degrees), on its side of 180 degrees."""
        met = [zones.turn(self._shapes[found], by_deg) for by_deg, _, found in self._meeting(outline)]
        return explode(np.concatenate(met))

    def _meeting(self, outline: Polygon) -> Iterator[tuple[float, Polygon, NDArray[np.int64]]]:
        """On each side of 180 degrees, how far the outline is beyond, it without that, and which it meets."""
        west, _, east, _ = outline.bounds
        # where the RGI begins again at -180
        for turns in range(math.floor((west + 180.0) / 360.0), math.ceil((east + 180.0) / 360.0)):
            there = shapely.transform(outline, lambda xy, by=360.0 * turns: xy - (by, 0.0))
            yield 360.0 * turns, there, np.sort(self._tree.query(there, predicate="intersects"))


def read_glaciers(path: str, region: BaseGeometry) -> gpd.GeoDataFrame:
    """The rows of an RGI file over the box around a region (degrees), in the CRS of the file.

    A file is of another region where no glacier of it lies within the region: some may lie in the box around
    it, and a file that holds only a part of the region's glaciers is none.

    Raises:
        SourceError: the file is absent, unreadable, without CRS, of another region, rings of it cross, or of
            the glaciers that are read one has no identifier or that of another.
    """
    expected = "the glacier product of the RGI 7 for the region that is mapped"
    if not Path(path).is_file():
        raise SourceError(f"known glaciers {path}, which are not there", expected, "correct outlines.rgi")
    try:
        layer = layer_of(Path(path), f"known glaciers {path}")
        crs = pyogrio.read_info(path, layer=layer)["crs"]
        frame = gpd.read_file(path, layer=layer, bbox=box_around([region], crs) if crs else None)
    except SourceError:
        raise
    except Exception as error:  # GDAL's drivers raise whatever they like
        reason = " ".join(str(error).split())
        raise SourceError(
            f"known glaciers {path}, which cannot be read ({reason})", expected, "give another file"
        ) from error
    given = f"known glaciers {path}"
    require_known_crs(Path(path), given)
    _check(frame, given)
    crossed = crossing(frame.geometry.to_numpy(), names_of(frame))
    if crossed is not None:
        raise SourceError(f"{given}, whose rings cross ({crossed})", "valid outlines", "mend it in the file")
    shapely.prepare(region)
    if not shapely.intersects(region, frame.geometry.to_crs("EPSG:4326").to_numpy()).any():
        raise SourceError(
            f"{given}{_regions(path)}, of which none lies in the region", expected, "give that region's file"
        )
    return frame


def _regions(path: str) -> str:
    """First-order regions of the RGI that a file has glaciers of, as a few words."""
    try:
        values = pyogrio.read_dataframe(path, columns=["o1region"], read_geometry=False)["o1region"]
    except KeyError:
        return ""
    found = sorted(set(map(str, values)))
    return f" of the RGI's region {', '.join(found)}" if found else ""


def _check(known: gpd.GeoDataFrame, given: str = "RGI outlines") -> None:
    if known.crs is None:
        raise SourceError(f"{given} without a CRS", "outlines that name theirs", "set it in the file")
    if "rgi_id" not in known:
        raise SourceError(
            f"{given} with the columns {', '.join(map(str, known.columns))}",
            "the glacier product of the RGI 7, with rgi_id",
            "give another file",
        )
    if (strange := _strange_code(known)) is not None:
        raise SourceError(f"{given}, with the {strange}", "a whole number, as the RGI 7 has it", "mend it")
    fault = _fault_of_ids(known[shapely.area(known.geometry.to_numpy()) > 0])
    if fault is not None:
        raise SourceError(
            f"{given}, {fault}", "an rgi_id of its own for each glacier", "complete, unite or rename them"
        )


def _strange_code(known: gpd.GeoDataFrame) -> str | None:
    """A code that is no whole number, with its column: no inventory could hold it, when all else is done."""
    for name in (name for name in _CODES if name in known):
        for value in known[name].dropna().unique():
            try:
                pd.Series([value], dtype=_WHOLE)
            except (TypeError, ValueError, OverflowError):
                return f"{name} {value}"
    return None


def _fault_of_ids(glaciers: gpd.GeoDataFrame) -> str | None:
    """Which of the glaciers has no identifier, or that of another; links would not tell it from others.

    It need not lie in the region: all that are read are linked, but those without area.
    """
    ids = glaciers["rgi_id"].astype("string")
    nameless = (ids.str.strip().fillna("") == "").to_numpy(bool)
    if nameless.any():
        first = glaciers.geometry[nameless].iloc[:1].to_crs("EPSG:4326").to_numpy()
        lon, lat = shapely.get_coordinates(first)[0]
        return f"one without rgi_id, with a corner at {lon:.4f} and {lat:.4f} degrees"
    again = ids.duplicated().to_numpy(bool)
    return f"two of them with the rgi_id {ids[again].iloc[0]}" if again.any() else None


def _plain(value: Any) -> Any:
    """A value as SQLite takes it: whole numbers that a file had as floats are whole again."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value
