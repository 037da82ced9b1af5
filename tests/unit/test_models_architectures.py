"""Every architecture through its weights file: there and back, and refused where the card does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryoscale.errors import WeightsError
from cryoscale.models.forest import RandomForest
from cryoscale.models.loading import load_predictor
from cryoscale.models.weights import ARCHITECTURES, Card, architecture, card_path, load, save

CHANNELS, CLASSES = ("B02", "B04", "slope", "velocity"), ("background", "clean_ice", "water")
COUNTS: dict[str, Any] = {"in_channels": 4, "classes": 3}
SMALL: dict[str, dict[str, Any]] = {
    "cryonet": {"encoder": "resnet10w16", "decoder_channels": [16] * 5},
    "unet": {"encoder": "tu-test_resnet", "decoder_channels": [16, 16, 16, 16, 8]},
    "deeplabv3plus": {"encoder": "tu-test_resnet", "decoder_channels": 8},
    "segformer": {"encoder": "mit_b0", "decoder_channels": 16},
    "glavitu": {"width": 8, "blocks": 1, "heads": 2, "mlp": 8, "steps": 2, "tile_px": 64, "location": True},
    "random-forest": {"trees": 3, "leaves": 6, "depth": 4},
}
# Another value of an argument, and what is said of it: the tensors have other shapes, or other names.
OTHER: dict[str, tuple[str, Any, str]] = {
    "cryonet": ("encoder", "resnet18w16", "without tensor encoder.layer1.1"),
    "unet": ("decoder_channels", [24, 16, 16, 16, 8], r"with decoder\..* of shape"),
    "deeplabv3plus": ("decoder_channels", 16, r"with decoder\..* of shape"),
    "segformer": ("encoder", "mit_b1", r"with encoder\..* of shape"),
    "glavitu": ("blocks", 2, r"without tensor encoder\.blocks\.1"),
    "random-forest": ("leaves", 7, r"with feature of shape \(3, 11\); expected shape \(3, 13\)"),
}


def a_net(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return architecture(name)(**COUNTS, **SMALL[name])


@pytest.fixture(params=ARCHITECTURES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Name and path of a small network of each kind."""
    name, path = request.param, tmp_path / "net.safetensors"
    card = Card(
        architecture=name,
        arguments={**COUNTS, **SMALL[name]},
        channels=CHANNELS,
        mean=(0.3, 0.2, 20.0, 5.0),
        std=(0.2, 0.1, 15.0, 9.0),
        classes=CLASSES,
    )
    save(a_net(name), card, path)
    return name, path


def rewrite_card(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(card_path(path).read_text())
    change(values)
    card_path(path).write_text(json.dumps(values))


def refused(path: Path, match: str, **keywords: Any) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        load(path, **keywords)
    assert "\n" not in str(caught.value)


def test_a_network_comes_back_equal_and_answers_alike(saved: tuple[str, Path]) -> None:
    name, path = saved
    net, predict = a_net(name).eval(), load_predictor(weights=path, device="cpu", precision="fp32")
    x = np.random.default_rng(0).normal([[[0.3]]] * 4, 0.3, (2, 4, 64, 64)).astype(np.float32)
    x[0, 3] = np.nan
    place = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    more = (place,) if predict.needs_location else ()
    card = load(path)[1]
    scaled = (x - np.array(card.mean, np.float32)[:, None, None]) / np.array(card.std)[:, None, None]
    scaled = torch.from_numpy(np.nan_to_num(scaled).astype(np.float32))
    with torch.inference_mode():
        expected = torch.softmax(net(scaled, *map(torch.from_numpy, more)), 1).numpy()
    found = predict(x, *more)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_array_equal(predict(x[1:], *(part[1:] for part in more)), found[1:])
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    assert predict.describe()["name"] == name
    assert predict.describe()["parameters"] > 0
    multiple = predict.tile_multiple
    assert multiple == {"deeplabv3plus": 16, "glavitu": 16, "random-forest": 1}.get(name, 32)
    assert predict.needs_halo is (name != "random-forest")
    assert predict(x[:, :, :multiple, :multiple], *more).shape == (2, 3, multiple, multiple)


def test_a_network_in_bf16_answers_much_as_in_fp32_and_a_forest_exactly(saved: tuple[str, Path]) -> None:
    name, path = saved
    x = np.random.default_rng(0).normal([[[0.3]]] * 4, 0.3, (2, 4, 96, 96)).astype(np.float32)
    short, full = (load_predictor(weights=path, device="cpu", precision=kind) for kind in ("bf16", "fp32"))
    more = (np.ones((2, 4), np.float32),) if full.needs_location else ()
    expected, found = full(x, *more), short(x, *more)
    assert found.dtype == np.float32
    assert np.abs(found - expected).mean() < (0 if name == "random-forest" else 0.02) + 1e-9


def test_a_card_for_other_channels_or_classes_is_refused(saved: tuple[str, Path]) -> None:
    _, path = saved
    refused(path, "whose channel 4 is velocity; expected phase", channels=(*CHANNELS[:3], "phase"))
    rewrite_card(path, lambda card: card.update(classes=[*CLASSES, "debris"]))
    refused(path, "classes 3; expected 4")
    rewrite_card(path, lambda card: card["arguments"].update(classes=4))
    refused(path, "of shape .*; expected shape")


def test_a_card_with_a_channel_more_than_the_tensors_is_refused(saved: tuple[str, Path]) -> None:
    _, path = saved

    def widen(card: dict[str, Any]) -> None:
        for key, value in (("channels", "phase"), ("mean", 0.0), ("std", 1.0)):
            card[key].append(value)

    rewrite_card(path, widen)
    refused(path, "in_channels 4; expected 5")
    rewrite_card(path, lambda card: card["arguments"].update(in_channels=5))
    refused(path, "of shape .*; expected shape")


def test_a_card_with_arguments_that_do_not_fit_is_refused_with_the_difference(
    saved: tuple[str, Path],
) -> None:
    name, path = saved
    key, value, match = OTHER[name]
    rewrite_card(path, lambda card: card["arguments"].update({key: value}))
    refused(path, match)
    rewrite_card(path, lambda card: card["arguments"].update(colour="blue"))
    refused(path, f"colour.*; expected arguments of {name}")


def test_a_network_that_is_not_what_its_card_says_is_not_saved(saved: tuple[str, Path]) -> None:
    name, path = saved
    key, value, match = OTHER[name]
    before = path.read_bytes()
    card = load(path)[1].model_copy(update={"arguments": {**COUNTS, **SMALL[name], key: value}})
    with pytest.raises(WeightsError, match=match):
        save(a_net(name), card, path)
    assert path.read_bytes() == before


def test_a_forest_walks_no_further_than_its_deepest_tree_whatever_depth_its_card_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forest = RandomForest(**COUNTS, trees=1, leaves=6, depth=10**9)
    for node in (0, 2, 4, 6, 8):  # one leaf after the other leaves the way, which is as deep as can be
        forest.child[0, node], forest.threshold[0, node] = node + 1, node
    forest.share[0, :, 0] = torch.arange(11.0)
    walked = []

    def counted(steps: int) -> range:
        walked.append(steps)
        return range(min(steps, 100))

    monkeypatch.setattr("cryoscale.models.forest.range", counted, raising=False)
    pixels = torch.tensor([-1.0, 1.0, 3.0, 5.0, 7.0, 9.0])[:, None].expand(6, 4)
    assert forest.vote(pixels)[:, 0].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0, 10.0]
    assert walked == [5]
