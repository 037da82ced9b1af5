"""How the maps of rasters go around the globe: how wide a turn is, and where the middle of a grid lies."""

from __future__ import annotations

from functools import lru_cache

from cryoscale.grid import central_meridian_deg, transformer

_ROUND = frozenset(
    {
        "Popular Visualisation Pseudo Mercator",
        "Mercator (variant A)",
        "Mercator (variant B)",
        "Equidistant Cylindrical",
        "Equidistant Cylindrical (Spherical)",
        "Lambert Cylindrical Equal Area",
        "Lambert Cylindrical Equal Area (Spherical)",
    }
)
"""Projections that show the globe as a strip, which goes on where it ends (names of EPSG)."""


@lru_cache(maxsize=64)
def turn_of(crs: str) -> float | None:
    """How far x goes in a turn of the globe, where the map goes on around it; None where it does not."""
    from pyproj import CRS

    if is_geographic(crs):
        return 360.0
    operation = CRS.from_user_input(crs).coordinate_operation
    if operation is None or operation.method_name not in _ROUND:
        return None
    middle = central_meridian_deg(crs)
    (west, east), _ = transformer("EPSG:4326", crs).transform([middle - 90.0, middle + 90.0], [0.0, 0.0])
    return 2.0 * float(east - west)


@lru_cache(maxsize=64)
def meridian_in(crs: str, target: str) -> float:
    """x in ``target`` of the central meridian of the projection ``crs``."""
    middle = central_meridian_deg(crs)
    return (
        middle if is_geographic(target) else float(transformer("EPSG:4326", target).transform(middle, 0)[0])
    )


@lru_cache(maxsize=64)
def is_geographic(crs: str) -> bool:
    """Whether a CRS is of longitude and latitude."""
    from pyproj import CRS

    return bool(CRS.from_user_input(crs).is_geographic)
