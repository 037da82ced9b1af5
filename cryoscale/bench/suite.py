"""All workloads of a scale, one after the other, so that their figures may be held against one another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoscale.bench import record
from cryoscale.bench.figure import Figure, rounded
from cryoscale.bench.limits import Limits, measure_limits
from cryoscale.errors import InputError
from cryoscale.write import disk

PACKAGES = (
    "cryoscale",
    "torch",
    "openvino",
    "numpy",
    "numba",
    "zarr",
    "xarray",
    "dask",
    "distributed",
    "rasterio",
    "stackstac",
    "odc-stac",
    "scikit-image",
    "scikit-learn",
    "xarray-spatial",
)
METHOD = (
    "made-up input of one block, drawn weights; limits and rivals measured in the same process and alike. "
    "Features, network, actor, blending and writing: the fastest of several runs after one that warms up, "
    "which counts too where it takes more than 5 s, and is the only one where it takes more than 10 to 25 s. "
    "Reading: the fastest of 3 turns. Fed actor and orchestration: one run, after blocks that warm up. "
    "Mapping and end to end: one run"
)


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        block_px: edge of a block for features, blending and writing.
        actor_px: edge of a block for an actor.
        tile_px: edge of a tile.
        networks: by name.
        fed_px: edge of the blocks that an actor is fed with; the full network is fed with them one by one.
        fed_blocks: how many of them.
        gpu_px: edge of the blocks of an actor on a GPU, fed or alone; a run's own unless told otherwise.
        gpu_blocks: how many a fed one gets.
        scenes: scenes that are read, of ``block_px``.
        idle_blocks: blocks without work.
        range: simulated range that is run from end to end.
    """

    block_px: int
    actor_px: int
    tile_px: int
    networks: tuple[str, ...]
    fed_px: int
    fed_blocks: int
    scenes: int
    idle_blocks: int
    range: str
    gpu_px: int = 2048
    gpu_blocks: int = 64


SCALES = {
    "tiny": Scale(256, 128, 64, ("tiny",), 64, 4, 1, 50, "tiny"),
    "moderate": Scale(2048, 1024, 256, ("small",), 512, 16, 4, 1000, "small"),
    "full": Scale(2048, 1024, 256, ("small", "cryonet"), 512, 16, 4, 1000, "medium"),
}
WHOLE = "end-to-end"
WORKLOADS = (
    "features",
    "network",
    "actor",
    "fed-actor",
    "reading",
    "blending",
    "writing",
    "orchestration",
    WHOLE,
)
OVERLAP = 0.5
FEW_BLOCKS = 4
"""Of the full network on a CPU, which takes seconds a tile and thread."""


@dataclass(frozen=True)
class Bench:
    """What was measured: the scale, the machine's limits and a figure of each workload."""

    scale: str
    limits: Limits
    figures: tuple[Figure, ...]

    def line(self) -> dict[str, Any]:
        """The measurement as one line of a record."""
        figures = {figure.workload: figure.to_dict() for figure in self.figures}
        return record.line(
            "bench",
            method=METHOD,
            sizes={"scale": self.scale, **vars(SCALES[self.scale])},
            results={"limits": self.limits.to_dict(), "figures": figures},
            packages=PACKAGES,
        )


def measure(
    workloads: Sequence[str] = (),
    scale: str = "moderate",
    *,
    device: str = "auto",
    out: Path | None = None,
    timeline: Path | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Measure some workloads, or all of them, and add the line to ``out``.

    What is measured so far lies in ``out`` with ``.part`` after its name: somebody may have to stop in the
    middle.

    Args:
        workloads: some of :data:`WORKLOADS`; all where none is named.
        scale: one of :data:`SCALES`.
        device: auto, cpu or cuda.
        out: a file of JSON lines.
        timeline: a PNG of the end-to-end run's stages.
        on_stage: told what is measured, and each figure as it comes.

    Raises:
        InputError: a workload or scale that there is not, a device that cannot be had, a timeline of a run
            that is not wanted.
        OutputError: ``out`` or ``timeline`` cannot be written.
    """
    from cryoscale.models.predictor import choose_device

    unknown = [name for name in workloads if name not in WORKLOADS]
    if unknown:
        given = f"workload {unknown[0]!r}"
        raise InputError(given, f"some of {', '.join(WORKLOADS)}", "name these, or none for all")
    if scale not in SCALES:
        raise InputError(f"scale {scale!r}", f"one of {', '.join(SCALES)}", "name one of these")
    wanted = set(workloads or WORKLOADS)
    if timeline is not None and WHOLE not in wanted:
        given = f"--timeline {timeline} without {WHOLE}"
        raise InputError(
            given, f"{WHOLE} among the workloads, whose run it draws", "name it, or none for all"
        )
    for path in filter(None, (out, timeline)):
        record.require_writable(path)
    chosen = choose_device(device).type
    if WHOLE in wanted and chosen == "cpu" and choose_device("auto").type == "cuda":
        raise InputError(
            f"device cpu for {WHOLE} on a machine with a GPU, which a run would take",
            "device auto, or the GPU out of sight",
            "set CUDA_VISIBLE_DEVICES to nothing, or name other workloads",
        )
    on_stage("what the machine can do: copying and multiplying")
    limits = measure_limits(chosen)
    found: list[Figure] = []

    def keep(figures: Iterable[Figure]) -> None:
        for figure in figures:
            found.append(figure)
            on_stage(f"  {rounded(figure.rate):g} {figure.unit}")
            if out is not None:
                record.keep(_part(out), Bench(scale, limits, tuple(found)).line())

    try:
        keep(_figures(wanted, SCALES[scale], chosen, limits, on_stage))
        keep(_of_the_machine(wanted, SCALES[scale], on_stage))
        if WHOLE in wanted:
            from cryoscale.bench import whole

            on_stage("a run from end to end")
            done = whole.measure(SCALES[scale].range, on_gpu=chosen == "cuda")
            keep(done.figures)
            if timeline is not None:
                disk.write(os.path.abspath(timeline), done.timeline_png, replace=True)
        made = Bench(scale, limits, tuple(found))
        if out is not None:
            record.append(out, made.line())
    except BaseException:
        if out is not None and found:
            on_stage(f"{len(found)} figures are kept in {_part(out)}")
        raise
    if out is not None:
        _part(out).unlink(missing_ok=True)
    return made


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _figures(
    wanted: set[str], scale: Scale, device: str, limits: Limits, on_stage: Callable[[str], None]
) -> Iterator[Figure]:
    """What is held against the machine's limits, or against one another."""
    from cryoscale.bench import actor, features, fed, network
    from cryoscale.infer.actor import GPU_BATCH

    if "features" in wanted:
        on_stage("features")
        yield features.measure(scale.block_px, limits)
    for size in scale.networks if wanted & {"network", "actor", "fed-actor"} else ():
        on_stage(f"network {size}")
        # on a GPU the way that a run's own trial would most likely choose
        precision = "bf16-fused" if device == "cuda" else "auto"
        predictor = network.predictor_of(size, device=device, precision=precision)
        batch = GPU_BATCH if device == "cuda" else 1
        alone = network.measure(size, predictor, scale.tile_px, batch, limits)
        if "network" in wanted:
            yield alone
            if device == "cpu" and (quickest := network.measure_quickest(size, scale.tile_px, limits)):
                yield quickest
        if "actor" in wanted:
            on_stage(f"actor {size}")
            edge = scale.gpu_px if device == "cuda" else scale.actor_px
            by_channels = actor.measure(predictor, alone, edge, scale.tile_px, OVERLAP)
            yield by_channels
            if device == "cuda" or size == "tiny":  # a CPU leaves channels to whoever reads
                on_stage(f"actor {size} that makes channels")
                yield actor.measure_numbers(predictor, by_channels, alone)
        if "fed-actor" in wanted:
            on_stage(f"actor {size}, fed by Dask")
            few = FEW_BLOCKS if size == "cryonet" else scale.fed_blocks
            edge, count = (scale.gpu_px, scale.gpu_blocks) if device == "cuda" else (scale.fed_px, few)
            yield fed.measure(size, predictor, fed.Feed(edge, scale.tile_px, OVERLAP, count))
    if "blending" in wanted:
        from cryoscale.bench import blending

        on_stage("blending")
        yield blending.measure(scale.block_px, scale.tile_px, OVERLAP, limits)


def _of_the_machine(wanted: set[str], scale: Scale, on_stage: Callable[[str], None]) -> Iterator[Figure]:
    """What waits for disks, networks and other processes."""
    from cryoscale.bench import orchestration, reading, writing

    if "reading" in wanted:
        on_stage("reading")
        yield reading.measure(scale.block_px, scale.block_px // 2, scale.scenes)
    if "writing" in wanted:
        on_stage("writing")
        yield writing.measure(scale.block_px)
    if "orchestration" in wanted:
        on_stage("orchestration")
        yield orchestration.measure(scale.idle_blocks)
