"""What the map says of each outline: shares of classes, dates, confidence; read block by block."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.grid import transformer
from cryoscale.write.polygons import PolygonArray, burned, owners_of_points
from cryoscale.write.uncertainty import HALO_PX, MEASURED, UNITS, AreaRule, expected_errors
from cryoscale.write.zones import Cut

CLEAN_ICE, DEBRIS = 1, 2
_NODATA = 255
_FULL = 250.0
_DAYS = 2**21
"""More days than any source date is away from 1970, twice over."""
_SAMPLES = 65
"""Points at which a meridian is located within a block; linear between them is good to a millimetre."""


_FALSE, _MISSED = "expected_false_ice", "expected_missed_ice"
"""Variables of a part that :func:`part_of` adds."""

_COUNTS = ("ice_px", "debris_px", "confidence_sum", "confidence_px", "false_sum", "missed_sum", "probable_px")


@dataclass
class Tally:
    """Pixel counts of ``n`` outlines, filled block by block.

    Attributes:
        ice_px: pixels of clean or debris-covered ice, per outline.
        debris_px: pixels of debris-covered ice.
        confidence_sum: sum of the confidence (0-250) over ``confidence_px`` ice pixels.
        confidence_px: ice pixels with a confidence.
        false_sum: expected false ice over ``probable_px`` ice pixels (:mod:`cryoscale.write.uncertainty`).
        missed_sum: expected missed ice, likewise.
        probable_px: ice pixels with a probability.
        days: ice pixels per source date (days since 1970-01-01), per outline.
    """

    n: int
    ice_px: NDArray[np.int64] = field(init=False)
    debris_px: NDArray[np.int64] = field(init=False)
    confidence_sum: NDArray[np.float64] = field(init=False)
    confidence_px: NDArray[np.int64] = field(init=False)
    false_sum: NDArray[np.float64] = field(init=False)
    missed_sum: NDArray[np.float64] = field(init=False)
    probable_px: NDArray[np.int64] = field(init=False)
    days: list[Counter[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.ice_px = np.zeros(self.n, np.int64)
        self.debris_px = np.zeros(self.n, np.int64)
        self.confidence_sum = np.zeros(self.n, np.float64)
        self.confidence_px = np.zeros(self.n, np.int64)
        self.false_sum = np.zeros(self.n, np.float64)
        self.missed_sum = np.zeros(self.n, np.float64)
        self.probable_px = np.zeros(self.n, np.int64)
        self.days = [Counter() for _ in range(self.n)]

    def take(self, index: NDArray[np.int64]) -> Tally:
        """The counts of some of the outlines."""
        taken = Tally(0)
        taken.n = index.size
        for name in _COUNTS:
            setattr(taken, name, getattr(self, name)[index])
        taken.days = [self.days[at] for at in index.tolist()]
        return taken

    @classmethod
    def joined(cls, tallies: Sequence[Tally]) -> Tally:
        """The outlines of all tallies, one after the other."""
        joined = cls(0)
        joined.n = sum(one.n for one in tallies)
        for name in _COUNTS:
            setattr(joined, name, np.concatenate([getattr(one, name) for one in tallies]))
        joined.days = [days for one in tallies for days in one.days]
        return joined

    def total(self) -> Tally:
        """All outlines as one."""
        total = Tally(1)
        for name in _COUNTS:
            getattr(total, name)[0] = getattr(self, name).sum()
        for days in self.days:
            total.days[0].update(days)
        return total

    def debris_fraction(self) -> NDArray[np.float64]:
        """Share of debris-covered ice in the ice of each outline, 0-1; 0 where no pixel was counted."""
        return self.debris_px / np.maximum(self.ice_px, 1)

    def mean_confidence(self) -> NDArray[np.float64]:
        """Mean confidence of the ice pixels of each outline, 0-1; NaN where the map has none."""
        known = self.confidence_px > 0
        mean = self.confidence_sum / np.where(known, self.confidence_px, 1) / _FULL
        return np.where(known, mean, np.nan)

    def expected_errors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """False and missed ice of each outline as shares of its ice pixels; NaN where the map has no doubt.

        A map without probabilities has none, nor has one that is sure of every pixel: it is not exact.
        """
        known = (self.probable_px > 0) & (self.false_sum + self.missed_sum > 0)
        scale = np.where(known, 1.0 / np.maximum(self.probable_px, 1) / UNITS, np.nan)
        return self.false_sum * scale, self.missed_sum * scale

    def area_interval(
        self, area_km2: NDArray[np.float64], rule: AreaRule = MEASURED
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bound of the outlines' areas, in km2; NaN where the map has no doubt."""
        false, missed = self.expected_errors()
        return rule.interval(area_km2, false * area_km2, missed * area_km2)

    def date(self, quantile: float) -> NDArray[np.datetime64]:
        """Date under the given share of each outline's dated pixels; 0.5 is the median; NaT if none."""
        found = [_weighted_quantile(days, quantile) for days in self.days]
        return np.array(found, "datetime64[D]")


def tally(
    outlines: PolygonArray, mosaics: Mapping[int, xr.Dataset], where: Mapping[int, Cut], step_px: int
) -> Tally:
    """Counts the ice pixels of each outline (degrees) over the maps of all zones, each place once.

    It is for outlines over the border of two zones, whose pixels on the far side do not count; only
    blocks that they lie over are read. Outlines must be whole bodies of ice of these maps: pixels are
    given to outlines body by body, at the price of one point-in-polygon test a body and block.
    Rasterising the outlines costs rows times vertices, which one noisy map with 100,000 holes makes
    minutes a block.
    """
    counted = Tally(len(outlines))
    for epsg, dataset in mosaics.items():
        to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
        projected = shapely.transform(
            outlines, lambda xy, to_zone=to_zone: np.column_stack(to_zone.transform(xy[:, 0], xy[:, 1]))
        )
        shapely.prepare(projected)
        bounds = shapely.bounds(projected).reshape(-1, 4)
        for y, x in _parts(range(dataset.sizes["y"]), range(dataset.sizes["x"]), step_px):
            if not _meet(dataset.isel(y=y, x=x), bounds).any():
                continue
            part = part_of(dataset, y, x)
            label = np.asarray(part["label"].values)
            ice = np.isin(label, (CLEAN_ICE, DEBRIS))
            if ice.any():
                owner = _owners(ice & on_own_side(part, epsg, where[epsg]), part, projected, where[epsg])
                count_pixels(counted, part, label, owner)
    return counted


def tally_divided(
    glaciers: PolygonArray, mosaics: Mapping[int, xr.Dataset], where: Mapping[int, Cut], step_px: int
) -> Tally:
    """As :func:`tally`, of glaciers that divide one body: every pixel to the one that its centre lies in."""
    counted = Tally(len(glaciers))
    for epsg, dataset in mosaics.items():
        to_zone = transformer("EPSG:4326", f"EPSG:{epsg}")
        projected = shapely.transform(
            glaciers, lambda xy, to_zone=to_zone: np.column_stack(to_zone.transform(xy[:, 0], xy[:, 1]))
        )
        bounds = shapely.bounds(projected).reshape(-1, 4)
        for y, x in _parts(*_reached(dataset, bounds), step_px):
            near = np.flatnonzero(_meet(dataset.isel(y=y, x=x), bounds)).tolist()
            if not near:
                continue
            part = part_of(dataset, y, x)
            label = np.asarray(part["label"].values)
            ice = np.isin(label, (CLEAN_ICE, DEBRIS)) & on_own_side(part, epsg, where[epsg])
            owner = np.full(ice.shape, -1, np.int64)
            affine = affine_of(part)
            for index in near:
                owner[burned(projected[index], affine, ice.shape) & ice] = index
            count_pixels(counted, part, label, owner)
    return counted


def affine_of(data: xr.Dataset | xr.DataArray) -> Affine:
    """Pixel corner transform of an object with evenly spaced ``x`` and ``y`` pixel centres."""
    x, y = data["x"].values, data["y"].values
    step_x = float(x[-1] - x[0]) / (x.size - 1) if x.size > 1 else 10.0
    step_y = float(y[-1] - y[0]) / (y.size - 1) if y.size > 1 else -10.0
    return Affine(step_x, 0.0, float(x[0]) - step_x / 2, 0.0, step_y, float(y[0]) - step_y / 2)


def pixels_over(
    bounds: tuple[float, float, float, float], affine: Affine, shape: tuple[int, int]
) -> tuple[range, range]:
    """Rows and columns of a north-up grid of a shape that a box (west, south, east, north) reaches into."""
    west, south, east, north = bounds
    left, top = ~affine * (west, north)
    right, bottom = ~affine * (east, south)
    rows = range(max(math.floor(top), 0), min(math.ceil(bottom), shape[0]))
    return rows, range(max(math.floor(left), 0), min(math.ceil(right), shape[1]))


def _owners(ice: NDArray[np.bool_], part: xr.Dataset, outlines: PolygonArray, cut: Cut) -> NDArray[np.int64]:
    """Index of the outline of each pixel ``(y, x)``, -1 outside all."""
    bodies, count = ndimage.label(ice)
    if count == 0:
        return np.full(ice.shape, -1, np.int64)
    # one pixel stands for its body: the one farthest from the cut, where there is one, since a pixel
    # on the very line may fall to either side of it by a rounding error
    flip = slice(None, None, -1 if cut.box_deg[0] in cut.lons_deg else 1)
    _, first = np.unique(bodies[:, flip].T, return_index=True)
    col, row = np.divmod(first[-count:], ice.shape[0])
    points = shapely.points(part["x"].values[flip][col], part["y"].values[row])
    owner = np.concatenate([[-1], owners_of_points(outlines, points)])
    return np.asarray(owner[bodies], np.int64)


def part_of(dataset: xr.Dataset, y: slice, x: slice) -> xr.Dataset:
    """A part of a map, with the errors to be expected of its ice pixels where the map has probabilities.

    A part's edge is no edge of the map: the errors are the same however it is cut, since pixels around it
    are looked at too. Where there is no ice, nothing further is read.
    """
    part = dataset.isel(y=y, x=x)
    label = np.asarray(part["label"].values)
    part = part.assign(label=(("y", "x"), label))  # it is read once
    if "probability" not in dataset or not np.isin(label, (CLEAN_ICE, DEBRIS)).any():
        return part
    top, left = max(y.start - HALO_PX, 0), max(x.start - HALO_PX, 0)
    outer = dataset.isel(y=slice(top, y.stop + HALO_PX), x=slice(left, x.stop + HALO_PX))
    ice = np.isin(outer["label"].values, (CLEAN_ICE, DEBRIS))
    clean, debris = (np.asarray(outer["probability"][k].values) for k in (CLEAN_ICE, DEBRIS))
    unknown = clean == _NODATA
    # both are rounded, so that their sum may be one more than certain
    probability = np.minimum(clean.astype(np.uint16) + debris, int(_FULL)).astype(np.uint8)
    probability[unknown] = 0
    inner = slice(y.start - top, y.stop - top), slice(x.start - left, x.stop - left)
    false, missed = (field[inner] for field in expected_errors(ice, probability))
    return part.assign({_FALSE: (("y", "x"), false), _MISSED: (("y", "x"), missed)})


def count_pixels(
    counted: Tally, part: xr.Dataset, label: NDArray[np.uint8], owner: NDArray[np.int64]
) -> None:
    """Add the pixels ``(y, x)`` of a part to the outline that each belongs to, -1 where to none.

    Areas get an interval where the part is one of :func:`part_of`.
    """
    ice = owner >= 0
    index = owner[ice]
    if index.size == 0:
        return
    counted.ice_px += np.bincount(index, minlength=counted.n)
    counted.debris_px += np.bincount(index[label[ice] == DEBRIS], minlength=counted.n)
    if "confidence" in part:
        confidence = np.asarray(part["confidence"].values)[ice]
        known = confidence != _NODATA
        counted.confidence_sum += np.bincount(index[known], confidence[known], minlength=counted.n)
        counted.confidence_px += np.bincount(index[known], minlength=counted.n)
    if _FALSE in part:
        counted.false_sum += np.bincount(index, part[_FALSE].values[ice], minlength=counted.n)
        counted.missed_sum += np.bincount(index, part[_MISSED].values[ice], minlength=counted.n)
        counted.probable_px += np.bincount(index, minlength=counted.n)
    if "source_date" in part:
        days = days_of(part["source_date"].values)[ice]
        dated = days != 0
        # outline and day in one number: unique over rows of pairs is ten times slower
        pairs, times = np.unique(index[dated] * _DAYS + days[dated] + _DAYS // 2, return_counts=True)
        for pair, count in zip(pairs.tolist(), times.tolist(), strict=True):
            outline, day = divmod(pair, _DAYS)
            counted.days[outline][day - _DAYS // 2] += count


def _parts(rows: range, cols: range, step_px: int) -> Iterator[tuple[slice, slice]]:
    for row, col in product(rows[::step_px], cols[::step_px]):
        yield slice(row, min(row + step_px, rows.stop)), slice(col, min(col + step_px, cols.stop))


def _meet(part: xr.Dataset, bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Into which of the bounds ``(n, 4)``, in metres, a part's pixel centres reach."""
    x, y = part["x"].values, part["y"].values
    apart = (bounds[:, 0] > x.max()) | (bounds[:, 2] < x.min())
    apart |= (bounds[:, 1] > y.max()) | (bounds[:, 3] < y.min())
    return np.asarray(~apart, bool)


def _reached(dataset: xr.Dataset, bounds: NDArray[np.float64]) -> tuple[range, range]:
    """Rows and columns of a map with pixel centres within the hull of bounds ``(n, 4)``, in metres."""
    x, y = dataset["x"].values, dataset["y"].values
    found = []
    for at, low, high in (
        (y, bounds[:, 1].min(), bounds[:, 3].max()),
        (x, bounds[:, 0].min(), bounds[:, 2].max()),
    ):
        inside = np.flatnonzero((at >= low) & (at <= high))
        found.append(range(int(inside[0]), int(inside[-1]) + 1) if inside.size else range(0))
    return found[0], found[1]


def on_own_side(part: xr.Dataset | xr.DataArray, epsg: int, cut: Cut) -> NDArray[np.bool_]:
    """Which pixel centres lie on the zone's own side of every cut."""
    x, y = part["x"].values[np.newaxis, :], part["y"].values[:, np.newaxis]
    keep = np.ones((y.size, x.size), bool)
    if not cut.lons_deg and not cut.lats_deg:
        return keep
    crs = f"EPSG:{epsg}"
    _, lats = transformer(crs, "EPSG:4326").transform(
        np.full(_SAMPLES, x.mean()), np.linspace(y.min(), y.max(), _SAMPLES)
    )
    # the line must span the block: a parallel is not a row, so reach a little further
    lats = np.linspace(lats.min() - 0.05, lats.max() + 0.05, _SAMPLES)
    for lon in cut.lons_deg:
        line_x, line_y = transformer("EPSG:4326", crs).transform(np.full(_SAMPLES, lon), lats)
        border_x = np.interp(y[:, 0], line_y, line_x)[:, np.newaxis]
        keep &= x > border_x if lon == cut.box_deg[0] else x < border_x
    for lat in cut.lats_deg:
        border_y = 0.0 if epsg < 32700 else 10_000_000.0  # the equator is a straight row in UTM
        keep &= y > border_y if lat == cut.box_deg[1] else y < border_y
    return keep


def days_of(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Source dates as days since 1970-01-01, 0 where there is none, decoded by xarray or not."""
    if values.dtype.kind != "M":
        return values.astype(np.int64)
    days = values.astype("datetime64[D]")
    return np.where(np.isnat(days), 0, days.astype(np.int64))


def _weighted_quantile(days: Counter[int], quantile: float) -> np.datetime64:
    total, passed = sum(days.values()), 0
    for day in sorted(days):
        passed += days[day]
        if passed >= quantile * total:
            return np.datetime64(day, "D")
    return np.datetime64("NaT", "D")
