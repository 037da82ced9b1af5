"""What the mask of candidate blocks saves, and which ice it loses, on simulated ranges whose truth is known.

``python -m benchmarks.candidates [--scale tiny|moderate|full] [--out FILE]`` makes ranges of several regimes,
one of them with little ice, publishes their scenes and asks :func:`cryoscale.candidates.candidate_blocks`, as
a run does, which blocks it would map: near outlines of four inventories with several buffers, and near what
shows snow or ice with several reaches. Of each mask it tells how many pixels of the region are computed, how
many blocks are left out, and how many pixels of true ice lie in those.

The inventories: the truth of the year that is mapped; that of the same ground 18 years before and 18 years
after, when the equilibrium line lay 216 m lower or higher, as the RGI is of about 2000 and runs are of other
years; and that truth as a poor inventory has it: without debris-covered ice, drawn 20 m off to the
south-east, and without bodies below 0.01 km2, the least that the RGI keeps
(https://www.glims.org/rgi_user_guide/04_data_structure_and_format.html).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio import features
from scipy import ndimage

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from cryoscale.bench import record
from cryoscale.candidates import candidate_blocks
from cryoscale.config import load_config
from cryoscale.demo import ELA_RISE_M_YR, demo_config, truth_of
from cryoscale.grid import Block
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.learn.truth import open_truth
from cryoscale.plan import Items, block_aligned, find_items, zone_regions
from cryoscale.region import ZoneRegion
from cryoscale.settings import Settings
from cryoscale.simulate.catalog import publish
from cryoscale.simulate.regime import REGIMES, Regime
from cryoscale.simulate.terrain import PIXEL_M, MountainRange, make_range

YEAR, APART_YR = 2018, 18
CLEAN, DEBRIS = (CLASS_NAMES.index(name) for name in ("clean_ice", "debris_covered_ice"))
SHIFT_PX, LEAST_KM2 = 2, 0.01
BUFFERS_M, DEFAULT_BUFFER_M = (0, 500, 1000, 3000), 3000
SNOW = "snow or ice"
REACHES_M, DEFAULT_REACH_M, NDSI = (0, 1000, 5000), 5000, 0.2
PACKAGES = ("cryoscale", "numpy", "scipy", "shapely", "rasterio")


@dataclass(frozen=True)
class Scale:
    """Size of the ranges; seed, regime and share of ice (None as the regime has it) of each; blocks."""

    size: str
    ranges: tuple[tuple[int, str, float | None], ...]
    blocks_px: tuple[int, ...]


_RANGES = ((601, "himalaya", None), (602, "karakoram", None), (603, "alps", 0.04))
SCALES = {
    "tiny": Scale("tiny", ((601, "himalaya", None),), (256,)),
    "moderate": Scale("medium", _RANGES, (256, 512, 2048)),
    "full": Scale("large", _RANGES, (256, 512, 2048)),
}


@dataclass(frozen=True)
class Mask:
    """How candidates are told: by an inventory or by snow, with what margin, and a run that does so."""

    kind: str
    margin_m: int
    settings: Settings

    @property
    def is_default(self) -> bool:
        """Whether a run takes this margin unless told otherwise."""
        return self.margin_m == (DEFAULT_REACH_M if self.kind == SNOW else DEFAULT_BUFFER_M)


def inventories(seed: int, size: str, regime: Regime, now: MountainRange) -> dict[str, NDArray[np.bool_]]:
    """Glacier masks (y, x) on the frame of ``now``, by the name of the inventory."""
    rise_m = APART_YR * ELA_RISE_M_YR
    before, after = (
        make_range(seed, size, ela_shift_m=shift, regime=regime).glacier_id > 0 for shift in (-rise_m, rise_m)
    )
    return {
        "truth": now.glacier_id > 0,
        f"{APART_YR} years before": before,
        f"{APART_YR} years after": after,
        "degraded": degraded(now.truth == CLEAN),
    }


def degraded(clean: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Clean ice (y, x) drawn ``SHIFT_PX`` to the south-east, without bodies below ``LEAST_KM2``."""
    moved = np.zeros_like(clean)
    moved[SHIFT_PX:, SHIFT_PX:] = clean[:-SHIFT_PX, :-SHIFT_PX]
    bodies, _ = ndimage.label(moved)
    large = np.bincount(bodies.ravel()) * PIXEL_M**2 / 1e6 >= LEAST_KM2
    large[0] = False
    kept: NDArray[np.bool_] = large[bodies]
    return kept


def beyond_m(ice: NDArray[np.bool_], known: NDArray[np.bool_]) -> float:
    """How far the farthest pixel of ``ice`` lies from what is ``known``, metres; infinite beside nothing."""
    if not ice.any():
        return 0.0
    return float(ndimage.distance_transform_edt(~known)[ice].max()) * PIXEL_M if known.any() else math.inf


def save_outlines(known: NDArray[np.bool_], now: MountainRange, path: Path) -> None:
    """The bodies of a mask on the frame of ``now`` as polygons in a GeoPackage, drawn to within a pixel.

    An inventory is drawn by lines, not by the edges of pixels.
    """
    found = features.shapes(known.astype(np.uint8), mask=known, connectivity=4, transform=now.affine)
    shapes = [shapely.simplify(shapely.geometry.shape(geometry), PIXEL_M) for geometry, _ in found]
    gpd.GeoDataFrame(geometry=shapes, crs=now.crs).to_crs("EPSG:4326").to_file(path)


# --- a range ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """A published range: a run that maps all of it, its scenes, and masks to try."""

    settings: Settings
    items: Items
    home: Path
    masks: tuple[Mask, ...]
    facts: Mapping[str, Any]


def make_ground(seed: int, size: str, regime: Regime, folder: Path) -> Ground:
    """Simulate and publish a range with its inventories under ``folder``."""
    now, home = make_range(seed, size, regime=regime), folder / "simulated"
    # a mask looks at the optical scenes and the elevation alone
    published = publish({YEAR: now}, home, season=replace(regime.season, thermal=(), radar=False))
    document = demo_config(home, size, (YEAR,), seed)
    document["region"] = {"bbox": [round(v, 6) for v in published.bbox_deg]}
    document["sources"] = {name: document["sources"][name] for name in ("optical", "terrain")}
    document["model"] = {"name": "band-ratio"}

    def mask(kind: str, margin_m: int, candidates: Mapping[str, Any]) -> Mask:
        return Mask(kind, margin_m, load_config({**document, "candidates": candidates}))

    masks, beyond = [], {}
    for name, known in inventories(seed, size, regime, now).items():
        path = folder / f"{name}.gpkg"
        save_outlines(known, now, path)
        beyond[name] = beyond_m(np.isin(now.truth, (CLEAN, DEBRIS)), known)
        masks += [mask(name, m, {"rgi": str(path), "buffer_m": m}) for m in BUFFERS_M]
    masks += [mask(SNOW, m, {"min_ndsi": NDSI, "ndsi_reach_m": m}) for m in REACHES_M]
    facts = {
        "seed": seed,
        "regime": regime.name,
        "glacier_share": round(float((now.glacier_id > 0).mean()), 4),
        "farthest_ice_m": {name: round(value) for name, value in beyond.items()},
    }
    settings = load_config(document)
    return Ground(settings, find_items(settings), home, tuple(masks), facts)


def count(settings: Settings, home: Path) -> dict[Block, tuple[int, int]]:
    """Pixels of the region, and those of true ice, in each of its blocks."""
    found: dict[Block, tuple[int, int]] = {}
    for zone in zone_regions(settings):
        whole = block_aligned(zone.window(), settings.block_px)
        with open_truth(truth_of(home, YEAR, YEAR, zone.epsg), whole) as read:
            for block in zone.blocks(settings.block_px):
                inside = zone.pixels(block.window)
                ice = np.isin(read(block.window), (CLEAN, DEBRIS)) & inside
                found[block] = int(inside.sum()), int(ice.sum())
    return found


def chosen(settings: Settings, items: Items) -> set[Block]:
    """The blocks that a run with these settings would map."""
    zones: Sequence[ZoneRegion] = zone_regions(settings)
    return {block for zone in zones for block in candidate_blocks(settings, items, zone).blocks}


def judge(ground: Ground, block_px: int) -> list[dict[str, Any]]:
    """A row for each mask: blocks, and pixels of region and ice, in all and in what is mapped."""
    counts = count(replace(ground.settings, block_px=block_px), ground.home)
    region_px, ice_px = (sum(pair[n] for pair in counts.values()) for n in (0, 1))
    rows = []
    for mask in ground.masks:
        kept = chosen(replace(mask.settings, block_px=block_px), ground.items)
        rows.append(
            {
                "mask": mask.kind,
                "margin_m": mask.margin_m,
                "default": mask.is_default,
                "block_px": block_px,
                "blocks": len(counts),
                "blocks_mapped": len(kept),
                "region_px": region_px,
                "computed_px": sum(counts[block][0] for block in kept),
                "ice_px": ice_px,
                "lost_ice_px": sum(ice for block, (_, ice) in counts.items() if block not in kept),
            }
        )
    return rows


# --- all of them ------------------------------------------------------------------------------------


def measure(scale: Scale) -> list[dict[str, Any]]:
    """Each range with its facts and its rows."""
    found = []
    for seed, name, share in scale.ranges:
        regime = REGIMES[name] if share is None else replace(REGIMES[name], ice_share=(share, share))
        with tempfile.TemporaryDirectory() as folder:
            ground = make_ground(seed, scale.size, regime, Path(folder))
            rows = [row for block_px in scale.blocks_px for row in judge(ground, block_px)]
        found.append({**ground.facts, "rows": rows})
        print(range_line(found[-1]), flush=True)
    return found


def totals(ranges: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all ranges added up."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in (row for one in ranges for row in one["rows"]):
        key = row["mask"], row["margin_m"], row["block_px"]
        if key not in merged:
            merged[key] = dict(row)
            continue
        for name in ("blocks", "blocks_mapped", "region_px", "computed_px", "ice_px", "lost_ice_px"):
            merged[key][name] += row[name]
    return list(merged.values())


def range_line(one: Mapping[str, Any]) -> str:
    """A range in words."""
    far = ", ".join(f"{name} {value:,} m" for name, value in one["farthest_ice_m"].items())
    return (
        f"{one['regime']} (seed {one['seed']}), {one['glacier_share']:.0%} glacier; farthest ice from: {far}"
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Computed share of the region's pixels and lost ice, a column for each size of block."""
    sizes = sorted({row["block_px"] for row in rows})
    head = "".join(f"{f'{px} px: computed':>20}{'blocks':>12}{'ice lost, px':>14}" for px in sizes)
    lines = [f"{'mask':18}{'margin':>9}  {head}"]
    by_key = {(row["mask"], row["margin_m"], row["block_px"]): row for row in rows}
    for kind, margin_m in dict.fromkeys((row["mask"], row["margin_m"]) for row in rows):
        line = f"{kind:18}{margin_m:7,} m  "
        for px in sizes:
            row = by_key[kind, margin_m, px]
            share = f"{row['computed_px'] / row['region_px']:.1%}"
            blocks = f"{row['blocks_mapped']:,}/{row['blocks']:,}"
            line += f"{share:>20}{blocks:>12}{row['lost_ice_px']:14,}"
        lines.append(line + ("  <- default" if by_key[kind, margin_m, sizes[0]]["default"] else ""))
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "candidates.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    scale = SCALES[given.scale]
    ranges = measure(scale)
    rows = totals(ranges)
    print(table(rows))
    method = (
        "candidate_blocks on simulated ranges, region the bbox of each; computed are the region's pixels in "
        "blocks that are mapped, lost the pixels of true clean or debris-covered ice in blocks that are not; "
        f"inventories: the truth, that of {APART_YR} years before and after (equilibrium line "
        f"{APART_YR * ELA_RISE_M_YR:g} m lower and higher), and degraded: without debris-covered ice, "
        f"{SHIFT_PX} px off to the south-east, without bodies below {LEAST_KM2} km2; snow or ice: NDSI of at "
        f"least {NDSI} in a clear scene within the margin"
    )
    sizes = {"scale": given.scale, **vars(scale)}
    results = {"ranges": ranges, "all": rows}
    record.append(
        given.out, record.line("candidates", method=method, sizes=sizes, results=results, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
