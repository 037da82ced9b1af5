"""Networks run by OpenVINO: torch is the oracle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoscale.bench.network import predictor_of
from cryoscale.errors import ExtraError, InputError
from cryoscale.models.loading import load_predictor
from cryoscale.models.predictor import Predictor, choose_precision


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    found = np.random.default_rng(0).standard_normal((3, 30, 64, 64)).astype(np.float32)
    found[0, :, :5] = np.nan
    return found


@pytest.fixture(scope="module")
def reference(tiles: np.ndarray) -> np.ndarray:
    return predictor_of("tiny", device="cpu", precision="fp32")(tiles)


def test_float32_is_torchs_answer(tiles: np.ndarray, reference: np.ndarray) -> None:
    ours = predictor_of("tiny", device="cpu", precision="openvino")(tiles)
    np.testing.assert_allclose(ours, reference, atol=1e-4)
    assert ours.dtype == np.float32


def test_bf16_is_near_and_not_the_same(tiles: np.ndarray, reference: np.ndarray) -> None:
    ours = predictor_of("tiny", device="cpu", precision="openvino-bf16")(tiles)
    np.testing.assert_allclose(ours.sum(axis=1), 1.0, atol=1e-5)
    assert 0 < np.abs(ours - reference).mean() < 0.02


@pytest.mark.parametrize("precision", ["openvino", "openvino-bf16"])
def test_an_answer_depends_neither_on_the_batch_nor_on_what_was_asked_before(
    tiles: np.ndarray, precision: str
) -> None:
    one, other = (predictor_of("tiny", device="cpu", precision=precision) for _ in range(2))
    together = one(tiles)
    wide = np.zeros((1, 30, 96, 128), np.float32)
    assert one(wide).shape == (1, 5, 96, 128)
    for number in (2, 0, 1):
        assert np.array_equal(other(tiles[number : number + 1])[0], together[number])
    assert np.array_equal(one(tiles), together)


def test_what_a_caller_gets_is_not_written_over_by_the_next_call(tiles: np.ndarray) -> None:
    predictor = predictor_of("tiny", device="cpu", precision="openvino")
    first = predictor(tiles[:1])
    kept = first.copy()
    predictor(tiles[1:2])
    assert np.array_equal(first, kept)


TRACED = """
import os, sys, threading

def forked():
    raise SystemExit("a process was forked")

os.register_at_fork(before=forked)
import torch
from cryoscale.models.openvino import OpenVinoNetwork

network = OpenVinoNetwork(torch.nn.Conv2d(1, 1, 3).eval(), "fp32")
print(network(torch.zeros(1, 1, 8, 8)).shape, sorted(t.name for t in threading.enumerate()))
print(sorted(name for name, module in sys.modules.items() if name.startswith("openvino_tele") and module))
"""


def test_nobody_is_told_that_it_is_used_and_nothing_is_forked_to_tell_it(tmp_path: Path) -> None:
    """Its own reports go to a host of its maker's, by a fork of this process with all its threads."""
    free = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL")}
    command = [sys.executable, "-c", TRACED]
    done = subprocess.run(
        command, env={**free, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shape, modules = done.stdout.splitlines()
    assert shape == "torch.Size([1, 1, 6, 6]) ['MainThread']"
    assert modules == "[]"
    assert not (tmp_path / "intel").exists()


def test_without_the_library_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExtraError, match=r"openvino.*cryoscale\[cpu\]"):
        predictor_of("tiny", device="cpu", precision="openvino")


def test_it_runs_on_the_cpu_where_auto_would_find_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    predictor = predictor_of("tiny", device="auto", precision="openvino")
    assert (predictor.device.type, predictor.precision) == ("cpu", "openvino")


@pytest.mark.parametrize("precision", ["openvino", "openvino-bf16"])
def test_it_is_refused_for_samples_with_dropout_of_which_it_drops_nothing(precision: str) -> None:
    with pytest.raises(InputError, match=f"mc_dropout 4 with precision {precision}"):
        load_predictor(weights="any.safetensors", precision=precision, mc_dropout=4)


def test_it_is_refused_on_a_gpu() -> None:
    with pytest.raises(InputError, match="openvino-bf16 on cuda"):
        choose_precision("openvino-bf16", torch.device("cuda"))


def test_a_network_that_takes_location_codes_runs_too() -> None:
    from cryoscale.features.channels import CHANNELS
    from cryoscale.learn.scores import CLASS_NAMES
    from cryoscale.models.glavitu import GlaViTU
    from cryoscale.models.weights import Card

    torch.manual_seed(2)
    arguments = {"tile_px": 64, "width": 16, "blocks": 1, "mlp": 32, "location": True}
    network = GlaViTU(len(CHANNELS), len(CLASS_NAMES), **arguments)
    card = Card(
        architecture="glavitu",
        arguments=arguments,
        channels=CHANNELS,
        mean=(0.0,) * 30,
        std=(1.0,) * 30,
        classes=CLASS_NAMES,
    )
    tiles = np.random.default_rng(0).standard_normal((2, 30, 64, 64)).astype(np.float32)
    codes = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    answers = [
        Predictor(network, card, device="cpu", precision=precision)(tiles, codes)
        for precision in ("fp32", "openvino")
    ]
    np.testing.assert_allclose(*answers, atol=1e-4)
