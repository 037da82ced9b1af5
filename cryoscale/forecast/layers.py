"""How the bands of many items are stored and where their pixels lie, from a few headers and what items say.

Where an item says where its pixels lie (``proj:transform``, ``proj:shape``), or was among those whose headers
are looked at, it is taken at its word; else its bbox stands for it. An item on the grid of one of the few has
that one's bytes chunk by chunk, any other their mean a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from cryoscale.errors import AssetReadError, SourceError
from cryoscale.forecast.windows import Floats, Ints, projected
from cryoscale.grid import Window
from cryoscale.read import velocity
from cryoscale.read.assets import S2_BANDS, asset_of
from cryoscale.read.band import asset_spec, cloud_pct, footprint_deg
from cryoscale.read.lattice import Lattice
from cryoscale.read.metered import NOTHING
from cryoscale.read.raster import UnreadableError
from cryoscale.read.storage import Storage, storage_of
from cryoscale.settings import Settings

if TYPE_CHECKING:
    from pystac import Item

SAMPLED_ITEMS = 6
"""Items of a collection whose headers are looked at."""

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
    velocity: tuple[str, Layer] | None

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
class Layer:
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
    layers: Mapping[str, Layer]
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
) -> Layer:
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
    return Layer(
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


def _velocity_layer(settings: Settings, middle: Window) -> tuple[str, Layer] | None:
    """The Zarr of velocities as a layer of one item; what a chunk of it takes is seen at ``middle``."""
    source = settings.sources.get("velocity")
    if source is None or source.href is None:
        return None
    lattice, chunk_px, itemsize = velocity.layout(source.href)
    try:
        _, cost = velocity.read_velocity(source.href, middle.geobox, year=max(settings.years))
    except (UnreadableError, AssetReadError):
        cost = NOTHING  # blocks will do without it, or be put off: the plan need not wait for it
    whole = float(itemsize * math.prod(chunk_px))
    chunk_bytes = cost.fetched_bytes / cost.fetches if cost.fetches else whole
    a, _, c, _, e, f = lattice.affine
    shape = np.array([[lattice.height, lattice.width]], np.int64)
    none = np.array([-1], np.int64)
    layer = Layer(np.array([[a, c, e, f]]), shape, chunk_px, itemsize, chunk_bytes, none, ())
    return lattice.crs, layer
