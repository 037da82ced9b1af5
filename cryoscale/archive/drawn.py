"""A change as pictures: where it is, and how it went over the years.

Colours are those of ColorBrewer's diverging RdBu, and a blue, a green and an orange of Okabe and Ito, which
the usual kinds of colour blindness tell apart (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

import io
import math
from datetime import datetime

import numpy as np
import pandas as pd
import shapely
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from shapely.geometry.base import BaseGeometry

from cryoscale.archive.change import NOT_SEEN, NOT_SEEN_BEFORE, Change
from cryoscale.grid import one_way, transformer
from cryoscale.write.furniture import INK, Frame, draw_graticule, draw_north_arrow, draw_scale_bar
from cryoscale.write.polygons import PolygonArray, explode
from cryoscale.write.succession import BIRTH, VANISHED

_GONE, _NEW, _UNKNOWN, _OLDER, _GRID = "#3b0a0a", "#009e73", "#c9ced4", "#8a929c", "#e4e7ea"
_AREA, _DEBRIS = "#0072b2", "#d55e00"
_DPI = 150
_LONGEST_IN = 9.0
_LEAST_PCT = 10.0
"""The scale reaches so far at least, lest noise be painted in full colours."""


def draw_change(change: Change) -> bytes:
    """A PNG of the older outlines, coloured by how much of their area was lost or won."""
    table = change.glaciers
    frame = _frame(explode(table.geometry.to_numpy()))
    wide = frame.east_m - frame.west_m
    high = frame.north_m - frame.south_m
    scale = _LONGEST_IN / max(wide, high)
    figure = Figure(
        figsize=(max(wide * scale, 4.5) + 1.6, max(high * scale, 3.0) + 1.3), dpi=_DPI, layout="constrained"
    )
    axes = figure.add_subplot()
    told = table["change_pct"].to_numpy(float)
    fixed = {VANISHED: _GONE, BIRTH: _NEW, NOT_SEEN: _UNKNOWN, NOT_SEEN_BEFORE: _UNKNOWN}
    known = told[np.isfinite(told) & ~table["kind"].isin(list(fixed)).to_numpy()]
    limit = max(float(np.quantile(np.abs(known), 0.9)) if known.size else 0.0, _LEAST_PCT)
    colours = ScalarMappable(TwoSlopeNorm(0.0, -limit, limit), "RdBu")
    patches, faces = [], []
    for kind, pct, shape in zip(table["kind"], told, table.geometry, strict=True):
        for polygon in explode(_flat(shape, frame)):
            patches.append(PathPatch(_path(polygon)))
            faces.append(fixed.get(kind) or (colours.to_rgba(pct) if math.isfinite(pct) else _UNKNOWN))
    axes.add_collection(PatchCollection(patches, facecolors=faces, edgecolors=_OLDER, linewidths=0.3))
    lines = [PathPatch(_path(polygon)) for shape in change.newer for polygon in explode(_flat(shape, frame))]
    axes.add_collection(PatchCollection(lines, facecolors="none", edgecolors=INK, linewidths=0.7))
    axes.set(
        xlim=(frame.west_m, frame.east_m),
        ylim=(frame.south_m, frame.north_m),
        aspect="equal",
        xticks=[],
        yticks=[],
    )
    draw_graticule(axes, frame)
    draw_scale_bar(axes, frame)
    draw_north_arrow(axes)
    figure.colorbar(colours, ax=axes, shrink=0.7, extend="both", label="Change of area (%)")
    kinds = table["kind"].value_counts()
    handles = [
        Patch(facecolor=colour, edgecolor=INK, linewidth=0.3, label=f"{label}: {count}")
        for label, colour, count in (
            ("Vanished", _GONE, kinds.get(VANISHED, 0)),
            ("New", _NEW, kinds.get(BIRTH, 0)),
            ("Not seen in both years", _UNKNOWN, kinds.get(NOT_SEEN, 0) + kinds.get(NOT_SEEN_BEFORE, 0)),
        )
        if count
    ]
    older, newer = change.years
    handles.append(
        Patch(facecolor="none", edgecolor=_OLDER, linewidth=0.6, label=f"Filled: outlines of {older}")
    )
    handles.append(Patch(facecolor="none", edgecolor=INK, linewidth=0.9, label=f"Lines: outlines of {newer}"))
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    axes.set_title(_headline(change), loc="left", fontsize=11, color=INK)
    axes.set_xlabel(_source(change), loc="left", fontsize=8, color="#333a44", labelpad=18)
    return _png(figure)


def draw_series(change: Change) -> bytes:
    """A PNG of the area over the years, with its interval, and of the debris-covered part of it."""
    table = change.series
    figure = Figure(figsize=(7.6, 5.4), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    # a year whose images have no date stands in its middle
    dates = [
        (date if pd.notna(date) else pd.Timestamp(int(year), 7, 1)).to_pydatetime()
        for date, year in zip(table["date"], table["year"], strict=True)
    ]
    area = table["common_area_km2"].to_numpy(float)
    reach = np.abs(table[["common_area_low_km2", "common_area_high_km2"]].to_numpy(float).T - area)
    upper.errorbar(dates, area, yerr=reach, color=_AREA, marker="o", capsize=4, linewidth=1.5)
    upper.set_ylabel("Area of ice (km²)")
    lower.plot(dates, table["common_debris_km2"], color=_DEBRIS, marker="s", linewidth=1.5)
    lower.set_ylabel("Under debris (km²)")
    lower.set_ylim(0.0, max(float(table["common_debris_km2"].max()) * 1.15, 0.01))
    first, last = min(dates).year, max(dates).year
    ticks = range(first, last + 2, max((last - first) // 8, 1))
    lower.set_xticks([datetime(year, 1, 1) for year in ticks], [str(year) for year in ticks])
    lower.set_xlabel("Date of the images (mean under the ice)")
    for axes in (upper, lower):
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.08)
    whole = float(table["area_km2"].max()) or 1.0
    seen_pct = 100 * area.max() / whole
    shown = f"Bars: 90 % intervals. Ground that all {len(table)} years have seen: up to {seen_pct:.0f} %"
    upper.set_title(_headline(change), loc="left", fontsize=11, color=INK)
    figure.supxlabel(
        f"{shown} of the ice.\n{_source(change)}", x=0.01, ha="left", fontsize=8, color="#333a44"
    )
    return _png(figure)


def _source(change: Change) -> str:
    real = "Simulated imagery: no real place. " if change.simulated else ""
    return f"{real}Source: cryoscale archive, model {', '.join(change.models)}."


def _headline(change: Change) -> str:
    total = change.total
    low, high, pct = total["change_low_km2"], total["change_high_km2"], total["change_pct"]
    interval = f" ({low:+.2f} to {high:+.2f})" if low is not None and high is not None else ""
    share = f", {pct:+.1f} %" if pct is not None else ""
    when = f"{total['older_date'] or change.years[0]} to {total['newer_date'] or change.years[1]}"
    lost = f"{total['change_km2']:+.2f} km²{interval}{share}"
    return f"{change.region}, {when}\n{lost} on ground that both have seen"


def _frame(shapes: PolygonArray) -> Frame:
    """A local equal-area projection around what is to be seen (degrees)."""
    bounds = shapely.bounds(shapes)
    # what lies over 180 degrees is cut there, or goes on beyond it
    lon, (south, north) = one_way(bounds[:, ::2].ravel()), (bounds[:, 1].min(), bounds[:, 3].max())
    west, east = lon.min(), lon.max()
    crs = f"+proj=laea +lat_0={(south + north) / 2} +lon_0={(west + east) / 2} +datum=WGS84 +units=m"
    empty = Frame(crs, 0.0, 0.0, 1.0, 1.0, 1.0)
    box = shapely.segmentize(shapely.box(west, south, east, north), max(east - west, north - south) / 8)
    x, y = empty.project().transform(*shapely.get_coordinates(box).T)
    margin = 0.04 * max(np.ptp(x), np.ptp(y))
    west_m, east_m, south_m, north_m = min(x) - margin, max(x) + margin, min(y) - margin, max(y) + margin
    pixel_m = max(east_m - west_m, north_m - south_m) / (_LONGEST_IN * _DPI)
    return Frame(crs, west_m, south_m, east_m, north_m, pixel_m)


def _flat(shape: BaseGeometry, frame: Frame) -> BaseGeometry:
    """A shape (degrees) in metres of the frame, without what is finer than half a pixel."""
    project = transformer("EPSG:4326", frame.crs)
    flat = shapely.transform(shape, lambda xy: np.column_stack(project.transform(*xy.T)))
    return shapely.simplify(flat, frame.pixel_m / 2)


def _path(polygon: shapely.Polygon) -> Path:
    rings = [polygon.exterior, *polygon.interiors]
    return Path.make_compound_path(*(Path(np.asarray(ring.coords), closed=True) for ring in rings))


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor="white")
    return content.getvalue()
