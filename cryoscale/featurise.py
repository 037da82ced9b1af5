"""The feature stack of a region, written to Zarr.

``X.zarr/<year>/<epsg>/features (channel, y, x) float32``, one shard a block, with the channels' names
and units, the basis, and beside it ``modalities`` (y, x) u1. The same blocks, halo and kernels as a
run's: what is written here is what a model sees there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
import zarr

from cryoscale.basis import RunBasis, context_of, fit_run_basis
from cryoscale.candidates import candidate_blocks
from cryoscale.cluster import workers
from cryoscale.curve import along_curve
from cryoscale.errors import InputError, OutputError
from cryoscale.features import stack as features
from cryoscale.features.stack import PcaBasis
from cryoscale.flights import AHEAD, Flight, Flights
from cryoscale.grid import Block, Window, window_of
from cryoscale.ledger import Ledger
from cryoscale.machines import Machines
from cryoscale.plan import block_aligned, find_items, zone_regions
from cryoscale.region import ZoneRegion
from cryoscale.roster import scheduler_gone, workers_at
from cryoscale.settings import Settings
from cryoscale.task import ATTEMPTS, RunContext, Stopwatch, features_of
from cryoscale.waiting import Waiting, put_off_s
from cryoscale.write import store
from cryoscale.write.usable import require_usable

if TYPE_CHECKING:
    from distributed import Client


def write_features(
    settings: Settings,
    out: str,
    *,
    pca: PcaBasis | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write the stack of the region of ``settings`` to the Zarr store ``out``; returns a summary.

    Raises:
        InputError: anything to correct in what was given.
        NoRoomError: the output takes no more.
    """
    stage = on_stage or (lambda text: None)
    require_usable(out)
    if not Ledger(out).is_empty():
        raise OutputError(f"output {out}, which exists", "a new store", "give another --out")
    stage("searching the catalogues")
    items = find_items(settings)
    fitted = RunBasis(pca) if pca else None
    if fitted is None:
        stage("fitting the principal components")
        fitted = fit_run_basis(settings, items)
        for line in fitted.lines():
            stage(line)
    basis = fitted.basis
    context = context_of(settings, out, items, basis)
    work: list[tuple[int, Block]] = []
    for zone in zone_regions(settings):
        blocks = candidate_blocks(settings, items, zone).blocks
        for year in settings.years if blocks else ():
            _create(out, year, block_aligned(zone.window(), settings.block_px), settings, fitted)
            work += [(year, block) for block in blocks]
    store.consolidate(store.open_store(out))
    stage(f"writing {len(work)} blocks")
    failed, scenes = _write_all(settings, context, along_curve(work))
    if failed:
        raise InputError(
            f"{len(failed)} of {len(work)} blocks that could not be read ({failed[0]})",
            "readable scenes",
            "mend the source and write to a new store",
        )
    _name_gaps(out, scenes)
    gaps = sorted({scene for found in scenes.values() for scene in found})
    summary = {"out": out, "blocks": len(work), "channels": list(features.CHANNELS), "pca": basis.to_dict()}
    return {
        **summary,
        "scenes_failed": [list(scene) for scene in gaps],
        "pca_sample": fitted.record(),
    }


Gaps = dict[tuple[int, int], set[tuple[str, str]]]
"""Scenes (id, cause) that were done without, by year and zone."""

_Turn = tuple[int, Block, int]
"""Year, block and attempt."""

_LOOK_S = 2.0
"""How often the scheduler is asked who is there, and how long a block is waited for before."""


def _write_all(
    settings: Settings, context: RunContext, work: list[tuple[int, Block]]
) -> tuple[list[str], Gaps]:
    """Why blocks failed, and the scenes that the others did without; attempts are those of a run's blocks."""
    failed: list[str] = []
    gaps: Gaps = {}
    waiting: Waiting[_Turn] = Waiting((year, block, 1) for year, block in work)
    with workers(settings.cluster, actors=False) as found:
        shared = found.client.scatter(context, broadcast=True)
        flights: Flights[_Turn] = Flights(found.client, write_feature_block)
        machines, looked = Machines(), float("-inf")
        while waiting or flights:
            if time.monotonic() - looked > _LOOK_S:
                machines, looked = _look(found.client, machines), time.monotonic()
                waiting.keep(machines.tasks)
                for flight in flights.strayed(machines.tasks):
                    waiting.put(flight.block)
            while len(flights) < AHEAD * machines.at_once:
                machine = machines.roomiest(flights.dealt, len(waiting), AHEAD)
                if (turn := waiting.take(machine)) is None:
                    break
                flights.line_up(Flight(turn, (shared, *turn), machine))
            flights.begin()
            for landing in flights.land(_LOOK_S if flights else min(max(waiting.next_s(), 0.05), _LOOK_S)):
                year, block, attempt = landing.flight.block
                if landing.result is not None:
                    gaps.setdefault((year, block.epsg), set()).update(map(tuple, landing.result))
                    continue
                error = landing.error()
                if attempt < ATTEMPTS and getattr(error, "retry", True):
                    waiting.put((year, block, attempt + 1), put_off_s(error))
                else:
                    failed.append(" ".join(str(error).split()))
    return failed, gaps


def _look(client: Client, known: Machines) -> Machines:
    """Who is there; who was there last where the scheduler does not say."""
    if client.status != "running":
        raise scheduler_gone()
    try:
        return Machines.of(workers_at(client))
    except OSError:  # once it is gone for good, the client's status says so
        return known


def _name_gaps(out: str, gaps: Gaps) -> None:
    """Scenes that could not be read, in the attributes of the group that is without them."""
    for (year, epsg), scenes in gaps.items():
        group = zarr.open_group(
            store.open_store(out), path=f"{year}/{epsg}", mode="r+", use_consolidated=False
        )
        group.attrs["cryoscale:scenes_failed"] = [list(scene) for scene in sorted(scenes)]
    store.consolidate(store.open_store(out))


def _create(out: str, year: int, window: Window, settings: Settings, fitted: RunBasis) -> None:
    """An empty group for one year and zone."""
    group = zarr.open_group(store.open_store(out), path=f"{year}/{window.epsg}", mode="a")
    chunk = store.inner_chunk_px(settings.block_px)
    units = {channel.name: channel.unit for channel in features.TABLE}
    group.attrs.update(
        {
            **store.geo_attributes(window),
            "pca": fitted.basis.to_dict(),
            "cryoscale:pca_sample": fitted.record(),
            "cryoscale:run": settings.name,
        }
    )
    store.create_axes(group, *window.coordinates(), window.epsg)
    count, size = len(features.CHANNELS), settings.block_px
    group.create_array(
        "features",
        shape=(count, *window.shape),
        dtype="float32",
        chunks=(1, chunk, chunk),
        shards=(count, size, size),
        fill_value=float("nan"),
        compressors=store.COMPRESSOR,
        dimension_names=("channel", "y", "x"),
        attributes={"units": units, "grid_mapping": "spatial_ref"},
    )
    group.create_array(
        "modalities",
        shape=window.shape,
        dtype="uint8",
        chunks=(chunk, chunk),
        shards=(size, size),
        fill_value=0,
        compressors=store.COMPRESSOR,
        dimension_names=("y", "x"),
        attributes={
            "flag_masks": list(features.MODALITIES.values()),
            "flag_meanings": " ".join(features.MODALITIES),
            "grid_mapping": "spatial_ref",
        },
    )
    for name, values in (
        ("channel", list(features.CHANNELS)),
        ("unit", [units[c] for c in features.CHANNELS]),
    ):
        array = group.create_array(name, shape=(count,), dtype="str", dimension_names=("channel",))
        array[:] = np.array(values)


def write_feature_block(
    context: RunContext, year: int, block: Block, attempt: int
) -> tuple[tuple[str, str], ...]:
    """Compute and write the stack of one block; returns the scenes (id, cause) that could not be read."""
    last = attempt >= ATTEMPTS
    stack, inputs, report = features_of(context, year, block.window, Stopwatch(), last_attempt=last)
    inside = ZoneRegion(block.epsg, context.region).pixels(block.window)
    present = np.where(inside, features.modalities(inputs).values, np.uint8(0))
    group = zarr.open_group(
        store.open_store(context.out), path=f"{year}/{block.epsg}", mode="r+", use_consolidated=False
    )
    origin = xr.Dataset(coords={"y": np.asarray(group["y"]), "x": np.asarray(group["x"])})
    rows, cols = block.window.slices_in(window_of(origin, block.epsg))
    group["features"][:, rows, cols] = np.where(inside, stack.values, np.float32(np.nan))  # type: ignore[index]
    group["modalities"][rows, cols] = present  # type: ignore[index]
    return report.scenes_failed
