"""Ranges kept on disk: never another byte than the file's, and never a reason for a run to fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryoscale import keeping
from cryoscale.cluster import require_reachable
from cryoscale.errors import ConfigError
from cryoscale.keeping import KeepsRanges
from cryoscale.read import kept
from cryoscale.read.headers import Version
from cryoscale.read.kept import Kept, Piece, Shelf
from cryoscale.settings import ClusterSpec
from tests.integration.disks import cramped

HREF, VERSION = "https://host/B02.tif", Version(10_000, ("etag", ""))
DATA = np.random.default_rng(3).bytes(10_000)


def piece(start: int, stop: int) -> Piece:
    return Piece(start, DATA[start:stop])


def shelf_at(folder: Path, most_bytes: int = 2**20) -> Shelf:
    found = Kept(folder, most_bytes).shelf(HREF, VERSION)
    assert found is not None
    return found


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return shelf_at(tmp_path / "kept")


SPANS = st.tuples(st.integers(0, 9_999), st.integers(1, 3_000)).map(lambda s: (s[0], min(sum(s), 10_000)))


@given(put=st.lists(SPANS, max_size=8), wanted=SPANS)
def test_what_is_found_is_all_that_was_put_and_nothing_else(
    put: list[tuple[int, int]], wanted: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    shelf = shelf_at(tmp_path_factory.mktemp("kept"))
    lying = np.zeros(10_000, bool)
    for span in put:
        shelf.put(piece(*span))
        lying[slice(*span)] = True
    found = shelf.find(*wanted)
    seen = np.zeros(10_000, int)
    for one in found:
        assert one.data == DATA[one.start : one.stop]
        seen[one.start : one.stop] += 1
    lying[: wanted[0]] = lying[wanted[1] :] = False
    assert np.array_equal(seen, lying.astype(int))
    assert found == sorted(found)


@pytest.mark.parametrize("damage", ["cut", "longer", "turned", "empty"])
def test_a_damaged_piece_is_none(damage: str, shelf: Shelf) -> None:
    shelf.put(piece(0, 1_000))
    shelf.put(piece(2_000, 3_000))
    path = next(shelf.folder.glob("0-*"))
    sound = path.read_bytes()
    turned = bytes([sound[0] ^ 1]) + sound[1:]
    path.write_bytes({"cut": sound[:-1], "longer": sound + b"x", "turned": turned, "empty": b""}[damage])
    assert shelf.find(0, 10_000) == [piece(2_000, 3_000)]
    shelf.put(piece(0, 1_000))
    assert shelf.find(0, 10_000) == [piece(0, 1_000), piece(2_000, 3_000)]


def test_pieces_are_of_one_state_of_one_file(tmp_path: Path) -> None:
    here = Kept(tmp_path, 2**20)
    states = [
        (HREF, VERSION),
        (HREF, Version(10_000, ("other", ""))),
        (HREF, Version(10_001, ("etag", ""))),
        (HREF, Version(10_000, ("", "etag"))),
        ("https://host/B03.tif", VERSION),
    ]
    for number, state in enumerate(states):
        shelf = here.shelf(*state)
        assert shelf is not None
        assert shelf.find(0, 100) == []
        shelf.put(piece(number, 50))
    assert here.shelf(HREF, Version(10_000, ("", ""))) is None  # it may be replaced without a sign


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path, most_bytes=2_000)
    for start in range(0, 5_000, 100):
        shelf.put(piece(start, start + 100))
        os.utime(next(shelf.folder.glob(f"{start}-*")), ns=(start, start))
        assert sum(path.stat().st_size for path in shelf.folder.glob("*-*-*")) <= 2_100
    assert shelf.find(4_900, 5_000) == [piece(4_900, 5_000)]
    assert shelf.find(0, 2_000) == []


def test_half_of_what_a_disk_has_left_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000))
    shelf = shelf_at(tmp_path, most_bytes=6_400)
    for start in range(0, 6_000, 100):
        shelf.put(piece(start, start + 100))
    assert sum(path.stat().st_size for path in shelf.folder.glob("*-*-*")) <= 1_100


@pytest.mark.parametrize("how", ["tmpfs", "limit"])
def test_on_a_full_disk_nothing_is_kept_and_nothing_fails(how: str, tmp_path: Path) -> None:
    with cramped(tmp_path / "disk", how):
        kept_here = Kept(tmp_path / "disk" / "kept", 2**30)
        shelf = kept_here.shelf(HREF, VERSION)
        assert shelf is not None
        shelf.put(piece(0, 100))
        shelf.put(Piece(0, bytes(2**20)))  # more than there is room for
        assert not kept_here.folder.exists()
        shelf.put(piece(0, 100))
        assert shelf.find(0, 100) == []


def test_a_folder_that_is_taken_away_costs_nothing(shelf: Shelf) -> None:
    shelf.put(piece(0, 100))
    shelf.kept.clear()
    assert shelf.find(0, 100) == []
    with shelf.turn():
        shelf.kept.clear()
        shelf.put(piece(0, 100))
    assert shelf.find(0, 100) == [piece(0, 100)]


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    shelf = shelf_at(tmp_path / "kept")
    with shelf.turn():
        shelf.put(piece(0, 100))
    assert shelf.find(0, 100) == []


PUTTING = """
import sys
from pathlib import Path
from tests.unit.test_read_kept import piece, shelf_at

shelf = shelf_at(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for start in range(0, 9_000, 50):
        shelf.put(piece(start, start + 1_000))
"""


def test_a_process_that_is_killed_while_it_puts_leaves_whole_pieces(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    for number in range(5):
        command = [sys.executable, "-c", PUTTING, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout is not None
            process.stdout.readline()
            until = time.monotonic() + 60
            while not list(tmp_path.glob("*/*-*-*")) and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(0.02 * number)
            process.send_signal(signal.SIGKILL)
        found = shelf_at(tmp_path).find(0, 10_000)
        assert all(one.data == DATA[one.start : one.stop] for one in found)
    assert found


def test_one_after_the_other_has_its_turn_at_a_file(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "WAIT_S", 60.0)
    asked: list[int] = []

    def read() -> None:
        with shelf.turn():
            if not shelf.find(0, 100):
                time.sleep(0.05)  # as a host takes to answer
                asked.append(1)
                shelf.put(piece(0, 100))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]


def test_nobody_waits_long_for_another_that_waits_for_its_host(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "WAIT_S", 0.05)
    with shelf.turn(), shelf_at(shelf.kept.folder).turn():
        shelf.put(piece(0, 100))
    assert shelf.find(0, 100) == [piece(0, 100)]


# --- where, and how much ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(keeping, "_KEPT_FOR", set())
    yield
    kept.keep_at(None)


@pytest.mark.parametrize(
    ("given_gib", "on_kubernetes", "expected"),
    [(None, False, 6.0), ("0", False, 0.0), ("0.5", True, 0.5), (None, True, 0.0)],
)
def test_the_environment_says_how_much(
    given_gib: str | None, on_kubernetes: bool, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if on_kubernetes:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    if given_gib is not None:
        monkeypatch.setenv(kept.KEEP_GIB, given_gib)
    assert kept.gib() == expected


@pytest.mark.parametrize("wrong", ["much", "-1", "nan", "inf"])
def test_an_amount_that_is_none_is_refused_and_costs_no_worker(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(kept.KEEP_GIB, wrong)
    told = f"{kept.KEEP_GIB}={wrong}; expected GiB, 0 for none; correct the environment"
    with pytest.raises(ConfigError, match=told):
        require_reachable(ClusterSpec(), str(tmp_path / "run"), threading.Event(), print)
    assert set_up(tmp_path, KeepsRanges()) is None
    assert ["no ranges are kept: " in message and told in message for message in caplog.messages] == [True]


def set_up(folder: Path, plugin: KeepsRanges) -> Kept | None:
    worker: Any = SimpleNamespace(local_directory=str(folder / "scratch" / "worker-1"))
    plugin.setup(worker)
    return kept.here()


def test_joined_workers_keep_beside_their_scratch_files_until_the_run_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kept.KEEP_GIB, "1")
    plugin = KeepsRanges()
    found = set_up(tmp_path, plugin)
    assert found is not None
    assert (found.folder.parent, found.most_bytes) == (tmp_path / "scratch", 2**30)
    found.store(found.folder / "file", piece(0, 100))
    plugin.teardown(SimpleNamespace())  # type: ignore[arg-type]
    assert kept.here() is None
    assert not found.folder.exists()


def test_the_last_of_the_runs_that_share_a_worker_ends_what_it_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kept.KEEP_GIB, "1")
    one, other = KeepsRanges(run="one"), KeepsRanges(run="other")
    assert one.name != other.name
    worker: Any = SimpleNamespace()
    set_up(tmp_path, one)
    found = set_up(tmp_path, other)
    assert found is not None
    found.store(found.folder / "file", piece(0, 100))
    one.teardown(worker)
    assert kept.here() == found
    assert list(found.folder.iterdir())
    set_up(tmp_path, one)  # it is gone on with
    other.teardown(worker)
    assert list(found.folder.iterdir())
    one.teardown(worker)
    assert kept.here() is None
    assert not found.folder.exists()


def test_a_folder_that_others_can_write_to_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kept.KEEP_GIB, "1")
    for name, mode in (("open", 0o777), ("group", 0o770), ("own", 0o700)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        found = set_up(tmp_path, KeepsRanges(str(tmp_path / name)))
        assert (found is not None) == (name == "own")
        kept.keep_at(None)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    assert set_up(tmp_path, KeepsRanges(str(tmp_path / "link"))) is None


def test_nothing_is_kept_where_it_would_take_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\ntmpfs {tmp_path}/t tmpfs rw 0 0\ndisk {tmp_path}/t/d xfs rw 0 0\n"
    )
    for name, expected in (("t/kept", True), ("kept", False), ("t/d/kept", False), ("tt", False)):
        assert keeping.lies_in_memory(tmp_path / name, mounts) is expected
    assert not keeping.lies_in_memory(tmp_path, tmp_path / "absent")
    monkeypatch.setattr(keeping, "lies_in_memory", lambda folder: True)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv(kept.KEEP_GIB, raising=False)
    assert set_up(tmp_path, KeepsRanges()) is None
    monkeypatch.setenv(kept.KEEP_GIB, "1")  # somebody wants it there
    assert set_up(tmp_path, KeepsRanges()) is not None


def test_what_a_killed_run_kept_goes_when_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    left = tmp_path / f"cryoscale-ranges-{gone.pid}-abc"
    others = [tmp_path / f"cryoscale-ranges-{os.getppid()}-abc", tmp_path / "cryoscale-ranges-of-0"]
    for folder in (left, *others):
        (folder / "file").mkdir(parents=True)
    with keeping.folder_of_this_process() as found:
        assert found is not None
        assert Path(found).parent == tmp_path
        assert Path(found).stat().st_mode & 0o777 == 0o700
        (Path(found) / "file").mkdir()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_machine_without_a_place_for_it_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    with keeping.folder_of_this_process() as found:
        assert found is None
