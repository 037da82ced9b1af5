"""A run from its catalogue to its report, held to the processor seconds of its own stages."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoscale.bench.figure import Figure, Rival, rounded
from cryoscale.bench.timeline import draw
from cryoscale.config import load_config
from cryoscale.demo import simulated_range
from cryoscale.infer.actor import ModelActor
from cryoscale.ledger import Ledger, Marker
from cryoscale.pipeline import run
from cryoscale.settings import Settings
from cryoscale.simulate.server import serve
from cryoscale.task import process_block

YEAR, SEED = 2018, 7


@dataclass(frozen=True)
class Whole:
    """A run's figure and its timeline as PNG."""

    figure: Figure
    timeline_png: bytes


def measure(size: str, *, rival: bool = True) -> Whole:
    """Pixels a second of a simulated range's run while it maps; limit: its stages' CPU seconds on all cores.

    The range is made before the clock starts. ``rival`` tells whether the blocks are done once more, one
    after the other, for comparison.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        document = simulated_range(out, size, (YEAR,), SEED, lambda text: None)
        with serve(out / "simulated") as url:
            settings = load_config({**document, "catalogs": [{"url": url}]})
            moments: list[tuple[str, float]] = []
            run(settings, str(out), on_stage=lambda text: moments.append((text, time.perf_counter())))
            ended = time.perf_counter()
            markers = list(Ledger(str(out)).markers())
            one_by_one_s = _one_by_one_s(settings, str(out), markers) if rival else None
    return Whole(_figure(size, markers, phases(moments, ended), one_by_one_s), _picture(size, markers))


def _figure(
    size: str, markers: list[Marker], phases: Mapping[str, float], one_by_one_s: float | None
) -> Figure:
    cores = os.cpu_count() or 1
    amount = sum(marker.pixels for marker in markers) / 1e6
    cpu: dict[str, float] = {}
    for marker in markers:
        for stage, spent_s in marker.cpu_seconds.items():
            cpu[stage] = cpu.get(stage, 0.0) + spent_s
    floor_s = sum(cpu.values()) / cores
    return Figure(
        "end to end",
        amount / phases["mapping"],
        "Mpixel/s",
        amount / floor_s,
        f"the processor seconds of its own stages on {cores} cores, without a moment's wait",
        Rival(
            "block after block in one process",
            None if one_by_one_s is None else amount / one_by_one_s,
            "the same functions in a loop, the network with as many threads as torch takes",
        ),
        {
            "range": size,
            "blocks": len(markers),
            "cpu_seconds": {name: rounded(value) for name, value in cpu.items()},
            "seconds": {name: rounded(value) for name, value in phases.items()},
            "mapping_over_floor": rounded(phases["mapping"] / floor_s),
            "all_over_floor": rounded(sum(phases.values()) / floor_s),
        },
    )


def phases(moments: list[tuple[str, float]], ended: float) -> dict[str, float]:
    """Seconds before blocks, while workers start, while blocks are mapped, and after."""
    found = dict.fromkeys(("prepare", "start workers", "mapping", "finish"), 0.0)
    phase = "prepare"
    following = [at for _, at in moments[1:]] + [ended]
    for (text, at), until in zip(moments, following, strict=True):
        if text.startswith("starting workers"):
            phase = "start workers"
        elif text.startswith("mapping on"):
            phase = "mapping"
        elif phase == "mapping":
            phase = "finish"
        found[phase] += until - at
    return found


def _one_by_one_s(settings: Settings, out: str, markers: list[Marker]) -> float:
    """The blocks once more, over what lies there: repeating one is safe by construction."""
    identity = (Ledger(out).manifest() or {})["identity_sha256"]
    actor = ModelActor(settings.model.keywords, tile_px=settings.tile_px, overlap=settings.model.overlap)

    def predict(features: Any, window: Any, block: Any) -> Mapping[str, Any]:
        return actor.predict(features, window.row, window.col, block)

    begun = time.perf_counter()
    for year, block in [marker.key for marker in markers]:
        process_block(out, identity, year, block, predict)
    return time.perf_counter() - begun


def _picture(size: str, markers: list[Marker]) -> bytes:
    caption = "One bar is one block in a stage; while a block predicts, it waits for its actor too."
    return draw(markers, title=f"A run of a simulated range ({size}): {len(markers)} blocks", caption=caption)
