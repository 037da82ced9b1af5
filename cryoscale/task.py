"""One block, from its scenes to its shard: the task that a CPU worker runs.

A block is a pure function of the run's manifest and frozen catalogue. Everything is opened inside
the task: signed addresses never outlive their use, and the scheduler sees a call with a few numbers
in place of a graph. The block's features travel to the actor once and its bytes come back once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from pystac import Item

from cryoscale.errors import IntegrityError
from cryoscale.features import stack as features
from cryoscale.features.packing import Packed
from cryoscale.features.stack import PcaBasis
from cryoscale.grid import Block, Window, transformer
from cryoscale.infer import tiles
from cryoscale.infer.heap import keep_freed_memory
from cryoscale.ledger import MANIFEST, Ledger, Marker, SceneShare
from cryoscale.processor import cpu_s
from cryoscale.read import snapshot
from cryoscale.read.catalog import lies_over, split_bbox
from cryoscale.read.inputs import ReadReport, read_inputs
from cryoscale.region import ZoneRegion
from cryoscale.room import room
from cryoscale.settings import Composite, DeriveOn, Loader, OnMissing, OnUnreadable
from cryoscale.write import evidence, mosaic, quicklook
from cryoscale.write.objects import Entry

NO_DATA = 255

PREDICT_S = "predict_s"
"""Among the layers that a predictor gives back, how long it took where it ran."""

Predict = Callable[[NDArray[np.float32] | Packed, Window, Block], Mapping[str, Any]]
"""Features (c, y, x) on a window, or what they are made of, and the block wanted, to its encoded layers."""


@dataclass(frozen=True)
class RunContext:
    """What every block of a run needs to know, read from the run's own folder."""

    out: str
    region: Any
    tile_px: int
    overlap: float
    on_missing: OnMissing
    composite: Composite
    velocity_href: str | None
    channels: tuple[str, ...]
    needs_halo: bool
    pca: PcaBasis | None
    items: Mapping[str, list[Item]] = field(repr=False)
    on_unreadable: OnUnreadable = "set_aside"
    max_lst_uncertainty_k: float | None = None
    max_cloud_pct: float | None = None
    loader: Loader = "direct"
    derive_on: DeriveOn = "workers"
    begun: Entry | None = None
    """The manifest that it was read from, as it lay there."""

    def scenes_over(self, year: int, window: Window) -> list[str]:
        """Ids of the frozen items of a year that meet ``window``: what a block there is made from."""
        bounds = transformer(f"EPSG:{window.epsg}", "EPSG:4326").transform_bounds(*window.bounds_m)
        area = [shapely.box(*half) for half in split_bbox(bounds)]
        found = (item for items in self.items_of(year).values() for item in items)
        return sorted({item.id for item in found if lies_over(item, area)})

    def items_of(self, year: int) -> dict[str, list[Item]]:
        """The frozen items of a year by modality."""
        return {
            key.split("/")[1]: items
            for key, items in self.items.items()
            if key.startswith((f"{year}/", "all/"))
        }


@lru_cache(maxsize=4)
def run_context(out: str, identity: str) -> RunContext:
    """The context of the run at ``out``, once a process; ``identity`` guards against a replaced run.

    Raises:
        IntegrityError: there is no run, or another one than the caller means.
    """
    begun = Ledger(out).objects.stat(MANIFEST)
    context = _manifest_of(out, identity)["context"]
    return RunContext(
        out=out,
        region=shapely.from_geojson(context["region"]),
        tile_px=context["tile_px"],
        overlap=context["overlap"],
        on_missing=context["on_missing"],
        composite=context["composite"],
        velocity_href=context["velocity_href"],
        channels=tuple(context["channels"]),
        needs_halo=context["needs_halo"],
        pca=PcaBasis.from_dict(context["pca"]) if context["pca"] else None,
        items=snapshot.thaw(f"{out}/items.parquet"),
        on_unreadable=context.get("on_unreadable", "set_aside"),  # runs begun before there was a choice
        max_lst_uncertainty_k=context.get("max_lst_uncertainty_k"),
        max_cloud_pct=context.get("max_cloud_pct"),
        loader=context.get("loader", "direct"),
        derive_on=context.get("derive_on", "workers"),
        begun=begun,
    )


def _manifest_of(out: str, identity: str) -> dict[str, Any]:
    manifest = Ledger(out).manifest()
    if manifest is None or manifest["identity_sha256"] != identity:
        raise IntegrityError(f"{out} does not hold the run that this block belongs to")
    return manifest


def _refuse_replaced(context: RunContext, identity: str) -> None:
    """Raises IntegrityError where another run was begun since; a manifest nobody has touched is not read."""
    if Ledger(context.out).objects.stat(MANIFEST) != context.begun:
        _manifest_of(context.out, identity)


@dataclass
class Stopwatch:
    """Seconds by stage, of the clock and of the processor, and when each began."""

    starts: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the body to stage ``name``."""
        self.starts.setdefault(name, time.time())
        start, cpu = time.perf_counter(), cpu_s()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.cpu_seconds[name] = self.cpu_seconds.get(name, 0.0) + cpu_s() - cpu


def features_of(
    context: RunContext, year: int, window: Window, watch: Stopwatch, *, last_attempt: bool = False
) -> tuple[xr.DataArray, xr.Dataset, ReadReport]:
    """The stack (channel, y, x) of exactly ``window``, with the inputs and how reading them went."""
    inputs, report = inputs_of(context, year, window, watch, last_attempt=last_attempt)
    with watch.stage("features"):
        cut = cut_of(window)
        return stack_of(context, inputs).isel(cut), inputs.isel(cut), report


def inputs_of(
    context: RunContext, year: int, window: Window, watch: Stopwatch, *, last_attempt: bool = False
) -> tuple[xr.Dataset, ReadReport]:
    """The inputs (y, x) of ``window`` and the features' halo around it, and how reading them went.

    With the halo the stack of a part is the part of the stack. Scenes that are out of reach are left out in
    the last attempt only: before that, the block is better done again later.
    """
    outer = window.pad(features.HALO_PX)
    with watch.stage("read"):
        inputs, report = read_inputs(
            context.items_of(year),
            outer,
            composite=context.composite,
            velocity_href=context.velocity_href,
            year=year,
            on_unreadable=context.on_unreadable,
            leave_unreachable=last_attempt,
            max_lst_uncertainty_k=context.max_lst_uncertainty_k,
            max_cloud_pct=context.max_cloud_pct,
            loader=context.loader,
        )
    watch.cpu_seconds["read"] = report.cpu_s  # that of its threads included
    with watch.stage("features"):
        return features.with_radar(inputs), report


def stack_of(context: RunContext, inputs: xr.Dataset) -> xr.DataArray:
    """The stack (channel, y, x) of a run's inputs, on all of their pixels."""
    return features.build_stack(inputs, pca=context.pca or _no_pca(), on_missing=context.on_missing)


def packed_of(context: RunContext, inputs: xr.Dataset) -> Packed:
    """What the run's channels are made of, as numbers, on all pixels of its inputs."""
    return features.pack_inputs(
        inputs, context.channels, pca=context.pca or _no_pca(), on_missing=context.on_missing
    )


def cut_of(window: Window) -> dict[str, slice]:
    """A window in what was read for it."""
    rows, cols = window.slices_in(window.pad(features.HALO_PX))
    return {"y": rows, "x": cols}


def _no_pca() -> PcaBasis:
    """A basis for models that ask for no principal component; its channels are never looked at."""
    return PcaBasis(np.zeros(12), np.zeros((3, 12)))


def layers_shown(
    inputs: xr.Dataset,
    layers: Mapping[str, NDArray[Any]],
    year: int,
    part: tuple[slice, slice],
) -> NDArray[np.float16]:
    """The evidence (layer, y, x) of a block, which is ``part`` of its inputs.

    ``layers`` are those of its map: where they have no label, it is beside the region and shows nothing.
    """
    label = layers["label"]

    def plane(name: str) -> NDArray[np.floating] | None:
        found = inputs.get(name)
        return None if found is None else np.where(label != NO_DATA, found.values[part], np.float32(np.nan))

    return evidence.layers_of(plane, label, np.asarray(layers["source_date"]), year)


def _channels(stack: xr.DataArray, names: Sequence[str]) -> NDArray[np.float32]:
    """Some channels (c, y, x) of a stack in their order; all of them are the stack's own memory."""
    found = tuple(str(name) for name in stack.channel.values)
    planes: NDArray[np.float32] = stack.values
    return planes if found == tuple(names) else np.stack([planes[found.index(name)] for name in names])


def _complete(
    layers: dict[str, NDArray[Any]],
    inputs: xr.Dataset,
    modalities: NDArray[np.uint8],
    inside: NDArray[np.bool_],
) -> None:
    """Add to the predicted layers (y, x) of a block those of its inputs; beside the region is no data."""
    for name in ("source_date", "n_clear"):
        # absent where no optical scene reaches the block
        layers[name] = np.where(inside, inputs[name].values, 0) if name in inputs else 0 * inside
    layers["modalities"] = np.where(inside, modalities, 0).astype(np.uint8)
    for name in ("probability", "label", "confidence", "disagreement"):
        layers[name] = np.where(inside, layers[name], np.uint8(NO_DATA))


ATTEMPTS = 3
"""How often a block may fail before it is set aside."""


def process_block(
    out: str, identity: str, year: int, block: Block, predict: Predict, *, attempt: int = 1, worker: str = ""
) -> Marker:
    """Read, compute, predict and write one block, then put its marker; safe to repeat.

    Raises:
        AssetReadError: a modality could not be read at all, or a scene not now and ``attempt`` is not
            the last.
        UnreadableError: a scene is broken, under ``on_unreadable: fail``.
        ActorLostError: the actor died under the block.
        IntegrityError: the run is not there, or no longer.
    """
    keep_freed_memory()
    watch = Stopwatch()
    context = run_context(out, identity)
    outer = tiles.read_window(block, context.tile_px, context.overlap) if context.needs_halo else block.window
    inputs, report = inputs_of(context, year, outer, watch, last_attempt=attempt >= ATTEMPTS)
    with watch.stage("features"):
        sent: NDArray[np.float32] | Packed
        if context.derive_on == "device":
            sent, extent = packed_of(context, inputs), outer.pad(features.HALO_PX)
        else:
            stack = stack_of(context, inputs).isel(cut_of(outer))
            sent, extent = _channels(stack, context.channels), outer
        inputs = inputs.isel(cut_of(outer))
        present = features.modalities(inputs)
    rows, cols = block.window.slices_in(outer)
    with watch.stage("predict"):
        layers = dict(predict(sent, extent, block))
    _refuse_replaced(context, identity)  # a block takes minutes, and its driver may be gone
    if PREDICT_S in layers:  # elsewhere, while this task waited
        watch.cpu_seconds["predict"] = layers.pop(PREDICT_S)
    with watch.stage("write"), room(out):
        inside = ZoneRegion(block.epsg, context.region).pixels(block.window)
        own = inputs.isel(y=rows, x=cols)
        _complete(layers, own, present.values[rows, cols], inside)
        record = mosaic.write_block(f"{out}/mosaic.zarr", year, block, layers)
        seen = {
            name: np.where(inside, own[name].values, np.float32(np.nan))
            for name in quicklook.LAYERS
            if name in own
        }
        quicklook.write_block(out, year, block, seen)
        shown = layers_shown(inputs, layers, year, (rows, cols))
        evidence.write_block(out, year, block, shown)
        mosaic.settle(f"{out}/mosaic.zarr", year, block)
        quicklook.settle(out, year, block)
    label = layers["label"]
    counts = np.bincount(label[label != NO_DATA].ravel(), minlength=layers["probability"].shape[0])
    shares = report.choice.shares(block.window) if report.choice else ()
    marker = Marker(
        year=year,
        epsg=block.epsg,
        row=block.row,
        col=block.col,
        size_px=block.size_px,
        checksum=record.checksum,
        shards=mosaic.stamps(f"{out}/mosaic.zarr", year, block),
        written_bytes=record.stored_bytes,
        pixels=int(inside.sum()),
        valid_pixels=int(counts.sum()),
        class_pixels=[int(n) for n in counts],
        seconds={name: round(value, 4) for name, value in watch.seconds.items()},
        starts={name: round(value, 3) for name, value in watch.starts.items()},
        cpu_seconds={name: round(value, 4) for name, value in watch.cpu_seconds.items()},
        fetches=report.fetches,
        fetched_bytes=report.fetched_bytes,
        received_bytes=report.received_bytes,
        scenes_read=list(report.scenes_read),
        scenes_failed=list(report.scenes_failed),
        modality_pixels={
            name: int(np.count_nonzero(layers["modalities"] & bit))
            for name, bit in features.MODALITIES.items()
        },
        scene_choice=[SceneShare(**asdict(share)) for share in shares],
        worker=worker,
        attempt=attempt,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        identity=identity,
    )
    with room(out):
        Ledger(out).mark(marker)
    return marker
