"""A run from its catalogue to its report, held to the processor seconds of its own stages."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoscale.bench import processes
from cryoscale.bench.fed import feeders
from cryoscale.bench.figure import Figure, Rival, rounded
from cryoscale.bench.timeline import draw, spans
from cryoscale.config import load_config
from cryoscale.demo import simulated_range
from cryoscale.forecast.rates import cores
from cryoscale.infer.actor import ModelActor
from cryoscale.ledger import Ledger, Marker
from cryoscale.pipeline import run
from cryoscale.settings import Settings
from cryoscale.simulate.server import serve
from cryoscale.task import process_block

YEAR, SEED = 2018, 7


@dataclass(frozen=True)
class Whole:
    """Figures of a run, of its mapping, of a GPU's share in it, and of all of it; its timeline as PNG."""

    figures: tuple[Figure, ...]
    timeline_png: bytes


def measure(size: str, *, on_gpu: bool = False, rival: bool = True) -> Whole:
    """Pixels a second of a simulated range's run, while it maps and from its search to its report.

    Limit: the processor seconds of the stages of each, on all cores that this process may use, or the GPU's
    where these are more. Of mapping these are what the blocks tell; of preparing and finishing, all that
    this process and those below it take in the meantime, a little of which goes into the answers of the
    catalogue, which is served from here. The range is made before the clock starts.

    Args:
        size: the range's.
        on_gpu: whether a GPU predicts, whose worker half of the cores feed.
        rival: whether the blocks are done once more, one after the other, for comparison.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        document = simulated_range(out, size, (YEAR,), SEED, lambda text: None)
        document["cluster"] |= {"cpu_workers": feeders(on_gpu), "gpu_workers": int(on_gpu)}
        with serve(out / "simulated") as url:
            settings = load_config({**document, "catalogs": [{"url": url}]})
            wall: list[tuple[str, float]] = []
            cpu: list[tuple[str, float]] = []

            def note(text: str) -> None:
                wall.append((text, time.perf_counter()))
                cpu.append((text, processes.family_cpu_s(os.getpid())))

            run(settings, str(out), on_stage=note)
            note("the end")
            markers = list(Ledger(str(out)).markers())
            one_by_one_s = _one_by_one_s(settings, str(out), markers) if rival else None
    seconds, used = (phases(moments[:-1], moments[-1][1]) for moments in (wall, cpu))
    return Whole(figures(size, markers, seconds, used, one_by_one_s, on_gpu=on_gpu), _picture(size, markers))


def figures(
    size: str,
    markers: list[Marker],
    seconds: Mapping[str, float],
    used: Mapping[str, float],
    one_by_one_s: float | None,
    *,
    on_gpu: bool = False,
) -> tuple[Figure, ...]:
    """Of the mapping, on a GPU of how busy that was, and of the whole run.

    Args:
        size: the range's.
        markers: of all blocks.
        seconds: of the clock, phase by phase.
        used: of the processors, likewise.
        one_by_one_s: how long the blocks took one after the other.
        on_gpu: whether the blocks' seconds of predicting are a GPU's.
    """
    at_hand = cores()
    amount = sum(marker.pixels for marker in markers) / 1e6
    mapping: dict[str, float] = {}
    for marker in markers:
        for stage, spent_s in marker.cpu_seconds.items():
            mapping[stage] = mapping.get(stage, 0.0) + spent_s
    gpu_s = mapping.pop("predict") if on_gpu else 0.0
    # starting workers is no work of the run's own
    around = {"prepare": used["prepare"], "finish": used["finish"]}
    whole = {"prepare": used["prepare"], **mapping, "finish": used["finish"]}
    mapping_s = max(sum(mapping.values()) / at_hand, gpu_s)
    loop = "block after block in one process"

    def figure(
        name: str, took_s: float, floor_s: float, cpu: Mapping[str, float], of: str, rival: Rival
    ) -> Figure:
        more = {
            "range": size,
            "blocks": len(markers),
            "cpu_seconds": {stage: rounded(value) for stage, value in cpu.items()},
            "seconds": {phase: rounded(value) for phase, value in seconds.items()},
            "over_floor": rounded(took_s / floor_s),
            **({"gpu_seconds": rounded(gpu_s)} if on_gpu else {}),
        }
        or_gpu = ", of blocks the GPU's where these are more" if on_gpu else ""
        limit_is = f"the processor seconds of {of} on {at_hand} cores{or_gpu}, without a moment's wait"
        return Figure(name, amount / took_s, "Mpixel/s", amount / floor_s, limit_is, rival, more)

    by_loop = Rival(
        loop,
        None if one_by_one_s is None else amount / one_by_one_s,
        "the same functions in a loop, the network with as many threads as torch takes",
    )
    none = Rival(loop, None, "it only maps, and stands beside the mapping")
    parts = "preparing, the blocks' stages and the end"
    whole_s = mapping_s + sum(around.values()) / at_hand
    return (
        figure("mapping", seconds["mapping"], mapping_s, mapping, "its own stages", by_loop),
        *([_busy(size, markers, gpu_s, one_by_one_s)] if on_gpu else []),
        figure("end to end", sum(seconds.values()), whole_s, whole, parts, none),
    )


def _busy(size: str, markers: list[Marker], gpu_s: float, one_by_one_s: float | None) -> Figure:
    """How much of the time a GPU computes, from the first block that it is given to the last one's end."""
    given = [span for span in spans(markers) if span.stage == "predict"]
    held_s = max(span.end_s for span in given) - min(span.begin_s for span in given)
    rival = None if one_by_one_s is None else gpu_s / one_by_one_s
    return Figure(
        "GPU busy",
        gpu_s / held_s,
        "of the time",
        1.0,
        "never waiting, from the first block to the last",
        Rival("block after block in one process", rival),
        {"range": size, "blocks": len(given), "gpu_seconds": rounded(gpu_s), "seconds": rounded(held_s)},
    )


def phases(moments: list[tuple[str, float]], ended: float) -> dict[str, float]:
    """Seconds before blocks, while workers start, while blocks are mapped, and after; of any clock."""
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
