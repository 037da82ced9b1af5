"""Small pictures of what lies behind a map: what was seen, how sure it is, from which day, without what.

They share the frame of the map (:mod:`cryoscale.write.map`). The colour scales are even in lightness, so that
they can be read in grey and with any colour vision (Crameri et al. 2020,
https://doi.org/10.1038/s41467-020-19160-7).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import geopandas as gpd
import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from cryoscale.write.furniture import INK, Frame, draw_graticule, draw_scale_bar
from cryoscale.write.map import draw_outlines, ground_picture
from cryoscale.write.sheet import UNMAPPED, Picture, Plate, sheet, webp
from cryoscale.write.warp import NODATA, frame_of, strips, warp_bytes, warp_days

_WIDTH_IN, _DPI = 7.0, 150
_FULL = 250.0
"""The byte that stands for 1."""
_MOST_DISAGREEMENT = 0.5
"""No standard deviation of numbers between 0 and 1 is larger."""
_ABSENT_COLOURS = ("#d9f0d3", "#fdb863", "#b2abd2", "#e66101", "#5e3c99", "#404040")
"""Pixels with every modality, and the commonest sets of absent ones; the last stands for all further sets."""


def draw_plates(
    mosaics: Mapping[int, xr.Dataset],
    background: Mapping[int, xr.Dataset],
    glaciers: Iterable[gpd.GeoDataFrame],
    modalities: Mapping[str, int],
) -> list[Plate]:
    """The pictures of a year.

    Args:
        mosaics: the map of each UTM zone by EPSG code, itself: coarser levels have no dates.
        background: as :func:`cryoscale.write.map.draw_map` takes it.
        glaciers: the outlines in parts, likewise.
        modalities: the bit of each in the layer ``modalities``.
    """
    frame = frame_of(mosaics, longest_px=round(_WIDTH_IN * _DPI))
    label = warp_bytes(mosaics, "label", frame)
    outlines = list(glaciers)
    return [
        _seen(background, frame),
        _confidence(mosaics, frame, outlines),
        _disagreement(mosaics, frame, outlines),
        _dates(mosaics, frame, label),
        _absent(mosaics, frame, label, modalities),
    ]


def _seen(background: Mapping[int, xr.Dataset], frame: Frame) -> Plate:
    figure, axes = _page(frame, ground_picture(background, frame))
    draw_scale_bar(axes, frame)
    return Plate(
        "What was seen",
        "The composite in true colour, or the relief where there is none.",
        webp(figure),
    )


def _confidence(
    mosaics: Mapping[int, xr.Dataset], frame: Frame, outlines: Iterable[gpd.GeoDataFrame]
) -> Plate:
    stored = warp_bytes(mosaics, "confidence", frame)
    figure, axes = _scaled(stored, stored == NODATA, (0.0, _FULL), "viridis", frame)
    _bar(figure, axes, "viridis", (0.0, 1.0), "Confidence")
    draw_outlines(axes, outlines, frame)
    return Plate("Confidence", "Of the class that a pixel got; dark is doubtful.", webp(figure))


def _disagreement(
    mosaics: Mapping[int, xr.Dataset], frame: Frame, outlines: Iterable[gpd.GeoDataFrame]
) -> Plate:
    stored = warp_bytes(mosaics, "disagreement", frame)
    known = stored[stored != NODATA]
    most = max(float(np.percentile(known, 99)), 1.0) if known.size else _FULL * _MOST_DISAGREEMENT
    largest = float(known.max()) if known.size else 0.0
    figure, axes = _scaled(stored, stored == NODATA, (0.0, most), "magma", frame)
    words = "Standard deviation between tiles"
    _bar(figure, axes, "magma", (0.0, most / _FULL), words, goes_on=largest > most)
    draw_outlines(axes, outlines, frame)
    caption = (
        "Of the probabilities that overlapping tiles gave a pixel; bright ones deserve a look. "
        f"The largest shown is {largest / _FULL:.2g}."
    )
    return Plate("Disagreement", caption, webp(figure))


def _dates(mosaics: Mapping[int, xr.Dataset], frame: Frame, label: NDArray[np.uint8]) -> Plate:
    days = warp_days(mosaics, "source_date", frame)
    gap = np.isnan(days)
    found = np.unique(days[~gap]).astype(int)
    low, high = (float(found[0]), float(found[-1])) if found.size else (0.0, 1.0)
    figure, axes = _scaled(
        np.where(gap, low, days), gap | (label == NODATA), (low, max(high, low + 1)), "cividis", frame
    )
    handles = [
        Patch(
            facecolor=_colour("cividis", (day - low) / max(high - low, 1)), label=str(np.datetime64(day, "D"))
        )
        for day in _some(found).tolist()
    ]
    _legend(figure, axes, handles)
    count = f"{found.size} day{'s' if found.size != 1 else ''}"
    return Plate("Date of the image", f"Under each pixel; {count} in all.", webp(figure))


def _absent(
    mosaics: Mapping[int, xr.Dataset], frame: Frame, label: NDArray[np.uint8], modalities: Mapping[str, int]
) -> Plate:
    present = warp_bytes(mosaics, "modalities", frame, nodata=0)
    values, counts = np.unique(present[label != NODATA], return_counts=True)
    every = sum(modalities.values())
    # the whole set first, whether it occurs or not, so that its colour is always the same
    ranked = [every, *(int(v) for v in values[np.argsort(-counts)] if v != every)]
    colours = np.full((256, 3), to_rgb(_ABSENT_COLOURS[-1]))
    shown = ranked[: len(_ABSENT_COLOURS) - 1]
    colours[shown] = [to_rgb(colour) for colour in _ABSENT_COLOURS[: len(shown)]]
    picture = np.full((*frame.shape, 4), 255, np.uint8)
    picture[..., :3] = np.rint(255 * colours)[present]
    picture[label == NODATA, 3] = 0
    figure, axes = _page(frame, picture)
    handles = [
        Patch(facecolor=colours[value], label=_without(value, modalities))
        for value in shown
        if value in values
    ]
    if len(ranked) > len(shown):
        handles.append(Patch(facecolor=_ABSENT_COLOURS[-1], label="other gaps"))
    _legend(figure, axes, handles)
    return Plate("What was missing", "Modalities that the model had to do without.", webp(figure))


def _without(present: int, modalities: Mapping[str, int]) -> str:
    absent = [name for name, bit in modalities.items() if not present & bit]
    return f"without {', '.join(absent)}" if absent else "all there"


def _some(days: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most six days of all, the first and the last among them."""
    kept = np.unique(np.linspace(0, days.size - 1, min(days.size, 6)).round().astype(int))
    return np.asarray(days[kept], np.int64)


def _page(frame: Frame, picture: NDArray[np.uint8]) -> tuple[Figure, Axes]:
    figure, axes = sheet(frame, _WIDTH_IN, _DPI)
    axes.add_artist(Picture(picture))
    draw_graticule(axes, frame)
    return figure, axes


def _scaled(
    values: NDArray[np.generic], gap: NDArray[np.bool_], limits: tuple[float, float], scale: str, frame: Frame
) -> tuple[Figure, Axes]:
    """A page with values (y, x) in the colours of a scale; nothing where there is a gap."""
    picture = np.empty((*frame.shape, 4), np.uint8)
    low, high = limits
    for rows, _ in strips(frame.shape[0]):  # floats of a strip at a time
        share = np.clip((values[rows].astype(np.float32) - low) / (high - low), 0.0, 1.0)
        picture[rows] = matplotlib.colormaps[scale](share, bytes=True)
    picture[gap, 3] = 0
    return _page(frame, picture)


def _colour(scale: str, share: float) -> tuple[float, float, float, float]:
    red, green, blue, opacity = matplotlib.colormaps[scale](share)
    return red, green, blue, opacity


def _bar(
    figure: Figure,
    axes: Axes,
    scale: str,
    limits: tuple[float, float],
    words: str,
    *,
    goes_on: bool = False,
) -> None:
    """The scale below a page, with an arrow at its end where values go on."""
    place = figure.add_axes((0.0, -0.32 / figure.get_figheight(), 0.45, 0.09 / figure.get_figheight()))
    mapped = ScalarMappable(Normalize(*limits), scale)
    bar = figure.colorbar(mapped, cax=place, orientation="horizontal", extend="max" if goes_on else "neither")
    bar.outline.set_edgecolor(INK)
    bar.ax.tick_params(labelsize=7.5, color=INK, labelcolor=INK, width=0.5, length=2.5)
    axes.text(
        0.47,
        -0.275 / figure.get_figheight(),
        words,
        transform=axes.transAxes,
        ha="left",
        va="center",
        fontsize=8.5,
        color=INK,
    )


def _legend(figure: Figure, axes: Axes, handles: list[Patch]) -> None:
    handles = [*handles, Patch(facecolor=UNMAPPED, label="not mapped")]
    for handle in handles:
        handle.set(edgecolor=INK, linewidth=0.4)
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, -0.2 / figure.get_figheight()),
        ncols=3,
        frameon=False,
        fontsize=8,
        handlelength=1.5,
        borderaxespad=0.0,
    )
