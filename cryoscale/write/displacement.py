"""How far fronts moved from one year to the next: the box method of the calving-front literature.

In a box along the glacier, as wide as both fronts have in common, the area between the two lines is divided
by the width (Moon and Joughin 2008, https://doi.org/10.1029/2007JF000927), with the box bent along the
glacier's centre line as in the curvilinear box method (Lea et al. 2014,
https://doi.org/10.3189/2014JoG13J061). The area under each line is a sum over its edges, so that nothing is
sampled and overhangs count as they should. Where a front lies twice across the axis, as a terminus does and
the shore of its lake along a flank under it, nobody can say which of the two moved to which of the other
year: that width is left out of both years.

The uncertainty is that of 90 %, of two lines each of which may lie anywhere in a pixel (a standard deviation
of 10 m over the root of 12) and of two images that are registered to each other within 5 m for 95 %, as ESA
expects of Sentinel-2's refined products
(https://sentinel.esa.int/web/sentinel/-/forthcoming-deployment-of-the-copernicus-sentinel-2-products-geometric-refinement/1.1);
that is a circle, and counts as if it were all along the axis. Both are taken to be the same all along a
front, which is the worst that they can be. What the map takes for ice or water and is something else is not
in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString, MultiLineString

from cryoscale.grid import RESOLUTION_M, transformer, utm_epsg
from cryoscale.write.axes import in_box
from cryoscale.write.vectors import put_text, read_parts

MOVED, BEGUN, ENDED = "moved", "begun", "ended"

_NORMAL_90, _NORMAL_95 = 1.645, 1.960
_LINE_M = RESOLUTION_M / math.sqrt(12.0)
_REGISTERED_M = 5.0 / _NORMAL_95
UNCERTAINTY_M = _NORMAL_90 * math.hypot(_LINE_M, _LINE_M, _REGISTERED_M)
"""Of a displacement, 90 %."""
_LEAST_COMMON = 0.3
"""Of the wider of two fronts that both have to have, or they are not the same one."""
_DAYS_A_YEAR = 365.25
_COLUMNS = ("front_id", "glac_id", "kind", "at_terminus", "date", "axis", "geometry")

_ROW = (
    "glacier_id",
    "older_front_id",
    "newer_front_id",
    "status",
    "kind",
    "at_terminus",
    "older_date",
    "newer_date",
    "width_m",
    "displacement_m",
    "rate_m_yr",
    "uncertainty_m",
    "rate_uncertainty_m_yr",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moved:
    """How far a front moved.

    Attributes:
        displacement_m: along the axis, negative where it retreated.
        width_m: across the axis, over which both fronts were compared, each of them there once.
        common_share: of the wider of the two.
    """

    displacement_m: float
    width_m: float
    common_share: float


def displacement(older: MultiLineString, newer: MultiLineString, axis: LineString) -> Moved | None:
    """How far a front moved along an axis, all in metres of one projection; None where no box holds both."""
    before, after = ([_rising(in_box(part, axis)) for part in front.geoms] for front in (older, newer))
    spans = [_spans(parts) for parts in (before, after)]
    ends = np.unique(np.concatenate(spans))
    counts = [_across(ends, own) for own in spans]
    both = [pair for pair, one, other in zip(pairwise(ends), *counts, strict=True) if one == other == 1]
    width = float(sum(high - low for low, high in both))
    if width <= 0:
        return None
    area = sum(_under(after, low, high) - _under(before, low, high) for low, high in both)
    widest = max(float(np.diff(ends)[count > 0].sum()) for count in counts)
    return Moved(area / width, width, width / widest)


def _rising(places: Floats) -> Floats:
    """A line that goes from the right of the axis to its left."""
    return places if places[-1, 1] >= places[0, 1] else places[::-1]


def _spans(parts: Sequence[Floats]) -> Floats:
    """From where to where across the axis each part (n, 2) goes, from the right to the left."""
    return np.array([(part[0, 1], part[-1, 1]) for part in parts], np.float64)


def _across(ends: Floats, spans: Floats) -> NDArray[np.int64]:
    """How many of the spans there are between each of some ends and the next."""
    low, high = spans.T[:, :, None]
    return np.asarray(np.count_nonzero((low <= ends[:-1]) & (high >= ends[1:]), axis=0), np.int64)


def _under(parts: Sequence[Floats], low: float, high: float) -> float:
    """Integral of the distance along the axis over what lies between two distances across it."""
    return sum(_under_one(part, low, high) for part in parts)


def _under_one(part: Floats, low: float, high: float) -> float:
    along, aside = part.T
    start, stop = np.clip(aside[:-1], low, high), np.clip(aside[1:], low, high)
    run = np.diff(aside)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(run == 0, 0.0, np.diff(along) / run)
    at_start, at_stop = (along[:-1] + slope * (end - aside[:-1]) for end in (start, stop))
    return float(((at_start + at_stop) / 2 * (stop - start)).sum())


def write_displacements(folder: Path, years: Sequence[int]) -> None:
    """Writes ``<older>-<newer>-fronts.csv`` of each two years that follow each other, beside their fronts.

    A row a front of either year: glacier_id (as in ``glacier_ids.csv``), older_front_id, newer_front_id,
    status ("moved", "begun" or "ended"), kind, at_terminus, older_date, newer_date, width_m, displacement_m
    (negative where the front retreated), rate_m_yr, uncertainty_m and rate_uncertainty_m_yr (90 %). Fronts
    are compared where the links of the two years tie their glaciers; of those the nearest belong together.
    Two years one of which has no file of fronts are left out.

    Args:
        folder: a local one, with ``<year>-fronts.parquet``, the links and ``glacier_ids.csv``.
        years: in any order.

    Raises:
        OutputError: if a file cannot be written.
    """
    ordered = sorted(years)
    ids = pd.read_csv(folder / "glacier_ids.csv", dtype={"glac_id": str, "glacier_id": str})
    stable = {
        year: dict(zip(own["glac_id"], own["glacier_id"], strict=True)) for year, own in ids.groupby("year")
    }
    for older, newer in pairwise(ordered):
        if not all((folder / f"{year}-fronts.parquet").exists() for year in (older, newer)):
            continue  # drawn by a cryoscale that looked for none
        links = pd.read_csv(folder / f"{older}-{newer}-links.csv", dtype={"older_id": str, "newer_id": str})
        before, after = (
            pd.concat(list(read_parts(str(folder / f"{year}-fronts.parquet"), _COLUMNS)), ignore_index=True)
            for year in (older, newer)
        )
        names = [stable.get(year, {}) for year in (older, newer)]
        table = _table(before, after, list(_pairs(before, after, links)), names)
        put_text(
            table.to_csv(index=False, lineterminator="\n", float_format="%.3f", date_format="%Y-%m-%d"),
            folder / f"{older}-{newer}-fronts.csv",
        )


def _pairs(
    before: pd.DataFrame, after: pd.DataFrame, links: pd.DataFrame
) -> Iterator[tuple[int, int, Moved]]:
    """Rows of fronts that are the same one, the nearest to each other first."""
    first = before["glac_id"].rename("older_id").rename_axis("one").reset_index()
    second = after["glac_id"].rename("newer_id").rename_axis("other").reset_index()
    linked = first.merge(links[["older_id", "newer_id"]], on="older_id").merge(second, on="newer_id")
    found = []
    for one, other in linked[["one", "other"]].itertuples(index=False):
        if before["kind"][one] != after["kind"][other]:
            continue
        lon, lat = before.geometry[one].centroid.coords[0]
        convert = transformer("EPSG:4326", f"EPSG:{utm_epsg(lon, lat)}")
        older, newer, axis = (
            shapely.transform(shape, lambda xy, to=convert: np.column_stack(to.transform(*xy.T)))
            for shape in (before.geometry[one], after.geometry[other], shapely.from_wkt(before["axis"][one]))
        )
        moved = displacement(older, newer, axis)
        if moved is not None and moved.common_share >= _LEAST_COMMON:
            found.append((float(shapely.hausdorff_distance(older, newer)), int(one), int(other), moved))
    gone: set[tuple[str, int]] = set()
    for _, one, other, moved in sorted(found, key=lambda pair: pair[:3]):
        if not {("before", one), ("after", other)} & gone:
            gone |= {("before", one), ("after", other)}
            yield one, other, moved


def _table(
    before: pd.DataFrame,
    after: pd.DataFrame,
    pairs: Sequence[tuple[int, int, Moved]],
    names: Sequence[Mapping[str, str]],
) -> pd.DataFrame:
    """A row a pair and a row a front without one, by glacier."""
    rows = [_row(before.loc[one], after.loc[other], moved, names) for one, other, moved in pairs]
    paired = [{pair[side] for pair in pairs} for side in (0, 1)]
    rows += [_row(before.loc[at], None, None, names) for at in before.index if at not in paired[0]]
    rows += [_row(None, after.loc[at], None, names) for at in after.index if at not in paired[1]]
    table = pd.DataFrame(rows, columns=list(_ROW))
    return table.sort_values(["glacier_id", "older_front_id", "newer_front_id"], ignore_index=True)


def _row(
    older: pd.Series | None, newer: pd.Series | None, moved: Moved | None, names: Sequence[Mapping[str, str]]
) -> list[object]:
    """One row of the file; the glacier goes by what it is called in the newer year, if it is there."""
    front = newer if newer is not None else older
    assert front is not None
    stable = names[0 if newer is None else 1].get(front["glac_id"], front["glac_id"])
    told = [stable, *(None if one is None else one["front_id"] for one in (older, newer))]
    told += [MOVED if moved else ENDED if newer is None else BEGUN, front["kind"], bool(front["at_terminus"])]
    dates = [pd.NaT if one is None else one["date"] for one in (older, newer)]
    if moved is None:
        return [*told, *dates, *[np.nan] * 5]
    years = (dates[1] - dates[0]).days / _DAYS_A_YEAR if all(pd.notna(date) for date in dates) else np.nan
    per_year = 1.0 / years if years else np.nan
    measured = [moved.width_m, moved.displacement_m, moved.displacement_m * per_year]
    return [*told, *dates, *measured, UNCERTAINTY_M, abs(UNCERTAINTY_M * per_year)]
