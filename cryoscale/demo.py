"""The demo: a simulated mountain range mapped offline, by the path that a real region takes.

Only the range is made up. Its scenes lie in each sensor's own form under ``OUT/simulated``, an
embedded STAC API serves them on loopback, and the run searches, reads, predicts and writes as it
would anywhere; the truth that the simulator knows is used for nothing but the scores.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cryoscale.config import load_config
from cryoscale.errors import InputError
from cryoscale.learn.evaluate import evaluate
from cryoscale.learn.scores import CLASS_NAMES, Scores, confusion_matrix
from cryoscale.learn.truth import open_truth
from cryoscale.ledger import Ledger
from cryoscale.models.bandratio import BandRatio
from cryoscale.outcome import Outcome, Progress
from cryoscale.pipeline import run as run_pipeline
from cryoscale.read.inputs import read_inputs
from cryoscale.region import ZoneRegion
from cryoscale.reporting import write_report
from cryoscale.task import NO_DATA, run_context
from cryoscale.write import disk
from cryoscale.write.mosaic import zones
from cryoscale.write.usable import require_run_folder

FIRST_YEAR = 2018
ELA_RISE_M_YR = 12.0
"""How fast the equilibrium line of the simulated range rises from year to year."""

UNFINISHED = "cryoscale-unfinished.txt"
"""Lies in a simulated range from its first file to its last: what carries it is ours and may go."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo made, and how well its map agrees with the truth."""

    outcome: Outcome
    scores: Scores
    baseline: Scores
    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        """Seconds from start to end."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            **self.outcome.to_dict(),
            "simulated": True,
            "scores": self.scores.to_dict(),
            "band_ratio": self.baseline.to_dict(),
            "demo_seconds": {name: round(value, 2) for name, value in self.seconds.items()},
        }


def demo_weights() -> Path:
    """The small CryoNet that comes with the package, trained on simulated ranges of other seeds."""
    return Path(str(files("cryoscale.models") / "demo.safetensors"))


def run_demo(
    out: str | Path,
    *,
    size: str = "small",
    years: int = 1,
    seed: int = 7,
    on_progress: Callable[[Progress], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> DemoResult:
    """Simulate a range, map it into ``out``, and score the map.

    Raises:
        InputError: ``size`` is unknown, or ``out`` holds something else or is named like a store.
    """
    from cryoscale.simulate.server import serve
    from cryoscale.simulate.terrain import SIZES

    stage = on_stage or (lambda text: None)
    if size not in SIZES:
        raise InputError(f"size {size!r}", f"one of {', '.join(SIZES)}", "correct --size")
    where = disk.output(str(out))
    if "://" in where:
        raise InputError(f"output {out}", "a folder of this machine, for the simulated range", "give a path")
    require_run_folder(where)
    folder = Path(where)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    mapped = tuple(range(FIRST_YEAR, FIRST_YEAR + years))
    document = simulated_range(folder, size, mapped, seed, stage)
    seconds["simulate"] = time.perf_counter() - start

    start = time.perf_counter()
    with serve(folder / "simulated") as url:
        stage(f"serving its STAC catalogue at {url}")
        settings = load_config({**document, "catalogs": [{"url": url}]})
        outcome = run_pipeline(settings, str(folder), on_progress=on_progress, on_stage=on_stage)
    seconds["map"] = time.perf_counter() - start

    start = time.perf_counter()
    stage("scoring the map against the simulated truth, beside the band ratio")
    scores = Scores.from_confusion(np.zeros((len(CLASS_NAMES),) * 2, np.int64))
    for year in mapped:
        truth = {epsg: truth_of(folder / "simulated", year, mapped[0], epsg) for epsg in zones(folder, year)}
        scores += evaluate(folder, truth, years=[year]).scores
    baseline = band_ratio_scores(folder, mapped)
    write_report(settings, str(folder), scores=scores, baseline=baseline)
    seconds["score"] = time.perf_counter() - start
    return DemoResult(outcome, scores, baseline, seconds)


def band_ratio_scores(out: Path, years: tuple[int, ...]) -> Scores:
    """What the classical method scores on the same optical composites, block by block."""
    context = run_context(str(out), (Ledger(str(out)).manifest() or {})["identity_sha256"])
    classical = BandRatio()
    total = np.zeros((len(CLASS_NAMES),) * 2, np.int64)
    for year, block in Ledger(str(out)).done():
        optical = {"optical": context.items_of(year).get("optical", [])}
        inputs, _ = read_inputs(
            optical, block.window, composite=context.composite, max_cloud_pct=context.max_cloud_pct
        )
        if "B02" not in inputs:
            continue
        bands = np.stack([inputs[name].values for name in classical.channels])
        likely = classical(bands[np.newaxis])[0]
        seen = np.isfinite(likely).all(axis=0)
        label = np.where(seen, likely.argmax(axis=0), NO_DATA).astype(np.uint8)
        path = truth_of(out / "simulated", year, years[0], block.epsg)
        with open_truth(path, block.window) as read:
            known = np.where(
                ZoneRegion(block.epsg, context.region).pixels(block.window), read(block.window), NO_DATA
            )
        total += confusion_matrix(known, label, len(CLASS_NAMES))
    return Scores.from_confusion(total)


def truth_of(home: Path, year: int, first: int, epsg: int) -> Path:
    """The simulator's labels of a year and zone; the first year's lie at the top."""
    folder = home / "truth" if year == first else home / "truth" / str(year)
    return folder / f"{epsg}.tif"


def simulated_range(
    folder: Path, size: str, years: tuple[int, ...], seed: int, stage: Callable[[str], None]
) -> dict[str, Any]:
    """Publish the range under ``folder/simulated``, unless it lies there; returns its configuration."""
    from cryoscale.simulate.catalog import publish
    from cryoscale.simulate.terrain import make_range

    home = folder / "simulated"
    note = home / "config.yaml"
    document = demo_config(home, size, years, seed)
    if (present := _published(note)) is not None:
        # The region is known only once the range is published, so it is no part of the comparison.
        if {**present, "region": None} != {**document, "region": None}:
            raise InputError(
                f"output {folder}, which holds another demo", "a new or an empty folder", "give another --out"
            )
        return present
    begun = home / UNFINISHED
    beside = folder.exists() and any(path != home for path in folder.iterdir())
    ours = begun.is_file() or not os.path.lexists(home) or (home.is_dir() and not any(home.iterdir()))
    if beside or not ours:
        raise InputError(
            f"output {folder}, which holds other files", "a new or an empty folder", "give another --out"
        )
    stage(f"simulating a mountain range (seed {seed}, {size}): all imagery of this run is made up")
    ranges = {year: make_range(seed, size, ela_shift_m=n * ELA_RISE_M_YR) for n, year in enumerate(years)}
    if begun.exists():
        shutil.rmtree(home)  # what an interrupted demo left half made
    home.mkdir(parents=True, exist_ok=True)
    begun.write_text("A simulated range that is only being made; the next demo begins it anew.\n")
    stage("rendering its scenes: Sentinel-2, DEM, Landsat, velocity, Sentinel-1")
    published = publish(ranges, home)
    document["region"] = {"bbox": [round(v, 6) for v in published.bbox_deg]}
    disk.write(str(note), yaml.safe_dump(document, sort_keys=False).encode(), replace=True)
    begun.unlink()
    return document


def _published(note: Path) -> dict[str, Any] | None:
    """The configuration of a range that lies there whole, which is written last; None where none does."""
    try:
        found = yaml.safe_load(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) else None


def demo_config(home: Path, size: str, years: tuple[int, ...], seed: int) -> dict[str, Any]:
    """The configuration that maps the simulated range, as a person would write it."""
    return {
        "name": f"demo {size} seed {seed}",
        "region": {"bbox": [0.0, 0.0, 1.0, 1.0]},
        "years": list(years),
        "season": {"start": "10-01", "end": "10-31"},
        "catalogs": [{"url": str(home)}],
        "sources": {
            "optical": {"collection": "sentinel-2-l2a", "max_cloud_pct": 60, "composite": "least_snow"},
            "terrain": {"collection": "cop-dem-glo-30"},
            "thermal": {"collection": "landsat-c2-l2"},
            "velocity": {"href": str(home / "ITS_LIVE_velocity_120m.zarr")},
            "insar": {"collection": "sentinel-1-slc-pair"},
        },
        "model": {"weights": str(demo_weights()), "overlap": 0.5},
        "tiling": {"tile_px": 256, "block_px": 512},
        "outlines": {"o1region": "15"},
        "cluster": {"kind": "local", "cpu_workers": 2, "gpu_workers": 0},
    }
