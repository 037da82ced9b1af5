"""From blocks to a picture: the whole way of the write stage, on disk and on a remote store."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import geopandas as gpd
import numpy as np
import pystac
import pytest
import shapely
import xarray as xr
from numpy.typing import NDArray

from cryoscale.grid import Window, blocks_over, transformer, window_over_bounds
from cryoscale.write import map as picture
from cryoscale.write import mosaic, outlines, seams, stac
from cryoscale.write.report import Outlines, Report, write_report

BLOCK_PX = 128
CLASSES = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")


@pytest.fixture(params=["local", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "run")
        return
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    fsspec.filesystem("memory").rm(root, recursive=True)


def truth(window: Window) -> NDArray[np.uint8]:
    """Two ice bodies drawn in degrees, one over the meridian; beyond the collar no data."""
    y, x = window.coordinates()
    lon, lat = transformer(f"EPSG:{window.epsg}", "EPSG:4326").transform(*np.meshgrid(x, y))
    east, north = (lon - 84) * 98_290, (lat - 28) * 111_320
    label = np.full(window.shape, 4, np.uint8)
    label[np.hypot(east / 1.6, north - 300) < 700] = 1
    label[(label == 1) & (north < 0)] = 2
    label[np.hypot(east - 1500, north + 1100) < 300] = 1
    label[np.hypot(east, north - 500) < 150] = 0
    label[(east > 100) if window.epsg % 100 == 44 else (east < -100)] = 255
    return label


def layers(label: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    valid = label != 255
    probability = np.where(np.arange(5)[:, None, None] == label, 200, 12)
    return {
        "probability": np.where(valid, probability, 255).astype(np.uint8),
        "label": label,
        "confidence": np.where(valid, 180, 255).astype(np.uint8),
        "disagreement": np.where(valid, 3, 255).astype(np.uint8),
        "source_date": np.where(valid, 17_800, 0).astype(np.int32),
        "n_clear": valid.astype(np.uint16),
        "modalities": np.where(valid, 5, 0).astype(np.uint8),
    }


def write_maps(out: str) -> dict[int, Window]:
    windows = {}
    for epsg in (32644, 32645):
        x0, y0 = transformer("EPSG:4326", f"EPSG:{epsg}").transform(84.0, 28.0)
        rough = window_over_bounds(epsg, (x0 - 2200, y0 - 1600, x0 + 2200, y0 + 1500))
        blocks = list(blocks_over(rough, BLOCK_PX))
        rows, cols = sorted({block.row for block in blocks}), sorted({block.col for block in blocks})
        window = Window(
            epsg, rows[0] * BLOCK_PX, cols[0] * BLOCK_PX, len(rows) * BLOCK_PX, len(cols) * BLOCK_PX
        )
        mosaic.create(
            f"{out}/mosaic.zarr", year=2018, window=window, block_px=BLOCK_PX, classes=CLASSES, attrs={}
        )
        for block in blocks:
            mosaic.write_block(f"{out}/mosaic.zarr", 2018, block, layers(truth(block.window)))
        mosaic.build_levels(f"{out}/mosaic.zarr", 2018, epsg)
        windows[epsg] = window
    return windows


def test_blocks_become_a_map_outlines_a_picture_a_report_and_a_catalogue(out: str, tmp_path: Path) -> None:
    windows = write_maps(out)
    maps = {epsg: mosaic.open_mosaic(out, 2018, epsg) for epsg in mosaic.zones(out, 2018)}
    glaciers = outlines.polygonise(maps, year=2018)
    assert len(glaciers) == 2
    assert glaciers.is_valid.all()
    assert [len(polygon.interiors) for polygon in glaciers.geometry] == [1, 0]
    assert glaciers["area_km2"].tolist() == pytest.approx(
        [np.pi * (0.7 * 1.12 - 0.15**2), np.pi * 0.3**2], rel=5e-3
    )

    at_once = {}
    for epsg, window in windows.items():
        y, x = window.coordinates()
        at_once[epsg] = xr.Dataset(
            {"label": (("y", "x"), truth(window))}, coords={"y": y, "x": x}, attrs={"crs": f"EPSG:{epsg}"}
        )
    expected = outlines.polygonise(at_once, year=2018)
    assert shapely.equals(glaciers.geometry.to_numpy(), expected.geometry.to_numpy()).all()

    with outlines.survey(maps, year=2018) as found:
        debris = next(found.debris())
        found.write(f"{out}/inventory/2018.parquet", f"{out}/inventory/2018.gpkg")
    overviews = {epsg: mosaic.open_overview(out, 2018, epsg) for epsg in maps}
    picture.draw_map(f"{out}/map.png", overviews, [glaciers], title="Chain", caption="Made up.")
    score = seams.seam_score_of_maps(maps, BLOCK_PX)
    write_report(
        out,
        Report(
            title="Chain",
            seams={"blocks": score},
            outlines={2018: Outlines(2, float(glaciers["area_km2"].sum()), glaciers)},
        ),
    )
    run = stac.RunRecord(
        "chain",
        "A chain",
        {2018: (stac.utc(2018, 10, 1), stac.utc(2018, 10, 31))},
        {},
        stac.ModelRecord("truth", "none", (), CLASSES, 256),
    )
    stac.write_catalog(out, {(2018, epsg): data for epsg, data in maps.items()}, run)

    filesystem, root = fsspec.core.url_to_fs(out)
    local = tmp_path / "copy"
    filesystem.get(f"{root}/", f"{local}/", recursive=True)
    assert gpd.read_parquet(local / "inventory" / "2018.parquet").equals(glaciers)
    assert len(gpd.read_file(local / "inventory" / "2018.gpkg", layer="debris")) == len(debris)
    assert (local / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "Chain" in (local / "report.html").read_text()
    for item in pystac.Catalog.from_file(local / "catalog.json").get_items():
        for asset in item.assets.values():
            assert (local / "stac" / asset.href).exists() or asset.href == "../run.json"
