"""The picture of a range: its classes over a shaded background, with the outlines, in one frame.

All zones are warped to one transverse Mercator projection through the middle of the range, so that
north is up there, a kilometre is a kilometre, and no zone border shows but the dashed line that
marks it. The colours keep apart under the common colour deficiencies: they differ in lightness and
along blue to brown rather than along red to green.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray
from shapely import bounds, get_coordinates, get_num_coordinates, get_parts, get_rings, simplify

from cryoscale.grid import RESOLUTION_M
from cryoscale.write.furniture import (
    INK,
    Frame,
    draw_graticule,
    draw_north_arrow,
    draw_scale_bar,
    draw_zone_borders,
    place_of,
)
from cryoscale.write.lettering import lettered
from cryoscale.write.sheet import DPI, UNMAPPED, Picture, image, sheet
from cryoscale.write.store import put
from cryoscale.write.warp import NODATA, frame_of, strips, warp_all, warp_bytes

_FRONT = "#ffd000"
"""Light on the dark of water and outlines, for every eye."""
_WIDTH_IN = 10.0
_SAMPLE_PX = 500_000
"""Pixels that say how dark and how bright a picture is."""
_LIGHT = 237
"""Grey of the ground where nothing is known of it."""
_M_PER_DEG = 111_000.0
_MOST_VERTICES = 500_000
"""Of outlines in a picture: by then it is black with them."""
_PATH_VERTICES = 10_000
"""Of one path: the library that draws them has an end of its memory for one."""

CLASS_STYLE: Mapping[int, tuple[str, str, float]] = {
    1: ("Clean ice", "#8fd3f7", 0.60),
    2: ("Debris-covered ice", "#8c5a1e", 0.72),
    3: ("Water", "#084594", 0.88),
    4: ("Vegetation", "#86c27a", 0.38),
}
"""Name, colour and opacity of each class that is painted; class 0 shows the background."""


def draw_map(
    path: str | os.PathLike[str],
    mosaics: Mapping[int, xr.Dataset],
    glaciers: Iterable[gpd.GeoDataFrame],
    *,
    fronts: Iterable[gpd.GeoDataFrame] = (),
    background: Mapping[int, xr.Dataset] | None = None,
    title: str = "",
    caption: str = "",
) -> None:
    """Draws the range with its classes and outlines as a PNG of 2000 pixels' width, 200 dpi.

    Args:
        path: the file or fsspec URL to write, e.g. ``OUT/map.png``; it is replaced whole.
        mosaics: ``label`` ``(y, x)`` of each UTM zone by EPSG code; a coarser level serves as well.
        glaciers: the outlines in parts, the largest first, with area_km2 and debris_area_km2. What is
            finer than the picture's pixels is left out of them, and so are the smallest where the
            picture is full of them; the legend counts all.
        fronts: lines where glaciers end in water, in parts.
        background: by EPSG code, ``B04``, ``B03``, ``B02`` (reflectance) for true colour, or else
            ``elevation`` (m) for relief; any resolution. Where it is missing the paper stays light.
        title: the line above the map; the place stands in it for what no installed font has the letters of.
        caption: the line below it, e.g. that the imagery is simulated.
    """
    frame = frame_of(mosaics)
    label = warp_bytes(mosaics, "label", frame)
    picture = ground_picture(background or {}, frame)
    _paint(picture, label)
    figure, axes = sheet(frame, _WIDTH_IN, DPI)
    axes.add_artist(Picture(picture))
    told = draw_outlines(axes, glaciers, frame)
    told.fronts = _draw_fronts(axes, fronts, frame)
    draw_zone_borders(axes, list(mosaics), frame)
    draw_graticule(axes, frame)
    draw_scale_bar(axes, frame)
    draw_north_arrow(axes)
    _draw_words(axes, told, label, lettered(title, place_of(frame)), caption)
    put(path, image(figure, 0.15, format="png"))


def hillshade(elevation_m: NDArray[np.float32], pixel_m: float) -> NDArray[np.float32]:
    """Relief shading 0-1 of a ``(y, x)`` elevation, lit from the north-west and softly from all round.

    Three lights (azimuth 270, 315 and 0 degrees at 40 degrees) keep slopes that face away from a
    single light from drowning in black. NaN stays NaN.
    """
    dy, dx = np.gradient(elevation_m.astype(np.float32), pixel_m)
    steep = np.sqrt(1.0 + dx * dx + dy * dy)
    height = np.deg2rad(40.0)
    shade = np.zeros_like(steep)
    for azimuth_deg, weight in ((315.0, 0.6), (270.0, 0.2), (0.0, 0.2)):
        azimuth = np.deg2rad(azimuth_deg)
        # rows grow southwards: the slope to the north is -dy
        lit = np.sin(height) - np.cos(height) * (dx * np.sin(azimuth) - dy * np.cos(azimuth))
        shade += weight * np.clip(lit / steep, 0.0, 1.0)
    return np.asarray(shade, np.float32)


def ground_picture(background: Mapping[int, xr.Dataset], frame: Frame) -> NDArray[np.uint8]:
    """Red, green, blue, opacity (y, x, 4): true colour where there is imagery, relief where elevation.

    Bytes from here on, and a strip at a time: a picture of floats would be most of what a run's end holds.
    """
    picture = np.full((*frame.shape, 4), 255, np.uint8)
    picture[..., :3] = _LIGHT
    names = {str(name) for dataset in background.values() for name in dataset}
    if "elevation" in names:
        elevation = warp_all(background, "elevation", frame)
        for rows, around in strips(frame.shape[0]):
            shade = hillshade(elevation[around], frame.pixel_m)[rows.start - around.start :][
                : rows.stop - rows.start
            ]
            relief = np.where(np.isnan(shade), _LIGHT, 255 * (0.25 + 0.75 * shade))
            picture[rows, :, :3] = relief[..., np.newaxis]
        del elevation
    if {"B04", "B03", "B02"} <= names:
        bands = [warp_all(background, name, frame) for name in ("B04", "B03", "B02")]
        step = max(1, math.isqrt(picture.size // _SAMPLE_PX))
        sample = np.stack([band[::step, ::step] for band in bands], axis=-1)
        seen = sample[np.isfinite(sample).all(axis=-1)]
        if seen.size:
            low, high = contrast(seen)
            for rows, _ in strips(frame.shape[0]):
                colour = np.stack([band[rows] for band in bands], axis=-1)
                known = np.isfinite(colour).all(axis=-1)
                picture[rows][known, :3] = 255 * stretch(colour[known], low, high)
    return picture


def contrast(reflectance: NDArray[np.float32]) -> tuple[float, float]:
    """Black and white of reflectances, none NaN: one pair for all bands, so that snow stays white."""
    low, high = np.percentile(reflectance, (0.5, 96.0))
    return float(low), float(high)


def stretch(reflectance: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Reflectances to 0-1 for the eye, black at ``low`` and white at ``high``."""
    scaled = np.clip((reflectance - low) / max(high - low, 1e-6), 0.0, 1.0)
    return np.asarray(scaled**0.5, np.float32)


def _paint(picture: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
    """Lay the classes over a picture (y, x, 4); what was never mapped is paper, not picture."""
    for value, (_, colour, opacity) in CLASS_STYLE.items():
        inside = label == value
        under = picture[inside, :3].astype(np.float32)
        over = 255 * opacity * np.array(to_rgb(colour), np.float32)
        picture[inside, :3] = np.rint((1 - opacity) * under + over)
    picture[label == NODATA, 3] = 0


@dataclass
class Told:
    """Of all outlines, drawn or not: number, area and area under debris in km2; and the number of fronts."""

    count: int = 0
    area_km2: float = 0.0
    debris_km2: float = 0.0
    fronts: int = 0


def draw_outlines(axes: Axes, glaciers: Iterable[gpd.GeoDataFrame], frame: Frame) -> Told:
    """Draw outlines, given in parts, and count them."""
    told, vertices = Told(), 0
    for part in glaciers:
        told.count += len(part)
        told.area_km2 += float(part["area_km2"].sum())
        told.debris_km2 += float(part["debris_area_km2"].sum())
        if vertices < _MOST_VERTICES and len(part):
            rings = _rings(part, frame)
            fit = np.cumsum(get_num_coordinates(rings)) <= _MOST_VERTICES - vertices
            _draw_rings(axes, rings[fit])
            vertices += int(get_num_coordinates(rings).sum())
    return told


def _draw_fronts(axes: Axes, fronts: Iterable[gpd.GeoDataFrame], frame: Frame) -> int:
    count = 0
    for part in fronts:
        count += len(part)
        lines = simplify(part.geometry.to_crs(frame.crs).to_numpy(), frame.pixel_m / 2)
        for xy in map(get_coordinates, get_parts(lines)):
            axes.add_line(Line2D(*xy.T, color=_FRONT, linewidth=1.1, solid_capstyle="butt", zorder=3.2))
    return count


def _draw_rings(axes: Axes, rings: NDArray[np.object_]) -> None:
    """Dark lines on light ones, many rings a path: a collection would hold a kilobyte for each."""
    points, ring = get_coordinates(rings, return_index=True)
    codes = np.full(len(points), Path.LINETO, np.uint8)
    codes[np.flatnonzero(np.diff(ring, prepend=-1))] = Path.MOVETO
    for start in range(0, len(points), _PATH_VERTICES):
        cut = slice(max(start - 1, 0), start + _PATH_VERTICES)  # a path goes on where the last one ended
        own = codes[cut].copy()
        own[0] = Path.MOVETO
        for width, colour, alpha, order in ((1.3, "white", 0.65, 3.0), (0.55, INK, 1.0, 3.1)):
            axes.add_artist(
                PathPatch(
                    Path(points[cut], own),
                    fill=False,
                    edgecolor=colour,
                    linewidth=width,
                    alpha=alpha,
                    joinstyle="round",
                    zorder=order,
                )
            )


def _rings(part: gpd.GeoDataFrame, frame: Frame) -> NDArray[np.object_]:
    """Rims and holes in the frame's metres, without what is finer than a pixel of the picture."""
    rings = np.asarray(get_rings(part.geometry.to_numpy()), object)
    if frame.pixel_m > RESOLUTION_M:
        rings = rings[_extents_m(rings) >= 0.8 * frame.pixel_m]  # before they are projected: most are holes
    rings = np.asarray(gpd.GeoSeries(rings, crs=part.crs).to_crs(frame.crs), object)
    if frame.pixel_m > RESOLUTION_M:
        west, south, east, north = bounds(rings).T
        rings = rings[np.maximum(east - west, north - south) >= frame.pixel_m]
        rings = np.asarray(simplify(rings, frame.pixel_m / 2, preserve_topology=False), object)
    return rings


def _extents_m(rings: NDArray[np.object_]) -> NDArray[np.float64]:
    """The longer side of each ring's box (degrees), to a few per cent."""
    west, south, east, north = bounds(rings).T
    width = (east - west) * np.cos(np.deg2rad((south + north) / 2))
    return np.asarray(np.maximum(width, north - south) * _M_PER_DEG, np.float64)


def _draw_words(
    axes: Axes, told: Told, label: NDArray[np.uint8], heading: tuple[str, FontProperties], caption: str
) -> None:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, alpha=max(opacity, 0.6), edgecolor=INK, linewidth=0.4, label=name)
        for value, (name, colour, opacity) in CLASS_STYLE.items()
        if (label == value).any()
    ]
    if (label == NODATA).any():
        handles.append(Patch(facecolor=UNMAPPED, edgecolor=INK, linewidth=0.4, label="Not mapped"))
    handles.append(Line2D([], [], color=INK, linewidth=0.9, label=f"Outlines ({told.count})"))
    if told.fronts:
        handles.append(Line2D([], [], color=_FRONT, linewidth=1.3, label=f"Fronts ({told.fronts})"))
    box = axes.get_window_extent()
    point = DPI / 72 / box.height
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, -22.0 * point),
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        handlelength=1.6,
        columnspacing=1.6,
        borderaxespad=0.0,
    )
    facts = f"Ice {told.area_km2:,.1f} km², of which under debris {told.debris_km2:,.1f} km²"
    words = "   ".join(part for part in (facts, caption) if part)
    axes.text(
        0.0,
        -44.0 * point,
        words,
        transform=axes.transAxes,
        ha="left",
        va="top",
        fontsize=8.5,
        color="#333a44",
    )
    title, font = heading
    axes.text(
        0.0,
        1 + 7.0 * point,
        title,
        fontproperties=font,
        transform=axes.transAxes,
        ha="left",
        va="bottom",
        fontsize=13,
        fontweight="bold",
        color=INK,
    )
