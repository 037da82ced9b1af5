"""Map tiles of a finished run: true colour, relief, classes and confidence in Web Mercator.

rio-tiler (https://cogeotiff.github.io/rio-tiler/) cuts, warps and encodes. What it cuts from is the level of
the mosaic whose pixels are next finer than the tile's, so that a tile reads about as many pixels as it has,
wherever one looks from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
import zarr
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from rio_tiler.constants import WEB_MERCATOR_CRS, WEB_MERCATOR_TMS
from rio_tiler.errors import EmptyMosaicError, TileOutsideBounds
from rio_tiler.io.xarray import XarrayReader
from rio_tiler.models import ImageData
from rio_tiler.mosaic import mosaic_reader

from cryoscale.grid import RESOLUTION_M
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
ZOOMS = {"colour": (8, 13), "relief": (8, 13), "classes": (0, 14), "confidence": (0, 14)}
"""Closest and farthest zoom that is drawn; the page stretches the last. Below 8 the quicklook, which has no
levels, would cost a tile more than 10 million of its pixels."""

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
    return {
        value: (*(round(255 * part) for part in to_rgb(colour)), round(255 * opacity))
        for value, (_, colour, opacity) in CLASS_STYLE.items()
    }


def confidence_colours(count: int = FULL + 1) -> list[tuple[int, int, int, int]]:
    """Red, green, blue, opacity of ``count`` even steps of confidence from 0 to 1."""
    scale = matplotlib.colormaps[CONFIDENCE_SCALE](np.linspace(0, 1, count), bytes=True)
    return [(int(r), int(g), int(b), 255) for r, g, b, _ in scale]


class Tiles:
    """Draws tiles; may be asked from many threads at once."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._opening = Lock()
        self._arrays: dict[tuple[Any, ...], xr.DataArray] = {}

    def draw(self, layer: str, year: int, tile: tuple[int, int, int]) -> bytes | None:
        """A tile (zoom, column, row) of 512 px; None where no map of that year is, or no such zoom.

        Classes and confidence are PNG, so that their colours are exact; pictures are WebP, a fifth the size.
        """
        zoom, column, row = tile
        low, high = ZOOMS[layer]
        if not (low <= zoom <= high and 0 <= column < 2**zoom and 0 <= row < 2**zoom):
            return None
        bounds: Bounds = tuple(WEB_MERCATOR_TMS.xy_bounds(column, row, zoom))
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
        found = self._read(
            year, lambda epsg: self._level(year, epsg, name, pixel_m), bounds, "nearest", nodata=mosaic.NODATA
        )
        return None if found is None else found.array.filled(mosaic.NODATA)[0]

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
        layers = []
        for band in bands:
            found = self._read(
                year, lambda epsg, band=band: self._seen(year, epsg, band), bounds, "bilinear", size_px  # type: ignore[misc]
            )
            if found is None:
                return None
            layers.append(found.array.filled(np.nan)[0])
        return np.stack(layers).astype(np.float32)

    def _read(
        self,
        year: int,
        opened: Callable[[int], xr.DataArray | None],
        bounds: Bounds,
        method: str,
        size_px: int = TILE_PX,
        nodata: float = math.nan,
    ) -> ImageData | None:
        """The part of all zones within bounds (m, Web Mercator); None where there is no zone."""

        def part(epsg: int) -> ImageData:
            data = opened(epsg)
            if data is None:
                raise TileOutsideBounds(f"EPSG {epsg}")
            reader = XarrayReader(data)
            west, south, east, north = reader.get_geographic_bounds(WEB_MERCATOR_CRS)
            if bounds[2] <= west or bounds[0] >= east or bounds[3] <= south or bounds[1] >= north:
                raise TileOutsideBounds(f"EPSG {epsg}")
            return reader.part(
                bounds,
                dst_crs=WEB_MERCATOR_CRS,
                bounds_crs=WEB_MERCATOR_CRS,
                reproject_method=method,
                height=size_px,
                width=size_px,
                nodata=nodata,
            )

        try:
            image, _ = mosaic_reader(self._shown.zones.get(year, ()), part, threads=0)
        except EmptyMosaicError:
            return None
        return image

    def _level(self, year: int, epsg: int, name: str, pixel_m: float) -> xr.DataArray:
        """An array of the mosaic, at the coarsest level that is no coarser than pixels of ``pixel_m``."""
        factor = max((f for f in self._factors(year, epsg) if f * RESOLUTION_M <= max(pixel_m, RESOLUTION_M)))
        url = mosaic.store_url_of(self._shown.folders[year])
        return self._open(url, f"{year}/{epsg}/{level_name(factor)}".removesuffix("/."), name, epsg)

    @lru_cache(maxsize=256)  # noqa: B019 - one server has one of these, for as long as it runs
    def _factors(self, year: int, epsg: int) -> list[int]:
        url = mosaic.store_url_of(self._shown.folders[year])
        return mosaic.factors(zarr.open_group(open_store(url, read_only=True), path=f"{year}/{epsg}", mode="r"))

    def _seen(self, year: int, epsg: int, band: str) -> xr.DataArray | None:
        try:
            return self._open(quicklook.url_of(self._shown.folders[year]), f"{year}/{epsg}", band, epsg)
        except (FileNotFoundError, KeyError):
            return None  # it may be deleted once a run is finished

    def _open(self, url: str, path: str, name: str, epsg: int) -> xr.DataArray:
        """An array of a store, read where it is cut; opened once."""
        key = (url, path, name)
        with self._opening:
            if key not in self._arrays:
                dataset = xr.open_zarr(
                    open_store(url, read_only=True),
                    group=path,
                    consolidated=False,
                    chunks=None,
                    mask_and_scale=False,
                )
                self._arrays[key] = dataset[name].rio.write_crs(f"EPSG:{epsg}")
            return self._arrays[key]

    @cached_property
    def contrast(self) -> tuple[float, float]:
        """Black and white of all pictures, of every year, so that years can be compared."""
        samples = [
            sample for year, epsgs in self._shown.zones.items() for epsg in epsgs for sample in self._samples(year, epsg)
        ]
        values = np.concatenate(samples, axis=0) if samples else np.empty((0, 3), np.float32)
        return contrast(values) if values.size else (0.0, 1.0)

    def _samples(self, year: int, epsg: int) -> list[NDArray[np.float32]]:
        """Reflectances (n, 3) of some places that are mapped, spread over a zone."""
        coarse = self._level(year, epsg, "label", math.inf)
        mapped = np.argwhere(coarse.values != mosaic.NODATA)
        bands = [band for name in _COLOUR_BANDS if (band := self._seen(year, epsg, name)) is not None]
        if not len(mapped) or len(bands) < len(_COLOUR_BANDS):
            return []
        kept = np.unique(np.linspace(0, len(mapped) - 1, min(len(mapped), _SAMPLES)).astype(int))
        found = []
        for row, col in mapped[kept]:
            top, left = (
                int(at * size / levels)
                for at, size, levels in zip((row, col), bands[0].shape, coarse.shape, strict=True)
            )
            place = (slice(top, top + _SAMPLE_PX), slice(left, left + _SAMPLE_PX))
            cut = np.stack([band[place].values for band in bands], axis=-1)
            found.append(cut[np.isfinite(cut).all(axis=-1)])
        return found


def _painted(values: NDArray[np.uint8], colours: NDArray[np.uint8]) -> ImageData:
    return ImageData(np.moveaxis(colours[values], -1, 0))


def _ground_m(bounds: Bounds) -> float:
    """A tile's pixel on the ground: Web Mercator stretches by 1 / cos(latitude)."""
    west, south, east, north = bounds
    latitude = 2 * math.atan(math.exp((south + north) / 2 / 6378137.0)) - math.pi / 2
    return (east - west) / TILE_PX * math.cos(latitude)
