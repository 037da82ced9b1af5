"""Resampling onto the world lattice, one pixel at a time.

GDAL's warper chooses its approximation of the transformation, its source window and, through
odc-stac, its overview from the window that is asked for, so a part of a window differs from the
window's part in the last digits. A block must not depend on its neighbours, therefore the value of
a pixel here is a function of that pixel and the source alone: map coordinates come from nodes on
every 16th *world* pixel, and kernels see the source's own pixel numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.grid import transformer
from cryoscale.kernel import kernel
from cryoscale.read.globe import meridian_in, turn_of
from cryoscale.read.lattice import ArraySource, Lattice, MosaicSource, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from cryoscale.read.assets import Resampling

NODE_STEP_PX = 16
"""World pixels between two nodes of the coordinate mesh.

Over 160 m the bend of a UTM line against longitude and latitude is L^2 tan(lat) / 8R, 3 mm at
80 degrees north, so that what lies between nodes is exact to 1e-4 of a 30 m pixel.
"""

_METHODS = {"nearest": 0, "bilinear": 1, "cubic": 2}
MARGIN_PX = 3
"""Source pixels cut around what the nodes span: the cubic kernel's reach and one for rounding."""


_TURN_SLACK_PX = 0.01
"""What a turn of the globe may lack of whole source pixels, so that a raster is taken to go on around it."""

_TEAR_M = 1e6
"""No two nodes lie as far apart in a projection, unless it ends between them."""

_MESHES = 32
"""Kept of those used last: the bands of a scene lie on one or three lattices, and all its dates on the same.

One of a block of 2048 px with its halo holds 0.4 MB."""


class TornError(ValueError):
    """A raster that ends inside the grid where the globe does not, and cannot be continued there."""


def fetch(source: Source, geobox: GeoBox) -> ArraySource | None:
    """The part of ``source`` that :func:`resample` needs for ``geobox``, read into memory; None if apart.

    Raises:
        TornError: if the raster would have to be continued beyond its end, and cannot.
    """
    mesh = _mesh(geobox, source.lattice)
    source = _continued(source, mesh)
    own = source.lattice
    window = _source_window(mesh, own)
    if window is None:
        return None
    rows, columns = window
    shape = rows.stop - rows.start, columns.stop - columns.start
    lattice = Lattice(own.crs, own.affine, *shape, rows.start, columns.start)
    return ArraySource(lattice, source.cut(rows, columns))


def resample(source: Source, geobox: GeoBox, method: Resampling) -> NDArray[Any] | None:
    """``source`` on ``geobox``, (y, x) float32 or complex64, NaN where the source has nothing; None if apart.

    A pixel is no data where the source pixel under its centre is, so that data neither grow nor shrink;
    other neighbours without data are left out and the remaining weights scaled up. Cubic is Catmull-Rom,
    and bilinear within two pixels of a gap or the rim.

    Args:
        source: the raster.
        geobox: north-up grid to fill; equal pixels of two grids get equal values, bit for bit.
        method: nearest, bilinear or cubic.

    Raises:
        ValueError: if the grid is turned.
        TornError: if the raster would have to be continued beyond its end, and cannot.
    """
    mesh = _mesh(geobox, source.lattice)
    source = _continued(source, mesh)
    window = _source_window(mesh, source.lattice)
    if window is None:
        return None
    rows, columns = window
    values = source.cut(rows, columns)
    if not np.iscomplexobj(values):
        return _apply(values, mesh, window, source.lattice, method)
    out = np.empty(mesh.shape, np.complex64)
    out.real = _apply(np.ascontiguousarray(values.real), mesh, window, source.lattice, method)
    out.imag = _apply(np.ascontiguousarray(values.imag), mesh, window, source.lattice, method)
    return out


@dataclass(frozen=True)
class _Mesh:
    """Source columns and rows at the nodes around a grid, and where its first pixel lies among them.

    ``span`` are the lowest and highest row and column of the source among the nodes that have any;
    ``turn_px`` is how many columns a turn of the globe has, where the source's map goes on around it.
    """

    columns: NDArray[np.float64]
    rows: NDArray[np.float64]
    first_row: int
    first_column: int
    shape: tuple[int, int]
    span: tuple[float, float, float, float] | None
    turn_px: float | None
    torn: bool


def _mesh(geobox: GeoBox, lattice: Lattice) -> _Mesh:
    a, b, c, d, e, f = geobox.affine[:6]
    if b or d:
        raise ValueError("a grid to read onto must be north up")
    crs, shape, grid = crs_name(geobox), (int(geobox.shape[0]), int(geobox.shape[1])), (a, c, e, f)
    turn = turn_of(lattice.crs)
    if turn is None or crs == lattice.crs:
        return _mesh_of(crs, grid, shape, lattice.crs, lattice.affine, None)
    width, _, west, *_ = lattice.affine
    middle, own = west + width * (lattice.column + lattice.width / 2), meridian_in(crs, lattice.crs)
    around = own + turn * round((middle - own) / turn)
    mesh = _mesh_of(crs, grid, shape, lattice.crs, lattice.affine, around)
    if mesh.torn:  # a grid on the far side of its pole: no zone's, whose rasters may lie anywhere there
        mesh = _mesh_of(crs, grid, shape, lattice.crs, lattice.affine, middle)
    return mesh


@lru_cache(maxsize=_MESHES)
def _mesh_of(
    crs: str,
    grid: tuple[float, float, float, float],
    shape: tuple[int, int],
    source_crs: str,
    source_affine: tuple[float, float, float, float, float, float],
    middle: float | None,
) -> _Mesh:
    """Of a north-up grid (pixel and first edge in x, then in y) over a raster of that lattice.

    Where the raster's map goes on around the globe, x is had within half a turn of ``middle``: usually that
    of the grid's own meridian, which belongs to the zone and not to the grid, so that rasters and blocks
    share a mesh, and no tear lies in it.
    """
    (a, c, e, f), (height, width) = grid, shape
    column, phase_x = _anchor(c / a)
    row, phase_y = _anchor(f / e)
    # nodes at the centres of the world pixels whose numbers are multiples of the step
    x = (_node_numbers(column, width) + (0.5 + phase_x)) * a
    y = (_node_numbers(row, height) + (0.5 + phase_y)) * e
    grid_x, grid_y = np.meshgrid(x, y)
    turn_px, torn = None, False
    if crs != source_crs:
        grid_x, grid_y = transformer(crs, source_crs).transform(grid_x, grid_y)
        turn = turn_of(source_crs)
        if turn is not None and middle is not None:
            # whole turns only: what needs none keeps its bits
            grid_x = grid_x + turn * np.round((middle - grid_x) / turn)
            turn_px = turn / abs(source_affine[0]) if source_affine[0] else None
        widest = _TEAR_M if turn is None else turn / 2
        torn = any(bool((np.abs(np.diff(grid_x, axis=axis)) > widest).any()) for axis in (0, 1))
    columns, rows = Lattice(source_crs, source_affine, 0, 0).pixels(grid_x, grid_y)
    usable = np.isfinite(columns) & np.isfinite(rows)
    span = None
    if usable.any():
        down, across = rows[usable], columns[usable]
        span = float(down.min()), float(down.max()), float(across.min()), float(across.max())
    first = row % NODE_STEP_PX, column % NODE_STEP_PX
    return _Mesh(columns, rows, *first, (height, width), span, turn_px, torn)


def _continued(source: Source, mesh: _Mesh) -> Source:
    """The raster; where the mesh runs over an end at which the globe goes on, with its other end beyond.

    Of either end only what the grid needs is cut.
    """
    own = source.lattice
    if mesh.span is None:
        return source
    low, high = math.floor(mesh.span[2]) - MARGIN_PX, math.ceil(mesh.span[3]) + MARGIN_PX
    if mesh.torn and own.column < high and own.column + own.width > low:
        raise TornError("its projection ends inside the block; warp it to longitude and latitude or to UTM")
    if mesh.turn_px is None:
        return source
    first, last = own.column, own.column + own.width
    turns = [n for n in (-1, 0, 1) if first + n * mesh.turn_px < high and last + n * mesh.turn_px > low]
    if turns in ([], [0]):
        return source
    turn_px = round(mesh.turn_px)
    if abs(mesh.turn_px - turn_px) > _TURN_SLACK_PX:
        raise TornError(
            f"a turn of the globe is {mesh.turn_px:.3f} of its columns, not a whole number, and it ends "
            "inside the block; warp it to pixels that divide 360 degrees, or cut it elsewhere"
        )
    width = own.width + (turns[-1] - turns[0]) * turn_px
    lattice = replace(own, column=own.column + turns[0] * turn_px, width=width)
    return MosaicSource(lattice, tuple((source, 0, n * turn_px) for n in turns))


def _anchor(edge_px: float) -> tuple[int, float]:
    """Whole number and phase of a grid's first edge; grids on the world lattice have phase 0."""
    nearest = round(edge_px)
    if abs(edge_px - nearest) < 1e-6:
        return nearest, 0.0
    whole = math.floor(edge_px)
    return whole, round(edge_px - whole, 6)


def _node_numbers(first: int, count: int) -> NDArray[np.float64]:
    start, stop = first // NODE_STEP_PX, (first + count - 1) // NODE_STEP_PX + 1
    return np.arange(start, stop + 1, dtype=np.float64) * NODE_STEP_PX


def crs_name(geobox: GeoBox) -> str:
    """``EPSG:code`` of a grid, or its WKT where it has no code."""
    if geobox.crs is None:
        raise ValueError("a grid to read onto needs a CRS")
    epsg = geobox.crs.epsg
    return f"EPSG:{epsg}" if epsg else str(geobox.crs.to_wkt())


def _source_window(mesh: _Mesh, lattice: Lattice) -> tuple[slice, slice] | None:
    """Rows and columns of the source that the mesh can need, or None where it lies beside the source."""
    if mesh.span is None:
        return None
    ranges = []
    for (first, last), start, length in (
        (mesh.span[:2], lattice.row, lattice.height),
        (mesh.span[2:], lattice.column, lattice.width),
    ):
        low = max(math.floor(first) - MARGIN_PX, start)
        high = min(math.ceil(last) + MARGIN_PX, start + length)
        if low >= high:
            return None
        ranges.append(slice(low, high))
    return ranges[0], ranges[1]


def _apply(
    values: NDArray[Any], mesh: _Mesh, window: tuple[slice, slice], lattice: Lattice, method: Resampling
) -> NDArray[np.float32]:
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    out = np.empty(mesh.shape, np.float32)
    rim = np.array(
        [lattice.row, lattice.row + lattice.height, lattice.column, lattice.column + lattice.width], np.int64
    )
    origin = np.array([window[0].start, window[1].start, mesh.first_row, mesh.first_column], np.int64)
    _fill(np.ascontiguousarray(values), mesh.columns, mesh.rows, rim, origin, _METHODS[method], out)
    return out


# The kernels take coordinates in pixels of the source.


@kernel
def _linear(values: NDArray[Any], top: int, left: int, row: float, column: float) -> float:
    """Bilinear over the up to four neighbours that exist and hold data; row, column are centre based."""
    height, width = values.shape
    i0, j0 = math.floor(row), math.floor(column)
    fy, fx = row - i0, column - j0
    total, weights = 0.0, 0.0
    for di in range(2):
        wy = fy if di else 1.0 - fy
        i = i0 + di - top
        if wy == 0.0 or i < 0 or i >= height:
            continue
        for dj in range(2):
            w = wy * (fx if dj else 1.0 - fx)
            j = j0 + dj - left
            if w == 0.0 or j < 0 or j >= width:
                continue
            value = values[i, j]
            if not np.isnan(value):
                total += w * value
                weights += w
    return total / weights


@kernel
def _catmull_rom(t: float, weights: NDArray[Any]) -> None:
    """The four weights of Keys' cubic convolution with a = -1/2 (doi:10.1109/TASSP.1981.1163711)."""
    weights[0] = ((-0.5 * t + 1.0) * t - 0.5) * t
    weights[1] = (1.5 * t - 2.5) * t * t + 1.0
    weights[2] = ((-1.5 * t + 2.0) * t + 0.5) * t
    weights[3] = (0.5 * t - 0.5) * t * t


@kernel
def _cubic(
    values: NDArray[Any], top: int, left: int, row: float, column: float, wy: NDArray[Any], wx: NDArray[Any]
) -> float:
    """Catmull-Rom over sixteen neighbours; bilinear where one of them is missing."""
    height, width = values.shape
    i0, j0 = math.floor(row), math.floor(column)
    i, j = i0 - 1 - top, j0 - 1 - left
    if i < 0 or j < 0 or i + 4 > height or j + 4 > width:
        return _linear(values, top, left, row, column)
    _catmull_rom(row - i0, wy)
    _catmull_rom(column - j0, wx)
    total = 0.0
    for di in range(4):
        line = 0.0
        for dj in range(4):
            line += wx[dj] * values[i + di, j + dj]
        total += wy[di] * line
    if np.isnan(total):
        return _linear(values, top, left, row, column)
    return total


@kernel
def _fill(
    values: NDArray[Any],
    node_columns: NDArray[Any],
    node_rows: NDArray[Any],
    rim: NDArray[np.int64],
    origin: NDArray[np.int64],
    method: int,
    out: NDArray[Any],
) -> None:
    """Every pixel of ``out`` (y, x); ``values`` starts at source pixel (origin[0], origin[1])."""
    top, left = origin[0], origin[1]
    height, width = values.shape
    wy, wx = np.empty(4), np.empty(4)
    for p in range(out.shape[0]):
        n, s = (p + origin[2]) // NODE_STEP_PX, (p + origin[2]) % NODE_STEP_PX
        t = s / NODE_STEP_PX
        for q in range(out.shape[1]):
            m, s = (q + origin[3]) // NODE_STEP_PX, (q + origin[3]) % NODE_STEP_PX
            u = s / NODE_STEP_PX
            upper = node_columns[n, m] + (node_columns[n, m + 1] - node_columns[n, m]) * u
            lower = node_columns[n + 1, m] + (node_columns[n + 1, m + 1] - node_columns[n + 1, m]) * u
            column = upper + (lower - upper) * t
            upper = node_rows[n, m] + (node_rows[n, m + 1] - node_rows[n, m]) * u
            lower = node_rows[n + 1, m] + (node_rows[n + 1, m + 1] - node_rows[n + 1, m]) * u
            row = upper + (lower - upper) * t
            out[p, q] = np.nan
            # written so that a coordinate that is not a number fails it
            if not (row >= rim[0] and row < rim[1] and column >= rim[2] and column < rim[3]):
                continue
            under = values[math.floor(row) - top, math.floor(column) - left]
            if np.isnan(under):
                continue
            if method == 0:
                out[p, q] = under
            elif method == 1:
                # where all four neighbours hold data, which is nearly everywhere, without a call
                i0, j0 = math.floor(row - 0.5), math.floor(column - 0.5)
                fy, fx = row - 0.5 - i0, column - 0.5 - j0
                i, j = i0 - top, j0 - left
                total = np.nan
                if i >= 0 and j >= 0 and i + 1 < height and j + 1 < width:
                    upper = (1.0 - fx) * values[i, j] + fx * values[i, j + 1]
                    lower = (1.0 - fx) * values[i + 1, j] + fx * values[i + 1, j + 1]
                    total = (1.0 - fy) * upper + fy * lower
                if np.isnan(total):
                    total = _linear(values, top, left, row - 0.5, column - 0.5)
                out[p, q] = total
            else:
                out[p, q] = _cubic(values, top, left, row - 0.5, column - 0.5, wy, wx)
