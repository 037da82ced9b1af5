"""The rates of this machine, measured now with the very code of a run on one or a few real sample blocks."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cryoscale.basis import context_of
from cryoscale.errors import AssetReadError, SourceError
from cryoscale.features import stack as features
from cryoscale.features.stack import HALO_PX, PcaBasis
from cryoscale.forecast.rates import FORMAT, Disk, Profile, Reading, TileRate, cores, machine_name, model_key
from cryoscale.grid import Block, Window
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.predict import optical_channels, valid_pixels
from cryoscale.infer.tiles import read_window
from cryoscale.ledger import Marker
from cryoscale.models.protocol import PredictsTiles
from cryoscale.plan import Items
from cryoscale.processor import cpu_s
from cryoscale.read.inputs import ReadReport
from cryoscale.read.raster import UnreadableError
from cryoscale.settings import Settings
from cryoscale.task import RunContext, Stopwatch, features_of, layers_shown
from cryoscale.write import evidence, mosaic, quicklook

log = logging.getLogger(__name__)

BUDGET_S = 6.0
"""No further sample is begun after so long."""

MOST_SAMPLES = 4
_MOST_OVERLAP = 0.5
"""Of tiles that a CPU is measured on: a pixel lies in four of them, in 16 with an overlap of 0.75."""
_SAMPLE_PX = 512
_FEW_PX = 64
"""Edge of a window that takes hardly any pixels: what reading it costs is opening and decoding chunks."""


@dataclass
class _Sums:
    """What all samples took, and the actors in question, of which the quickest is left once one has shown."""

    actors: list[ModelActor]
    reads: list[tuple[int, float, float, float]] = field(default_factory=list)
    """(fetches, million bytes cut, processor seconds, seconds of the clock)."""
    features_s: float = 0.0
    features_mpx: float = 0.0
    write_s: float = 0.0
    write_mpx: float = 0.0
    predict_s: float = 0.0
    tiles: float = 0.0
    disks: list[Disk] = field(default_factory=list)


def measure(
    settings: Settings,
    items: Items,
    blocks: Sequence[tuple[int, Block]],
    predictor: PredictsTiles,
    precisions: Sequence[str] = (),
) -> Profile:
    """Rates of this machine, from the middles of ``blocks`` (year, block), the most telling ones first.

    Each is read, featurised, predicted and written to a temporary folder that is then removed; a second or
    two a block, more where scenes are far away or the model is large.

    Args:
        settings: of the run.
        items: the scenes by year and modality.
        blocks: years and blocks to sample.
        predictor: the run's model, for what it says of itself.
        precisions: those that the run will try beside the one of ``settings``; the quickest of them here
            is measured, as the run will find it too, unless the weights do not bear it.

    Raises:
        SourceError: none of the samples can be read.
    """
    settings = _with_few_tiles(settings)
    context = dataclasses.replace(
        context_of(settings, "", items, _basis(predictor)),
        needs_halo=predictor.needs_halo,
        channels=predictor.channels,
    )
    sums, failures = _Sums(_actors(settings, precisions)), list[str]()
    began = time.perf_counter()
    for year, block in blocks[:MOST_SAMPLES]:
        try:
            _sample(context, year, _middle(block), sums, predictor)
        except (AssetReadError, UnreadableError) as error:
            failures.append(" ".join(str(error).split()))
        if sums.reads and time.perf_counter() - began > BUDGET_S:
            break
    if not sums.reads:
        raise SourceError(
            f"{len(failures)} sample blocks of which none could be read ({failures[0]})",
            "scenes that can be read",
            "mend the source, or plan with --no-measure",
        )
    return _profile(settings, sums, predictor)


def _with_few_tiles(settings: Settings) -> Settings:
    """The settings, where CPUs predict with no more overlap than it takes to measure how fast they do.

    They see a tile at a time, and take as long for it however many others lie over it. A GPU, which sees
    batches of a block, does not.
    """
    from cryoscale.models.predictor import choose_device

    if choose_device("auto").type != "cpu":
        return settings
    overlap = min(settings.model.overlap, _MOST_OVERLAP)
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, overlap=overlap))


def _actors(settings: Settings, precisions: Sequence[str]) -> list[ModelActor]:
    """One as it is configured, and one for each of ``precisions`` that can be had here."""

    def actor(**changed: str) -> ModelActor:
        return ModelActor(
            {**settings.model.keywords, **changed},
            tile_px=settings.tile_px,
            overlap=settings.model.overlap,
            threads=1,
            confidence=settings.model.confidence,
        )

    made = [actor()]
    for precision in precisions:
        try:
            made.append(actor(precision=precision))
        except Exception as error:  # a library that cannot run this network is one that the run will not take
            log.debug("%s is not measured: %s", precision, error)
    return made


def _basis(predictor: PredictsTiles) -> PcaBasis:
    """The model's basis, or any one: what it holds does not change how long it takes."""
    return PcaBasis.from_dict(predictor.pca) if predictor.pca else PcaBasis(np.zeros(12), np.eye(3, 12))


def _middle(block: Block) -> Block:
    """A block of at most 512 pixels in the middle of ``block``, on a lattice of its own."""
    size = _SAMPLE_PX if block.size_px % _SAMPLE_PX == 0 else 256
    many = block.size_px // size
    return Block(block.epsg, block.row * many + many // 2, block.col * many + many // 2, size)


def _sample(context: RunContext, year: int, block: Block, sums: _Sums, predictor: PredictsTiles) -> None:
    window = block.window
    outer = read_window(block, context.tile_px, context.overlap) if context.needs_halo else window
    edge = (window.height - _FEW_PX) // 2
    few = window.pad(-edge)
    if not sums.reads:
        features_of(context, year, few, Stopwatch())  # compilers, libraries and headers are paid once
    watch = Stopwatch()
    for part in (few, outer):
        start, watch = time.perf_counter(), Stopwatch()
        stack, inputs, report = features_of(context, year, part, watch)
        took = time.perf_counter() - start - watch.cpu_seconds["features"]
        sums.reads.append((report.fetches, report.bytes_read / 1e6, report.cpu_s, took))
    sums.features_s += watch.cpu_seconds["features"]
    padded = outer.pad(HALO_PX)
    sums.features_mpx += padded.height * padded.width / 1e6
    wanted = np.ascontiguousarray(stack.sel(channel=list(predictor.channels)).values)
    layers = _predicted(wanted, outer, block, sums, predictor.channels)
    if layers is not None:
        _written(layers, inputs, outer, block, year, report, sums, predictor)


def _predicted(
    wanted: Any, outer: Window, block: Block, sums: _Sums, channels: Sequence[str]
) -> dict[str, Any] | None:
    """The block's layers, and what predicting took; None without data, or where it takes too long."""
    if not sums.tiles:
        seen = _seen(wanted, outer, block, channels)
        if seen is None:
            return None
        best = _quickest(sums.actors, wanted, outer, seen)
        sums.actors, described = [best.actor], best.actor.describe()
        edge = block.size_px / max(described["tile_px"] * (1.0 - described["overlap"]), 1.0)
        if best.clock_s / best.tiles * edge**2 > 2 * BUDGET_S:
            sums.predict_s += best.seconds
            sums.tiles += best.tiles
            return None
        if _on_gpu(best.actor):  # a batch of a whole block is another, and captured first
            best.actor.predict(wanted, outer.row, outer.col, block)
    turn = _turn(sums.actors[0], wanted, outer, block)
    sums.predict_s += turn.seconds
    sums.tiles += turn.tiles
    return turn.layers


def _seen(wanted: Any, outer: Window, block: Block, channels: Sequence[str]) -> Window | None:
    """The pixel nearest to the middle of those that the network is asked about; None without data."""
    rows, cols = block.window.slices_in(outer)
    valid = np.argwhere(valid_pixels(wanted, optical_channels(channels, len(channels)))[rows, cols])
    if not len(valid):
        return None
    row, col = valid[((valid - block.size_px // 2) ** 2).sum(axis=1).argmin()]
    return Window(block.epsg, block.window.row + int(row), block.window.col + int(col), 1, 1)


def _quickest(actors: Sequence[ModelActor], wanted: Any, outer: Window, seen: Window) -> _Turn:
    """The turn of the actor that took least for ``seen``, once each is warm."""
    turns = []
    for actor in actors:
        try:
            actor.predict(wanted, outer.row, outer.col, seen)
            turns.append(_turn(actor, wanted, outer, seen))
        except Exception as error:
            if not turns:  # the one that is configured
                raise
            log.debug("a precision is not measured: %s", error)
    return min(turns, key=lambda turn: turn.seconds)


@dataclass(frozen=True)
class _Turn:
    """What an actor predicted, how many tiles it took, seconds of the clock, and those that count."""

    actor: ModelActor
    layers: dict[str, Any]
    tiles: float
    clock_s: float
    seconds: float
    """Of the processor; of the clock on a GPU."""


def _turn(actor: ModelActor, wanted: Any, outer: Window, part: Block | Window) -> _Turn:
    before, start, start_s = actor.stats()["tiles"], cpu_s(), time.perf_counter()
    layers: dict[str, Any] = dict(actor.predict(wanted, outer.row, outer.col, part))
    clock_s, processor_s = time.perf_counter() - start_s, cpu_s() - start
    tiles = actor.stats()["tiles"] - before
    return _Turn(actor, layers, tiles, clock_s, clock_s if _on_gpu(actor) else processor_s)


def _on_gpu(actor: ModelActor) -> bool:
    return str(actor.describe().get("device", "cpu")).startswith("cuda")


def _written(
    layers: dict[str, Any],
    inputs: Any,
    outer: Window,
    block: Block,
    year: int,
    report: ReadReport,
    sums: _Sums,
    predictor: PredictsTiles,
) -> None:
    rows, cols = block.window.slices_in(outer)
    for name in ("source_date", "n_clear"):
        if name in inputs:
            layers[name] = inputs[name].values[rows, cols]
    layers["modalities"] = features.modalities(inputs).values[rows, cols].astype(np.uint8)
    seen = {name: inputs[name].values[rows, cols] for name in quicklook.LAYERS if name in inputs}
    valid = int((layers["label"] != mosaic.NODATA).sum())
    if not valid:
        return
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        url, window = f"{folder}/mosaic.zarr", block.window
        mosaic.create(
            url, year=year, window=window, block_px=block.size_px, classes=predictor.classes, attrs={}
        )
        quicklook.create(folder, year=year, window=window, block_px=block.size_px)
        with watch.stage("write"):
            record = mosaic.write_block(url, year, block, layers)
            quicklook.write_block(folder, year, block, seen)
            shown = layers_shown(inputs, layers, year, (rows, cols))
            evidence.write_block(folder, year, block, shown)
        described = _size(Path(url), "zarr.json")
        mosaic.build_levels(url, year, block.epsg)
        level = sum(_size(path) for path in Path(url).rglob("x2/*/c"))
        base = sum(
            _size(path) for name in _LEVELLED for path in [Path(url) / f"{year}/{block.epsg}/{name}/c"]
        )
        share = level / base if level else 0.25  # a single chunk has no coarser level to look at
        marker = _marker(block, year, report, record)
        sums.disks.append(
            Disk(
                mosaic_per_px=record.stored_bytes / valid,
                # each level is to the one below as the first is to the map
                levels_share=base / record.stored_bytes * share / (1.0 - min(share, 0.9)),
                quicklook_per_px=sum(_size(p) for p in Path(folder).glob("quicklook.zarr/*/*/*/c")) / valid,
                marker=len(marker),
                group=described,
            )
        )
    sums.write_s += watch.cpu_seconds["write"]
    sums.write_mpx += block.size_px**2 / 1e6


_LEVELLED = ("probability", "label", "confidence", "disagreement")


def _size(path: Path, name: str = "*") -> int:
    return sum(file.stat().st_size for file in path.rglob(name) if file.is_file())


def _marker(block: Block, year: int, report: ReadReport, record: mosaic.BlockRecord) -> bytes:
    """A marker as a block of the run will leave it, for its length."""
    shares = report.choice.shares(block.window) if report.choice else ()
    marker = Marker(
        year=year,
        epsg=block.epsg,
        row=block.row,
        col=block.col,
        size_px=block.size_px,
        checksum=record.checksum,
        written_bytes=record.stored_bytes,
        pixels=block.size_px**2,
        valid_pixels=block.size_px**2,
        class_pixels=[block.size_px**2] * 5,
        shards=dict.fromkeys(mosaic.ARRAYS, (record.stored_bytes, "1795556928000000000-1234567")),
        seconds=dict.fromkeys(("read", "features", "predict", "write"), 1.2345),
        cpu_seconds=dict.fromkeys(("read", "features", "predict", "write"), 1.2345),
        fetches=report.fetches,
        fetched_bytes=report.fetched_bytes,
        scenes_read=list(report.scenes_read),
        modality_pixels=dict.fromkeys(features.MODALITIES, block.size_px**2),
        scene_choice=[dataclasses.asdict(share) for share in shares],  # type: ignore[misc]
        worker="cpu-0",
        finished="2018-10-31T00:00:00+00:00",
        identity="0" * 64,
    )
    return marker.to_bytes()


_ENGINE = ("device_name", "precision")


def _profile(settings: Settings, sums: _Sums, predictor: PredictsTiles) -> Profile:
    tiles, actor = {}, sums.actors[0]
    described = actor.describe()
    if sums.tiles and sums.predict_s > 0:
        tiles[model_key(predictor.describe(), settings.model.passes)] = TileRate(
            tiles_per_s=sums.tiles / sums.predict_s,
            device="gpu" if _on_gpu(actor) else "cpu",
            device_name=", ".join(str(described[name]) for name in _ENGINE if described.get(name)),
            tile_px=settings.tile_px,
        )
    disk = None
    if sums.disks:
        names = Disk.model_fields
        disk = Disk(**{name: float(np.mean([getattr(one, name) for one in sums.disks])) for name in names})
    return Profile(
        format=FORMAT,
        name=f"measured on {machine_name()}",
        cpu_cores=cores(),
        read=_reading(sums.reads),
        features_s_per_mpx=sums.features_s / sums.features_mpx,
        write_s_per_mpx=sums.write_s / sums.write_mpx if sums.write_mpx else None,
        tiles=tiles,
        disk=disk,
    )


def _reading(reads: Sequence[tuple[int, float, float, float]]) -> Reading:
    """Seconds a chunk and a million bytes cut out, by least squares, neither below 0."""
    units = np.array([[fetches, mb] for fetches, mb, _, _ in reads], float)
    seconds = np.array([cpu for _, _, cpu, _ in reads])
    fetch, mb = np.linalg.lstsq(units, seconds, rcond=None)[0]
    if fetch < 0 or mb < 0:
        fetch, mb = (
            (0.0, seconds.sum() / units[:, 1].sum())
            if fetch < 0
            else (seconds.sum() / units[:, 0].sum(), 0.0)
        )
    clock = sum(took for *_, took in reads) / max(seconds.sum(), 1e-9)
    return Reading(s_per_fetch=float(fetch), s_per_mb=float(mb), clock=max(float(clock), 1.0))
