"""A network made ready for serving: no batch norms, batches of one shape, and the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cryoscale.errors import InputError
from cryoscale.infer.hardware import is_out_of_memory, let_go_of_memory
from cryoscale.models import serving
from cryoscale.models.fold import fold_batch_norms
from cryoscale.models.serving import WARM_UP, Network, Served, ServedTiles
from cryoscale.models.weights import ARCHITECTURES
from tests.fake_cuda import FakeCuda
from tests.toy_networks import stirred, toy
from tests.unit.test_models_architectures import a_net


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "random-forest"])
def test_a_folded_network_gives_the_answer_of_the_whole_one(name: str) -> None:
    net = stirred(a_net(name))
    inputs = [drawn(2, 4, 64, 64), *([drawn(2, 4)] if name == "glavitu" else [])]
    folded = fold_batch_norms(net, *(tensor[:1, ..., :32, :32] for tensor in inputs[:1]), *inputs[1:])
    assert norms(net) > norms(folded) == 0
    with torch.inference_mode():
        wanted, found = net(*inputs), folded(*inputs)
        assert not torch.equal(net(*inputs), net(inputs[0].flip(0), *inputs[1:]))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


class Odd(nn.Module):
    """A convolution whose own output is wanted too, or that runs twice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.norm = kind, nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.kind == "twice":
            return self.norm(self.conv(y))
        return self.norm(y) + (y if self.kind == "wanted" else 0)


@pytest.mark.parametrize(("kind", "left"), [("plain", 0), ("wanted", 1), ("twice", 1)])
def test_only_what_nothing_else_sees_is_folded(kind: str, left: int) -> None:
    net = stirred(Odd(kind))
    folded = fold_batch_norms(net, drawn(1, 3, 8, 8))
    assert norms(folded) == left
    with torch.inference_mode():
        torch.testing.assert_close(folded(drawn(2, 3, 9, 9)), net(drawn(2, 3, 9, 9)))


@pytest.mark.parametrize(("kind", "batch"), [("cryonet", 2), ("cryonet", 5), ("glavitu", 2)])
def test_served_in_batches_of_one_shape_a_network_answers_as_its_predictor(kind: str, batch: int) -> None:
    model = toy(kind)
    features = np.random.default_rng(1).normal(size=(3, 3, 64, 64)).astype(np.float32)
    features[1, :, 4:9] = np.nan
    codes: tuple[Any, ...] = (np.eye(3, 4, dtype=np.float32),) if kind == "glavitu" else ()
    served = ServedTiles(model.network, model.card.mean, model.card.std, batch)
    with pytest.raises(RuntimeError, match="no batch has been seen yet"):
        served.seconds_a_tile()
    np.testing.assert_allclose(served(features, *codes), model(features, *codes), atol=1e-5)
    assert served.seconds_a_tile() > 0
    smaller = features[:, :, :32, :32]
    np.testing.assert_allclose(served(smaller, *codes), model(smaller, *codes), atol=1e-5)


def test_bf16_weights_are_rounded_once_and_norms_and_places_are_not() -> None:
    model = toy("glavitu", precision="bf16")
    for name, parameter in model.network.model.named_parameters():
        short = not any(part in name for part in ("norm", "places"))
        assert parameter.dtype == (torch.bfloat16 if short else torch.float32), name
    assert all(parameter.dtype == torch.float32 for parameter in model.model.parameters())
    served = model.serve(2, 32)
    assert served.tiles.dtype == torch.bfloat16
    answer = served.run()
    assert answer.dtype == torch.float32
    assert answer.shape == (2, 32, 32, 4)
    torch.testing.assert_close(answer.sum(dim=-1), torch.ones(2, 32, 32))


@pytest.mark.parametrize("kind", ["cryonet", "glavitu"])
def test_a_network_to_be_compiled_can_be_in_one_piece(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = toy(kind, precision="bf16"), dict[str, Any]()
    compiles = nn.Module.compile

    def without_a_compiler(module: nn.Module, **options: Any) -> None:
        asked.update(options)
        compiles(module, backend="eager", **options)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(nn.Module, "compile", without_a_compiler)
    network = Network.of(model.model, 3, model.card.temperature, "bf16-compiled", kind == "glavitu")
    assert asked["fullgraph"]
    assert network.precision == "bf16"
    served, plain = Served(network, 2, 32), model.serve(2, 32)
    for one in (served, plain):
        one.tiles.copy_(drawn(2, 32, 32, 3))
    torch.testing.assert_close(served.run(), plain.run(), rtol=0, atol=0)
    with pytest.raises(InputError, match="bf16-compiled on cpu"):
        toy(precision="bf16-compiled")


def test_a_capture_that_fails_for_want_of_memory_says_so_and_any_other_leaves_single_calls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake, model = FakeCuda(monkeypatch), toy()
    served = model.serve(2, 16)
    wanted = served.run()
    served._capture()
    assert served.captured
    torch.testing.assert_close(served.run(), wanted)
    assert fake.count("replay") == 1

    fake.at_end = [RuntimeError("not permitted when stream is capturing")]
    other = model.serve(2, 16)
    other._capture()
    assert not other.captured
    assert "not permitted" in caplog.text
    torch.testing.assert_close(other.run(), wanted)

    def too_much() -> torch.Tensor:
        calls.append(1)
        if len(calls) > WARM_UP:
            raise torch.OutOfMemoryError("out of memory")
        return wanted

    calls: list[int] = []
    other._eager = too_much  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="not permitted") as raised:
        other._capture()
    assert is_out_of_memory(raised.value)
    calls.clear()
    fake.at_end = []
    with pytest.raises(torch.OutOfMemoryError):
        other._capture()


def test_a_batch_that_memory_does_not_suffice_for_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tiles = toy(), drawn(5, 3, 16, 16).numpy()
    wanted = model.served_tiles(5)(tiles)
    capture = RuntimeError("capture failed")
    capture.__context__ = torch.OutOfMemoryError("out of memory")
    raised = [torch.OutOfMemoryError("out of memory"), capture]
    asked: list[int] = []

    class Small(Served):
        def __init__(self, network: Network, batch: int, tile_px: int) -> None:
            asked.append(batch)
            if raised:
                raise raised.pop(0)
            super().__init__(network, batch, tile_px)

    monkeypatch.setattr(serving, "Served", Small)
    served = model.served_tiles(8)
    np.testing.assert_allclose(served(tiles), wanted, atol=1e-6)
    assert asked == [8, 4, 2]
    assert served.batch == 2
    raised[:] = [RuntimeError("another reason")]
    with pytest.raises(RuntimeError, match="another reason"):
        model.served_tiles(8)(tiles)
    raised[:] = [torch.OutOfMemoryError("out of memory")]
    with pytest.raises(torch.OutOfMemoryError):
        model.served_tiles(1)(tiles)


def test_memory_that_torch_does_not_give_back_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", refuse)
    let_go_of_memory()
    assert "captures_underway" in caplog.text


def test_on_a_cpu_nothing_is_captured_and_openvino_is_not_served() -> None:
    served = toy().serve(3, 16)
    assert isinstance(served, Served)
    assert (served.batch, served.captured) == (3, False)
    with pytest.raises(InputError, match="openvino for tensors on a device"):
        toy(precision="openvino").serve(1, 16)
