"""The comparison with peers: it runs without them, and every way maps the scene that it was given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers import __main__ as peers
from benchmarks.peers import routes, scene
from cryoscale.bench import ground, network
from cryoscale.models import weights
from cryoscale.models.loading import load_predictor


@pytest.fixture
def job(tmp_path: Path) -> routes.Job:
    """A tiny network with drawn weights over a scene of two blocks by two, some of it without data."""
    drawn = network.predictor_of("tiny", device="cpu", precision="fp32")
    weights.save(drawn.model, drawn.card, tmp_path / "drawn.safetensors")
    stack, made_of = scene.make(None, 128)
    stack[:12, 40:50, 70:90] = np.nan
    scene.write_scene(tmp_path, stack, made_of, 64)
    path = str(tmp_path)
    return routes.Job("", path, f"{path}/drawn.safetensors", path, 32, 0.5, 64, 1)


@pytest.mark.benchmarks
def test_a_comparison_without_the_libraries_says_so_and_keeps_a_whole_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, route in routes.ROUTES.items():
        if route.needs:
            monkeypatch.setitem(routes.ROUTES, name, replace(route, needs="no_such_module"))
    in_child = peers.measured

    def measured(job: routes.Job) -> dict[str, Any]:
        # a process for each would spend most of the time on importing torch
        return in_child(job) if (job.route, job.overlap) == (peers.REFERENCE, 0.5) else routes.measure(job)

    monkeypatch.setattr(peers, "measured", measured)
    kept = tmp_path / "peers.jsonl"
    asked = ["--route", "notebook's loop", "--route", "TerraTorch", "--threads", "1"]
    peers.main(["--scale", "tiny", "--out", str(kept), *asked])
    (line,) = [json.loads(text) for text in kept.read_text("utf-8").splitlines()]
    assert line["sizes"]["scene_px"] == [256, 256]
    whole, cheap, loop, absent = line["results"]["tiny"]["rows"]
    assert (whole["overlap"], cheap["overlap"], loop["overlap"]) == (0.5, 0.125, 0.5)
    # 4 blocks of 128 px, each touched by 5 x 5 tiles of 64 px at 32; the loop's tiles stay inside
    assert (whole["tiles"], loop["tiles"]) == (100, 49)
    assert cheap["tiles"] < whole["tiles"]
    assert (whole["same_label"], whole["no_data_mapped"]) == (1.0, 0.0)
    assert loop["no_data_mapped"] == 1.0
    assert loop["same_label_inside"] > 0.999
    for row in (whole, cheap, loop):
        assert min(row["seconds"], row["cpu_s"], row["loaded_mib"]) > 0
    assert whole["peak_mib"] > 1
    assert (absent["route"], absent["note"]) == ("TerraTorch", "not installed")
    assert "seconds" not in absent
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("cryoscale, blocks", "notebook's loop", "not installed"))


def test_cryoscale_by_blocks_and_at_once_is_one_map(job: routes.Job) -> None:
    whole = scene.open_scene(Path(job.scene))
    blocks, once = routes.by_blocks(job)(whole), routes.at_once(job)(whole)
    np.testing.assert_array_equal(blocks.label, once.label)
    np.testing.assert_array_equal(blocks.probability, once.probability)
    assert (once.label == 255).any()


def test_a_notebooks_tiles_give_cryoscales_map_far_from_the_rim(job: routes.Job) -> None:
    whole = scene.open_scene(Path(job.scene))
    ours, theirs = routes.at_once(job)(whole), routes.notebook(job)(whole)
    inside = np.s_[32:-32, 32:-32]
    valid = (ours.label != 255)[inside]
    assert (ours.label == theirs.label)[inside][valid].mean() > 0.999
    assert theirs.tiles == 49


@pytest.mark.skipif(not routes.ROUTES["TerraTorch"].there, reason="the extra peers is not installed")
def test_terratorch_gives_cryoscales_map_far_from_the_rim_where_it_cuts_the_same_tiles(
    job: routes.Job,
) -> None:
    whole = scene.open_scene(Path(job.scene))
    assert routes.terratorch(job)(whole).label.shape == (128, 128)
    from terratorch.tasks.tiled_inference import tiled_inference

    image = torch.from_numpy(whole.read(whole.window)[0])[None]
    told = {"crop": 32, "stride": 16, "delta": 0, "padding": False, "batch_size": 1}
    theirs = tiled_inference(routes.Network(job), image, **told)[0].argmax(0).numpy()
    ours = routes.at_once(job)(whole).label
    inside = np.s_[32:-32, 32:-32]
    valid = (ours != 255)[inside]
    assert (theirs == ours)[inside][valid].mean() > 0.99


@pytest.mark.skipif(not routes.ROUTES["torchgeo"].there, reason="the extra peers is not installed")
def test_torchgeos_chips_are_put_where_they_were_cut(job: routes.Job) -> None:
    whole = scene.open_scene(Path(job.scene))
    scene.write_tiff(whole)
    features, network_ = whole.read(whole.window)[0], routes.Network(job)
    sums, count = 0.0, np.zeros((128, 128))
    for row in range(0, 97, 16):
        for col in range(0, 97, 16):
            at = np.s_[row : row + 32, col : col + 32]
            answer = np.zeros((5, 128, 128))
            answer[(..., *at)] = network_(torch.from_numpy(features[(..., *at)])[None])[0].numpy()
            sums, count[at] = sums + answer, count[at] + 1
    np.testing.assert_allclose(routes.torchgeo(job)(whole).probability, sums / count, atol=1e-5)


def test_a_notebooks_network_answers_as_cryoscales_predictor(job: routes.Job) -> None:
    tiles = scene.open_scene(Path(job.scene)).read(scene.open_scene(Path(job.scene)).window)[0][None]
    assert np.isnan(tiles).any()
    theirs = routes.Network(job)(torch.from_numpy(tiles)).numpy()
    ours = load_predictor(weights=job.weights, device="cpu", precision="fp32")(tiles)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_seams_are_looked_for_where_tiles_begin_and_where_they_end() -> None:
    job = routes.Job("cryoscale, blocks", "", "", "", 64, 0.25, 256, 1)
    rng = np.random.default_rng(0)
    base = rng.integers(100, 110, (1, 384, 384)).astype(np.uint8)
    reference = np.zeros((384, 384), np.uint8)
    reference[:5] = 255
    for step in (48, 16):  # the stride, and where 64 px ends on it
        torn = base.copy()
        torn[:, :, step::48] += 20
        found = peers.judged(torn, reference, reference, job)
        assert found["seam_probability"] > 2
        assert found["seam_label"] == found["same_label"] == found["same_label_inside"] == 1.0
    assert peers.judged(base, reference, reference, job)["seam_probability"] < 1.2
    mapped = peers.judged(base, np.zeros_like(reference), reference, job)
    assert mapped["no_data_mapped"] == 1.0


def test_a_scene_is_cut_to_its_data_and_mirrored() -> None:
    stack = np.full((2, 30, 40), np.nan, np.float32)
    stack[:, 5:25, 10:40] = np.arange(2 * 20 * 30).reshape(2, 20, 30)
    cut = scene.with_data(stack)
    np.testing.assert_array_equal(cut, stack[:, 5:25, 10:40])
    made = scene.mirrored(cut, 24)
    assert made.shape == (2, 24, 24)
    np.testing.assert_array_equal(made[:, 20:], made[:, 16:20][:, ::-1])
    np.testing.assert_array_equal(made[:, :20], cut[:, :, :24])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--scene-px", "100"], "a scene of 100 px"),
        (["--threads", "0"], "--threads: given '0'"),
        (["--network", "cryonet", "--weights-cryonet", "none.safetensors"], "none.safetensors"),
        (["--scene", "SCENE"], "holds 128 x 128 px"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(
    asked: list[str], told: str, job: routes.Job, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Path(job.out) / "peers.jsonl"
    asked = [job.scene if word == "SCENE" else word for word in asked]
    with pytest.raises(SystemExit) as ended:
        peers.main(["--scale", "tiny", *asked, "--out", str(kept)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not kept.exists()


@settings(max_examples=50)
@given(size=st.integers(1, 400), tile=st.integers(1, 64), stride=st.integers(1, 64))
def test_flush_tiles_cover_an_axis_and_end_with_it(size: int, tile: int, stride: int) -> None:
    tile, stride = min(tile, size), min(stride, tile, size)
    found = routes.flush(size, tile, stride)
    assert sorted({pixel for origin in found for pixel in range(origin, origin + tile)}) == list(range(size))
    assert len(set(found)) == len(found)


@settings(max_examples=30)
@given(height=st.integers(1, 100), width=st.integers(1, 100), block=st.integers(7, 60))
def test_blocks_cover_a_window_once(height: int, width: int, block: int) -> None:
    window = ground.block_of(block).window
    window = replace(window, height=height, width=width)
    count = np.zeros(window.shape, int)
    for part in routes.blocks(window, block):
        count[part.slices_in(window)] += 1
    assert (count == 1).all()
