"""All workloads of a scale, one after the other, so that their figures may be held against one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoscale.bench import record
from cryoscale.bench.figure import Figure
from cryoscale.bench.limits import Limits, measure_limits
from cryoscale.errors import InputError

PACKAGES = (
    "cryoscale",
    "torch",
    "numpy",
    "numba",
    "zarr",
    "xarray",
    "scikit-image",
    "scikit-learn",
    "xarray-spatial",
)
METHOD = (
    "made-up input of one block, drawn weights; every figure is the fastest of several runs after one that "
    "warms up, its limit and its rival measured in the same process"
)


@dataclass(frozen=True)
class Scale:
    """Edge of a block for features, blending and writing, and for an actor; tiles; networks by name."""

    block_px: int
    actor_px: int
    tile_px: int
    networks: tuple[str, ...]


SCALES = {
    "tiny": Scale(256, 128, 64, ("tiny",)),
    "moderate": Scale(2048, 1024, 256, ("small",)),
    "full": Scale(2048, 1024, 256, ("small", "cryonet")),
}
WORKLOADS = ("features", "network", "actor", "blending", "writing")
OVERLAP = 0.5


@dataclass(frozen=True)
class Bench:
    """What was measured: the scale, the machine's limits, and a figure of each workload."""

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
    on_stage: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Measure some workloads, or all of them, and add the line to ``out``.

    Raises:
        InputError: a workload or scale that there is not, or a device that cannot be had.
    """
    from cryoscale.models.predictor import choose_device

    unknown = [name for name in workloads if name not in WORKLOADS]
    if unknown:
        given = f"workload {unknown[0]!r}"
        raise InputError(given, f"some of {', '.join(WORKLOADS)}", "name these, or none for all")
    if scale not in SCALES:
        raise InputError(f"scale {scale!r}", f"one of {', '.join(SCALES)}", "name one of these")
    chosen = choose_device(device).type
    on_stage("what the machine can do: copying and multiplying")
    limits = measure_limits(chosen)
    found = _figures(set(workloads or WORKLOADS), SCALES[scale], chosen, limits, on_stage)
    made = Bench(scale, limits, tuple(found))
    if out is not None:
        record.append(out, made.line())
    return made


def _figures(
    wanted: set[str], scale: Scale, device: str, limits: Limits, on_stage: Callable[[str], None]
) -> Iterator[Figure]:
    from cryoscale.bench import actor, blending, features, network, writing
    from cryoscale.infer.actor import GPU_BATCH

    if "features" in wanted:
        on_stage("features")
        yield features.measure(scale.block_px, limits)
    for size in scale.networks if wanted & {"network", "actor"} else ():
        on_stage(f"network {size}")
        predictor = network.predictor_of(size, device=device)
        batch = GPU_BATCH if device == "cuda" else 1
        alone = network.measure(size, predictor, scale.tile_px, batch, limits)
        if "network" in wanted:
            yield alone
        if "actor" in wanted:
            on_stage(f"actor {size}")
            yield actor.measure(predictor, alone, scale.actor_px, scale.tile_px, OVERLAP)
    if "blending" in wanted:
        on_stage("blending")
        yield blending.measure(scale.block_px, scale.tile_px, OVERLAP, limits)
    if "writing" in wanted:
        on_stage("writing")
        yield writing.measure(scale.block_px)
