"""Map tiles of a finished run: true colour, relief, classes and confidence in Web Mercator.

GDAL warps, rio-tiler (https://cogeotiff.github.io/rio-tiler/) lays the zones together and encodes; its reader
of xarray took four times as long, nearly all of it to ask for coordinates. A tile is cut from the level of
the mosaic whose pixels are next finer than its own, so that it reads about as many pixels as it has, wherever
one looks from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import matplotlib
import numpy as np
import zarr
from matplotlib.colors import to_rgb
from morecantile import Tile
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import from_bounds, from_origin
from rasterio.warp import reproject, transform_bounds
from rio_tiler.constants import WEB_MERCATOR_CRS, WEB_MERCATOR_TMS
from rio_tiler.errors import EmptyMosaicError, TileOutsideBounds
from rio_tiler.models import ImageData
from rio_tiler.mosaic import mosaic_reader

from cryoscale.grid import RESOLUTION_M, Window
from cryoscale.view.shown import Shown
from cryoscale.write import mosaic, quicklook
from cryoscale.write.map import CLASS_STYLE, contrast, hillshade, stretch
from cryoscale.write.store import level_name, open_store

TILE_PX = 512
LAYERS = ("colour", "relief", "classes", "confidence")
MEDIA_TYPES = {
    "colour": "image/webp",
    "relief": "image/webp",
    "classes": "image/png",
    "confidence": "image/png",
}
ZOOMS = {"colour": (9, 13), "relief": (9, 13), "classes": (0, 14), "confidence": (0, 14)}
"""Farthest and closest zoom that is drawn; the page stretches the last. Below 9 a tile would need more than 3
million pixels of the quicklook, which has no levels."""

CONFIDENCE_SCALE = "viridis"
FULL = 250
"""The byte of the mosaic that stands for 1."""

_RELIEF_BAND = ("elevation",)
_COLOUR_BANDS = ("B04", "B03", "B02")
_SAMPLES, _SAMPLE_PX = 24, 64
"""How many places of a zone say how dark and how bright its pictures are, and how large each is."""

Bounds = tuple[float, float, float, float]


def class_colours() -> dict[int, tuple[int, int, int, int]]:
    """Red, green, blue, opacity of each label that is painted, those of ``map.png``."""
    colours = {}
    for value, (_, colour, opacity) in CLASS_STYLE.items():
        red, green, blue = (round(255 * part) for part in to_rgb(colour))
        colours[value] = (red, green, blue, round(255 * opacity))
    return colours


def confidence_colours(count: int = FULL + 1) -> list[tuple[int, int, int, int]]:
    """Red, green, blue, opacity of ``count`` even steps of confidence from 0 to 1."""
    scale = matplotlib.colormaps[CONFIDENCE_SCALE](np.linspace(0, 1, count), bytes=True)
    return [(int(r), int(g), int(b), 255) for r, g, b, _ in scale]


@dataclass(frozen=True)
class Source:
    """Arrays of one zone to cut tiles from.

    Attributes:
        arrays: (y, x) each, all of one grid.
        window: the pixels of the zone that they cover.
        factor: how many of these pixels one of theirs is long.
        gap: the value where there is nothing; NaN, or one that is not to be mixed with others.
    """

    arrays: tuple[Any, ...]
    window: Window
    factor: int
    gap: float

    def is_gap(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where there is nothing."""
        return np.isnan(values) if math.isnan(self.gap) else np.asarray(values == self.gap)

    def read(self, rows: slice, cols: slice) -> NDArray[Any]:
        """A part of all arrays (band, y, x)."""
        return np.stack([np.asarray(array[rows, cols]) for array in self.arrays])

    def cut(self, bounds: Bounds, size_px: int) -> NDArray[Any] | None:
        """What lies within bounds (m, Web Mercator), (band, size_px, size_px); None where nothing can."""
        pixel_m = RESOLUTION_M * self.factor
        west, _, _, north = self.window.bounds_m
        height, width = self.window.height // self.factor, self.window.width // self.factor
        crs = f"EPSG:{self.window.epsg}"
        left, bottom, right, top = transform_bounds(WEB_MERCATOR_CRS, crs, *bounds)
        rows = _within((north - top) / pixel_m, (north - bottom) / pixel_m, height)
        cols = _within((left - west) / pixel_m, (right - west) / pixel_m, width)
        if rows.stop <= rows.start or cols.stop <= cols.start:
            return None
        values = self.read(rows, cols)
        cut = np.full((len(self.arrays), size_px, size_px), self.gap, values.dtype)
        reproject(
            values,
            cut,
            src_transform=from_origin(
                west + cols.start * pixel_m, north - rows.start * pixel_m, pixel_m, pixel_m
            ),
            src_crs=crs,
            src_nodata=self.gap,
            dst_transform=from_bounds(*bounds, size_px, size_px),
            dst_crs=WEB_MERCATOR_CRS,
            dst_nodata=self.gap,
            resampling=Resampling.bilinear if math.isnan(self.gap) else Resampling.nearest,
        )
        return cut


class Tiles:
    """Draws tiles; may be asked from many threads at once."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._opening = Lock()
        self._groups: dict[tuple[str, str], zarr.Group] = {}

    def draw(self, layer: str, year: int, tile: tuple[int, int, int]) -> bytes | None:
        """A tile (zoom, column, row) of 512 px; None where no map of that year is, or no such zoom.

        Classes and confidence are PNG, so that their colours are exact; pictures are WebP, a fifth the size.
        """
        zoom, column, row = tile
        low, high = ZOOMS[layer]
        if year not in self._shown.folders or not (
            low <= zoom <= high and 0 <= column < 2**zoom and 0 <= row < 2**zoom
        ):
            return None
        box = WEB_MERCATOR_TMS.xy_bounds(Tile(column, row, zoom))
        bounds: Bounds = (box.left, box.bottom, box.right, box.top)
        draw: Callable[[int, Bounds], ImageData | None] = {
            "colour": self._colour,
            "relief": self._relief,
            "classes": self._classes,
            "confidence": self._confidence,
        }[layer]
        image = draw(year, bounds)
        if image is None:
            return None
        how: dict[str, Any] = {"QUALITY": 85} if MEDIA_TYPES[layer] == "image/webp" else {"ZLEVEL": 3}
        return bytes(image.render(img_format=MEDIA_TYPES[layer][6:].upper(), add_mask=False, **how))

    def warm(self) -> None:
        """Draws a tile of the last year, so that the libraries have begun and :attr:`contrast` is known."""
        west, south, east, north = self._shown.bounds_deg
        zoom = ZOOMS["colour"][0]
        place = WEB_MERCATOR_TMS.tile((west + east) / 2, (south + north) / 2, zoom)
        self.draw("colour", self._shown.years[-1], (zoom, place.x, place.y))

    def _classes(self, year: int, bounds: Bounds) -> ImageData | None:
        read = self._mapped(year, "label", bounds)
        if read is None:
            return None
        colours = np.zeros((256, 4), np.uint8)
        for value, colour in class_colours().items():
            colours[value] = colour
        return _painted(read, colours)

    def _confidence(self, year: int, bounds: Bounds) -> ImageData | None:
        read = self._mapped(year, "confidence", bounds)
        if read is None:
            return None
        colours = np.zeros((256, 4), np.uint8)
        colours[: FULL + 1] = confidence_colours()
        return _painted(read, colours)

    def _mapped(self, year: int, name: str, bounds: Bounds) -> NDArray[np.uint8] | None:
        """A layer of the mosaic (y, x), 255 where there is none."""
        pixel_m = _ground_m(bounds)
        found = self._read(year, lambda epsg: self._level(year, epsg, name, pixel_m), bounds)
        return None if found is None else found[0]

    def _colour(self, year: int, bounds: Bounds) -> ImageData | None:
        """True colour; where there is no imagery, the relief, as on ``map.png``."""
        found = self._quicklook(year, _COLOUR_BANDS, bounds)
        if found is None:
            return None
        seen = np.isfinite(found).all(axis=0)
        picture = np.zeros((4, *seen.shape), np.uint8)
        if not seen.all():
            relief = self._relief(year, bounds)
            if relief is not None:
                picture[:] = np.asarray(relief.data)
        picture[:3, seen] = np.rint(255 * stretch(found[:, seen], *self.contrast))
        picture[3, seen] = 255
        return ImageData(picture)

    def _relief(self, year: int, bounds: Bounds) -> ImageData | None:
        """Shaded elevation, from one pixel more around, so that tiles fit together."""
        west, south, east, north = bounds
        pixel = (east - west) / TILE_PX
        around = (west - pixel, south - pixel, east + pixel, north + pixel)
        found = self._quicklook(year, _RELIEF_BAND, around, TILE_PX + 2)
        if found is None:
            return None
        shade = hillshade(found[0], _ground_m(bounds))[1:-1, 1:-1]
        known = np.isfinite(shade)
        picture = np.zeros((4, *shade.shape), np.uint8)
        picture[:3, known] = np.rint(255 * (0.25 + 0.75 * shade[known]))
        picture[3, known] = 255
        return ImageData(picture)

    def _quicklook(
        self, year: int, bands: Sequence[str], bounds: Bounds, size_px: int = TILE_PX
    ) -> NDArray[np.float32] | None:
        """Bands (band, y, x) of the quicklook, NaN where there is none."""
        return self._read(year, lambda epsg: self._seen(year, epsg, bands), bounds, size_px)

    def _read(
        self, year: int, opened: Callable[[int], Source | None], bounds: Bounds, size_px: int = TILE_PX
    ) -> NDArray[Any] | None:
        """What all zones have within bounds (m, Web Mercator), (band, y, x); None where there is no zone."""

        def part(epsg: int) -> ImageData:
            source = opened(epsg)
            values = None if source is None else source.cut(bounds, size_px)
            if source is None or values is None:
                raise TileOutsideBounds(f"EPSG {epsg}")
            return ImageData(np.ma.MaskedArray(values, mask=source.is_gap(values)))

        try:
            image, _ = mosaic_reader(self._shown.zones.get(year, ()), part, threads=0)
        except EmptyMosaicError:
            return None
        return np.asarray(image.array.data)

    def _level(self, year: int, epsg: int, name: str, pixel_m: float) -> Source:
        """An array of the mosaic, at the coarsest level that is no coarser than pixels of ``pixel_m``."""
        group = self._group(mosaic.store_url_of(self._shown.folders[year]), f"{year}/{epsg}")
        factor = max(f for f in mosaic.factors(group) if f * RESOLUTION_M <= max(pixel_m, RESOLUTION_M))
        array = group[name if factor == 1 else f"{level_name(factor)}/{name}"]
        return Source((array,), _window(group, epsg), factor, mosaic.NODATA)

    def _seen(self, year: int, epsg: int, bands: Sequence[str]) -> Source | None:
        """Bands of the quicklook, which may be deleted once a run is finished."""
        try:
            group = self._group(quicklook.url_of(self._shown.folders[year]), f"{year}/{epsg}")
            return Source(
                tuple(group[band] for band in bands), _window(group, epsg), quicklook.FACTOR, math.nan
            )
        except (FileNotFoundError, KeyError):
            return None

    def _group(self, url: str, path: str) -> zarr.Group:
        with self._opening:
            if (url, path) not in self._groups:
                self._groups[url, path] = zarr.open_group(
                    open_store(url, read_only=True), path=path, mode="r", use_consolidated=False
                )
            return self._groups[url, path]

    @cached_property
    def contrast(self) -> tuple[float, float]:
        """Black and white of all pictures, of every year, so that years can be compared."""
        maps = [(year, epsg) for year, epsgs in self._shown.zones.items() for epsg in epsgs]
        samples = [one for place in maps for one in self._samples(*place, math.ceil(_SAMPLES / len(maps)))]
        values = np.concatenate(samples, axis=0) if samples else np.empty((0, 3), np.float32)
        return contrast(values) if values.size else (0.0, 1.0)

    def _samples(self, year: int, epsg: int, count: int) -> Iterator[NDArray[np.float32]]:
        """Reflectances (n, 3) of some places that are mapped, spread over a zone."""
        coarse, seen = self._level(year, epsg, "label", math.inf), self._seen(year, epsg, _COLOUR_BANDS)
        mapped = np.argwhere(coarse.arrays[0][:] != mosaic.NODATA)
        if seen is None or not len(mapped):
            return
        for place in mapped[np.unique(np.linspace(0, len(mapped) - 1, count + 2).astype(int)[1:-1])]:
            top, left = (int(at) * coarse.factor // seen.factor for at in place)
            cut = seen.read(slice(top, top + _SAMPLE_PX), slice(left, left + _SAMPLE_PX))
            yield cut[:, np.isfinite(cut).all(axis=0)].T


def _window(group: zarr.Group, epsg: int) -> Window:
    attributes: dict[str, Any] = group.attrs.asdict()
    return Window(epsg, *(int(value) for value in attributes["cryoscale:window"]))


def _within(start: float, stop: float, size: int) -> slice:
    """Pixels from start to stop and two beyond, as far as there are any."""
    return slice(max(math.floor(start) - 2, 0), min(math.ceil(stop) + 2, size))


def _painted(values: NDArray[np.uint8], colours: NDArray[np.uint8]) -> ImageData:
    return ImageData(np.moveaxis(colours[values], -1, 0))


def _ground_m(bounds: Bounds) -> float:
    """A tile's pixel on the ground: Web Mercator stretches by 1 / cos(latitude)."""
    west, south, east, north = bounds
    latitude = 2 * math.atan(math.exp((south + north) / 2 / 6378137.0)) - math.pi / 2
    return (east - west) / TILE_PX * math.cos(latitude)
