"""Training patches from finished runs: the run's own pixels, labels from outlines, splits without a leak."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import yaml
from rasterio.features import shapes

from cryoscale.cli import main
from cryoscale.errors import InputError, OutputError
from cryoscale.features.stack import HALO_PX, PcaBasis, build_stack
from cryoscale.grid import Window
from cryoscale.learn.patches import Patches
from cryoscale.learn.quality import FLAGS
from cryoscale.learn.sampleset import checked
from cryoscale.learn.truth import in_zone, whole_truth
from cryoscale.ledger import Ledger, Marker, SetAside
from cryoscale.preparation import prepare
from cryoscale.read import snapshot
from cryoscale.read.inputs import read_inputs
from cryoscale.sampling import make_samples
from cryoscale.settings import Settings
from tests.integration.conftest import TinyRange

EASTERN = [84.001, 28.29, 84.018, 28.31]
SMALL = {"patch_px": 64, "stride_px": 32, "block_px": 32, "gap_px": 8, "fraction": 0.15, "workers": 1}


def finished(settings: Settings, out: Path, *, leave: int = 0) -> str:
    """A run whose blocks are marked as done: all that a patch is made from, without the map itself."""
    _, work = prepare(settings, str(out))
    for year, block in work[: len(work) - leave]:
        place = {"epsg": block.epsg, "row": block.row, "col": block.col, "size_px": block.size_px}
        Ledger(str(out)).mark(
            Marker(year=year, checksum="", written_bytes=0, pixels=1, valid_pixels=1, **place)  # type: ignore[arg-type]
        )
    return str(out)


def outlines_of(truth: Path, folder: Path) -> tuple[Path, Path]:
    """Glacier and debris outlines of a simulated range, in degrees, as RGI 7 and others deliver them."""
    found: dict[str, list[gpd.GeoDataFrame]] = {"rgi": [], "debris": []}
    for path in sorted(truth.glob("[0-9]*.tif")):
        window, labels = whole_truth(path)
        # Each zone up to its meridian, or the edges of one would lie over the pixels of the other.
        labels = np.where(in_zone(window), labels, np.uint8(255))
        affine, crs = window.geobox.transform, window.epsg
        for name, classes in (("rgi", (1, 2)), ("debris", (2,))):
            inside = np.isin(labels, classes).astype(np.uint8)
            found_here = shapes(inside, mask=inside > 0, connectivity=4)
            polygons = np.array([shapely.geometry.shape(outline) for outline, _ in found_here], object)
            moved = shapely.transform(polygons, lambda xy, t=affine: np.column_stack(t * xy.T))
            found[name].append(gpd.GeoDataFrame(geometry=list(moved), crs=crs).to_crs(4326))
    frames = {name: gpd.GeoDataFrame(pd.concat(parts, ignore_index=True)) for name, parts in found.items()}
    frames["rgi"]["rgi_id"] = [f"RGI2000-v7.0-G-15-{n:05d}" for n in range(len(frames["rgi"]))]
    frames["rgi"]["src_date"] = "2003-07-30T00:00:00"
    for name, frame in frames.items():
        frame.to_file(folder / f"{name}.gpkg")
    return folder / "rgi.gpkg", folder / "debris.gpkg"


@dataclass(frozen=True)
class Mapped:
    """A finished run of the tiny range, its truth, and outlines."""

    run: str
    truth: Path
    outlines: Path
    debris: Path

    @property
    def given(self) -> dict[str, Any]:
        return {"outlines": (self.outlines,), "debris": (self.debris,)}


@pytest.fixture(scope="module")
def mapped(tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    folder = tmp_path_factory.mktemp("mapped")
    run = finished(tiny_range.settings(), folder / "run")
    truth = tiny_range.folder / "truth"
    return Mapped(run, truth, *outlines_of(truth, folder))


@pytest.fixture(scope="module")
def made(mapped: Mapped, tmp_path_factory: pytest.TempPathFactory) -> tuple[Patches, dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("set") / "p.zarr"
    summary = make_samples([mapped.run], str(out), checked(**mapped.given, **SMALL, dtype="float32"))
    return Patches.open(out), summary, out


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    """Sheets of few pixels: what they show is seen to elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryoscale.learn.sheet._DPI", 60)
        yield


@pytest.fixture(scope="module")
def corner(mapped: Mapped, tiny_range: TinyRange, tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    """A run of a part of the range, within one zone: enough where only the outcome counts."""
    settings = tiny_range.settings(region={"bbox": EASTERN}, tiling={"tile_px": 64, "block_px": 512})
    run = finished(settings, tmp_path_factory.mktemp("corner") / "run")
    return Mapped(run, mapped.truth, mapped.outlines, mapped.debris)


Made = tuple[Patches, dict[str, Any], Path]


def test_a_patch_is_what_the_run_read_there_to_the_last_bit(made: Made, mapped: Mapped) -> None:
    """Whole zones read at once give the patches that were cut block by block."""
    patches, _, _ = made
    items = {key.split("/")[1]: found for key, found in snapshot.thaw(f"{mapped.run}/items.parquet").items()}
    manifest = Ledger(mapped.run).manifest()
    assert manifest is not None
    assert patches.attrs["pca"] == manifest["context"]["pca"], "the basis that the run's model has"
    for epsg in np.unique(patches.columns["epsg"]):
        here = np.flatnonzero(patches.columns["epsg"] == epsg)
        row, col = (int(patches.columns[name][here].min()) for name in ("row", "col"))
        height, width = (
            int(patches.columns[name][here].max()) + 64 - start
            for name, start in (("row", row), ("col", col))
        )
        whole = Window(int(epsg), row, col, height, width)
        inputs, _ = read_inputs(
            items,
            whole.pad(HALO_PX),
            composite=manifest["context"]["composite"],
            velocity_href=manifest["context"]["velocity_href"],
            year=2018,
        )
        stack = build_stack(inputs, pca=PcaBasis.from_dict(patches.attrs["pca"])).values
        for index in here:
            place = patches.place(index)
            y, x = Window(int(epsg), place.row, place.col, 64, 64).pad(0).slices_in(whole.pad(HALO_PX))
            np.testing.assert_array_equal(patches.read(index)[0], stack[:, y, x])


def test_labels_are_those_of_the_outlines_where_there_are_optics(made: Made, mapped: Mapped) -> None:
    patches, _, _ = made
    ndwi = patches.channels.index("NDWI")
    compared, wrong = 0, 0
    for epsg in (32644, 32645):
        window, truth = whole_truth(mapped.truth / f"{epsg}.tif")
        for index in np.flatnonzero(patches.columns["epsg"] == epsg):
            place, (x, y) = patches.place(index), patches.read(index)
            part = Window(epsg, place.row, place.col, 64, 64).intersect(window)
            if part is None:
                continue
            inner = part.slices_in(Window(epsg, place.row, place.col, 64, 64))
            known, found = truth[part.slices_in(window)], y[inner]
            learnt = (found != 255) & (known != 255)
            pond = (known == 2) & (x[ndwi][inner] > 0.17)
            wrong += ((found == 1) != (known == 1))[learnt].sum()
            wrong += ((found == 2) != ((known == 2) & ~pond))[learnt].sum()
            assert (y[~np.isfinite(x[:12]).all(axis=0)] == 255).all()
            compared += learnt.sum()
    assert compared > 100_000
    # At the meridian the outlines end in the staircase of one zone's pixels, which the other's grid cuts.
    assert wrong / compared < 1e-4


def test_patches_lie_on_the_lattice_and_ground_at_the_zones_border_is_learnt_once(made: Made) -> None:
    patches, _, _ = made
    assert set(patches.columns["epsg"]) == {32644, 32645}
    assert not (patches.columns["row"] % 32).any()
    assert not (patches.columns["col"] % 32).any()
    lon = []
    for index in range(len(patches)):
        place, (_, y) = patches.place(index), patches.read(index)
        rows, cols = np.nonzero(y != 255)
        transform = rasterio.warp.transform  # an oracle besides the grid's own transformer
        x, north = (place.col + cols + 0.5) * 10, -(place.row + rows + 0.5) * 10
        lon.append(np.array(transform(f"EPSG:{place.epsg}", "EPSG:4326", x, north)[0]))
        assert ((lon[-1] >= 84) if place.epsg == 32645 else (lon[-1] < 84)).all()
    assert min(map(np.min, lon)) < 84 < max(map(np.max, lon))


def test_a_clear_pixel_without_a_label_is_flagged_as_outside_the_region_or_the_zone(made: Made) -> None:
    patches, _, _ = made
    seen = 0
    for index in range(len(patches)):
        (x, y), flags = patches.read(index), patches.flags(index)
        clear = np.isfinite(x[:12]).all(axis=0)
        outside = flags & FLAGS["outside"] > 0
        np.testing.assert_array_equal(flags & FLAGS["clear"] > 0, clear)
        np.testing.assert_array_equal(flags & FLAGS["labelled"] > 0, y != 255)
        np.testing.assert_array_equal(outside & clear, (y == 255) & clear)
        assert not (flags & FLAGS["rim"]).any()
        seen += outside.sum()
    assert seen > 1000


def test_no_pixel_of_training_is_within_the_gap_of_a_pixel_for_validation(made: Made) -> None:
    patches, summary, _ = made
    train, held = patches.indices("train"), patches.indices("validation")
    assert len(train) >= 2
    assert len(held) >= 2
    for a in train:
        for b in held:
            one, other = patches.place(a), patches.place(b)
            window = Window(other.epsg, other.row, other.col, 64, 64).pad(8)
            y, x = np.mgrid[one.row : one.row + 64, one.col : one.col + 64] + 0.5
            if one.epsg != other.epsg:
                where = (f"EPSG:{one.epsg}", f"EPSG:{other.epsg}", x.ravel() * 10, -y.ravel() * 10)
                x, y = (np.array(v) / 10 for v in rasterio.warp.transform(*where))
                y = -y
            inside = (y > window.row) & (y < window.row + 80) & (x > window.col) & (x < window.col + 80)
            assert not inside.any()
    assert summary["shared_ground"] == 0


def test_the_summary_counts_what_the_set_holds_and_says_where_it_comes_from(
    made: Made, mapped: Mapped
) -> None:
    patches, summary, out = made
    assert json.loads(out.with_suffix(".json").read_text()) == summary
    with rasterio.open(out.with_suffix(".png")) as picture:
        assert min(picture.shape) > 300
    for split in ("train", "validation", "unused"):
        indices = patches.indices(split)
        labels = np.concatenate([patches.read(i)[1].ravel() for i in indices])
        assert summary["patches"][split] == len(indices)
        assert (
            list(summary["class_pixels"][split].values()) == np.bincount(labels, minlength=256)[:5].tolist()
        )
    assert patches.columns["year"].tolist() == [2018] * len(patches)
    october = (np.datetime64("2018-10-01"), np.datetime64("2018-11-01"))
    day = patches.columns["day"].astype("datetime64[D]")
    assert ((day >= october[0]) & (day < october[1])).all()
    source = patches.attrs["source"]["labels"]["outlines"][0]
    assert source["rgi_version"] == "7.0"
    assert source["src_date"] == ["2003-07-30", "2003-07-30"]
    assert len(source["sha256"]) == 64
    assert patches.attrs["source"]["rules"]["ndwi_water"] == 0.17
    assert any("15 years off" in note for note in summary["notes"])


def test_blocks_of_another_size_give_the_same_patches(
    made: Made, mapped: Mapped, tiny_range: TinyRange, tmp_path: Path
) -> None:
    run = finished(tiny_range.settings(tiling={"tile_px": 64, "block_px": 512}), tmp_path / "run")
    config = checked(**mapped.given, **{**SMALL, "workers": 3}, dtype="float32", rim_px=2)
    make_samples([run], str(tmp_path / "p.zarr"), config)
    again, (patches, _, _) = Patches.open(tmp_path / "p.zarr"), made
    places = {(p.epsg, p.row, p.col): i for i in range(len(again)) for p in [again.place(i)]}
    assert len(places) == len(again)
    rims = 0
    for index in range(len(patches)):
        place = patches.place(index)
        if (place.epsg, place.row, place.col) not in places:
            continue  # the rim took too many labels, or the centre lies beyond the other blocks
        (x, y), (x2, y2) = patches.read(index), again.read(places[place.epsg, place.row, place.col])
        np.testing.assert_array_equal(x, x2)
        rim = (y2 == 255) & (y != 255)
        rims += rim.sum()
        flags = again.flags(places[place.epsg, place.row, place.col])
        assert (flags[rim] & FLAGS["rim"] > 0).all()
        assert not (flags[y2 != 255] & FLAGS["rim"]).any()
        np.testing.assert_array_equal(y[~rim], y2[~rim])
    assert rims > 100


def test_a_region_that_is_left_out_shares_no_ground_with_the_others(
    mapped: Mapped, tiny_range: TinyRange, tmp_path: Path
) -> None:
    """Two runs that overlap: what both have seen is in no split but the test."""
    west, south, east, north = tiny_range.bbox
    third = (east - west) / 3
    runs = []
    for name, bbox in (
        ("one", [west, south, east - third, north]),
        ("two", [east - 1.5 * third, south, east, north]),
    ):
        settings = tiny_range.settings(name=name, region={"bbox": bbox})
        runs.append(finished(settings, tmp_path / name))
    config = checked(**mapped.given, **SMALL, split="leave-one-out", held_out=("two",))
    summary = make_samples(runs, str(tmp_path / "p.zarr"), config)
    patches = Patches.open(tmp_path / "p.zarr")
    region = patches.columns["region"]
    assert set(region[patches.indices("test")]) == {1}
    assert set(region[patches.indices("train")]) == {0}
    assert set(region[patches.indices("validation")]) == {0}
    assert summary["shared_ground"] == 0
    assert "tested on two" in patches.attrs["split"]
    for a in patches.indices("test"):
        for b in np.concatenate([patches.indices("train"), patches.indices("validation")]):
            one, other = patches.place(a), patches.place(b)
            if one.epsg == other.epsg:
                assert abs(one.row - other.row) >= 72 or abs(one.col - other.col) >= 72


def test_label_rasters_serve_in_place_of_outlines(corner: Mapped, tmp_path: Path) -> None:
    config = checked(truth=corner.truth, **SMALL, split="random")
    summary = make_samples([corner.run], str(tmp_path / "p.zarr"), config)
    assert summary["shared_ground"] > 0.9, "a random split leaks, and says so"
    assert set(summary["source"]["rules"]) == {"patch_px", "stride_px", "min_labelled"}, "no others were used"
    assert "gap_px" not in summary["split_rule"]
    patches = Patches.open(tmp_path / "p.zarr")
    window, truth = whole_truth(corner.truth / "32645.tif")
    for index in np.flatnonzero(patches.columns["epsg"] == 32645)[:20]:
        place, (_, y) = patches.place(index), patches.read(index)
        own = Window(32645, place.row, place.col, 64, 64)
        part = own.intersect(window)
        assert part is not None
        inner = y[part.slices_in(own)]
        learnt = inner != 255
        np.testing.assert_array_equal(inner[learnt], truth[part.slices_in(window)][learnt])


def test_a_training_runs_on_what_samples_made(corner: Mapped, tmp_path: Path) -> None:
    from cryoscale.learn.train import train
    from tests.unit.test_learn_train import tiny

    config = checked(**corner.given, **{**SMALL, "stride_px": 64}, split="random")
    make_samples([corner.run], str(tmp_path / "p.zarr"), config)
    card = train(tiny(tmp_path / "p.zarr", epochs=1), out=tmp_path / "w.safetensors")
    assert card.split.startswith("random")
    assert card.training["source"]["kind"] == "mapped regions"


# --- bad input ----------------------------------------------------------------------------------

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``cryoscale samples`` in this process; gives its exit code and what it said on stderr."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        small = ["--patch", "64", "--stride", "32", "--block-px", "32", "--gap-px", "8", "--fraction", "0.15"]
        monkeypatch.setattr(sys, "argv", ["cryoscale", "samples", *small, *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return call


def refused(told: tuple[int, str], words: str, folder: Path) -> None:
    code, err = told
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert words in lines[0], lines[0]
    assert not list(folder.glob("p.*")), "nothing is left half-written"


def write_labels(path: Path, window: Window, values: Any, *, shift_m: float = 0.0) -> Path:
    affine = window.geobox.transform
    affine = rasterio.Affine(10, 0, affine.c + shift_m, 0, -10, affine.f)
    profile = {"height": window.height, "width": window.width, "count": 1, "dtype": values.dtype.name}
    with rasterio.open(
        path, "w", driver="GTiff", crs=f"EPSG:{window.epsg}", transform=affine, **profile
    ) as target:
        target.write(values, 1)
    return path


def test_outlines_that_cannot_serve_are_told_in_one_line(
    corner: Mapped, tmp_path: Path, samples: Command
) -> None:
    frame = gpd.read_file(corner.outlines)
    frame.set_crs(None, allow_override=True).to_parquet(tmp_path / "no-crs.parquet")
    frame.set_crs(None, allow_override=True).to_file(tmp_path / "no-crs.shp")
    frame.translate(20).to_file(tmp_path / "away.gpkg")
    frame.boundary.to_file(tmp_path / "lines.gpkg")
    (tmp_path / "text.gpkg").write_text("no outlines")
    out, debris = ("--out", tmp_path / "p.zarr"), ("--debris", corner.debris)
    for name, words in {
        "no-crs.parquet": "without a CRS",
        "no-crs.shp": "without a CRS",
        "away.gpkg": "outside the mapped regions",
        "lines.gpkg": "expected polygons",
        "text.gpkg": "text.gpkg",
        "none.gpkg": "(absent)",
    }.items():
        refused(samples(corner.run, "--outlines", tmp_path / name, *debris, *out), words, tmp_path)
    refused(samples(corner.run, "--outlines", corner.outlines, *out), "label debris as clean ice", tmp_path)
    refused(samples(corner.run, *out), "give outlines and debris, or truth", tmp_path)
    corrections = ("--corrections", corner.outlines)
    told = samples(corner.run, "--outlines", corner.outlines, *debris, *corrections, *out)
    refused(told, "without a column 'class'", tmp_path)
    frame.assign(**{"class": "glacier"}).to_file(tmp_path / "no-class.gpkg")
    corrections = ("--corrections", tmp_path / "no-class.gpkg")
    told = samples(corner.run, "--outlines", corner.outlines, *debris, *corrections, *out)
    refused(told, "correction class 'glacier'", tmp_path)


def test_label_rasters_that_cannot_serve_are_told_in_one_line(
    corner: Mapped, tmp_path: Path, samples: Command
) -> None:
    out = ("--out", tmp_path / "p.zarr")
    for name, change, shift_m, words in (
        ("off", lambda a: a, 3.0, "off the grid"),
        ("half", lambda a: np.where(a == 1, 0.5, a).astype("f4"), 0.0, "the value 0.5"),
        ("seven", lambda a: np.where(a == 1, 7, a).astype("u1"), 0.0, "the value 7"),
        ("empty", lambda a: np.full(a.shape, np.nan, "f4"), 0.0, "not one patch"),
    ):
        (tmp_path / name).mkdir()
        for epsg in (32644, 32645):
            window, truth = whole_truth(corner.truth / f"{epsg}.tif")
            write_labels(tmp_path / name / f"{epsg}.tif", window, change(truth), shift_m=shift_m)
        refused(samples(corner.run, "--truth", tmp_path / name, *out), words, tmp_path)
    refused(samples(corner.run, "--truth", tmp_path, *out), "32645.tif (absent)", tmp_path)
    for rule in (("--rim-px", "2"), ("--max-water-slope-deg", "15")):
        refused(samples(corner.run, "--truth", corner.truth, *rule, *out), "rules for outlines", tmp_path)
    debris = ("--debris", corner.debris)
    refused(samples(corner.run, "--truth", corner.truth, *debris, *out), "debris, or truth", tmp_path)
    given = ("--outlines", corner.outlines, *debris)
    refused(samples(corner.run, *given, "--resample", *out), "resample without truth", tmp_path)
    code, err = samples(corner.run, "--truth", tmp_path / "off", "--resample", "--split", "random", *out)
    assert code == 0, err


def test_nan_in_a_label_raster_is_not_learnt_as_background(corner: Mapped, tmp_path: Path) -> None:
    for epsg in (32644, 32645):
        window, truth = whole_truth(corner.truth / f"{epsg}.tif")
        values = np.where((truth == 0) | (truth == 255), np.nan, truth).astype("f4")
        write_labels(tmp_path / f"{epsg}.tif", window, values)
    config = checked(truth=tmp_path, **{**SMALL, "min_labelled": 0.01}, split="random")
    make_samples([corner.run], str(tmp_path / "p.zarr"), config)
    counts = Patches.open(tmp_path / "p.zarr").columns["class_pixels"].sum(axis=0)
    assert counts[0] == 0
    assert counts[1] > 1000


def test_splits_that_cannot_be_learnt_from_are_told_in_one_line(
    corner: Mapped, tmp_path: Path, samples: Command
) -> None:
    given = (
        corner.run,
        "--outlines",
        corner.outlines,
        "--debris",
        corner.debris,
        "--out",
        tmp_path / "p.zarr",
    )
    refused(samples(*given, "--gap-px", "500"), "patches for train", tmp_path)
    refused(samples(*given, "--block-px", "100000"), "smaller --block-px", tmp_path)
    refused(samples(*given, "--min-labelled", "1.5"), "--min-labelled 1.5", tmp_path)
    refused(samples(*given, "--stride", "65"), "leaves gaps", tmp_path)
    refused(
        samples(*given, "--split", "leave-one-out", "--held-out", "Alps"), "name of a run: tiny", tmp_path
    )
    refused(samples(*given, "--split", "leave-one-out", "--held-out", "tiny"), "a run to train on", tmp_path)
    refused(samples(*given, "--split", "leave-one-out"), "go together", tmp_path)
    one_out = ("--split", "leave-one-out", "--held-out", "tiny", "--test-fraction", "0.3")
    refused(samples(*given, *one_out), "test_fraction would change nothing", tmp_path)
    refused(samples(*given, "--split", "honest"), "--split honest", tmp_path)


def test_a_class_that_training_lacks_is_named() -> None:
    from cryoscale.learn.sampleset import require_learnable
    from cryoscale.learn.splits import SplitRule

    rule = SplitRule("blocked", 0.2, 0.0, 64, 8, 0)
    splits = np.array(["train", "train", "validation", "validation", "unused"])
    pixels = np.ones((5, 5), np.int64)
    pixels[:2, 3], pixels[:, 4] = 0, 0  # no water in training; vegetation nowhere, which is no fault
    with pytest.raises(InputError, match="without a pixel of water, of which there are 3"):
        require_learnable(splits, pixels, rule)
    pixels[0, 3] = 1
    require_learnable(splits, pixels, rule)


def test_runs_that_cannot_serve_are_told_in_one_line(
    corner: Mapped, tiny_range: TinyRange, tmp_path: Path, samples: Command
) -> None:
    given = ("--outlines", corner.outlines, "--debris", corner.debris, "--out", tmp_path / "p.zarr")
    half = finished(tiny_range.settings(), tmp_path / "half", leave=2)
    refused(samples(half, *given), "a finished run", tmp_path)
    refused(samples(tmp_path / "none", *given), "holds no run", tmp_path)
    refused(samples(corner.run, corner.run, *given), "twice", tmp_path)


def test_scenes_that_are_gone_since_the_run_are_named(
    mapped: Mapped, tiny_range: TinyRange, tmp_path: Path, samples: Command
) -> None:
    copy = tmp_path / "simulated"
    shutil.copytree(tiny_range.folder, copy)
    sources = {"optical": {"collection": "sentinel-2-l2a"}, "terrain": {"collection": "cop-dem-glo-30"}}
    changes = {"catalogs": [{"url": str(copy)}], "sources": sources, "region": {"bbox": EASTERN}}
    run = finished(tiny_range.settings(**changes), tmp_path / "run")
    gone = [path for path in copy.rglob("*.tif") if "dem" in str(path).lower()]
    assert gone
    for path in gone:
        path.unlink()
    given = ("--outlines", mapped.outlines, "--debris", mapped.debris, "--out", tmp_path / "p.zarr")
    refused(samples(run, *given), "blocks cannot be read", tmp_path)


def test_what_lies_at_the_output_is_not_overwritten_unless_it_was_interrupted(
    made: Made, corner: Mapped, tmp_path: Path, samples: Command
) -> None:
    import zarr

    given = ("--outlines", corner.outlines, "--debris", corner.debris)
    code, err = samples(corner.run, *given, "--out", made[2])
    assert code == 2, err
    assert "which exists" in err
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.docx").write_text("years of work")
    refused(samples(corner.run, *given, "--out", tmp_path / "mine.zarr"), "which exists", tmp_path)
    assert (tmp_path / "mine.zarr" / "thesis.docx").exists()
    refused(samples(corner.run, *given, "--out", tmp_path / "p.txt"), "ends in .zarr", tmp_path)
    zarr.open_group(tmp_path / "p.zarr", mode="w").attrs["complete"] = False
    code, err = samples(corner.run, *given, "--out", tmp_path / "p.zarr")
    assert code == 0, err
    assert len(Patches.open(tmp_path / "p.zarr"))


def test_a_set_whose_sheet_or_summary_cannot_be_written_is_not_left_behind(
    corner: Mapped, tmp_path: Path, samples: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (corner.run, "--truth", corner.truth, "--split", "random", "--out", tmp_path / "p.zarr")
    for suffix in (".png", ".json"):
        (tmp_path / f"p{suffix}").mkdir()
        with monkeypatch.context() as patch:
            patch.setattr("cryoscale.sampling._cut_all", lambda *_: pytest.fail("cut in vain"))
            code, err = samples(*given)
        assert (code, f"p{suffix}, which is a folder" in err) == (2, True), err
        (tmp_path / f"p{suffix}").rmdir()

    def full(url: str, _content: bytes) -> None:
        raise OutputError(url, "a path that can be written", "make room")

    monkeypatch.setattr("cryoscale.sampling.store.put", full)
    refused(samples(*given), "make room", tmp_path)


def test_blocks_that_a_run_set_aside_are_named_and_give_no_patch(
    mapped: Mapped, tiny_range: TinyRange, tmp_path: Path
) -> None:
    run = finished(tiny_range.settings(), tmp_path / "run", leave=1)
    _, work = prepare(tiny_range.settings(), run)
    (year, block) = work[-1]
    place = {"epsg": block.epsg, "row": block.row, "col": block.col, "size_px": block.size_px}
    record = SetAside(year=year, error="AssetReadError", reason="gone", attempts=3, when="now", **place)  # type: ignore[arg-type]
    Ledger(run).set_aside(record)
    config = checked(**mapped.given, **SMALL, split="random")
    summary = make_samples([run], str(tmp_path / "p.zarr"), config)
    assert any("1 blocks that the run set aside" in note for note in summary["notes"])
    patches = Patches.open(tmp_path / "p.zarr")
    for index in range(len(patches)):
        place_ = patches.place(index)
        centre = (place_.row + 32) // block.size_px, (place_.col + 32) // block.size_px
        assert (place_.epsg, *centre) != (block.epsg, block.row, block.col)


def test_the_command_prints_its_summary_as_json(
    corner: Mapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--truth",
        str(corner.truth),
        "--split",
        "random",
        "--patch",
        "64",
        "--stride",
        "64",
        "--json",
    ]
    argv = ["cryoscale", "samples", corner.run, *arguments, "--out", str(tmp_path / "p.zarr")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["patches"]["train"] > 2
    assert yaml.safe_load((tmp_path / "p.json").read_text())["split"].startswith("random 20%")
