"""What the blocks of a run will fetch: source chunks and bytes, counted from headers without reading pixels.

Modelled is what :func:`cryoscale.read.inputs.read_inputs` does with a block and its halo:

* optical scenes within reach are looked at first, in four coarse bands
  (:mod:`cryoscale.read.choice`), then each near the block is read whole, its classification first;
* of a scene over ``max_cloud_pct`` the bands are read where it hides no more than the limit. How often is not
  known before it is looked at; Markov's inequality gives the most: clear share / (1 - limit);
* that a scene under the limit hides a whole block, so that its bands are not read, does not occur here;
* every other modality is read from all its items near the block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.forecast.layers import Headers, Layer, Scenes, bands_of
from cryoscale.forecast.once import Once, Touched
from cryoscale.forecast.windows import Floats, Ints, Windows, projected
from cryoscale.read.assets import S2_BANDS
from cryoscale.read.band import cloud_pct
from cryoscale.read.choice import CELL_PX, CHOICE_BANDS, REACH_PX, SAMPLE_PX
from cryoscale.read.metered import chunks_along
from cryoscale.read.sample import MARGIN_PX
from cryoscale.settings import Settings

if TYPE_CHECKING:
    from pystac import Item

_SLICE = 8192
"""Blocks that are counted at once: with 60 scenes each, arrays of 4 MB."""


@dataclass
class Fetched:
    """What each of n blocks fetches, over all years: arrays (n,), and totals by period and modality."""

    scenes: Floats
    fetches: Floats
    fetched_bytes: Floats
    bytes_read: Floats
    decoded_bytes: Floats
    by_source: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def none(cls, count: int) -> Fetched:
        """Of blocks that nothing was counted for yet."""
        return cls(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count))

    def add(self, other: Fetched) -> None:
        """Add what the same blocks fetch in another year."""
        for name in ("scenes", "fetches", "fetched_bytes", "bytes_read", "decoded_bytes"):
            getattr(self, name)[:] += getattr(other, name)


@dataclass(frozen=True, eq=False)
class _Cuts:
    """Blocks of one slice as reading sees them: bounds in degrees, and nodes by CRS."""

    windows: Windows
    bounds_deg: Floats
    nodes_m: Floats
    _by_crs: dict[str, Floats] = field(default_factory=dict)

    def nodes(self, crs: str) -> Floats:
        """Bounds (n, 4) of the nodes in ``crs``."""
        if crs not in self._by_crs:
            self._by_crs[crs] = projected(self.nodes_m, f"EPSG:{self.windows.epsg}", crs)
        return self._by_crs[crs]


@dataclass(eq=False)
class Sources:
    """What a run reads from, as far as it is known before the run."""

    settings: Settings
    items: Mapping[str, Sequence[Item]]
    """By period and modality."""
    headers: Headers
    _scenes: dict[str, Scenes] = field(default_factory=dict)
    _once: dict[tuple[int, str], Once] = field(default_factory=dict)

    def of_year(self, year: int) -> dict[str, Scenes]:
        """Scenes of a year and of none, by period and modality."""
        for key, items in self.items.items():
            period, modality = key.split("/")
            if period in (str(year), "all") and items and key not in self._scenes:
                stored = self.headers.stored.get(modality)
                if stored is not None:
                    self._scenes[key] = Scenes.of(items, bands_of(modality, self.settings), stored)
        return {key: some for key, some in self._scenes.items() if key.split("/")[0] in (str(year), "all")}

    def once(self, year: int, key: str) -> Once:
        """Where to note which chunks the blocks of a year touch, of whichever zone."""
        return self._once.setdefault((year, key), Once())

    @property
    def distinct_bytes(self) -> float:
        """Of all chunks that are noted, each once a year, as they are stored."""
        total = 0.0
        for (_, key), once in self._once.items():
            if key.endswith("/optical"):
                total += once.stored_bytes(_shares_read(self.settings, self._scenes[key]))
            else:
                total += once.stored_bytes() * (2.0 if key == VELOCITY else 1.0)
        return total


VELOCITY = "velocity"
"""The Zarr of velocities, with two arrays that lie alike."""


def count(sources: Sources, outer: Windows, year: int, into: Fetched) -> None:
    """Add to ``into`` what blocks fetch in ``year`` that read ``outer``, all halos included."""
    settings, headers, wanted = sources.settings, sources.headers, sources.of_year(year)
    for start in range(0, len(outer), _SLICE):
        part = slice(start, start + _SLICE)
        windows = outer[part]
        cuts = _Cuts(windows, windows.bounds_deg(), windows.nodes_m())
        for key, scenes in wanted.items():
            modality = key.split("/")[1]
            add, once = _adder(into, part, key), sources.once(year, key)
            if modality == "optical":
                looks = _is_ranked(settings, scenes.items)
                _optical(settings, scenes, cuts, add, once, looks=looks)
            else:
                window, item = scenes.near(cuts.bounds_deg)
                bands = tuple(scenes.layers)
                _add_bands(scenes, bands, cuts, (window, item), None, add, once, as_scenes=True)
        if headers.velocity is not None:
            crs, layer = headers.velocity
            every = np.arange(len(windows))
            touched = sources.once(year, VELOCITY).touched([layer], looks=False)
            found = _cut(layer, cuts.nodes(crs), every, np.zeros(len(windows), np.int64), [layer], touched)
            _adder(into, part, f"{year}/velocity")(every, found * np.array([[2.0]] * 4), None)


_Add = Callable[[Ints, Floats, "Floats | None"], None]


def _adder(into: Fetched, part: slice, key: str) -> _Add:
    """Adds rows (fetches, fetched bytes, bytes cut, bytes decoded; k) of k pairs to their blocks."""
    totals = into.by_source.setdefault(key, {"fetches": 0.0, "fetched_bytes": 0.0, "bytes_read": 0.0})

    def add(window: Ints, found: Floats, scenes: Floats | None) -> None:
        arrays = (into.fetches, into.fetched_bytes, into.bytes_read, into.decoded_bytes)
        for array, values in zip(arrays, found, strict=True):
            view = array[part]
            view += np.bincount(window, values, len(view))
        for name, values in zip(totals, found, strict=False):
            totals[name] += float(values.sum())
        if scenes is not None:
            view = into.scenes[part]
            view += np.bincount(window, scenes, len(view))

    return add


def _is_ranked(settings: Settings, items: Sequence[Item]) -> bool:
    """Whether scenes are looked at before they are read: a median of clear ones needs no rank."""
    limit = settings.sources["optical"].max_cloud_pct
    cloudy = limit is not None and any(cloud_pct(item) > limit for item in items)
    return cloudy or settings.sources["optical"].composite != "median"


def _shares_read(settings: Settings, scenes: Scenes) -> Floats:
    """How much of each scene's bands is read at most, by its clouds."""
    limit = settings.sources["optical"].max_cloud_pct
    if limit is None or limit >= 100.0:
        return np.ones(len(scenes.items))
    clear = np.minimum((100.0 - scenes.cloud_pct) / (100.0 - limit), 1.0)
    return np.where(scenes.cloud_pct > limit, clear, 1.0)


def _optical(settings: Settings, scenes: Scenes, cuts: _Cuts, add: _Add, once: Once, *, looks: bool) -> None:
    if looks:
        windows = cuts.windows
        around = windows.pad(REACH_PX).bounds_deg()
        half = CELL_PX // 2
        row, col = (windows.row - half) // CELL_PX, (windows.col - half) // CELL_PX
        bottom = (windows.row + windows.height - 1 + half) // CELL_PX + 1
        right = (windows.col + windows.width - 1 + half) // CELL_PX + 1
        cells = Windows(
            windows.epsg, row * CELL_PX, col * CELL_PX, (bottom - row) * CELL_PX, (right - col) * CELL_PX
        )
        grid = _Cuts(windows, cuts.bounds_deg, cells.nodes_m(SAMPLE_PX))
        _add_bands(scenes, CHOICE_BANDS, grid, scenes.near(around), None, add, once, looks=True)
    near = scenes.near(cuts.bounds_deg)
    share = _shares_read(settings, scenes)
    _add_bands(scenes, ("SCL", *S2_BANDS), cuts, near, share, add, once, as_scenes=True)


def _add_bands(
    scenes: Scenes,
    bands: Sequence[str],
    cuts: _Cuts,
    pairs: tuple[Ints, Ints],
    share: Floats | None,
    add: _Add,
    once: Once,
    *,
    looks: bool = False,
    as_scenes: bool = False,
) -> None:
    """Count ``bands`` of each (window, item) pair; those that lie alike are counted once."""
    window, item = pairs
    alike: dict[tuple[Any, ...], list[Layer]] = {}
    for band in bands:
        if band in scenes.layers:
            layer = scenes.layers[band]
            key = (layer.affine.tobytes(), layer.shape.tobytes(), layer.chunk_px)
            alike.setdefault(key, []).append(layer)
    seen = np.zeros(len(window), bool)
    for number, crs in enumerate(scenes.crs):
        chosen = np.flatnonzero(scenes.crs_of[item] == number)
        if not len(chosen):
            continue
        own, theirs = window[chosen], item[chosen]
        for layers in alike.values():
            touched = once.touched(layers, looks=looks)
            found = _cut(layers[0], _nodes_for(crs, layers[0], cuts), own, theirs, layers, touched)
            if share is not None:
                found = found * share[theirs]
            add(own, found, None)
            seen[chosen] |= found[0] > 0
    if as_scenes:
        add(window, np.zeros((4, len(window))), seen.astype(np.float64))


def _nodes_for(crs: str, layer: Layer, cuts: _Cuts) -> Floats:
    return cuts.nodes(crs or "EPSG:4326")


def _cut(
    layer: Layer, nodes: Floats, window: Ints, item: Ints, layers: Sequence[Layer], touched: Touched
) -> Floats:
    """Fetches, fetched bytes, bytes cut and bytes decoded (4, k) of k pairs of windows and items."""
    a, c, e, f = layer.affine[item].T
    height, width = layer.shape[item].T
    west, south, east, north = nodes[window].T
    safe_a, safe_e = np.where(a == 0.0, 1.0, a), np.where(e == 0.0, 1.0, e)
    if np.abs(safe_a).max(initial=0.0) < 1.0:  # degrees: on the item's own turn of the globe
        turn = 360.0 * np.round((c + a * width / 2 - (west + east) / 2) / 360.0)
        west, east = west + turn, east + turn
    first_x, last_x = (west - c) / safe_a, (east - c) / safe_a
    first_y, last_y = (north - f) / safe_e, (south - f) / safe_e
    left = np.maximum(np.floor(np.minimum(first_x, last_x)) - MARGIN_PX, 0).astype(np.int64)
    right = np.minimum(np.ceil(np.maximum(first_x, last_x)) + MARGIN_PX, width).astype(np.int64)
    top = np.maximum(np.floor(np.minimum(first_y, last_y)) - MARGIN_PX, 0).astype(np.int64)
    bottom = np.minimum(np.ceil(np.maximum(first_y, last_y)) + MARGIN_PX, height).astype(np.int64)
    apart = (left >= right) | (top >= bottom)
    chunk_rows, chunk_cols = layer.chunk_px
    down, across = chunks_along(top, bottom, chunk_rows), chunks_along(left, right, chunk_cols)
    chunks = np.where(apart, 0, down * across)
    total = np.zeros((4, len(window)))
    box = (top // chunk_rows, left // chunk_cols, top // chunk_rows + down, left // chunk_cols + across)
    touched.add(item[~apart], tuple(edge[~apart] for edge in box))
    for one in layers:
        total[0] += chunks
        total[1] += _stored(one, item, chunks, box)
        total[2] += np.where(apart, 0, (bottom - top) * (right - left)) * one.itemsize
        total[3] += chunks * (chunk_rows * chunk_cols * one.itemsize)
    return total


def _stored(layer: Layer, item: Ints, chunks: Ints, box: tuple[Ints, Ints, Ints, Ints]) -> Floats:
    stored = chunks * layer.chunk_bytes
    known = layer.known[item]
    for number, table in enumerate(layer.tables):
        chosen = np.flatnonzero((known == number) & (chunks > 0))
        if len(chosen):
            top, left, bottom, right = (edge[chosen] for edge in box)
            stored[chosen] = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return np.asarray(stored, np.float64)
