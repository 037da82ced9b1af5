from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from cryoscale.errors import OutputError, WeightsError
from cryoscale.models.cryonet import CryoNet
from cryoscale.models.weights import Card, PcaCard, card_path, copy_with_card, load, read_card, save

CHANNELS = ("B02", "B04", "slope")
CLASSES = ("background", "clean_ice")
ARGUMENTS = {
    "in_channels": 3,
    "classes": 2,
    "encoder": "resnet10w16",
    "decoder_channels": [16, 16, 16, 16, 16],
}


def a_card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "architecture": "cryonet",
        "arguments": ARGUMENTS,
        "channels": CHANNELS,
        "mean": (0.3, 0.2, 20.0),
        "std": (0.2, 0.1, 15.0),
        "pca": PcaCard(mean=(0.1,) * 12, components=((0.5,) * 12, (0.25,) * 12, (-0.125,) * 12)),
        "classes": CLASSES,
        "temperature": 1.25,
        "training": {"seed": 1},
        "licence": "CC0-1.0",
    }
    return Card(**{**values, **changes})


def a_net(**changes: Any) -> CryoNet:
    torch.manual_seed(0)
    return CryoNet(**{**ARGUMENTS, **changes})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save(a_net(), a_card(), path)
    return path


def rewrite_card(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(card_path(path).read_text())
    change(values)
    card_path(path).write_text(json.dumps(values))


def refused(path: Path, match: str, **keywords: Any) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        load(path, **keywords)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_what_is_saved_loads_equal_and_ready_to_predict(saved: Path) -> None:
    model, card = load(saved, channels=CHANNELS)
    expected = a_net().state_dict()
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert card == a_card(sha256=card.sha256)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_saving_twice_gives_the_same_bytes_and_leaves_two_files(saved: Path) -> None:
    first = saved.read_bytes(), card_path(saved).read_bytes()
    save(a_net(), a_card(), saved)
    assert (saved.read_bytes(), card_path(saved).read_bytes()) == first
    assert sorted(os.listdir(saved.parent)) == ["net.json", "net.safetensors"]


def test_a_model_in_channels_last_or_half_precision_comes_back_as_float32(tmp_path: Path) -> None:
    path, half = tmp_path / "half.safetensors", a_net().half().to(memory_format=torch.channels_last)
    save(half, a_card(), path)
    model, _ = load(path)
    assert model.encoder.conv1.weight.dtype == torch.float32
    assert torch.equal(model.encoder.conv1.weight, half.encoder.conv1.weight.float())


def test_nothing_is_written_for_a_model_that_is_not_what_its_card_says(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(WeightsError, match="shape"):
        save(a_net(decoder_channels=[32, 16, 16, 16, 16]), a_card(), path)
    assert os.listdir(tmp_path) == []


def test_a_card_that_cannot_be_written_leaves_the_files_of_before(saved: Path) -> None:
    before = saved.read_bytes(), card_path(saved).read_bytes()
    net = a_net()
    net.segmentation_head[0].bias.data += 1
    with pytest.raises(ValueError, match="serialize"):
        save(net, a_card(metrics={"iou": object()}), saved)
    assert (saved.read_bytes(), card_path(saved).read_bytes()) == before
    assert sorted(os.listdir(saved.parent)) == ["net.json", "net.safetensors"]


def test_saving_under_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"ends in \.safetensors"):
        save(a_net(), a_card(), tmp_path / "net.pt")


@pytest.mark.parametrize("place", ["other.safetensors", "other.json"])
def test_a_folder_in_the_way_of_one_file_leaves_neither(saved: Path, place: str) -> None:
    other = saved.with_name("other.safetensors")
    (saved.parent / place).mkdir()
    for write in (
        lambda: save(a_net(), a_card(), other),
        lambda: copy_with_card(saved, read_card(saved), other),
    ):
        with pytest.raises(OutputError, match=rf"output .*{place}, which is a folder") as caught:
            write()
        assert caught.value.exit_code == 2
    assert sorted(os.listdir(saved.parent)) == sorted(["net.json", "net.safetensors", place])


def test_tensors_that_cannot_take_their_place_leave_the_card_of_before(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def denied(part: Path, target: Path) -> Path:
        if target == saved:
            raise PermissionError(target)
        return replace(part, target)

    other = saved.with_name("other.safetensors")
    save(a_net(), a_card(), other)
    before = saved.read_bytes(), card_path(saved).read_bytes()
    monkeypatch.setattr(Path, "replace", denied)
    for write in (
        lambda: save(a_net(), a_card(temperature=2.0), saved),
        lambda: copy_with_card(other, read_card(other).model_copy(update={"temperature": 2.0}), saved),
    ):
        with pytest.raises(PermissionError):
            write()
        assert (saved.read_bytes(), card_path(saved).read_bytes()) == before


def test_absent_weights_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "nothing there")
    refused(tmp_path, "a folder")
    refused(
        tmp_path / ("x" * 300 + ".safetensors"), "too long.; expected a .safetensors file; check the path"
    )
    refused(tmp_path / "a\0b.safetensors", "expected a .safetensors file; check the path")


def test_weights_without_their_card_are_refused(saved: Path) -> None:
    card_path(saved).unlink()
    refused(saved, r"without a card.*net\.json beside it")


class Trap:
    """A pickle of this makes a folder when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("how", ["torch", "pickle 0", "pickle 2", "pickle 5"])
def test_pickled_weights_are_refused_and_never_opened(saved: Path, ending: str, how: str) -> None:
    trap = Trap(saved.parent / "sprung")
    path = saved.with_suffix(ending)
    if how == "torch":
        torch.save({"a": trap}, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=int(how[-1])))
    # An old pickle under a false name cannot be told from noise, which is refused just so.
    refused(path, "safetensors file" if (how, ending) == ("pickle 0", ".safetensors") else "pickled")
    assert not trap.path.exists()


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 40_000, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    refused(saved, "fetch")


def test_a_file_with_something_appended_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    refused(saved, "truncated or has been added to")


def test_a_header_that_is_nested_without_end_is_refused(saved: Path) -> None:
    header = b"[" * 100_000
    saved.write_bytes(len(header).to_bytes(8, "little") + header)
    refused(saved, "whose header cannot be read; expected a safetensors file")


def test_a_flipped_bit_in_the_tensors_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-1000] ^= 1
    saved.write_bytes(data)
    refused(saved, "sha256.*do not belong together")


def test_the_card_of_another_model_is_refused(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    net = a_net()
    net.segmentation_head[0].bias.data += 1
    save(net, a_card(), other)
    card_path(saved).write_bytes(card_path(other).read_bytes())
    refused(saved, "do not belong together")


def test_weights_for_other_channels_are_refused_with_the_first_that_differs(saved: Path) -> None:
    refused(saved, "whose channel 2 is B04; expected B03", channels=("B02", "B03", "slope"))
    refused(saved, "for 3 channels; expected 2 channels", channels=("B02", "B04"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda card: card.update(colour="blue"), "colour: Extra inputs .*, or update cryoscale"),
        (lambda card: card.pop("channels"), "channels: Field required"),
        (lambda card: card.update(mean=[0.1]), "3 channels, but 1 means"),
        (lambda card: card.update(std=[1, 0, 1]), r"std\.1: .*, 0 is not between 1e-30 and 1e\+30"),
        (lambda card: card.update(std=[1, 1, 1e-60]), r"std\.2: .*, 1e-60 is not between"),
        (lambda card: card.update(mean=[0, -1e60, 0]), r"mean\.1: .*, -1e\+60 is not between"),
        (lambda card: card["pca"]["mean"].__setitem__(3, 1e60), r"pca\.mean\.3: .*, 1e\+60 is not"),
        (lambda card: card.update(temperature=0), "temperature"),
        (
            lambda card: card.update(temperature=1e-300),
            r"temperature: .*, 1e-300 is not between 0\.001 and 1000",
        ),
        (lambda card: card.update(temperature=1e300), r"temperature: .*, 1e\+300 is not between 0\.001"),
        (lambda card: card.update(classes=["ice", "ice"]), "class is named twice"),
        (
            lambda card: card.update(
                calibration={"confidence": [0.2, 0.9, 0.9], "accuracy": [0.3, 0.8, 0.95], "count": [5, 5, 5]}
            ),
            "confidence does not rise from bin to bin",
        ),
        (lambda card: card.update(sha256=None), "a card with its sha256"),
        (lambda card: card.update(format=0), "format: Input should be 1; .*; restore the card"),
        (lambda card: card.update(format=2), "of format 2; expected a card of format 1; update cryoscale"),
        (lambda card: card.update(mean=3, format=2, units=[]), "of format 2; expected .*; update cryoscale"),
        (lambda card: card.update(architecture="glavitu9"), "architecture 'glavitu9'; expected one of"),
        (lambda card: card["arguments"].update(in_channels=30), "in_channels 30; expected 3"),
        (lambda card: card["arguments"].pop("classes"), "classes None; expected 2"),
        (lambda card: card["arguments"].update(encoder="vgg"), "encoder 'vgg'"),
        (lambda card: card["arguments"].update(depth=5), "depth"),
        (lambda card: card["arguments"].update(decoder_channels=[32, 16, 16, 16, 16]), "with .* of shape"),
        (lambda card: card["arguments"].update(encoder="resnet18w16"), "without tensor encoder.layer1.1"),
    ],
)
def test_a_card_at_fault_is_refused_with_the_fault(saved: Path, change: Any, match: str) -> None:
    rewrite_card(saved, change)
    refused(saved, match)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_card_that_is_no_card_is_refused(saved: Path, text: str) -> None:
    card_path(saved).write_text(text)
    refused(saved, "expected a card of format 1")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "unknown tensor extra"),
        (lambda tensors: tensors.pop("encoder.bn1.bias"), "without tensor encoder.bn1.bias"),
        (
            lambda tensors: tensors["encoder.bn1.bias"].fill_(float("nan")),
            "encoder.bn1.bias that are not finite",
        ),
        (
            lambda tensors: tensors.update(
                {"encoder.bn1.bias": torch.full((16,), 1e300, dtype=torch.float64)}
            ),
            "encoder.bn1.bias that are not finite as torch.float32",
        ),
        (
            lambda tensors: tensors["encoder.bn1.running_var"][3:4].fill_(-1e-3),
            "negative variances in encoder.bn1.running_var; expected 0 or more",
        ),
        (
            lambda tensors: tensors.update({"encoder.bn1.bias": torch.zeros(16, dtype=torch.int32)}),
            "encoder.bn1.bias of torch.int32",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_even_if_the_card_vouches(
    saved: Path, change: Any, match: str
) -> None:
    import hashlib

    tensors = load_file(saved)
    change(tensors)
    save_file(tensors, saved)
    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    rewrite_card(saved, lambda card: card.update(sha256=digest))
    refused(saved, match)


def test_a_card_reads_back_without_its_tensors_being_loaded(saved: Path) -> None:
    card = read_card(saved)
    assert card.pca is not None
    assert card.pca.components[2][0] == -0.125
    assert card.model_dump_json() == Card.model_validate_json(card.model_dump_json()).model_dump_json()


def test_a_card_with_a_statistic_that_is_not_finite_cannot_be_made() -> None:
    with pytest.raises(ValidationError, match="finite"):
        a_card(mean=(0.0, float("nan"), 1.0))
