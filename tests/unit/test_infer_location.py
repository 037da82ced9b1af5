"""Where a tile lies, from the world's lattice to the network: the same whatever the block."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from pyproj import Proj

from cryoscale.errors import ConfigError, InputError
from cryoscale.grid import Window, location_code
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.predict import predict_block
from cryoscale.infer.tiles import read_window
from cryoscale.models.glavitu import GlaViTU
from cryoscale.models.loading import load_predictor
from cryoscale.models.weights import Card, save

EPSG, TILE_PX = 32645, 48
CHANNELS = ("B02", "B04", "B08")
WHOLE = Window(EPSG, -312_000, 47_990, 150, 130)
"""Near 28 N, 86 E; on no multiple of anything."""


def stack_on(window: Window) -> xr.DataArray:
    """Noise (channel, y, x) that is a function of the world pixel, with a hole in it."""
    y, x = window.coordinates()
    values = np.stack([np.sin(x * (1.3 + c) + y[:, None] * (0.7 + c)) for c in range(len(CHANNELS))])
    values[:, (np.round(x) % 370 < 20) & (np.round(y)[:, None] % 450 < 30)] = np.nan
    coords = {"channel": list(CHANNELS), "y": y, "x": x}
    return xr.DataArray(values.astype(np.float32), dims=("channel", "y", "x"), coords=coords)


class Recorder:
    """A model that answers with the place it was told, and remembers it."""

    needs_location = True
    classes = tuple("abcd")

    def __init__(self) -> None:
        self.places: list[NDArray[np.float32]] = []

    def __call__(self, tiles: NDArray[np.float32], location: NDArray[np.float32]) -> NDArray[np.float32]:
        assert len(location) == len(tiles)
        self.places += list(location.copy())
        return np.broadcast_to(location[:, :, None, None], (len(tiles), 4, *tiles.shape[2:]))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GlaViTU that takes places, whose MLP makes much of metres."""
    arguments: dict[str, Any] = {
        "in_channels": 3,
        "classes": 4,
        "width": 8,
        "blocks": 1,
        "heads": 2,
        "mlp": 8,
        "steps": 2,
        "tile_px": 64,
        "location": True,
    }
    torch.manual_seed(0)
    net = GlaViTU(**arguments)
    net.place[0].weight.data *= 3000
    card = Card(
        architecture="glavitu",
        arguments=arguments,
        channels=CHANNELS,
        mean=(0.0,) * 3,
        std=(0.7,) * 3,
        classes=tuple("abcd"),
    )
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save(net, card, path)
    return path


@pytest.mark.parametrize("epsg", [32601, 32633, 32645, 32660, 32719, 32701])
def test_the_code_of_a_tile_is_that_of_its_centre_on_the_ellipsoid(epsg: int) -> None:
    south = epsg >= 32700
    window = Window(epsg, -612_345 if south else -512_345, 44_210, 256, 128)
    west, bottom, east, top = window.bounds_m
    projection = Proj(proj="utm", zone=epsg % 100, south=south, ellps="WGS84")
    lon, lat = map(math.radians, projection((west + east) / 2, (bottom + top) / 2, inverse=True))
    assert (lat < 0) is south
    expected = [math.sin(lat), math.cos(lat), math.sin(lon), math.cos(lon)]
    code = location_code(window)
    assert code.dtype == np.float32
    np.testing.assert_allclose(code, expected, atol=1e-7)


def test_each_tile_is_predicted_with_its_own_place() -> None:
    recorder = Recorder()
    predict_block(stack_on(WHOLE), WHOLE, predict=recorder, tile_px=TILE_PX, overlap=0.5, batch=3)
    hull = read_window(WHOLE, TILE_PX, 0.5)
    rows, cols = (
        range(start, start + size - TILE_PX + 1, 24)
        for start, size in zip((hull.row, hull.col), hull.shape, strict=True)
    )
    expected = [location_code(Window(EPSG, r, c, TILE_PX, TILE_PX)) for r in rows for c in cols]
    count = len(expected)
    assert len(np.unique(expected, axis=0)) > len(rows)
    np.testing.assert_array_equal(recorder.places[:count], expected)
    # The last batch is filled up with its last tile.
    assert all(np.array_equal(place, expected[-1]) for place in recorder.places[count:])


@pytest.mark.parametrize("batch", [1, 4])
def test_a_network_with_places_maps_a_part_as_it_maps_the_whole(weights: Path, batch: int) -> None:
    predict = load_predictor(weights=weights, device="cpu", precision="fp32", threads=1)
    assert (predict.needs_location, predict.tile_multiple) == (True, 16)
    stack = stack_on(read_window(WHOLE, TILE_PX, 0.5))
    options = {"predict": predict, "tile_px": TILE_PX, "overlap": 0.5, "batch": batch}
    whole = predict_block(stack, WHOLE, **options)
    for part in (Window(EPSG, WHOLE.row + 31, WHOLE.col + 7, 64, 40), Window(EPSG, -311_900, 48_020, 1, 90)):
        found = predict_block(stack, part, **options)
        own = whole.sel(y=found.y, x=found.x)
        for name in ("probability", "disagreement"):
            np.testing.assert_array_equal(own[name].values, found[name].values)


def test_the_place_does_matter_to_the_network(weights: Path) -> None:
    predict = load_predictor(weights=weights, device="cpu", precision="fp32")
    x = np.zeros((1, 3, 32, 32), np.float32)
    here, there = (location_code(Window(EPSG, row, 48_000, 32, 32))[None] for row in (-312_000, -311_000))
    assert np.abs(predict(x, here) - predict(x, there)).max() > 1e-3


def test_the_actor_gives_the_places_too(weights: Path) -> None:
    spec = {"weights": str(weights), "device": "cpu", "precision": "fp32"}
    actor = ModelActor(spec, TILE_PX, 0.5, threads=1)
    stack = stack_on(read_window(WHOLE, TILE_PX, 0.5))
    origin = read_window(WHOLE, TILE_PX, 0.5)
    bands = actor.predict(stack.values, origin.row, origin.col, WHOLE, CHANNELS)
    part = Window(EPSG, WHOLE.row + 50, WHOLE.col + 20, 64, 64)
    found = actor.predict(stack.values, origin.row, origin.col, part, CHANNELS)
    for name, band in found.items():
        np.testing.assert_array_equal(bands[name][..., 50:114, 20:84], band)
    with pytest.raises(ConfigError, match="tile_px 40; expected a multiple of 16"):
        ModelActor(spec, 40, 0.5)


def test_a_predictor_refuses_a_place_that_is_absent_misshapen_or_unwanted(weights: Path) -> None:
    predict = load_predictor(weights=weights, device="cpu")
    x = np.zeros((2, 3, 32, 32), np.float32)
    with pytest.raises(InputError, match=r"no location codes; expected codes of shape \(2, 4\)"):
        predict(x)
    with pytest.raises(InputError, match=r"location codes of shape \(1, 4\); expected .*\(2, 4\)"):
        predict(x, np.zeros((1, 4), np.float32))
