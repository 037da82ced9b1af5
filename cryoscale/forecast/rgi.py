"""The glaciers of the RGI's regions as published, and between how many blocks they lie.

Numbers and areas are those of the RGI 7.0 (RGI 7.0 Consortium 2023, https://doi.org/10.5067/F6JMOVY5NAVZ),
by its user guide (https://www.glims.org/rgi_user_guide/02_regions_definition.html). The areas of the RGI 6.0,
which the guide compares, are within 3 % of them, but for regions 10, 12, 15, 16, 17 and 18 (up to 31 %).

**An area is not a number of blocks.** That depends on how glaciers lie together, which no table tells: the
fewest possible are blocks full of ice. So a range is given, by the share of its mapped blocks that ice
covers. That share, :data:`ICE_PCT`, is assumed by the mean size of a region's glaciers. It rests on real
outlines over all positions of the lattice of 20.48 km: a glacier of 8 km2 (Hintereisferner) covers 1.3 % of
the blocks that it touches, its complex of 78 km2 6.0 %, Columbia Glacier with 935 km2 27 %. So a region of
small glaciers would lie in groups of 15 to 250 km2 that share no block. With outlines at hand nothing is
assumed: :func:`of_outlines` counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryoscale.errors import RegionError
from cryoscale.grid import RESOLUTION_M


@dataclass(frozen=True)
class Region:
    """A first-order region of the RGI 7.0: how many glaciers it has, and their area together."""

    number: int
    name: str
    glaciers: int
    area_km2: float


REGIONS: Final = {
    number: Region(number, name, glaciers, area_km2)
    for number, name, glaciers, area_km2 in (
        (1, "Alaska", 27509, 86708.0),
        (2, "Western Canada and USA", 18730, 14521.0),
        (3, "Arctic Canada North", 5216, 105370.0),
        (4, "Arctic Canada South", 11009, 40538.0),
        (5, "Greenland Periphery", 19994, 90482.0),
        (6, "Iceland", 568, 11060.0),
        (7, "Svalbard and Jan Mayen", 1666, 33959.0),
        (8, "Scandinavia", 3410, 2948.0),
        (9, "Russian Arctic", 1069, 51595.0),
        (10, "North Asia", 7155, 2643.0),
        (11, "Central Europe", 4079, 2124.0),
        (12, "Caucasus and Middle East", 2275, 1407.0),
        (13, "Central Asia", 75613, 50344.0),
        (14, "South Asia West", 37562, 33075.0),
        (15, "South Asia East", 18587, 16049.0),
        (16, "Low Latitudes", 3695, 1929.0),
        (17, "Southern Andes", 30634, 27674.0),
        (18, "New Zealand", 3018, 886.0),
        (19, "Subantarctic and Antarctic Islands", 2742, 133432.0),
    )
}
"""By number. Region 20, the Antarctic mainland, has no glacier in the RGI 7.0."""

ICE_PCT: Final = ((1.0, (2.0, 12.0)), (10.0, (5.0, 30.0)), (math.inf, (20.0, 70.0)))
"""Up to which mean size of a glacier (km2): ice in per cent of the mapped blocks, at least and at most."""

_LEAST_PCT = 0.001
"""Of ice in blocks: a block of 20 km with a glacier of 0.004 km2."""

USUAL: Final = ("11", "13-15", "all")


@dataclass(frozen=True)
class Blocks:
    """Where a row of the table lies: its ice, and in how many blocks at least and at most."""

    label: str
    glaciers: int | None
    area_km2: float
    fewest: int
    most: int


def rows_of(asked: Sequence[str], block_px: int, ice_pct: tuple[float, float] | None = None) -> list[Blocks]:
    """A row for each region that is asked for; several in one word get one together as well.

    Args:
        asked: ``11``, ``13,14,15`` or ``13-15``, ``all`` (together only).
        block_px: edge of a block in pixels.
        ice_pct: in place of :data:`ICE_PCT`, for all regions.

    Raises:
        RegionError: there is no such region, or no such share.
    """
    rows: list[Blocks] = []
    for word in asked or USUAL:
        regions = _regions(word)
        if word != "all":
            rows += [_blocks(f"{one.number} {one.name}", [one], block_px, ice_pct) for one in regions]
        if len(regions) > 1:
            label = f"all {len(regions)}" if word == "all" else f"{word} together"
            rows.append(_blocks(label, regions, block_px, ice_pct))
    return rows


def share_of(text: str) -> tuple[float, float]:
    """The share that a person writes, ``3,25``: ice in per cent of the mapped blocks, least and most.

    Raises:
        RegionError: it is none.
    """
    try:
        low, high = sorted(float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not _LEAST_PCT <= low <= high <= 100.0:
        raise RegionError(
            f"share of ice {text!r}", f"two numbers from {_LEAST_PCT:g} to 100, as 3,25", "correct it"
        )
    return low, high


def of_outlines(path: str, block_px: int) -> Blocks:
    """How many blocks hold ice by a file of outlines, counted on the lattice of a run.

    Raises:
        RegionError: the file is absent or holds no polygons.
    """
    from pathlib import Path

    from cryoscale.forecast.cover import area_km2
    from cryoscale.region import RegionSpec, ZoneRegion, read_region, zones_of

    ice = read_region(RegionSpec(rgi=path, what="outlines"))
    count = sum(len(ZoneRegion(epsg, ice).blocks(block_px)) for epsg in zones_of(ice))
    return Blocks(Path(path).name, None, area_km2(ice), count, count)


def _regions(word: str) -> list[Region]:
    if word == "all":
        return list(REGIONS.values())
    found: list[Region] = []
    for part in word.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [int(end) for end in (first, last if dash else first) if end.isdecimal()]
        numbers = range(ends[0], ends[1] + 1) if len(ends) == 2 else range(0)
        if not numbers or any(number not in REGIONS for number in numbers):
            raise RegionError(
                f"RGI region {part.strip()!r}",
                "first-order regions from 1 to 19, as 11 or 13,14,15 or 13-15, or all",
                "correct it",
            )
        found += [REGIONS[number] for number in numbers]
    return list(dict.fromkeys(found))


def _blocks(
    label: str, regions: Sequence[Region], block_px: int, ice_pct: tuple[float, float] | None
) -> Blocks:
    block_km2 = (block_px * RESOLUTION_M / 1000.0) ** 2
    fewest = most = 0
    for region in regions:
        low, high = ice_pct or _ice_pct(region.area_km2 / region.glaciers)
        fewest += math.ceil(region.area_km2 / (block_km2 * high / 100.0))
        most += math.ceil(region.area_km2 / (block_km2 * low / 100.0))
    glaciers, area_km2 = sum(r.glaciers for r in regions), sum(r.area_km2 for r in regions)
    return Blocks(label, glaciers, area_km2, fewest, most)


def _ice_pct(mean_km2: float) -> tuple[float, float]:
    return next(share for up_to, share in ICE_PCT if mean_km2 < up_to)
