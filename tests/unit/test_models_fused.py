"""CryoNet with its maps read and written rarely: the same numbers as the network as it is written down."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cryoscale.errors import InputError
from cryoscale.models import fused
from cryoscale.models.cryonet import CryoNet
from cryoscale.models.fold import fold_batch_norms
from cryoscale.models.fused import FusedCryoNet
from cryoscale.models.serving import Network, Served
from tests.toy_networks import stirred, toy


def drawn(in_channels: int, classes: int, encoder: str, widths: tuple[int, ...]) -> CryoNet:
    torch.manual_seed(5)
    net = stirred(CryoNet(in_channels, classes, encoder, widths))
    for name, module in net.named_modules():
        if name.endswith("bn3"):  # or the answers of a deep drawn network grow beyond what rounding allows
            module.weight.data.mul_(0.2)
    assert isinstance(net, CryoNet)
    return net


@pytest.mark.parametrize(
    ("in_channels", "classes", "encoder", "widths"),
    [
        (3, 4, "resnet10w16", (16,) * 5),
        (30, 5, "resnet50", (64, 48, 32, 16, 16)),
        (8, 8, "resnet18w24", (32,) * 5),
    ],
)
@torch.inference_mode()
def test_the_fused_network_answers_as_the_network(
    in_channels: int, classes: int, encoder: str, widths: tuple[int, ...]
) -> None:
    net = drawn(in_channels, classes, encoder, widths)
    x = torch.randn(2, in_channels, 64, 96)
    wanted = torch.softmax(net(x) / 1.5, dim=1)
    made = FusedCryoNet(fold_batch_norms(net, torch.randn(1, in_channels, 64, 64)), torch.float32)
    assert (made.filled % 8, made.filled - in_channels < 8) == (0, True)
    filled = F.pad(x, (0, 0, 0, 0, 0, made.filled - in_channels)).contiguous(
        memory_format=torch.channels_last
    )
    found = made.probabilities(made(filled), 1.5)
    assert found.shape == (2, 64, 96, classes)
    np.testing.assert_allclose(found.permute(0, 3, 1, 2), wanted, atol=1e-4)


@torch.inference_mode()
def test_a_network_with_a_hundred_layers_is_folded_all_the_same() -> None:
    # drawn weights make logits of some hundreds here, and roundings of float32 to match
    net = stirred(CryoNet(30, 5, "resnet50", (64, 48, 32, 16, 16)))
    folded = fold_batch_norms(net, torch.randn(1, 30, 64, 64))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.float32}


@torch.inference_mode()
def test_served_in_bf16_it_is_near_the_network_in_float32_and_takes_its_channels_alone() -> None:
    model = toy("cryonet")
    network = Network.of(model.model, 3, model.card.temperature, "bf16-fused", False)
    served = Served(network, 2, 64)
    assert (served.tiles.shape, served.tiles.dtype) == ((2, 64, 64, 8), torch.bfloat16)
    x = torch.randn(2, 3, 64, 64)
    served.tiles[..., :3] = x.permute(0, 2, 3, 1)
    wanted = torch.softmax(model.model(x) / model.card.temperature, 1).permute(0, 2, 3, 1)
    np.testing.assert_allclose(served.run(), wanted, atol=0.05)
    np.testing.assert_allclose(served.run(), wanted, rtol=0, atol=0.05)


def test_another_network_and_one_that_does_not_fold_are_refused() -> None:
    with pytest.raises(InputError, match="bf16-fused for a Convs; expected a CryoNet"):
        FusedCryoNet(toy("convs").model, torch.bfloat16)
    with pytest.raises(InputError, match="norms that follow their convolutions"):
        FusedCryoNet(drawn(3, 4, "resnet10w16", (16,) * 5), torch.bfloat16)


def test_on_a_cpu_the_fused_form_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InputError, match="bf16-fused on cpu; expected a GPU"):
        toy("cryonet", precision="bf16-fused")


INTERPRETED = """
import torch
from cryoscale.models import gates, triton_gates as kernels, triton_means as means

torch.manual_seed(0)


def drawn(*shape):
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def near(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


for n, c, h, w in ((2, 24, 8, 12), (1, 64, 32, 32), (2, 200, 4, 4), (1, 16, 64, 64)):
    x, other, bias = drawn(n, c, h, w), drawn(n, c, h, w), torch.randn(c)
    pixel, channel = gates.PixelGate(torch.randn(c) / 5, torch.randn(1)), torch.randn(n, c)
    near(means.mean(x, None), gates.mean(x))
    near(means.mean(x, bias), gates.mean(x, bias))
    near(kernels.rectify_(x.clone(), bias, None), gates.rectify_(x.clone(), bias))
    near(kernels.rectify_(x.clone(), bias, other), gates.rectify_(x.clone(), bias, other))
    near(kernels.attend(x, bias, pixel.weight, pixel.offset, channel), gates.attend(x, bias, pixel, channel))
    near(kernels.rectified_pool(x.clone(), bias), gates.rectified_pool(x.clone(), bias))
    near(kernels.double(x), gates.double(x))
for n, low, skips, h, w in ((2, 40, [24], 4, 6), (1, 128, [64] * 4, 8, 8), (2, 16, [72, 16], 16, 8)):
    a, parts = drawn(n, low, h, w), [drawn(n, count, 2 * h, 2 * w) for count in skips]
    total = low + sum(skips)
    pixel = gates.PixelGate(torch.randn(total) / 5, torch.randn(1))
    for channel in (torch.randn(n, total), torch.randn(n, 2, 3, total), torch.randn(n, 1, 2, total)):
        found = kernels.join(a, parts, pixel.weight, pixel.offset, channel)
        near(found, gates.join(a, parts, pixel, channel))
# cells that part pixels, that do not, and that are many; a single neighbourhood in one direction
for n, c, h, w, cells in (
    (2, 24, 12, 8, (3, 2)), (1, 200, 11, 22, (3, 5)), (1, 16, 40, 70, (4, 7)), (2, 8, 13, 5, (2, 3)),
):
    x, bias = drawn(n, c, h, w), torch.randn(c)
    for given in (None, bias):
        for doubled in (False, True):
            wanted = gates.mean(x, given, cells, doubled=doubled)
            assert wanted.shape == (n, cells[0] - 1, cells[1] - 1, c)
            near(means.mean_by_place(x, given, cells, 2 if doubled else 1), wanted)
    pixel = gates.PixelGate(torch.randn(c) / 5, torch.randn(1))
    channel = torch.randn(n, cells[0] - 1, cells[1] - 1, c)
    found = kernels.attend_by_place(x, bias, pixel.weight, pixel.offset, channel)
    near(found, gates.attend(x, bias, pixel, channel, cells)[0])
logits, bias = drawn(2, 8, 8, 16), torch.randn(8)
near(kernels.softmax(logits, bias, 5, 1.5), gates.softmax(logits, bias, 5, 1.5))
"""


def test_the_kernels_answer_as_the_steps_in_tritons_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton comes with torch for GPUs")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, check=True)


def test_a_gpu_that_chooses_for_itself_takes_the_kernels_for_a_cryonet_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(precision: str, device: torch.device) -> str:
        return "bf16" if precision == "auto" else precision

    monkeypatch.setattr("cryoscale.models.predictor.choose_precision", chosen)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    fused._can_build.cache_clear()
    assert toy("cryonet", precision="auto").precision == "bf16-fused"
    assert toy("cryonet", precision="bf16").precision == "bf16"
    assert toy("convs", precision="auto").precision == "bf16"
    fused._can_build.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert toy("cryonet", precision="auto").precision == "bf16"


def test_where_no_kernel_can_be_built_a_gpu_takes_bf16_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_compiler(low: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    monkeypatch.setattr("cryoscale.models.predictor.choose_precision", lambda *given: "bf16")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("cryoscale.models.gates.double", without_compiler)
    fused._can_build.cache_clear()
    assert toy("cryonet", precision="auto").precision == "bf16"
    fused._can_build.cache_clear()
    assert "bf16 runs as torch has it: Failed to find C compiler." in caplog.text
