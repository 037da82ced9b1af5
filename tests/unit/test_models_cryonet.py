from __future__ import annotations

import pytest
import torch

from cryoscale.errors import InputError
from cryoscale.models.cryonet import ENCODERS, CryoNet, ScSE

LIGHT = {"encoder": "resnet10w16", "decoder_channels": (64, 32, 16, 16, 16)}


def test_full_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = CryoNet()
    assert sum(p.numel() for p in net.parameters()) == 70_202_828  # "about 70 M", 70.20 M


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if "w" in name])
def test_light_encoders_run_through_the_same_code_and_fit_into_25_mb(encoder: str) -> None:
    net = CryoNet(encoder=encoder, decoder_channels=(128, 64, 32, 16, 16)).eval()
    with torch.inference_mode():
        assert net(torch.zeros(1, 30, 32, 64)).shape == (1, 5, 32, 64)
    assert sum(t.numel() for t in net.state_dict().values()) * 4 < 25e6


@pytest.mark.parametrize("size", [(256, 250), (31, 32), (16, 16)])
def test_sizes_that_are_no_multiple_of_32_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="multiples of 32"):
        CryoNet(**LIGHT)(torch.zeros(1, 30, *size))


def test_an_unknown_encoder_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match="resnet1O1.*resnet18, resnet34, resnet50, resnet101"):
        CryoNet(encoder="resnet1O1")


@pytest.mark.parametrize("widths", [(64, 32, 16, 16), (64, 32, 16, 16, 8), ()])
def test_decoder_widths_that_leave_a_gate_without_channels_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="five of 16 or more"):
        CryoNet(encoder="resnet10w16", decoder_channels=widths)


def test_every_tensor_but_the_unused_gate_of_the_last_node_gets_a_gradient() -> None:
    net = CryoNet(**LIGHT)
    net(torch.randn(2, 30, 64, 64)).square().mean().backward()
    without = {name for name, p in net.named_parameters() if p.grad is None}
    assert without == {name for name, _ in net.named_parameters() if "x_0_4.attention1" in name}
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_the_same_seed_draws_the_same_weights_and_another_does_not() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([t.flatten().float() for t in CryoNet(**LIGHT).state_dict().values()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_channels_last_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    net, x = CryoNet(**LIGHT).eval(), torch.randn(1, 30, 64, 64)
    with torch.inference_mode():
        plain = net(x)
        net.to(memory_format=torch.channels_last)
        last = net(x.contiguous(memory_format=torch.channels_last))
    assert (plain - last).abs().max() <= 1e-4 * plain.abs().max()


def test_the_widest_gate_trains_in_bf16_on_cpu_as_it_does_in_fp32() -> None:
    torch.manual_seed(0)
    gate, x = ScSE(3072), torch.randn(2, 3072, 16, 16).bfloat16()

    def gradients(autocast: bool) -> list[torch.Tensor]:
        gate.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            gate(x if autocast else x.float()).float().square().mean().backward()
        return [p.grad.clone() for p in gate.parameters() if p.grad is not None]

    for low, high in zip(gradients(True), gradients(False), strict=True):
        assert (low - high).abs().max() <= 0.02 * high.abs().max()
