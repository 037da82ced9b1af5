"""Label rasters that cannot serve, and outlines that hardly can."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from cryoscale.errors import SourceError
from cryoscale.grid import Window
from cryoscale.learn.labels import LabelRules
from cryoscale.learn.outlines import read_outlines
from cryoscale.learn.truth import open_truth
from cryoscale.sources import LabelSource, notes_on


def test_a_raster_whose_pixels_are_broken_is_named(tmp_path: Path) -> None:
    window = Window(32645, -5120, 4096, 256, 256)
    path = tmp_path / "truth.tif"
    shape = {"height": 256, "width": 256, "count": 1, "dtype": "uint8", "crs": "EPSG:32645"}
    layout = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    corner = Affine(*window.geobox.transform[:6])
    with rasterio.open(path, "w", driver="GTiff", transform=corner, **shape, **layout) as file:
        file.write(np.random.default_rng(1).integers(0, 5, (256, 256), np.uint8), 1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with open_truth(path, window) as read, pytest.raises(SourceError, match=f"truth {path} .*check the file"):
        read(window)


def test_outlines_that_cross_themselves_are_told_before_they_are_learnt_from(tmp_path: Path) -> None:
    path = tmp_path / "debris.gpkg"
    bow = shapely.Polygon([(84.0, 28.0), (84.1, 28.1), (84.1, 28.0), (84.0, 28.1)])
    gpd.GeoDataFrame(geometry=[bow, shapely.box(84.2, 28.0, 84.3, 28.1)], crs=4326).to_file(path)
    debris = read_outlines([path], "debris", [shapely.box(84, 28, 84.4, 28.2)])
    (note,) = notes_on([], LabelSource(LabelRules(), None, debris, None, None, resample=False))
    assert note.startswith("1 of the debris cross themselves")
