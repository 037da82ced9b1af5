"""The accuracy benchmark at its smallest: its steps fit together, and its tables say what was found."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import rasterio
import xarray as xr
from sklearn.metrics import accuracy_score, jaccard_score

from benchmarks.accuracy import jobs as accuracy_jobs
from benchmarks.accuracy.__main__ import chosen, claim, main
from benchmarks.accuracy.jobs import Job, JobError, Room, _startable, done_path, outcome, run_all
from benchmarks.accuracy.plan import plan
from benchmarks.accuracy.scales import CPU, FULL, LEARNERS, MODELS, NETWORKS, SCALES, TINY, Place
from benchmarks.accuracy.steps import Bench, range_job
from benchmarks.accuracy.tables import (
    full_row,
    importance_of_seeds,
    importance_table,
    percent,
    spread,
    tables,
)
from cryoscale.errors import InputError, OutputError
from cryoscale.learn.patches import Patches
from cryoscale.learn.recipe import TrainConfig
from cryoscale.learn.scores import Scores
from cryoscale.simulate.regime import REGIMES

CHOSEN = ("cryonet",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    out = tmp_path_factory.mktemp("benchmark")
    arguments = ["--scale", "tiny", "--out", str(out / "tiny"), "--models", *CHOSEN]
    bench = Bench(TINY, out / "tiny")
    # one job as the larger scales do all, in a process of its own, which imports for seconds
    command = ["benchmarks.accuracy", *arguments]
    run_all(plan(bench, CHOSEN)[:1], bench.out, room=Room(1), command=command, tell=print)
    main([*arguments, "--results", str(out / "results.jsonl")])
    return bench


@pytest.mark.benchmarks
def test_every_job_is_done_once_and_the_page_and_the_record_say_that_all_is_simulated(made: Bench) -> None:
    jobs = plan(made, CHOSEN)
    before = {job.name: done_path(made.out, job.name).stat().st_mtime_ns for job in jobs}
    results = made.out.parent / "results.jsonl"
    arguments = ["--scale", "tiny", "--out", str(made.out), "--models", *CHOSEN]
    main([*arguments, "--results", str(results)])
    assert before == {job.name: done_path(made.out, job.name).stat().st_mtime_ns for job in jobs}
    records = [json.loads(row) for row in results.read_text().splitlines()]
    assert len(records) == 2
    first, second = (record["results"] for record in records)
    assert first["tables"] == second["tables"]
    assert first["simulated"] is True
    assert set(first["seconds"]) == set(before)
    assert records[0]["versions"]["torch"]
    assert records[0]["sizes"]["name"] == "tiny"
    page = (made.out / "tables.md").read_text()
    assert "Everything here is simulated" in page
    for heading in ("Table I", "Table II", "Table III", "Table V", "Table of costs", "Table of importance"):
        assert f"## {heading}\n" in page
    assert (made.out / "importance" / "importance.png").exists()


@pytest.mark.benchmarks
def test_table_one_holds_what_scikit_learn_finds_in_the_mosaics(made: Bench) -> None:
    (place,) = made.scale.test
    truth, labels = [], []
    for epsg, path in outcome(made.out, range_job(place))["truth"].items():
        with rasterio.open(made.out / path) as source:
            known, corner = source.read(1), source.transform
        run = made.out / "runs" / f"{place.name}-cryonet" / "mosaic.zarr" / "2018" / epsg
        with xr.open_zarr(run, consolidated=False, mask_and_scale=False) as mosaic:
            row = round((float(mosaic.y[0]) + 5 - corner.f) / -10)
            col = round((float(mosaic.x[0]) - 5 - corner.c) / 10)
            label = mosaic["label"].values
        lon = 6 * (int(epsg) % 100) - 180
        y, x = np.mgrid[: known.shape[0], : known.shape[1]]
        found = np.full(known.shape, 255, np.uint8)
        part = known[max(row, 0) : row + label.shape[0], max(col, 0) : col + label.shape[1]]
        cut = label[max(-row, 0) :, max(-col, 0) :][: part.shape[0], : part.shape[1]]
        found[max(row, 0) : max(row, 0) + cut.shape[0], max(col, 0) : max(col, 0) + cut.shape[1]] = cut
        to_degrees = rasterio.warp.transform(
            f"EPSG:{epsg}",
            "EPSG:4326",
            (corner.c + 10 * (x + 0.5)).ravel(),
            (corner.f - 10 * (y + 0.5)).ravel(),
        )
        east = np.reshape(to_degrees[0], known.shape)
        use = (known != 255) & (found != 255) & (east >= lon - 6) & (east < lon)
        truth.append(known[use])
        labels.append(found[use])
    t, p = np.concatenate(truth), np.concatenate(labels)
    table = next(table for table in tables(made) if table.number == "I")
    row_of = dict(zip(table.columns, next(r for r in table.rows if r[0] == "CryoNet"), strict=True))
    assert float(row_of["accuracy"]) == pytest.approx(100 * accuracy_score(t, p), abs=0.006)
    for name, number in (("clean ice", 1), ("debris", 2), ("background", 0)):
        iou = 100 * jaccard_score(t, p, labels=[number], average="macro")
        assert float(row_of[name].split(" / ")[0]) == pytest.approx(iou, abs=0.006)


@pytest.mark.benchmarks
def test_the_random_split_has_the_same_patches_and_the_ablation_the_same_but_for_its_channels(
    made: Bench,
) -> None:
    blocked, mixed = (Patches.open(made.patches(kind)) for kind in ("blocked", "random"))
    dry = Patches.open(made.patches("without-insar"))
    assert len(blocked) == len(mixed) == len(dry)
    np.testing.assert_array_equal(blocked.indices("test"), mixed.indices("test"))
    assert set(mixed.columns["region"][mixed.indices("validation")]) == {501, 511}
    assert set(blocked.columns["region"][blocked.indices("validation")]) == {511}
    lost = [blocked.channels.index(name) for name in ("coherence", "phase")]
    kept = [k for k in range(30) if k not in lost]
    for index in (0, len(blocked) - 1):
        x, y = blocked.read(index)
        for other in (mixed, dry):
            np.testing.assert_array_equal(other.read(index)[1], y)
        np.testing.assert_array_equal(mixed.read(index)[0], x)
        np.testing.assert_array_equal(dry.read(index)[0][kept], x[kept])
        assert np.isnan(dry.read(index)[0][lost]).all()
        assert np.isfinite(x[lost]).any()


@pytest.mark.benchmarks
def test_the_transfer_set_lies_in_another_regime_and_in_the_same_components(made: Bench) -> None:
    here, there = (Patches.open(made.patches(kind)) for kind in ("blocked", "transfer"))
    assert here.attrs["pca"] == there.attrs["pca"]
    assert set(there.columns["epsg"]) == {32631, 32632}
    assert set(here.columns["epsg"]) == {32644, 32645}


@pytest.mark.benchmarks
def test_a_folder_of_another_scale_and_unknown_names_are_refused(made: Bench, capsys) -> None:
    with pytest.raises(OutputError, match="another benchmark"):
        claim(made.out, CPU)
    with pytest.raises(InputError, match="resunet"):
        chosen(["resunet"], TINY)
    with pytest.raises(SystemExit) as ended:
        main(["--scale", "huge"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", list(SCALES))
def test_a_scale_keeps_its_ranges_apart_and_its_recipe_is_one(name: str, tmp_path: Path) -> None:
    scale = SCALES[name]
    apart = (scale.train, scale.validation, scale.test, scale.tune, scale.tune_validation, scale.transfer)
    seeds = [place.seed for places in apart for place in places]
    assert len(seeds) == len(set(seeds))
    trained = {place.regime for place in scale.train}
    assert not trained & {place.regime for place in (*scale.test, *scale.transfer)}
    assert {place.regime for places in apart for place in places} <= set(REGIMES)
    TrainConfig(name="x", patches=tmp_path, model={"name": "cryonet"}, **scale.recipe)
    assert len(scale.train) * 16 * scale.recipe.get("crops", 1) >= scale.recipe["batch"]


@pytest.mark.parametrize("scale", [CPU, FULL], ids=lambda scale: scale.name)
def test_every_model_has_its_jobs_and_every_job_waits_for_what_it_needs(scale, tmp_path: Path) -> None:
    jobs = plan(Bench(scale, tmp_path), chosen(None, scale))
    assert set(chosen(None, scale)) == set(MODELS)
    names = [job.name for job in jobs]
    assert len(names) == len(set(names))
    seen: set[str] = set()
    for job in jobs:
        assert set(job.needs) <= seen, f"{job.name} comes before what it needs"
        seen.add(job.name)
    for model in MODELS:
        for place in (*scale.test, *scale.transfer):
            assert f"map-{place.name}-{model}" in seen


@pytest.mark.parametrize("scale", [CPU, FULL], ids=lambda scale: scale.name)
def test_a_further_seed_trains_maps_and_tunes_every_learner_again_and_changes_no_job_before_it(
    scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(scale, tmp_path)
    once, thrice = plan(bench, MODELS), plan(bench, MODELS, seeds=3)
    assert [job.name for job in thrice[: len(once)]] == [job.name for job in once]
    more = {job.name: job for job in thrice[len(once) :]}
    assert len(more) == len(thrice) - len(once)
    seen = {job.name for job in once}
    for job in more.values():
        assert set(job.needs) <= seen
        seen.add(job.name)
    places = (*scale.test, *scale.transfer)
    for number in (2, 3):
        wanted = {f"train-{m}-seed-{number}" for m in LEARNERS}
        wanted |= {f"map-{place.name}-{m}-seed-{number}" for m in LEARNERS for place in places}
        wanted |= {f"tune-{m}-seed-{number}" for m in NETWORKS} | {f"importance-seed-{number}"}
        assert wanted <= more.keys()
    asked: dict[str, TrainConfig] = {}
    monkeypatch.setattr(Bench, "_fit", lambda self, name, config: asked.update({name: config}))
    for job in (*once, *more.values()):
        if job.name.removesuffix("-seed-3") in ("train-unet", "tune-unet", "train-random-forest"):
            job.work()
    assert {name: config.seed for name, config in asked.items()} == {
        **{"unet": 1, "unet-tuned": 1, "random-forest": 1},
        **{"unet-seed-3": 3, "unet-seed-3-tuned": 3, "random-forest-seed-3": 3},
    }
    assert asked["unet-seed-3"].model == asked["unet"].model
    assert asked["unet-seed-3"].patches == asked["unet"].patches


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command for the benchmark's own: it takes --job NAME and does what the name says."""
    (tmp_path / "fake_benchmark.py").write_text(
        "import json, os, pathlib, subprocess, sys, time\n"
        "name = sys.argv[sys.argv.index('--job') + 1]\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "done = home / 'done'\n"
        "done.mkdir(exist_ok=True)\n"
        "if name == 'second': json.loads((done / 'first.json').read_text())\n"
        "if name == 'bad': sys.exit('no such thing')\n"
        "if name == 'greedy' and not (home / 'tried').exists():\n"
        "    (home / 'tried').write_text('')\n"
        "    sys.exit('CUDA out of memory')\n"
        "if name == 'endless':\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    (home / 'child').write_text(str(child.pid))\n"
        "    time.sleep(60)\n"
        "told = {'seconds': 0, 'threads': os.environ.get('LOKY_MAX_CPU_COUNT')}\n"
        "(done / f'{name}.json').write_text(json.dumps(told))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return ["fake_benchmark", str(tmp_path)]


def unused() -> dict[str, int]:
    raise AssertionError("done in a process of its own")


def test_jobs_in_processes_wait_for_one_another_and_a_failure_stops_only_what_needs_it(
    tmp_path: Path, stand_in: list[str]
) -> None:
    told: list[str] = []
    jobs = [
        Job("bad", (), unused),
        Job("hopeless", ("bad",), unused),
        Job("second", ("first",), unused),
        Job("first", (), unused, slots=3),
        Job("greedy", (), unused),
    ]
    with pytest.raises(JobError, match=r"bad failed \(no such thing\).*bad\.txt") as caught:
        run_all(jobs, tmp_path, room=Room(2), command=stand_in, tell=told.append)
    assert "hopeless" not in str(caught.value)
    begun = [text.split()[-1] for text in told if "failed" not in text and "memory" not in text]
    assert sorted(begun) == ["bad", "first", "greedy", "greedy", "second"]
    assert begun.index("first") < begun.index("second")
    assert done_path(tmp_path, "greedy").exists(), "what had no room is tried once more"
    assert outcome(tmp_path, "second") == {"seconds": 0, "threads": None}
    assert outcome(tmp_path, "first") == {"seconds": 0, "threads": "3"}


def test_heavy_jobs_and_jobs_of_many_threads_take_their_room(tmp_path: Path) -> None:
    heavy = [Job(f"heavy-{n}", (), unused, heavy=True) for n in range(3)]
    wide, light = Job("wide", (), unused, slots=3), Job("light", (), unused)

    def names(room: Room, running: list[Job], *waiting: Job) -> list[str]:
        return [job.name for job in _startable(waiting, running, room, tmp_path)]

    assert names(Room(4, heavy=2), [], *heavy, light) == ["heavy-0", "heavy-1", "light"]
    assert names(Room(4, heavy=2), heavy[:2], heavy[2], light) == ["light"]
    assert names(Room(4), [], *heavy, wide, light) == ["heavy-0", "heavy-1", "heavy-2", "light"]
    assert names(Room(2), [], wide, light) == ["wide"], "alone, where there is less room than it wants"


def test_at_the_deadline_jobs_and_what_they_have_started_are_ended(
    tmp_path: Path, stand_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    child, told = tmp_path / "child", list[str]()

    def now() -> float:
        """However slow the machine is, time is over once there is something to end."""
        return 2.0 if child.exists() and child.read_text() else 1.0

    monkeypatch.setattr(accuracy_jobs, "time", SimpleNamespace(perf_counter=now, sleep=time.sleep))
    jobs = [Job("first", (), unused), Job("endless", ("first",), unused), Job("late", ("endless",), unused)]
    run_all(jobs, tmp_path, room=Room(2, until_s=0.5), command=stand_in, tell=told.append)
    assert "ended: endless" in told[-1]
    assert done_path(tmp_path, "first").exists()
    assert not psutil.pid_exists(int(child.read_text()))


@pytest.mark.benchmarks
def test_a_report_before_the_end_says_what_is_missing_and_has_dashes_for_it(
    made: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "part"
    shutil.copytree(made.out / "done", out / "done")
    for name in ("train-cryonet-random", "importance", "tune-cryonet"):
        done_path(out, name).unlink()
    for path in (out / "done").glob("map-*-cryonet-random.json"):
        path.unlink()
    arguments = ["--scale", "tiny", "--out", str(out), "--models", *CHOSEN]
    main([*arguments, "--report", "--results", str(tmp_path / "r.jsonl")])
    results = json.loads((tmp_path / "r.jsonl").read_text())["results"]
    (mapped,) = [name for name in results["missing"] if name.startswith("map-")]
    assert set(results["missing"]) == {"train-cryonet-random", "importance", "tune-cryonet", mapped}
    rows = {row[0]: row[1:] for row in results["tables"]["III"]["rows"]}
    assert set(rows["random"]) == {"-"}
    assert "-" not in rows["blocked"]
    page = (out / "tables.md").read_text()
    assert "Not complete" in page
    assert mapped in page
    assert not (out / "ranges").exists(), "a report makes nothing"


def test_a_row_says_iou_recall_and_precision_in_the_order_of_the_study() -> None:
    confusion = np.zeros((5, 5), int)
    confusion[1, 1], confusion[1, 0], confusion[0, 1], confusion[0, 0] = 60, 20, 10, 110
    row = full_row(Scores(confusion))
    assert row[0] == "66.67 / 75.00 / 85.71"
    assert row[1] == "- / - / -"
    assert row[-1] == "85.00"
    assert percent(None) == "-"


def test_the_table_of_importance_ranks_channels_and_marks_groups_of_the_same_name() -> None:
    def drop(value: float) -> dict:
        return {part: {"iou": {"mean": value}} for part in ("overall", "clean ice", "debris-covered ice")}

    found = {"channels": {"velocity": drop(0.1), "LST": drop(0.3)}, "groups": {"velocity": drop(0.1)}}
    assert [row[0] for row in importance_table(found).rows] == ["LST", "velocity", "*velocity*"]
    assert importance_table(found).rows[0][1] == "30.00"


def test_importance_of_several_seeds_is_told_with_its_spread_and_every_place() -> None:
    def told(**drops: float) -> dict:
        channels = {
            name: {part: {"iou": {"mean": value}} for part in ("overall", "clean ice", "debris-covered ice")}
            for name, value in drops.items()
        }
        return {"channels": channels, "groups": {"thermal": channels["LST"]}}

    table = importance_of_seeds([told(LST=0.3, slope=0.2, B02=0.0), told(LST=0.1, slope=0.4, B02=0.0)])
    assert table.rows == (
        ("slope", "30.00 (20.00 to 40.00)", "30.00 (20.00 to 40.00)", "2, 1"),
        ("LST", "20.00 (10.00 to 30.00)", "20.00 (10.00 to 30.00)", "1, 2"),
        ("B02", "0.00 (0.00 to 0.00)", "0.00 (0.00 to 0.00)", "3, 3"),
        ("*thermal*", "20.00 (10.00 to 30.00)", "20.00 (10.00 to 30.00)", ""),
    )


def test_the_table_of_seeds_has_mean_lowest_and_highest_of_those_that_are_done(tmp_path: Path) -> None:
    bench = Bench(TINY, tmp_path)
    (place,), (transfer,) = TINY.test, TINY.transfer

    def put(name: str, place: Place, right: int) -> None:
        confusion = np.zeros((5, 5), int)
        confusion[0, 0], confusion[2, 2], confusion[2, 0] = 100, right, 100 - right
        path = done_path(tmp_path, f"map-{place.name}-{name}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"scores": Scores(confusion).to_dict(), "ece": None, "seconds": 1.0}))

    put("unet", place, 50)
    assert "of seeds" not in {table.number for table in tables(bench)}
    put("unet-seed-2", place, 80)
    put("unet", transfer, 40)
    (table,) = (
        table for table in tables(bench, plan(bench, ("unet",), seeds=3)) if table.number == "of seeds"
    )
    assert table.rows == (
        (
            "U-Net",
            "2",
            spread([(0.5 + 2 / 3) / 2, (0.8 + 5 / 6) / 2]),
            "65.00 (50.00 to 80.00)",
            "51.25",
            "-",
        ),
    )


def test_the_workers_of_a_scale_do_not_change_what_it_is() -> None:
    assert replace(CPU, workers=7, heavy=3, wide=5).fingerprint == CPU.fingerprint
    assert replace(CPU, patch_px=128).fingerprint != CPU.fingerprint
