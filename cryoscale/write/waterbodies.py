"""The bodies of water of one zone's map, streamed block by block and joined over the borders of blocks.

Memory holds what reaches the last row of blocks. What is kept of a body are its counts and where its pieces
lie: a block's water is numbered again, and alike, when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from cryoscale.crew import Each
from cryoscale.grid import RESOLUTION_M, transformer
from cryoscale.write.arrays import NODATA
from cryoscale.write.polygons import Sides
from cryoscale.write.zonal import CLEAN_ICE, DEBRIS, affine_of
from cryoscale.write.zones import Cut

WATER = 3
LEAST_KM2 = 0.01
PIXEL_KM2 = RESOLUTION_M**2 / 1e6
BROAD_PX = 5
"""Edge of the square that has to fit into water; 50 m."""
_GROWN_PX = 5
"""How far narrow water counts with the broad water beside it: bays and corners of a lake, not its river."""
_HALO_PX = 2 * (BROAD_PX // 2) + _GROWN_PX + 1
_SEA_M = 1.0
_MEETING_M = 1.5 * RESOLUTION_M
"""Two zones' pixels on either side of their cut are no farther apart than this."""


@dataclass
class Counts:
    """Pixels of a body, edges of them by what is beyond, and what is known of its elevation."""

    px: int = 0
    ice: int = 0
    land: int = 0
    rim: int = 0
    z_sum: float = 0.0
    z_px: int = 0
    sea_px: int = 0

    def take(self, other: Counts) -> None:
        """What turned out to be the same."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Body:
    """A body that may go on in a block not yet seen."""

    counts: Counts
    pieces: list[tuple[int, ...]]
    """Zone, first row and column of a block, number there, first and last row, first and last column."""
    at_cut: list[NDArray[np.float64]] = field(default_factory=list)
    """Longitudes and latitudes (n, 2) of its pixels along the cut to another zone."""


@dataclass(frozen=True)
class Block:
    """The water of one block, as everybody who asks numbers it."""

    numbers: NDArray[np.int32]
    label: NDArray[np.uint8]
    """With a pixel around, no data beyond the map."""


@dataclass(frozen=True)
class Zone:
    """One zone's map, where it is cut, and the edge of its blocks."""

    epsg: int
    dataset: xr.Dataset
    cut: Cut
    step_px: int

    def block(self, top: int, left: int) -> Block:
        """The block whose first pixel is at this row and column."""
        height, width = self.dataset["label"].shape
        bottom, right = min(top + self.step_px, height), min(left + self.step_px, width)
        north, west = max(top - _HALO_PX, 0), max(left - _HALO_PX, 0)
        part = self.dataset["label"].isel(y=slice(north, bottom + _HALO_PX), x=slice(west, right + _HALO_PX))
        outer = np.asarray(part.values)
        around = np.pad(outer, 1, constant_values=NODATA)
        label = around[top - north : bottom - north + 2, left - west : right - west + 2]
        inner = slice(top - north, bottom - north), slice(left - west, right - west)
        if not (label[1:-1, 1:-1] == WATER).any():
            return Block(np.zeros((bottom - top, right - left), np.int32), label)
        water = broad(outer)[inner]
        if self.reaches_cut(top, left, *water.shape):
            row, col = np.nonzero(water)
            x, y = self.dataset["x"].values[left + col], self.dataset["y"].values[top + row]
            water[row, col] = _in_box(*self.degrees(x, y), self.cut)
        numbers, _ = ndimage.label(water)
        return Block(numbers.astype(np.int32), label)

    def reaches_cut(self, top: int, left: int, height: int, width: int) -> bool:
        """Whether a pixel of a part, or one beside it, lies beyond a cut: those around it tell of all."""
        if not self.cut.lons_deg and not self.cut.lats_deg:
            return False
        x = self.dataset["x"].values[left] + RESOLUTION_M * np.arange(-1, width + 1)
        y = self.dataset["y"].values[top] - RESOLUTION_M * np.arange(-1, height + 1)
        east = np.concatenate([x, x, np.full(y.size, x[0]), np.full(y.size, x[-1])])
        north = np.concatenate([np.full(x.size, y[0]), np.full(x.size, y[-1]), y, y])
        return not _in_box(*self.degrees(east, north), self.cut).all()

    def degrees(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude and latitude of places in metres."""
        lon, lat = transformer(f"EPSG:{self.epsg}", "EPSG:4326").transform(x, y)
        return np.asarray(lon), np.asarray(lat)


def broad(label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (y, x) of broad water among labels; what is not known may be water."""
    water = np.asarray(label == WATER, bool)
    maybe = (water | (label == NODATA)).astype(np.uint8)
    fits = ndimage.minimum_filter(maybe, BROAD_PX, mode="nearest")
    opened = water & np.asarray(ndimage.maximum_filter(fits, BROAD_PX, mode="nearest"), bool)
    if not opened.any():
        return np.zeros_like(water)
    return np.asarray(ndimage.binary_dilation(opened, iterations=_GROWN_PX, mask=water), bool)


def _in_box(lon: NDArray[np.float64], lat: NDArray[np.float64], cut: Cut) -> NDArray[np.bool_]:
    west, south, east, north = cut.box_deg
    turned = west + (lon - west) % 360.0
    return np.asarray((turned <= east) & (lat >= south) & (lat <= north), bool)


def bodies(zone: Zone, elevation: xr.DataArray | None, each: Each = map) -> Iterator[Body]:
    """Bodies that are large enough or may go on in another zone.

    Args:
        zone: whose they are.
        elevation: (y, x) in m on the zone's own grid, of any step; None where there is none.
        each: by what blocks are looked at, see :class:`cryoscale.crew.Crew`; they are joined here.
    """
    height, width = zone.dataset["label"].shape
    tops, lefts = range(0, height, zone.step_px), range(0, width, zone.step_px)
    looked_at = iter(each(_Look(zone, elevation), ((top, left) for top in tops for left in lefts)))
    joining = _Joining(width)
    for top in tops:
        joining.begin_row(min(zone.step_px, height - top))
        for left in lefts:
            joining.add(left, *next(looked_at))
        yield from joining.end_row(last=top == tops[-1])


class _Joining:
    """The bodies that are open, row of blocks by row of blocks, of a zone that is so many pixels wide."""

    def __init__(self, width: int) -> None:
        self._last = 0
        self._parent: dict[int, int] = {}
        self._open: dict[int, Body] = {}
        self._above, self._below = np.zeros((2, width), np.int64)
        self._left = np.zeros(0, np.int64)

    def begin_row(self, height: int) -> None:
        """A row of blocks of that many rows of pixels."""
        self._left = np.zeros(height, np.int64)

    def add(self, left: int, sides: Sides, found: list[Body]) -> None:
        """A block, its first column, with its bodies in the order of its own numbers."""
        given = np.zeros(len(found) + 1, np.int64)
        goes_on = np.zeros(given.size, bool)
        goes_on[sides.numbers] = True
        for index, body in enumerate(found, start=1):
            if goes_on[index] or _stays(body):
                self._last += 1
                self._parent[self._last] = self._last
                self._open[self._last] = body
                given[index] = self._last
        columns = slice(left, left + sides.north.size)
        own = sides.renamed(given)
        self._join(self._above[columns], own.north)
        self._join(self._left, own.west)
        self._left, self._below[columns] = own.east, own.south

    def end_row(self, *, last: bool) -> Iterator[Body]:
        """What nothing can join any more and stays."""
        numbers, inverse = np.unique(self._below, return_inverse=True)
        roots = np.array([self._root(number) if number else 0 for number in numbers.tolist()], np.int64)
        self._above = roots[inverse]
        self._parent = {} if last else {root: root for root in roots.tolist() if root}
        for number in [number for number in self._open if number not in self._parent]:
            body = self._open.pop(number)
            if _stays(body):
                yield body

    def _root(self, number: int) -> int:
        while (above := self._parent[number]) != number:
            self._parent[number] = number = self._parent[above]
        return number

    def _join(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        both = (before > 0) & (after > 0)
        for pair in np.unique(np.column_stack([before[both], after[both]]), axis=0).tolist():
            one, other = map(self._root, pair)
            if one == other:
                continue
            if len(self._open[one].pieces) < len(self._open[other].pieces):
                one, other = other, one
            taken = self._open.pop(other)
            self._open[one].counts.take(taken.counts)
            self._open[one].pieces += taken.pieces
            self._open[one].at_cut += taken.at_cut
            self._parent[other] = one


def _stays(body: Body) -> bool:
    return body.counts.px * PIXEL_KM2 >= LEAST_KM2 or bool(body.at_cut)


@dataclass(frozen=True, eq=False)
class _Look:
    """The first row and column of a block to what it has along its sides, and to its bodies."""

    zone: Zone
    elevation: xr.DataArray | None

    def __call__(self, corner: tuple[int, int]) -> tuple[Sides, list[Body]]:
        block = self.zone.block(*corner)
        found = _look(self.zone, block, self.elevation, *corner) if block.numbers.any() else []
        return Sides.of(block.numbers), found


def _look(zone: Zone, block: Block, elevation: xr.DataArray | None, top: int, left: int) -> list[Body]:
    """The bodies of a block, in the order of its numbers."""
    count = int(block.numbers.max())
    row, col = np.nonzero(block.numbers)
    number = block.numbers[row, col]
    totals = {"px": np.bincount(number, minlength=count + 1)}
    totals |= {name: np.zeros(count + 1, np.int64) for name in ("ice", "land", "rim")}
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        beyond = block.label[row + 1 + down, col + 1 + right]
        ice, unknown = np.isin(beyond, (CLEAN_ICE, DEBRIS)), beyond == NODATA
        land = ~ice & ~unknown & (beyond != WATER)
        for name, there in (("ice", ice), ("land", land), ("rim", unknown)):
            totals[name] += np.bincount(number[there], minlength=count + 1)
    z = _elevations(zone, elevation, row + top, col + left)
    known = np.isfinite(z)
    totals["z_px"] = np.bincount(number[known], minlength=count + 1)
    totals["sea_px"] = np.bincount(number[known & (np.abs(z) <= _SEA_M)], minlength=count + 1)
    z_sum = np.bincount(number[known], z[known], minlength=count + 1)
    whole = {name: values.tolist() for name, values in totals.items()}
    found = [
        Body(
            Counts(z_sum=float(z_sum[at]), **{name: values[at] for name, values in whole.items()}),
            [(zone.epsg, top, left, at, *_sides(box, top, left))],
        )
        for at, box in enumerate(ndimage.find_objects(block.numbers), start=1)
    ]
    if zone.reaches_cut(top, left, *block.numbers.shape):
        for at, points in _along_cut(zone, row + top, col + left, number):
            found[at - 1].at_cut.append(points)
    return found


def _sides(box: tuple[slice, slice], top: int, left: int) -> tuple[int, int, int, int]:
    y, x = box
    return y.start + top, y.stop - 1 + top, x.start + left, x.stop - 1 + left


def _elevations(
    zone: Zone, elevation: xr.DataArray | None, row: NDArray[np.int64], col: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Elevation at pixels, that of the cell around each."""
    found = np.full(row.size, np.nan)
    if elevation is None or not row.size:
        return found
    affine = ~affine_of(elevation)
    x, y = affine * (zone.dataset["x"].values[col], zone.dataset["y"].values[row])
    x, y = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    inside = (x >= 0) & (y >= 0) & (x < elevation.shape[1]) & (y < elevation.shape[0])
    if not inside.any():
        return found
    x, y = x[inside], y[inside]
    part = elevation.isel(y=slice(y.min(), y.max() + 1), x=slice(x.min(), x.max() + 1))
    found[inside] = np.asarray(part.values)[y - y.min(), x - x.min()]
    return found


def _along_cut(
    zone: Zone, row: NDArray[np.int64], col: NDArray[np.int64], number: NDArray[np.int32]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Of each body the places of its pixels that are the last before a cut."""
    x, y = zone.dataset["x"].values[col], zone.dataset["y"].values[row]
    last = np.zeros(row.size, bool)
    for right, up in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        beside = zone.degrees(x + right * RESOLUTION_M, y + up * RESOLUTION_M)
        last |= ~_in_box(*beside, zone.cut)
    lon, lat = zone.degrees(x[last], y[last])
    for at in np.unique(number[last]).tolist():
        here = number[last] == at
        yield at, np.column_stack([lon[here], lat[here]])


def joined(at_cut: Sequence[tuple[int, int, NDArray[np.float64]]]) -> list[tuple[int, int]]:
    """Bodies of different zones that meet at a cut: each with the number that it goes by."""
    if not at_cut:
        return []
    lon, lat = np.concatenate([points for _, _, points in at_cut]).T
    sizes = [len(points) for _, _, points in at_cut]
    zone = np.repeat([epsg for epsg, _, _ in at_cut], sizes)
    body = np.repeat([number for _, number, _ in at_cut], sizes)
    # on a sphere, so that neither the pole nor 180 degrees is a place of its own
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    places = 6_371_000.0 * np.column_stack(
        [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    )
    pairs = KDTree(places).query_pairs(_MEETING_M, output_type="ndarray")
    pairs = pairs[zone[pairs[:, 0]] != zone[pairs[:, 1]]]
    numbers, index = np.unique(body, return_inverse=True)
    ends = index[pairs]
    links = coo_array(
        (np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(numbers.size, numbers.size)
    )
    _, group = connected_components(links, directed=False)
    first = np.full(int(group.max()) + 1, numbers.max())
    np.minimum.at(first, group, numbers)
    return list(zip(numbers.tolist(), first[group].tolist(), strict=True))
