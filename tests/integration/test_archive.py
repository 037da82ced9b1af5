"""Years in an archive: added whole or not at all, never twice, never altered, and read by anybody's tools."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
import geopandas as gpd
import pytest
import shapely
import xarray as xr

from cryoscale import lease
from cryoscale.archive import checking
from cryoscale.archive.adding import add, withdraw
from cryoscale.archive.checking import verify_archive
from cryoscale.archive.exporting import export
from cryoscale.archive.index import PUBLISHED, ROOT, Archive
from cryoscale.archive.source import FinishedRun, bounds_of
from cryoscale.archive.tables import TYPES, read_complete
from cryoscale.cli import main
from cryoscale.errors import InputError, IntegrityError, LeaseLostError, NoRoomError, OutputError, SourceError
from cryoscale.sealing import seal
from cryoscale.write import mosaic
from tests.integration.disks import cramped
from tests.made_runs import EPSG, Tongue, Year, make_run

THREE = (Tongue(800, 600, 1500, 500, 400), Tongue(2200, 700, 1200, 300), Tongue(3600, 500, 2500, 600))
SHORTER = (Tongue(800, 600, 1300, 500, 500), Tongue(2200, 700, 1100, 300), Tongue(3600, 500, 2400, 600))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one range: 2018, another map of 2018, and 2024."""
    home = tmp_path_factory.mktemp("runs")
    made = {
        "2018": {2018: Year(THREE, date(2018, 10, 10))},
        "2018 again": {2018: Year(THREE[:2], date(2018, 10, 12))},
        "2024": {2024: Year(SHORTER, date(2024, 10, 4))},
    }
    small = {2024: Year((Tongue(1200, 600, 900, 400),), date(2024, 10, 4))}
    found = {name: make_run(home / name.replace(" ", "-"), years) for name, years in made.items()}
    return found | {"small": make_run(home / "small", small, size_px=256)}


@pytest.fixture(scope="module")
def begun(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 2018 alone."""
    root = tmp_path_factory.mktemp("begun") / "archive"
    add(str(root), str(runs["2018"]), region="made")
    return root


@pytest.fixture
def archive(begun: Path, tmp_path: Path) -> str:
    """A copy of that archive."""
    return str(shutil.copytree(begun, tmp_path / "archive"))


def state(root: str | Path) -> dict[str, tuple[int, bytes]]:
    """Time of writing and content of every file, but for who added."""
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
        if "ledger" not in path.parts
    }


def test_a_year_comes_out_as_it_went_in(runs: dict[str, Path], archive: str) -> None:
    before = gpd.read_parquet(runs["2018"] / "inventory" / "2018.parquet")
    entry = Archive(archive).read().chosen("made", 2018)
    after = gpd.read_parquet(f"{archive}/glaciers")  # the folder as one table, as any reader of Hive has it
    assert (after["region"] == "made").all()
    assert (after["year"] == 2018).all()
    assert (after["glacier_id"] == after["glac_id"]).all()
    assert after[[*before.columns.drop("year")]].equals(before.drop(columns="year"))
    mapped = mosaic.open_mosaic(runs["2018"], 2018, EPSG)
    kept = xr.open_zarr(f"{archive}/mosaics/{entry.place}/mosaic.zarr", group=f"2018/{EPSG}")
    assert (kept["label"].values == mapped["label"].values).all()
    whole = gpd.read_parquet(runs["2018"] / "inventory" / "2018-complexes.parquet").drop(columns="year")
    filed = gpd.read_parquet(f"{archive}/complexes")
    assert filed[[*whole.columns]].equals(whole)
    assert (filed["year"] == 2018).all()
    assert len(gpd.read_parquet(f"{archive}/intersects")) == 0
    lines = gpd.read_parquet(Archive(archive).table("centrelines", entry))
    assert sorted(lines["glacier_id"]) == sorted(after["glacier_id"])
    assert lines["length_m"].round().astype(int).tolist() == before["lmax_m"].tolist()
    assert verify_archive(archive).sound


def test_adding_the_same_content_again_changes_no_byte_and_no_time(
    runs: dict[str, Path], archive: str
) -> None:
    before = state(archive)
    done = add(archive, str(runs["2018"]), region="made", new_version=True)
    assert (len(done.new), len(done.unchanged)) == (0, 1)
    assert state(archive) == before


def test_other_content_is_refused_unless_it_is_to_be_a_version(runs: dict[str, Path], archive: str) -> None:
    before = state(archive)
    with pytest.raises(OutputError, match="other content.*--new-version"):
        add(archive, str(runs["2018 again"]), region="made")
    assert state(archive) == before
    add(archive, str(runs["2018 again"]), region="made", new_version=True)
    index = Archive(archive).read()
    assert [(one.version, one.state) for one in index.entries] == [(1, "superseded"), (2, "current")]
    assert {name: told for name, told in state(archive).items() if "version=1" in name} == {
        name: told for name, told in before.items() if "version=1" in name
    }
    first, second = (gpd.read_parquet(Archive(archive).table("glaciers", one)) for one in index.entries)
    assert (len(first), len(second)) == (3, 2)
    assert set(second["glacier_id"]) <= set(first["glacier_id"])
    assert verify_archive(archive).sound


def test_files_for_other_programs_are_no_content(runs: dict[str, Path], archive: str, tmp_path: Path) -> None:
    run = shutil.copytree(runs["2018"], tmp_path / "run")
    former = FinishedRun.proven(str(run), (), print).former_sha256(2018)
    product = run / "inventory" / "2018-rgi" / "submission_info.csv"
    product.parent.mkdir(exist_ok=True)
    product.write_text("anlys_time\nthe hour at which this run was begun\n")
    seal(str(run))
    assert FinishedRun.proven(str(run), (), print).former_sha256(2018) != former
    assert len(add(archive, str(run), region="made").unchanged) == 1


def test_content_is_known_again_by_the_digest_that_earlier_entries_have(
    runs: dict[str, Path], archive: str
) -> None:
    source = FinishedRun.proven(str(runs["2018"]), (), print)
    catalog = Path(archive, ROOT)
    text = catalog.read_text()
    assert source.content_sha256(2018) in text
    catalog.write_text(text.replace(source.content_sha256(2018), source.former_sha256(2018)))
    assert len(add(archive, str(runs["2018"]), region="made").unchanged) == 1


def test_a_name_that_no_region_can_have_is_refused_before_the_proof_of_the_run(
    runs: dict[str, Path], archive: str
) -> None:
    told: list[str] = []
    with pytest.raises(InputError, match="letters, digits, dots"):
        add(archive, str(runs["2024"]), region="a/b", stage=told.append)
    assert told == []


def test_the_version_that_has_the_same_content_is_named(runs: dict[str, Path], archive: str) -> None:
    add(archive, str(runs["2018 again"]), region="made", new_version=True)
    with pytest.raises(OutputError, match="as version 1 with the same content, superseded"):
        add(archive, str(runs["2018"]), region="made")


def test_a_full_disk_is_named_and_what_there_was_of_the_year_is_gone(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    with cramped(tmp_path / "small", "tmpfs"):
        root = tmp_path / "small" / "archive"
        with pytest.raises(NoRoomError, match=f"archive {root}.*2018 was not added"):
            add(str(root), str(runs["2018"]), region="made")
        assert not [path for path in root.rglob("*") if path.is_file() and "ledger" not in path.parts]


def test_an_adder_that_lost_its_lease_sweeps_nothing_of_the_other(
    runs: dict[str, Path], archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Path(archive, "mosaics", "region=made", "year=2024", "version=1", "half")

    def full(*given: Any) -> None:
        theirs.parent.mkdir(parents=True)
        theirs.write_text("of the one who took over")
        given[-1].lost.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cryoscale.archive.adding._add_year", full)
    with pytest.raises(NoRoomError):
        add(archive, str(runs["2024"]), region="made")
    assert theirs.exists()


def test_a_withdrawn_year_is_read_as_a_version_and_does_not_come_back_by_itself(
    runs: dict[str, Path], archive: str
) -> None:
    withdraw(archive, "made", 2018)
    index = Archive(archive).read()
    assert index.current() == []
    with pytest.raises(SourceError, match=r"version 1 \(withdrawn\)"):
        index.chosen("made", 2018)
    assert len(gpd.read_parquet(Archive(archive).table("glaciers", index.chosen("made", 2018, 1)))) == 3
    with pytest.raises(OutputError, match="the same content, withdrawn"):
        add(archive, str(runs["2018"]), region="made")
    add(archive, str(runs["2018"]), region="made", new_version=True)
    assert [one.state for one in Archive(archive).read().entries] == ["withdrawn", "current"]


def test_glaciers_keep_their_ids_whichever_year_is_added_first(
    runs: dict[str, Path], archive: str, tmp_path: Path
) -> None:
    backwards = str(tmp_path / "backwards")
    add(archive, str(runs["2024"]), region="made")
    add(backwards, str(runs["2024"]), region="made")
    add(backwards, str(runs["2018"]), region="made")
    for root in (archive, backwards):
        table = gpd.read_parquet(f"{root}/glaciers")
        older, newer = (table[table["year"] == year] for year in (2018, 2024))
        both = older.sjoin(newer, lsuffix="old", rsuffix="new")
        assert len(both) == 3
        assert (both["glacier_id_old"] == both["glacier_id_new"]).all()
        assert table["glacier_id"].nunique() == 3


def test_a_glacier_that_was_not_seen_for_a_year_is_known_again(
    runs: dict[str, Path], archive: str, tmp_path: Path
) -> None:
    gap = {2021: Year(SHORTER, date(2021, 10, 1), unseen=(2000.0, 3000.0, 2500.0, 0.0))}
    for run in (make_run(tmp_path / "gap", gap), runs["2024"]):
        add(archive, str(run), region="made")
    years = gpd.read_parquet(f"{archive}/glaciers").groupby("glacier_id")["year"].apply(list)
    assert sorted(years) == [[2018, 2021, 2024], [2018, 2021, 2024], [2018, 2024]]


def test_years_of_one_run_are_added_one_by_one_or_together(tmp_path: Path) -> None:
    ice = {year: (Tongue(1200, 600, 900 - 10 * (year - 2018), 400),) for year in (2018, 2019)}
    years = {year: Year(tongues, date(year, 10, 4)) for year, tongues in ice.items()}
    run, root = str(make_run(tmp_path / "run", years, size_px=256)), str(tmp_path / "archive")
    with pytest.raises(SourceError, match="2018, 2019"):
        add(root, run, years=[2020])
    add(root, run, years=[2019])
    done = add(root, run)
    assert ([one.year for one in done.new], [one.year for one in done.unchanged]) == ([2018], [2019])
    assert gpd.read_parquet(f"{root}/glaciers")["glacier_id"].nunique() == 1
    withdraw(root, "made", 2018)
    out = tmp_path / "out"
    export(Archive(root), str(out), region="made", years=[2018], version=1)
    assert gpd.read_parquet(out / "glaciers.parquet")["year"].tolist() == [2018]


def test_an_export_says_of_all_that_it_holds_where_it_lies(
    runs: dict[str, Path], archive: str, tmp_path: Path
) -> None:
    add(archive, str(runs["small"]), region="a-smaller-one")
    export(Archive(archive), str(tmp_path / "out"))
    for name in ("glaciers.parquet", "centrelines.parquet"):
        west, south, east, north = bounds_of(str(tmp_path / "out" / name)) or ()
        shapes = gpd.read_parquet(tmp_path / "out" / name)
        assert len(shapes) == 4
        assert shapes.within(shapely.box(west, south, east, north).buffer(1e-9)).all()


@pytest.mark.parametrize("kind", ["glaciers", "centrelines", "mosaics", "records"])
def test_what_is_not_as_it_was_filed_is_not_exported(archive: str, tmp_path: Path, kind: str) -> None:
    pattern = {"mosaics": "*/c/*", "records": "files.parquet"}.get(kind, "*.parquet")
    path = next(path for path in Path(archive, kind).rglob(pattern) if path.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="is not what was written: bring it back") as refused:
        export(Archive(archive), str(tmp_path / "out"), mosaics=True)
    assert str(path) in str(refused.value)


def test_a_column_that_an_older_file_lacks_is_empty(runs: dict[str, Path], tmp_path: Path) -> None:
    today = gpd.read_parquet(runs["2018"] / "inventory" / "2018.parquet")
    today.drop(columns=["snow_fraction", "is_part", "glac_name"]).to_parquet(tmp_path / "older.parquet")
    (part,) = read_complete(str(tmp_path / "older.parquet"), list(TYPES))
    assert list(part.columns) == [*TYPES, "geometry"]
    assert part[["snow_fraction", "is_part", "glac_name"]].isna().all(axis=None)
    assert part["area_km2"].tolist() == today["area_km2"].tolist()


def test_a_remote_archive_is_the_same(runs: dict[str, Path], archive: str) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    add(root, str(runs["2018"]), region="made")
    filesystem = fsspec.filesystem("memory")
    assert verify_archive(root).sound
    there = {name.split("/", 2)[2] for name in filesystem.find(root)}
    assert {one for one in there if not one.startswith(("stac/", "ledger/"))} == {
        one for one in state(archive) if not one.startswith("stac/")
    }
    before = filesystem.find(root, detail=True)
    assert len(add(root, str(runs["2018"]), region="made").unchanged) == 1
    assert filesystem.find(root, detail=True) == before
    filesystem.rm(root, recursive=True)


# --- faults -----------------------------------------------------------------------------------------

KILLED_AT = """
import json, os, shutil, signal, sys
from cryoscale.archive import adding, checking
from cryoscale.write import disk

root, run = sys.argv[1:]
steps, last = 0, None


def step(real):
    def stepping(*given, **named):
        global steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **named)

    return stepping


def status_of(point, where):
    '''Of a child that adds, and is killed at a step; it counts its steps into a file otherwise.'''
    global last
    last, child = point, os.fork()
    if child == 0:
        # before and after whatever puts bytes in their place
        disk._fill, os.replace = step(disk._fill), step(os.replace)
        adding.add(where, run, region="made")
        open(f"{where}.steps", "w").write(str(steps))
        os._exit(0)
    return os.waitpid(child, 0)[1]


shutil.copytree(root, f"{root}-counted")
assert status_of(None, f"{root}-counted") == 0
total = int(open(f"{root}-counted.steps").read())
told = []
for point in (total // 2, *range(total - 5, total + 1)):
    status = status_of(point, root)
    proof = checking.verify_archive(root)
    found = [[one.year, one.state] for one in adding.Archive(root).read().entries]
    told.append([os.WIFSIGNALED(status), [fault.where for fault in proof.faults], found])
status_of(None, root)
print(json.dumps(told))
"""


def test_an_addition_killed_anywhere_leaves_the_old_archive_or_the_new_one(
    runs: dict[str, Path], archive: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, archive, str(runs["small"])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    old, new = [[2018, "current"]], [[2018, "current"], [2024, "current"]]
    assert all(faults == [] for _, faults, _ in told)
    assert {str(found) for _, _, found in told} == {str(old), str(new)}  # killed before, and after
    assert sum(was_killed for was_killed, _, _ in told) >= 4
    proof = verify_archive(archive)
    assert (proof.sound, proof.leftovers) == (True, ())
    # what an addition that nobody disturbed leaves, but for STAC documents, whose folder is named at random
    names, clean = (
        {one for one in state(root) if not one.startswith("stac/")}
        for root in (archive, f"{archive}-counted")
    )
    assert names == clean


def test_a_second_adder_is_refused_and_told_of_the_first(runs: dict[str, Path], archive: str) -> None:
    with lease.held(archive), pytest.raises(OutputError, match="is adding to"):
        add(archive, str(runs["2024"]), region="made")
    add(archive, str(runs["2024"]), region="made")
    assert len(Archive(archive).read().entries) == 2


def test_an_adder_that_was_taken_for_dead_publishes_nothing(runs: dict[str, Path], archive: str) -> None:
    before = state(archive)["catalog.json"]

    def another_took_over(text: str) -> None:
        if text.startswith("adding"):
            folder = Path(archive) / "ledger" / "lease"
            (folder / "00000099.json").write_text(json.dumps({"beat": 1, "host": "other", "pid": 1}))

    with pytest.raises(LeaseLostError):
        add(archive, str(runs["small"]), region="other", stage=another_took_over)
    assert state(archive)["catalog.json"] == before
    assert verify_archive(archive).sound


def test_whoever_reads_beside_an_adder_has_every_year_whole(runs: dict[str, Path], archive: str) -> None:
    over = threading.Event()
    seen: set[int] = set()
    faults: list[str] = []

    def look() -> None:
        while not over.is_set() or 4 not in seen:
            index = Archive(archive).read()
            documents = [Path(archive) / "stac" / index.generation / name for name in index.documents]
            whole = all(path.is_file() for path in documents)
            for entry in index.entries:
                table = gpd.read_parquet(Archive(archive).table("glaciers", entry), columns=["geometry"])
                faults.extend([] if len(table) == entry.glaciers else [entry.name])
            now = Archive(archive).read()
            if index.generation in (now.generation, now.before):  # else two years came while we looked
                faults.extend([] if whole else [index.generation])
            seen.add(len(index.entries))

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(look)
        try:
            for number, name in enumerate(("2024", "2018 again", "small")):
                add(archive, str(runs[name]), region="made" if number < 2 else "other", new_version=True)
        finally:
            over.set()
        reader.result(timeout=60)
    assert faults == []
    assert {1, 4} <= seen


def altered(root: str, **changes: object) -> None:
    path = Path(root) / ROOT
    document = json.loads(path.read_text())
    document["cryoscale:archive"].update(changes)
    path.write_text(json.dumps(document))


def test_an_archive_of_another_schema_version_is_refused_by_every_command(
    runs: dict[str, Path], archive: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(archive, schema_version=2)
    before = state(archive)
    commands = (
        ["add", str(runs["2024"])],
        ["list"],
        ["verify"],
        ["withdraw", "2018", "--region", "made"],
    )
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["cryoscale", "archive", *command, "--archive", archive])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert "schema version 2" in line
        assert "schema version 1" in line
    assert state(archive) == before


def unfinished(run: Path) -> None:
    (run / "ledger" / "finished.json").unlink()


def without_a_block(run: Path) -> None:
    next((run / "ledger" / "done").rglob("*.json")).unlink()


def altered_outlines(run: Path) -> None:
    path = run / "inventory" / "2024.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def no_run(run: Path) -> None:
    (run / "run.json").unlink()


@pytest.mark.parametrize("spoil", [unfinished, without_a_block, altered_outlines, no_run])
def test_a_run_that_does_not_prove_itself_is_refused_in_one_line(
    runs: dict[str, Path], archive: str, tmp_path: Path, spoil: object
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["2024"], run)
    spoil(run)  # type: ignore[operator]
    before = state(archive)
    with pytest.raises(InputError) as refused:
        add(archive, str(run), region="made")
    assert "\n" not in str(refused.value)
    assert state(archive) == before
    assert not (Path(archive) / "ledger" / "lease" / "00000002.json").exists()


def test_a_run_that_changes_while_it_is_copied_is_refused(
    runs: dict[str, Path], archive: str, tmp_path: Path
) -> None:
    run = shutil.copytree(runs["small"], tmp_path / "run")
    before = state(archive)[ROOT]

    def driven_again(text: str) -> None:
        if text.startswith("adding"):
            without_a_block(run)
            unfinished(run)

    with pytest.raises(SourceError, match="which was changed while 2024 was copied"):
        add(archive, str(run), region="made", stage=driven_again)
    assert state(archive)[ROOT] == before


def test_a_folder_with_other_things_is_no_archive(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        add(str(tmp_path), str(runs["2018"]))
    with pytest.raises(SourceError, match="a run is no archive"):
        add(str(runs["2018"]), str(runs["2018"]))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("harm", ["lost", "of an older copy"])
def test_to_a_catalogue_that_is_not_the_latest_no_year_is_rubbish(
    runs: dict[str, Path], archive: str, harm: str
) -> None:
    catalog = Path(archive, ROOT)
    older = catalog.read_bytes()
    withdraw(archive, "made", 2018)
    if harm == "lost":
        catalog.unlink()
    else:
        catalog.write_bytes(older)
    before = state(archive)
    with pytest.raises(OutputError, match=r"number 2 at least was published.*bring back the latest"):
        add(archive, str(runs["2024"]), region="made")
    if harm != "lost":
        with pytest.raises(OutputError, match="number 2 at least"):
            withdraw(archive, "made", 2018)
        proof = verify_archive(archive)
        assert (ROOT, proof.leftovers) == (proof.faults[0].where, ())
    assert state(archive) == before


def test_an_archive_of_an_earlier_cryoscale_tells_its_latest_catalogue_by_its_documents(archive: str) -> None:
    Path(archive, PUBLISHED).unlink()
    assert Archive(archive).last_number() == 0
    for name in ("000003-0123abcd", "000004-89ef0123", "of-somebody"):
        Path(archive, "stac", name).mkdir()
    assert Archive(archive).last_number() == 3


def test_verify_tells_a_catalogue_that_was_altered(archive: str) -> None:
    catalog = Path(archive, ROOT)
    catalog.write_text(catalog.read_text().replace('"glaciers": 3', '"glaciers": 4'))
    (fault,) = verify_archive(archive).faults
    assert (fault.where, fault.reason) == (ROOT, "is not what was written")


def test_verify_beside_an_adder_tells_no_fault(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = checking._documents

    def beside(*given: Any) -> Any:
        withdraw(archive, "made", 2018)
        return documents(*given)

    monkeypatch.setattr(checking, "_documents", beside)
    assert verify_archive(archive).faults == []


def test_what_somebody_else_put_into_the_folders_of_an_archive_is_neither_told_nor_swept(
    archive: str,
) -> None:
    for name in ("glaciers/.DS_Store", "stac/.DS_Store", "mosaics/region=made.zip", "records/my/own/notes/x"):
        Path(archive, name).parent.mkdir(parents=True, exist_ok=True)
        Path(archive, name).write_text("of somebody")
    proof = verify_archive(archive)
    assert (proof.faults, proof.leftovers) == ([], ())
    withdraw(archive, "made", 2018)
    assert Path(archive, "records", "my", "own", "notes", "x").exists()


@pytest.mark.parametrize("kind", ["glaciers", "mosaics", "records", "stac"])
@pytest.mark.parametrize("harm", ["a flipped byte", "gone", "one more"])
def test_verify_names_the_file_that_is_not_as_it_was_written(archive: str, kind: str, harm: str) -> None:
    path = max((p for p in (Path(archive) / kind).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if harm == "a flipped byte":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "gone":
        path.unlink()
    else:
        path = path.with_name("another")
        path.write_bytes(b"")
    (fault,) = verify_archive(archive).faults
    assert fault.where == str(path.relative_to(archive))
