"""GlaViTU: its size by hand, its symmetries, what it answers when, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cryoscale.errors import InputError
from cryoscale.features.channels import MODALITIES as MODALITY_BITS
from cryoscale.features.channels import TABLE
from cryoscale.models.glavitu import MODALITIES, SETR, Block, GlaViTU

SMALL: dict[str, Any] = {
    "in_channels": 5,
    "classes": 3,
    "width": 8,
    "blocks": 2,
    "heads": 2,
    "mlp": 12,
    "steps": 2,
    "tile_px": 32,
}


def a_net(**changes: Any) -> GlaViTU:
    """A small network whose batch norms are as after training, not the ones and zeros of the start."""
    torch.manual_seed(0)
    net = GlaViTU(**{**SMALL, **changes})
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalities", "blocks", "location", "deep"),
    [((23, 1, 3, 1, 2), 12, False, True), ((23, 1, 3, 1, 2), 12, True, False)],
)
def test_the_published_size_has_as_many_parameters_as_counted_by_hand(
    modalities: tuple[int, ...], blocks: int, location: bool, deep: bool
) -> None:
    w, mlp, grid, k = 64, 256, 384 // 16, 5

    def convs(a: int, b: int) -> int:  # two 3x3 without bias, each with the two vectors of a batch norm
        return 9 * a * b + 9 * b * b + 2 * 2 * b

    fusion = sum(convs(c, w) + 2 * (w * w + w) for c in modalities)
    embedding = 16 * 16 * w * w + w + w * grid * grid
    attention = 2 * w + (3 * w * w + 3 * w) + (w * w + w)
    perceptron = 2 * w + (w * mlp + mlp) + (mlp * w + w)
    doublings = 4 * (9 * w * w + 2 * w)
    setr = embedding + blocks * (attention + perceptron) + doublings
    down = sum(convs(a, b) + a * b for a, b in ((w, w), (w, 128), (128, 256), (256, 512)))
    up = sum(4 * a * b + 2 * b + convs(2 * b, b) + 2 * b * b for a, b in ((512, 256), (256, 128), (128, w)))
    unet = down + up + (w * w + w)
    place = (4 * w + w) + (w * w + w) if location else 0
    heads = (1 + deep) * (w * k + k)
    with torch.device("meta"):
        net = GlaViTU(location=location, deep_supervision=deep)
    assert sum(p.numel() for p in net.parameters()) == fusion + setr + unet + place + heads


def test_the_modalities_of_the_stack_are_those_of_the_table_of_channels() -> None:
    by_name = {name: tuple(i for i, c in enumerate(TABLE) if c.modality == name) for name in MODALITY_BITS}
    assert tuple(map(tuple, MODALITIES)) == tuple(by_name.values())


# --- what it computes ---------------------------------------------------------------------------


def test_a_mirrored_network_answers_a_mirrored_tile_with_the_mirrored_map() -> None:
    net, mirrored, x = a_net(), a_net(), noise(1, 5, 48, 64)
    for module in mirrored.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.flip(3)
    mirrored.encoder.places.data = mirrored.encoder.places.data.flip(3)
    with torch.inference_mode():
        expected, found = net(x).flip(3), mirrored(x.flip(3))
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (net(x) - net(x.flip(3)).flip(3)).abs().max() > 0.01  # and an unmirrored one does not


def test_without_places_tokens_in_another_order_come_out_in_that_order() -> None:
    torch.manual_seed(0)
    block, tokens, order = Block(8, 2, 12, 0.1).eval(), noise(2, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(block(tokens[:, order]), block(tokens)[:, order])


def test_every_pixel_of_a_tile_bears_on_every_other_through_the_transformer() -> None:
    setr, x = a_net().encoder, noise(1, 8, 64, 64).requires_grad_()
    setr(x)[0, 0, 0, 0].backward()
    assert (x.grad.abs().sum(1) > 0).all()


def test_the_way_back_to_pixels_keeps_a_slope_in_its_place() -> None:
    """Doubling between pixel centres is exact on a slope, up to the rim; between corners it stretches it."""
    setr = SETR(2, 1, 1, 4, grid=8, dropout=0.0).eval()
    for parameter in setr.parameters():
        parameter.data.zero_()
    for channel in range(2):
        setr.embed.weight.data[channel, channel] = 1 / 256  # a token is the mean of its pixels
        for conv, norm in setr.stages:
            conv.weight.data[channel, channel, 1, 1] = 1
            norm.weight.data.fill_((1 + norm.eps) ** 0.5)
    across = torch.arange(128.0)
    x = torch.stack([across.expand(128, 128), across[:, None].expand(128, 128)])[None]
    with torch.inference_mode():
        torch.testing.assert_close(setr(x)[..., 16:-16, 16:-16], x[..., 16:-16, 16:-16])


def test_channels_of_one_modality_do_not_reach_the_features_of_another() -> None:
    net, x = a_net(modalities=[[0, 3], [1], [2, 4]]), noise(1, 5, 32, 32)
    changed = x.clone()
    changed[:, [1, 2, 4]] += 1
    first = net.fusion.branches[0]
    torch.testing.assert_close(first(x[:, [0, 3]]), first(changed[:, [0, 3]]))
    outputs = [b(x[:, at]) for b, at in zip(net.fusion.branches, ([0, 3], [1], [2, 4]), strict=True)]
    torch.testing.assert_close(net.fusion(x), outputs[0] + outputs[1] + outputs[2])


def keys(t: np.ndarray) -> np.ndarray:
    """Weights of the four neighbours under cubic convolution with a = -0.75, at offset t in [0, 1)."""
    a, out = -0.75, []
    for d in (1 + t, t, 1 - t, 2 - t):
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        out.append(np.where(d <= 1, near, far))
    return np.array(out)


def test_places_are_the_learnt_ones_on_the_trained_grid_and_a_cubic_convolution_of_them_elsewhere() -> None:
    torch.manual_seed(0)
    setr = SETR(4, 1, 1, 4, grid=6, dropout=0.0)
    setr.places.data = noise(1, 4, 6, 6)
    assert setr.places_for(6, 6) is setr.places

    def resample(values: np.ndarray, count: int) -> np.ndarray:  # along the last axis
        at = (np.arange(count) + 0.5) * values.shape[-1] / count - 0.5
        first = np.floor(at).astype(int)
        taps = np.clip(first + np.arange(-1, 3)[:, None], 0, values.shape[-1] - 1)
        return (values[..., taps] * keys(at - first)).sum(-2)

    learnt = setr.places.detach().numpy()[0].astype(float)
    expected = resample(resample(learnt, 9).swapaxes(1, 2), 4).swapaxes(1, 2)
    np.testing.assert_allclose(setr.places_for(4, 9).detach().numpy()[0], expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 32), (48, 80)])
def test_tiles_of_any_multiple_of_16_get_a_map_of_their_size(height: int, width: int) -> None:
    with torch.inference_mode():
        assert a_net(steps=4)(noise(2, 5, height, width)).shape == (2, 3, height, width)


# --- deep supervision, dropout, location --------------------------------------------------------


def test_the_second_head_answers_only_in_training() -> None:
    net, x = a_net(dropout=0.0), noise(2, 5, 32, 32)
    alone = net(x)
    assert isinstance(alone, torch.Tensor)
    logits, auxiliary = net.train()(x)
    assert logits.shape == auxiliary.shape == alone.shape
    assert not torch.allclose(logits, auxiliary)
    assert net.auxiliary_weight == 0.5
    assert isinstance(a_net(deep_supervision=False).train()(x), torch.Tensor)


def test_the_second_head_sees_what_the_unet_is_given() -> None:
    net, x = a_net(dropout=0.0), noise(2, 5, 32, 32)
    for module in net.decoder.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data.zero_()  # a silent U-Net adds nothing
    net.auxiliary_head.load_state_dict(net.segmentation_head.state_dict())
    logits, auxiliary = net.train()(x)
    torch.testing.assert_close(logits, auxiliary)
    for module in net.eval().encoder.stages.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data.zero_()  # with a silent transformer too, what was fused goes straight to the head
    torch.testing.assert_close(net(x), net.segmentation_head(net.fusion(x)))


@pytest.mark.parametrize("location", [False, True])
def test_a_training_step_reaches_every_parameter(location: bool) -> None:
    net = a_net(location=location, modalities=[[0, 3], [1], [2, 4]]).train()
    logits, auxiliary = net(noise(2, 5, 48, 48), *([noise(2, 4)] if location else []))
    # Squares, since sums of a batch norm's outputs do not depend on what it normalises.
    (logits.square().sum() + 0.5 * auxiliary.square().sum()).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_dropout_is_at_work_in_training_and_at_rest_otherwise() -> None:
    x = noise(2, 5, 32, 32)
    for dropout, differs in ((0.5, True), (0.0, False)):
        net = a_net(dropout=dropout).train()
        assert torch.equal(net(x)[0], net(x)[0]) is not differs
        assert torch.equal(net.eval()(x), net(x))


def test_the_place_of_a_tile_changes_its_map_and_only_its_own() -> None:
    net, x, place = a_net(location=True), noise(2, 5, 32, 32), noise(2, 4)
    elsewhere = place.clone()
    elsewhere[1] = -elsewhere[1]
    with torch.inference_mode():
        one, other = net(x, place), net(x, elsewhere)
    assert torch.equal(one[0], other[0])
    assert (one[1] - other[1]).abs().max() > 0.01


def test_a_place_that_is_missing_or_not_wanted_is_refused() -> None:
    with pytest.raises(InputError, match="no location; expected locations"):
        a_net(location=True)(noise(1, 5, 32, 32))
    with pytest.raises(InputError, match="without location code; expected features alone"):
        a_net()(noise(1, 5, 32, 32), noise(1, 4))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"heads": 3}, "heads that divide"),
        ({"tile_px": 40}, "tile_px 40; expected a multiple of 16"),
        ({"steps": 5}, "5 steps"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"blocks": 0}, "0 blocks"),
        ({"modalities": [[0, 1], [3, 4]]}, "0 to 4 in exactly one"),
        ({"modalities": [[0, 1, 2], [2, 3, 4]]}, "0 to 4 in exactly one"),
        ({"modalities": [[0, 1, 2, 3, 4], []]}, "0 to 4 in exactly one"),
    ],
)
def test_arguments_that_make_no_network_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        a_net(**change)


def test_a_tile_that_is_no_multiple_of_16_is_refused() -> None:
    with pytest.raises(InputError, match="tiles of 32 x 40 pixels; expected multiples of 16"):
        a_net()(noise(1, 5, 32, 40))
