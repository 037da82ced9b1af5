"""What the benchmarks are given and cannot use is told in one line, and before anything is measured."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import archiving, command, fronts, ledger, overlap

ROOT = Path(__file__).parents[2]
APART = {"benchmarks.peers.routes", "benchmarks.readme"}
"""The one is started by another benchmark alone, which tells its last words; the other measures nothing."""
WITHOUT_LINES = ("accuracy", "accuracy.redundancy", "accuracy_spectra", "bucket")
"""Those whose ``--out`` is none, or a folder."""

Main = Callable[[Sequence[str]], Any]


def programs() -> dict[str, str]:
    """The text of each benchmark that can be started, by its module's name."""
    found = {}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__":' in text:
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = text
    return {name: text for name, text in found.items() if name not in APART}


def main_of(name: str) -> Main:
    name = name if (ROOT / f"{name.replace('.', '/')}.py").exists() else f"{name}.__main__"
    found: Main = importlib.import_module(name).main
    return found


def refused(main: Main, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line of a command that ends with exit code 2 and prints nothing else."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize("name", sorted(programs()))
def test_every_benchmark_ends_bad_input_in_a_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = main_of(name)
    assert hasattr(main, "__wrapped__"), "errors made for people end in a traceback without @command"
    assert refused(main, ["--no-such-option"], capsys).startswith("benchmarks: ")


@pytest.mark.parametrize("name", sorted(name for name, text in programs().items() if '"--out"' in text))
@pytest.mark.parametrize("kind", ["a folder", "below a file"])
def test_a_file_that_takes_no_line_is_told_before_anything_is_measured(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    out = tmp_path if kind == "a folder" else file / "x.jsonl"
    option = "--results" if name.startswith("benchmarks.accuracy.") else "--out"
    home = ["--out", str(tmp_path / "home")] if option == "--results" else []
    needed = {"benchmarks.outlining": [str(tmp_path)], "benchmarks.fronts": ["--size", "tiny"]}
    asked = needed.get(name, ["--scale", "tiny"])
    line = refused(main_of(name), [*asked, *home, option, str(out)], capsys)
    assert f"given {out} (" in line
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("wire", "--overlap 1.5", "--overlap: given '1.5'; expected a share"),
        ("wire", "--overlap nan", "--overlap: given 'nan'"),
        ("wire", "--tiles-s 0", "--tiles-s: given '0'; expected a number above 0"),
        ("precisions", "--scale tiny --batch 0", "--batch: given '0'; expected a whole number from 1 on"),
        ("precisions", "--scale tiny --tile-px 0", "--tile-px: given '0'"),
        ("precisions", "--scale tiny --tile-px 50", "given tiles of 50 x 50 pixels"),
        ("roofline", "--scale tiny --batch 0", "--batch: given '0'"),
        ("roofline", "--scale tiny --tile-px -32", "--tile-px: given '-32'"),
        ("roofline", "--scale tiny --no-measure --tflops 0", "--tflops: given '0'"),
        ("roofline", "--scale tiny --no-measure --gb-s inf", "--gb-s: given 'inf'"),
        ("roofline", "--scale tiny --tile-px 50", "given tiles of 50 x 50 pixels"),
        ("outlining", "DIR", "which holds no run"),
        ("outlining", "DIR --copies 0", "--copies: given '0'"),
        ("outlining", "DIR --processes 0", "--processes: given '0'"),
        ("overlap", "--scale tiny --tiling 100:0.5", "given tiles of 100 px; expected multiples of 32"),
        ("overlap", "--scale tiny --tiling 256:1", "--tiling: given '1'; expected a share"),
        ("overlap", "--scale tiny --tiling 256", "--tiling: given ''; expected a share"),
        ("overlap", "--scale tiny --squeeze-px 0", "--squeeze-px: given '0'"),
        ("overlap", "--scale tiny --chart DIR", "given DIR ("),
        ("overlap", "--scale tiny --weights DIR/x", "given weights DIR/x"),
        ("uncertainty", "--scale tiny --weights DIR/x", "given weights DIR/x"),
        ("retreat", "--scale tiny --weights DIR/x", "given weights DIR/x"),
        ("scaling", "--scale tiny --chart DIR", "given DIR ("),
        ("fronts", "--size tiny --seeds -1", "--seeds: given '-1'; expected a whole number from 0 on"),
        ("peers", "--scale tiny --scene FILE", "given FILE/scene.json ("),
        ("peers", "--scale tiny --scene-px 0", "--scene-px: given '0'"),
        ("block_rates", "--scale tiny --home FILE", "given FILE/tiny/range.json ("),
        ("bucket", "many", "markers: given 'many'"),
        ("accuracy", "--workers -1", "--workers: given '-1'; expected a whole number from 0 on"),
        ("accuracy", "--deadline 0", "--deadline: given '0'"),
        ("accuracy", "--results DIR/r.jsonl --out FILE", "given FILE/scale.txt ("),
        ("accuracy_spectra", "DIR/x.csv", "given pixels DIR/x.csv (FileNotFoundError"),
        ("accuracy_spectra", "CSV", "given pixels CSV (KeyError('geometry'))"),
        ("accuracy_spectra", "CSV --tile 0", "--tile: given '0'"),
        ("accuracy.redundancy", "DIR", "given patches DIR;"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(
    name: str, arguments: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"DIR": tmp_path / "folder", "FILE": tmp_path / "file", "CSV": tmp_path / "other.csv"}
    named["DIR"].mkdir()
    named["FILE"].touch()
    named["CSV"].write_text("a,b\n1,2\n")
    for word, path in named.items():
        arguments, told = arguments.replace(word, str(path)), told.replace(word, str(path))
    kept = [] if name in WITHOUT_LINES else ["--out", str(tmp_path / "kept.jsonl")]
    assert told in refused(main_of(f"benchmarks.{name}"), [*arguments.split(), *kept], capsys)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in named.values()}
    assert not list(named["DIR"].iterdir())


def test_ranges_without_a_front_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fronts, "measured", lambda seed, size: iter(()))
    asked = ["--size", "tiny", "--seeds", "3", "7", "--out", str(tmp_path / "kept.jsonl")]
    assert "given seeds 3 7 of size tiny; expected ranges with a front" in refused(fronts.main, asked, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [None, "no JSON", "{}", "[]"])
def test_a_file_of_other_lines_makes_no_table(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept.jsonl"
    if text is not None:
        path.write_text(f"{text}\n")
    line = refused(overlap.main, ["--kept", "--out", str(path)], capsys)
    assert f"given {path} (" in line


@pytest.mark.parametrize(("main", "library"), [(archiving.main, "icechunk"), (ledger.main, "moto")])
def test_a_library_that_is_wanted_later_is_missed_at_once(
    main: Main,
    library: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == library else name)
    line = refused(main, ["--scale", "tiny", "--out", str(tmp_path / "kept.jsonl")], capsys)
    assert f"given an installation without {library}; expected the extra " in line
    assert not list(tmp_path.iterdir())
