from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoscale.errors import InputError, WeightsError
from cryoscale.models import weights
from cryoscale.models.bandratio import OPTICAL_CHANNELS
from cryoscale.models.cryonet import CryoNet
from cryoscale.models.loading import describe, load_predictor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    arguments = {"in_channels": 2, "classes": 2, "encoder": "resnet10w16", "decoder_channels": [16] * 5}
    card = weights.Card(
        architecture="cryonet",
        arguments=arguments,
        channels=("B02", "B04"),
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
        classes=("a", "b"),
    )
    torch.manual_seed(0)
    weights.save(CryoNet(**arguments), card, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_weights_load_to_a_callable_that_answers_and_describes_itself(saved: Path) -> None:
    predict = load_predictor(weights=saved, device="cpu")
    assert predict(np.zeros((1, 2, 32, 32), np.float32)).shape == (1, 2, 32, 32)
    assert (predict.channels, predict.classes, predict.pca) == (("B02", "B04"), ("a", "b"), None)
    assert (predict.tile_multiple, predict.needs_halo) == (32, True)
    described = describe(predict)
    assert described["sha256"] == weights.read_card(saved).sha256
    assert described["name"] == "cryonet"


def test_the_band_ratio_loads_by_its_name() -> None:
    predict = load_predictor(name="band-ratio")
    assert predict(np.zeros((2, 12, 3, 5), np.float32)).shape == (2, 5, 3, 5)
    assert (predict.channels, predict.pca) == (OPTICAL_CHANNELS, None)
    assert (predict.tile_multiple, predict.needs_halo) == (1, False)
    assert describe(predict)["name"] == "band-ratio"


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match="'bandratio'; expected one of band-ratio"):
        load_predictor(name="bandratio")


def test_neither_and_both_of_weights_and_name_are_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="given no model"):
        load_predictor()
    with pytest.raises(InputError, match="given both"):
        load_predictor(weights=saved, name="band-ratio")


def test_absent_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nothing there"):
        load_predictor(weights=str(tmp_path / "none.safetensors"))


def test_neither_the_band_ratio_nor_reading_a_card_imports_torch(saved: Path) -> None:
    program = (
        "import sys\n"
        "from cryoscale.models.loading import load_predictor\n"
        "from cryoscale.models.weights import read_card\n"
        "load_predictor(name='band-ratio')\n"
        f"read_card({str(saved)!r})\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)
