from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from cryoscale.write import evidence, quicklook
from cryoscale.write.evidence import Evidence
from cryoscale.write.perennial import Look, decide, look_at, write_perennial
from cryoscale.write.succession import write_links
from cryoscale.write.vectors import write_parts
from tests.unit.test_write_evidence import BLOCK, EPSG, NOTHING, SIZE, in_degrees, pixels
from tests.unit.test_write_snow import cells

SEEN = {"F": (1.0, 0.9), "G": (1.0, 0.1), "-": (0.4, 1.0)}
"""Frozen, gone, and not seen, as (seen, ice)."""


@pytest.mark.parametrize(
    ("years", "kind"),
    [
        ("F", "undecided"),
        ("FF", "undecided"),
        ("FFF", "perennial"),
        ("F-F-F", "perennial"),  # what a year did not see, it does not deny
        ("F-F", "undecided"),
        ("FFFG", "perennial"),  # and has vanished
        ("GFFF", "perennial"),
        ("FG", "seasonal"),
        ("GFG", "seasonal"),
        ("FGF", "seasonal"),
        ("F-G", "seasonal"),
        ("FFG", "undecided"),  # a glacieret lasts two years
        ("FFGFF", "undecided"),
        ("-", "undecided"),
        ("G", "seasonal"),
    ],
)
def test_years_decide_by_what_they_saw(years: str, kind: str) -> None:
    looks = [Look(2016 + n, *SEEN[saw]) for n, saw in enumerate(years)]
    found = decide(reversed(looks))
    assert found.kind == kind
    assert found.frozen == tuple(2016 + n for n, saw in enumerate(years) if saw == "F")
    assert found.gone == tuple(2016 + n for n, saw in enumerate(years) if saw == "G")


def test_several_dates_say_more_than_the_map_and_a_single_one_says_nothing() -> None:
    assert Look(2018, 1.0, 1.0, dates=3.0, persistence=0.3).is_frozen is False
    assert Look(2018, 1.0, 0.0, dates=3.0, persistence=0.9).is_frozen is True
    assert Look(2018, 1.0, 1.0, dates=1.0, persistence=0.0).is_frozen is True
    assert Look(2018, 0.49, 1.0, dates=3.0, persistence=1.0).is_frozen is None


def test_ice_under_debris_is_not_told_by_snow() -> None:
    tongue = cells(ice=1.0, debris=0.9, persistence=0.0, dates=4.0)
    assert look_at(tongue, 2018, debris_fraction=0.9).is_frozen is True
    assert look_at(tongue, 2018, debris_fraction=0.0).is_frozen is True  # none of it is clean in that year
    half = cells(ice=1.0, debris=np.repeat([1.0, 0.0], 50), persistence=np.repeat([0.0, 1.0], 50), dates=4.0)
    assert look_at(half, 2018, debris_fraction=0.4).persistence == 1.0


def test_the_table_has_a_row_for_each_outline_of_each_year_under_its_stable_id(tmp_path: Path) -> None:
    glacier = pixels(BLOCK.window, slice(40, 80), slice(40, 80))
    patch = pixels(BLOCK.window, slice(160, 180), slice(160, 180))
    folder, seen = tmp_path / "inventory", {}
    for year, with_patch in ((2017, False), (2018, True), (2019, False)):
        out = str(tmp_path / "run")
        quicklook.create(out, year=year, window=BLOCK.window, block_px=SIZE)
        label = np.zeros((SIZE, SIZE), np.uint8)
        label[40:80, 40:80] = 1
        label[160:180, 160:180] = int(with_patch)
        dates = np.full(label.shape, 17_800, np.int32)
        evidence.write_block(out, year, BLOCK, evidence.layers_of(NOTHING.get, label, dates, year))
        kept = evidence.open_evidence(out, year, EPSG)
        assert kept is not None
        seen[year] = Evidence({EPSG: kept})
        shapes = [in_degrees(shape) for shape in ([glacier, patch] if with_patch else [glacier])]
        names = [f"{name}{year}" for name in ("g", "p")][: len(shapes)]
        part = gpd.GeoDataFrame({"glac_id": names, "debris_fraction": 0.0}, geometry=shapes, crs="EPSG:4326")
        write_parts(iter([part]), folder / f"{year}.parquet", None)
    write_links(folder, dict.fromkeys(seen), None)
    write_perennial(folder, seen)
    table = pd.read_csv(folder / "perennial.csv", dtype=str, keep_default_na=False)
    assert table.to_dict("records") == [
        row(2017, "g2017", "g2017", "perennial", "2017 2018 2019", ""),
        row(2018, "g2018", "g2017", "perennial", "2017 2018 2019", ""),
        row(2018, "p2018", "p2018", "seasonal", "2018", "2017 2019"),
        row(2019, "g2019", "g2017", "perennial", "2017 2018 2019", ""),
    ]


def row(year: int, name: str, stable: str, kind: str, frozen: str, gone: str) -> dict[str, str]:
    """A row of the table."""
    names = ("year", "glac_id", "glacier_id", "kind", "years_frozen", "years_gone")
    return dict(zip(names, (str(year), name, stable, kind, frozen, gone), strict=True))
