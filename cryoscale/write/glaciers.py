"""The glaciers of a year: every complex of an inventory divided, its pixels counted glacier by glacier.

One complex at a time, so that memory holds one of them with the elevation around it, however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry import Polygon

from cryoscale.crew import Each, in_pairs
from cryoscale.grid import transformer, utm_epsg
from cryoscale.write import zones
from cryoscale.write.carried import KnownGlaciers
from cryoscale.write.divides import NONE, Least, carry
from cryoscale.write.flowsheds import Terrain
from cryoscale.write.ground import Ground
from cryoscale.write.inventory import Complex, Inventory
from cryoscale.write.partition import Borders, borders_of
from cryoscale.write.polygons import PolygonArray, explode
from cryoscale.write.zonal import Tally, affine_of, tally_divided

_MARGIN_M = 400.0
"""Of elevation around a complex, from which its surface is smoothed up to its rim."""


@dataclass(frozen=True, eq=False)
class Glaciers:
    """A complex divided.

    Attributes:
        polygons: in degrees, a coverage of it; the vertices of its outline are kept to the last bit.
        source: where the divides of each come from, see :class:`cryoscale.write.divides.Divided`.
    """

    polygons: PolygonArray
    source: NDArray[np.object_]


class Divider:
    """What complexes are divided by.

    Args:
        ground: the elevation of the year's zones, or None where there is none.
        known: older glaciers, whose divides are carried forward.
        min_area_km2: of a glacier on the ellipsoid; a divide leaves none that is smaller.
    """

    def __init__(
        self, ground: Ground | None, known: KnownGlaciers | None, min_area_km2: float = 0.01
    ) -> None:
        self._ground, self._known, self._min_area_km2 = ground, known, min_area_km2

    def glaciers_of(self, outline: Polygon) -> Glaciers:
        """The glaciers of a complex (degrees)."""
        older = self._known.near(outline) if self._known is not None else np.empty(0, object)
        if self._ground is None and not older.size:
            return Glaciers(np.array([outline], object), np.array([NONE], object))
        lon, lat = shapely.get_coordinates(shapely.point_on_surface(outline))[0].tolist()
        epsg = self._ground.zone_of(lon, lat) if self._ground is not None else utm_epsg(lon, lat)
        to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")

        def project(xy: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack(to_zone.transform(*xy.T))

        shape = shapely.transform(outline, project)
        terrain = self._terrain(shape, epsg)
        in_degrees = _InDegrees(outline, shape, epsg)
        least = Least(self._min_area_km2, lambda parts: 1e6 * zones.area_km2(in_degrees(parts)))
        before = np.asarray(shapely.transform(older, project), object)
        found = carry(shape, before, terrain, least=least)
        return Glaciers(in_degrees(found.polygons), found.source)

    def _terrain(self, shape: Polygon, epsg: int) -> Terrain | None:
        around = self._ground.around(shape, epsg, _MARGIN_M) if self._ground is not None else None
        return None if around is None else Terrain(np.asarray(around.values, np.float32), affine_of(around))


class _InDegrees:
    """Parts of an outline in a zone (m) to degrees; a vertex of the outline is again what it was."""

    def __init__(self, outline: Polygon, shape: Polygon, epsg: int) -> None:
        degrees, keys = shapely.get_coordinates(outline), _pairs(shapely.get_coordinates(shape))
        order = np.argsort(keys)
        self._keys, self._degrees = keys[order], degrees[order]
        self._to_degrees = transformer(f"EPSG:{epsg}", "EPSG:4326")

    def __call__(self, parts: PolygonArray) -> PolygonArray:
        return np.asarray(shapely.transform(parts, self._convert), object)

    def _convert(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        lon, lat = self._to_degrees.transform(*xy.T)
        # on the outline's side of 180 degrees
        lon = lon + 360.0 * np.round((self._degrees[0, 0] - lon) / 360.0)
        wanted = _pairs(xy)
        at = np.minimum(np.searchsorted(self._keys, wanted), self._keys.size - 1)
        return np.where((self._keys[at] == wanted)[:, None], self._degrees[at], np.column_stack([lon, lat]))


def _pairs(xy: NDArray[np.float64]) -> NDArray[np.complex128]:
    return np.asarray(xy[:, 0] + 1j * xy[:, 1], np.complex128)


@dataclass(frozen=True, eq=False)
class _Parts:
    """A complex of several glaciers, counted: as :meth:`Inventory.add` and ``note_divides`` take them."""

    glaciers: Glaciers
    area_km2: NDArray[np.float64]
    tally: Tally
    debris: PolygonArray
    owner: NDArray[np.int64]
    borders: Borders


@dataclass(frozen=True)
class _Dividing:
    """A complex to its parts; or to the source of its divides alone, where it is one glacier."""

    divider: Divider
    maps: Mapping[int, xr.Dataset]
    where: Mapping[int, zones.Cut]
    step_px: int

    def __call__(self, one: Complex) -> _Parts | str:
        found = self.divider.glaciers_of(one.outline)
        if found.polygons.size == 1:
            return str(found.source[0])
        debris, owner = _debris_of(one, found.polygons)
        return _Parts(
            found,
            zones.area_km2(found.polygons),
            tally_divided(found.polygons, self.maps, self.where, self.step_px),
            debris,
            owner,
            borders_of(found.polygons),
        )


def divide_inventory(
    complexes: Inventory,
    glaciers: Inventory,
    divider: Divider,
    maps: Mapping[int, xr.Dataset],
    step_px: int,
    each: Each = map,
) -> None:
    """Put the glaciers of all complexes into an empty inventory.

    Args:
        complexes: as :func:`cryoscale.write.outlines.survey` finds them.
        glaciers: gets them, with the divides that neighbours share.
        divider: what they are divided by.
        maps: of the year's zones, to count the pixels of the glaciers of divided complexes.
        step_px: pixels along a side of what is read at once.
        each: by what every complex is divided, see :class:`cryoscale.crew.Crew`.
    """
    work = _Dividing(divider, maps, zones.cuts(list(maps)), step_px)
    for one, parts in in_pairs(each, work, complexes.complexes()):
        if isinstance(parts, str):
            glaciers.add_whole(one, parts)
            continue
        polygons = parts.glaciers.polygons
        severed = np.full(polygons.size, one.is_part)
        first = glaciers.add(polygons, parts.area_km2, parts.tally, parts.debris, parts.owner, severed)
        glaciers.note_divides(
            first, one.name, parts.glaciers.source, parts.borders.pairs, parts.borders.lines
        )


def _debris_of(one: Complex, polygons: PolygonArray) -> tuple[PolygonArray, NDArray[np.int64]]:
    """The debris of a complex, cut where its glaciers meet, and the index of the glacier of each piece."""
    patches = one.debris
    # asked by glacier: what is asked about is prepared, and a glacier may have ten thousand corners
    glacier, patch_of = shapely.STRtree(patches).query(polygons, predicate="intersects")
    order = np.lexsort((glacier, patch_of))
    glacier, patch_of = glacier[order], patch_of[order]
    whole = (np.bincount(patch_of, minlength=patches.size) == 1)[patch_of]
    pieces = [patches[patch_of[whole]]]
    owners = [glacier[whole]]
    for patch, index in zip(patch_of[~whole].tolist(), glacier[~whole].tolist(), strict=True):
        cut = explode(shapely.intersection(patches[patch], polygons[index]))
        pieces.append(cut)
        owners.append(np.full(cut.size, index))
    return np.concatenate(pieces), np.concatenate(owners).astype(np.int64)
