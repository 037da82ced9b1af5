"""``precision: auto``: tried on the run's own blocks, kept for as long as the run is worked on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cryoscale import cluster, deriving, specimen, trial
from cryoscale.cluster import Site
from cryoscale.config import load_config
from cryoscale.errors import ExtraError, InputError
from cryoscale.infer import derive
from cryoscale.infer.derive import Deriver
from cryoscale.models import parity, predictor
from cryoscale.models.loading import load_predictor
from cryoscale.models.parity import Choice, Parity
from cryoscale.pipeline import run as run_pipeline
from cryoscale.preparation import Draft, begin, draft_run, tried_there
from cryoscale.settings import Settings
from cryoscale.task import stack_of
from tests.integration.conftest import TinyRange, map_here
from tests.integration.faults import bytes_that_differ, few_by_network


def test_precisions_are_tried_on_blocks_of_the_run_and_told(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "_is_short", lambda *given: False)
    told: list[str] = []
    draft = draft_run(tiny_range.settings(), str(tmp_path / "run"), told.append)
    record = draft.manifest["model"]["precisions"]
    tried = {parity["precision"]: parity for parity in record["tried"]}
    assert {"fp32", "openvino"} <= tried.keys()
    assert tried["openvino"]["passes"]
    assert tried["openvino"]["agreement"] > 0.999
    assert tried["openvino"]["difference"] < 1e-4
    usable = [parity for parity in tried.values() if parity["passes"]]
    quickest = min(usable, key=lambda parity: parity["seconds_a_tile"])["precision"]
    assert record["precision"] == quickest == draft.settings.model.precision
    assert draft.manifest["identity"]["precision"] == quickest
    assert all(any(f"precision {name}: " in line for line in told) for name in tried)
    assert not (tmp_path / "run").exists()


def test_a_short_run_is_done_in_float32_untried(tiny_range: TinyRange, tmp_path: Path) -> None:
    told: list[str] = []
    draft = draft_run(tiny_range.settings(), str(tmp_path / "run"), told.append)
    assert draft.manifest["identity"]["precision"] == "fp32"
    assert "precisions" not in draft.manifest["model"]
    assert not any("precision" in line for line in told)


def test_a_run_that_nothing_was_tried_for_is_gone_on_with_in_float32_where_there_is_a_gpu(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take bf16 for what ``auto`` means: the map would be made by two arithmetics."""
    begin(draft_run(tiny_range.settings(), str(tmp_path / "run")), str(tmp_path / "run"))
    monkeypatch.setattr(trial, "_device", lambda: "cuda")
    at = {"auto": "cuda"}
    monkeypatch.setattr(predictor, "choose_device", lambda name: torch.device(at.get(name, name)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    again = draft_run(tiny_range.settings(), str(tmp_path / "run"))
    assert (again.resumes, again.settings.model.precision) == (True, "fp32")
    dropping = tiny_range.settings()
    dropping = replace(dropping, model=replace(dropping.model, mc_dropout=2))
    assert trial.untried(dropping) == "bf16"
    assert trial.untried(replace(dropping, cluster=replace(dropping.cluster, kind="tcp://there:1"))) == "auto"
    assert trial.untried(tiny_range.settings(model={"name": "band-ratio"})) == "auto"


def test_a_trial_that_fails_here_is_told_and_the_run_is_done_untried(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trial, "_is_short", lambda *given: False)
    monkeypatch.setattr(trial, "choose", fails)
    told: list[str] = []
    draft = draft_run(tiny_range.settings(), str(tmp_path / "run"), told.append)
    assert told[-1] == "no precision could be tried: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert draft.manifest["identity"]["precision"] == "fp32"


def test_blocks_that_lack_what_must_not_be_missing_are_not_tried_on(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are set aside by the run: they do not sink it."""
    looked: list[Any] = []

    def lacking(context: Any, inputs: Any) -> Any:
        looked.append(inputs)
        if len(looked) == 1:
            raise InputError("inputs without insar (coherence, phase)", "every modality", "leave the block")
        return stack_of(context, inputs)

    monkeypatch.setattr(trial, "_is_short", lambda *given: False)
    monkeypatch.setattr(specimen, "stack_of", lacking)
    draft = draft_run(tiny_range.settings(), str(tmp_path / "run"))
    assert len(looked) > 1
    assert draft.manifest["model"]["precisions"]["tried"]


@pytest.mark.parametrize(
    ("parameters", "blocks", "short"),
    [(1_400_000, 15, True), (1_400_000, 18, False), (70_200_000, 1, True), (70_200_000, 2, False)],
)
def test_a_large_network_is_tried_for_fewer_tiles(
    tiny_range: TinyRange, parameters: int, blocks: int, short: bool
) -> None:
    """Blocks of 2048 px, each 17 x 17 tiles of 256 px that overlap by half."""
    tiling = {"tile_px": 256, "block_px": 2048}
    assert trial._is_short(tiny_range.settings(tiling=tiling), parameters, blocks) == short


def _candidates(settings: Settings) -> list[str]:
    return trial._candidates(settings, "cryonet")


def test_on_a_gpu_bf16_is_tried_and_nothing_where_dropout_is_left_on(
    tiny_range: TinyRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_range.settings()
    assert "openvino" in _candidates(settings)
    dropping = replace(settings, model=replace(settings.model, mc_dropout=4))
    assert not trial._is_open(dropping)
    compiled = replace(settings, model=replace(settings.model, precision="bf16-compiled"))
    with pytest.raises(InputError, match="precision bf16-compiled on cpu; expected a GPU"):
        trial.require_precision(compiled)
    promised = replace(settings, cluster=replace(settings.cluster, gpu_workers=1))
    assert _candidates(promised) == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert _candidates(settings) == _candidates(promised) == ["bf16-fused", "bf16"]
    assert trial._candidates(settings, "unet") == ["bf16-compiled", "bf16"]
    turned = replace(settings, model=replace(settings.model, flips=True))
    assert _candidates(turned) == ["bf16"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert _candidates(settings) == []


def test_more_workers_with_a_gpu_than_gpus_are_refused_and_none_at_all_is_a_process_on_a_cpu(
    tiny_range: TinyRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_range.settings()
    asked = replace(settings, cluster=replace(settings.cluster, gpu_workers=3))
    trial.require_precision(asked)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="gpu_workers 3 on a machine that shows 2 GPUs; expected one a GPU"):
        trial.require_precision(asked)
    trial.require_precision(replace(settings, cluster=replace(settings.cluster, gpu_workers=2)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ["0", "1"]),
        ("2,3", ["2", "3"]),
        ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]),
        ("5", ["5", ""]),
        ("", ["", ""]),
    ],
)
def test_actors_take_the_gpus_that_a_process_was_given(
    given: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert [cluster._gpu(number) for number in range(2)] == expected


def test_on_a_gpu_the_network_is_tried_as_it_is_served_there(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_cpu(**keywords: Any) -> Any:
        model = load_predictor(**{**keywords, "device": "cpu"})
        monkeypatch.setattr(type(model), "on_device", True)
        loaded.append(model)
        return model

    loaded: list[Any] = []
    monkeypatch.setattr(trial, "_device", lambda: "cuda")
    monkeypatch.setattr(trial, "_candidates", lambda settings, network: ["bf16"])
    monkeypatch.setenv("CRYOSCALE_GPU_BATCH", "5")
    monkeypatch.setattr(trial, "load_predictor", on_cpu)
    told: list[str] = []
    draft = draft_run(tiny_range.settings(), str(tmp_path / "run"), told.append)
    assert any("gpu_workers is 0 and there is a GPU" in line for line in told)
    reference, served = draft.manifest["model"]["precisions"]["tried"]
    assert [model.precision for model in loaded] == ["fp32", "bf16"]
    assert ("network" in vars(loaded[0]), "network" in vars(loaded[1])) == (False, True)
    assert reference["precision"] == "fp32"
    assert 0 < served["difference"] < 0.05  # weights are drawn: too much for the gate, and no more

    monkeypatch.setattr(trial, "_taken", lambda *given: None)
    draft = draft_run(tiny_range.settings(), str(tmp_path / "run"))
    assert draft.manifest["identity"]["precision"] == "fp32"


@contextmanager
def joined() -> Iterator[str]:
    """A cluster whose only worker, in this process, offers a GPU; where its scheduler listens."""
    from distributed import Client

    offers = {"CPU": 2, "GPU": 1}
    options = {"processes": False, "protocol": "tcp", "host": "127.0.0.1", "dashboard_address": None}
    with Client(n_workers=1, threads_per_worker=2, resources=offers, **options) as client:
        yield client.scheduler.address


def tried_on_a_cluster(tiny_range: TinyRange, out: Path) -> tuple[Draft, Draft, list[str]]:
    """The draft of a run on such a cluster before and after the trial, and what was told."""
    told: list[str] = []
    with joined() as address:
        settings = tiny_range.settings(cluster={"kind": address})
        before = draft_run(settings, str(out))
        with Site(settings.cluster, str(out)) as site:
            return before, tried_there(before, site, told.append), told


def test_a_gpu_of_a_cluster_is_asked_which_precision_it_can_be(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_cpu(**keywords: Any) -> Any:
        return load_predictor(**{**keywords, "device": "cpu"})

    monkeypatch.setattr(trial, "_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(trial, "load_predictor", on_cpu)
    before, after, told = tried_on_a_cluster(tiny_range, tmp_path / "run")
    assert "precisions" not in before.manifest["model"]
    found = after.manifest["model"]["precisions"]
    reference, fused, short = found["tried"]
    assert (reference["precision"], short["precision"]) == ("fp32", "bf16")
    assert "cannot be had" in fused["why_not"]  # on this CPU
    assert short["agreement"] > 0.9
    assert found["precision"] == after.settings.model.precision == after.manifest["identity"]["precision"]
    assert told[0] == "trying precisions on blocks of the run"
    assert sum(line.startswith("precision ") for line in told) == 3
    begin(after, str(tmp_path / "run"))
    again = draft_run(tiny_range.settings(cluster={"kind": "tcp://127.0.0.1:1"}), str(tmp_path / "run"))
    assert (again.resumes, again.settings.model.precision) == (True, found["precision"])


@pytest.mark.parametrize(("intake_bytes_s", "pays"), [(1e3, True), (1e12, None), (2e7, False)])
def test_a_network_that_outruns_its_channels_has_them_made_on_the_gpu(
    tiny_range: TinyRange,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    intake_bytes_s: float,
    pays: bool | None,
) -> None:
    """Where an actor takes in little, much, and so much that making channels costs more than it saves."""

    def on_cpu(**keywords: Any) -> Any:
        model = load_predictor(**{**keywords, "device": "cpu"})
        monkeypatch.setattr(type(model), "on_device", True)
        return model

    class Slow(Deriver):
        def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
            if pays is False:
                time.sleep(0.1)  # 8 ms a tile, which take 4 to arrive
            return super().__call__(numbers)

    monkeypatch.setattr(trial, "_device", lambda: "cuda")
    monkeypatch.setattr(trial, "_candidates_there", lambda settings, network: ["bf16"])
    monkeypatch.setattr(trial, "load_predictor", on_cpu)
    monkeypatch.setattr(deriving, "INTAKE_BYTES_S", intake_bytes_s)
    monkeypatch.setattr(derive, "Deriver", Slow)
    limits = {"LEAST_AGREEMENT": 0.5, "LEAST_CLASS_IOU": 0.1, "MOST_DIFFERENCE": 0.1}  # the weights are drawn
    for name, limit in limits.items():
        monkeypatch.setattr(parity, name, limit)
    monkeypatch.setattr(trial, "choose", as_bf16)
    _, after, told = tried_on_a_cluster(tiny_range, tmp_path / "run")
    found = after.manifest["model"]["precisions"]
    assert found["precision"] == "bf16"
    if pays is None:
        assert "derivation" not in found
    else:
        assert found["derivation"]["pays"] is pays
        assert 0.5 < found["derivation"]["agreement"] <= 1
        assert found["derivation"]["numbers_s"] < found["derivation"]["channels_s"]
        assert told[-1].startswith("channels made on the GPU: ")
        assert told[-1].endswith(", not taken") is not pays
    assert after.settings.model.derive_on == ("device" if pays else "auto")
    assert after.manifest["identity"].get("derive_on") == ("device" if pays else None)
    assert after.manifest["context"]["derive_on"] == ("device" if pays else "workers")
    begin(after, str(tmp_path / "run"))
    again = draft_run(tiny_range.settings(cluster={"kind": "tcp://127.0.0.1:1"}), str(tmp_path / "run"))
    assert (again.resumes, again.settings.model.derive_on) == (True, "device" if pays else "workers")


def test_a_gpu_that_cannot_make_channels_keeps_the_precision_that_was_found(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> Any:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(trial, "_device", lambda: "cuda")
    monkeypatch.setattr(trial, "_candidates_there", lambda settings, network: ["bf16"])
    monkeypatch.setattr(trial, "load_predictor", lambda **given: load_predictor(**{**given, "device": "cpu"}))
    monkeypatch.setattr(trial, "choose", as_bf16)
    monkeypatch.setattr(deriving, "INTAKE_BYTES_S", 1e3)
    monkeypatch.setattr(trial, "try_deriving", fails)
    _, after, told = tried_on_a_cluster(tiny_range, tmp_path / "run")
    assert (after.settings.model.precision, after.settings.model.derive_on) == ("bf16", "auto")
    assert "no GPU of the cluster could try to: no kernel image is available" in told[-1]


def as_bf16(*given: Any) -> Choice:
    """A trial that bf16 has won, a millisecond a tile."""
    return Choice("bf16", (Parity("fp32", 1.0, 0.0, 0.004), Parity("bf16", 1.0, 0.0, 0.001)))


def test_a_cluster_without_a_gpu_takes_float32_and_one_that_fails_is_told(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, told = tried_on_a_cluster(tiny_range, tmp_path / "run")
    assert before.manifest["identity"]["precision"] == "auto"
    assert after.manifest["identity"]["precision"] == after.settings.model.precision == "fp32"
    assert told == []

    def fails(settings: Settings, network: str) -> list[str]:
        raise RuntimeError("CUDA driver version is insufficient")

    monkeypatch.setattr(trial, "_candidates_there", fails)
    before, after, told = tried_on_a_cluster(tiny_range, tmp_path / "run")
    assert after is before
    assert len(told) == 1
    assert "untried: CUDA driver version is insufficient" in told[0]

    monkeypatch.setattr(trial, "_candidates_there", lambda settings, network: ["bf16-fused"])
    monkeypatch.setattr(trial, "choose", lambda *given: fails(*given[:2]))
    _, after, told = tried_on_a_cluster(tiny_range, tmp_path / "run")
    assert after.manifest["identity"]["precision"] == "bf16"
    assert "untried: CUDA driver version is insufficient" in told[-1]


def test_a_run_is_gone_on_with_in_the_precision_that_it_was_begun_with(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Choice("openvino", (Parity("fp32", 1.0, 0.0, 2.0), Parity("openvino", 1.0, 0.0, 1.0)))
    calls: list[Any] = []

    def chosen(*arguments: Any) -> Choice:
        calls.append(arguments)
        return made

    monkeypatch.setattr(trial, "_is_short", lambda *given: False)
    monkeypatch.setattr(trial, "choose", chosen)
    settings, out = load_config(few_by_network(tiny_range)), tmp_path / "run"
    outcome = run_pipeline(settings, str(out))
    assert outcome.exit_code == 0
    assert len(calls) == 1
    tiles, valid = calls[0][2:4]
    assert tiles.shape[1:] == (30, 64, 64)
    assert valid.shape == (len(tiles), 64, 64)
    assert valid.any()

    # a block done again, though the trial would by now choose another
    made = Choice("fp32", made.tried)
    marker = next(path for path in (out / "ledger" / "done").rglob("*.json"))
    whole = json.loads(marker.read_text())
    marker.unlink()
    again = run_pipeline(settings, str(out))
    assert (again.computed, len(calls)) == (1, 1)
    assert json.loads(marker.read_text())["checksum"] == whole["checksum"]

    # and it is the map of a run that asked for it by name
    named = tmp_path / "named"
    document = few_by_network(tiny_range)
    document["model"]["precision"] = "openvino"
    run_pipeline(load_config(document), str(named))
    assert bytes_that_differ(out, named) == 0

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExtraError, match=r"cryoscale\[cpu\]"):
        run_pipeline(settings, str(out))


def test_float32_of_openvino_is_nearly_the_map_of_torch(tiny_range: TinyRange, tmp_path: Path) -> None:
    document = few_by_network(tiny_range)
    for name in ("fp32", "openvino"):
        document["model"]["precision"] = name
        map_here(load_config(document), tmp_path / name)
    from cryoscale.write.mosaic import open_mosaic, zones

    for epsg in zones(tmp_path / "fp32", 2018):
        torchs, ours = (open_mosaic(tmp_path / name, 2018, epsg) for name in ("fp32", "openvino"))
        apart = abs(torchs["probability"].astype(int) - ours["probability"].astype(int))
        assert int(apart.max()) <= 1
