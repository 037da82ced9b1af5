"""The picture sheet: which patches it shows, and that what it shows is there."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from matplotlib.colors import to_rgb

from cryoscale.features.channels import CHANNELS
from cryoscale.learn import sheet
from cryoscale.learn.patches import PatchWriter, Place
from cryoscale.learn.sheet import choose, draw_sheet
from cryoscale.write.map import CLASS_STYLE

PLACES = {"regions": {"0": "somewhere"}}


@pytest.fixture
def patches(tmp_path):
    rng = np.random.default_rng(0)
    writer = PatchWriter(tmp_path / "p.zarr", channels=CHANNELS, patch_px=32)
    for i in range(24):
        x = rng.uniform(0.1, 0.5, (30, 32, 32)).astype(np.float32)
        x[13] = 0.3  # NDSI that contradicts no label
        y = rng.choice([0, 1, 2, 4], (32, 32), p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
        if i in (3, 17):
            y[:4] = 3  # water is in two patches only
        if i in (5, 19):
            x[13, :16] = 0.9
        writer.add(
            x, y, Place(32645, -313_000 + 32 * i, 20_400, 0, "median", "validation" if i > 15 else "train")
        )
    return writer.finish(pca=None, **PLACES)


def test_the_rare_class_and_the_doubtful_patch_are_shown(patches):
    shown = choose(patches, "train", seed=0)
    assert shown[3, 0] == 3
    assert (3, 1) not in shown, "one patch has water"
    assert shown[5, 0] == 5
    assert choose(patches, "validation", seed=0)[3, 0] == 17
    assert choose(patches, "validation", seed=0)[5, 0] == 19
    assert {(k, n) for k in (0, 1, 2, 4) for n in (0, 1)} <= set(shown)
    classes = [index for (k, _), index in shown.items() if k < 5]
    assert len(set(classes)) == len(classes), "there are enough patches to show none twice"
    assert all(patches.columns["split"][index] == 0 for index in shown.values())
    assert shown == choose(patches, "train", seed=0)
    assert shown != choose(patches, "train", seed=1)


def test_a_set_of_one_patch_a_split_is_drawn_with_its_classes_colours(tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "_DPI", 60)
    writer = PatchWriter(tmp_path / "p.zarr", channels=CHANNELS, patch_px=32)
    y = np.full((32, 32), 3, np.uint8)
    x = np.full((30, 32, 32), 0.2, np.float32)
    x[:, :8] = np.nan
    y[:8] = 255
    writer.add(x, y, Place(32645, -313_000, 20_400, 0, "median", "train", 2018, 17_819))
    draw_sheet(tmp_path / "s.png", writer.finish(pca=None, **PLACES))
    with rasterio.open(tmp_path / "s.png") as picture:
        pixels = picture.read()[:3].reshape(3, -1).T / 255
    _, colour, opacity = CLASS_STYLE[3]
    water = (
        np.abs(pixels - (opacity * np.array(to_rgb(colour)) + (1 - opacity) * pixels.min())).max(axis=1)
        < 0.12
    )
    grey = (np.abs(pixels - 0.8) < 0.01).all(axis=1)
    assert water.sum() > 500
    assert grey.sum() > 200
