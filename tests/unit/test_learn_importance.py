"""``cryoscale importance`` on patches that lack something: a class, or any value at all."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from matplotlib.figure import Figure

from cryoscale import cli
from cryoscale.errors import NoRoomError
from cryoscale.learn.importance import Drop
from cryoscale.learn.importance_report import _bars
from cryoscale.options import print_json
from tests.toy_training import make_patches, toy_networks, trained  # noqa: F401


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of all classes, and weights trained on them."""
    return trained(tmp_path_factory.mktemp("sound"))


def importance(monkeypatch: pytest.MonkeyPatch, *given: object) -> Any:
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["cryoscale", "importance", *map(str, given)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_the_drops_of_a_class_that_is_absent_are_null(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patches = make_patches(tmp_path / "p.zarr", classes=2)
    asked = [sound / "toy.safetensors", "--patches", patches, "--split", "validation", "--repeats", 2]
    assert importance(monkeypatch, *asked, "--out", tmp_path / "out", "--json") == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == json.loads((tmp_path / "out" / "importance.json").read_text())
    absent = {"mean": None, "std": None, "repeats": [None, None]}
    for rows in (found["channels"], found["groups"]):
        assert all(
            parts["debris-covered ice"] == {"iou": absent, "accuracy": absent} for parts in rows.values()
        )
        assert all(None not in parts["clean ice"]["iou"]["repeats"] for parts in rows.values())
    assert (tmp_path / "out" / "importance.png").read_bytes()[:4] == b"\x89PNG"


def test_a_disk_that_has_filled_up_meanwhile_loses_no_figure(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise NoRoomError(f"{path} takes no more")

    monkeypatch.setattr("cryoscale.learn.importance_report.put", full)
    asked = [sound / "toy.safetensors", "--patches", sound / "patches.zarr", "--split", "validation"]
    code = importance(monkeypatch, *asked, "--repeats", 1, "--out", tmp_path / "out", "--json")
    said = capsys.readouterr()
    assert (code, said.err.count("\n")) == (1, 1)
    assert "importance.json takes no more" in said.err
    assert json.loads(said.out)["baseline"]["overall"]["iou"] > 0


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_patches_without_a_value_are_refused_as_a_training_refuses_them(
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nothing: float,
) -> None:
    shutil.copytree(sound / "patches.zarr", tmp_path / "p.zarr")
    stacks: Any = zarr.open_group(tmp_path / "p.zarr", mode="a")["x"]
    stacks[:] = np.full(stacks.shape, nothing, np.float16)
    asked = [sound / "toy.safetensors", "--patches", tmp_path / "p.zarr", "--split", "validation"]
    assert importance(monkeypatch, *asked, "--out", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert "4 patches without a single value" in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert not (tmp_path / "out").exists()


def test_the_legend_lies_where_no_bar_can_be() -> None:
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    rows = [(f"channel {n}", Drop((drop,), (drop,))) for n, drop in enumerate((0.02, -0.1, -0.3))]
    _bars(axes, rows, "Overall", "mean IoU", "accuracy")
    figure.draw_without_rendering()
    legend = axes.get_legend().get_window_extent()
    for other in (axes, axes.xaxis.label, *axes.get_xticklabels()):
        assert not legend.overlaps(other.get_window_extent())
    assert figure.bbox.containsx(legend.x0)
    assert figure.bbox.containsx(legend.x1)
    assert figure.bbox.containsy(legend.y0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_command_prints_a_number_that_json_does_not_have(
    value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"iou": [value]})
    assert capsys.readouterr().out == ""
