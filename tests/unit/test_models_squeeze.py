"""Gates of tiles larger than those that a network learns from: by neighbourhoods of that size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cryoscale.errors import InputError
from cryoscale.models.cryonet import CryoNet, ScSE, spread, squeeze, squeeze_cells
from cryoscale.models.fold import fold_batch_norms
from cryoscale.models.fused import FusedCryoNet
from cryoscale.models.openvino import OpenVinoNetwork
from tests.toy_networks import stirred

LIGHT = {"encoder": "resnet10w16", "decoder_channels": (64, 32, 16, 16, 16)}


def gate_of(px: int, channels: int = 32) -> ScSE:
    torch.manual_seed(3)
    gate = ScSE(channels, px).eval()
    gate.cSE[1].weight.data.abs_()  # or, by chance, no unit of the hidden layer is awake
    return gate


def channel_gate(gate: ScSE, x: torch.Tensor) -> torch.Tensor:
    """What channels of ``x`` are scaled by: that of pixels is known, and taken off."""
    return gate(x) / x - gate.sSE(x)


@torch.inference_mode()
def test_up_to_a_quarter_above_what_it_learns_from_the_gate_is_the_studys() -> None:
    gate = gate_of(64)
    for size in ((64, 64), (32, 64), (80, 80), (48, 80)):
        x = torch.rand(2, 32, *size) + 0.5
        assert torch.equal(gate(x), x * gate.cSE(x) + x * gate.sSE(x))
    x = torch.rand(2, 32, 96, 64) + 0.5
    x[..., 48:, :] *= 3.0
    assert not torch.allclose(gate(x), x * gate.cSE(x) + x * gate.sSE(x))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(128, 128), (256, 192), (96, 64)])
def test_in_the_middle_of_a_neighbourhood_the_gate_is_that_of_the_tile_cut_out_there(
    size: tuple[int, int],
) -> None:
    gate = gate_of(64)
    x = torch.rand(1, 32, *size) + 0.5
    found = channel_gate(gate, x)
    for top in range(0, size[0] - 63, 32):
        for left in range(0, size[1] - 63, 32):
            wanted = gate.cSE(x[..., top : top + 64, left : left + 64])
            around = found[..., top + 31 : top + 33, left + 31 : left + 33].mean((-1, -2), keepdim=True)
            torch.testing.assert_close(around, wanted, atol=5e-4, rtol=0)  # of a gate that moves by 1e-2


@torch.inference_mode()
def test_what_is_far_away_does_not_gate() -> None:
    gate = gate_of(64)
    x = torch.rand(1, 32, 256, 256) + 0.5
    other = x.clone()
    other[..., 128:, 128:] *= 3.0
    same = gate(x) == gate(other)
    assert same[..., :96, :96].all()
    assert not same[..., 120:128, 120:128].all(), "near by it does"
    assert not same[..., 128:, 128:].any()


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_spread_is_linear_between_the_middles_and_held_to_the_rim(
    rows: int, cols: int, by: int, seed: int
) -> None:
    """Against numpy, which interpolates in one direction and then in the other."""
    drawn = np.random.default_rng(seed).random((rows, cols), np.float32)
    height, width = 8 * by * (rows + 1), 8 * by * (cols + 1)

    def along(values: np.ndarray, length: int) -> np.ndarray:
        held = np.pad(values, 1, mode="edge")
        return np.interp(np.linspace(0, len(held) - 1, length), np.arange(len(held)), held)

    wanted = np.apply_along_axis(along, 0, drawn, height)
    wanted = np.apply_along_axis(along, 1, wanted, width)
    found = spread(torch.from_numpy(drawn)[None, None], (height, width))
    np.testing.assert_allclose(found[0, 0], wanted, atol=1e-4)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 8))
def test_neighbourhoods_cover_a_tile_and_none_is_far_from_what_was_learnt(
    down: int, across: int, of: int
) -> None:
    size, px = (32 * down, 32 * across), 32 * of
    cells = squeeze_cells(size, px)
    x = torch.arange(float(size[0] * size[1])).view(1, 1, *size)
    if cells is None:
        assert max(size) <= 1.25 * px
        return
    for length, count in zip(size, cells, strict=True):
        edge = 2 * length / count
        assert edge <= 1.25 * px
        assert edge >= 0.8 * px or count == 2, "smaller ones are whole"
    means = squeeze(x, cells)
    assert means.shape[-2:] == (cells[0] - 1, cells[1] - 1)
    if not any(length % count for length, count in zip(size, cells, strict=True)):
        torch.testing.assert_close(means.mean(), x.mean(), rtol=1e-4, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("size", "px"),
    [((128, 192), 64), ((96, 64), 64), ((160, 352), 64), ((160, 224), 96)],  # the last parts pixels
)
def test_fused_and_by_openvino_the_network_answers_as_it_is_written(size: tuple[int, int], px: int) -> None:
    torch.manual_seed(5)
    net = stirred(CryoNet(8, 5, **LIGHT, squeeze_px=px))
    x = torch.randn(2, 8, *size)
    wanted = torch.softmax(net(x), dim=1)
    whole = stirred(CryoNet(8, 5, **LIGHT, squeeze_px=1024))
    whole.load_state_dict(net.state_dict())
    assert (torch.softmax(whole(x), dim=1) - wanted).abs().max() > 1e-3, (
        "it shows over how much ground it looks"
    )

    made = FusedCryoNet(fold_batch_norms(net, torch.randn(1, 8, 64, 64)), torch.float32)
    found = made.probabilities(made(x.contiguous(memory_format=torch.channels_last)), 1.0)
    np.testing.assert_allclose(found.permute(0, 3, 1, 2), wanted, atol=1e-4)
    by_openvino = OpenVinoNetwork(net, "fp32")
    answers = torch.cat([by_openvino(one[None]) for one in x])
    np.testing.assert_allclose(torch.softmax(answers, dim=1), wanted, atol=1e-4)


@torch.inference_mode()
def test_in_bf16_it_is_near() -> None:
    torch.manual_seed(5)
    net = stirred(CryoNet(8, 5, **LIGHT, squeeze_px=64))
    x = torch.randn(1, 8, 128, 192).contiguous(memory_format=torch.channels_last)
    made = FusedCryoNet(fold_batch_norms(net, torch.randn(1, 8, 64, 64)), torch.bfloat16)
    found = made.probabilities(made(x.bfloat16()), 1.0)
    wanted = F.softmax(net(x), dim=1).permute(0, 2, 3, 1)
    assert (found - wanted).abs().mean() < 0.02


@pytest.mark.parametrize("px", [0, 16, 100, -32])
def test_a_neighbourhood_that_no_map_of_the_decoder_can_have_is_refused(px: int) -> None:
    with pytest.raises(InputError, match=f"squeeze_px {px}; expected a multiple of 32"):
        CryoNet(**LIGHT, squeeze_px=px)
