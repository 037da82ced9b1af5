"""The furniture of a map: its frame, graticule, zone borders, scale bar and north arrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle
from matplotlib.patheffects import Stroke

from cryoscale.grid import transformer, turned, zone_bounds_deg

INK = "#15191f"
"""Colour of lines and letters."""


@dataclass(frozen=True)
class Frame:
    """The picture's grid: a local projection, its extent in metres and its pixel size."""

    crs: str
    west_m: float
    south_m: float
    east_m: float
    north_m: float
    pixel_m: float

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (
            max(1, round((self.north_m - self.south_m) / self.pixel_m)),
            max(1, round((self.east_m - self.west_m) / self.pixel_m)),
        )

    @property
    def affine(self) -> Affine:
        """Pixel corners to metres."""
        return Affine(self.pixel_m, 0.0, self.west_m, 0.0, -self.pixel_m, self.north_m)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """West, east, south, north in metres, as matplotlib wants it."""
        return self.west_m, self.east_m, self.south_m, self.north_m

    def project(self) -> Any:
        """From longitude and latitude to the frame's metres."""
        return transformer("EPSG:4326", self.crs)


def draw_zone_borders(axes: Axes, zones: list[int], frame: Frame) -> None:
    """A dashed line on each meridian at which two of the given UTM zones (EPSG codes) meet."""
    project = frame.project()
    _, south, _, north = _lonlat_bounds(frame)
    for epsg in sorted(zones):
        east = zone_bounds_deg(epsg)[2] if epsg // 100 in (326, 327) else None
        beside = epsg + 1 if epsg % 100 < 60 else epsg - 59  # around the globe, and of the same hemisphere
        if east is None or beside not in zones:
            continue
        lat = np.linspace(south, north, 50)
        x, y = project.transform(np.full(50, east), lat)
        axes.plot(x, y, color="white", linewidth=1.8, alpha=0.5, zorder=3.5)
        axes.plot(x, y, color=INK, linewidth=0.8, linestyle=(0, (6, 4)), zorder=3.6)
        at = float(np.interp(frame.north_m, y, x))
        half = "N" if epsg < 32700 else "S"
        zone = epsg % 100
        axes.annotate(
            f"UTM {zone}{half}  |  {zone % 60 + 1}{half}",
            (at, frame.north_m),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7.5,
            color=INK,
            annotation_clip=False,
        )


def _lonlat_bounds(frame: Frame) -> tuple[float, float, float, float]:
    inverse = transformer(frame.crs, "EPSG:4326")
    bounds = inverse.transform_bounds(frame.west_m, frame.south_m, frame.east_m, frame.north_m)
    west, south, east, north = bounds
    return west, south, east + 360.0 if east < west else east, north


def place_of(frame: Frame) -> str:
    """Latitude and longitude of its middle, to a minute."""
    west, south, east, north = _lonlat_bounds(frame)
    minute = 1 / 60
    lat, lon = (south + north) / 2, turned((west + east) / 2, 0.0)
    return f"{_degrees(lat, minute, 'NS')} {_degrees(lon, minute, 'EW')}"


def draw_graticule(axes: Axes, frame: Frame) -> None:
    """Meridians and parallels, labelled where they leave the frame at the bottom and the left."""
    west, south, east, north = _lonlat_bounds(frame)
    project = frame.project()
    lat_step, lon_step = _nice_step(north - south), _nice_step(east - west)
    for lon in np.arange(np.ceil(west / lon_step), east / lon_step) * lon_step:
        x, y = project.transform(np.full(100, lon), np.linspace(south, north, 100))
        axes.plot(x, y, color=INK, linewidth=0.35, alpha=0.45, zorder=2)
        at = float(np.interp(frame.south_m, y, x))
        if frame.west_m < at < frame.east_m:
            _tick(axes, (at, frame.south_m), (0, -4), _degrees(turned(lon, 0.0), lon_step, "EW"))
    for lat in np.arange(np.ceil(south / lat_step), north / lat_step) * lat_step:
        x, y = project.transform(np.linspace(west, east, 100), np.full(100, lat))
        axes.plot(x, y, color=INK, linewidth=0.35, alpha=0.45, zorder=2)
        at = float(np.interp(frame.west_m, x, y))
        if frame.south_m < at < frame.north_m:
            _tick(axes, (frame.west_m, at), (-4, 0), _degrees(lat, lat_step, "NS"))


def _tick(axes: Axes, at: tuple[float, float], offset: tuple[int, int], text: str) -> None:
    upright = offset[0] == 0
    axes.annotate(
        text,
        at,
        xytext=offset,
        textcoords="offset points",
        ha="center" if upright else "right",
        va="top" if upright else "center",
        rotation=0 if upright else 90,
        fontsize=7.5,
        color=INK,
        annotation_clip=False,
    )


def _nice_step(span_deg: float) -> float:
    """A round interval that gives two to six lines over a span of degrees."""
    seconds = (5, 10, 20, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 18_000, 36_000)
    return next((step for step in seconds if span_deg * 3600 <= 6 * step), 72_000) / 3600


def _degrees(value: float, step: float, signs: str) -> str:
    """A longitude or latitude as degrees, minutes and seconds, as far as the interval needs them."""
    minutes, seconds = divmod(round(abs(value) * 3600), 60)
    side = signs[0] if value >= 0 else signs[1]
    text = f"{minutes // 60}°"
    if step < 1:
        text += f"{minutes % 60:02d}\u2032"
    if step < 1 / 60:
        text += f"{seconds:02d}\u2033"
    return text + side


def draw_scale_bar(axes: Axes, frame: Frame) -> None:
    """Four boxes, black and white, of a round length near a fifth of the frame's width."""
    width_m = frame.east_m - frame.west_m
    choices = [factor * 10**power for power in range(2, 7) for factor in (1, 2, 4, 5)]
    length_m = max([choice for choice in choices if choice <= 0.22 * width_m], default=choices[0])
    x0, y0 = frame.west_m + 0.024 * width_m, frame.south_m + 0.022 * width_m
    height_m, box_m = 0.005 * width_m, length_m / 4
    axes.add_patch(
        Rectangle(
            (x0 - 0.012 * width_m, y0 - 0.01 * width_m),
            length_m + 0.042 * width_m,
            0.036 * width_m,
            facecolor="white",
            alpha=0.82,
            edgecolor="none",
            zorder=5,
        )
    )
    for index in range(4):
        axes.add_patch(
            Rectangle(
                (x0 + index * box_m, y0),
                box_m,
                height_m,
                facecolor=INK if index % 2 == 0 else "white",
                edgecolor=INK,
                linewidth=0.6,
                zorder=6,
            )
        )
    unit_m, unit = (1000, "km") if length_m >= 1000 else (1, "m")
    for share in (0.0, 0.5, 1.0):
        text = f"{share * length_m / unit_m:g}" + (f" {unit}" if share == 1.0 else "")
        at = (x0 + share * length_m, y0 + height_m + 0.003 * width_m)
        axes.text(*at, text, ha="center", va="bottom", fontsize=7.5, color=INK, zorder=6)


def draw_north_arrow(axes: Axes) -> None:
    """An arrow in the upper right corner; the projection keeps north up."""
    box = axes.get_window_extent()
    size_x, size_y = 44.0 / box.width, 76.0 / box.height
    plate = Rectangle(
        (0.962 - 0.9 * size_x, 1 - 0.028 - 1.62 * size_y),
        1.8 * size_x,
        1.74 * size_y,
        transform=axes.transAxes,
        facecolor="white",
        alpha=0.82,
        edgecolor="none",
        zorder=5,
    )
    axes.add_patch(plate)
    for points, face in (
        ([(0.5, 1.0), (0.0, 0.0), (0.5, 0.22)], INK),
        ([(0.5, 1.0), (1.0, 0.0), (0.5, 0.22)], "white"),
    ):
        corners = [(0.962 + (px - 0.5) * size_x, 1 - 0.028 - size_y + py * size_y) for px, py in points]
        axes.add_patch(
            Polygon(corners, transform=axes.transAxes, facecolor=face, edgecolor=INK, linewidth=0.7, zorder=6)
        )
    lettering = axes.text(
        0.962,
        1 - 0.034 - size_y,
        "N",
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=9,
        fontweight="bold",
        color=INK,
        zorder=6,
    )
    lettering.set_path_effects([Stroke(linewidth=2.2, foreground="white"), Stroke()])
