# ruff: noqa: F401, F811  (fixtures of another file, which are arguments here)
"""Hosts that go away and come back: what a dead one costs, and that nothing of a living one is lost to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoscale import featurise
from cryoscale.basis import fit_run_basis
from cryoscale.drive import Driver
from cryoscale.errors import AssetReadError, HostDownError, InputError
from cryoscale.ledger import Ledger
from cryoscale.outcome import Outcome, Watch
from cryoscale.plan import find_items
from cryoscale.preparation import prepare
from cryoscale.read import hosts, http, signing
from cryoscale.read.inputs import read_inputs
from cryoscale.roster import Workers
from tests.integration.conftest import TinyRange, map_here, save_random_network
from tests.integration.misbehave import Fault, Server, misbehaving, remote_catalogue
from tests.integration.test_read_faults import (
    QUICK,
    lost_pixels,
    only_blue,
    root,
    scenes,
    served_scenes,
    tile,
    undisturbed,
)
from tests.integration.test_read_inputs import WINDOW
from tests.tables import Table

BAND_RATIO = {"model": {"name": "band-ratio"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASSETS", replace(QUICK, attempts=4, first_s=0.01))


@contextmanager
def closed_port() -> Iterator[int]:
    """A port where a server was and none is now."""
    with misbehaving(Path(".")) as gone:
        port = int(gone.url.rsplit(":", 1)[1])
    yield port


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The address of each single try at a connection."""
    made: list[str] = []
    once = http._once

    def counted(request: http.Request, *rest: Any) -> http.Answer:
        made.append(request.url)
        return once(request, *rest)

    monkeypatch.setattr(http, "_once", counted)
    return made


def test_scenes_of_a_dead_host_cost_three_requests_and_not_three_each(
    tries: list[str], matrix: Table
) -> None:
    with closed_port() as port:
        for number in range(12):
            kind = AssetReadError if number < hosts.DOWN_AFTER else HostDownError
            with pytest.raises(kind, match="down" if kind is HostDownError else "no connection"):
                read_inputs({"terrain": [tile(f"http://127.0.0.1:{port}")]}, WINDOW)
    allowed = hosts.DOWN_AFTER * http.ASSETS.attempts
    matrix.add("host gone, 12 scenes of it", len(tries), f"{len(tries)} tries in place of 48", "-")
    assert len(tries) == allowed


def test_the_last_attempt_really_asks_a_host_that_is_taken_for_down(
    root: Path,
    undisturbed: xr.Dataset,
    tries: list[str],
    matrix: Table,
) -> None:
    with closed_port() as port:
        url = f"http://127.0.0.1:{port}"
        for _ in range(hosts.DOWN_AFTER):
            with pytest.raises(AssetReadError):
                read_inputs({"terrain": [tile(url)]}, WINDOW)
        tries.clear()
        with pytest.raises(AssetReadError, match=r"no connection.*down before"):
            read_inputs({"terrain": [tile(url)]}, WINDOW, leave_unreachable=True)
        assert len(tries) == hosts.KNOCKS
        with misbehaving(root, port=port):
            with pytest.raises(HostDownError):
                read_inputs({"terrain": [tile(url)]}, WINDOW)
            data, report = read_inputs({"terrain": [tile(url)]}, WINDOW.pad(100), leave_unreachable=True)
            again, _ = read_inputs({"terrain": [tile(url)]}, WINDOW.pad(100))  # and now everybody may
    lost = lost_pixels(data, undisturbed) + lost_pixels(again, undisturbed)
    matrix.add("host gone, back before the last attempt", len(tries), "asked, and read", lost)
    assert lost == 0
    assert report.scenes_failed == ()


def test_one_bad_file_on_a_living_host_costs_no_other_file_in_the_last_attempt(
    scenes: Path,
    matrix: Table,
) -> None:
    with misbehaving(scenes, plan=only_blue(Fault("hang-up"))) as host:
        items = served_scenes(scenes, host.url)
        for _ in range(hosts.DOWN_AFTER):
            hosts.HOSTS.gave_up(host.url, "the connection broke", None)
        data, report = read_inputs({"optical": items}, WINDOW, leave_unreachable=True)
        assert any(one.path.endswith("B05.tif") and one.status == 206 for one in host.asked)
    alone, _ = read_inputs({"optical": items[:1]}, WINDOW)
    lost = lost_pixels(data, alone)
    matrix.add("one file hangs up, host taken for down", len(host.suffered), "others used, scene named", lost)
    assert lost == 0
    assert [name for name, _ in report.scenes_failed] == ["bad"]


def test_after_the_cooling_one_request_finds_out_that_the_host_is_back(
    root: Path,
    undisturbed: xr.Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(hosts, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    with closed_port() as port:
        url = f"http://127.0.0.1:{port}"
        for _ in range(hosts.DOWN_AFTER):
            with pytest.raises(AssetReadError):
                read_inputs({"terrain": [tile(url)]}, WINDOW)
        with misbehaving(root, port=port):
            with pytest.raises(HostDownError):
                read_inputs({"terrain": [tile(url)]}, WINDOW)
            now_s[0] = hosts.COOLING_S + 1
            data, _ = read_inputs({"terrain": [tile(url)]}, WINDOW.pad(100))
    assert lost_pixels(data, undisturbed) == 0


def test_a_signer_that_is_down_is_not_asked_for_every_asset(
    root: Path,
    undisturbed: xr.Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    down = [True]

    def sign(href: str, fresh: bool) -> str:
        asked.append(href)
        if down[0]:
            raise OSError("no token")
        return href

    monkeypatch.setitem(signing.SIGNERS, "own", sign)
    with misbehaving(root) as host:
        for _ in range(8):
            with pytest.raises(AssetReadError, match=r"cannot be signed"):
                read_inputs({"terrain": [tile(host.url, "own")]}, WINDOW)
        assert len(asked) == hosts.DOWN_AFTER
        down[0] = False
        with pytest.raises(HostDownError):
            read_inputs({"terrain": [tile(host.url, "own")]}, WINDOW)
        data, _ = read_inputs({"terrain": [tile(host.url, "own")]}, WINDOW.pad(100), leave_unreachable=True)
    assert lost_pixels(data, undisturbed) == 0


# --- whole runs -----------------------------------------------------------------------------------------


@contextmanager
def one_process(*_: Any, **__: Any) -> Iterator[Workers]:
    """Workers of both kinds in this process, so that what is changed here holds for them."""
    from distributed import Client

    with Client(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        resources={"CPU": 2, "GPU": 1},
        dashboard_address=None,
    ) as client:
        yield Workers(client, 2, 1)


def small(tiny_range: TinyRange) -> dict[str, Any]:
    """A corner of the range: a few blocks, in one zone."""
    west, south, east, north = tiny_range.bbox
    return {"bbox": [round(v, 5) for v in (west, south, west + (east - west) / 4, (south + north) / 2)]}


def goes_away(host: Server, plan: list[bool]) -> Any:
    return lambda path, number: Fault("hang-up") if plan[0] and path.startswith("/files/") else None


@contextmanager
def back_when_missed(host: Server, away: list[bool], later_s: float) -> Iterator[None]:
    """Let the host come back so long after it was taken for down, however slow the machine is until then."""
    over = threading.Event()

    def wait() -> None:
        while hosts.HOSTS.refusal(host.url, insist=True) is None:
            if over.wait(0.02):
                return
        over.wait(later_s)
        away[0] = False

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        over.set()
        waiting.join()


def test_a_run_whose_host_goes_away_and_comes_back_is_the_undisturbed_run(
    tiny_range: TinyRange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matrix: Table
) -> None:
    monkeypatch.setattr(hosts, "COOLING_S", 3.0)
    settings = tiny_range.settings(**BAND_RATIO, region=small(tiny_range))
    expected = {marker.block: marker.checksum for marker in map_here(settings, tmp_path / "undisturbed")}
    away = [True]
    with misbehaving(tiny_range.folder) as host:
        host.plan = goes_away(host, away)
        remote_catalogue(tiny_range.folder, tmp_path / "remote", host.url)
        served = tiny_range.settings(
            **BAND_RATIO, region=small(tiny_range), catalogs=[{"url": str(tmp_path / "remote")}]
        )
        out = str(tmp_path / "run")
        identity, work = prepare(served, out)
        outcome = Outcome(out)
        with one_process() as found, back_when_missed(host, away, 1.0):
            Driver(served, out, identity, found, outcome, Watch()).drive(work)
    markers = list(Ledger(out).markers())
    lost = sum(expected[marker.block] != marker.checksum for marker in markers)
    told = f"{len(markers) - lost} of {len(expected)} blocks equal"
    matrix.add("host away until it is missed, whole run", len(host.suffered), told, f"{lost} blocks")
    assert not away[0]
    assert outcome.set_aside == []
    assert {marker.block: marker.checksum for marker in markers} == expected
    assert all(marker.scenes_failed == [] for marker in markers)
    assert max(marker.attempt for marker in markers) > 1


@dataclass(frozen=True)
class HalfServed:
    """A configuration, the host that scenes of one day lie behind, whether that is away, and the day."""

    document: dict[str, Any]
    host: Server
    away: list[bool]
    day: str


@pytest.fixture
def half_served(tiny_range: TinyRange, tmp_path: Path) -> Iterator[HalfServed]:
    """A configuration where the scenes of one day lie behind a host."""
    import json

    away = [False]
    with misbehaving(tiny_range.folder) as host:
        host.plan = goes_away(host, away)
        remote_catalogue(tiny_range.folder, tmp_path / "remote", host.url)
        found = sorted((tmp_path / "remote").rglob("*.json"))
        optical = [p for p in found if json.loads(p.read_text())["collection"] == "sentinel-2-l2a"]
        day = min(json.loads(p.read_text())["properties"]["datetime"][:10] for p in optical)
        for path in optical:
            document = json.loads(path.read_text())
            if document["properties"]["datetime"][:10] == day:
                continue
            for asset in document["assets"].values():
                name = asset["href"].split("/files/")[-1].split("/", 1)[-1]
                asset["href"] = str(tiny_range.folder / name)
            path.write_text(json.dumps(document))
        changed = tiny_range.config(**BAND_RATIO, catalogs=[{"url": str(tmp_path / "remote")}])
        changed["sources"] = {"optical": changed["sources"]["optical"]}
        changed["region"] = small(tiny_range)
        yield HalfServed(changed, host, away, day)


def test_the_basis_is_fitted_without_scenes_out_of_reach_and_says_so(
    half_served: HalfServed,
) -> None:
    from cryoscale.config import load_config

    document, away, day = half_served.document, half_served.away, half_served.day
    settings = load_config(document)
    items = find_items(settings)
    whole = fit_run_basis(settings, items)
    assert whole.lines() == []
    away[0] = True
    hosts.HOSTS.forget()
    from cryoscale.read.headers import KEPT

    KEPT._kept.clear()
    found = fit_run_basis(settings, items)
    ids = {item.id for item in items["2018/optical"] if item.datetime and str(item.datetime.date()) == day}
    assert ids
    assert {name for name, _ in found.scenes_failed} == ids
    assert found.windows_failed == ()
    assert all(any(name in line for line in found.lines()) for name in ids)
    rest = {**items, "2018/optical": [i for i in items["2018/optical"] if i.id not in ids]}
    alone = fit_run_basis(settings, rest)
    np.testing.assert_array_equal(found.basis.components, alone.basis.components)
    with pytest.raises(InputError, match=r"sample windows that could not be read"):
        fit_run_basis(load_config({**document, "on_unreadable": "fail"}), items)


def test_features_wait_for_a_host_and_name_what_they_were_made_without(
    half_served: HalfServed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    from cryoscale.config import load_config
    from cryoscale.features.pca import PcaBasis
    from cryoscale.read.headers import KEPT

    monkeypatch.setattr(hosts, "COOLING_S", 0.8)
    monkeypatch.setattr(featurise, "workers", one_process)
    document, away, day = half_served.document, half_served.away, half_served.day
    basis = PcaBasis(np.full(12, 0.3), np.eye(3, 12))
    settings = load_config(document)
    undisturbed = featurise.write_features(settings, str(tmp_path / "whole"), pca=basis)
    assert undisturbed["scenes_failed"] == []

    def stack(name: str) -> np.ndarray:
        group = zarr.open_group(str(tmp_path / name), mode="r")
        return np.asarray(group["2018/32644/features"])

    away[0] = True
    KEPT._kept.clear()
    with back_when_missed(half_served.host, away, 0.3):
        summary = featurise.write_features(settings, str(tmp_path / "waited"), pca=basis)
    assert not away[0]
    assert summary["scenes_failed"] == []
    np.testing.assert_array_equal(stack("waited"), stack("whole"))

    away[0] = True
    hosts.HOSTS.forget()
    KEPT._kept.clear()
    summary = featurise.write_features(settings, str(tmp_path / "without"), pca=basis)
    gaps = {name for name, _ in summary["scenes_failed"]}
    assert gaps
    assert all(day.replace("-", "") in name for name in gaps)
    group = zarr.open_group(str(tmp_path / "without"), mode="r")
    named = {name for name, _ in group["2018/32644"].attrs["cryoscale:scenes_failed"]}
    assert named == gaps

    with pytest.raises(InputError, match=r"blocks that could not be read"):
        featurise.write_features(
            load_config({**document, "on_unreadable": "fail"}), str(tmp_path / "strict"), pca=basis
        )


def test_a_run_records_what_its_basis_was_fitted_without(half_served: HalfServed, tmp_path: Path) -> None:
    from cryoscale.config import load_config
    from cryoscale.results import Run

    document, away, day = half_served.document, half_served.away, half_served.day
    away[0] = True
    save_random_network(tmp_path / "bare.safetensors", bring_basis=False)
    document["model"] = {"weights": str(tmp_path / "bare.safetensors"), "overlap": 0.5}
    stages: list[str] = []
    prepare(load_config(document), str(tmp_path / "run"), stages.append)
    sample = (Ledger(str(tmp_path / "run")).manifest() or {})["model"]["pca_sample"]
    assert sample["scenes_failed"]
    told = Run(str(tmp_path / "run")).status().sample_failed
    assert [list(gap) for gap in told] == sample["scenes_failed"]
    assert all(day.replace("-", "") in name for name, _ in told)
    assert any(told[0][0] in line for line in stages)
