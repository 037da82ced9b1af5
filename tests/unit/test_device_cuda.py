"""What is particular to a GPU: streams, page-locked memory, graphs. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryoscale.bench.network import predictor_of
from cryoscale.features.packing import HALO_PX
from cryoscale.features.stack import CHANNELS, pack_inputs
from cryoscale.grid import Window
from cryoscale.infer.actor import GPU_BATCH, ModelActor
from cryoscale.infer.arrays import ArrayEngine
from cryoscale.infer.derive import Deriver
from cryoscale.infer.device import DeviceEngine
from cryoscale.infer.encode import Confidence
from cryoscale.infer.merge import Merger
from cryoscale.infer.predict import Carried, Tiling
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.infer.wire import narrow
from cryoscale.models import gates
from cryoscale.models.serving import Served
from tests.toy_networks import toy
from tests.unit.test_features_packing import BASIS
from tests.unit.test_infer_derive import scene
from tests.unit.test_infer_device import BLOCK, OUTER, assert_alike, carried, features_on

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"),
]
PLAIN = Confidence()


@pytest.mark.parametrize("kind", ["convs", "cryonet", "glavitu"])
def test_a_network_is_captured_and_replayed_with_the_answer_of_its_predictor(kind: str) -> None:
    model = toy(kind, device="cuda")
    served = model.serve(4, 64)
    assert served.captured
    features = features_on(Window(32645, 0, 0, 64, 64))
    codes = (np.full((1, 4), 0.5, np.float32),) if kind == "glavitu" else ()
    mean, std = (of.cpu().numpy() for of in model.standard)
    served.tiles[2] = torch.from_numpy(np.nan_to_num((features - mean) / std).transpose(1, 2, 0)).cuda()
    if served.codes is not None:
        served.codes[2] = 0.5
    found = served.run()[2].permute(2, 0, 1).cpu().numpy()
    np.testing.assert_allclose(found, model(features[None], *codes)[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["cryonet", "glavitu"])
def test_a_block_on_the_gpu_has_the_bytes_of_the_cpu(kind: str) -> None:
    block = carried(features_on(OUTER), OUTER)
    wanted = ArrayEngine(toy(kind), Tiling(64, 0.5, 1), PLAIN).predict(block, BLOCK)
    model = toy(kind, device="cuda")
    assert model.on_device
    engine = DeviceEngine(model, Tiling(64, 0.5, 4), PLAIN)
    found = engine.predict(block, BLOCK)
    assert_alike(found.bands, wanted.bands, few=0.02)
    assert found.tiles == wanted.tiles
    again = engine.predict(block, BLOCK)
    for name, band in found.bands.items():
        np.testing.assert_array_equal(again.bands[name], band, err_msg=name)


@pytest.mark.parametrize("precision", ["bf16", "bf16-fused", "bf16-compiled"])
def test_a_large_block_gives_the_same_bytes_each_time_and_in_either_form(precision: str) -> None:
    window = Window(32645, -512, 256, 512, 512)
    extent = read_window(window, 64, 0.5)
    model = toy("cryonet", device="cuda", precision=precision)
    engine = DeviceEngine(model, Tiling(64, 0.5, 32), PLAIN)
    assert engine.wire is not None
    array = features_on(extent)
    wanted = engine.predict(carried(array, extent), window).bands
    for form in (array, narrow(array, engine.wire)):
        found = engine.predict(carried(form, extent), window).bands
        for name, band in wanted.items():
            np.testing.assert_array_equal(found[name], band, err_msg=name)
    exact = DeviceEngine(toy("cryonet", device="cuda"), Tiling(64, 0.5, 32), PLAIN)
    plain = exact.predict(carried(array, extent), window).bands
    alike = (plain["label"] == wanted["label"])[plain["label"] != 255].mean()
    assert alike > 0.95  # drawn weights are unsure everywhere; trained ones pass the gate at 0.995


def test_channels_made_on_a_gpu_are_those_made_on_a_cpu() -> None:
    packed = pack_inputs(scene(300, 400), CHANNELS, pca=BASIS)
    numbers = torch.from_numpy(packed.numbers.view(np.int16))
    found = Deriver(packed.recipe, torch.device("cuda"))(numbers.cuda()).cpu().numpy()
    wanted = Deriver(packed.recipe, torch.device("cpu"))(numbers).numpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found, wanted, rtol=4 * np.finfo(np.float32).eps, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "bf16-fused"])
def test_a_large_block_of_numbers_is_mapped_as_its_channels_are(precision: str) -> None:
    window = Window(32645, -512, 256, 512, 512)
    extent = read_window(window, 64, 0.5)
    model = toy("cryonet", device="cuda", precision=precision)
    packed = pack_inputs(scene(*extent.pad(HALO_PX).shape), model.channels, pca=None)
    numbers = torch.from_numpy(packed.numbers.view(np.int16))
    features = Deriver(packed.recipe, torch.device("cpu"))(numbers).numpy()
    engine = DeviceEngine(model, Tiling(64, 0.5, 32), PLAIN)
    sent = Carried(packed.numbers, extent.pad(HALO_PX), range(3), (0, 1), packed.recipe)
    wanted = engine.predict(carried(features, extent), window).bands
    found = engine.predict(sent, window).bands
    assert_alike(found, wanted, few=0.02)
    for _ in range(3):  # a strip that was read too early would not be so each time
        again = engine.predict(sent, window).bands
        for name, band in found.items():
            np.testing.assert_array_equal(again[name], band, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_between_convolutions_answer_as_the_steps_on_a_cpu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)

    def drawn(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        host = torch.randn(*shape).to(dtype).contiguous(memory_format=torch.channels_last)
        return host, host.cuda()

    def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
        near = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(found.cpu(), wanted, rtol=near, atol=near)

    for n, c, h, w in ((2, 24, 8, 12), (3, 64, 128, 128), (2, 512, 32, 32), (1, 2048, 8, 8)):
        (x, gpu_x), (other, gpu_other) = drawn(n, c, h, w), drawn(n, c, h, w)
        bias, channel = torch.randn(c), torch.randn(n, c).to(dtype)
        gpu_bias, gpu_channel = bias.cuda(), channel.cuda()
        same(gates.mean(gpu_x, gpu_bias), gates.mean(x, bias))
        same(gates.rectify_(gpu_x.clone(), gpu_bias, gpu_other), gates.rectify_(x.clone(), bias, other))
        same(gates.double(gpu_x), gates.double(x))
        found, wanted = gates.rectified_pool(gpu_x.clone(), gpu_bias), gates.rectified_pool(x.clone(), bias)
        same(found[1], wanted[1])
        if c <= 512:
            pixel = gates.PixelGate(torch.randn(c) / 10, torch.randn(1))
            gpu_pixel = gates.PixelGate(pixel.weight.cuda(), pixel.offset.cuda())
            got = gates.attend(gpu_x, gpu_bias, gpu_pixel, gpu_channel)
            for ours, theirs in zip(got, gates.attend(x, bias, pixel, channel), strict=True):
                same(ours, theirs)
    for low, skips, h in ((40, [24], 6), (64, [64] * 4, 64), (2048, [1024], 8), (16, [72, 16], 16)):
        (a, gpu_a), parts = drawn(2, low, h, h), [drawn(2, count, 2 * h, 2 * h) for count in skips]
        total = low + sum(skips)
        pixel, channel = (
            gates.PixelGate(torch.randn(total) / 20, torch.randn(1)),
            torch.randn(2, total).to(dtype),
        )
        gpu_pixel = gates.PixelGate(pixel.weight.cuda(), pixel.offset.cuda())
        for of in (channel, channel[:, None, None] * torch.tensor([[1.0, 2.0, 0.5]]).to(dtype)[..., None]):
            found = gates.join(gpu_a, [part for _, part in parts], gpu_pixel, of.contiguous().cuda())
            same(found, gates.join(a, [part for part, _ in parts], pixel, of))
    for n, c, h, w, cells in ((2, 64, 192, 192, (3, 3)), (1, 2048, 11, 22, (3, 5)), (3, 16, 352, 64, (4, 2))):
        x, gpu_x = drawn(n, c, h, w)
        bias = torch.randn(c)
        for doubled in (False, True):
            found = gates.mean(gpu_x, bias.cuda(), cells, doubled=doubled)
            same(found, gates.mean(x, bias, cells, doubled=doubled))
        if c <= 512:
            pixel = gates.PixelGate(torch.randn(c) / 10, torch.randn(1))
            gpu_pixel = gates.PixelGate(pixel.weight.cuda(), pixel.offset.cuda())
            channel = torch.randn(n, cells[0] - 1, cells[1] - 1, c).to(dtype)
            got = gates.attend(gpu_x, bias.cuda(), gpu_pixel, channel.cuda(), cells)
            for ours, theirs in zip(got, gates.attend(x, bias, pixel, channel, cells), strict=True):
                same(ours, theirs)
    logits, gpu_logits = drawn(2, 8, 64, 64)
    bias = torch.randn(8)
    same(gates.softmax(gpu_logits, bias.cuda(), 5, 1.5), gates.softmax(logits, bias, 5, 1.5))


@pytest.mark.parametrize(
    ("tile_px", "overlap", "kind"), [(64, 0.5, "entropy"), (40, 0.7, "max"), (32, 0.0, "entropy")]
)
def test_a_row_is_finished_by_the_kernel_as_by_the_steps(tile_px: int, overlap: float, kind: str) -> None:
    window = Window(32645, -37, 411, 300, 333)
    stride = stride_px(tile_px, overlap)
    rows = tile_origins(window.row, window.row + window.height, tile_px, stride)
    cols = tile_origins(window.col, window.col + window.width, tile_px, stride)
    rng = np.random.default_rng(3)
    valid = torch.from_numpy(rng.random(window.shape) > 0.2)
    on = [
        Merger(window, Tiling(tile_px, overlap), 5, valid.to(device), Confidence(kind))
        for device in ("cpu", "cuda")
    ]
    for row in range(len(rows)):
        drawn = rng.random((len(cols), tile_px, tile_px, 5), np.float32) ** 4
        tiles = torch.from_numpy(drawn / drawn.sum(axis=-1, keepdims=True))
        for merger in on:
            merger.put(row, 0, tiles.to(merger._valid.device))
    (wanted, fine), (found, also) = (merger.result() for merger in on)
    assert (bool(fine), bool(also)) == (False, False)
    assert_alike(
        {n: b.cpu().numpy() for n, b in found.items()}, {n: b.numpy() for n, b in wanted.items()}, few=0.001
    )


def test_memory_that_runs_out_halves_the_batch_and_the_map_is_the_same() -> None:
    model = toy("cryonet", device="cuda")
    window = Window(32645, 0, 0, 1024, 1024)  # whose 1,089 tiles want 8 GB at once
    extent = read_window(window, 64, 0.5)
    block = (features_on(extent), extent.row, extent.col, window)
    wanted = ModelActor({}, 64, 0.5, batch=64, load=lambda: model).predict(*block)
    _, whole = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2e9 / whole))
    try:
        actor = ModelActor({}, 64, 0.5, batch=4096, load=lambda: model)
        found = actor.predict(*block)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert actor.stats()["memory_retries"] > 0
    assert_alike(found, wanted, few=0.02)


@pytest.mark.parametrize("precision", ["bf16", "bf16-fused"])
def test_the_papers_network_is_captured_at_the_batch_of_a_gpu(precision: str) -> None:
    served = predictor_of("cryonet", device="cuda", precision=precision).serve(GPU_BATCH, 256)
    assert isinstance(served, Served)
    assert served.captured
    assert torch.isfinite(served.run()).all()
