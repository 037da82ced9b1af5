"""Training patches from finished runs: what the runs saw, with labels from outlines or label rasters.

The stacks are made by the code that serves a run, from the run's own frozen catalogue, so that training and
serving cannot drift apart. A block at a time is read, labelled, cut and written: memory is that of a
block (and a patch around it) for each worker, whatever the region.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import zarr
from numpy.typing import NDArray

from cryoscale.basis import fit_basis
from cryoscale.errors import AssetReadError, CryoscaleError, InputError, OutputError, SourceError
from cryoscale.features.stack import CHANNELS, PcaBasis
from cryoscale.grid import Block, Window
from cryoscale.learn.alone import alone_in
from cryoscale.learn.patches import Patches, PatchWriter, Place
from cryoscale.learn.samples import cut_patches
from cryoscale.learn.sampleset import SampleConfig, require_learnable, summarise
from cryoscale.learn.sheet import draw_sheet
from cryoscale.learn.splits import Ground, SplitRule, assign
from cryoscale.ledger import Ledger
from cryoscale.models.weights import read_card
from cryoscale.sources import LabelSource, MappedRegion, label_source, notes_on, open_regions
from cryoscale.task import ATTEMPTS, Stopwatch, features_of
from cryoscale.write import store
from cryoscale.write.objects import local_path

OnStage = Callable[[str], None]


def make_samples(
    runs: Sequence[str], out: str, config: SampleConfig, *, on_stage: OnStage | None = None
) -> dict[str, Any]:
    """Writes the patches of finished runs to ``out`` (X.zarr), with a picture sheet X.png and X.json.

    Returns the summary, as X.json has it. Whatever is wrong leaves none of the three behind, unless a picture
    or a summary was there before. A local set is written by one process at a time, where its file
    system has locks.

    Raises:
        InputError: anything the caller has to correct.
        NoRoomError: the disk is full.
    """
    stage = on_stage or (lambda text: None)
    _refuse_to_overwrite(out)
    folder = local_path(out)
    with nullcontext() if folder is None else alone_in(Path(folder), does="cuts patches"):
        _refuse_to_overwrite(out)  # again: another may just have finished
        return _make(runs, out, config, stage)


def _make(runs: Sequence[str], out: str, config: SampleConfig, stage: OnStage) -> dict[str, Any]:
    stem = out.removesuffix(".zarr")
    regions = open_regions(runs)
    _require_names(config.held_out, regions)
    labels = label_source(config, regions)
    learnt_from = [region for region in regions if region.name not in config.held_out]
    stage("looking for the basis of the principal components")
    basis, basis_source = _basis(config, learnt_from, stage)
    # a picture of before was replaced by then, and is not to be taken away as well
    pictured = _exists(f"{stem}.png")
    writer = None
    try:
        writer = PatchWriter(out, channels=CHANNELS, patch_px=config.patch_px, dtype=config.dtype)
        left_out, lost = _cut_all(regions, labels, basis, config, writer, stage)
        _require_patches(writer, regions, left_out, config)
        patches = _finish(writer, regions, labels, config, (basis, basis_source), lost)
        summary = summarise(patches, out, left_out=left_out, notes=notes_on(regions, labels))
        stage("drawing the picture sheet")
        draw_sheet(f"{stem}.png", patches)
        store.put(f"{stem}.json", (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
    except BaseException:
        # a set without its summary would stand in the way of the same command
        with suppress(OSError, CryoscaleError):  # of a store that is away now: the fault to tell is the first
            if writer is None or writer.is_mine:
                _remove(out)
                if not pictured:
                    _remove(f"{stem}.png")
        raise
    return summary


def _finish(
    writer: PatchWriter,
    regions: Sequence[MappedRegion],
    labels: LabelSource,
    config: SampleConfig,
    basis: tuple[PcaBasis, str],
    lost: Sequence[dict[str, Any]],
) -> Patches:
    where = {name: writer.column(name).astype(np.int64) for name in ("epsg", "row", "col")}
    ground = Ground(**where, patch_px=config.patch_px)
    rule = SplitRule(
        kind=config.split,
        fraction=config.fraction,
        test_fraction=config.test_fraction,
        block_px=config.block_px,
        gap_px=config.gap_px,
        seed=config.seed,
    )
    held_out = {region.number for region in regions if region.name in config.held_out}
    splits = assign(
        rule,
        ground,
        class_pixels=writer.column("class_pixels"),
        made_from=np.stack([writer.column(name) for name in ("region", "year", "composite")], axis=1),
        held_out=np.isin(writer.column("region"), list(held_out)),
    )
    writer.reassign(np.arange(len(writer)), splits)
    require_learnable(splits, writer.column("class_pixels"), rule)
    told = config.model_dump(mode="json", include={"patch_px", "stride_px", "min_labelled"})
    rules = asdict(labels.rules) if labels.truth is None else {}
    return writer.finish(
        pca=basis[0].to_dict(),
        split=rule.describe(config.held_out),
        split_rule={**rule.to_dict(), "held_out": list(config.held_out)},
        regions={str(region.number): region.name for region in regions},
        source={
            "kind": "mapped regions",
            "regions": [
                {
                    "name": region.name,
                    "run": region.context.out,
                    "identity_sha256": region.identity,
                    "years": sorted({year for year, _ in region.work}),
                    "composite": region.context.composite,
                }
                for region in regions
            ],
            "labels": labels.record(),
            "rules": {**rules, **told},
            "pca": basis[1],
            "scenes_failed": list(lost),
        },
    )


def _require_patches(
    writer: PatchWriter,
    regions: Sequence[MappedRegion],
    left_out: Sequence[dict[str, Any]],
    config: SampleConfig,
) -> None:
    for region in regions:
        if (writer.column("region") == region.number).any():
            continue
        reasons = [block["reason"] for block in left_out if block["region"] == region.name]
        if reasons:
            raise SourceError(
                f"run {region.name}, {len(reasons)} of whose {len(region.work)} blocks cannot be read "
                f"({reasons[0]})",
                "the scenes that it was mapped from",
                "bring them back, or leave the run out",
            )
        raise InputError(
            f"run {region.name}, not one patch of which is labelled to {config.min_labelled:.0%}",
            "clear optical pixels with labels in every run",
            "check outlines and clouds, lower --min-labelled, or leave the run out",
        )


def _require_names(held_out: Sequence[str], regions: Sequence[MappedRegion]) -> None:
    names = [region.name for region in regions]
    for name in held_out:
        if name not in names:
            raise InputError(f"--held-out {name}", f"the name of a run: {', '.join(names)}", "correct it")
    if held_out and len(set(held_out)) == len(names):
        raise InputError("--held-out of every run", "a run to train on", "leave one in")


def _basis(config: SampleConfig, regions: Sequence[MappedRegion], stage: OnStage) -> tuple[PcaBasis, str]:
    """The one PCA basis of the set, and in words where it comes from."""
    if config.weights is not None:
        card = read_card(config.weights)
        if card.pca is None:
            raise InputError(
                f"weights {config.weights} without a PCA basis",
                "weights for the principal components",
                "leave --weights out",
            )
        return PcaBasis.from_dict(card.pca.model_dump()), f"of the weights {config.weights.name}"
    own = {region.context.pca for region in regions}
    if len(own) == 1 and (basis := own.pop()) is not None:
        return basis, "of the runs, which had it from their model or fitted it"
    work = [(region.context, year, block) for region in regions for year, block in region.work]
    names = ", ".join(region.name for region in regions)
    fitted = fit_basis(work)
    for line in fitted.lines():
        stage(line)
    return fitted.basis, f"fitted on a seeded sample of the clear pixels of {names}"


def _refuse_to_overwrite(out: str) -> None:
    """A set that was interrupted is ours to replace, and what lies beside one; anything else is not.

    Raises:
        OutputError: something else lies there, or the name is not that of a Zarr store.
    """
    if not out.endswith(".zarr"):
        raise OutputError(f"output {out}", "a path that ends in .zarr", "rename it")
    empty = Ledger(out).is_empty()  # asked first, since it tells an address of an unknown kind in a line
    _refuse_what_is_beside(out.removesuffix(".zarr"))
    filesystem, path = fsspec.core.url_to_fs(out)
    if empty and not filesystem.isfile(path):
        return
    try:
        interrupted = zarr.open_group(store.open_store(out, read_only=True), mode="r").attrs.get("complete")
    except (FileNotFoundError, NotADirectoryError, zarr.errors.GroupNotFoundError):
        interrupted = None
    if interrupted is not False:
        raise OutputError(f"output {out}, which exists", "a new store", "give another --out, or remove it")


def _refuse_what_is_beside(stem: str) -> None:
    """X.png and X.json are written last: a folder there would fail after hours of cutting.

    Raises:
        OutputError: a folder is in the way of one, or a file of that name is no summary, as the card of
            X.safetensors.
    """
    summary = f"{stem}.json"
    for file in (f"{stem}.png", summary):
        filesystem, path = fsspec.core.url_to_fs(file)
        if filesystem.isdir(path):
            raise OutputError(f"output {file}, which is a folder", "a file", "give another --out, or move it")
    filesystem, path = fsspec.core.url_to_fs(summary)
    if filesystem.exists(path) and not _is_summary(filesystem.cat_file(path)):
        given = f"output {summary}, which is no summary of a patch set (the card of weights?)"
        raise OutputError(given, "such a summary, or nothing there", "give another --out, or move it")


def _is_summary(content: bytes) -> bool:
    try:
        found = json.loads(content)
    except ValueError:
        return False
    return isinstance(found, dict) and {"split_rule", "class_pixels"} <= set(found)


def _exists(file: str) -> bool:
    filesystem, path = fsspec.core.url_to_fs(file)
    return bool(filesystem.exists(path))


def _remove(out: str) -> None:
    if _exists(out):
        filesystem, path = fsspec.core.url_to_fs(out)
        filesystem.rm(path, recursive=True)


# --- cutting ------------------------------------------------------------------------------------


def _cut_all(
    regions: Sequence[MappedRegion],
    labels: LabelSource,
    basis: PcaBasis,
    config: SampleConfig,
    writer: PatchWriter,
    stage: OnStage,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cuts every block of every region into the writer; returns what could not be read.

    Blocks, and scenes that blocks are without here and the run was not: what is learnt there is not quite
    what was mapped.
    """
    jobs = [(region, year, block) for region in regions for year, block in region.work]
    left_out = []
    lost: set[tuple[str, str, str]] = set()
    stage(f"cutting patches of {len(jobs)} blocks")

    def job(region: MappedRegion, year: int, block: Block) -> _Cut | str | None:
        return _read_block(region, year, block, labels, basis, config)

    for (region, year, block), cut in _in_order(job, jobs, config.workers):
        if isinstance(cut, str):
            left_out.append({"region": region.name, "year": year, "block": block.key, "reason": cut})
        elif cut is not None:
            lost.update((region.name, *scene) for scene in cut.failed if scene[0] not in region.without)
            _write(cut, region, year, config, writer)
    return left_out, [dict(zip(("region", "scene", "reason"), one, strict=True)) for one in sorted(lost)]


def _in_order(
    job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each job's arguments and result, in order, with at most ``workers`` results in memory."""
    waiting: deque[tuple[tuple[Any, ...], Future[Any]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for one in arguments:
                if len(waiting) == workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
                waiting.append((one, pool.submit(job, *one)))
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


@dataclass(frozen=True, eq=False)
class _Cut:
    """The stack (c,y,x), labels, flags and optical dates (y,x) under the patches of a block.

    ``failed`` are scenes that could not be read, and why.
    """

    window: Window
    stack: NDArray[np.float32]
    labels: NDArray[np.uint8]
    flags: NDArray[np.uint8]
    day: NDArray[np.int32]
    failed: tuple[tuple[str, str], ...]


def _read_block(
    region: MappedRegion,
    year: int,
    block: Block,
    labels: LabelSource,
    basis: PcaBasis,
    config: SampleConfig,
) -> _Cut | str | None:
    """What lies under the block's patches; why it cannot be read; or None where it has no patch."""
    window = patches_window(block, config.patch_px, config.stride_px)
    if window is None:
        return None
    context = replace(region.context, pca=basis)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            stack, inputs, report = features_of(
                context, year, window, Stopwatch(), last_attempt=attempt == ATTEMPTS
            )
            break
        except AssetReadError as error:
            reason = " ".join(str(error).split())
    else:
        return reason
    day = inputs["source_date"].values if "source_date" in inputs else np.zeros(window.shape, np.int32)
    found = labels.labels(context.region, year, window, stack.values)
    return _Cut(window, stack.values, *found, day, report.scenes_failed)


def patches_window(block: Block, patch_px: int, stride_px: int) -> Window | None:
    """The hull of the patches whose centre lies in the block; None where there is none.

    Patches lie at multiples of the stride from the zone's origin, whatever region or block they are cut
    from: two runs over the same ground have the same patches.
    """
    spans = []
    for start in (block.window.row, block.window.col):
        first = math.ceil((start - patch_px // 2) / stride_px) * stride_px
        last = (start + block.size_px - 1 - patch_px // 2) // stride_px * stride_px
        if last < first:
            return None
        spans.append((first, last + patch_px - first))
    (row, height), (col, width) = spans
    return Window(block.epsg, row, col, height, width)


def _write(cut: _Cut, region: MappedRegion, year: int, config: SampleConfig, writer: PatchWriter) -> None:
    window = cut.window
    found = cut_patches(
        cut.stack,
        cut.labels,
        patch_px=config.patch_px,
        stride_px=config.stride_px,
        min_labelled=config.min_labelled,
    )
    for row, col, x, y in found:
        here = (slice(row, row + config.patch_px), slice(col, col + config.patch_px))
        days = cut.day[here]
        seen = days[days > 0]
        place = Place(
            epsg=window.epsg,
            row=window.row + row,
            col=window.col + col,
            region=region.number,
            composite=region.context.composite,
            split="unused",
            year=year,
            day=int(np.median(seen)) if seen.size else 0,
        )
        writer.add(x, y, place, cut.flags[here])
