"""``cryoscale bench``: it says what it measured, and its rivals do the same work; no speed is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner

from cryoscale.bench import (
    actor,
    blending,
    clock,
    features,
    fed,
    ground,
    idle,
    limits,
    network,
    processes,
    record,
    suite,
    timeline,
    whole,
    writing,
)
from cryoscale.cli import app
from cryoscale.cluster import workers
from cryoscale.errors import InputError, OutputError
from cryoscale.features.channels import CHANNELS
from cryoscale.features.stack import build_stack
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.blend import Blender
from cryoscale.infer.tiles import read_window
from cryoscale.ledger import Marker
from cryoscale.models import serving, weights
from cryoscale.models.cryonet import CryoNet
from cryoscale.models.predictor import Predictor, quicker_on_cpus
from cryoscale.settings import ClusterSpec
from cryoscale.write import mosaic


@pytest.fixture
def _less_to_copy_and_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine can do, measured on so little that it is no measure."""
    monkeypatch.setattr(limits, "_COPY_BYTES", 2**20)
    monkeypatch.setitem(limits._EDGE, "cpu", 128)


@pytest.mark.usefixtures("_less_to_copy_and_multiply")
def test_a_bench_prints_every_stage_beside_its_limit_and_its_rival(tmp_path: Path) -> None:
    kept, drawn = tmp_path / "bench.jsonl", tmp_path / "new" / "timeline.png"
    command = ["bench", "--scale", "tiny", "--device", "cpu", "--out", str(kept), "--timeline", str(drawn)]
    threads = torch.get_num_threads()
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    assert torch.get_num_threads() == threads  # no workload is measured with what another one pinned
    (line,) = [json.loads(text) for text in kept.read_text("utf-8").splitlines()]
    assert line["machine"]["cores"] >= 1
    assert line["versions"]["torch"]
    assert line["versions"]["openvino"]
    assert line["results"]["limits"]["copy_gb_s"] > 0
    stages = line["results"]["figures"]
    network_stages = {"network tiny", "actor tiny", "actor of numbers tiny", "fed actor tiny"}
    others = {"features", "blending", "reading", "writing", "orchestration", "mapping", "end to end"}
    assert set(stages) == network_stages | {"network tiny, by trial"} | others
    assert stages["network tiny, by trial"]["precision"] in quicker_on_cpus()
    for name, figure in stages.items():
        assert name in answer.stdout
        assert figure["rate"] > 0
        assert figure["limit"] > 0
        assert figure["of_limit"] == pytest.approx(figure["rate"] / figure["limit"], rel=1e-3)
        if name == "end to end":
            assert figure["times_rival"] is None  # the loop beside it only maps
        else:
            assert figure["times_rival"] == pytest.approx(figure["rate"] / figure["rival_rate"], rel=1e-3)
    assert stages["features"]["memory_over_output"] < 2.5
    assert stages["features"]["plain_copy_mpx_s"] > 0
    assert {"rasterio's warper", "rasterio + our resampling"} <= set(stages["reading"]["times_each"])
    assert stages["mapping"]["blocks"] >= 1
    mapping, whole_run = stages["mapping"], stages["end to end"]
    assert mapping["seconds"] == whole_run["seconds"]
    assert mapping["seconds"]["mapping"] > 0
    assert whole_run["rate"] < mapping["rate"]
    assert set(whole_run["cpu_seconds"]) == {*mapping["cpu_seconds"], "prepare", "finish"}
    assert min(whole_run["cpu_seconds"].values()) > 0
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_both_products_that_the_limit_is_taken_from_are_one() -> None:
    left, right = torch.randn(6, 6), torch.randn(6, 6)
    pixels = left.reshape(1, 6, 6, 1).permute(0, 2, 1, 3)
    found = torch.nn.functional.conv2d(pixels, right.reshape(6, 6, 1, 1))[0, :, :, 0].T
    torch.testing.assert_close(found, left @ right.T)


def test_what_cannot_be_measured_is_refused_in_a_line_before_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "measure_limits", lambda device: pytest.fail("something was measured"))
    with pytest.raises(InputError, match="workload 'fetures'.*features"):
        suite.measure(["fetures"], "tiny")
    with pytest.raises(InputError, match="scale 'huge'.*moderate"):
        suite.measure([], "huge")
    with pytest.raises(InputError, match="--timeline .* without end-to-end"):
        suite.measure(["blending"], "tiny", timeline=tmp_path / "timeline.png")
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path, file / "under.png", Path("/proc/none/under.png")):
        with pytest.raises(OutputError):
            suite.measure(["blending"], "tiny", out=path)
        with pytest.raises(OutputError):
            suite.measure(["end-to-end"], "tiny", timeline=path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(InputError, match="device cpu for end-to-end on a machine with a GPU"):
        suite.measure([], "tiny", device="cpu")
    assert list(tmp_path.iterdir()) == [file]


def test_seconds_are_those_of_the_fastest_run_and_the_first_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took = iter([4.0, 0.3, 0.1, 0.2])
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += next(took)

    assert clock.seconds(work, turns=3) == pytest.approx(0.1)
    assert next(took, None) is None


def test_a_long_piece_of_work_is_run_twice_or_thrice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now, runs = [0.0], [0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def work() -> None:
        runs[0] += 1
        now[0] += 60.0

    assert clock.seconds(work) == pytest.approx(60.0)
    assert runs[0] <= 3


def test_the_library_route_gives_our_channels() -> None:
    inputs = ground.bands(64).fillna(0.3)
    ours = build_stack(inputs, pca=ground.PCA)
    theirs = features.all_but_texture(inputs)
    names = [name for name in CHANNELS if name != "GLCM_dissimilarity"]
    order = [*CHANNELS[:12], "NDVI", "NDSI", "NDWI", "NDGI", "PCA1", "PCA2", "PCA3"]
    order += ["TC_brightness", "TC_greenness", "TC_wetness", "slope", "aspect"]
    order += ["LST", "elevation", "velocity", "coherence", "phase"]
    assert sorted(order) == sorted(names)
    for plane, name in zip(theirs, order, strict=True):
        inside = np.s_[1:-1, 1:-1]
        tolerance = 0.05 if name in ("slope", "aspect") else 1e-4
        np.testing.assert_allclose(
            plane[inside], ours.sel(channel=name).to_numpy()[inside], atol=tolerance, err_msg=name
        )


def test_a_plain_copy_moves_the_bytes_of_a_stack() -> None:
    inputs = ground.bands(64)
    made = features.copied(inputs)
    assert made.nbytes == build_stack(inputs, pca=ground.PCA).nbytes
    for plane, band in zip(made, inputs.data_vars.values(), strict=False):
        np.testing.assert_array_equal(plane, band)
    assert not made[len(inputs.data_vars) :].any()


def test_the_loop_over_windows_gives_our_texture() -> None:
    band = ground.bands(64)["B08"].fillna(0.3)
    ours = build_stack(ground.bands(64).fillna(0.3), pca=ground.PCA).sel(channel="GLCM_dissimilarity")
    looped = features.glcm_loop(band.to_numpy()[:20, :20])
    np.testing.assert_allclose(looped, ours.to_numpy()[3:17, 3:17], rtol=1e-5)


def test_the_sums_of_a_notebook_are_our_blend() -> None:
    window = ground.block_of(128).window
    places = [(window.row + y, window.col + x) for y in range(-32, 128, 32) for x in range(-32, 128, 32)]
    drawn = ground.tiles(3, 64)
    blender = Blender(window, ground.CLASSES, 64)
    for number, (row, col) in enumerate(places):
        blender.add(drawn[number % 3], row, col)
    np.testing.assert_allclose(
        blending.weighted_sums(drawn, places, window, 64), blender.result()[0], rtol=1e-4, atol=1e-6
    )


def test_the_loop_of_a_notebook_labels_as_the_actor_does() -> None:
    predictor = network.predictor_of("tiny", device="cpu")
    window = ground.block_of(64).window
    outer = read_window(window, 64, 0.5)
    stack = np.random.default_rng(0).standard_normal((30, outer.height, outer.width), np.float32)
    ours = ModelActor({}, tile_px=64, load=lambda **_: predictor).predict(stack, outer.row, outer.col, window)
    theirs = actor.notebook(predictor, stack, outer, window, 64, 0.5, batch=1)
    assert (ours["label"] == theirs).mean() > 0.999
    assert len(np.unique(theirs)) > 1


def test_a_served_network_is_timed_on_the_tiles_that_the_other_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = network.predictor_of("tiny", device="cpu", precision="fp32")
    made: list[serving.Served] = []

    def serve(self: Predictor, batch: int, tile_px: int) -> serving.Served:
        made.append(serving.Served(self.network, batch, tile_px))
        return made[-1]

    monkeypatch.setattr(Predictor, "serve", serve)
    tiles = torch.randn(2, len(CHANNELS), 64, 64)
    assert network._served_s(predictor, tiles) > 0
    (served,) = made
    torch.testing.assert_close(served.tiles.permute(0, 3, 1, 2), tiles)
    torch.testing.assert_close(
        served.run().permute(0, 3, 1, 2), torch.softmax(predictor.model(tiles), 1), rtol=1e-3, atol=1e-4
    )


def test_fp32_of_limit_and_rivals_is_not_shortened_by_a_gpus_libraries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, real = torch.device("cuda"), serving.arithmetic
    shortened: list[bool] = []

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def one(*given: Any, **named: Any) -> Any:
            shortened.append(torch.backends.cudnn.allow_tf32)
            return call(*given, **named)

        return one

    for module in (serving, network, actor):
        monkeypatch.setattr(module, "arithmetic", lambda device, **more: real(cuda, **more))
    monkeypatch.setattr(CryoNet, "forward", noted(CryoNet.forward))
    monkeypatch.setattr(torch.nn.functional, "conv2d", noted(torch.nn.functional.conv2d))
    monkeypatch.setitem(limits._EDGE, "cpu", 8)
    predictor = network.predictor_of("tiny", device="cpu", precision="fp32")
    monkeypatch.setattr(Predictor, "__call__", lambda self, tiles: None)  # the others alone
    monkeypatch.setattr(network, "gflop_a_tile", lambda *given: 1.0)
    assert torch.backends.cudnn.allow_tf32  # torch's own choice
    found = limits._matmul_tflops("cpu", torch.float32)
    network.measure("tiny", predictor, 64, 1, limits.Limits("cpu", 1, 1.0, {"fp32": found}))
    actor._eager(predictor, np.zeros((1, len(CHANNELS), 64, 64), np.float32))
    assert len(shortened) > 10
    assert not any(shortened)


def test_dask_array_labels_its_blocks_as_an_actor_does(tmp_path: Path) -> None:
    predictor = network.predictor_of("tiny", device="cpu", precision="fp32")
    path = str(tmp_path / "drawn.safetensors")
    weights.save(predictor.model, predictor.card, path)
    block, feed = ground.block_of(128), fed.Feed(128, 64, 0.5, 3)
    labels = fed.labels_by_dask_array(path, "cpu", "fp32", block, feed)
    assert labels.shape == (128, 3 * 128)
    found = labels.compute(scheduler="synchronous")
    # the one in the middle sees its neighbours, whose drawn values are its own
    outer = read_window(block, 64, 0.5)
    middle = np.concatenate([fed.features(128, 128)] * 3, axis=2)[:, :, 96:288]
    stack = np.pad(middle, ((0, 0), (32, 32), (0, 0)), mode="symmetric")
    assert stack.shape == (30, outer.height, outer.width)
    ours = ModelActor({}, tile_px=64, load=lambda **_: predictor).predict(stack, outer.row, outer.col, block)
    assert (ours["label"] == found[:, 128:256]).mean() > 0.999


def test_every_worker_of_both_sides_is_warm_before_the_clock_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = network.predictor_of("tiny", device="cpu", precision="fp32")
    path = str(tmp_path / "drawn.safetensors")
    weights.save(predictor.model, predictor.card, path)
    block, feed = ground.block_of(64), fed.Feed(64, 64, 0.5, 4)
    with workers(ClusterSpec("local", cpu_workers=2)) as found:
        at = fed.places(found)
        assert (len(at), len(set(at))) == (found.tasks, 2) == (4, 2)
        submit, given = found.client.submit, []

        def noted(task: Callable[..., Any], *more: Any, **options: Any) -> Any:
            given.append((task, options.get("workers")))
            return submit(task, *more, **options)

        monkeypatch.setattr(found.client, "submit", noted)
        assert fed._by_dask_array(found, path, predictor, block, feed) > 0
        assert given == [(fed.one_chunk, [one]) for one in dict.fromkeys(at)]
        loaded = found.client.run(lambda: fed._loaded.cache_info().misses)
        assert set(loaded.values()) == {1}


def test_a_gpus_rival_has_a_block_for_every_worker() -> None:
    feed = fed.Feed(2048, 256, 0.5, 64)
    assert feed.rival(True, 8).blocks == 8
    assert replace(feed, blocks=4).rival(True, 8).blocks == 4
    assert feed.rival(False, 2) is feed


def test_spans_of_a_run_lie_in_the_first_row_that_is_free() -> None:
    at = 1_543_000_000.0
    starts = [{"read": at, "write": at + 5}, {"read": at + 1, "write": at + 6}, {"read": at + 3}, {}]
    seconds = {"read": 2.0, "write": 0.5}
    markers = [
        idle.marker_of(work).model_copy(update={"starts": begun, "seconds": seconds})
        for work, begun in zip(idle.works(4), starts, strict=True)
    ]
    found = timeline.spans(markers)
    reads = [span for span in found if span.stage == "read"]
    assert [(span.begin_s, span.end_s) for span in reads] == [(0, 2), (1, 3), (3, 5)]
    assert timeline.lanes(reads) == [0, 1, 0]
    assert [span.begin_s for span in found if span.stage == "write"] == [5, 6]
    with pytest.raises(ValueError, match="says when"):
        timeline.draw(markers[3:], title="", caption="")


def test_the_seconds_of_a_run_are_told_by_what_it_was_doing() -> None:
    moments = [("searching", 0.0), ("starting workers for 2 blocks", 1.0), ("mapping on 4 tasks", 3.0)]
    moments += [("making coarser levels", 10.0), ("drawing", 12.0)]
    assert whole.phases(moments, 15.0) == {"prepare": 1, "start workers": 2, "mapping": 7, "finish": 5}


def test_a_whole_run_is_held_to_the_processor_seconds_of_all_its_stages_on_the_cores_it_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = {"read": 6.0, "predict": 10.0}
    works = idle.works(2)
    markers = [
        idle.marker_of(work).model_copy(update={"cpu_seconds": cpu, "pixels": 10**6}) for work in works
    ]
    seconds = {"prepare": 2.0, "start workers": 1.0, "mapping": 20.0, "finish": 9.0}
    used = {"prepare": 3.0, "start workers": 50.0, "mapping": 99.0, "finish": 5.0}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    cores = 3
    mapping, run = whole.figures("tiny", markers, seconds, used, one_by_one_s=40.0)
    assert mapping.workload == "mapping"
    assert mapping.rate == pytest.approx(2 / 20)
    assert mapping.more["over_floor"] == pytest.approx(20 * cores / 32, rel=1e-3)
    assert mapping.times_rival == pytest.approx(2.0)
    assert run.workload == "end to end"
    assert run.rate == pytest.approx(2 / 32)
    assert run.limit == pytest.approx(2 * cores / (32 + 3 + 5))
    assert run.more["over_floor"] == pytest.approx(32 * cores / 40, rel=1e-3)
    assert run.times_rival is None
    assert record.machine()["cores"] == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)), raising=False)
    assert fed.feeders(on_gpu=True) == 4


def test_a_run_on_a_gpu_is_held_to_the_slower_of_both_and_says_how_busy_the_gpu_was() -> None:
    def marker(work: object, begin_s: float) -> Marker:
        spent = {"read": 6.0, "predict": 10.0}  # of a processor, and of the GPU
        of_clock = {
            "starts": {"read": begin_s, "predict": begin_s + 5},
            "seconds": {"read": 5.0, "predict": 12.0},
        }
        return idle.marker_of(work).model_copy(update={"cpu_seconds": spent, "pixels": 10**6, **of_clock})

    first, second = idle.works(2)
    markers = [marker(first, 100.0), marker(second, 108.0)]  # at the GPU from 5 to 25 s
    seconds = {"prepare": 2.0, "start workers": 1.0, "mapping": 28.0, "finish": 9.0}
    used = {"prepare": 3.0, "start workers": 50.0, "mapping": 99.0, "finish": 5.0}
    cores = record.machine()["cores"]
    mapping, busy, run = whole.figures("tiny", markers, seconds, used, one_by_one_s=40.0, on_gpu=True)
    assert mapping.limit == pytest.approx(2 / max(12 / cores, 20))
    assert mapping.more["cpu_seconds"] == {"read": 12.0}
    assert (busy.workload, busy.limit) == ("GPU busy", 1.0)
    assert busy.rate == pytest.approx(20 / 20)
    assert busy.rival.rate == pytest.approx(20 / 40)
    assert run.limit == pytest.approx(2 / (max(12 / cores, 20) + 8 / cores))
    assert set(run.more["cpu_seconds"]) == {"prepare", "read", "finish"}


def test_processes_that_have_ended_are_counted_to_their_family() -> None:
    before = processes.family_cpu_s(os.getpid())
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert processes.family_cpu_s(os.getpid()) - before >= 0.45


def test_a_process_that_ends_while_its_family_is_counted_is_in_the_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, counted = processes.family_cpu_s(os.getpid()), psutil.Process.cpu_times
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()

        def too_late(process: psutil.Process) -> Any:
            """The child is gone when its turn comes, and waited for."""
            if process.pid == child.pid:
                child.kill()
                child.wait()
            return counted(process)

        monkeypatch.setattr(psutil.Process, "cpu_times", too_late)
        assert processes.family_cpu_s(os.getpid()) - before >= 0.45


def test_xarrays_writer_stores_the_same_layers(tmp_path: Path) -> None:
    layers, block = ground.layers(256), ground.block_of(256)
    names = [str(number) for number in range(ground.CLASSES)]
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        mosaic.create(
            f"{folder}/mosaic.zarr",
            year=ground.YEAR,
            window=block.window,
            block_px=256,
            classes=names,
            attrs={},
        )
        mosaic.write_block(f"{folder}/mosaic.zarr", ground.YEAR, block, layers)
        ours = mosaic.open_mosaic(folder, ground.YEAR, ground.EPSG)
        writing.by_xarray(layers, Path(folder) / "other.zarr", 256)
        import xarray as xr

        theirs = xr.open_zarr(Path(folder) / "other.zarr", consolidated=False, mask_and_scale=False)
        for name, layer in layers.items():
            np.testing.assert_array_equal(theirs[name].to_numpy(), layer)
            assert ours[name].shape == layer.shape


def test_writing_is_held_to_what_it_waits_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    limit_is = writing.measure(256).limit_is
    assert "into the system's memory for files" in limit_is
    assert synced == [], "a writer that waits for the disk is to be held to the disk"


def test_the_papers_network_takes_the_operations_that_others_count() -> None:
    # 127.5 GFLOP with each multiplication and addition counted
    assert network.gflop_a_tile("cryonet", 256) == pytest.approx(127.5, rel=0.01)


@pytest.mark.usefixtures("_less_to_copy_and_multiply")
def test_what_was_measured_before_somebody_stopped_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: object, **named: object) -> object:
        raise KeyboardInterrupt

    kept = tmp_path / "bench.jsonl"
    monkeypatch.setattr("cryoscale.bench.writing.measure", stopped)
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        suite.measure(["blending", "writing"], "tiny", out=kept, on_stage=told.append)
    line = json.loads(kept.with_name("bench.jsonl.part").read_text())
    assert not kept.exists()
    assert told[-1].endswith("bench.jsonl.part")
    assert list(line["results"]["figures"]) == ["blending"]
    figure = line["results"]["figures"]["blending"]
    assert f"  {figure['rate']:g} {figure['unit']}" in told
