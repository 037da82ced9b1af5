"""A run's end is made once, and again where what it follows from, or what it made, has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import geopandas
import pytest
from shapely.geometry import box

from cryoscale import finish
from cryoscale.config import load_config
from cryoscale.ending import basis_of, end
from cryoscale.errors import InputError, SourceError
from cryoscale.ledger import MADE, SEAL, Ledger, SetAside
from cryoscale.pipeline import Again
from cryoscale.pipeline import run as run_pipeline
from cryoscale.redraw import outline, settings_of
from cryoscale.results import Run
from cryoscale.settings import ModelSpec, Settings
from cryoscale.write import corrections
from tests.integration.conftest import Calm
from tests.integration.faults import run_here


@pytest.fixture
def run(calm: Calm, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    shutil.copytree(calm.out, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The output of each end that is made; nothing is made in truth."""
    ends: list[str] = []
    monkeypatch.setattr(finish, "finish", lambda settings, out, stage: ends.append(out))
    return ends


def write_times(run: Path) -> dict[str, int]:
    """When each file of the map and of the run's end was written."""
    paths = [path for name in (*MADE, "map.png") for path in (run / name, *(run / name).rglob("*"))]
    return {str(path): path.stat().st_mtime_ns for path in paths if path.is_file()}


def test_the_same_command_on_a_finished_run_writes_none_of_its_files(calm: Calm, run: Path) -> None:
    before = write_times(run)
    told = run_here(calm.config, run)
    assert (told["computed"], told["skipped"]) == (0, calm.blocks)
    assert write_times(run) == before
    assert len(before) > 20


def lose(name: str) -> Callable[[Path], None]:
    return lambda run: next(iter(sorted(run.glob(name)))).unlink()


def alter(name: str, after: bytes = b"") -> Callable[[Path], None]:
    """One byte of a file is another, the middle one or the first ``after``; its length and times stay."""

    def change(run: Path) -> None:
        path = sorted(run.glob(name))[0]
        held, state = bytearray(path.read_bytes()), path.stat()
        held[held.index(after) + len(after) if after else len(held) // 2] ^= 1
        path.write_bytes(held)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    return change


def done_again(run: Path) -> None:
    """A block that came out the same in another time."""
    ledger = Ledger(str(run))
    marker = next(ledger.markers())
    ledger.mark(marker.model_copy(update={"attempt": marker.attempt + 1}))


def set_aside(run: Path) -> None:
    ledger = Ledger(str(run))
    marker = next(ledger.markers())
    year, block = marker.key
    place = {"year": year, "epsg": block.epsg, "row": block.row, "col": block.col, "size_px": block.size_px}
    ledger.set_aside(
        SetAside(**place, error="ValueError", reason="broken", attempts=3, when="2018-11-01T00:00:00+00:00")
    )


def sealed_before(run: Path) -> None:
    """As by a version that put down less."""
    ledger = Ledger(str(run))
    sealed = ledger.get(SEAL) or {}
    ledger.put(SEAL, {name: sealed[name] for name in ("blocks", "files")})


@pytest.mark.parametrize(
    "change",
    [
        lose("inventory/2018.parquet"),
        lose("catalog.json"),
        lose("map.png"),
        lose("report.html"),
        lose("mosaic.zarr/2018/*/x2/label/c/0/0"),
        alter("inventory/2018.parquet"),
        alter("stac/**/*.json"),
        alter("run.json", after=b'"created": "'),
        alter("ledger/finished.json"),
        lose("ledger/finished.json"),
        done_again,
        set_aside,
        sealed_before,
    ],
    ids=[
        "no inventory",
        "no catalogue",
        "no picture",
        "no report",
        "a tile of a coarser level is gone",
        "a byte of the inventory",
        "a byte of an item",
        "a byte of the record",
        "a byte of the seal",
        "no seal",
        "a block done again",
        "a block set aside",
        "a seal of an earlier version",
    ],
)
def test_an_end_is_made_again_where_something_changed(
    calm: Calm, run: Path, made: list[str], change: Callable[[Path], None]
) -> None:
    settings, out = load_config(calm.config), str(run)
    end(settings, out, lambda text: None)
    assert made == []
    change(run)
    end(settings, out, lambda text: None)
    assert made == [out]


def test_what_people_correct_is_a_part_of_what_an_end_is_made_from(calm: Calm, run: Path) -> None:
    settings, out = load_config(calm.config), str(run)
    before = basis_of(settings, out)
    assert basis_of(settings, out) == before
    corrections.keep(out, corrections.NONE)
    after = basis_of(settings, out)
    corrections.keep(out, None)
    assert basis_of(settings, out) == before != after


def asked(calm: Calm, **outlines: object) -> Settings:
    import yaml

    document = yaml.safe_load(calm.config.read_text())
    return load_config({**document, "outlines": {**document["outlines"], **outlines}})


def test_an_end_is_made_again_where_other_files_or_another_rgi_are_asked_for(
    calm: Calm, run: Path, made: list[str], tmp_path: Path
) -> None:
    out = str(run)

    def again(settings: Settings) -> bool:
        made.clear()
        end(settings, out, lambda text: None)
        return bool(made)

    def write(name: str) -> str:
        bounds = load_config(calm.config).region.bounds
        columns = {"rgi_id": ["RGI2000-v7.0-G-15-00001"], "o1region": ["15"], "glac_name": [name]}
        path = tmp_path / "rgi[15].shp"
        geopandas.GeoDataFrame(columns, geometry=[box(*bounds)], crs=4326).to_file(path)
        return str(path)

    assert [again(asked(calm, files=["kmz"])) for _ in range(2)] == [True, False]
    rgi = write("Everything")
    assert [again(asked(calm, rgi=rgi)) for _ in range(2)] == [True, False]
    told = settings_of(Run(out))  # `cryoscale outline` draws what was drawn last
    assert (told.known_glaciers, told.files) == (rgi, ())
    moved = replace(asked(calm, rgi=rgi), model=ModelSpec(weights="elsewhere.safetensors"))
    assert [again(moved) for _ in range(2)] == [True, False]
    assert again(asked(calm, rgi=rgi))
    shape = Path(rgi).read_bytes()
    write("Anything")  # the shapes are the same, and the names are in another file
    assert Path(rgi).read_bytes() == shape
    assert [again(asked(calm, rgi=rgi)) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("gone", ["quicklook.zarr", "quicklook.zarr/2018/32644/elevation/c/0/0"])
def test_outlines_are_not_drawn_again_without_the_ground_that_they_were_drawn_on(
    gone: str, calm: Calm, run: Path, made: list[str]
) -> None:
    settings, before = load_config(calm.config), (run / "inventory/2018.parquet").read_bytes()
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    end(settings, str(run), lambda text: None)  # what is there needs it no more
    lose("report.html")(run)
    for again in (lambda: end(settings, str(run), lambda text: None), lambda: outline(str(run))):
        with pytest.raises(
            SourceError, match=r"quicklook\.zarr/2018/\d+, of which \d+ of \d+ chunks are gone"
        ):
            again()
    assert made == []
    assert (run / "inventory/2018.parquet").read_bytes() == before


def test_a_slip_beside_redo_costs_no_run(calm: Calm, run: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    settings, nowhere = load_config(calm.config), box(1.0, 2.0, 3.0, 4.0)
    for again, what in (
        (Again(new_run=True, redo=nowhere), "--redo with --new-run; expected a run that lies there"),
        (Again(redo=nowhere), "--redo 1.0000/2.0000/3.0000/4.0000, where the run has no block"),
    ):
        with pytest.raises(InputError, match=what):
            run_pipeline(settings, str(run), again=again)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(InputError, match="where no run was begun"):
        run_pipeline(settings, str(tmp_path / "new"), again=Again(redo=settings.region))
    assert not (tmp_path / "new" / "run.json").exists()
    Ledger(str(run)).clear()
    assert Ledger(str(run)).get(SEAL) is None


def test_an_end_that_fails_leaves_no_seal_that_says_it_was_made(
    calm: Calm, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise OSError(28, "no space")

    settings, out = load_config(calm.config), str(run)
    lose("inventory/2018.parquet")(run)
    monkeypatch.setattr(finish, "finish", fail)
    with pytest.raises(OSError, match="no space"):
        end(settings, out, lambda text: None)
    ends: list[str] = []
    monkeypatch.setattr(finish, "finish", lambda *given: ends.append("made"))
    end(settings, out, lambda text: None)
    assert ends == ["made"]
