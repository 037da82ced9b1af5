"""The feature stack of a region: its PCA basis, and the stack itself written to Zarr.

``X.zarr/<year>/<epsg>/features (channel, y, x) float32``, one shard a block, with the channels' names
and units, the basis, and beside it ``modalities`` (y, x) u1. The same blocks, halo and kernels as a
run's: what is written here is what a model sees there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr

from cryoscale.cluster import CPU, workers
from cryoscale.errors import AssetReadError, InputError, OutputError
from cryoscale.features import stack as features
from cryoscale.features.stack import PcaBasis, fit_pca
from cryoscale.grid import Block, Window, window_of
from cryoscale.ledger import Ledger
from cryoscale.plan import Items, block_aligned, blocks_of, find_items, zone_regions
from cryoscale.region import ZoneRegion
from cryoscale.settings import Settings
from cryoscale.task import RunContext, Stopwatch, features_of
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
    )


def fit_run_basis(settings: Settings, items: Items) -> PcaBasis:
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


def fit_basis(work: Sequence[tuple[RunContext, int, Block]]) -> PcaBasis:
    """The PCA basis of a seeded sample of the clear pixels of blocks, each with its run and year.

    The sample is drawn from windows in the middle of at most a dozen blocks, so that its cost does
    not grow with the region.

    Raises:
        InputError: no window of the sample holds a clear pixel.
    """
    rng = np.random.default_rng(_SEED)
    chosen = [work[n] for n in sorted(rng.permutation(len(work))[:_SAMPLE_BLOCKS])]

    def batches() -> Iterator[np.ndarray]:
        for context, year, block in chosen:
            window = _middle(block, context.region)
            try:
                _, inputs, _ = features_of(context, year, window, Stopwatch())
            except AssetReadError:
                continue  # the block itself will say so; the sample can do without
            if not set(features.BANDS) <= set(inputs):
                continue
            bands = np.stack([inputs[name].values.ravel() for name in features.BANDS], axis=1)
            clear = bands[np.isfinite(bands).all(axis=1)]
            take = _SAMPLE_PIXELS // len(chosen)
            yield clear if len(clear) <= take else clear[rng.choice(len(clear), take, replace=False)]

    return fit_pca(batches(), seed=_SEED)


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
    stage("fitting the principal components")
    basis = pca or fit_run_basis(settings, items)
    context = context_of(settings, out, items, basis)
    work: list[tuple[int, Block]] = []
    for zone in zone_regions(settings):
        blocks = blocks_of(settings, zone)
        for year in settings.years if blocks else ():
            _create(out, year, block_aligned(zone.window(), settings.block_px), settings, basis)
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
    summary = {"out": out, "blocks": len(work), "channels": list(features.CHANNELS), "pca": basis.to_dict()}
    return {**summary, "scenes_failed": [list(scene) for scene in sorted(scenes)]}


def _write_all(
    settings: Settings, context: RunContext, work: list[tuple[int, Block]]
) -> tuple[list[str], set[tuple[str, str]]]:
    """Why blocks failed, and the scenes (id, cause) that the others did without."""
    from distributed import as_completed

    failed: list[str] = []
    scenes: set[tuple[str, str]] = set()
    with workers(settings.cluster, actors=False) as found:
        shared = found.client.scatter(context, broadcast=True)
        futures = {
            found.client.submit(
                write_feature_block, shared, year, block, pure=False, retries=2, resources={CPU: 1}
            )
            for year, block in work
        }
        for future in as_completed(futures):
            if future.status != "finished":
                failed.append(" ".join(str(future.exception()).split()))
            else:
                scenes.update((name, cause) for name, cause in future.result())
    return failed, scenes


def _create(out: str, year: int, window: Window, settings: Settings, basis: PcaBasis) -> None:
    """An empty group for one year and zone."""
    group = zarr.open_group(store.open_store(out), path=f"{year}/{window.epsg}", mode="a")
    chunk = store.inner_chunk_px(settings.block_px)
    units = {channel.name: channel.unit for channel in features.TABLE}
    group.attrs.update(
        {**store.geo_attributes(window), "pca": basis.to_dict(), "cryoscale:run": settings.name}
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


def write_feature_block(context: RunContext, year: int, block: Block) -> tuple[tuple[str, str], ...]:
    """Compute and write the stack of one block; returns the scenes (id, cause) that could not be read."""
    stack, inputs, report = features_of(context, year, block.window, Stopwatch())
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
