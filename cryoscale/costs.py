"""What the blocks of a run will fetch: source chunks and bytes, counted from headers without reading pixels.

Modelled is what :func:`cryoscale.read.inputs.read_inputs` does with a block and its halo:

* optical scenes within reach are looked at first, in four coarse bands
  (:mod:`cryoscale.read.choice`), then each near the block is read whole, its classification first;
* of a scene over ``max_cloud_pct`` the bands are read where it hides no more than the limit. How often is not
  known before it is looked at; Markov's inequality gives the most: clear share / (1 - limit);
* that a scene under the limit hides a whole block, so that its bands are not read, does not occur here;
* every other modality is read from all its items near the block.

How a band is stored is taken from the headers of a few items of its collection. Where an item says where
its pixels lie (``proj:transform``, ``proj:shape``), or was among the few, its chunks are counted exactly;
else its bbox stands for them. An item on the grid of one of the few has that one's bytes chunk by chunk, any
other their mean a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from cryoscale.errors import AssetReadError, SourceError
from cryoscale.grid import Window
from cryoscale.read import velocity
from cryoscale.read.assets import S2_BANDS, asset_of
from cryoscale.read.band import asset_spec, cloud_pct, footprint_deg
from cryoscale.read.choice import CELL_PX, CHOICE_BANDS, REACH_PX, SAMPLE_PX
from cryoscale.read.metered import Cost, chunks_along
from cryoscale.read.raster import UnreadableError
from cryoscale.read.sample import MARGIN_PX, Lattice
from cryoscale.read.storage import Storage, storage_of
from cryoscale.settings import Settings
from cryoscale.windows import Floats, Ints, Windows, projected

if TYPE_CHECKING:
    from pystac import Item

SAMPLED_ITEMS = 6
"""Items of a collection whose headers are looked at."""

_SLICE = 8192
"""Blocks that are counted at once: with 60 scenes each, arrays of 4 MB."""

_METRES_A_DEGREE = 111_320.0

_BANDS: Mapping[str, tuple[str, ...]] = {
    "terrain": ("elevation",),
    "thermal": ("LST", "QA_PIXEL"),
    "insar": ("coherence", "slc1", "slc2", "phase"),
    "radar": ("backscatter_vv", "backscatter_vh"),
    "velocity": ("vx", "vy"),
}


def bands_of(modality: str, settings: Settings) -> tuple[str, ...]:
    """What a block reads of each item of a modality."""
    if modality == "optical":
        return ("SCL", *S2_BANDS)
    uncertain = modality == "thermal" and settings.sources["thermal"].max_uncertainty_k is not None
    return (*_BANDS[modality], "LST_uncertainty") if uncertain else _BANDS[modality]


@dataclass(frozen=True, eq=False)
class Stored:
    """How the bands of one modality are stored, as far as its sampled items say.

    Attributes:
        by_item: (item id, band) to what its header says.
        lost: (item id, cause) of those that could not be read.
    """

    by_item: Mapping[tuple[str, str], Storage]
    lost: tuple[tuple[str, str], ...] = ()

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """Those that any header was read of."""
        return tuple(sorted({band for _, band in self.by_item}))

    def of_band(self, band: str) -> list[Storage]:
        """All that is known of a band."""
        return [storage for (_, name), storage in self.by_item.items() if name == band]


@dataclass(frozen=True, eq=False)
class Headers:
    """How all modalities are stored; ``velocity`` is the Zarr's CRS and layer, where there is one."""

    stored: Mapping[str, Stored]
    velocity: tuple[str, _Layer] | None

    @property
    def lost(self) -> list[tuple[str, str]]:
        """(item id, cause) of the headers that could not be read."""
        return [line for stored in self.stored.values() for line in stored.lost]


def look_at_headers(settings: Settings, items: Mapping[str, Sequence[Item]], middle: Window) -> Headers:
    """Headers of a few items a modality, spread over all that were found; the velocity Zarr at ``middle``.

    Raises:
        SourceError: no header of the optical collection can be read, or the velocity store is not one.
    """
    found: dict[str, Stored] = {}
    with ThreadPoolExecutor(8, "headers") as pool:
        for modality in settings.sources:
            every = {i.id: i for key, some in items.items() if key.endswith(f"/{modality}") for i in some}
            if every:
                found[modality] = _sampled(list(every.values()), bands_of(modality, settings), pool)
    optical = found.get("optical")
    if optical is not None and not optical.by_item and optical.lost:
        raise SourceError(
            f"optical scenes of which no header can be read ({optical.lost[0][0]}: {optical.lost[0][1]})",
            "scenes that can be reached",
            "mend the source or the log-in, or start again later",
        )
    return Headers(found, _velocity_layer(settings, middle))


def _sampled(items: Sequence[Item], bands: Sequence[str], pool: ThreadPoolExecutor) -> Stored:
    count = min(SAMPLED_ITEMS, len(items))
    chosen = [items[n * len(items) // count] for n in range(count)]
    specs = [(i.id, band, asset_spec(i, band)) for i in chosen for band in bands]
    wanted = [(item, band, spec) for item, band, spec in specs if spec is not None]

    def look(spec: Any) -> Storage | Exception:
        try:
            return storage_of(spec)
        except (UnreadableError, AssetReadError) as error:
            return error

    answers = list(zip(wanted, pool.map(look, [spec for *_, spec in wanted]), strict=True))
    lost = {item: str(told) for (item, _, _), told in answers if isinstance(told, Exception)}
    return Stored(
        {(item, band): told for (item, band, _), told in answers if isinstance(told, Storage)},
        tuple(lost.items()),
    )


# --- where the pixels of many items lie ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Layer:
    """One band of all items, as arrays (m,); an item without it has no rows.

    ``affine`` is (m, 4): a, c, e, f. ``known`` numbers the table of chunks in ``tables``, -1 for none.
    """

    affine: Floats
    shape: Ints
    chunk_px: tuple[int, int]
    itemsize: int
    chunk_bytes: float
    known: Ints
    tables: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True, eq=False)
class Scenes:
    """The items of one modality and period: footprints, CRS, and a layer a band."""

    items: Sequence[Item]
    footprints: Floats
    crs: tuple[str, ...]
    crs_of: Ints
    layers: Mapping[str, _Layer]
    cloud_pct: Floats
    tree: Any = field(repr=False)

    @classmethod
    def of(cls, items: Sequence[Item], bands: Sequence[str], stored: Stored) -> Scenes:
        """Arrays of ``items``, their bands as ``stored`` says."""
        footprints = np.array([footprint_deg(item) for item in items], np.float64).reshape(-1, 4)
        layers = {}
        place = [_place(item, stored) for item in items]
        for band in bands:
            known = stored.of_band(band)
            if known:
                layers[band] = _layer(items, place, band, stored, known)
        names = sorted({crs for crs, _ in place})
        numbers = np.array([names.index(crs) for crs, _ in place], np.int64)
        clouds = np.array([cloud_pct(item) for item in items], np.float64)
        tree = shapely.STRtree(shapely.box(*footprints.T))
        return cls(items, footprints, tuple(names), numbers, layers, clouds, tree)

    def near(self, bounds_deg: Floats) -> tuple[Ints, Ints]:
        """(window, item) of each pair of which the boxes touch, on any turn of the globe."""
        pairs = []
        for turn in (-360.0, 0.0, 360.0):
            boxes = bounds_deg + np.array([turn, 0.0, turn, 0.0])
            hit = self.tree.query(shapely.box(*boxes.T))
            pairs.append(hit)
        window, item = np.unique(np.concatenate(pairs, axis=1), axis=1)
        return window, item


def _place(item: Item, stored: Stored) -> tuple[str, dict[str, Any]]:
    """CRS and projection properties of an item; its CRS is empty where neither it nor a header says so."""
    given = dict(item.properties)
    for asset in item.assets.values():
        for name in ("proj:code", "proj:epsg"):
            if name not in given and name in asset.extra_fields:
                given[name] = asset.extra_fields[name]
    for band in stored.bands:
        if (item.id, band) in stored.by_item:
            return stored.by_item[item.id, band].lattice.crs, given
    code = given.get("proj:code") or given.get("proj:epsg")
    return ("" if code is None else f"EPSG:{str(code).removeprefix('EPSG:')}"), given


def _layer(
    items: Sequence[Item],
    place: Sequence[tuple[str, dict[str, Any]]],
    band: str,
    stored: Stored,
    known: Sequence[Storage],
) -> _Layer:
    first = known[0]
    tables: dict[tuple[Any, ...], list[NDArray[np.int64]]] = {}
    for storage in known:
        tables.setdefault(_key(storage.lattice), []).append(storage.stored_bytes)
    numbers = {key: number for number, key in enumerate(tables)}
    affine, shape = np.zeros((len(items), 4)), np.zeros((len(items), 2), np.int64)
    which = np.full(len(items), -1, np.int64)
    for number, item in enumerate(items):
        lattice = _lattice(item, band, place[number], stored, first)
        if lattice is None:
            continue
        a, _, c, _, e, f = lattice.affine
        affine[number], shape[number] = (a, c, e, f), (lattice.height, lattice.width)
        which[number] = numbers.get(_key(lattice), -1)
    return _Layer(
        affine,
        shape,
        first.chunk_px,
        first.itemsize,
        float(np.mean([storage.stored_bytes.mean() for storage in known])),
        which,
        tuple(_summed(np.mean(same, axis=0)) for same in tables.values()),
    )


def _key(lattice: Lattice) -> tuple[Any, ...]:
    return (*(round(v, 6) for v in lattice.affine), lattice.height, lattice.width)


def _summed(table: NDArray[Any]) -> NDArray[Any]:
    """Sums over all chunks above and left: four look-ups give the bytes under any cut."""
    out = np.zeros((table.shape[0] + 1, table.shape[1] + 1))
    out[1:, 1:] = table.cumsum(axis=0).cumsum(axis=1)
    return out


def _lattice(
    item: Item, band: str, place: tuple[str, dict[str, Any]], stored: Stored, like: Storage
) -> Lattice | None:
    """Where an item's band lies: by its header, by what the item says, or by its bbox."""
    asset = asset_of(item, band)
    if asset is None:
        return None
    own = stored.by_item.get((item.id, band))
    if own is not None:
        return own.lattice
    crs, given = place
    transform = asset.extra_fields.get("proj:transform", given.get("proj:transform"))
    shape = asset.extra_fields.get("proj:shape", given.get("proj:shape"))
    if crs and transform and shape and not (transform[1] or transform[3]):
        a, b, c, d, e, f = (float(v) for v in transform[:6])
        return Lattice(crs, (a, b, c, d, e, f), int(shape[0]), int(shape[1]))
    return None if item.bbox is None else _by_bbox(item, crs, like)


def _by_bbox(item: Item, crs: str, like: Storage) -> Lattice:
    west, south, east, north = projected(np.array([footprint_deg(item)]), "EPSG:4326", crs or "EPSG:4326")[0]
    a, _, _, _, e, _ = like.lattice.affine
    if abs(a) > 1.0 and crs in ("", "EPSG:4326"):  # metres, on an item that says degrees
        a = a / (_METRES_A_DEGREE * math.cos(math.radians(min(abs(south + north) / 2.0, 85.0))))
        e = e / _METRES_A_DEGREE
    height, width = round((north - south) / abs(e)), round((east - west) / abs(a))
    return Lattice(crs or "EPSG:4326", (a, 0.0, west, 0.0, e, north), height, width)


# --- counting -------------------------------------------------------------------------------------------


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


def count(
    settings: Settings,
    items: Mapping[str, Sequence[Item]],
    headers: Headers,
    outer: Windows,
    year: int,
    into: Fetched,
) -> None:
    """Add to ``into`` what blocks fetch in ``year`` that read ``outer`` (halo of tiles and features included)."""
    wanted: dict[str, Scenes] = {}
    for key, some in items.items():
        period, modality = key.split("/")
        if period in (str(year), "all") and some and modality in headers.stored:
            wanted[key] = Scenes.of(some, bands_of(modality, settings), headers.stored[modality])
    for start in range(0, len(outer), _SLICE):
        part = slice(start, start + _SLICE)
        windows = outer[part]
        cuts = _Cuts(windows, windows.bounds_deg(), windows.nodes_m())
        for key, scenes in wanted.items():
            modality = key.split("/")[1]
            add = _adder(into, part, key)
            if modality == "optical":
                _optical(settings, scenes, cuts, add)
            else:
                window, item = scenes.near(cuts.bounds_deg)
                _add_bands(scenes, tuple(scenes.layers), cuts, (window, item), None, add, as_scenes=True)
        if headers.velocity is not None:
            crs, layer = headers.velocity
            every = np.arange(len(windows))
            found = _cut(layer, cuts.nodes(crs), every, np.zeros(len(windows), np.int64))
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


def _optical(settings: Settings, scenes: Scenes, cuts: _Cuts, add: _Add) -> None:
    source = settings.sources["optical"]
    limit = source.max_cloud_pct
    cloudy = scenes.cloud_pct > (100.0 if limit is None else limit)
    if (source.composite or "least_snow") != "median" or cloudy.any():
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
        _add_bands(scenes, CHOICE_BANDS, grid, scenes.near(around), None, add)
    share = np.ones(len(scenes.items))
    if limit is not None and limit < 100.0:
        share = np.where(cloudy, np.minimum((100.0 - scenes.cloud_pct) / (100.0 - limit), 1.0), 1.0)
    near = scenes.near(cuts.bounds_deg)
    _add_bands(scenes, ("SCL", *S2_BANDS), cuts, near, share, add, as_scenes=True)


def _add_bands(
    scenes: Scenes,
    bands: Sequence[str],
    cuts: _Cuts,
    pairs: tuple[Ints, Ints],
    share: Floats | None,
    add: _Add,
    *,
    as_scenes: bool = False,
) -> None:
    """Count ``bands`` of each (window, item) pair; those that lie alike are counted once."""
    window, item = pairs
    alike: dict[tuple[Any, ...], list[_Layer]] = {}
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
            found = _cut(layers[0], _nodes_for(crs, layers[0], cuts), own, theirs, layers)
            if share is not None:
                found = found * share[theirs]
            add(own, found, None)
            seen[chosen] |= found[0] > 0
    if as_scenes:
        add(window, np.zeros((4, len(window))), seen.astype(np.float64))


def _nodes_for(crs: str, layer: _Layer, cuts: _Cuts) -> Floats:
    return cuts.nodes(crs or "EPSG:4326")


def _cut(layer: _Layer, nodes: Floats, window: Ints, item: Ints, layers: Sequence[_Layer] = ()) -> Floats:
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
    for one in layers or (layer,):
        total[0] += chunks
        total[1] += _stored(one, item, chunks, box)
        total[2] += np.where(apart, 0, (bottom - top) * (right - left)) * one.itemsize
        total[3] += chunks * (chunk_rows * chunk_cols * one.itemsize)
    return total


def _stored(layer: _Layer, item: Ints, chunks: Ints, box: tuple[Ints, Ints, Ints, Ints]) -> Floats:
    stored = chunks * layer.chunk_bytes
    known = layer.known[item]
    for number, table in enumerate(layer.tables):
        chosen = np.flatnonzero((known == number) & (chunks > 0))
        if len(chosen):
            top, left, bottom, right = (edge[chosen] for edge in box)
            stored[chosen] = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return np.asarray(stored, np.float64)


def _velocity_layer(settings: Settings, middle: Window) -> tuple[str, _Layer] | None:
    """The Zarr of velocities as a layer of one item; what a chunk of it takes is seen at ``middle``."""
    source = settings.sources.get("velocity")
    if source is None or source.href is None:
        return None
    lattice, chunk_px, itemsize = velocity.layout(source.href)
    try:
        _, cost = velocity.read_velocity(source.href, middle.geobox, year=max(settings.years))
    except (UnreadableError, AssetReadError):
        cost = Cost()  # blocks will do without it, or be put off: the plan need not wait for it
    whole = float(itemsize * math.prod(chunk_px))
    chunk_bytes = cost.fetched_bytes / cost.fetches if cost.fetches else whole
    a, _, c, _, e, f = lattice.affine
    shape = np.array([[lattice.height, lattice.width]], np.int64)
    none = np.array([-1], np.int64)
    layer = _Layer(np.array([[a, c, e, f]]), shape, chunk_px, itemsize, chunk_bytes, none, ())
    return lattice.crs, layer
