"""Where output goes: the same place from a notebook, the command line and the demo; nobody's files go."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from shapely.geometry import box

from cryoscale import api, options, pipeline
from cryoscale.demo import UNFINISHED, run_demo, simulated_range
from cryoscale.errors import InputError, OutputError
from cryoscale.featurise import write_features
from cryoscale.ledger import Ledger
from cryoscale.settings import ModelSpec, Season, Settings
from cryoscale.write.usable import require_usable
from tests.made_runs import bare_manifest

SETTINGS = Settings(
    "tiny",
    box(86.8, 28.0, 86.9, 28.1),
    (2018,),
    Season("10-01", "10-31"),
    (),
    {},
    ModelSpec(name="band-ratio"),
)


def test_a_notebook_finds_a_run_where_a_command_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    at_home, here = str(tmp_path / "home" / "run"), str(tmp_path / "run")
    for out in (at_home, here):
        Ledger(out).begin(bare_manifest())
    given = {"~/run": at_home, "run": here, "./a/../run": here, f"file://{here}": here}
    for text, where in given.items():
        assert options.output(text) == where
        assert api.open(text).out == where
    for text in ("s3://bucket/run", "s3://bucket/run/"):
        assert options.output(text) == "s3://bucket/run"


def test_the_home_of_nobody_is_refused_as_an_output_and_may_be_a_folders_name_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"\./~nobody-here/run"):
        options.output("~nobody-here/run")
    assert options.output("./~nobody-here/run") == str(tmp_path / "~nobody-here" / "run")


@pytest.mark.parametrize("name", ["e!f", "x\ty", "i::j"])
def test_a_folder_whose_path_libraries_take_for_something_else_is_refused_before_anything(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(OutputError, match="in its path") as caught:
        require_usable(tmp_path / name / "run")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["map.zarr", "map.zarr/"])
def test_a_run_in_a_folder_that_would_be_taken_for_its_own_map_is_refused_before_anything(
    tmp_path: Path, name: str
) -> None:
    out = f"{tmp_path}/{name}"
    for begin in (partial(pipeline.run, SETTINGS, out), partial(run_demo, out, size="tiny")):
        with pytest.raises(OutputError, match=r"named like a Zarr store.*without \.zarr") as caught:
            begin()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_features_in_a_file_are_refused_before_anything(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="in which files can be made and removed"):
        write_features(SETTINGS, str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("left", ["thesis.docx", "config.yaml", "simulated itself"])
def test_a_demo_deletes_no_folder_that_is_not_its_own(tmp_path: Path, left: str) -> None:
    home = tmp_path / "demo" / "simulated"
    kept = home if left == "simulated itself" else home / left
    kept.parent.mkdir(parents=True)
    kept.write_text("- years\n- of work\n")
    with pytest.raises(InputError, match="which holds other files") as told:
        run_demo(tmp_path / "demo", size="tiny")
    assert "\n" not in str(told.value)
    assert [path for path in (tmp_path / "demo").rglob("*") if path.is_file()] == [kept]
    assert kept.read_text() == "- years\n- of work\n"


def test_what_an_interrupted_demo_left_is_known_by_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "demo" / "simulated"

    def interrupted(_ranges: object, folder: Path) -> None:
        assert [path.name for path in folder.iterdir()] == [UNFINISHED]
        (folder / "half.tif").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("cryoscale.simulate.catalog.publish", interrupted)
    for _ in range(2):  # the second time over what the first has left
        with pytest.raises(KeyboardInterrupt):
            simulated_range(home.parent, "tiny", (2018,), 7, lambda text: None)
    assert sorted(path.name for path in home.iterdir()) == [UNFINISHED, "half.tif"]


def test_a_demo_in_a_store_is_refused_and_makes_no_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a folder of this machine"):
        run_demo("s3://bucket/demo", size="tiny")
    assert list(tmp_path.iterdir()) == []
