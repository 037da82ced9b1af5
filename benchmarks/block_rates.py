"""The rates that come with the package (``cryoscale/forecast/measured.json``), measured on a whole block.

``python -m benchmarks.block_rates [--scale tiny|full] [--out FILE] [--home DIR]`` prints them; the shipped
file is replaced only where ``--out`` names it. ``cryoscale plan`` measures on a few windows of 512 pixels and
takes seconds for it; a block of 2048 px with its halo is read at other rates, as its bands no longer lie in
the processor's caches. Here a window of that size, all of it over a simulated range, is read and featurised,
and one of 64 px, whose pixels cost next to nothing beside its chunks; of four turns the one that took least
of the processor, since others at work on the machine only ever add. All else is as ``plan`` measures it.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.command import Parser, command
from cryoscale.basis import context_of
from cryoscale.bench import record
from cryoscale.config import load_config
from cryoscale.demo import demo_config
from cryoscale.features.stack import HALO_PX, PcaBasis
from cryoscale.forecast.measure import measure
from cryoscale.forecast.rates import Profile, Reading
from cryoscale.grid import Block, Window, transformer
from cryoscale.models.loading import load_predictor
from cryoscale.plan import find_items, zone_regions
from cryoscale.simulate.catalog import publish
from cryoscale.simulate.terrain import make_range
from cryoscale.task import Stopwatch, features_of

YEAR, FEW_PX = 2018, 64
SCALES = {"tiny": ("tiny", 256), "full": ("medium", 2304)}
"""The range, and the edge of the larger window: a block's with the halo of its tiles."""


@dataclasses.dataclass(frozen=True)
class Read:
    """What a window took: chunks, million bytes cut out, processor seconds, seconds of the clock."""

    fetches: int
    mb: float
    cpu_s: float
    clock_s: float
    features_s: float


def read_window(context: Any, window: Window) -> Read:
    """A window, read and featurised."""
    watch, begun = Stopwatch(), time.perf_counter()
    _, _, report = features_of(context, YEAR, window, watch)
    features_s = watch.cpu_seconds["features"]
    took = time.perf_counter() - begun - features_s
    return Read(report.fetches, report.bytes_read / 1e6, report.cpu_s, took, features_s)


def rates(few: Read, whole: Read, size_px: int) -> dict[str, Any]:
    """Of a chunk, by the small window; of a million bytes, by what the large one takes beyond its chunks."""
    fetch_s = few.cpu_s / few.fetches
    mb_s = max((whole.cpu_s - fetch_s * whole.fetches) / whole.mb, 0.0)
    return {
        "read": Reading(s_per_fetch=fetch_s, s_per_mb=mb_s, clock=max(whole.clock_s / whole.cpu_s, 1.0)),
        "features_s_per_mpx": whole.features_s / ((size_px + 2 * HALO_PX) ** 2 / 1e6),
    }


def profile_of(home: Path, scale: str) -> Profile:
    """The rates of this machine, on the scale's range in ``home``, which is made where it is not there."""
    size, whole_px = SCALES[scale]
    home = home / size
    note = home / "range.json"
    if not note.exists():
        record.require_writable(note)
        home.mkdir(parents=True, exist_ok=True)
        published = publish(make_range(7, size), home / "simulated")
        document = demo_config(home / "simulated", size, (YEAR,), 7)
        document["region"] = {"bbox": [round(v, 6) for v in published.bbox_deg]}
        note.write_text(json.dumps(document), encoding="utf-8")
    settings = load_config(json.loads(note.read_text("utf-8")))
    items = find_items(settings)
    predictor = load_predictor(**{**settings.model.keywords, "device": "cpu"})
    assert predictor.pca is not None
    context = dataclasses.replace(
        context_of(settings, "", items, PcaBasis.from_dict(predictor.pca)),
        needs_halo=True,
        channels=predictor.channels,
    )
    epsg = zone_regions(settings)[0].epsg
    middle = settings.region.centroid
    x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(middle.x, middle.y)
    row, col = int(-y // 10), int(x // 10)
    found: dict[int, Read] = {}
    for size_px in (FEW_PX, whole_px):
        window = Window(epsg, row - size_px // 2, col - size_px // 2, size_px, size_px)
        turns = sorted((read_window(context, window) for _ in range(4)), key=lambda read: read.cpu_s)
        found[size_px] = turns[0]
        print(
            size_px, turns[0], f"median {statistics.median(turn.cpu_s for turn in turns):.2f} s", flush=True
        )
    block = Block(epsg, row // 512, col // 512, 512)
    plain = measure(settings, items, [(YEAR, block)], predictor)
    machine = record.machine()
    name = (
        f"measured on a whole block of the demo's range, from local files, on a core of {machine['cpu']}, "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )
    return plain.model_copy(update={"name": name, **rates(found[FEW_PX], found[whole_px], whole_px)})


@command
def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the profile, and writes it where that is asked for."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--out", type=Path, help="The profile, whose file is replaced.")
    parser.add_argument("--home", type=Path, help="Where the range lies, or is kept.")
    given = parser.parse_args(arguments)
    if given.out:
        record.require_writable(given.out)
    with tempfile.TemporaryDirectory() as folder:
        profile = profile_of(given.home or Path(folder), given.scale).to_json()
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(profile, encoding="utf-8")
    print(profile)


if __name__ == "__main__":
    main()
