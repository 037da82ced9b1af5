"""Everything a block needs, read at once: the inputs dataset, and what could not be read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from cryoscale.errors import AssetReadError, CryoscaleError
from cryoscale.grid import transformer
from cryoscale.read.assets import BANDS, QA_HIDDEN_BITS, S2_BANDS, asset_of
from cryoscale.read.choice import CHOICE_BANDS, REACH_PX, Choice, choose, sample_codes
from cryoscale.read.composite import Composer, clear_mask, masked_median, scene_order
from cryoscale.read.cube import (
    AssetSpec,
    asset_spec,
    footprint_deg,
    in_order,
    load_planes,
    named,
    read_asset,
    when,
    without_fill,
)
from cryoscale.read.phase import phase_of, phasor_of
from cryoscale.read.raster import UnreadableError, open_raster
from cryoscale.read.sample import ArraySource, fetch, mosaics, resample
from cryoscale.read.signing import signed_href
from cryoscale.read.velocity import read_velocity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from pystac import Item

    from cryoscale.grid import Window

READ_THREADS = 8
"""Bands of a scene that are read at the same time: more than cores, since some wait for their host."""

Planes = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class ReadReport:
    """What reading a window took and what it could not get.

    Attributes:
        scenes_read: ids of the items that gave pixels, in order.
        scenes_failed: (item id, cause) of each that could not be read and was left out.
        bytes_read: size of the decoded pixels that were read.
        choice: how the optical scenes were ranked; None where they were not.
    """

    scenes_read: tuple[str, ...] = ()
    scenes_failed: tuple[tuple[str, str], ...] = ()
    bytes_read: int = 0
    choice: Choice | None = None


@dataclass
class _Session:
    """One call's window, threads and accounts."""

    window: Window
    sign: str | None
    pool: ThreadPoolExecutor
    left_out: tuple[type[CryoscaleError], ...]
    """Failures for which a scene is named and left out; others end the block."""
    bounds_deg: tuple[float, float, float, float]
    loader: Literal["direct", "odc-stac", "stackstac"]
    read: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    bytes_read: int = 0
    choice: Choice | None = None

    def near(self, items: Sequence[Item]) -> list[Item]:
        """Items whose footprint, with its collar, touches the window; their order is kept."""
        return [item for item in items if _touches(footprint_deg(item), self.bounds_deg)]

    def bands(self, item: Item, names: Sequence[str]) -> Planes:
        """Bands of one item on the window, those that it has there."""
        if self.loader != "direct":
            planes, size = load_planes(
                item, names, self.window.geobox, loader=self.loader, sign=self.sign, pool=self.pool
            )
            self.bytes_read += size
            return planes
        specs = [spec for name in names if (spec := asset_spec(item, name, self.sign)) is not None]
        planes = {}
        for spec, (values, size) in zip(specs, self.pool.map(self._read, specs), strict=True):
            self.bytes_read += size
            if values is not None:
                planes[spec.band] = values
        return planes

    def _read(self, spec: AssetSpec) -> tuple[NDArray[Any] | None, int]:
        return read_asset(spec, self.window.geobox)

    def each(self, modality: str, items: Sequence[Item], use: Callable[[Item], bool]) -> int:
        """Calls ``use`` for each item near the window; how many gave pixels.

        An item that is broken, or out of reach where that is left out too, is named and passed over,
        unless no other of its modality could be read.
        """
        count, broken = 0, []
        for item in self.near(items):
            try:
                gave = use(item)
            except (UnreadableError, AssetReadError) as error:
                cause = str(error).removeprefix(f"{item.id} ")
                if not isinstance(error, self.left_out):
                    raise type(error)(f"{item.id} {cause}") from error
                self.failed.append((item.id, cause))
                if _touches(_bbox(item), self.bounds_deg):
                    broken.append(f"{item.id} ({cause})")
                continue
            if gave:
                count += 1
                self.read.append(item.id)
        if broken and not count:
            raise AssetReadError(f"no {modality} item over the window could be read: {'; '.join(broken)}")
        return count


def read_inputs(
    items: Mapping[str, Sequence[Item]],
    window: Window,
    *,
    composite: str = "least_snow",
    velocity_href: str | None = None,
    year: int | None = None,
    sign: str | None = None,
    on_unreadable: Literal["set_aside", "fail"] = "set_aside",
    leave_unreachable: bool = False,
    rank_locally: bool = True,
    max_lst_uncertainty_k: float | None = None,
    loader: Literal["direct", "odc-stac", "stackstac"] = "direct",
) -> tuple[xr.Dataset, ReadReport]:
    """All that a block's features are made of, on ``window``: variables of (y, x), read now.

    A modality without items, or whose items lie elsewhere, is an absent variable. Equal pixels of two
    windows get equal values, bit for bit.

    Args:
        items: by modality: optical, terrain, thermal, insar, radar, velocity.
        window: pixels to read, halo included.
        composite: how optical scenes become one image.
        velocity_href: a Zarr store with vx and vy, instead of velocity items.
        year: of the velocity, where the store has several.
        sign: how addresses are signed where an item does not say.
        on_unreadable: ``set_aside`` leaves a broken scene out and names it, ``fail`` makes it an error.
        leave_unreachable: under ``set_aside``, do so too with a scene that could not be had through all
            retries, as a caller wants who will not ask again.
        rank_locally: whether scenes are ranked by the cloud and snow that they show around each pixel, or,
            as :func:`cryoscale.read.composite.composite` does, by the cloud cover of the whole scene.
        max_lst_uncertainty_k: temperatures whose uncertainty (ST_QA) is larger are left out, those without
            one are kept. With a limit ``LST_uncertainty`` comes beside ``LST``; infinity leaves nothing out.
        loader: who calls the reader for a scene's bands: ``direct``, or the graph that a library draws. What
            is joined on its own lattice before it is interpolated (elevation, phase, vx and vy) and the
            ranking of scenes are read directly by all of them.

    Returns:
        The dataset (float32, NaN for no data; source_date int32; n_clear uint16; slc1, slc2 complex64) with
        coordinates y, x (m) and attribute crs, and the report of what was read.

    Raises:
        AssetReadError: if an asset is out of reach, or no item of a modality over the window is readable.
        UnreadableError: if a scene is broken, under ``fail``.
        SourceError: if the velocity store is not one.
    """
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read") as pool:
        kinds = (UnreadableError, AssetReadError) if leave_unreachable else (UnreadableError,)
        left_out = kinds if on_unreadable == "set_aside" else ()
        session = _Session(window, sign, pool, left_out, _bounds_deg(window), loader)
        planes: Planes = {}
        planes |= _optical(session, items.get("optical", ()), composite, rank_locally)
        planes |= _terrain(session, in_order(items.get("terrain", ())))
        planes |= _thermal(session, in_order(items.get("thermal", ())), max_lst_uncertainty_k)
        planes |= _insar(session, in_order(items.get("insar", ())))
        planes |= _radar(session, in_order(items.get("radar", ())))
        planes |= _velocity(session, in_order(items.get("velocity", ())), velocity_href, year)
    y, x = window.coordinates()
    dataset = xr.Dataset(
        {name: (("y", "x"), values) for name, values in planes.items()},
        coords={"y": y, "x": x},
        attrs={"crs": f"EPSG:{window.epsg}"},
    )
    return dataset, ReadReport(tuple(session.read), tuple(session.failed), session.bytes_read, session.choice)


def _choice(session: _Session, items: Sequence[Item]) -> Choice:
    """What each scene shows on the cells around the window; one that cannot be read shows nothing.

    That it cannot is told when its turn comes in the composite.
    """
    # Scenes beside the window count too: what is glacierised must not depend on where the window ends.
    around = _bounds_deg(session.window.pad(REACH_PX))
    by_id = {item.id: item for item in items if _touches(footprint_deg(item), around)}

    def look(scene: str, grid: GeoBox) -> NDArray[np.uint8] | None:
        specs = [asset_spec(by_id[scene], name, session.sign) for name in CHOICE_BANDS]
        try:
            found = list(session.pool.map(lambda s: (None, 0) if s is None else read_asset(s, grid), specs))
        except session.left_out:
            return None
        session.bytes_read += sum(size for _, size in found)
        planes = {name: values for name, (values, _) in zip(CHOICE_BANDS, found, strict=True)}
        seen = planes.pop("SCL")
        shown = {name: values for name, values in planes.items() if values is not None}
        if len(shown) < len(planes):
            return None
        return sample_codes(shown, np.ones(grid.shape, bool) if seen is None else clear_mask(seen))

    return choose(list(by_id), session.window, look)


def _optical(session: _Session, items: Sequence[Item], method: str, rank_locally: bool) -> Planes:
    """The composite; scenes are read one after the other, the classification first."""
    ranked = _ranked(items)
    if rank_locally and method != "median":
        ranked = in_order(items)
        session.choice = _choice(session, ranked)
    composer = Composer(method, session.window.shape)

    def use(item: Item) -> bool:
        lacking = [name for name in S2_BANDS if asset_of(item, name) is None]
        if lacking:
            raise UnreadableError(f"no asset for {', '.join(lacking)}")
        seen = session.bands(item, ["SCL"]).get("SCL")
        clear = np.ones(session.window.shape, bool) if seen is None else clear_mask(seen)
        if not clear.any():
            return True  # all hidden: its bands cannot matter
        planes = session.bands(item, S2_BANDS)
        if len(planes) < len(S2_BANDS):
            return False  # the window lies within reach of its coarse bands only
        bands = np.stack([planes[name] for name in S2_BANDS])
        day = int(np.datetime64(when(item).date(), "D").astype(np.int64))
        rank = None if session.choice is None else session.choice.score(item.id, session.window)
        composer.add(bands, clear, day, rank)
        return True

    if not session.each("optical", ranked, use):
        return {}
    merged, date, n_clear = composer.result()
    return {**dict(zip(S2_BANDS, merged, strict=True)), "source_date": date, "n_clear": n_clear}


def _terrain(session: _Session, items: Sequence[Item]) -> Planes:
    """Tiles that share a lattice are joined before they are interpolated, so that no seam shows."""
    parts: list[ArraySource] = []

    def use(item: Item) -> bool:
        part = _part(session, item, "elevation")
        if part is not None:
            parts.append(part)
        return part is not None

    session.each("terrain", items, use)
    layers = [
        resample(source, session.window.geobox, BANDS["elevation"].resampling) for source in mosaics(parts)
    ]
    return _first_valid("elevation", layers)


def _thermal(session: _Session, items: Sequence[Item], max_uncertainty_k: float | None) -> Planes:
    """Medians of the clear scenes: the temperature, and its uncertainty where that matters."""
    names = ("LST",) if max_uncertainty_k is None else ("LST", "LST_uncertainty")
    scenes: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}

    def use(item: Item) -> bool:
        planes = session.bands(item, [*names, "QA_PIXEL"])
        if "LST" not in planes:
            return False
        seen = np.ones(session.window.shape, bool)
        if "QA_PIXEL" in planes:
            quality = planes["QA_PIXEL"]
            bits = np.where(np.isnan(quality), 1, quality).astype(np.uint16)
            seen = (bits & QA_HIDDEN_BITS) == 0
        seen &= np.isfinite(planes["LST"])
        if max_uncertainty_k is not None and "LST_uncertainty" in planes:
            seen &= ~(planes["LST_uncertainty"] > max_uncertainty_k)
        for name, stack in scenes.items():
            if seen.any() and name in planes:
                stack.append(np.where(seen, planes[name], np.float32(np.nan)))
        return True

    if not session.each("thermal", items, use):
        return {}
    if not scenes["LST"]:
        return {"LST": np.full(session.window.shape, np.nan, np.float32)}
    return {name: masked_median(np.stack(stack)) for name, stack in scenes.items() if stack}


def _insar(session: _Session, items: Sequence[Item]) -> Planes:
    """Pairs or products; where several lie over a pixel, the first gives all that it has there."""
    planes: Planes = {}

    def use(item: Item) -> bool:
        found = session.bands(item, ["coherence", "slc1", "slc2"])
        phase = _part(session, item, "phase")
        if phase is not None:
            turned = ArraySource(phase.lattice, phasor_of(phase.values))
            vector = resample(turned, session.window.geobox, "bilinear")
            if vector is not None:
                found["phase"] = phase_of(vector)
        empty = {name for name in found if name not in planes}
        held = [np.isfinite(values) for values in planes.values()]
        free = ~np.any(held, axis=0) if held else np.ones(session.window.shape, bool)
        for name in empty:
            planes[name] = np.full(session.window.shape, np.nan, found[name].dtype)
        for name, values in found.items():
            np.copyto(planes[name], values, where=free)
        return bool(found)

    session.each("insar", items, use)
    return planes


def _radar(session: _Session, items: Sequence[Item]) -> Planes:
    """Backscatter in dB, the median of the scenes; linear power is interpolated before it is converted."""
    names = ("backscatter_vv", "backscatter_vh")
    scenes: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}

    def use(item: Item) -> bool:
        planes = session.bands(item, names)
        for name, values in planes.items():
            spec = asset_spec(item, name)
            if spec is not None and str(spec.encoding.unit).lower() != "db":
                power = np.where(values > 0, values, np.nan)
                values = (10.0 * np.log10(power)).astype(np.float32)
            scenes[name].append(values)
        return bool(planes)

    session.each("radar", items, use)
    return {name: masked_median(np.stack(stack)) for name, stack in scenes.items() if stack}


def _velocity(session: _Session, items: Sequence[Item], href: str | None, year: int | None) -> Planes:
    if href is not None:
        speed = read_velocity(signed_href(href, session.sign), session.window.geobox, year=year)
        return {} if speed is None else {"velocity": speed}
    layers: list[NDArray[Any] | None] = []

    def use(item: Item) -> bool:
        east, north = _part(session, item, "vx"), _part(session, item, "vy")
        if east is None or north is None:
            return False
        if east.lattice != north.lattice:
            raise UnreadableError("vx and vy lie on different grids")
        speed = ArraySource(east.lattice, np.hypot(east.values, north.values))
        layers.append(resample(speed, session.window.geobox, "bilinear"))
        return True

    session.each("velocity", items, use)
    return _first_valid("velocity", layers)


def _part(session: _Session, item: Item, band: str) -> ArraySource | None:
    """The source's own pixels of a band around the window, in physical units."""
    spec = asset_spec(item, band, session.sign)
    if spec is None:
        return None
    with named(spec), open_raster(spec.href, spec.encoding.nodata, spec.sign) as source:
        part = fetch(source, session.window.geobox)
        session.bytes_read += source.bytes_read
    part = None if part is None else without_fill(part, band)
    if part is None or (spec.encoding.scale, spec.encoding.offset) == (1.0, 0.0):
        return part
    return ArraySource(part.lattice, part.values * spec.encoding.scale + spec.encoding.offset)


def _first_valid(name: str, layers: Sequence[NDArray[Any] | None]) -> Planes:
    present = [layer for layer in layers if layer is not None]
    if not present:
        return {}
    merged = present[0].copy()
    for layer in present[1:]:
        np.copyto(merged, layer, where=np.isnan(merged))
    return {name: merged}


def _ranked(items: Sequence[Item]) -> list[Item]:
    shares = [item.properties.get("eo:cloud_cover") for item in items]
    clouds = [np.nan if share is None else float(share) for share in shares]
    order = scene_order(clouds, [when(item) for item in items], [item.id for item in items])
    return [items[index] for index in order]


def _bounds_deg(window: Window) -> tuple[float, float, float, float]:
    """West, south, east, north around a window; west may lie below -180 at the antimeridian."""
    west, south, east, north = window.bounds_m
    bounds = transformer(f"EPSG:{window.epsg}", "EPSG:4326").transform_bounds(west, south, east, north)
    left, low, right, high = (float(side) for side in bounds)
    return (left - 360.0 if left > right else left), low, right, high


def _bbox(item: Item) -> tuple[float, float, float, float]:
    box = item.bbox
    if not box:
        return -180.0, -90.0, 180.0, 90.0
    west, south, east, north = (box[0], box[1], box[3], box[4]) if len(box) == 6 else box
    return float(west), float(south), float(east + 360.0 if west > east else east), float(north)


def _touches(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two boxes share a point, on any turn of the globe."""
    if a[1] > b[3] or b[1] > a[3]:
        return False
    return any(a[0] + turn <= b[2] and b[0] <= a[2] + turn for turn in (-360.0, 0.0, 360.0))
