"""What follows the last block, held to its memory: peaks of a region and of one four times larger.

``python -m benchmarks.memory`` lays out finished runs by repeating one block of made-up ice, finishes each in
a process of its own and reads its peak (``VmHWM``) step by step. Two kinds of ground: ``glaciers``, many
bodies with ragged rims, some of them over block borders; and ``complex``, one body of ice with debris and
nunataks over the whole region, whose one outline has to grow with it.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import box, mapping

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from benchmarks.peak import take_peak_mib
from cryoscale.bench import record
from cryoscale.grid import Block, Window, transformer
from cryoscale.ledger import Ledger, Marker, SceneShare
from cryoscale.read import snapshot
from cryoscale.settings import ModelSpec, Season, Settings
from cryoscale.write import evidence, mosaic, quicklook

EPSG, YEAR = 32645, 2018
CLASSES = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")
METHOD = (
    "one made-up block repeated over a square region, ledger and frozen catalogue beside it; finish() of "
    "each region in a fresh process; peak is VmHWM, reset between steps through /proc/self/clear_refs"
)
_SCENE_KM2, _SCENES_A_SEASON = 12_056.0, 12
"""Of Sentinel-2: what one tile of its grid covers, and how often a season sees it."""
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Region:
    """A square region of ``side`` x ``side`` blocks of one kind of ground."""

    ground: str
    side: int
    block_px: int

    @property
    def blocks(self) -> list[Block]:
        """Around 87 E, 28 N, far from the zone's borders."""
        first_row, first_col = -310_000 // self.block_px, 49_000 // self.block_px
        return [
            Block(EPSG, first_row + row, first_col + col, self.block_px)
            for row in range(self.side)
            for col in range(self.side)
        ]

    @property
    def window(self) -> Window:
        """All blocks."""
        first, edge = self.blocks[0].window, self.side * self.block_px
        return Window(EPSG, first.row, first.col, edge, edge)

    @property
    def settings(self) -> Settings:
        """The run that would have made it."""
        bounds = transformer(f"EPSG:{EPSG}", "EPSG:4326").transform_bounds(*self.window.bounds_m)
        return Settings(
            name=f"{self.ground} of {self.side**2} blocks",
            region=box(*bounds),
            years=(YEAR,),
            season=Season("10-01", "10-31"),
            catalogs=(),
            sources={},
            model=ModelSpec(name="band-ratio"),
            block_px=self.block_px,
        )


def ground(kind: str, edge_px: int) -> dict[str, NDArray[np.generic]]:
    """The arrays of one block that continues itself on every side."""
    rng = np.random.default_rng(3)

    def field(scale_px: float) -> NDArray[np.float64]:
        smooth = ndimage.gaussian_filter(rng.standard_normal((edge_px, edge_px)), scale_px, mode="wrap")
        return np.asarray(smooth / smooth.std())

    # a slow field draws bodies of some hundred metres to kilometres, a quick one frays their rims
    height = field(edge_px / 40) + 0.35 * field(1.5)
    ice = height > (0.9 if kind == "glaciers" else -0.8)
    label = np.where(ice, np.where(field(6.0) + 0.3 * field(1.0) > 0.8, 2, 1), np.where(height < -1.9, 3, 0))
    likely = np.clip(150 + 25 * field(2.0), 60, 240).astype(np.uint8)
    others = ((250 - likely) // (len(CLASSES) - 1)).astype(np.uint8)
    names = np.arange(len(CLASSES))[:, None, None]
    return {
        "probability": np.where(names == label, likely, others).astype(np.uint8),
        "label": label.astype(np.uint8),
        "confidence": likely,
        "disagreement": others,
        "source_date": np.where(field(50.0) > 0, 17_810, 17_800).astype(np.int32),
        "n_clear": np.full(label.shape, 5, np.uint16),
        "modalities": np.full(label.shape, 5, np.uint8),
    }


def lay_out(region: Region, out: Path) -> None:
    """The run as it lies there after its last block."""
    arrays, first = ground(region.ground, region.block_px), region.blocks[0]
    mosaic.create(
        f"{out}/mosaic.zarr",
        year=YEAR,
        window=region.window,
        block_px=region.block_px,
        classes=CLASSES,
        attrs={},
    )
    stored = mosaic.write_block(f"{out}/mosaic.zarr", YEAR, first, arrays)
    quicklook.create(str(out), year=YEAR, window=region.window, block_px=region.block_px)
    bright = (np.asarray(arrays["confidence"], np.float32) / 500).astype(np.float32)
    layers = {name: bright for name in ("B04", "B03", "B02")} | {"elevation": 8000 * bright}
    quicklook.write_block(str(out), YEAR, first, layers)
    seen: dict[str, NDArray[Any]] = {
        "B03": bright,
        "B08": bright,
        "B11": bright / 9,
        "persistence": bright,
        "clear_dates": 9 * bright,
    }
    seen |= {"velocity": 50 * bright, "coherence": bright}
    label, dates = np.asarray(arrays["label"], np.uint8), np.asarray(arrays["source_date"], np.int32)
    shown = evidence.layers_of(seen.get, label, dates, YEAR)
    evidence.write_block(str(out), YEAR, first, shown)
    for store in ("mosaic.zarr", "quicklook.zarr"):
        _repeat_first_shard(out / store / str(YEAR) / str(EPSG), region.side)
    names = _freeze_scenes(region, out)
    _write_ledger(region, out, names, stored)


def _repeat_first_shard(group: Path, side: int) -> None:
    for array in group.iterdir():
        corner = next((at for at in (array / "c/0/0/0", array / "c/0/0") if at.is_file()), None)
        if corner is not None:
            for row in range(side):
                folder = corner.parents[1] / str(row)
                folder.mkdir(exist_ok=True)
                for col in range(side):
                    if (row, col) != (0, 0):
                        shutil.copyfile(corner, folder / str(col))


def _freeze_scenes(region: Region, out: Path) -> list[str]:
    tiles = math.ceil(region.side**2 * (region.block_px / 100.0) ** 2 / _SCENE_KM2)
    bounds = region.settings.region.bounds
    items = []
    for number in range(tiles * _SCENES_A_SEASON):
        name = f"S2B_MSIL2A_20181015T045819_N0209_R119_T45RVL_{number:08d}"
        item = pystac.Item(
            name,
            mapping(box(*bounds)),
            list(bounds),
            datetime(2018, 10, 15, tzinfo=UTC),
            {"eo:cloud_cover": 5.0},
        )
        for band in ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "SCL"):
            item.add_asset(
                band, pystac.Asset(f"https://scenes.example/{name}/{band}.tif", media_type="image/tiff")
            )
        items.append(item)
    snapshot.freeze({f"{YEAR}/optical": items}, out / "items.parquet")
    return [item.id for item in items]


def _write_ledger(region: Region, out: Path, names: list[str], stored: mosaic.BlockRecord) -> None:
    ledger = Ledger(str(out))
    blocks, pixels = region.blocks, region.block_px**2
    ledger.begin(_manifest(region))
    for number, block in enumerate(blocks):
        near = [names[(number * len(names) // len(blocks) + k) % len(names)] for k in range(_SCENES_A_SEASON)]
        shares = [
            SceneShare(scene=s, cloud_share=0.02 * k, snow_share=0.01, rank=k + 1) for k, s in enumerate(near)
        ]
        ledger.mark(
            Marker(
                year=YEAR,
                epsg=EPSG,
                row=block.row,
                col=block.col,
                size_px=block.size_px,
                checksum=stored.checksum,
                written_bytes=stored.stored_bytes,
                pixels=pixels,
                valid_pixels=pixels,
                class_pixels=[pixels // 5] * 5,
                seconds={"read": 10.0, "features": 5.0, "predict": 20.0, "write": 1.0},
                scenes_read=near[:3],
                modality_pixels={"optical": pixels, "terrain": pixels},
                scene_choice=shares,
            )
        )


def _manifest(region: Region) -> dict[str, Any]:
    return {
        "name": region.settings.name,
        "created": "2018-11-01T00:00:00+00:00",
        "config": {},
        "versions": {"cryoscale": record.versions(["cryoscale"])["cryoscale"] or "0"},
        "identity_sha256": "0" * 64,
        "identity": {"catalogue": "0" * 64, "years": [YEAR]},
        "context": {"blocks": region.side**2},
        "model": {
            "name": "band-ratio",
            "channels": ["B02", "B03", "B04"],
            "classes": list(CLASSES),
            "identity": {"sha256": None},
        },
    }


# --- in the process that is measured ------------------------------------------------------------


def finish_and_measure(region: Region, out: str) -> dict[str, Any]:
    """Peak of each step of ``finish`` in MiB, and the seconds it took."""
    from cryoscale.finish import finish

    peaks_mib: dict[str, float] = {}
    seconds: dict[str, float] = {}
    step, began = "importing", time.perf_counter()

    def note(following: str) -> None:
        nonlocal step, began
        peaks_mib[step] = max(peaks_mib.get(step, 0.0), take_peak_mib())
        seconds[step] = round(seconds.get(step, 0.0) + time.perf_counter() - began, 2)
        step, began = following, time.perf_counter()

    note("before the first step")
    finish(region.settings, out, note)
    note("")
    return {"peaks_mib": peaks_mib, "seconds": seconds}


# --- in the process that compares ---------------------------------------------------------------


def measure(region: Region) -> dict[str, Any]:
    """Lay a region out, finish it in a fresh process, and say what it peaked at and where."""
    with tempfile.TemporaryDirectory(prefix="cryoscale-memory-") as folder:
        lay_out(region, Path(folder))
        command = [sys.executable, "-m", "benchmarks.memory", "--finish", json.dumps(asdict(region)), folder]
        done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        sizes = {path.name: path.stat().st_size for path in Path(folder, "inventory").iterdir()}
    peak_step = max(found["peaks_mib"], key=found["peaks_mib"].__getitem__)
    return {
        "blocks": region.side**2,
        "peak_mib": found["peaks_mib"][peak_step],
        "peak_step": peak_step,
        **found,
        "inventory_bytes": sizes,
    }


def compare(kind: str, sides: Sequence[int], block_px: int) -> Iterator[dict[str, Any]]:
    """Each side against the one twice as long."""
    measured = {side: measure(Region(kind, side, block_px)) for side in sides}
    for side in sides:
        if 2 * side in measured:
            small, large = measured[side], measured[2 * side]
            more = large["blocks"] - small["blocks"]
            yield {
                "ground": kind,
                "small": small,
                "large": large,
                "ratio": round(large["peak_mib"] / small["peak_mib"], 3),
                "kib_a_block": round((large["peak_mib"] - small["peak_mib"]) * 1024 / more, 1),
            }


def _table(pair: dict[str, Any]) -> str:
    small, large = pair["small"], pair["large"]
    title = f"{pair['ground']}, peak MiB by step"
    rows = [f"{title:42}{small['blocks']:>8} blocks {large['blocks']:>8} blocks   ratio"]
    for step, peak in large["peaks_mib"].items():
        before = small["peaks_mib"][step]
        rows.append(f"  {step:40}{before:>15.1f} {peak:>15.1f} {peak / before:>7.3f}")
    rows.append(
        f"  {'the whole':40}{small['peak_mib']:>15.1f} {large['peak_mib']:>15.1f} {pair['ratio']:>7.3f}"
        f"   ({large['peak_step']}; {pair['kib_a_block']} KiB a block)"
    )
    return "\n".join(rows)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.memory [--scale tiny|small|large]``: measure, print, and keep a line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scale", choices=("tiny", "small", "large"), default="small")
    parser.add_argument("--ground", choices=("glaciers", "complex"), action="append")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.jsonl")
    parser.add_argument("--finish", nargs=2, metavar=("REGION", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.finish:
        region = Region(**json.loads(given.finish[0]))
        print(json.dumps(finish_and_measure(region, given.finish[1])))
        return
    record.require_writable(given.out)
    sides, block_px = {"tiny": ((1, 2), 128), "small": ((8, 16), 512), "large": ((16, 32), 512)}[given.scale]
    pairs = [
        pair for kind in given.ground or ("glaciers", "complex") for pair in compare(kind, sides, block_px)
    ]
    print("\n\n".join(map(_table, pairs)))
    packages = ("numpy", "xarray", "dask", "zarr", "shapely", "geopandas", "pyarrow", "pyogrio", "matplotlib")
    sizes = {"scale": given.scale, "block_px": block_px, "sides": list(sides)}
    line = record.line("memory", method=METHOD, sizes=sizes, results={"pairs": pairs}, packages=packages)
    record.append(given.out, line)


if __name__ == "__main__":
    main()
