"""Change between two years of an archive, held against ice whose true change is known by formula."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from cryoscale.archive.adding import add
from cryoscale.archive.change import NOT_SEEN, Change, difference
from cryoscale.archive.doubt import change_reach, region_change_reach
from cryoscale.archive.exporting import export
from cryoscale.archive.index import Archive
from cryoscale.archive.reported import COLUMNS, write_changes
from cryoscale.cli import main
from cryoscale.errors import InputError, NoRoomError, OutputError
from cryoscale.write.bootstrap import COMMON
from cryoscale.write.store import put
from cryoscale.write.uncertainty import LEVEL
from tests.made_runs import EPSG, Tongue, Year, make_run, place_of

RETREAT_M_PER_YR = (10.0, 0.0, 20.0, 5.0, 40.0, -8.0)
TONGUES = tuple(
    Tongue(500.0 + 750.0 * n, 500.0, 1200.0 + 250.0 * n, 280.0 + 50.0 * (n % 3), 300.0) for n in range(6)
)
VANISHES = Tongue(900.0, 4200.0, 300.0, 250.0)
UNSEEN = Tongue(2600.0, 4200.0, 300.0, 250.0)
HALF_SEEN = Tongue(4200.0, 3700.0, 900.0, 300.0)
SPLITS = Tongue(4850.0, 600.0, 1600.0, 260.0)
PARTS = replace(SPLITS, length_m=600.0), replace(SPLITS, head_m=1700.0, length_m=500.0)
NODATA = (2200.0, 5200.0, 3100.0, 3900.0), (3900.0, 5200.0, 4600.0, 4300.0)


def tongues(year: int) -> list[Tongue]:
    gone = year - 2018
    rates = zip(TONGUES, RETREAT_M_PER_YR, strict=True)
    found = [replace(one, length_m=one.length_m - gone * rate) for one, rate in rates]
    return [*found, UNSEEN, HALF_SEEN, *([VANISHES, SPLITS] if year < 2024 else PARTS)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Three years in which six tongues shrink by known rates; edges err by 8 m, in part alike everywhere."""
    home = tmp_path_factory.mktemp("change")
    for year, unseen in ((2018, None), (2021, NODATA[1]), (2024, NODATA[0])):
        told = Year(tongues(year), date(year, 10, 10 + year - 2018), unseen=unseen, noise=year)
        add(str(home / "archive"), str(make_run(home / str(year), {year: told})), region="made")
    return Archive(str(home / "archive"))


@pytest.fixture(scope="module")
def change(archive: Archive) -> Change:
    return difference(archive, "made", 2018, 2024)


def row_of(change: Change, tongue: Tongue) -> pd.Series:
    """The row whose outline holds the head of a tongue."""
    lon, lat = place_of(tongue.x_m, tongue.head_m)
    (index,) = change.glaciers.index[change.glaciers.contains(gpd.points_from_xy([lon], [lat])[0])]
    return change.glaciers.loc[index]


def test_known_rates_over_six_years_are_recovered_within_their_intervals(change: Change) -> None:
    true_km2 = [-6 * rate * one.width_m / 1e6 for one, rate in zip(TONGUES, RETREAT_M_PER_YR, strict=True)]
    rows = [row_of(change, one) for one in TONGUES]
    inside = [
        row["change_low_km2"] <= true <= row["change_high_km2"]
        for row, true in zip(rows, true_km2, strict=True)
    ]
    assert sum(inside) >= 5, [(row["change_km2"], true) for row, true in zip(rows, true_km2, strict=True)]
    moved = [
        row["retreat_low_m"] <= 6 * rate <= row["retreat_high_m"]
        for row, rate in zip(rows, RETREAT_M_PER_YR, strict=True)
    ]
    assert sum(moved) >= 5, [
        (row["retreat_m"], 6 * rate) for row, rate in zip(rows, RETREAT_M_PER_YR, strict=True)
    ]
    assert all(row["retreat_high_m"] - row["retreat_low_m"] < 80 for row in rows)
    total = change.total
    region_km2 = sum(true_km2) - VANISHES.area_km2 - SPLITS.area_km2 + sum(one.area_km2 for one in PARTS)
    assert total["change_low_km2"] <= region_km2 <= total["change_high_km2"]
    assert total["change_high_km2"] < 0  # and it says that there is less
    assert total["years"] == pytest.approx((date(2024, 10, 16) - date(2018, 10, 10)).days / 365.25)
    assert total["change_km2_per_yr"] == pytest.approx(total["change_km2"] / total["years"])


def test_a_glacier_that_one_year_has_not_seen_has_not_vanished(change: Change) -> None:
    assert row_of(change, UNSEEN)["kind"] == NOT_SEEN
    assert np.isnan(row_of(change, UNSEEN)["change_km2"])
    assert row_of(change, VANISHES)["kind"] == "vanished"
    assert row_of(change, VANISHES)["change_km2"] == pytest.approx(-VANISHES.area_km2, rel=0.15)
    assert change.total["events"] == {"same": 7, "split": 1, "vanished": 1, NOT_SEEN: 1}


def test_what_a_glacier_split_into_is_told_in_its_row(change: Change) -> None:
    row = row_of(change, SPLITS)
    assert (row["kind"], row["n_older"], row["n_newer"]) == ("split", 1, 2)
    assert row["glacier_id"] in row["newer_glacier_ids"].split(" ")
    lost_km2 = SPLITS.area_km2 - sum(one.area_km2 for one in PARTS)
    assert row["change_low_km2"] <= -lost_km2 <= row["change_high_km2"]
    assert abs(row["retreat_m"]) < 30  # its lowest ice ends where it did


def test_a_glacier_half_of_which_was_not_seen_has_not_lost_it(archive: Archive) -> None:
    row = row_of(difference(archive, "made", 2021, 2024), HALF_SEEN)
    assert row["older_area_km2"] < 0.7 * HALF_SEEN.area_km2  # its lower part lies under no data in 2021
    assert row["newer_area_km2"] == pytest.approx(HALF_SEEN.area_km2, rel=0.1)
    assert row["change_low_km2"] <= 0 <= row["change_high_km2"]
    assert abs(row["change_km2"]) < 0.1 * HALF_SEEN.area_km2
    assert np.isnan(row["retreat_m"])  # nobody saw its terminus in 2021


def test_debris_is_told_over_the_same_ground(change: Change) -> None:
    row = row_of(change, TONGUES[0])
    assert row["older_seen_debris_km2"] == pytest.approx(row["older_debris_area_km2"], rel=1e-9)
    # the lowest 300 m and the round end lie under debris, wherever the terminus is
    assert abs(row["debris_change_km2"]) < 0.1 * row["older_debris_area_km2"]
    unseen = row_of(change, UNSEEN)
    assert np.isnan(unseen["debris_change_km2"])


def test_the_series_has_one_ground_for_all_years(archive: Archive, change: Change) -> None:
    assert change.series["year"].tolist() == [2018, 2021, 2024]
    seen = change.series["common_area_km2"]
    for year, area in zip(change.series["year"], seen, strict=True):
        on = [one for one in tongues(year) if one not in (UNSEEN, HALF_SEEN)]
        half = HALF_SEEN.width_m * (4300.0 - 3700.0) / 1e6 + np.pi * (HALF_SEEN.width_m / 2) ** 2 / 2e6
        assert area == pytest.approx(sum(one.area_km2 for one in on) + half, rel=0.06)


def test_an_interval_of_differences_covers_as_often_as_it_says() -> None:
    rng, blocks, common = np.random.default_rng(3), 40, 0.4
    widths = [(rng.uniform(0.5, 2, blocks), rng.uniform(0.5, 2, blocks)) for _ in range(2)]
    even = [((down + up) / 2,) * 2 for down, up in widths]
    down, up = change_reach(even[0], even[1], common)
    total_down, total_up = region_change_reach(even[0], even[1], common)
    inside, whole = [], []
    for _ in range(3000):
        bias = np.sqrt(common) * rng.standard_normal()
        errors = [
            (bias + np.sqrt(1 - common) * rng.standard_normal(blocks)) * half / 1.6448536 for half, _ in even
        ]
        error = errors[1] - errors[0]
        inside.append((-down <= error) & (error <= up))
        whole.append(-total_down <= error.sum() <= total_up)
    assert np.mean(inside) == pytest.approx(LEVEL, abs=0.01)
    assert np.mean(whole) == pytest.approx(LEVEL, abs=0.03)
    independent = change_reach(even[0], even[1], 0.0)[0]
    assert (down < independent).all()


def test_tables_maps_and_charts_are_written(change: Change, tmp_path: Path) -> None:
    names = write_changes([change], str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    csv = pd.read_csv(tmp_path / "out" / "glaciers.csv")
    assert list(csv.columns) == list(COLUMNS)
    table = gpd.read_parquet(tmp_path / "out" / "glaciers.parquet")
    assert table.geometry.is_valid.all()
    assert csv["change_km2"].tolist() == pytest.approx(table["change_km2"].tolist(), nan_ok=True)
    told = json.loads((tmp_path / "out" / "change.json").read_text())
    assert told["regions"][0]["change_km2"] == change.total["change_km2"]
    for name in ("map-made.png", "series-made.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_a_comparison_replaces_an_earlier_one_and_nothing_else(
    archive: Archive, change: Change, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_changes([replace(change, region="other")], str(out))
    (out / "map-for-the-paper.png").write_bytes(b"mine")
    names = write_changes([change], str(out))
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "map-for-the-paper.png"])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "change.json").write_text('{"x": 1}')
    with pytest.raises(OutputError, match=r"no change\.json of a comparison"):
        write_changes([change], str(foreign))
    export(archive, str(tmp_path / "export"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}
    with pytest.raises(OutputError, match=r"centrelines\.parquet.*another --out"):
        write_changes([change], str(tmp_path / "export"))
    with pytest.raises(OutputError, match=r"catalog\.json"):
        write_changes([change], archive.root)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}


def test_a_comparison_that_was_cut_short_is_written_by_the_same_command(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "out", []

    def full(url: str, content: bytes) -> None:
        if len(written) == 2:
            raise NoRoomError("the disk is full")
        written.append(url)
        put(url, content)

    with monkeypatch.context() as patch:
        patch.setattr("cryoscale.archive.reported.put", full)
        with pytest.raises(NoRoomError):
            write_changes([change], str(out))
    names = write_changes([change], str(out))
    assert sorted(path.name for path in out.iterdir()) == sorted(names)


@pytest.mark.parametrize(("older", "newer", "common"), [("a", "a", COMMON), ("a", "b", 0.0)])
def test_two_trainings_of_one_model_err_apart(
    archive: Archive, tmp_path: Path, older: str, newer: str, common: float
) -> None:
    root = shutil.copytree(archive.root, tmp_path / "archive")
    for year, sha256 in ((2018, older), (2024, newer)):
        (record,) = root.glob(f"records/**/year={year}/**/run.json")
        told = json.loads(record.read_text())
        told["identity"]["model"] = {"name": "drawn", "sha256": sha256}
        record.write_text(json.dumps(told))
    assert difference(Archive(str(root)), "made", 2018, 2024).total["errors_in_common"] == common


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_years_without_a_glacier_are_compared_as_others_are(archive: Archive, tmp_path: Path) -> None:
    """Ice that is all gone, and a place that has none in either year: tables without rows, and no map."""
    root = shutil.copytree(archive.root, tmp_path / "archive")
    for year in (2026, 2028):
        made = make_run(tmp_path / str(year), {year: Year((), date(year, 10, 10))})
        add(str(root), str(made), region="made")
    changed = Archive(str(root))

    gone = difference(changed, "made", 2018, 2026)
    assert gone.total["change_pct"] == -100.0
    assert gone.total["median_retreat_m"] is None
    write_changes([gone], str(tmp_path / "change"))
    assert (tmp_path / "change" / "map-made.png").exists()

    bare = difference(changed, "made", 2026, 2028)
    assert bare.total["events"] == {}
    assert (bare.total["change_km2"], bare.total["change_pct"]) == (0.0, None)
    write_changes([bare], str(tmp_path / "change"))
    table = pd.read_csv(tmp_path / "change" / "glaciers.csv")
    assert list(table.columns) == list(COLUMNS)
    assert table.empty
    assert not (tmp_path / "change" / "map-made.png").exists(), "that of the comparison before"
    assert (tmp_path / "change" / "series-made.png").exists()


@pytest.mark.parametrize(
    ("years", "said"),
    [
        (("2018", "2019"), "2018, 2021, 2024"),
        (("2024", "2018"), "exchange them"),
        (("1990", "1991"), "a year that"),
    ],
)
def test_years_that_cannot_be_compared_end_in_one_line(
    archive: Archive, tmp_path: Path, years: tuple[str, str], said: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    command = ["cryoscale", "archive", "diff", *years, "--archive", archive.root, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()
    monkeypatch.setattr(sys, "argv", [*command[:-1], "foo://bar"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "foo://bar" in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_export_has_every_year_in_one_table_of_ids(archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "export"
    export(archive, str(out), mosaics=True)
    ids = pd.read_csv(out / "glacier_ids.csv")
    glaciers = gpd.read_parquet(out / "glaciers.parquet")
    assert len(ids) == len(glaciers) == sum(one.glaciers for one in archive.read().entries)
    always = ids.groupby("glacier_id")["year"].apply(list)
    assert sorted(map(str, always)) == ["[2018, 2021, 2024]"] * 8 + ["[2018, 2021]"] * 2 + ["[2024]"]
    package = tmp_path / "export.gpkg"
    export(archive, str(package), years=[2018, 2024])
    layer = gpd.read_file(package, layer="glaciers")
    assert sorted(layer["year"].unique()) == [2018, 2024]
    assert len(gpd.read_file(package, layer="glacier_ids")) == len(layer)
    assert len(gpd.read_file(package, layer="perennial")) == len(layer)
    with pytest.raises(OutputError, match="there already"):
        export(archive, str(package))
    with pytest.raises(OutputError, match="outside of the archive"):
        export(archive, f"{archive.root}/export")
    with pytest.raises(InputError, match="made 2018, made 2021, made 2024"):
        export(archive, str(tmp_path / "other"), region="elsewhere")
    assert EPSG in archive.read().entries[0].zones


def test_the_years_of_an_archive_say_what_lasts_and_who_has_not_seen_it(
    archive: Archive, tmp_path: Path
) -> None:
    export(archive, str(tmp_path / "export"))
    glaciers = gpd.read_parquet(tmp_path / "export" / "glaciers.parquet").query("year == 2018")
    table = pd.read_csv(tmp_path / "export" / "perennial.csv", keep_default_na=False).query("year == 2018")

    def told(tongue: Tongue) -> list[str]:
        head = gpd.points_from_xy(*([v] for v in place_of(tongue.x_m, tongue.head_m)))[0]
        (name,) = glaciers["glac_id"][glaciers.contains(head)]
        found = table.set_index("glac_id").loc[name, ["kind", "years_frozen", "years_gone"]]
        return [str(value) for value in found]

    for tongue in TONGUES:
        assert told(tongue) == ["perennial", "2018 2021 2024", ""]
    assert told(VANISHES) == ["undecided", "2018 2021", "2024"]  # ice vanishes, too
    assert told(UNSEEN) == ["undecided", "2018 2021", ""]
