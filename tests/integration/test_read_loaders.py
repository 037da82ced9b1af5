"""Two libraries draw the graph of a cube, or none does; values, grid, errors and maps are the same."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import rasterio
import xarray as xr
from pystac import Item

from cryoscale.errors import ConfigError
from cryoscale.grid import Window
from cryoscale.ledger import Ledger
from cryoscale.read.assets import S2_BANDS
from cryoscale.read.cube import open_cube
from cryoscale.read.inputs import read_inputs
from cryoscale.read.raster import UnreadableError
from tests.integration.conftest import TinyRange, map_here
from tests.integration.test_read_inputs import EPSG, WINDOW, broken, item, optical, write

BANDS = [*S2_BANDS, "SCL"]


def scenes(folder: Path) -> list[Item]:
    """Rough ground in both baselines, holes, the same minute twice, and one scene over half the window."""
    rng = np.random.default_rng(2)
    half = Window(EPSG, WINDOW.row - 12, WINDOW.col - 12, 144, 60)
    made = []
    for name, day, baseline, window in (
        ("b", "2018-10-13", "02.12", WINDOW.pad(12)),
        ("a", "2018-10-13", "02.12", WINDOW.pad(12)),
        ("new", "2022-10-03", "04.00", WINDOW.pad(12)),
        ("half", "2018-10-01", "02.12", half),
        ("far", "2018-10-05", "02.12", Window(EPSG, WINDOW.row, WINDOW.col + 60_000, 144, 144)),
    ):
        cells = -(-window.height * 10 // 60), -(-window.width * 10 // 60)
        made.append(
            optical(folder, name, day, rng.uniform(0, 0.7, cells), 4, baseline=baseline, window=window)
        )
    for scene in made:
        with rasterio.open(scene.assets["B11"].href, "r+") as file:
            values = file.read(1)
            values[rng.random(values.shape) < 0.1] = 0
            file.write(values, 1)
    return made


def cube(items: list[Item], loader: Any, **options: Any) -> xr.Dataset:
    arguments = {"geobox": WINDOW.geobox, "bands": BANDS, "chunks": {"x": 50, "y": 70}} | options
    return open_cube(items, loader=loader, **arguments)


def test_both_loaders_give_the_same_dataset_bit_for_bit(tmp_path: Path) -> None:
    items = scenes(tmp_path)
    want, got = cube(items, "odc-stac"), cube(items, "stackstac")
    assert isinstance(got["B02"].data, dask.array.Array)
    assert got["B02"].chunks == want["B02"].chunks
    xr.testing.assert_identical(got.compute(), want.compute())
    assert got["scene"].values.tolist() == ["half", "far", "a", "b", "new"]
    share = np.isfinite(got["B11"]).mean(("y", "x")).values
    assert share[1] == 0.0
    assert (share[[0, 2, 3, 4]] > 0.3).all()
    assert (share < 1.0).all()


def test_a_part_read_through_stackstac_is_the_part_of_the_whole(tmp_path: Path) -> None:
    items = scenes(tmp_path)
    part = Window(EPSG, WINDOW.row + 31, WINDOW.col + 17, 40, 55)
    rows, columns = part.slices_in(WINDOW)
    whole = cube(items, "stackstac", chunks={"x": 64, "y": 33}).compute()
    alone = cube(items, "stackstac", geobox=part.geobox).compute()
    xr.testing.assert_equal(alone, whole.isel(y=rows, x=columns))


def test_complex_pairs_and_absent_bands_come_through_both_loaders(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(160, 160)) + 1j * rng.normal(size=(160, 160))
    pair = item("pair", "2018-10-15", WINDOW.pad(12), "sentinel-1-slc-pair")
    pair.add_asset("slc1", write(tmp_path / "slc1.tif", values.astype(np.complex64), 10, WINDOW.pad(12)))
    options = {"bands": ["slc1", "coherence"]}
    want, got = cube([pair], "odc-stac", **options), cube([pair], "stackstac", **options)
    xr.testing.assert_identical(got.compute(), want.compute())
    assert got["slc1"].dtype == np.complex64
    assert np.isfinite(got["slc1"]).all()
    assert np.isnan(got["coherence"]).all()


@pytest.mark.parametrize("loader", ["odc-stac", "stackstac"])
def test_a_file_that_cannot_be_read_is_named_and_never_becomes_no_data(tmp_path: Path, loader: str) -> None:
    items = scenes(tmp_path)
    broken(items[0], "B08")
    with pytest.raises(UnreadableError, match="b B08"):
        cube(items, loader, bands=["B08"]).compute(scheduler="synchronous")
    Path(items[1].assets["B02"].href).unlink()
    with pytest.raises(UnreadableError, match="a B02"):
        cube(items, loader, bands=["B02"]).compute(scheduler="synchronous")


def test_the_graph_of_stackstac_crosses_processes(tmp_path: Path) -> None:
    items = scenes(tmp_path)[:1]
    lazy = cube(items, "stackstac", bands=["B02"])
    sent = pickle.loads(pickle.dumps(lazy))
    xr.testing.assert_equal(sent.compute(), lazy.compute())


def test_a_loader_that_is_unknown_or_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = scenes(tmp_path)[:1]
    with pytest.raises(ValueError, match="expected one of odc-stac, stackstac"):
        cube(items, "rasterio")
    monkeypatch.setitem(sys.modules, "stackstac", None)
    with pytest.raises(ConfigError, match=r"cryoscale\[stackstac\]"):
        cube(items, "stackstac")


# --- blocks and runs ------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which library drew a graph, each time that one did."""
    import odc.stac
    import stackstac

    calls: list[str] = []

    def noting(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(odc.stac, "load", noting("odc-stac", odc.stac.load))
    monkeypatch.setattr(stackstac, "stack", noting("stackstac", stackstac.stack))
    return calls


@pytest.mark.parametrize("loader", ["odc-stac", "stackstac"])
def test_a_block_reads_the_same_inputs_and_tells_the_same_whichever_loader_is_chosen(
    tmp_path: Path, drawn: list[str], loader: Any
) -> None:
    items = scenes(tmp_path)
    broken(items[0], "B08")
    rng = np.random.default_rng(3)
    pair = item("pair", "2018-10-15", WINDOW.pad(12), "sentinel-1-slc-pair")
    for name in ("slc1", "slc2"):
        values = (rng.normal(size=(160, 160)) + 1j * rng.normal(size=(160, 160))).astype(np.complex64)
        pair.add_asset(name, write(tmp_path / f"{name}.tif", values, 10, WINDOW.pad(12)))
    found = {"optical": items, "insar": [pair]}
    want, told = read_inputs(found, WINDOW)
    assert drawn == []
    got, also_told = read_inputs(found, WINDOW, loader=loader)
    assert set(drawn) == {loader}
    xr.testing.assert_identical(got, want)
    assert [name for name, _ in told.scenes_failed] == ["b"]
    assert (also_told.scenes_read, also_told.scenes_failed) == (told.scenes_read, told.scenes_failed)
    assert also_told.choice is not None
    assert told.choice is not None
    assert also_told.choice.shares(WINDOW) == told.choice.shares(WINDOW)
    whole = {"optical": items[1:], "insar": [pair]}
    bytes_read = {kind: read_inputs(whole, WINDOW, loader=kind)[1].bytes_read for kind in ("direct", loader)}
    assert bytes_read[loader] == bytes_read["direct"] > 0
    with pytest.raises(UnreadableError, match="b B08"):
        read_inputs(found, WINDOW, loader=loader, on_unreadable="fail")


def test_a_run_with_each_loader_gives_the_same_map_and_is_the_same_run(
    tiny_range: TinyRange, tmp_path: Path, drawn: list[str]
) -> None:
    checksums, identities = {}, set()
    for loader in ("direct", "odc-stac", "stackstac"):
        drawn.clear()
        settings = tiny_range.settings(model={"name": "band-ratio"}, loader=loader)
        markers = map_here(settings, tmp_path / loader)
        assert set(drawn) == ({loader} - {"direct"})
        manifest = Ledger(str(tmp_path / loader)).manifest() or {}
        assert manifest["config"]["loader"] == loader
        assert manifest["context"]["loader"] == loader
        identities.add(manifest["identity_sha256"])
        checksums[loader] = [marker.checksum for marker in markers]
        assert sum(marker.valid_pixels for marker in markers) > 0
    assert checksums["odc-stac"] == checksums["direct"]
    assert checksums["stackstac"] == checksums["direct"]
    assert len(identities) == 1
