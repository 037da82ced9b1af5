"""Catalogues that misbehave: nothing is lost, one that stays down is passed over, and mistakes are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cryoscale.errors import CatalogUnavailableError, CryoscaleError, NoScenesError, SourceError
from cryoscale.ledger import Ledger
from cryoscale.plan import find_items
from cryoscale.preparation import prepare
from cryoscale.read import catalog, http, stacapi
from cryoscale.read.catalog import CatalogAnswer
from cryoscale.simulate.server import serve
from tests.integration.conftest import TinyRange
from tests.integration.misbehave import Fault, misbehaving
from tests.integration.test_read_faults import PASSING, QUICK
from tests.tables import Table


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASSETS", QUICK)
    monkeypatch.setattr(catalog, "_patience", lambda: QUICK)


@pytest.fixture(scope="module")
def api(tiny_range: TinyRange) -> Iterator[str]:
    with serve(tiny_range.folder) as url:
        yield url


def found_ids(url: str, **options: Any) -> list[str]:
    return [one.id for one in catalog.search([{"url": url}], collection="sentinel-2-l2a", **options)]


@pytest.mark.parametrize("name", [name for name in PASSING if not name.startswith("range")])
def test_pages_that_fail_are_asked_for_again_without_loss_or_duplicates(
    api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matrix: Table, name: str
) -> None:
    monkeypatch.setattr(stacapi, "PAGE_SIZE", 1)
    expected = found_ids(api)
    assert len(expected) > 2

    def plan(path: str, number: int) -> Fault | None:
        # every answer of the landing page and of each second page fails once
        return PASSING[name] if number % 3 == 1 or (path == "/" and number == 0) else None

    with misbehaving(tmp_path, upstream=api, plan=plan) as host:
        found = found_ids(host.url)
        pages = sum(one.path == "/search" and one.status == 200 for one in host.asked)
    matrix.add(
        f"{name}, search",
        len(host.suffered),
        f"{pages} pages, asked again",
        f"{len(expected) - len(found)} scenes",
    )
    assert host.suffered
    assert found == expected


def test_a_catalogue_that_stays_down_is_passed_over_and_the_run_says_so(
    api: str, tiny_range: TinyRange, tmp_path: Path, matrix: Table
) -> None:
    stages: list[str] = []
    with misbehaving(tmp_path, upstream=api, plan=lambda path, number: Fault("status", 503)) as host:
        catalogs = [{"url": host.url}, {"url": str(tiny_range.folder)}]
        settings = tiny_range.settings(catalogs=catalogs, model={"name": "band-ratio"})
        prepare(settings, str(tmp_path / "run"), stages.append)
    manifest = Ledger(str(tmp_path / "run")).manifest() or {}
    record = {(line["url"], line["collection"]): line for line in manifest["catalogs"]}
    down = record[host.url, "sentinel-2-l2a"]
    matrix.add("catalogue 503 for ever", len(host.suffered), "fail-over, noted in run.json", "-")
    assert down["outcome"] == "failed"
    assert "HTTP 503" in down["reason"]
    assert record[str(tiny_range.folder), "sentinel-2-l2a"]["outcome"] == "taken"
    assert record[str(tiny_range.folder), "sentinel-2-l2a"]["items"] > 0
    assert any(host.url in line and str(tiny_range.folder) in line for line in stages)


def test_a_search_reports_what_each_catalogue_said(api: str, tmp_path: Path) -> None:
    said: list[CatalogAnswer] = []
    with misbehaving(tmp_path, upstream=api, plan=lambda path, number: Fault("status", 404)) as host:
        found = catalog.search(
            [{"url": host.url}, {"url": api}, {"url": "http://127.0.0.1:9"}],
            collection="sentinel-2-l2a",
            on_answer=said.append,
        )
    assert [(one.url, one.outcome, one.items) for one in said] == [
        (host.url, "failed", 0),
        (api, "taken", len(found)),
    ]


HTML = Fault("status", 200, (("Content-Type", "text/html"),), b"<html><body>Sign in</body></html>")
OTHER = Fault("status", 200, (("Content-Type", "application/json"),), b'{"hello": "world"}')
LIST = Fault("status", 200, (("Content-Type", "application/json"),), b"[1, 2]")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (HTML, "not STAC"),
        (OTHER, "not STAC"),
        (LIST, "not STAC"),
        (Fault("status", 404), "404"),
        (None, "host"),
    ],
    ids=["HTML", "other JSON", "a list", "404", "silence"],
)
def test_an_entry_that_is_no_catalogue_is_one_clear_line_with_exit_code_2(
    api: str, tiny_range: TinyRange, tmp_path: Path, request: Any, matrix: Table, fault: Any, words: str
) -> None:
    with misbehaving(tmp_path, upstream=api, plan=lambda path, number: fault) as host:
        url = host.url if fault is not None else "http://127.0.0.1:9"
        with pytest.raises(CatalogUnavailableError) as caught:
            find_items(tiny_range.settings(catalogs=[{"url": url}]))
        items = find_items(tiny_range.settings(catalogs=[{"url": url}, {"url": str(tiny_range.folder)}]))
    one_clear_line(caught.value, words, url)
    assert items["2018/optical"]
    matrix.add(f"catalogue entry: {request.node.callspec.id}", 1, "one line, exit code 2, or fail-over", "-")


def one_clear_line(error: CryoscaleError, *words: str) -> None:
    told = str(error)
    assert error.exit_code == 2
    assert "\n" not in told
    assert "Traceback" not in told
    assert all(word in told for word in ("given", "expected", *words)), told


def test_a_collection_that_no_api_has_is_told_and_not_taken_for_a_missing_modality(
    api: str, tiny_range: TinyRange
) -> None:
    document = tiny_range.config(catalogs=[{"url": api}])
    document["sources"]["terrain"] = {"collection": "cop-dem-glo-3"}
    from cryoscale.config import load_config

    with pytest.raises(SourceError) as caught:
        find_items(load_config(document))
    one_clear_line(caught.value, "cop-dem-glo-3", api)


def test_a_wrong_optical_collection_of_a_folder_is_told(tiny_range: TinyRange) -> None:
    document = tiny_range.config()
    document["sources"]["optical"] = {"collection": "sentinel-2-l1c"}
    from cryoscale.config import load_config

    with pytest.raises(NoScenesError) as caught:
        find_items(load_config(document))
    one_clear_line(caught.value, "sentinel-2-l1c")
