"""Against segmentation-models-pytorch: names, shapes, logits and gradients of the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cryoscale.models.cryonet import CryoNet


@pytest.fixture(scope="module")
def smp() -> Any:
    """The library; torchvision, which it needs, exists for a CUDA build of torch only.

    Beside the CPU build its import fails, since it describes operators of its binary part that is not
    loaded there. Declaring their schemas is enough: the network uses none of them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import segmentation_models_pytorch

    yield segmentation_models_pytorch
    del library


def pair(smp: Any, encoder: str, classes: int = 5, channels: int = 30) -> tuple[torch.nn.Module, CryoNet]:
    torch.manual_seed(3)
    theirs = smp.UnetPlusPlus(
        encoder, encoder_weights=None, decoder_attention_type="scse", in_channels=channels, classes=classes
    )
    return theirs, CryoNet(in_channels=channels, classes=classes, encoder=encoder)


def randomise(net: torch.nn.Module) -> None:
    """Statistics and scales of the batch norms as after training, not the zeros and ones of the start."""
    generator = torch.Generator().manual_seed(5)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_names_shapes_and_logits_equal_and_checkpoints_pass_both_ways(smp: Any, encoder: str) -> None:
    theirs, ours = pair(smp, encoder)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }
    x = torch.randn(2, 30, 64, 96, generator=torch.Generator().manual_seed(7))
    for source, target in ((theirs, ours), (ours, theirs)):
        randomise(source)
        target.load_state_dict(source.state_dict())
        with torch.inference_mode():
            expected, found = source.eval()(x), target.eval()(x)
        assert expected.std() > 0
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        for parameter in ours.parameters():  # the way back carries other weights
            parameter.data.mul_(0.9)


def test_on_tiles_far_larger_than_the_studys_it_is_the_same_where_gates_are_to_look_at_all_of_them(
    smp: Any,
) -> None:
    theirs, ours = pair(smp, "resnet18", classes=3, channels=4)
    randomise(theirs)
    whole = CryoNet(4, 3, "resnet18", squeeze_px=384)
    for net in (ours, whole):
        net.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 4, 384, 64, generator=torch.Generator().manual_seed(7))
    x[..., 192:, :] *= 4.0
    with torch.inference_mode():
        expected, found, by_place = (net.eval()(x) for net in (theirs, whole, ours))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert (by_place - expected).abs().max() > 1e-3 * expected.abs().max()


def test_gradients_and_batch_statistics_of_a_training_step_equal(smp: Any) -> None:
    theirs, ours = pair(smp, "resnet18", classes=3, channels=4)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 4, 64, 64, generator=torch.Generator().manual_seed(7))
    target = torch.randint(0, 3, (4, 64, 64), generator=torch.Generator().manual_seed(8))
    for net in (theirs.train(), ours.train()):
        torch.nn.functional.cross_entropy(net(x), target).backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        if parameter.grad is None:
            assert gradients[name].grad is None
        else:
            torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-3, atol=1e-6)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer, rtol=1e-5, atol=1e-6)
