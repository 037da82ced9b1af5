"""What is asked of a vector file before it is read: its layer, its CRS, and the box around regions in it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from cryoscale.errors import SourceError
from cryoscale.grid import transformer

_STEPS = 100
"""Points along each side of a region's box: in a projection its sides are bent, and corners tell nothing."""

_PAD = 0.01
"""Share of the box that it is grown by on each side: what sides bulge between two points, many times over."""


def layer_of(path: Path, given: str, named: str = "glaciers") -> str | None:
    """The layer of a vector file that holds its polygons; None for the file's only one.

    Of several that is the one ``named``: the inventories of a run have debris and more beside their glaciers.

    Raises:
        SourceError: nobody can tell which is meant of the file, which ``given`` calls by its name.
    """
    import pyogrio

    if path.suffix.lower() in (".json", ".geojson"):  # of one layer, and read whole to be opened
        return None
    layers = [(str(name), str(kind)) for name, kind in pyogrio.list_layers(path)]
    if len(layers) < 2:
        return None
    areas = [name for name, kind in layers if "Polygon" in kind]
    areas = areas or [name for name, kind in layers if kind in ("Unknown", "GeometryCollection")]
    fitting = [name for name in areas if name == named] or areas
    if len(fitting) == 1:
        return fitting[0]
    raise SourceError(
        f"{given}, which has the layers {', '.join(f'{name} ({kind})' for name, kind in layers)}",
        "one layer of polygons",
        "export the one that is meant to a file of its own",
    )


def require_known_crs(path: Path, given: str) -> None:
    """Refuses a GeoJSON whose CRS PROJ does not know, which GDAL takes for WGS 84 without a word.

    One that names none is WGS 84 (RFC 7946, 4); files of other kinds pass.

    Raises:
        SourceError: it is such a one, which ``given`` calls by its name.
    """
    if path.suffix.lower() not in (".json", ".geojson"):
        return
    try:
        name = str(json.loads(path.read_bytes())["crs"]["properties"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    try:
        CRS.from_user_input(name)
    except CRSError as error:
        told = f"{given} in the CRS {name}, which PROJ does not know"
        raise SourceError(told, "one that it knows", "correct it") from error


def box_around(regions: Iterable[BaseGeometry], crs: str) -> tuple[float, float, float, float] | None:
    """West, south, east, north of a box in ``crs`` that holds all of the regions (degrees).

    None where there is no such box: a region that the projection cannot show, or one over the meridian at
    which longitudes of ``crs`` begin again. Then the whole file has to be read.

    Raises:
        pyproj.exceptions.ProjError: there is no way from degrees to ``crs``.
    """
    to_file = transformer("EPSG:4326", crs)
    # a box of its own for each: that around all of them could hold a pole, or half the globe
    found = np.array([to_file.transform_bounds(*region.bounds, densify_pts=_STEPS) for region in regions])
    if not found.size or not np.isfinite(found).all() or (found[:, 0] > found[:, 2]).any():
        return None
    low, high = found[:, :2].min(axis=0), found[:, 2:].max(axis=0)
    pad = _PAD * (high - low)
    west, south = (low - pad).tolist()
    east, north = (high + pad).tolist()
    return west, south, east, north
