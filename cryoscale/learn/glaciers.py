"""Area of each glacier, mapped against true: bias, what was missed, and what was added.

The rule, pixel by pixel, where truth and map both know: true ice of a glacier is what lies inside its
outline (pixel centres). Of that, what the map calls ice, clean or debris-covered, is *kept*, the rest is
*missed*. Mapped ice outside every outline is *added* to the glacier whose nearest pixel is closest, within
500 m (of two equally close ones, the first of the list); farther away it is *loose* and counts for no
glacier. Where the truth raster calls such a pixel ice, as it may beside an inventory that leaves small ice
out, it is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import dask
import dask.array
import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy.spatial import KDTree

from cryoscale.errors import SourceError
from cryoscale.grid import RESOLUTION_M, Window, transformer, window_of
from cryoscale.learn.outlines import AREAL, areas_of
from cryoscale.learn.scan import PART_PX, Part, open_raw
from cryoscale.learn.truth import open_truth
from cryoscale.write.around import layer_of, require_known_crs
from cryoscale.write.outlines import polygonise

REACH_PX = 50
"""How far from a glacier mapped ice still belongs to it."""

ID_COLUMNS = ("rgi_id", "RGIId", "glims_id", "glac_id", "glacier_id", "id")
"""Columns that name a glacier, the first that is there."""

_PIXEL_KM2 = (RESOLUTION_M / 1000.0) ** 2
_TIES = 32
"""As many pixels can lie equally far away within reach on a square lattice (r2(1105) = 32)."""
_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class Glaciers:
    """Named outlines in WGS 84.

    Attributes:
        ids: names.
        polygons: outlines, in degrees.
        source: what they come from.
    """

    ids: tuple[str, ...]
    polygons: NDArray[np.object_]
    source: str

    @cached_property
    def _in_zone(self) -> Callable[[int], tuple[NDArray[np.object_], shapely.STRtree]]:
        @lru_cache(maxsize=8)
        def project(epsg: int) -> tuple[NDArray[np.object_], shapely.STRtree]:
            to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
            projected = np.asarray(
                shapely.transform(
                    self.polygons, lambda xy: np.column_stack(to_zone.transform(xy[:, 0], xy[:, 1]))
                ),
                object,
            )
            # What lies half around the globe has no place in a transverse Mercator.
            projected[~np.isfinite(shapely.bounds(projected)).all(axis=1)] = shapely.Polygon()
            return projected, shapely.STRtree(projected)

        return project

    def numbers(self, window: Window) -> NDArray[np.int32]:
        """Index into ``ids`` of the glacier under each pixel centre (y, x), -1 where there is none."""
        projected, tree = self._in_zone(window.epsg)
        near = np.sort(tree.query(shapely.box(*window.bounds_m)))
        if not near.size:
            return np.full(window.shape, -1, np.int32)
        # The last shape burnt wins: the first of the list shall, where outlines overlap.
        shapes = [(projected[index], int(index)) for index in near[::-1]]
        transform = window.geobox.transform
        burnt: NDArray[np.int32] = rasterize(shapes, window.shape, -1, transform=transform, dtype="int32")
        return burnt


def read_outlines(path: Path, year: int | None = None) -> Glaciers:
    """Glacier outlines of a vector file; of a year, where it has a column ``year`` that holds it.

    Raises:
        SourceError: it cannot be read, has no CRS, no polygon, or several layers of them and none "glaciers".
    """
    expected = "a vector file of glacier outlines"
    if not path.is_file():
        raise SourceError(f"outlines {path} (absent)", expected, "check the path")
    try:
        if path.suffix in (".parquet", ".geoparquet"):
            frame = gpd.read_parquet(path)
        else:
            frame = gpd.read_file(path, layer=layer_of(path, f"outlines {path}"))
    except SourceError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SourceError(f"outlines {path} ({reason})", expected, "convert them to GeoPackage") from error
    if "geometry" not in frame or frame.crs is None:
        lack = "geometry" if "geometry" not in frame else "a CRS"
        raise SourceError(f"outlines {path} without {lack}", expected, "export them again")
    require_known_crs(path, f"outlines {path}")
    frame = frame[frame.geometry.geom_type.isin(AREAL)].to_crs(4326)
    if "year" in frame and year is not None and (frame["year"] == year).any():
        frame = frame[frame["year"] == year]
    # a spike leaves a line, which would be ice wherever it passes
    areas = areas_of(shapely.make_valid(frame.geometry.to_numpy()))
    if shapely.is_empty(areas).all():
        raise SourceError(f"outlines {path} without a polygon", expected, "check its layers")
    column = next((name for name in ID_COLUMNS if name in frame), None)
    ids = frame[column].astype(str) if column else [str(n + 1) for n in range(len(frame))]
    return Glaciers(tuple(ids), areas, path.name)


class _LabelsAsArray:
    """A label raster as something that is cut like an array, read when it is."""

    ndim, dtype = 2, np.dtype(np.uint8)

    def __init__(self, read: Callable[[Window], NDArray[np.uint8]], whole: Window) -> None:
        self._read, self._whole, self.shape = read, whole, whole.shape

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.uint8]:
        (top, bottom, _), (left, right, _) = (
            part.indices(length) for part, length in zip(key, self.shape, strict=True)
        )
        row, col = self._whole.row + top, self._whole.col + left
        return self._read(Window(self._whole.epsg, row, col, bottom - top, right - left))


def bodies_of_truth(
    out: str | Path, year: int, truth: Mapping[int, Path], min_area_km2: float = 0.01
) -> Glaciers:
    """Each body of true ice that is of one piece, as polygons joined over parts and zones.

    Ice of less than ``min_area_km2`` makes no glacier, as in the inventory of a run.
    """
    with ExitStack() as stack:
        maps = {}
        for epsg, path in truth.items():
            whole = window_of(stack.enter_context(open_raw(out, year, epsg)), epsg)
            lazy = _LabelsAsArray(stack.enter_context(open_truth(path, whole)), whole)
            # dask's own annotations are partial
            labels = dask.array.from_array(lazy, chunks=PART_PX, asarray=False, name=False)  # type: ignore[no-untyped-call]
            y, x = whole.coordinates()
            maps[epsg] = xr.Dataset(
                {"label": (("y", "x"), labels)},
                coords={"y": y, "x": x},
                attrs={"cryoscale:block_px": PART_PX, "proj:code": f"EPSG:{epsg}"},
            )
        # GDAL's datasets serve one thread, and no other process.
        with dask.config.set(scheduler="synchronous"):
            found = polygonise(maps, min_area_km2=min_area_km2, year=year)
    return Glaciers(tuple(found["glac_id"]), found.geometry.to_numpy(), "bodies of true ice")


class GlacierAreas:
    """Counts of pixels by glacier, part by part."""

    def __init__(self, glaciers: Glaciers, reach_px: int = REACH_PX) -> None:
        self.glaciers, self.reach_px = glaciers, reach_px
        count = len(glaciers.ids)
        self.true_px, self.kept_px, self.added_px = (np.zeros(count, np.int64) for _ in range(3))
        self.loose_px = 0

    @property
    def rim_px(self) -> int:
        """How much around a part must be known."""
        return self.reach_px + 1

    def add(self, part: Part) -> None:
        """Count the part's own pixels."""
        number = self.glaciers.numbers(part.outer)
        here = part.window.slices_in(part.outer)
        inside = part.own & (number[here] >= 0)
        mapped = np.isin(part.label[here], (1, 2))
        count = len(self.glaciers.ids)
        self.true_px += np.bincount(number[here][inside], minlength=count)
        self.kept_px += np.bincount(number[here][inside & mapped], minlength=count)
        outside = part.own & (number[here] < 0) & mapped & ~np.isin(part.truth[here], (1, 2))
        points = np.argwhere(outside) + np.array([here[0].start, here[1].start])
        owner = nearest(number, points, self.reach_px)
        self.loose_px += int((owner < 0).sum())
        self.added_px += np.bincount(owner[owner >= 0], minlength=count)

    def rows(self) -> list[dict[str, Any]]:
        """A row a glacier of which a pixel was compared, the largest first; areas on the grid, in km2."""
        order = np.argsort(-self.true_px, kind="stable")
        return [self._row(int(n)) for n in order if self.true_px[n]]

    def _row(self, n: int) -> dict[str, Any]:
        true, kept, added = (int(px[n]) for px in (self.true_px, self.kept_px, self.added_px))
        return {
            "id": self.glaciers.ids[n],
            "true_km2": round(true * _PIXEL_KM2, 6),
            "mapped_km2": round((kept + added) * _PIXEL_KM2, 6),
            "missed_km2": round((true - kept) * _PIXEL_KM2, 6),
            "added_km2": round(added * _PIXEL_KM2, 6),
            "bias_pct": 100.0 * (kept + added - true) / true,
        }

    def summary(self) -> dict[str, Any]:
        """All glaciers together, and how their biases are spread; None where there is none."""
        rows = self.rows()
        total = {
            name: round(sum(row[name] for row in rows), 6)
            for name in ("true_km2", "mapped_km2", "missed_km2", "added_km2")
        }
        bias = np.array([row["bias_pct"] for row in rows])
        return {
            "glaciers": len(rows),
            "outlines": self.glaciers.source,
            **total,
            "loose_km2": round(self.loose_px * _PIXEL_KM2, 6),
            "bias_pct": 100.0 * (total["mapped_km2"] / total["true_km2"] - 1) if rows else None,
            "median_bias_pct": float(np.median(bias)) if rows else None,
            "median_abs_bias_pct": float(np.median(np.abs(bias))) if rows else None,
            "reach_m": self.reach_px * RESOLUTION_M,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"summary": self.summary(), "glaciers": self.rows()}


def nearest(number: NDArray[np.int32], points: NDArray[np.int64], reach_px: int) -> NDArray[np.int64]:
    """Number of the glacier nearest to each point (n, 2: row, column), -1 where none is within reach.

    Args:
        number: glacier of each pixel (y, x), -1 for none.
        points: pixels outside all glaciers.
        reach_px: greatest distance between pixel centres.
    """
    owner = np.full(len(points), -1, np.int64)
    rim = (number >= 0) & _has_other_neighbour(number)
    sites = np.argwhere(rim)
    if not sites.size or not points.size:
        return owner
    tree, site_owner = KDTree(sites), np.append(number[rim], np.iinfo(np.int32).max).astype(np.int64)
    for start in range(0, len(points), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        far, index = tree.query(points[some], k=_TIES, distance_upper_bound=reach_px + 1e-6)
        tied = np.where(far <= far[:, :1] + 1e-9, site_owner[index], site_owner[-1])
        owner[some] = np.where(np.isfinite(far[:, 0]), tied.min(axis=1), -1)
    return owner


def _has_other_neighbour(number: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where one of the four neighbours has another number."""
    differs = np.zeros(number.shape, bool)
    for axis in (0, 1):
        unlike = np.diff(number, axis=axis) != 0
        pad = [(0, 0), (0, 0)]
        for side in ((0, 1), (1, 0)):
            pad[axis] = side
            differs |= np.pad(unlike, pad)
    return differs
