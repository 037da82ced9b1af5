"""Weights in an object store: fetched whole and once, proven like any others, told in a line if absent."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cryoscale.errors import ExtraError, NoRoomError, StoreUnavailableError, WeightsError
from cryoscale.models import fetching
from cryoscale.models.fetching import on_this_machine
from cryoscale.models.weights import load, read_card
from tests.integration.conftest import save_random_network

URL = "memory://models/net.safetensors"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Weights in a folder and in a store; and a temporary folder of the test's own."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    save_random_network(tmp_path / "net.safetensors")
    put(tmp_path)
    yield tmp_path
    MemoryFileSystem.store.clear()


def put(folder: Path) -> None:
    for name in ("net.safetensors", "net.json"):
        fsspec.filesystem("memory").pipe(f"/models/{name}", (folder / name).read_bytes())


def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fetched from now on."""
    told: list[str] = []
    get_file = MemoryFileSystem.get_file

    def counted(self: Any, place: str, target: str, **more: Any) -> None:
        told.append(place)
        get_file(self, place, target, **more)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    return told


def test_weights_of_a_url_are_those_of_the_file_and_are_fetched_once(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = fetches(monkeypatch)
    network, card = load(URL)
    expected, own = load(here / "net.safetensors")
    assert card == own == read_card(URL)
    assert sorted(told) == ["/models/net.json", "/models/net.safetensors"]
    for name, tensor in expected.state_dict().items():
        assert network.state_dict()[name].equal(tensor)


def test_weights_that_are_replaced_in_the_store_are_fetched_anew(here: Path) -> None:
    before = read_card(URL)
    (here / "net.json").write_text(before.model_copy(update={"temperature": 2.0}).model_dump_json())
    put(here)
    assert read_card(URL).temperature == 2.0


@pytest.fixture
def served(here: Path) -> Iterator[tuple[Path, str]]:
    """A folder of weights, and its address over HTTP on the loopback."""
    serve = partial(SimpleHTTPRequestHandler, directory=str(here))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield here, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("query", ["", "?sig=a/b.c"])
def test_weights_over_http_come_with_their_card_and_are_fetched_anew_where_they_changed(
    served: tuple[Path, str], query: str
) -> None:
    folder, address = served
    url = f"{address}/net.safetensors{query}"
    before = read_card(url)
    assert before == read_card(folder / "net.safetensors")
    assert on_this_machine(url).name == "net.safetensors"
    (folder / "net.json").write_text(before.model_copy(update={"temperature": 2.25}).model_dump_json() + " ")
    assert read_card(url).temperature == 2.25


@pytest.mark.parametrize("harm", ["truncated", "card gone", "weights gone", "no folder"])
def test_a_kept_copy_that_is_damaged_is_fetched_again(here: Path, harm: str) -> None:
    kept = on_this_machine(URL)
    if harm == "truncated":
        os.truncate(kept, 1000)
    elif harm == "no folder":
        shutil.rmtree(kept.parent)
        kept.parent.write_text("something else")
    else:
        kept.with_suffix(".json" if harm == "card gone" else ".safetensors").unlink()
    assert load(URL)[1] == read_card(here / "net.safetensors")


def test_a_full_disk_is_told_as_one_and_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, place: str, target: str, **more: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MemoryFileSystem, "get_file", full)
    with pytest.raises(NoRoomError, match="takes no more"):
        read_card(URL)
    (kept,) = (here / "scratch").glob(f"{fetching.KEPT}-*")
    assert not list(kept.iterdir())


def test_of_many_versions_those_used_longest_ago_are_swept_and_none_that_may_be_in_use(here: Path) -> None:
    card = read_card(URL)
    (kept,) = (here / "scratch").glob(f"{fetching.KEPT}-*")
    (first,) = kept.iterdir()
    for number in range(1, 2 * fetching.MOST_VERSIONS):
        for folder in kept.iterdir():
            if folder != first:  # the first is used all the time, as far as its folder tells
                old_s = folder.stat().st_mtime - fetching.IN_USE_S - 1
                os.utime(folder, (old_s, old_s))
        (here / "net.json").write_text(
            card.model_copy(update={"temperature": 1.0 + number}).model_dump_json()
        )
        put(here)
        assert read_card(URL).temperature == 1.0 + number
    assert len(list(kept.iterdir())) == fetching.MOST_VERSIONS
    assert first.is_dir()


def test_a_truncated_file_in_the_store_is_refused_as_one_in_a_folder_is(here: Path) -> None:
    content = (here / "net.safetensors").read_bytes()
    fsspec.filesystem("memory").pipe("/models/net.safetensors", content[:-1])
    with pytest.raises(WeightsError, match="truncated"):
        load(URL)


def test_a_fetch_that_is_cut_off_leaves_nothing_that_is_taken_for_weights(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_file = MemoryFileSystem.get_file

    def cut(self: Any, place: str, target: str, **more: Any) -> None:
        if place.endswith(".json"):
            raise ConnectionResetError("connection reset")
        get_file(self, place, target, **more)

    with monkeypatch.context() as broken:
        broken.setattr(MemoryFileSystem, "get_file", cut)
        broken.setattr(fetching, "RETRY_S", 0.0)
        with pytest.raises(StoreUnavailableError, match="connection reset"):
            read_card(URL)
    assert not [path for path in Path(tempfile.gettempdir()).rglob("*.safetensors")]
    assert read_card(URL) == read_card(here / "net.safetensors")


@pytest.mark.parametrize(
    ("url", "error", "told"),
    [
        ("memory://models/other.safetensors", WeightsError, "nothing there"),
        ("nowhere://models/net.safetensors", ExtraError, "nowhere"),
    ],
)
def test_weights_that_cannot_be_had_are_told(url: str, error: type[Exception], told: str, here: Path) -> None:
    with pytest.raises(error, match=told):
        read_card(url)


def test_a_store_that_says_no_is_told_and_not_asked_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, place: str, **more: Any) -> bool:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "exists", refuse)
    with pytest.raises(WeightsError, match="cannot be read .Access Denied"):
        read_card(URL)


def test_a_url_without_a_card_is_told_as_a_file_without_one_is(here: Path) -> None:
    fsspec.filesystem("memory").rm("/models/net.json")
    with pytest.raises(WeightsError, match="without a card"):
        read_card(URL)


def test_a_folder_that_others_may_write_to_is_not_trusted(here: Path) -> None:
    kept = on_this_machine(URL).parent.parent
    kept.chmod(0o777)
    with pytest.raises(WeightsError, match="others may write"):
        read_card(URL)
