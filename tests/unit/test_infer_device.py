"""Blocks mapped on a device give the bytes that numpy gives, the oracle; here the device is a CPU."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoscale.errors import ActorSilentError, ConfigError, OperatorError
from cryoscale.grid import Window
from cryoscale.infer import calling, device, merge, upload
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.arrays import ArrayEngine
from cryoscale.infer.blend import Blender
from cryoscale.infer.calling import ActorRef
from cryoscale.infer.device import DeviceEngine
from cryoscale.infer.encode import Confidence, encode
from cryoscale.infer.handover import Handed
from cryoscale.infer.hardware import is_out_of_memory
from cryoscale.infer.merge import Curve, Merger, encode_share
from cryoscale.infer.predict import Carried, Mapped, Tiling
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.infer.wire import narrow
from cryoscale.models.predictor import Predictor
from cryoscale.models.serving import Served
from tests.fake_cuda import FakeCuda
from tests.toy_networks import toy

EPSG = 32645


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing by a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PLAIN = Confidence()
FEW = 0.003
"""Share of bytes that may lie on the other side of a half."""


def features_on(window: Window, seed: int = 0) -> np.ndarray:
    """Noise (3, y, x) about the statistics of the toys' cards, with holes."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(3, *window.shape)).astype(np.float32)
    found = noise * np.array([0.2, 0.1, 15.0], np.float32)[:, None, None] + np.float32(0.2)
    found[generator.random(found.shape) < 0.02] = np.nan
    return found


def carried(array: np.ndarray, extent: Window) -> Carried:
    return Carried(array, extent, range(3), (0, 1))


def assert_alike(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], few: float = FEW) -> None:
    """The same no data; bytes one level apart at most, and seldom; labels of unsure pixels aside."""
    assert found.keys() == wanted.keys()
    shares = np.sort(wanted["probability"].astype(int), axis=0)
    sure = shares[-1] - shares[-2] > 2
    for name, band in wanted.items():
        assert found[name].shape == band.shape
        np.testing.assert_array_equal(found[name] == 255, band == 255, err_msg=name)
        if name == "label":
            np.testing.assert_array_equal(found[name][sure], band[sure])
            continue
        apart = np.abs(found[name].astype(int) - band.astype(int))
        assert apart.max(initial=0) <= 1, name
        assert (apart > 0).mean() <= few, name


CASES = {
    "half": (Window(EPSG, -70, 37, 150, 131), 0.5, 3, (0, 0)),
    "none": (Window(EPSG, -70, 37, 150, 131), 0.0, 2, (0, 0)),
    "an eighth": (Window(EPSG, 5, -99, 90, 120), 0.125, 5, (0, 0)),
    "three quarters": (Window(EPSG, 5, -99, 40, 50), 0.75, 4, (0, 0)),
    "a stride that divides nothing": (Window(EPSG, -3, 11, 70, 77), 0.3, 40, (0, 0)),
    "features that end within": (Window(EPSG, 0, 0, 128, 128), 0.5, 3, (40, 77)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_block_mapped_on_the_device_has_the_bytes_of_numpy(case: str) -> None:
    window, overlap, batch, (rows, cols) = CASES[case]
    extent = read_window(window, 64, overlap)
    extent = Window(EPSG, extent.row + rows, extent.col + cols, extent.height - rows, extent.width - cols)
    array, model = features_on(extent), toy()
    before = array.copy()
    wanted = ArrayEngine(model, Tiling(64, overlap, 1), PLAIN).predict(carried(array, extent), window)
    found = DeviceEngine(model, Tiling(64, overlap, batch), PLAIN).predict(carried(array, extent), window)
    assert_alike(found.bands, wanted.bands)
    assert (found.tiles, found.tiles_skipped) == (wanted.tiles, wanted.tiles_skipped)
    assert (found.bands["disagreement"] != 255).any()
    np.testing.assert_array_equal(array, before)  # it is the stack's own memory, which is looked at again


@pytest.mark.parametrize("kind", ["entropy", "max", "calibrated"])
def test_location_codes_and_confidence_of_all_kinds_are_those_of_numpy(kind: str) -> None:
    model = toy("glavitu", calibrated=kind == "calibrated")
    how = Confidence("max" if kind == "max" else "entropy", model.calibration)
    window = Window(EPSG, -312_000, 47_990, 40, 50)
    extent = read_window(window, 32, 0.5)
    block = carried(features_on(extent), extent)
    wanted = ArrayEngine(model, Tiling(32, 0.5, 1), how).predict(block, window)
    found = DeviceEngine(model, Tiling(32, 0.5, 7), how).predict(block, window)
    assert_alike(found.bands, wanted.bands, few=0.01)
    elsewhere = Window(EPSG, -252_000, 47_990, 40, 50)
    moved = carried(block.array, read_window(elsewhere, 32, 0.5))
    other = DeviceEngine(model, Tiling(32, 0.5, 7), how).predict(moved, elsewhere)
    assert (other.bands["probability"] != found.bands["probability"]).any()


def test_tiles_without_data_are_left_out_and_a_block_without_any_is_no_data() -> None:
    window = Window(EPSG, 0, 0, 192, 192)
    array, model = np.full((3, 192, 192), np.nan, np.float32), toy()
    nothing = DeviceEngine(model, Tiling(64, 0.0, 2), PLAIN).predict(carried(array, window), window)
    assert (nothing.tiles, nothing.tiles_skipped) == (0, 9)
    assert all((band == 255).all() for band in nothing.bands.values())
    assert nothing.bands["probability"].shape == (4, 192, 192)
    for row, col in ((10, 20), (100, 150), (101, 20)):
        array[:, row, col] = 0.3
    engines = ArrayEngine(model, Tiling(64, 0.0), PLAIN), DeviceEngine(model, Tiling(64, 0.0, 2), PLAIN)
    wanted, found = (engine.predict(carried(array, window), window) for engine in engines)
    assert_alike(found.bands, wanted.bands)
    assert (found.tiles, found.tiles_skipped) == (3, 6)


def test_neither_the_size_of_the_batch_nor_the_cut_of_the_block_shows() -> None:
    whole, model = Window(EPSG, -64, 64, 128, 128), toy()
    extent = read_window(whole, 64, 0.5)
    block = carried(features_on(extent), extent)
    one = DeviceEngine(model, Tiling(64, 0.5, 4), PLAIN).predict(block, whole).bands
    for window in (whole, Window(EPSG, -60, 70, 50, 43), Window(EPSG, -1, 191, 1, 1)):
        rows, cols = window.slices_in(whole)
        part = DeviceEngine(model, Tiling(64, 0.5, 4), PLAIN).predict(block, window).bands
        for name, band in part.items():
            np.testing.assert_array_equal(band, one[name][..., rows, cols], err_msg=name)
        other = DeviceEngine(model, Tiling(64, 0.5, 9), PLAIN).predict(block, window).bands
        assert_alike(other, part)


def test_channels_are_taken_by_their_place_and_the_mask_sees_bands_that_the_model_does_not() -> None:
    window, model = Window(EPSG, 0, 0, 64, 64), toy()
    array = features_on(window)
    more = np.full((5, 64, 64), 0.5, np.float32)
    more[[4, 0, 2]] = array
    more[1, 8:20] = np.nan
    block = Carried(more, window, (4, 0, 2), (0, 1))
    wanted = ArrayEngine(model, Tiling(64, 0.0), PLAIN).predict(block, window)
    found = DeviceEngine(model, Tiling(64, 0.0), PLAIN).predict(block, window)
    assert_alike(found.bands, wanted.bands)
    assert (found.bands["label"][8:20] == 255).all()


def test_features_that_came_over_a_wire_are_read_only_and_stay_so() -> None:
    window, model = Window(EPSG, 0, 0, 64, 64), toy()
    array = features_on(window)
    array.flags.writeable = False
    found = DeviceEngine(model, Tiling(64, 0.0), PLAIN).predict(carried(array, window), window)
    assert found.tiles == 1


def test_answers_that_are_not_finite_on_a_valid_pixel_are_refused() -> None:
    window, model = Window(EPSG, 0, 0, 64, 64), toy()
    model.model.segmentation_head[0].bias.data[0] = float("nan")
    with pytest.raises(OperatorError, match="not finite on valid pixels"):
        DeviceEngine(model, Tiling(64, 0.0), PLAIN).predict(carried(features_on(window), window), window)


def test_on_streams_memory_is_written_again_only_after_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    monkeypatch.setattr(upload, "STRIP_ROWS", 20)
    window, model = Window(EPSG, -70, 37, 150, 131), toy(precision="bf16")
    extent = read_window(window, 64, 0.5)
    engine = DeviceEngine(model, Tiling(64, 0.5, 4), PLAIN)
    assert engine.wire is not None
    array = features_on(extent)
    wanted = engine.predict(carried(array, extent), window).bands
    assert not fake.log
    monkeypatch.setattr(device, "_has_streams", lambda device: True)
    for form in (array, narrow(array, engine.wire)):
        fake.log.clear()
        found = engine.predict(carried(form, extent), window).bands
        for name, band in wanted.items():
            np.testing.assert_array_equal(found[name], band, err_msg=name)
        strips = math.ceil(extent.height / 20)
        assert fake.count("record") == strips
        events = [(what, event) for what, event in fake.log if what in ("record", "synchronize")]
        assert len({id(event) for _, event in events}) == 2
        for number, (what, event) in enumerate(events):
            if what == "record":
                assert events[number - 1] == ("synchronize", event)
        assert fake.count("wait") > len(wanted)
        assert fake.log[-1][0] == "settle"


def test_all_blocks_of_an_engine_travel_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    monkeypatch.setattr(device, "_has_streams", lambda device: True)
    window = Window(EPSG, 0, 0, 90, 70)
    engine = DeviceEngine(toy(), Tiling(64, 0.5, 4), PLAIN)
    for _ in range(3):
        engine.predict(carried(features_on(window), window), window)
    assert fake.count("stream") == 1
    assert fake.count("settle") >= 3


def test_a_larger_window_than_the_first_gets_the_batch_that_it_fills() -> None:
    small, large, tiling = Window(EPSG, 0, 0, 2, 2), Window(EPSG, 0, 0, 150, 131), Tiling(64, 0.5, 16)
    engine, sizes = DeviceEngine(toy(), tiling, PLAIN), []
    for window in (small, large, small):
        found = engine.predict(carried(features_on(window), window), window).bands
        sizes.append(len(engine._served.tiles))
        alone = DeviceEngine(toy(), tiling, PLAIN)
        wanted = alone.predict(carried(features_on(window), window), window).bands
        for name, band in wanted.items():
            apart = np.abs(found[name].astype(int) - band.astype(int))
            assert apart.max() <= (1 if name != "label" else 0), name
    assert sizes == [device.even_batch(small, tiling), *2 * [device.even_batch(large, tiling)]]
    assert sizes[0] < sizes[1]


def test_a_machine_that_cannot_build_kernels_blends_by_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here for want of a GPU; elsewhere for want of a compiler or of Python's headers."""
    monkeypatch.setattr(merge.importlib.util, "find_spec", lambda name: object())
    assert not merge._has_kernel.__wrapped__(torch.device("cuda"))
    assert "tiles are blended by torch" in caplog.text
    assert not merge._has_kernel(torch.device("cpu"))


# --- narrow features -----------------------------------------------------------------------------


def test_features_that_were_rounded_before_they_were_sent_give_the_same_bytes() -> None:
    window, model = Window(EPSG, -70, 37, 90, 70), toy(precision="bf16")
    extent = read_window(window, 64, 0.5)
    array = features_on(extent)
    array[2, :9] = np.inf
    engine = DeviceEngine(model, Tiling(64, 0.5, 3), PLAIN)
    assert engine.wire is not None
    sent = narrow(array, engine.wire)
    assert sent.nbytes * 2 == array.nbytes
    wanted = engine.predict(carried(array, extent), window).bands
    found = engine.predict(carried(sent, extent), window).bands
    for name, band in wanted.items():
        np.testing.assert_array_equal(found[name], band, err_msg=name)


@given(
    bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
    mean=st.floats(-1e3, 1e3, width=32),
    std=st.floats(2**-10, 2**10, width=32),
)
def test_narrow_features_are_what_torch_rounds_to(bits: list[int], mean: float, std: float) -> None:
    features = np.array(bits, np.uint32).view(np.float32).reshape(1, 1, -1)
    with np.errstate(all="ignore"):
        plain = (torch.from_numpy(features) - mean) / torch.tensor(std)
    wanted = plain.to(torch.bfloat16)
    found = torch.from_numpy(narrow(features, ([mean], [std])).view(np.int16)).view(torch.bfloat16)
    finite = torch.isfinite(plain)
    assert torch.equal(found[finite], wanted[finite])
    assert torch.isnan(found[~finite]).all()


def test_an_actor_takes_narrow_features_only_where_they_change_nothing() -> None:
    for precision, model in (("bf16", OnDevice(9, precision="bf16")), ("fp32", OnDevice(9)), ("", toy())):
        standard = asyncio.run(actor_of(model).wire())
        assert (standard is not None) == (precision == "bf16")
    assert actor_of(toy(precision="bf16")).predict(features_on(OUTER), OUTER.row, OUTER.col, BLOCK)


def test_a_gpu_that_others_share_gets_its_batch_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = toy("cryonet")
    model.device = torch.device("cuda")
    monkeypatch.setenv("CRYOSCALE_GPU_BATCH", "7")
    assert actor_of(model)._tiling.batch == 7
    monkeypatch.setenv("CRYOSCALE_GPU_BATCH", "many")
    with pytest.raises(ConfigError, match="CRYOSCALE_GPU_BATCH=many; expected a number of tiles"):
        actor_of(model)


@pytest.mark.parametrize("near", [True, False])
def test_a_task_gives_what_the_actor_takes_by_hand_or_sends_it(
    monkeypatch: pytest.MonkeyPatch, near: bool
) -> None:
    served, sent = actor_of(OnDevice(9, precision="bf16"), batch=4), list[Any]()
    loop = asyncio.new_event_loop()

    def call(ref: ActorRef, method: str, *given: Any, deadline_s: float) -> Any:
        if method == "serve":
            sent.append(given[0])
            return served.serve(*given)
        if method == "reaches" and not near:
            given = (replace(given[0], process=2**22 + 1),)  # as another machine would find it
        return loop.run_until_complete(getattr(served, method)(*given))

    monkeypatch.setattr(calling, "call_actor", call)
    array, where = features_on(OUTER), ActorRef("tcp://nowhere", f"near {near}")
    bands, _ = calling.predict_on(where, array, OUTER, BLOCK, deadline_s=1.0)
    loop.close()
    assert isinstance(sent[0], Handed if near else np.ndarray)
    assert (np.dtype(sent[0].dtype), sent[0].shape) == (np.uint16, array.shape)
    for name, band in served.predict(array, OUTER.row, OUTER.col, BLOCK).items():
        np.testing.assert_array_equal(bands[name], band)


def test_memory_that_an_actor_may_still_read_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Handed] = []

    def call(ref: ActorRef, method: str, *given: Any, deadline_s: float) -> Any:
        if method == "serve":
            handed.append(given[0])
            raise ActorSilentError("silent")
        return {"wire": ((0.0,) * 3, (1.0,) * 3), "reaches": True, "admit": 1}[method]

    monkeypatch.setattr(calling, "call_actor", call)
    for _ in range(2):
        where = ActorRef("tcp://nowhere", "silent")
        with pytest.raises(ActorSilentError):
            calling.predict_on(where, features_on(OUTER), OUTER, BLOCK, deadline_s=1.0)
    assert handed[0].token != handed[1].token


# --- blending and encoding -----------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    tile_px=st.integers(3, 24),
    overlap=st.sampled_from([0.0, 0.125, 0.3, 0.5, 0.75, 0.9]),
    at=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
def test_rows_merged_as_they_come_are_the_running_mean_of_tiles_in_order(
    tile_px: int, overlap: float, at: tuple[int, int], shape: tuple[int, int], seed: int
) -> None:
    window, generator = Window(EPSG, *at, *shape), np.random.default_rng(seed)
    stride = stride_px(tile_px, overlap)
    rows = tile_origins(at[0], at[0] + shape[0], tile_px, stride)
    cols = tile_origins(at[1], at[1] + shape[1], tile_px, stride)
    valid = generator.random(shape) < 0.9
    blender = Blender(window, 3, tile_px)
    merger = Merger(window, Tiling(tile_px, overlap), 3, torch.from_numpy(valid), PLAIN)
    for number, row in enumerate(rows):
        raw = generator.random((len(cols), tile_px, tile_px, 3)).astype(np.float32) ** 4
        tiles = raw / raw.sum(axis=-1, keepdims=True)
        merger.put(number, 0, torch.from_numpy(tiles))
        for tile, col in zip(tiles, cols, strict=True):
            blender.add(np.ascontiguousarray(tile.transpose(2, 0, 1)), row, col)
    mean, disagreement = blender.result()
    mean[:, ~valid] = disagreement[~valid] = np.nan
    bands, misfit = merger.result()
    assert not misfit
    found = {name: band.numpy() for name, band in bands.items()}
    assert_alike(found, encode(mean, disagreement), few=max(0.01, 4 / found["probability"].size))


def test_equal_tiles_merge_to_themselves_without_disagreement() -> None:
    window, share = Window(EPSG, -9, 4, 30, 25), torch.tensor([0.7, 0.2, 0.1])
    merger = Merger(window, Tiling(10, 0.7), 3, torch.ones(window.shape, dtype=torch.bool), PLAIN)
    rows, cols = (tile_origins(a, a + n, 10, 3) for a, n in ((-9, 30), (4, 25)))
    for row in range(len(rows)):
        merger.put(row, 0, share.expand(len(cols), 10, 10, 3))
    bands, _ = merger.result()
    assert (bands["probability"] == encode_share(share)[:, None, None]).all()
    assert (bands["disagreement"] == 0).all()


def test_a_curve_is_read_off_as_numpy_reads_it() -> None:
    x, y = [0.1, 0.4, 0.4001, 0.9], [0.2, 0.3, 0.7, 0.95]
    at = np.concatenate([np.linspace(0, 1, 501), x]).astype(np.float32)
    found = Curve(x, y, torch.device("cpu"))(torch.from_numpy(at))
    np.testing.assert_allclose(found, np.interp(at, x, y), atol=1e-6)
    np.testing.assert_allclose(Curve(x[:1], y[:1], torch.device("cpu"))(torch.from_numpy(at)), y[0])


# --- on an actor ---------------------------------------------------------------------------------


class OnDevice:
    """A predictor that wants its tiles kept on its device, which holds only so many of them."""

    on_device = True

    def __init__(self, holds: int, raises: Any = None, precision: str = "fp32") -> None:
        self.inner, self.batches = toy(precision=precision), list[int]()
        self.holds, self.raises = holds, raises

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def serve(self, batch: int, tile_px: int) -> Served:
        self.batches.append(batch)
        if batch <= self.holds:
            return self.inner.serve(batch, tile_px)
        if self.raises is None:
            raise torch.OutOfMemoryError("out of memory")
        try:
            raise torch.OutOfMemoryError("out of memory")
        except RuntimeError:
            raise self.raises  # noqa: B904 - as the end of a capture does


BLOCK = Window(EPSG, -64, 64, 128, 128)
OUTER = read_window(BLOCK, 64, 0.5)


def actor_of(model: Any, **options: Any) -> ModelActor:
    return ModelActor({}, 64, 0.5, load=lambda: model, **options)


@pytest.mark.parametrize("raises", [None, RuntimeError("capture was invalidated")])
def test_a_device_without_room_for_the_batch_gets_half_of_it_for_good(raises: Any) -> None:
    model = OnDevice(holds=3, raises=raises)
    made = actor_of(model, batch=16)
    bands = made.predict(features_on(OUTER), OUTER.row, OUTER.col, BLOCK)
    # 25 tiles: two batches of 13, four of 7, seven of 4, thirteen of 2
    assert model.batches == [13, 7, 4, 2]
    made.predict(features_on(OUTER), OUTER.row, OUTER.col, BLOCK)
    assert model.batches == [13, 7, 4, 2]
    told, stats = made.describe(), made.stats()
    assert (told["batch"], told["tiles_on_device"], stats["memory_retries"]) == (2, True, 3)
    assert (stats["blocks"], stats["tiles"], stats["pixels"]) == (2, 50, 2 * 128 * 128)
    plain = actor_of(toy()).predict(features_on(OUTER), OUTER.row, OUTER.col, BLOCK)
    assert_alike(bands, plain)


def test_a_device_without_room_for_one_tile_is_an_error_for_the_operator() -> None:
    with pytest.raises(OperatorError, match="no memory on the device for one tile of 64 px"):
        actor_of(OnDevice(holds=0), batch=2).predict(features_on(OUTER), OUTER.row, OUTER.col, BLOCK)


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("out of memory"))
    assert is_out_of_memory(MemoryError())


def test_a_cpu_maps_by_numpy_as_ever() -> None:
    assert not toy().on_device
    assert actor_of(toy()).describe()["tiles_on_device"] is False


def test_bf16_on_the_device_is_near_float32() -> None:
    block = carried(features_on(OUTER), OUTER)
    found, wanted = (
        DeviceEngine(toy(precision=name), Tiling(64, 0.5, 4), PLAIN).predict(block, BLOCK).bands
        for name in ("bf16", "fp32")
    )
    apart = np.abs(found["probability"].astype(int) - wanted["probability"].astype(int))
    assert 0 < apart.max() < 10
    assert isinstance(toy(), Predictor)
    assert isinstance(DeviceEngine(toy(), Tiling(64), PLAIN).predict(block, BLOCK), Mapped)
