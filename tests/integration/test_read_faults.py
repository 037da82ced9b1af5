"""Hosts that misbehave: every fault ends in exactly the pixels of the undisturbed read, or in its name."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pystac import Item

from cryoscale.errors import (
    AssetReadError,
)
from cryoscale.plan import find_items
from cryoscale.preparation import prepare
from cryoscale.read import catalog, http, signing
from cryoscale.read.inputs import read_inputs
from cryoscale.read.raster import UnreadableError
from cryoscale.read.remote import HEADER_BYTES
from tests.integration.conftest import TinyRange, map_here
from tests.integration.misbehave import PREFIXES, Fault, Server, misbehaving, remote_catalogue
from tests.integration.test_read_inputs import WIDER, WINDOW, item, optical, write
from tests.tables import Table

QUICK = http.Patience(attempts=6, first_s=0.02, most_s=0.1, deadline_s=20.0, connect_s=2.0, stall_s=0.4)
PASSING = {
    "429, Retry-After 1 s": Fault("status", 429, (("Retry-After", "1"),)),
    "500": Fault("status", 500),
    "503": Fault("status", 503),
    "reset mid-body": Fault("reset"),
    "hang-up": Fault("hang-up"),
    "truncated body": Fault("truncate"),
    "stall": Fault("stall"),
    "range cut short": Fault("short"),
    "range ignored": Fault("whole"),
}
STAYING = {
    "503 for ever": Fault("status", 503),
    "403 for ever": Fault("status", 403),
    "404": Fault("status", 404),
    "reset for ever": Fault("reset"),
    "stall for ever": Fault("stall"),
    "Retry-After an hour": Fault("status", 429, (("Retry-After", "3600"),)),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASSETS", QUICK)
    monkeypatch.setattr(catalog, "_patience", lambda: QUICK)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of one elevation tile whose noise does not compress, so that it takes several ranges."""
    folder = tmp_path_factory.mktemp("host")
    rng = np.random.default_rng(3)
    write(folder / "dem.tif", rng.random((420, 420), np.float32) * 3000, 10, WIDER.pad(138))
    return folder


def tile(url: str, sign: str | None = None) -> Item:
    """The elevation tile as the host has it, at an address that no other test has used."""
    from pystac import Asset

    made = item("tile", "2018-10-01", WIDER.pad(138), "dem")
    made.add_asset("data", Asset(f"{url}/files/{next(PREFIXES)}/dem.tif"))
    if sign is not None:
        made.extra_fields[signing.SIGN_FIELD] = sign
    return made


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> xr.Dataset:
    here = tile("")
    here.assets["data"].href = str(root / "dem.tif")
    data, _ = read_inputs({"terrain": [here]}, WINDOW.pad(100))
    assert np.isfinite(data["elevation"]).all()
    return data


def lost_pixels(found: xr.Dataset, expected: xr.Dataset) -> int:
    """Pixels of any variable that are not the same, bit for bit."""
    assert set(found.data_vars) == set(expected.data_vars)
    pairs = [(found[name].values, expected[name].values) for name in expected.data_vars]
    return sum(int((~((a == b) | ((a != a) & (b != b)))).sum()) for a, b in pairs)


def first(count: int, fault: Fault, after: int = 0) -> Callable[[str, int], Fault | None]:
    """Each file suffers ``fault`` ``count`` times, after as many answers that are sound."""

    def plan(path: str, number: int) -> Fault | None:
        return fault if path.startswith("/files/") and after <= number < after + count else None

    return plan


@pytest.mark.parametrize("after", [0, 1], ids=["at the header", "at the pixels"])
@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_costs_no_pixel(
    root: Path, undisturbed: xr.Dataset, matrix: Table, name: str, after: int
) -> None:
    with misbehaving(root, plan=first(2, PASSING[name], after)) as host:
        data, report = read_inputs({"terrain": [tile(host.url)]}, WINDOW.pad(100))
    lost = lost_pixels(data, undisturbed)
    matrix.add(f"{name}, {'pixels' if after else 'header'}", len(host.suffered), "read again", lost)
    assert host.suffered
    assert len({one.span for one in host.asked}) > 1, "the header was all: nothing was tested"
    assert lost == 0
    assert report.scenes_read == ("tile",)
    assert report.scenes_failed == ()


@pytest.mark.parametrize("after", [0, 1], ids=["at the header", "at the pixels"])
@pytest.mark.parametrize("name", STAYING)
def test_a_fault_that_stays_is_named_with_item_band_and_reason_and_never_with_its_token(
    root: Path, monkeypatch: pytest.MonkeyPatch, matrix: Table, name: str, after: int
) -> None:
    monkeypatch.setattr(http, "ASSETS", http.Patience(3, 0.02, 0.1, 10.0, 2.0, 0.2))
    with misbehaving(root, plan=first(10_000, STAYING[name], after)) as host:
        scene = tile(host.url)
        scene.assets["data"].href += "?sig=secret"
        with pytest.raises(AssetReadError) as caught:
            read_inputs({"terrain": [scene]}, WINDOW.pad(100))
    told = str(caught.value)
    matrix.add(f"{name}, {'pixels' if after else 'header'}", len(host.suffered), "block fails by name", "-")
    assert "tile" in told
    assert "elevation" in told
    assert "dem.tif" in told
    assert "secret" not in told
    assert "\n" not in told


def test_retry_after_is_waited_for(root: Path, undisturbed: xr.Dataset) -> None:
    with misbehaving(root, plan=first(1, PASSING["429, Retry-After 1 s"])) as host:
        read_inputs({"terrain": [tile(host.url)]}, WINDOW)
    assert host.asked[0].status == 429
    assert host.asked[1].at_s - host.asked[0].at_s >= 1.0


@pytest.mark.parametrize("fault", [Fault("status", 503), Fault("trickle")], ids=["503", "trickle"])
def test_an_asset_is_given_up_at_its_deadline_though_attempts_are_left(
    root: Path, monkeypatch: pytest.MonkeyPatch, matrix: Table, fault: Fault
) -> None:
    monkeypatch.setattr(http, "ASSETS", http.Patience(1000, 0.01, 0.02, 0.5, 1.0, 0.3))
    with (
        misbehaving(root, plan=first(10_000, fault)) as host,
        pytest.raises(AssetReadError, match="tile elev"),
    ):
        read_inputs({"terrain": [tile(host.url)]}, WINDOW)
    matrix.add(f"{fault.kind} until the deadline", len(host.suffered), "block fails by name", "-")
    assert 0 < len(host.asked) < 1000


def test_the_header_of_a_file_is_asked_for_once_a_process(root: Path, undisturbed: xr.Dataset) -> None:
    with misbehaving(root) as host:
        scene = tile(host.url)
        for _ in range(3):
            data, _ = read_inputs({"terrain": [scene]}, WINDOW.pad(100))
            assert lost_pixels(data, undisturbed) == 0
    assert sum(one.span.startswith("bytes=0-") for one in host.asked) == 1


def test_a_file_that_is_replaced_while_it_is_read_is_no_mixture_of_both(tmp_path: Path, root: Path) -> None:
    (tmp_path / "dem.tif").write_bytes((root / "dem.tif").read_bytes())
    with misbehaving(tmp_path) as host:
        scene = tile(host.url)
        read_inputs({"terrain": [scene]}, WINDOW)
        write(tmp_path / "dem.tif", np.full((420, 420), 7, np.float32), 10, WIDER.pad(138))
        with pytest.raises(AssetReadError, match="replaced"):
            read_inputs({"terrain": [scene]}, WINDOW)
        data, _ = read_inputs({"terrain": [scene]}, WINDOW)
    assert (data["elevation"] == 7).all()


# --- signatures ---------------------------------------------------------------------------------------


@pytest.fixture
def planetary_computer(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A host whose tokens the real client of Planetary Computer fetches; they live three seconds."""
    import planetary_computer.sas as sas
    from planetary_computer.settings import Settings

    with misbehaving(root, token_life_s=3.0) as host:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"{host.url}/sas/token")
        monkeypatch.setattr(sas, "BLOB_STORAGE_DOMAIN", host.url.removeprefix("http://"))
        sas.TOKEN_CACHE.clear()
        for cached in (Settings.get, getattr(Settings, "cache_clear", None)):
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
        yield host
        sas.TOKEN_CACHE.clear()
        if hasattr(Settings.get, "cache_clear"):
            Settings.get.cache_clear()


@pytest.mark.parametrize("told_life_s", [3.0, 3600.0], ids=["as they say", "though they promise an hour"])
def test_tokens_that_die_after_three_seconds_lose_nothing_over_a_long_run(
    planetary_computer: Server, undisturbed: xr.Dataset, matrix: Table, told_life_s: float
) -> None:
    host = planetary_computer
    host.told_life_s = told_life_s
    started, reads, lost = time.monotonic(), 0, 0
    while time.monotonic() - started < 7.0 or len(host.tokens) < 3:
        data, report = read_inputs({"terrain": [tile(host.url, "planetary-computer")]}, WINDOW.pad(100))
        lost += lost_pixels(data, undisturbed)
        assert report.scenes_failed == ()
        reads += 1
        time.sleep(0.2)
    refused = sum(one.status == 403 for one in host.asked)
    said = "as told" if told_life_s < 60 else "an hour early"
    matrix.add(
        f"token dies after 3 s, {said}", refused or len(host.tokens), f"{reads} reads, signed again", lost
    )
    assert lost == 0
    assert len(host.tokens) >= 3
    assert (refused > 0) == (told_life_s > 60)


def test_a_host_that_refuses_fresh_tokens_too_is_named(planetary_computer: Server, matrix: Table) -> None:
    planetary_computer.token_life_s = -1.0
    with pytest.raises(AssetReadError, match=r"tile elevation.*HTTP 403.*signed anew"):
        read_inputs({"terrain": [tile(planetary_computer.url, "planetary-computer")]}, WINDOW)
    refused = sum(one.status == 403 for one in planetary_computer.asked)
    matrix.add("403 whatever the token", refused, "block fails by name", "-")


def test_a_signer_of_ones_own_is_asked_past_its_cache_only_when_refused(
    root: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    with misbehaving(root, token_life_s=60.0) as host:
        old = ["sig=no"]

        def sign(href: str, fresh: bool) -> str:
            asked.append(fresh)
            if fresh:
                old[0] = host.token()["token"]
            return f"{href}?{old[0]}"

        monkeypatch.setitem(signing.SIGNERS, "own", sign)
        data, _ = read_inputs({"terrain": [tile(host.url, "own")]}, WINDOW.pad(100))
    assert lost_pixels(data, undisturbed) == 0
    assert asked.count(True) == 1


# --- which scene is left out, and when ------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for name, day, value in (("good", "2018-10-03", 0.2), ("bad", "2018-10-13", 0.4)):
        optical(folder, name, day, value)
    return folder


def served_scenes(folder: Path, url: str) -> list[Item]:
    """The two scenes, the bad one from the host."""
    made = []
    for name, day in (("good", "2018-10-03"), ("bad", "2018-10-13")):
        scene = item(name, day, WIDER, "sentinel-2-l2a", **{"eo:cloud_cover": 10.0})
        where = str(folder / name) if name == "good" else f"{url}/files/{next(PREFIXES)}/{name}"
        from pystac import Asset

        for path in (folder / name).glob("*.tif"):
            scene.add_asset(path.stem, Asset(f"{where}/{path.name}"))
        made.append(scene)
    return made


def only_blue(fault: Fault) -> Callable[[str, int], Fault | None]:
    return lambda path, number: fault if path.endswith("B02.tif") else None


def test_a_scene_out_of_reach_fails_the_block_and_in_the_last_attempt_is_left_out_by_name(
    scenes: Path, matrix: Table
) -> None:
    with misbehaving(scenes, plan=only_blue(Fault("status", 503))) as host:
        items = served_scenes(scenes, host.url)
        with pytest.raises(AssetReadError, match=r"bad B02: .*HTTP 503"):
            read_inputs({"optical": items}, WINDOW)
        data, report = read_inputs({"optical": items}, WINDOW, leave_unreachable=True)
    alone, _ = read_inputs({"optical": items[:1]}, WINDOW)
    matrix.add(
        "one scene 503 for ever", len(host.suffered), "others used, scene named", lost_pixels(data, alone)
    )
    assert lost_pixels(data, alone) == 0
    ((name, cause),) = report.scenes_failed
    assert name == "bad"
    assert cause.startswith("B02: ")
    assert "HTTP 503" in cause


def test_a_scene_that_could_not_be_ranked_is_named_and_does_not_come_in_by_better_luck_later(
    scenes: Path, matrix: Table
) -> None:
    def plan(path: str, number: int) -> Fault | None:
        return Fault("status", 503) if path.endswith("B05.tif") and number < QUICK.attempts else None

    with misbehaving(scenes, plan=plan) as host:
        items = served_scenes(scenes, host.url)
        data, report = read_inputs({"optical": items}, WINDOW, leave_unreachable=True)
    lost = lost_pixels(data, read_inputs({"optical": items[:1]}, WINDOW)[0])
    matrix.add("503 while scenes are ranked", len(host.suffered), "others used, scene named", lost)
    assert lost == 0
    assert [name for name, _ in report.scenes_failed] == ["bad"]
    assert report.scenes_failed[0][1].startswith("B05: ")


def test_under_fail_a_scene_that_is_gone_is_an_error_and_otherwise_it_is_named(
    scenes: Path, matrix: Table
) -> None:
    with misbehaving(scenes, plan=only_blue(Fault("status", 404))) as host:
        items = served_scenes(scenes, host.url)
        data, report = read_inputs({"optical": items}, WINDOW)
        with pytest.raises(UnreadableError, match=r"bad B02: .*HTTP 404"):
            read_inputs({"optical": items}, WINDOW, on_unreadable="fail", leave_unreachable=True)
        with pytest.raises(AssetReadError, match=r"no optical item.*bad.*B02"):
            read_inputs({"optical": items[1:]}, WINDOW, leave_unreachable=True)
    lost = lost_pixels(data, read_inputs({"optical": items[:1]}, WINDOW)[0])
    matrix.add("one scene 404", 1, "others used, scene named; error under fail", lost)
    assert lost == 0
    assert [name for name, _ in report.scenes_failed] == ["bad"]


# --- a whole run ----------------------------------------------------------------------------------------


def test_a_run_over_a_host_that_fails_at_random_is_the_undisturbed_run(
    tiny_range: TinyRange, tmp_path: Path, matrix: Table
) -> None:
    settings = tiny_range.settings(model={"name": "band-ratio"})
    expected = [marker.checksum for marker in map_here(settings, tmp_path / "undisturbed")]
    kinds = [fault for name, fault in PASSING.items() if name not in ("429, Retry-After 1 s", "stall")]
    chance = random.Random(11)

    def plan(path: str, number: int) -> Fault | None:
        return chance.choice(kinds) if chance.random() < 0.2 else None

    with misbehaving(tiny_range.folder, plan=plan) as host:
        remote_catalogue(tiny_range.folder, tmp_path / "remote", host.url)
        settings = tiny_range.settings(
            model={"name": "band-ratio"}, catalogs=[{"url": str(tmp_path / "remote")}]
        )
        markers = map_here(settings, tmp_path / "run")
    found = [marker.checksum for marker in markers]
    lost = sum(a != b for a, b in zip(found, expected, strict=True))
    outcome = f"{len(host.asked)} requests, {len(found) - lost} of {len(found)} blocks equal"
    matrix.add("one request in five fails, whole run", len(host.suffered), outcome, f"{lost} blocks")
    assert len(host.suffered) > 50
    assert found == expected
    assert all(marker.scenes_failed == [] for marker in markers)


@pytest.fixture
def one_scene_fails(tiny_range: TinyRange, tmp_path: Path) -> Iterator[Callable[[int], dict[str, Any]]]:
    """The first B11 that is asked for answers with a status for ever; gives the configuration for it."""
    ill: list[str] = []
    code = [200]

    def plan(path: str, number: int) -> Fault | None:
        if path.endswith("B11.tif") and not ill:
            ill.append(path)
        return Fault("status", code[0]) if path in ill else None

    with misbehaving(tiny_range.folder, plan=plan) as host:
        remote_catalogue(tiny_range.folder, tmp_path / "remote", host.url)

        def config(status: int) -> dict[str, Any]:
            code[0] = status
            return {"model": {"name": "band-ratio"}, "catalogs": [{"url": str(tmp_path / "remote")}]}

        yield config


def test_a_scene_that_is_gone_is_named_in_markers_status_and_report_or_fails_the_block(
    tiny_range: TinyRange, tmp_path: Path, one_scene_fails: Callable[[int], dict[str, Any]]
) -> None:
    from cryoscale.finish import finish
    from cryoscale.results import Run

    settings = tiny_range.settings(**one_scene_fails(404))
    markers = map_here(settings, tmp_path / "run")
    failed = {scene for marker in markers for scene in marker.scenes_failed}
    assert len({name for name, _ in failed}) == 1
    assert all(cause.startswith("B11: ") and "HTTP 404" in cause for _, cause in failed)
    assert set(Run(str(tmp_path / "run")).status().scenes_failed) == failed
    finish(settings, str(tmp_path / "run"), lambda _: None)
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(name in report and "HTTP 404" in report for name, _ in failed)
    assert str(tmp_path / "remote") in report
    strict = tiny_range.settings(**one_scene_fails(404), on_unreadable="fail")
    with pytest.raises(UnreadableError, match="B11"):
        map_here(strict, tmp_path / "strict")


def test_a_block_waits_for_a_scene_out_of_reach_until_its_last_attempt(
    tiny_range: TinyRange, tmp_path: Path, one_scene_fails: Callable[[int], dict[str, Any]]
) -> None:
    from cryoscale.infer.actor import ModelActor
    from cryoscale.task import ATTEMPTS, process_block

    settings = tiny_range.settings(**one_scene_fails(503))
    identity, work = prepare(settings, str(tmp_path / "run"))
    actor = ModelActor({"weights": None, "name": "band-ratio"}, tile_px=64, overlap=0.5, threads=1)

    def predict(array: Any, window: Any, block: Any) -> Any:
        return actor.predict(array, window.row, window.col, block)

    def attempt(number: int) -> list[tuple[str, str]]:
        year, block = work[0]
        return process_block(
            str(tmp_path / "run"), identity, year, block, predict, attempt=number
        ).scenes_failed

    with pytest.raises(AssetReadError, match=r"B11: .*HTTP 503"):
        attempt(1)
    ((_, cause),) = attempt(ATTEMPTS)
    assert cause.startswith("B11: ")
    assert "HTTP 503" in cause


# --- other ways to the same file -----------------------------------------------------------------------


def test_an_item_without_projection_fields_reads_the_same_pixels(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    settings = tiny_range.settings(model={"name": "band-ratio"})
    for path in tiny_range.folder.rglob("*.json"):
        document = json.loads(path.read_text())
        if document.get("type") != "Feature":
            continue
        fields = [document["properties"], *document["assets"].values()]
        for place in fields:
            for key in [key for key in place if key.startswith("proj:")]:
                del place[key]
        for asset in document["assets"].values():
            asset["href"] = str((path.parent / asset["href"]).resolve())
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / f"{document['id']}.json").write_text(json.dumps(document))
    bare = tiny_range.settings(model={"name": "band-ratio"}, catalogs=[{"url": str(tmp_path / "bare")}])
    found, expected = find_items(bare), find_items(settings)
    assert {key: len(items) for key, items in found.items()} == {
        key: len(items) for key, items in expected.items()
    }
    scene = expected["2018/optical"][0]
    _, work = prepare(settings, str(tmp_path / "run"))
    window = work[0][1].window
    pairs = [
        read_inputs({"optical": [one for one in items["2018/optical"] if one.id == scene.id]}, window)[0]
        for items in (found, expected)
    ]
    assert lost_pixels(*pairs) == 0


def test_where_gdal_is_told_a_log_in_its_own_client_reads_the_same_pixels(
    root: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_HEADERS", "Authorization: Bearer made-up")
    with misbehaving(root) as host:
        data, _ = read_inputs({"terrain": [tile(host.url)]}, WINDOW.pad(100))
    assert lost_pixels(data, undisturbed) == 0
    assert not any(one.span == f"bytes=0-{HEADER_BYTES - 1}" for one in host.asked)


def test_a_proxy_of_the_environment_is_asked_instead_of_the_host(
    root: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with misbehaving(root) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        data, _ = read_inputs({"terrain": [tile("http://data.invalid")]}, WINDOW.pad(100))
    assert lost_pixels(data, undisturbed) == 0
    assert proxy.asked
