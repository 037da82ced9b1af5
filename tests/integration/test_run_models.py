"""Other models than CryoNet through a whole run: places from the lattice, tiles of 48 pixels, a forest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryoscale.errors import InputError
from cryoscale.features.stack import CHANNELS
from cryoscale.learn.forest import grow
from cryoscale.learn.scores import CLASS_NAMES
from cryoscale.models.cryonet import CryoNet
from cryoscale.models.forest import RandomForest
from cryoscale.models.glavitu import GlaViTU
from cryoscale.models.weights import Card, save
from cryoscale.preparation import prepare
from cryoscale.results import Run
from tests.integration.conftest import TinyRange, map_here
from tests.toy_networks import stirred

SCALE = {"LST": 270.0, "elevation": 5000.0, "aspect": 180.0, "slope": 30.0, "velocity": 20.0}


def save_as(net: torch.nn.Module, architecture: str, arguments: dict[str, Any], path: Path) -> dict[str, Any]:
    """The part of a configuration that names the saved network."""
    card = Card(
        architecture=architecture,
        arguments={"in_channels": len(CHANNELS), "classes": 5, **arguments},
        channels=CHANNELS,
        mean=tuple(SCALE.get(name, 0.0) for name in CHANNELS),
        std=tuple(SCALE.get(name, 1.0) / 3 for name in CHANNELS),
        pca={"mean": [0.3] * 12, "components": np.eye(3, 12).tolist()},
        classes=CLASS_NAMES,
    )
    save(net, card, path)
    return {"weights": str(path), "overlap": 0.5}


def glavitu(folder: Path) -> dict[str, Any]:
    torch.manual_seed(2)
    arguments = {
        "width": 8,
        "blocks": 1,
        "heads": 2,
        "mlp": 8,
        "steps": 1,
        "tile_px": 64,
        "location": True,
    }
    net = GlaViTU(**arguments)
    net.place[0].weight.data *= 1000
    return save_as(net, "glavitu", arguments, folder / "glavitu.safetensors")


def by_neighbourhoods(folder: Path) -> dict[str, Any]:
    """A CryoNet on tiles of four times the edge that its gates look at."""
    torch.manual_seed(4)
    arguments = {"encoder": "resnet10w16", "decoder_channels": [32, 16, 16, 16, 16], "squeeze_px": 32}
    net = stirred(CryoNet(**arguments))
    return save_as(net, "cryonet", arguments, folder / "cryonet.safetensors")


def forest(folder: Path) -> dict[str, Any]:
    arguments = {"trees": 5, "leaves": 12, "depth": 6}
    net, rng = RandomForest(**arguments), np.random.default_rng(1)
    x = rng.normal(size=(400, len(CHANNELS))).astype(np.float32)
    grow(net, x, rng.integers(0, 5, 400), seed=1)
    return save_as(net, "random-forest", arguments, folder / "forest.safetensors")


@pytest.mark.parametrize(("make", "tile_px"), [(glavitu, 48), (forest, 64), (by_neighbourhoods, 128)])
def test_neither_block_size_nor_region_shows_in_the_map_of_other_models(
    tiny_range: TinyRange, tmp_path: Path, make: Any, tile_px: int
) -> None:
    west, south, east, north = tiny_range.bbox
    part = [west + 0.4 * (east - west), south, east, south + 0.5 * (north - south)]
    plain = {"model": make(tmp_path), "sources": {"optical": {"collection": "sentinel-2-l2a"}}}
    plain["region"] = {"bbox": part}
    narrow = {**plain, "region": {"bbox": [part[0], part[1], part[2], (part[1] + part[3]) / 2]}}
    map_here(tiny_range.settings(**plain, tiling={"tile_px": tile_px, "block_px": 512}), tmp_path / "a")
    map_here(tiny_range.settings(**narrow, tiling={"tile_px": tile_px, "block_px": 256}), tmp_path / "b")
    large, small = Run(str(tmp_path / "a")), Run(str(tmp_path / "b"))
    compared = 0
    for epsg in small.zones(2018):
        one, other = large.mosaic(2018, epsg).load(), small.mosaic(2018, epsg).load()
        y, x = np.intersect1d(one.y, other.y), np.intersect1d(one.x, other.x)
        one, other = one.sel(y=y, x=x), other.sel(y=y, x=x)
        inside = other["label"].values != 255
        for name in ("probability", "label", "confidence", "disagreement"):
            np.testing.assert_array_equal(one[name].values[..., inside], other[name].values[..., inside])
        compared += int(inside.sum())
    assert compared > 5_000


def test_tiles_that_a_network_cannot_take_are_refused_before_anything_is_written(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    settings = tiny_range.settings(tiling={"tile_px": 48, "block_px": 256})
    with pytest.raises(InputError, match="tile_px 48; expected a multiple of 32, as the model needs"):
        prepare(settings, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
