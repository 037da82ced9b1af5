"""Outlines that labels are made of: read, checked against the regions, and remembered for the record."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from cryoscale.errors import InputError, SourceError
from cryoscale.write.around import box_around, layer_of, require_known_crs
from cryoscale.write.polygons import explode

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

AREAL = ("Polygon", "MultiPolygon", "GeometryCollection")
"""Kinds of geometry that may hold an area."""

_ID_COLUMNS = ("rgi_id", "RGIId", "RGIID")
_DATE_COLUMNS = ("src_date", "BgnDate")
_OUT_OF_ORDER = ("GPKG", "SQLite")
"""Drivers that give the rows in a box in the order of their R-tree, not of the file."""
_VERSIONS = re.compile(r"RGI2000-v(\d+\.\d+)|RGI(\d)(\d)-")


@dataclass(frozen=True, eq=False)
class Outlines:
    """Polygons around the regions, and where they come from.

    Attributes:
        name: what they are, for messages.
        frame: the polygons near the regions, in their own CRS.
        sources: for each file its path, sha256, number of polygons near the regions, and as far as its
            attributes tell, the RGI's version and the span of source dates.
    """

    name: str
    frame: GeoDataFrame
    sources: tuple[dict[str, Any], ...]

    def in_zone(self, epsg: int) -> GeoDataFrame:
        """The polygons in metres of a zone; projected once, since every block asks."""
        return _projected(self, epsg)

    def meets(self, region: BaseGeometry) -> bool:
        """Whether a polygon has ground in common with a region in degrees."""
        if self.frame.empty:
            return False
        shapes = self.frame.geometry.to_crs(4326)
        return bool(len(shapes.sindex.query(region, predicate="intersects")))

    @property
    def crossed(self) -> int:
        """How many polygons cross themselves, so that nobody knows what lies within."""
        return int((~self.frame.geometry.is_valid).sum())

    @property
    def years(self) -> tuple[int, int] | None:
        """The first and last year of the imagery that they were drawn on, where they say."""
        spans = [source["src_date"] for source in self.sources if source.get("src_date")]
        if not spans:
            return None
        return int(min(s[0] for s in spans)[:4]), int(max(s[1] for s in spans)[:4])


@cache
def _projected(outlines: Outlines, epsg: int) -> GeoDataFrame:
    return outlines.frame.to_crs(epsg)


def read_outlines(
    paths: Sequence[Path],
    name: str,
    regions: Sequence[BaseGeometry],
    *,
    layer: str = "glaciers",
    anywhere: bool = False,
) -> Outlines:
    """The polygons of one or more vector files near the regions (in degrees).

    Args:
        paths: GeoPackage, Shapefile, GeoJSON or GeoParquet, in any CRS.
        name: what they are, for messages.
        regions: where they are wanted.
        layer: which is meant of a file with several layers of polygons.
        anywhere: whether files without a polygon near any region will do.

    Raises:
        SourceError: a file is absent or cannot be read, or has several layers and none of that name.
        InputError: a file has no CRS or no polygon, or no polygon of any file is near a region.
    """
    import geopandas

    frames, sources = [], []
    for path in paths:
        frame = _read(path, name, regions, layer)
        frames.append(frame)
        sources.append(_provenance(path, frame))
    crs = frames[0].crs
    frame = geopandas.GeoDataFrame(pd.concat([one.to_crs(crs) for one in frames], ignore_index=True), crs=crs)
    outlines = Outlines(name, frame, tuple(sources))
    if not anywhere and not any(outlines.meets(region) for region in regions):
        raise InputError(
            f"{name} of {', '.join(map(str, paths))}, all of them outside the mapped regions",
            "outlines of the regions that the runs mapped",
            "check the file, its CRS and the runs",
        )
    return outlines


def _read(path: Path, name: str, regions: Sequence[BaseGeometry], layer: str) -> GeoDataFrame:
    import geopandas

    if not path.exists():
        raise SourceError(f"{name} {path} (absent)", "a vector file of polygons", "check the path")
    try:
        if path.suffix in (".parquet", ".geoparquet"):
            frame = geopandas.read_parquet(path)
        else:
            import pyogrio

            meant = layer_of(path, f"{name} {path}", layer)
            about = pyogrio.read_info(path, layer=meant)
            if about["crs"] is None:
                # asked first: without a CRS there is no telling which polygons are near
                raise _without_crs(path, name)
            box = box_around(regions, about["crs"])
            frame = geopandas.read_file(path, layer=meant, bbox=box, fid_as_index=True)
            if about["driver"] in _OUT_OF_ORDER:
                frame = frame.sort_index()  # later corrections win over earlier ones
    except InputError:
        raise
    except Exception as error:  # drivers raise many kinds for files that they cannot read
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(
            f"{name} {path} ({reason})", "GeoPackage, Shapefile, GeoJSON or GeoParquet", "convert it"
        ) from error
    if frame.crs is None:
        raise _without_crs(path, name)
    require_known_crs(path, f"{name} {path}")
    areal = frame.geom_type.isin(AREAL)
    if len(frame) and not areal.any():
        raise InputError(
            f"{name} {path} of {frame.geom_type.iloc[0]}s", "polygons", "give the layer of outlines"
        )
    frame = frame[areal]
    frame = frame.set_geometry(geopandas.GeoSeries(areas_of(frame.geometry), frame.index, frame.crs))
    return frame[~frame.geometry.is_empty]


def areas_of(shapes: Iterable[BaseGeometry]) -> NDArray[np.object_]:
    """What geometries hold of polygons, one multi-polygon each.

    Repairs make a collection of an outline with a spike: its area, and a line.
    """
    return np.array([MultiPolygon(list(explode(shape))) for shape in shapes], object)


def _without_crs(path: Path, name: str) -> InputError:
    return InputError(
        f"{name} {path} without a CRS", "a layer that knows its CRS", "declare it, e.g. with ogr2ogr -a_srs"
    )


def _provenance(path: Path, frame: GeoDataFrame) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "polygons": len(frame),
    }
    ids = next((frame[name] for name in _ID_COLUMNS if name in frame), None)
    if ids is not None and len(ids) and (match := _VERSIONS.match(str(ids.iloc[0]))):
        found["rgi_version"] = match[1] or f"{match[2]}.{match[3]}"
    dates = next((frame[name] for name in _DATE_COLUMNS if name in frame), None)
    if dates is not None:
        # RGI 6 writes 20030701, with 99 for a month or day that is not known
        text = dates.astype(str).str.replace(r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3", regex=True)
        moments = pd.to_datetime(text.str.replace("-99", "-01"), errors="coerce").dropna()
        if len(moments):
            found["src_date"] = [str(np.min(moments))[:10], str(np.max(moments))[:10]]
    return found
