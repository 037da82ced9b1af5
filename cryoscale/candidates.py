"""Which blocks can hold ice at all: known outlines, and coarse looks at elevation, slope and snow.

Each condition is necessary, not sufficient: a block stays where one coarse pixel of it may meet all of
them, and whatever is not known of a pixel counts in its favour, so that nothing is dropped in doubt. Snow
and ice is what any scene of any year shows; debris-covered tongues have no such signal and lie beside ice
that has, hence the mask is grown by ``ndsi_reach_m`` over the edges of blocks.

Elevation and bands are read at 80 m, from the overviews that files of 10, 20 and 30 m have, a part of the
zone at a time: memory is that of one part, whatever the region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from cryoscale.errors import AssetReadError
from cryoscale.features.terrain import slope_aspect
from cryoscale.grid import RESOLUTION_M, Block, Window
from cryoscale.read.assets import BANDS
from cryoscale.read.band import asset_spec, cloud_pct, footprint_deg, opened, without_fill
from cryoscale.read.composite import clear_mask
from cryoscale.read.lattice import ArraySource, mosaics
from cryoscale.read.metered import NOTHING, Cost
from cryoscale.read.raster import UnreadableError
from cryoscale.read.sample import fetch, resample
from cryoscale.read.session import bounds_deg, touches
from cryoscale.region import ZoneRegion
from cryoscale.settings import CoarseLimits, Settings

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox
    from pystac import Item

COARSE_PX = 8
"""Pixels from one coarse pixel to the next, 80 m: it divides every block, and is an overview of all bands."""

PART_PX = 512 * COARSE_PX
"""Edge of the part of a zone that is looked at in one go, pixels: 41 km, 1 MB a coarse band."""

_COARSE_M = COARSE_PX * RESOLUTION_M
_READ_THREADS = 8

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """The blocks of a zone that are mapped, and why the others are not.

    Attributes:
        blocks: to be mapped, row by row.
        dropped: the others with the reason: outlines, elevation, slope, ndsi, or jointly where each is met
            somewhere and nowhere together.
        in_doubt: how many of ``blocks`` stay only because something was not to be seen.
        notes: a line for each coarse source that could not be read.
        cost: what looking took.
    """

    blocks: list[Block]
    dropped: dict[Block, str] = field(default_factory=dict)
    in_doubt: int = 0
    notes: tuple[str, ...] = ()
    cost: Cost = NOTHING


def candidate_blocks(settings: Settings, items: Mapping[str, Sequence[Item]], zone: ZoneRegion) -> Selection:
    """The blocks of ``zone`` that can hold ice by the settings' conditions.

    What cannot be read now counts as not known: the run must therefore keep the answer that it began with.

    Args:
        settings: of the run.
        items: what was found, by ``<year>/<modality>``.
        zone: the zone's part of the region.
    """
    every = zone.blocks(settings.block_px)
    near = every
    if settings.candidates is not None:
        among = set(ZoneRegion(zone.epsg, settings.candidates).blocks(settings.block_px))
        near = [block for block in every if block in among]
    dropped = dict.fromkeys(set(every) - set(near), "outlines")
    limits = settings.coarse
    if limits is None:
        return Selection(near, dropped)
    terrain = _unique(items, "terrain") if limits.looks_at_terrain else []
    optical = _unique(items, "optical") if limits.min_ndsi is not None else []
    notes, costs = dict[str, str](), list[Cost]()
    doubtful = 0
    with ThreadPoolExecutor(_READ_THREADS, "coarse") as pool:
        looker = _Looker(limits, zone, terrain, optical, pool, notes, costs)
        for blocks in _parts(near):
            verdicts = looker.judge(blocks)
            dropped |= {block: told for block, told in verdicts.items() if told not in ("", _DOUBT)}
            doubtful += sum(told == _DOUBT for told in verdicts.values())
    kept = [block for block in near if block not in dropped]
    told = tuple(f"{name}: {cause}" for name, cause in notes.items())
    return Selection(kept, dropped, doubtful, told, sum(costs, NOTHING))


_DOUBT = "doubt"


def _unique(items: Mapping[str, Sequence[Item]], modality: str) -> list[Item]:
    """Items of a modality in all years, those with least cloud first: they settle most."""
    found = {i.id: i for key, some in items.items() if key.endswith(f"/{modality}") for i in some}
    return sorted(found.values(), key=lambda i: (np.nan_to_num(cloud_pct(i), nan=101.0), i.id))


def _parts(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Blocks that lie together, a part of the zone at a time."""
    parts: dict[tuple[int, int], list[Block]] = {}
    for block in blocks:
        many = max(PART_PX // block.size_px, 1)
        parts.setdefault((block.row // many, block.col // many), []).append(block)
    yield from parts.values()


def _around(blocks: Sequence[Block]) -> Window:
    rows, cols = [b.row for b in blocks], [b.col for b in blocks]
    size = blocks[0].size_px
    height, width = (max(rows) - min(rows) + 1) * size, (max(cols) - min(cols) + 1) * size
    return Window(blocks[0].epsg, min(rows) * size, min(cols) * size, height, width)


@dataclass(frozen=True)
class _Looker:
    """Looks at one part of a zone after the other."""

    limits: CoarseLimits
    zone: ZoneRegion
    terrain: Sequence[Item]
    optical: Sequence[Item]
    pool: ThreadPoolExecutor
    notes: dict[str, str]
    costs: list[Cost]
    """Of each look, by whichever thread."""

    def judge(self, blocks: Sequence[Block]) -> dict[Block, str]:
        """For each block the condition that it fails, nothing where it is met, or that it is in doubt."""
        reach = round(self.limits.ndsi_reach_m / _COARSE_M) if self.limits.min_ndsi is not None else 0
        inner = _around(blocks)
        window = inner.pad((reach + 1) * COARSE_PX)
        grid = coarse_grid(window)
        around = bounds_deg(window)
        cut = {b: _coarse_slices(b.window, window) for b in blocks}
        inside = self._inside(window, grid)
        met: dict[str, Mask] = {}
        sure: dict[str, Mask] = {}
        for name, possible, known in self._terrain(grid, around):
            met[name], sure[name] = possible, known
        if self.limits.min_ndsi is not None:
            ground = np.logical_and.reduce([inside, *met.values()])
            met["ndsi"], sure["ndsi"] = self._snow(grid, around, reach, ground, list(cut.values()))
        return {block: _verdict(inside, met, sure, part) for block, part in cut.items()}

    def _inside(self, window: Window, grid: GeoBox) -> Mask:
        """Coarse pixels that may hold a pixel of the region; no other is mapped."""
        west, _, _, north = window.bounds_m
        height, width = grid.shape
        x = west + (np.arange(width) + 0.5) * _COARSE_M
        y = north - (np.arange(height) + 0.5) * _COARSE_M
        shape = self.zone.projected()
        shapely.prepare(shape)
        return _grown(shapely.contains_xy(shape, *np.meshgrid(x, y)), 1)

    def _terrain(
        self, grid: GeoBox, around: tuple[float, float, float, float]
    ) -> Iterator[tuple[str, Mask, Mask]]:
        """(condition, where it may be met, where that is known) by the elevation model."""
        if not self.limits.looks_at_terrain:
            return
        elevation = self._elevation(grid, around)
        if self.limits.min_elevation_m is not None:
            known = np.isfinite(elevation)
            yield "elevation", ~known | (elevation >= self.limits.min_elevation_m), known
        if self.limits.max_slope_deg is not None:
            slope, _ = slope_aspect(elevation, pixel_m=_COARSE_M)
            known = np.isfinite(slope)
            yield "slope", ~known | (slope <= self.limits.max_slope_deg), known

    def _elevation(self, grid: GeoBox, around: tuple[float, float, float, float]) -> NDArray[np.float32]:
        near = [item for item in self.terrain if touches(footprint_deg(item), around)]
        parts = [part for part in self.pool.map(lambda i: self._part(i, "elevation", grid), near) if part]
        out = np.full(grid.shape, np.nan, np.float32)
        for source in mosaics(parts):
            layer = resample(source, grid, "bilinear")
            if layer is not None:
                np.copyto(out, layer, where=np.isnan(out))
        return out

    def _snow(
        self,
        grid: GeoBox,
        around: tuple[float, float, float, float],
        reach: int,
        ground: Mask,
        parts: Sequence[tuple[slice, slice]],
    ) -> tuple[Mask, Mask]:
        """Where snow or ice may lie within reach, and where that is known."""
        least = self.limits.min_ndsi if self.limits.min_ndsi is not None else -1.0
        shown, looked = np.zeros(grid.shape, bool), np.zeros(grid.shape, bool)
        for item in self.optical:
            if not touches(footprint_deg(item), around):
                continue
            found = self._index(item, grid)
            if found is None:
                continue
            index, clear = found
            looked |= clear
            shown |= clear & (index >= least)
            if all((_grown(shown, reach) & ground)[part].any() for part in parts):
                break  # nothing that is left to see could drop a block
        within = _grown(shown, reach)
        return within | _grown(~looked, reach), within | ~_grown(~looked, reach)

    def _index(self, item: Item, grid: GeoBox) -> tuple[NDArray[np.float32], Mask] | None:
        """NDSI of a scene and where it shows the ground; None where it shows nothing here."""
        planes = dict(
            zip(_SNOW_BANDS, self.pool.map(lambda b: self._plane(item, b, grid), _SNOW_BANDS), strict=True)
        )
        green, swir, seen = (planes[band] for band in _SNOW_BANDS)
        if green is None or swir is None:
            return None
        if seen is None and asset_spec(item, "SCL") is not None:
            return None  # without the classification clouds would count as snow, and as looks
        green, swir = np.maximum(green, 0.0), np.maximum(swir, 0.0)
        total = green + swir
        clear = np.isfinite(total) & (total > 0)
        if seen is not None:
            clear &= clear_mask(seen)
        index = np.divide(green - swir, total, out=np.full(total.shape, np.nan, np.float32), where=clear)
        return index, clear

    def _plane(self, item: Item, band: str, grid: GeoBox) -> NDArray[np.float32] | None:
        part = self._part(item, band, grid)
        return None if part is None else resample(part, grid, BANDS[band].resampling)

    def _part(self, item: Item, band: str, grid: GeoBox) -> ArraySource | None:
        """A band's own coarse pixels around the grid, in physical units; what cannot be read is noted."""
        spec = asset_spec(item, band)
        if spec is None:
            return None
        try:
            with opened(spec, coarse_m=_COARSE_M) as (source, scale, offset):
                part = fetch(source, grid)
                self.costs.append(source.cost)
        except (UnreadableError, AssetReadError) as error:
            self.notes[item.id] = str(error).removeprefix(f"{item.id} ")
            return None
        if part is None:
            return None
        part = without_fill(part, spec)
        return ArraySource(part.lattice, part.values * scale + offset)


_SNOW_BANDS = ("B03", "B11", "SCL")


def coarse_grid(window: Window) -> GeoBox:
    """The coarse pixels of a window that begins and ends at whole ones; anchored in the world."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    west, _, _, north = window.bounds_m
    shape = (window.height // COARSE_PX, window.width // COARSE_PX)
    return GeoBox(shape, Affine(_COARSE_M, 0.0, west, 0.0, -_COARSE_M, north), f"EPSG:{window.epsg}")


def _coarse_slices(window: Window, outer: Window) -> tuple[slice, slice]:
    rows, cols = window.slices_in(outer)
    down, across = (slice(s.start // COARSE_PX, s.stop // COARSE_PX) for s in (rows, cols))
    return down, across


def _grown(mask: Mask, reach: int) -> Mask:
    """The mask and all within ``reach`` coarse pixels of it, as the crow flies."""
    if not reach or not mask.any():
        return mask
    found: Mask = ndimage.distance_transform_edt(~mask) <= reach
    return found


def _verdict(
    inside: Mask, met: Mapping[str, Mask], sure: Mapping[str, Mask], part: tuple[slice, slice]
) -> str:
    own = inside[part]
    if not own.any():
        return _DOUBT  # a sliver of the region between coarse pixels
    joint = np.logical_and.reduce([own, *(mask[part] for mask in met.values())])
    if joint.any():
        surely = joint & np.logical_and.reduce([mask[part] for mask in sure.values()])
        return "" if surely.any() else _DOUBT
    failed = [name for name, mask in met.items() if not (own & mask[part]).any()]
    return failed[0] if failed else "jointly"


def described(reason: str, settings: Settings) -> str:
    """Why a block was dropped, for people."""
    limits: Any = settings.coarse or CoarseLimits()
    return {
        "outlines": "no known outline within the buffer",
        "elevation": f"nowhere as high as {limits.min_elevation_m} m",
        "slope": f"everywhere steeper than {limits.max_slope_deg} degrees",
        "ndsi": f"no snow or ice (NDSI {limits.min_ndsi}) within {limits.ndsi_reach_m:g} m in any scene",
        "jointly": "no place that meets all conditions at once",
    }[reason]
