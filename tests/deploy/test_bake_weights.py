"""Weights carried into a store and out of it: proven, once, and nothing that could run code."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest

from deploy.bake_weights import main
from tests.deploy.rendered import ROOT
from tests.integration.s3 import S3

DEMO = ROOT / "cryoscale/models/demo.safetensors"
DIGEST = hashlib.sha256(DEMO.read_bytes()).hexdigest()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The demo's weights and their card, to spoil."""
    folder = tmp_path / "given"
    folder.mkdir()
    for path in (DEMO, DEMO.with_suffix(".json")):
        shutil.copy(path, folder)
    return folder / DEMO.name


def test_weights_go_into_a_store_and_come_out_as_they_were(weights: Path, s3: S3, tmp_path: Path) -> None:
    there = s3.url("models/x.safetensors")
    assert main([str(weights), there, "--sha256", DIGEST]) == 0
    back = tmp_path / "pod/model.safetensors"
    assert main([there, str(back), "--sha256", DIGEST]) == 0
    assert back.read_bytes() == weights.read_bytes()
    assert back.with_suffix(".json").read_bytes() == weights.with_suffix(".json").read_bytes()


def test_the_card_is_put_last_and_a_second_time_nothing_is(
    weights: Path, s3: S3, capsys: pytest.CaptureFixture[str]
) -> None:
    there = s3.url("models/x.safetensors")
    assert main([str(weights), there]) == 0
    put = [one.path for one in s3.asked if one.method == "PUT" and "models/x." in one.path]
    assert [Path(path.partition("?")[0]).suffix for path in put] == [".safetensors", ".json"]
    before = len(put)
    assert main([str(weights), there]) == 0
    assert "is there already" in capsys.readouterr().out
    assert len([one for one in s3.asked if one.method == "PUT" and "models/x." in one.path]) == before


def test_an_upload_that_was_cut_off_between_the_two_is_completed(weights: Path, s3: S3) -> None:
    """Tensors without a card are nobody's, and may be others than these."""
    there = s3.url("models/x.safetensors")
    s3.plan = lambda asked: "403" if asked.method == "PUT" and "x.json" in asked.path else None
    assert main([str(weights), there]) == 2
    s3.plan = lambda asked: None
    assert main([str(weights), there]) == 0
    assert main([str(weights), there]) == 0


def test_other_weights_of_that_name_stay_unless_they_may_go(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there/x.safetensors"
    assert main([str(weights), str(there)]) == 0
    card = json.loads(weights.with_suffix(".json").read_text())
    weights.with_suffix(".json").write_text(json.dumps({**card, "temperature": 2.0}))
    assert main([str(weights), str(there)]) == 2
    assert "--replace" in capsys.readouterr().err
    assert json.loads(there.with_suffix(".json").read_text())["temperature"] != 2.0
    assert main([str(weights), str(there), "--replace"]) == 0
    assert json.loads(there.with_suffix(".json").read_text())["temperature"] == 2.0


@pytest.mark.parametrize(
    "fault", ["pickled", "renamed", "truncated", "altered", "cardless", "another", "absent"]
)
def test_what_cannot_be_trusted_is_refused_in_a_line_and_leaves_nothing(
    weights: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, digest = weights.read_bytes(), DIGEST
    if fault == "pickled":
        weights.write_bytes(pickle.dumps({"weight": 1}))
    elif fault == "renamed":
        weights = weights.rename(weights.with_suffix(".pt"))
    elif fault == "truncated":
        weights.write_bytes(whole[:-100])
    elif fault == "altered":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif fault == "cardless":
        weights.with_suffix(".json").unlink()
    elif fault == "another":
        digest = "0" * 64
    else:
        weights.unlink()
    assert main([str(weights), str(tmp_path / "there/x.safetensors"), "--sha256", digest]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert not (tmp_path / "there").exists()
