"""The feature stack of a region: its PCA basis, and the stack itself written to Zarr.

``X.zarr/<year>/<epsg>/features (channel, y, x) float32``, one shard a block, with the channels' names
and units, the basis, and beside it ``modalities`` (y, x) u1. The same blocks, halo and kernels as a
run's: what is written here is what a model sees there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr

from cryoscale.candidates import candidate_blocks
from cryoscale.cluster import workers
from cryoscale.errors import AssetReadError, InputError, OutputError
from cryoscale.features import stack as features
from cryoscale.features.stack import PcaBasis, fit_pca
from cryoscale.grid import Block, Window, window_of
from cryoscale.ledger import Ledger
from cryoscale.plan import Items, block_aligned, blocks_of, find_items, zone_regions
from cryoscale.read.inputs import ReadReport, read_inputs
from cryoscale.read.raster import UnreadableError
from cryoscale.region import ZoneRegion
from cryoscale.roster import CPU
from cryoscale.settings import Settings
from cryoscale.task import ATTEMPTS, RunContext, Stopwatch, features_of
from cryoscale.waiting import Waiting, put_off_s
from cryoscale.write import store

_SAMPLE_BLOCKS = 12
_SAMPLE_PX = 256
_SAMPLE_PIXELS = 65_536
_SEED = 20


def context_of(settings: Settings, out: str, items: Items, pca: PcaBasis | None) -> RunContext:
    """The context of blocks that want features alone."""
    velocity, thermal = settings.sources.get("velocity"), settings.sources.get("thermal")
    return RunContext(
        out=out,
        region=settings.region,
        tile_px=settings.tile_px,
        overlap=settings.model.overlap,
        on_missing=settings.on_missing,
        composite=settings.sources["optical"].composite or "least_snow",
        velocity_href=velocity.href if velocity else None,
        channels=features.CHANNELS,
        needs_halo=False,
        pca=pca,
        items=items,
        on_unreadable=settings.on_unreadable,
        max_lst_uncertainty_k=thermal.max_uncertainty_k if thermal else None,
        max_cloud_pct=settings.sources["optical"].max_cloud_pct,
        loader=settings.loader,
    )


@dataclass(frozen=True)
class RunBasis:
    """A basis that was fitted for a run, and what its sample had to do without.

    Attributes:
        basis: the principal components.
        scenes_failed: (item id, cause) of scenes that the sample was taken without.
        windows_failed: (year/zone/block, cause) of windows of the sample that could not be read.
    """

    basis: PcaBasis
    scenes_failed: tuple[tuple[str, str], ...] = ()
    windows_failed: tuple[tuple[str, str], ...] = ()

    def record(self) -> dict[str, Any]:
        """For the run's record: the basis without its gaps is stored where the model looks for it."""
        return {
            "scenes_failed": [list(scene) for scene in self.scenes_failed],
            "windows_failed": [list(window) for window in self.windows_failed],
        }

    def lines(self) -> list[str]:
        """A line a gap, for people."""
        return [
            f"principal components fitted without {name}: {cause}"
            for name, cause in (*self.scenes_failed, *self.windows_failed)
        ]


def fit_run_basis(settings: Settings, items: Items) -> RunBasis:
    """The PCA basis of a run whose model brings none: fitted on a seeded sample of clear pixels.

    Raises:
        InputError: no window of the sample holds a clear pixel.
    """
    context = context_of(settings, "", items, None)
    return fit_basis(
        [
            (context, year, block)
            for year in settings.years
            for zone in zone_regions(settings)
            for block in blocks_of(settings, zone)
        ]
    )


def fit_basis(work: Sequence[tuple[RunContext, int, Block]]) -> RunBasis:
    """The PCA basis of a seeded sample of the clear pixels of blocks, each with its run and year.

    The sample is drawn from windows in the middle of at most a dozen blocks, so that its cost does
    not grow with the region. Its scenes are read as those of a block are, with as many attempts and
    by the same ``on_unreadable``; where a block would be set aside, the sample does without its window.

    Raises:
        InputError: no window of the sample holds a clear pixel, or could be read.
    """
    rng = np.random.default_rng(_SEED)
    chosen = [work[n] for n in sorted(rng.permutation(len(work))[:_SAMPLE_BLOCKS])]
    scenes: set[tuple[str, str]] = set()
    windows: list[tuple[str, str]] = []

    def batches() -> Iterator[np.ndarray]:
        for context, year, block in chosen:
            try:
                inputs, report = _optical_of(context, year, _middle(block, context.region))
            except (AssetReadError, UnreadableError) as error:
                windows.append((f"{year}/{block.epsg}/{block.key}", " ".join(str(error).split())))
                continue
            scenes.update(report.scenes_failed)
            if not set(features.BANDS) <= set(inputs):
                continue
            bands = np.stack([inputs[name].values.ravel() for name in features.BANDS], axis=1)
            clear = bands[np.isfinite(bands).all(axis=1)]
            take = _SAMPLE_PIXELS // len(chosen)
            yield clear if len(clear) <= take else clear[rng.choice(len(clear), take, replace=False)]

    try:
        basis = fit_pca(batches(), seed=_SEED)
    except InputError as error:
        if not windows:
            raise
        raise InputError(
            f"{len(windows)} of {len(chosen)} sample windows that could not be read ({windows[0][1]})",
            "readable optical scenes to fit the principal components on",
            "mend the source, or start again later",
        ) from error
    return RunBasis(basis, tuple(sorted(scenes)), tuple(windows))


def _optical_of(context: RunContext, year: int, window: Window) -> tuple[xr.Dataset, ReadReport]:
    """The optical inputs of ``window``, with as many attempts as a block has."""
    optical = {"optical": context.items_of(year).get("optical", [])}
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return read_inputs(
                optical,
                window,
                composite=context.composite,
                on_unreadable=context.on_unreadable,
                leave_unreachable=attempt == ATTEMPTS,
                max_cloud_pct=context.max_cloud_pct,
                loader=context.loader,
            )
        except AssetReadError:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _middle(block: Block, region: Any) -> Window:
    """A window in the middle of what the block and the region have in common."""
    part = ZoneRegion(block.epsg, region).window().intersect(block.window) or block.window
    height, width = min(_SAMPLE_PX, part.height), min(_SAMPLE_PX, part.width)
    row, col = part.row + (part.height - height) // 2, part.col + (part.width - width) // 2
    return Window(block.epsg, row, col, height, width)


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
    """
    stage = on_stage or (lambda text: None)
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
    failed, scenes = _write_all(settings, context, work)
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


def _write_all(
    settings: Settings, context: RunContext, work: list[tuple[int, Block]]
) -> tuple[list[str], Gaps]:
    """Why blocks failed, and the scenes that the others did without; attempts are those of a run's blocks."""
    from distributed import wait

    failed: list[str] = []
    gaps: Gaps = {}
    waiting = Waiting((year, block, 1) for year, block in work)
    with workers(settings.cluster, actors=False) as found:
        shared = found.client.scatter(context, broadcast=True)
        flying: dict[Any, tuple[int, Block, int]] = {}
        while waiting or flying:
            while len(flying) < 2 * found.tasks and (task := waiting.take()) is not None:
                year, block, attempt = task
                future = found.client.submit(
                    write_feature_block, shared, year, block, attempt, pure=False, resources={CPU: 1}
                )
                flying[future] = task
            if not flying:
                time.sleep(min(waiting.next_s(), 1.0))  # all are put off
                continue
            with suppress(TimeoutError):
                wait(list(flying), timeout=min(60.0, waiting.next_s() + 0.1), return_when="FIRST_COMPLETED")
            for future in [future for future in flying if future.done()]:
                year, block, attempt = flying.pop(future)
                if future.status == "finished":
                    gaps.setdefault((year, block.epsg), set()).update(map(tuple, future.result()))
                    continue
                error = future.exception()
                if attempt < ATTEMPTS and getattr(error, "retry", True):
                    waiting.put((year, block, attempt + 1), put_off_s(error))
                else:
                    failed.append(" ".join(str(error).split()))
    return failed, gaps


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
