"""A velocity Zarr behind a host that misbehaves: all of it, or its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoscale.errors import AssetReadError, SourceError
from cryoscale.ledger import Ledger
from cryoscale.plan import find_items
from cryoscale.read import http, signing
from cryoscale.read.inputs import read_inputs
from cryoscale.read.raster import UnreadableError
from cryoscale.read.velocity import read_velocity
from tests.integration.conftest import TinyRange, map_here
from tests.integration.misbehave import Fault, misbehaving
from tests.integration.test_read_faults import PASSING, QUICK, STAYING, first, lost_pixels
from tests.integration.test_read_inputs import EPSG, WINDOW, optical
from tests.tables import Table

LAYOUTS = ("zarr 2", "zarr 3", "zarr 3 in shards")
_number = iter(range(10_000))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASSETS", replace(QUICK, attempts=4, first_s=0.01, stall_s=0.15))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One field of velocity in three layouts; noise, so that a chunk that is lost cannot look right."""
    folder = tmp_path_factory.mktemp("stores")
    west, south, east, north = WINDOW.pad(40).bounds_m
    x = np.arange(west, east, 120.0) + 60
    y = np.arange(north, south, -120.0) - 60
    rng = np.random.default_rng(5)
    parts = {name: (("y", "x"), rng.normal(0, 30, (y.size, x.size)).astype("f4")) for name in ("vx", "vy")}
    field = xr.Dataset({**parts, "mapping": ((), 0, {"spatial_epsg": EPSG})}, {"y": y, "x": x})
    for layout in LAYOUTS:
        chunks: dict[str, Any] = {"chunks": (6, 6)}
        if "shards" in layout:
            chunks["shards"] = (12, 12)
        field.to_zarr(
            folder / layout.replace(" ", "-") / "speed.zarr",
            zarr_format=2 if layout == "zarr 2" else 3,
            encoding={name: chunks for name in ("vx", "vy")},
        )
    return folder


def href(url: str, layout: str) -> str:
    """An address that no other test has used."""
    return f"{url}/files/{next(_number)}/{layout.replace(' ', '-')}/speed.zarr"


def speed(where: str, **options: Any) -> xr.Dataset:
    data, report = read_inputs({}, WINDOW, velocity_href=where, **options)
    assert report.scenes_failed == ()
    return data


@pytest.fixture(scope="module")
def undisturbed(stores: Path) -> xr.Dataset:
    data = speed(str(stores / "zarr-2" / "speed.zarr"))
    assert np.isfinite(data["velocity"]).all()
    return data


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_store_over_http_gives_the_pixels_of_the_folder(
    stores: Path, undisturbed: xr.Dataset, layout: str
) -> None:
    with misbehaving(stores) as host:
        assert lost_pixels(speed(href(host.url, layout)), undisturbed) == 0
        assert lost_pixels(speed(f"{href(host.url, layout)}?token=own"), undisturbed) == 0
    spans = [one.span for one in host.asked if one.span]
    assert bool(spans) == ("shards" in layout)
    assert all(one.query == "token=own" for one in host.asked[len(host.asked) // 2 :])


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.parametrize("layout", ["zarr 2", "zarr 3 in shards"])
def test_a_fault_that_passes_costs_no_pixel_of_the_velocity(
    stores: Path, undisturbed: xr.Dataset, matrix: Table, name: str, layout: str
) -> None:
    if name.startswith("range") and "shards" not in layout:
        return  # nothing is asked for by ranges
    fault = PASSING[name]
    if name.startswith("429"):
        fault = Fault("status", 429, (("Retry-After", "0"),))  # of a second each, for each chunk
    with misbehaving(stores, plan=first(2, fault)) as host:
        lost = lost_pixels(speed(href(host.url, layout)), undisturbed)
    name = name.replace("Retry-After 1 s", "Retry-After 0 s")
    matrix.add(f"{name}, velocity {layout}", len(host.suffered), "read again", lost)
    assert len(host.suffered) >= 4
    assert lost == 0


@pytest.mark.parametrize("name", [name for name in STAYING if not name.startswith("404")])
def test_a_velocity_out_of_reach_fails_the_block_and_in_the_last_attempt_is_left_out_by_name(
    stores: Path, tmp_path: Path, matrix: Table, name: str
) -> None:
    scene = optical(tmp_path, "scene", "2018-10-03")

    def plan(path: str, number: int) -> Fault | None:
        return STAYING[name] if "/vx/" in path and not path.endswith((".zarray", ".zattrs")) else None

    with misbehaving(stores, plan=plan) as host:
        where = f"{href(host.url, 'zarr 2')}?sig=secret"
        with pytest.raises(AssetReadError, match=r"speed\.zarr: vx/") as caught:
            read_inputs({"optical": [scene]}, WINDOW, velocity_href=where)
        data, report = read_inputs({"optical": [scene]}, WINDOW, velocity_href=where, leave_unreachable=True)
        with pytest.raises(AssetReadError, match=r"speed\.zarr: vx/"):
            read_inputs(
                {"optical": [scene]},
                WINDOW,
                velocity_href=where,
                on_unreadable="fail",
                leave_unreachable=True,
            )
    alone, _ = read_inputs({"optical": [scene]}, WINDOW)
    lost = lost_pixels(data, alone)
    matrix.add(f"{name}, velocity", len(host.suffered), "others used, velocity named", lost)
    assert lost == 0
    ((store, cause),) = report.scenes_failed
    assert store == "speed.zarr"
    assert cause.startswith("velocity: ")
    for told in (cause, str(caught.value)):
        assert "secret" not in told
        assert "\n" not in told


def test_a_broken_chunk_is_told_apart_from_one_out_of_reach(stores: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(stores / "zarr-2", tmp_path / "zarr-2")
    chunks = [p for p in (tmp_path / "zarr-2" / "speed.zarr" / "vx").iterdir() if p.name[0].isdigit()]
    for path in chunks:
        path.write_bytes(b"this is no chunk at all, but some words that somebody put there")
    with misbehaving(tmp_path) as host, pytest.raises(UnreadableError, match=r"speed\.zarr"):
        read_velocity(href(host.url, "zarr 2"), WINDOW.geobox)


@pytest.mark.parametrize("life_s", [0.15, 60.0])
def test_the_velocity_is_signed_anew_when_its_token_dies(
    stores: Path, undisturbed: xr.Dataset, monkeypatch: pytest.MonkeyPatch, matrix: Table, life_s: float
) -> None:
    with misbehaving(stores, token_life_s=life_s) as host:
        held = ["sig=no"]

        def sign(address: str, fresh: bool) -> str:
            if fresh:
                held[0] = host.token()["token"]
            return f"{address}?{held[0]}"

        monkeypatch.setitem(signing.SIGNERS, "own", sign)
        lost, reads = 0, 0
        while reads < 2 or (life_s < 1 and len(host.tokens) < 3):
            lost += lost_pixels(speed(href(host.url, "zarr 3"), sign="own"), undisturbed)
            reads += 1
    refused = sum(one.status == 403 for one in host.asked)
    matrix.add(f"token dies after {life_s:g} s, velocity", refused, f"{reads} reads, signed again", lost)
    assert lost == 0
    assert refused > 0


@pytest.fixture
def served_range(tiny_range: TinyRange) -> Iterator[tuple[dict[str, Any], list[Fault]]]:
    """A configuration whose velocity lies behind a host, which suffers the fault that is in the list."""
    fault: list[Fault] = []

    def plan(path: str, number: int) -> Fault | None:
        return fault[0] if fault and "/vy/" in path else None

    with misbehaving(tiny_range.folder, plan=plan) as host:
        west, south, east, north = tiny_range.bbox
        corner = {"bbox": [round(v, 5) for v in (west, south, west + (east - west) / 4, (south + north) / 2)]}
        document = tiny_range.config(model={"name": "band-ratio"}, region=corner)
        where = f"{host.url}/files/{next(_number)}/ITS_LIVE_velocity_120m.zarr"
        document["sources"] = {
            "optical": document["sources"]["optical"],
            "velocity": {"href": where},
        }
        yield document, fault


def test_a_run_without_its_velocity_host_names_it_in_marker_status_and_report(
    tiny_range: TinyRange, tmp_path: Path, served_range: tuple[dict[str, Any], list[Fault]]
) -> None:
    from cryoscale.config import load_config
    from cryoscale.finish import finish
    from cryoscale.infer.actor import ModelActor
    from cryoscale.preparation import prepare
    from cryoscale.results import Run
    from cryoscale.task import ATTEMPTS, process_block

    document, fault = served_range
    settings = load_config(document)
    map_here(settings, tmp_path / "whole")
    whole = Ledger(str(tmp_path / "whole")).done()
    assert all(marker.scenes_failed == [] for marker in whole.values())
    assert sum(marker.modality_pixels["velocity"] for marker in whole.values()) > 0
    fault.append(Fault("status", 503))
    out = str(tmp_path / "without")
    identity, work = prepare(settings, out)
    actor = ModelActor({"weights": None, "name": "band-ratio"}, tile_px=64, overlap=0.5, threads=1)
    year, block = max(work, key=lambda w: whole[w].modality_pixels["velocity"])

    def attempt(number: int) -> Any:
        def predict(array: Any, window: Any, wanted: Any) -> Any:
            return actor.predict(array, window.row, window.col, wanted)

        return process_block(out, identity, year, block, predict, attempt=number)

    with pytest.raises(AssetReadError, match="HTTP 503"):
        attempt(1)
    marker = attempt(ATTEMPTS)
    assert marker.valid_pixels == whole[year, block].valid_pixels
    assert marker.modality_pixels["velocity"] == 0
    ((name, cause),) = marker.scenes_failed
    assert name == "ITS_LIVE_velocity_120m.zarr"
    assert "HTTP 503" in cause
    assert Run(out).status().scenes_failed == ((name, cause),)
    finish(settings, out, lambda _: None)
    assert cause in (tmp_path / "without" / "report.html").read_text()


def test_a_velocity_address_that_cannot_be_used_is_one_line_before_anything_is_written(
    served_range: tuple[dict[str, Any], list[Fault]], stores: Path, tiny_range: TinyRange, tmp_path: Path
) -> None:
    from cryoscale.config import load_config

    document, _ = served_range
    served = document["sources"]["velocity"]["href"]
    knots = tmp_path / "knots.zarr"
    speed = xr.open_zarr(tiny_range.folder / "ITS_LIVE_velocity_120m.zarr", decode_coords=False).load()
    speed["vx"].attrs["units"] = "knots"
    speed.drop_encoding().to_zarr(knots, consolidated=False)
    for where, words in (
        ("http://127.0.0.1:9/speed.zarr", "host"),
        (f"{served}-absent", "Zarr"),
        (str(stores / "nowhere.zarr"), "absent"),
        (str(knots), "whose vx has the units 'knots'"),
    ):
        document["sources"]["velocity"]["href"] = where
        with pytest.raises(SourceError) as caught:
            find_items(load_config(document))
        told = str(caught.value)
        assert caught.value.exit_code == 2
        assert words in told
        assert "\n" not in told
