"""Channels made on a device of numbers: those that a worker makes, which is the oracle."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from cryoscale.features.packing import HALO_PX, Packed
from cryoscale.features.stack import BANDS, CHANNELS, build_stack, pack_inputs, with_radar
from cryoscale.grid import Window
from cryoscale.infer import calling, derive, device
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.calling import ActorRef
from cryoscale.infer.derive import Deriver
from cryoscale.infer.handover import Handed
from cryoscale.infer.predict import Carried
from cryoscale.infer.tiles import read_window
from tests.fake_cuda import FakeCuda
from tests.toy_networks import toy
from tests.unit.test_features_packing import BASIS, unpacked
from tests.unit.test_features_stack import inputs
from tests.unit.test_infer_device import OnDevice, one_thread  # noqa: F401 - a fixture of every test here

CPU = torch.device("cpu")
EPSG = 32645


def scene(height: int = 60, width: int = 70, *, holes: float = 0.01, seed: int = 0) -> xr.Dataset:
    """Inputs (y, x) with a flat, a cliff, a plain grey, a dark place and something infinite among them."""
    dataset = with_radar(inputs(height, width, holes=holes, seed=seed)).drop_vars(["slc1", "slc2"])
    dataset["elevation"].values[5:15, 5:15] = 4321.25
    dataset["elevation"].values[20, 20:30] += np.float32(800)
    dataset["elevation"].values[40, 40] = np.inf
    dataset["B08"].values[5:20, 40:60] = 0.5
    for name in BANDS:
        dataset[name].values[30:40, 5:15] = np.random.default_rng(3).choice([0.0, 2e-5, -0.01, 1e-4])
    return dataset


def made(packed: Packed) -> np.ndarray:
    numbers = torch.from_numpy(packed.numbers.view(np.int16))
    return Deriver(packed.recipe, CPU)(numbers).numpy()


def inside(array: np.ndarray) -> np.ndarray:
    return array[:, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]


def test_of_the_same_values_the_channels_are_those_of_the_workers() -> None:
    dataset = scene()
    packed = pack_inputs(dataset, CHANNELS, pca=BASIS)
    stood = {name: (("y", "x"), plane) for name, plane in unpacked(packed).items()}
    wanted, found = inside(build_stack(dataset.assign(stood), pca=BASIS).values), made(packed)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    rounding = 4 * np.finfo(np.float32).eps
    for name, ours, theirs in zip(CHANNELS, found, wanted, strict=True):
        if name in ("slope", "aspect", "GLCM_dissimilarity") or name.startswith(("PCA", "TC_")):
            np.testing.assert_allclose(ours, theirs, rtol=rounding, atol=1e-7, err_msg=name)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    aspect = found[CHANNELS.index("aspect")]
    assert (aspect[3:11, 3:11] == 0).all()  # where it is flat
    assert np.nanmin(aspect) >= 0
    assert np.nanmax(aspect) < 360


def test_they_are_nearer_to_those_of_the_bands_than_bf16_is() -> None:
    dataset = scene(holes=0.0)
    whole = inside(build_stack(dataset, pca=BASIS).values)
    found = made(pack_inputs(dataset, CHANNELS, pca=BASIS))
    for name, ours, exact in zip(CHANNELS, found, whole, strict=True):
        there = np.isfinite(exact)
        np.testing.assert_array_equal(np.isfinite(ours), there, err_msg=name)
        apart, spread = np.abs(ours[there] - exact[there]), exact[there].std()
        rounded = torch.from_numpy((exact[there] - exact[there].mean()) / spread)
        by_bf16 = float((rounded - rounded.bfloat16().float()).abs().mean())
        if name in ("elevation", "slope", "aspect", "GLCM_dissimilarity"):
            assert apart.max() == 0, name
        dark = name.startswith("ND")  # where bands are 0 to 1e-4, an index is anything
        assert (np.median(apart) if dark else apart.mean()) / spread < by_bf16, name


@pytest.mark.parametrize("absent", [("LST",), ("elevation",), ("B11",), ("velocity", "coherence", "phase")])
def test_what_is_missing_is_missing_here_too(absent: tuple[str, ...]) -> None:
    dataset = scene().drop_vars(list(absent))
    wanted = inside(build_stack(dataset, pca=BASIS).values)
    found = made(pack_inputs(dataset, CHANNELS, pca=BASIS))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))


def test_a_model_gets_its_own_channels_in_its_own_order() -> None:
    dataset, names = scene(), ("TC_wetness", "aspect", "B03", "NDSI", "PCA2", "phase", "GLCM_dissimilarity")
    whole = made(pack_inputs(dataset, CHANNELS, pca=BASIS))
    some = made(pack_inputs(dataset, names, pca=BASIS))
    np.testing.assert_array_equal(some, whole[[CHANNELS.index(name) for name in names]])


def test_all_at_once_is_the_same_as_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_inputs(scene(), CHANNELS, pca=BASIS)
    monkeypatch.setattr(derive, "STRIP_ROWS", 7)
    window = Window(EPSG, 0, 0, *packed.numbers.shape[1:])
    carried = Carried(packed.numbers, window, range(30), range(12), packed.recipe)
    found = derive.derived(carried)
    assert (found.extent, found.recipe) == (window.pad(-HALO_PX), None)
    np.testing.assert_array_equal(found.array, made(packed))


# --- on an actor ---------------------------------------------------------------------------------


BLOCK = Window(EPSG, -64, 64, 150, 131)
OUTER = read_window(BLOCK, 64, 0.5)
AROUND = OUTER.pad(HALO_PX)


def sent() -> tuple[Packed, np.ndarray]:
    """A block with a hole in a band, as numbers; and as the features that these stand for."""
    dataset = scene(*AROUND.shape)
    dataset["B02"].values[60:90, 100:140] = np.nan
    names = toy().channels
    packed = pack_inputs(dataset, names, pca=None)
    stood = {name: (("y", "x"), plane) for name, plane in unpacked(packed).items()}
    features = inside(build_stack(dataset.assign(stood), pca=BASIS).sel(channel=list(names)).values)
    return packed, np.ascontiguousarray(features)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("on_device", [True, False])
def test_a_block_sent_as_numbers_is_mapped_as_one_sent_as_channels(precision: str, on_device: bool) -> None:
    packed, features = sent()
    model = OnDevice(9, precision=precision) if on_device else toy(precision=precision)
    actor = ModelActor({}, 64, 0.5, batch=4, load=lambda: model)
    wanted = actor.predict(features, OUTER.row, OUTER.col, BLOCK)
    found = actor.predict(packed, AROUND.row, AROUND.col, BLOCK)
    assert (wanted["label"] == 255).any()
    for name, band in wanted.items():
        np.testing.assert_array_equal(found[name], band, err_msg=name)


@pytest.mark.parametrize("rows", [9, 64])
def test_on_streams_rows_go_once_and_in_any_number_at_a_time(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    packed, features = sent()
    actor = ModelActor({}, 64, 0.5, batch=4, load=lambda: OnDevice(9, precision="bf16"))
    wanted = actor.predict(features, OUTER.row, OUTER.col, BLOCK)
    fake = FakeCuda(monkeypatch)
    monkeypatch.setattr(device, "_has_streams", lambda device: True)
    monkeypatch.setattr(Deriver, "strip_rows", rows)
    found = actor.predict(packed, AROUND.row, AROUND.col, BLOCK)
    for name, band in wanted.items():
        np.testing.assert_array_equal(found[name], band, err_msg=name)
    assert fake.count("record") == -(-OUTER.height // rows)
    assert fake.log[-1][0] == "settle"


@pytest.mark.parametrize("way", ["mapped", "sent", "a CPU"])
def test_a_task_gives_numbers_by_hand_or_sends_them(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    packed, features = sent()
    model = toy() if way == "a CPU" else OnDevice(9, precision="bf16")
    served, given_ = ModelActor({}, 64, 0.5, batch=4, load=lambda: model), list[Any]()
    loop = asyncio.new_event_loop()

    def call(ref: ActorRef, method: str, *given: Any, deadline_s: float) -> Any:
        if method == "serve":
            given_.append(given[0])
            return served.serve(*pickle.loads(pickle.dumps(given)))  # as a message of Dask's
        if method == "reaches" and way == "sent":
            given = (replace(given[0], process=2**22 + 1),)  # as another machine would find it
        return loop.run_until_complete(getattr(served, method)(*given))

    monkeypatch.setattr(calling, "call_actor", call)
    where = ActorRef("tcp://nowhere", f"numbers {way}")
    bands, _ = calling.predict_on(where, packed, AROUND, BLOCK, deadline_s=1.0)
    loop.close()
    assert isinstance(given_[0], Handed if way == "mapped" else np.ndarray)
    assert (np.dtype(given_[0].dtype), given_[0].shape) == (np.uint16, packed.numbers.shape)
    for name, band in served.predict(features, OUTER.row, OUTER.col, BLOCK).items():
        np.testing.assert_array_equal(bands[name], band)


@pytest.mark.parametrize("on_device", [True, False])
def test_numbers_that_end_within_the_block_are_mapped_as_far_as_their_channels_go(on_device: bool) -> None:
    packed, features = sent()
    model = OnDevice(9) if on_device else toy()
    actor = ModelActor({}, 64, 0.5, batch=4, load=lambda: model)
    cut = Packed(np.ascontiguousarray(packed.numbers[:, 50:-70, 40:]), packed.recipe)
    wanted = actor.predict(
        np.ascontiguousarray(features[:, 50:-70, 40:]), OUTER.row + 50, OUTER.col + 40, BLOCK
    )
    found = actor.predict(cut, AROUND.row + 50, AROUND.col + 40, BLOCK)
    for name, band in wanted.items():
        np.testing.assert_array_equal(found[name], band, err_msg=name)
