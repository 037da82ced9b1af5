"""Blocks without their work: tasks that cost a run what every block costs it, and nothing else."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np

from cryoscale.grid import Block
from cryoscale.infer.calling import ActorRef, predict_on
from cryoscale.ledger import Ledger, Marker, SceneShare, Work
from cryoscale.models.bandratio import OPTICAL_CHANNELS
from cryoscale.write.arrays import ARRAYS

EPSG, BLOCK_PX, SIDE = 32645, 1, 1000
"""Blocks of one pixel, so that what the actor does with one is next to nothing."""

FEATURES = np.full((len(OPTICAL_CHANNELS), BLOCK_PX, BLOCK_PX), np.nan, np.float32)
"""No data: the actor cuts tiles, blends and encodes as ever, and never calls its model."""


def works(count: int, year: int = 2018) -> list[Work]:
    """So many blocks."""
    return [(year, Block(EPSG, -(number // SIDE), number % SIDE, BLOCK_PX)) for number in range(count)]


def marker_of(work: Work, attempt: int = 1) -> Marker:
    """A marker as long as that of a block with five scenes, all modalities and every array stored."""
    year, block = work
    scenes = [f"S2{'AB'[n % 2]}_MSIL2A_201810{7 + 5 * n:02d}T045759_R119_T45RVL_20201008" for n in range(5)]
    return Marker(
        year=year,
        epsg=block.epsg,
        row=block.row,
        col=block.col,
        size_px=block.size_px,
        checksum=f"sha256:{hash(block) & 0xFFFFFFFF:064x}",
        shards={name: (1_234_567, "1764106314123456789-12345678") for name in ARRAYS},
        written_bytes=7 * 1_234_567,
        pixels=4_194_304,
        valid_pixels=4_100_000,
        class_pixels=[2_000_000, 1_500_000, 500_000, 50_000, 50_000],
        seconds={"read": 12.3456, "features": 7.8912, "predict": 34.5678, "write": 1.2345},
        starts={"read": 1_543_000_000.123, "features": 12.3, "predict": 20.2, "write": 54.7},
        cpu_seconds={"read": 12.3456, "features": 7.8912, "predict": 34.5678, "write": 1.2345},
        fetches=123,
        fetched_bytes=123_456_789,
        scenes_read=[*scenes, "LC08_L2SP_140041_20181022_02_T1", "Copernicus_DSM_COG_10_N27_00_E086_00_DEM"],
        scenes_failed=[],
        modality_pixels=dict.fromkeys(("optical", "thermal", "insar", "terrain", "velocity"), 4_194_304),
        scene_choice=[
            SceneShare(scene=scene, cloud_share=0.01 * n, snow_share=0.02 * n, rank=n)
            for n, scene in enumerate(scenes)
        ],
        worker="cpu-0",
        attempt=attempt,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def returns(out: str, identity: str, work: Work, actor: ActorRef, attempt: int, deadline_s: float) -> str:
    """A task that makes its marker and is done."""
    return marker_of(work, attempt).model_dump_json()


def asks(out: str, identity: str, work: Work, actor: ActorRef, attempt: int, deadline_s: float) -> str:
    """A task that asks its actor first, for a place and for the bands."""
    started = time.perf_counter()
    predict_on(actor, FEATURES, work[1].window, work[1], deadline_s=deadline_s)
    return _timed(work, attempt, actor=time.perf_counter() - started)


def marks(out: str, identity: str, work: Work, actor: ActorRef, attempt: int, deadline_s: float) -> str:
    """A task that puts its marker into the ledger."""
    started = time.perf_counter()
    Ledger(out).mark(marker_of(work, attempt))
    return _timed(work, attempt, marker=time.perf_counter() - started)


def whole(out: str, identity: str, work: Work, actor: ActorRef, attempt: int, deadline_s: float) -> str:
    """A task that does both: all of a block but reading, features, prediction and writing shards."""
    started = time.perf_counter()
    predict_on(actor, FEATURES, work[1].window, work[1], deadline_s=deadline_s)
    asked = time.perf_counter()
    Ledger(out).mark(marker_of(work, attempt))
    return _timed(work, attempt, actor=asked - started, marker=time.perf_counter() - asked)


def _timed(work: Work, attempt: int, **seconds: float) -> str:
    """The marker as it travels to the driver, with how long the task waited for what."""
    marker = marker_of(work, attempt)
    return marker.model_copy(update={"seconds": {**marker.seconds, **seconds}}).model_dump_json()
