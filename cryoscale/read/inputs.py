"""Everything a block needs, read at once: the inputs dataset, and what could not be read."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from cryoscale.errors import AssetReadError
from cryoscale.read import http
from cryoscale.read.assets import BANDS, QA_HIDDEN_BITS
from cryoscale.read.band import asset_spec, in_order, opened, without_fill
from cryoscale.read.choice import Choice
from cryoscale.read.composite import masked_median
from cryoscale.read.lattice import ArraySource, mosaics
from cryoscale.read.metered import MeteredPool
from cryoscale.read.optical import read_optical
from cryoscale.read.phase import phase_of, phasor_of
from cryoscale.read.raster import UnreadableError
from cryoscale.read.sample import fetch, resample
from cryoscale.read.session import Loader, Planes, Session, bounds_deg
from cryoscale.read.signing import public
from cryoscale.read.velocity import read_velocity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from pystac import Item

    from cryoscale.grid import Window

READ_THREADS = 8
"""Bands of a scene that are read at the same time: more than cores, since some wait for their host."""


@dataclass(frozen=True)
class ReadReport:
    """What reading a window took and what it could not get.

    Attributes:
        scenes_read: ids of the items that gave pixels, in order.
        scenes_failed: (item id, cause) of each that could not be read and was left out.
        bytes_read: size of the decoded pixels that were read.
        fetches, fetched_bytes, received_bytes: source chunks that they touch, their size as stored, and what
            hosts sent of it; see :class:`cryoscale.read.metered.Cost`.
        cpu_s: processor seconds of this call, those of its threads included.
        choice: how the optical scenes were ranked; None where they were not.
    """

    scenes_read: tuple[str, ...] = ()
    scenes_failed: tuple[tuple[str, str], ...] = ()
    bytes_read: int = 0
    fetches: int = 0
    fetched_bytes: int = 0
    received_bytes: int = 0
    cpu_s: float = 0.0
    choice: Choice | None = None


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
    max_cloud_pct: float | None = None,
    max_lst_uncertainty_k: float | None = None,
    loader: Loader = "direct",
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
            retries, as a caller wants who will not ask again; hosts that are taken for down are asked then.
        rank_locally: whether scenes are ranked by the cloud and snow that they show around each pixel, or,
            as :func:`cryoscale.read.composite.composite` does, by the cloud cover of the whole scene.
        max_cloud_pct: a scene that has more cloud as a whole is used only where it hides no more than that
            around a pixel, over the ice; where scenes are not ranked locally it is not used at all.
        max_lst_uncertainty_k: temperatures whose uncertainty (ST_QA) is larger are left out, those without
            one are kept. With a limit ``LST_uncertainty`` comes beside ``LST``; infinity leaves nothing out.
        loader: who calls the reader for a scene's bands: ``direct``, or the graph that a library draws. What
            is joined on its own lattice before it is interpolated (elevation, phase, vx and vy) and the
            ranking of scenes are read directly by all of them.

    Returns:
        The dataset (float32, NaN for no data; source_date int32; n_clear uint16; slc1, slc2 complex64) with
        coordinates y, x (m) and attribute crs, and the report of what was read. Beside the composite are
        persistence and clear_dates (:meth:`cryoscale.read.composite.Composer.persistence`).

    Raises:
        AssetReadError: if an asset is out of reach, or no optical or no terrain item over the window is
            readable; of other modalities that is an absent variable, and named.
        UnreadableError: if a scene is broken, under ``fail``.
        SourceError: if the velocity store is not one.
    """
    kinds = (UnreadableError, AssetReadError) if leave_unreachable else (UnreadableError,)
    left_out = kinds if on_unreadable == "set_aside" else ()
    began_s = time.thread_time()
    threads = MeteredPool(READ_THREADS, "read", initializer=http.set_insisting, initargs=(leave_unreachable,))
    with threads as pool, http.insisting(leave_unreachable):
        session = Session(window, sign, pool, left_out, bounds_deg(window), loader)
        planes: Planes = {}
        planes |= read_optical(session, items.get("optical", ()), composite, rank_locally, max_cloud_pct)
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
    return dataset, ReadReport(
        tuple(session.read),
        tuple(session.failed),
        **asdict(session.cost),
        cpu_s=time.thread_time() - began_s + threads.cpu_s,
        choice=session.choice,
    )


def _terrain(session: Session, items: Sequence[Item]) -> Planes:
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


def _thermal(session: Session, items: Sequence[Item], max_uncertainty_k: float | None) -> Planes:
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


def _insar(session: Session, items: Sequence[Item]) -> Planes:
    """Pairs or products; where several lie over a pixel, the first that is whole gives all that it has there.

    One of which a half lacks at a pixel does not count as interferometry, so it gives only what no whole one
    does.
    """
    whole: Planes = {}
    halves: Planes = {}

    def use(item: Item) -> bool:
        found = session.bands(item, ["coherence", "slc1", "slc2"])
        phase = _part(session, item, "phase")
        if phase is not None:
            turned = ArraySource(phase.lattice, phasor_of(phase.values))
            vector = resample(turned, session.window.geobox, "bilinear")
            if vector is not None:
                found["phase"] = phase_of(vector)
        held = {name: _holds(values) for name, values in found.items()}
        complete = np.zeros(session.window.shape, bool)
        for one, other in (("coherence", "phase"), ("slc1", "slc2")):
            if one in held and other in held:
                complete |= held[one] & held[other]
        if complete.any():
            _claim(whole, found, complete)
        if not complete.all() and found:
            _claim(halves, found, ~complete & np.any(list(held.values()), axis=0))
        return bool(found)

    session.each("insar", items, use)
    if whole and halves:
        _claim(whole, halves, np.any([_holds(values) for values in halves.values()], axis=0))
    return whole or halves


def _holds(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a plane of interferometry has data: processors of images fill with 0."""
    there: NDArray[np.bool_] = np.isfinite(values)
    return there & (values != 0) if np.iscomplexobj(values) else there


def _claim(planes: Planes, found: Planes, where: NDArray[np.bool_]) -> None:
    """Put what was found into ``planes`` where nothing is yet, all or nothing of a pixel."""
    held = [_holds(values) for values in planes.values()]
    free = where & ~np.any(held, axis=0) if held else where
    if planes and not free.any():
        return
    for name, values in found.items():
        if name not in planes:
            planes[name] = np.full(values.shape, np.nan, values.dtype)
        np.copyto(planes[name], values, where=free)


def _radar(session: Session, items: Sequence[Item]) -> Planes:
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


def _velocity(session: Session, items: Sequence[Item], href: str | None, year: int | None) -> Planes:
    if href is not None:
        try:
            speed, cost = read_velocity(href, session.window.geobox, year=year, sign=session.sign)
        except session.left_out as error:
            session.failed.append((public(href).rstrip("/").rsplit("/", 1)[-1], f"velocity: {error}"))
            return {}
        session.cost += cost
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


def _part(session: Session, item: Item, band: str) -> ArraySource | None:
    """The source's own pixels of a band around the window, in physical units."""
    spec = asset_spec(item, band, session.sign)
    if spec is None:
        return None
    with opened(spec) as (source, scale, offset):
        part = fetch(source, session.window.geobox)
        session.cost += source.cost
    part = None if part is None else without_fill(part, spec)
    if part is None or (scale, offset) == (1.0, 0.0):
        return part
    return ArraySource(part.lattice, part.values * scale + offset)


def _first_valid(name: str, layers: Sequence[NDArray[Any] | None]) -> Planes:
    present = [layer for layer in layers if layer is not None]
    if not present:
        return {}
    merged = present[0].copy()
    for layer in present[1:]:
        np.copyto(merged, layer, where=np.isnan(merged))
    return {name: merged}
