"""Charts of an inventory."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Literal

import fsspec
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cryoscale.write.furniture import INK
from cryoscale.write.sheet import Plate, webp
from cryoscale.write.topography import BAND_M

_DPI = 150
_COLOURS = ("#2b6f9e", "#b35c00", "#4d4d4d", "#7b3294", "#1b7837", "#a6611a")
"""Of the years; more of them begin again with broken lines."""


def area_by_elevation(hypsometries: Mapping[int, str]) -> Plate | None:
    """Area of the ice in each band of elevation, a line a year; None where no elevation is known.

    Args:
        hypsometries: by year, path or fsspec URL of its CSV file (:mod:`cryoscale.write.inventory`).
    """
    found = {year: area_of_bands(url) for year, url in sorted(hypsometries.items())}
    found = {year: bands for year, bands in found.items() if bands}
    if not found:
        return None
    figure = Figure(figsize=(7.0, 3.6), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    handles = []
    for number, (year, bands) in enumerate(found.items()):
        centres, areas = np.array(sorted(bands.items())).T
        colour = _COLOURS[number % len(_COLOURS)]
        line: Literal["-", "--"] = "--" if number >= len(_COLOURS) else "-"
        edges = np.append(centres - BAND_M / 2, centres[-1] + BAND_M / 2)
        axes.stairs(areas, edges, fill=len(found) == 1, linewidth=1.4, color=colour, linestyle=line)
        told = f"{year}: {areas.sum():,.1f} km\u00b2"
        handles.append(Line2D([], [], label=told, color=colour, linestyle=line))
    axes.set_xlabel("Elevation in m", color=INK, fontsize=9)
    axes.set_ylabel(f"km\u00b2 a band of {BAND_M} m", color=INK, fontsize=9)
    axes.tick_params(labelsize=8, color=INK, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.legend(handles=handles, frameon=False, fontsize=8.5)
    caption = "Of all outlines with elevation, from their hypsometries."
    return Plate("Area by elevation", caption, webp(figure))


def area_of_bands(url: str) -> dict[int, float]:
    """Area in km2 by the central elevation (m) of each band, from a hypsometry in CSV, read row by row."""
    with fsspec.open(url, "r", encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows)
        bands = [int(name) for name in header[2:]]
        total = np.zeros(len(bands))
        for row in rows:
            total += float(row[1]) * np.array(row[2:], float) / 1000.0
    return dict(zip(bands, total.tolist(), strict=True))
