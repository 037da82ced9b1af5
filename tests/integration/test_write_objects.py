"""Objects on disk, in memory and in S3: the same promises, held against the bytes that lie there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import fsspec
import pytest

from cryoscale.errors import ExtraError, NoRoomError, OutputError, StoreUnavailableError
from cryoscale.write import usable
from cryoscale.write.objects import Objects
from cryoscale.write.store import put
from cryoscale.write.usable import require_usable
from tests.integration.disks import cramped
from tests.integration.s3 import S3, Asked

ODD_KEYS = (
    "a/plain.json",
    "a/[0-9]*.json",
    "a/sp ace+plus%20.json",
    "a/gletscher-ß-氷.json",
    "ab",
    "a/b/c/deep",
)


@pytest.fixture(params=["disk", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    if request.param == "disk":
        yield Objects(str(tmp_path / "not yet" / "run"))
    elif request.param == "s3":
        yield Objects(request.getfixturevalue("s3").url("run"))
    else:
        root = f"memory://{uuid.uuid4().hex}"
        yield Objects(root)
        if fsspec.filesystem("memory").exists(root):
            fsspec.filesystem("memory").rm(root, recursive=True)


def test_objects_come_back_by_key_and_are_listed_with_their_sizes(store: Objects) -> None:
    wanted = {key: key.encode() * (number + 1) for number, key in enumerate(ODD_KEYS)}
    for key, content in wanted.items():
        store.put(key, content)
    assert store.get_many([*wanted, "a/absent", "a"]) == wanted | {"a/absent": None, "a": None}
    assert {e.key: e.size_bytes for e in store.list("")} == {k: len(v) for k, v in wanted.items()}
    assert {e.key for e in store.list("a")} == {k for k in wanted if k.startswith("a/")}
    assert {e.key for e in store.list("a/b/")} == {"a/b/c/deep"}
    for entry in store.list(""):
        assert store.stat(entry.key) == entry


def test_what_is_absent_is_told_as_absent_and_may_be_deleted(store: Objects) -> None:
    assert list(store.list("")) == []
    store.put("a/b", b"1")
    for key in ("absent", "a", "a/b/c"):
        assert store.get(key) is None
        assert store.stat(key) is None
        assert list(store.list("a/b" if key == "a" else key)) == []
        store.delete_all(f"{key}/none")
    for key in ("absent", "a/b/c"):
        store.delete(key)
    assert store.get("a/b") == b"1"
    store.delete("a/b")
    assert store.get("a/b") is None


def test_a_folder_is_deleted_with_all_that_is_below_it_and_nothing_beside_it(store: Objects) -> None:
    for key in ("a/1", "a/b/2", "ab/3"):
        store.put(key, b"x")
    store.delete_all("a")
    assert [entry.key for entry in store.list("")] == ["ab/3"]


def test_an_object_written_again_has_another_stamp(store: Objects) -> None:
    store.put("a", b"one")
    first = store.stat("a")
    store.put("a", b"two")
    second = store.stat("a")
    assert first is not None
    assert second is not None
    assert first.stamp != second.stamp
    assert second.stamp == next(store.list("")).stamp


def test_what_is_there_is_not_created_again(store: Objects) -> None:
    assert store.create("a/b", b"first") is True
    assert store.create("a/b", b"second") is False
    assert store.get("a/b") == b"first"
    assert [entry.key for entry in store.list("")] == ["a/b"]


def test_a_file_is_put_by_its_url(tmp_path: Path, s3: S3) -> None:
    name = f"{uuid.uuid4().hex}.json"
    for url in (str(tmp_path / "a" / name), f"memory://{name}", f"memory://{name}.d/{name}", s3.url(name)):
        put(url, b"1")
        assert fsspec.open(url).open().read() == b"1"
    for path in (f"memory://{name}", f"memory://{name}.d/{name}"):
        fsspec.filesystem("memory").rm(path)


# --- the local disk -----------------------------------------------------------------------------------


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_eight_processes_that_create_one_file_one_does(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom cryoscale.write.objects import Objects\n"
        "store, who = Objects(sys.argv[1]), sys.argv[2]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(''.join(str(int(store.create(f'lock/{n}', who.encode()))) for n in range(50)))"
    )
    racers = [run_python(code, str(tmp_path), str(who)) for who in range(8)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    for number in range(50):
        (winner,) = [who for who, answer in enumerate(answers) if answer[number] == "1"]
        assert (tmp_path / "lock" / str(number)).read_bytes() == str(winner).encode()
    assert len(os.listdir(tmp_path / "lock")) == 50


def test_a_filesystem_without_hard_links_is_served_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("cryoscale.write.disk.os.link", refused)
    store = Objects(str(tmp_path))
    assert store.create("a", b"first") is True
    assert store.create("a", b"second") is False
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first"


def test_a_writer_killed_before_the_rename_leaves_the_old_content_and_no_entry(tmp_path: Path) -> None:
    store = Objects(str(tmp_path))
    store.put("a/b", b"old")
    code = (
        "import os, signal, sys\nfrom cryoscale.write.objects import Objects\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Objects(sys.argv[1]).put('a/b', b'new' * 1000)"
    )
    killed = run_python(code, str(tmp_path))
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    (left,) = {p for p in (tmp_path / "a").iterdir() if p.name != "b"}
    assert left.read_bytes() == b"new" * 1000
    assert [(e.key, e.size_bytes) for e in store.list("")] == [("a/b", 3)]
    assert store.get("a/b") == b"old"
    # what zarr leaves of a killed writer, and a folder of a file set that was not put in place
    (tmp_path / "a" / f"0.{uuid.uuid4().hex}.partial").touch()
    (tmp_path / "a" / f".{uuid.uuid4().hex}.partial").mkdir()
    (tmp_path / "a" / "mine.partial").touch()
    store.sweep("elsewhere")
    assert left.exists()
    store.sweep("a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "mine.partial"]


@pytest.mark.parametrize("how", ["tmpfs", "limit"])
def test_a_full_disk_leaves_the_old_content_and_no_part_of_the_new(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "small"
    with cramped(folder, how):
        store = Objects(str(folder))
        store.put("a", b"old")
        for attempt in (store.put, store.create):
            with pytest.raises(OSError, match="No space left|File too large") as caught:
                attempt("a" if attempt == store.put else "b", bytes(1024 * 1024))
            assert not isinstance(caught.value, StoreUnavailableError)
        assert os.listdir(folder) == ["a"]
        assert (folder / "a").read_bytes() == b"old"
        store.put("a", b"small enough")
        assert store.get("a") == b"small enough"


# --- S3 -----------------------------------------------------------------------------------------------


def test_of_eight_that_create_one_object_in_s3_one_does(s3: S3) -> None:
    store = Objects(s3.url("run"))
    for number in range(5):
        together = threading.Barrier(8)

        def race(who: int, together: threading.Barrier = together, key: str = f"lock/{number}") -> bool:
            together.wait()
            return store.create(key, str(who).encode())

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(race, range(8)))
        assert sum(answers) == 1
        assert store.get(f"lock/{number}") == str(answers.index(True)).encode()
    # that the race was run at all: more than one got past the look whether anything is there
    assert len(s3.puts()) > 5


def test_whoever_created_an_object_learns_it_even_if_the_answer_was_lost(s3: S3) -> None:
    s3.plan = lambda asked: "lost" if asked.method == "PUT" and not s3.suffered else None
    store = Objects(s3.url("run"))
    assert store.create("lock", b"mine") is True
    assert s3.suffered == ["lost"]
    assert store.create("lock", b"mine") is False


def test_a_server_that_is_away_for_seconds_costs_no_operation(s3: S3) -> None:
    store = Objects(s3.url("run"))
    for key in ("old", "gone", "many/1", "many/2"):
        store.put(key, key.encode())
    calls: list[Callable[[], object]] = [
        lambda: store.put("new", b"new"),
        lambda: store.create("created", b"created"),
        lambda: store.get("old"),
        lambda: store.stat("old"),
        lambda: store.get_many(["many/1", "many/2", "many/3"]),
        lambda: sorted(entry.key for entry in store.list("many")),
        lambda: store.delete("gone"),
    ]
    s3.go_for(3)
    with ThreadPoolExecutor(len(calls)) as pool:
        answers = [future.result() for future in [pool.submit(call) for call in calls]]
    assert s3.refused_s == 3
    assert answers[:3] == [None, True, b"old"]
    assert answers[4:] == [
        {"many/1": b"many/1", "many/2": b"many/2", "many/3": None},
        ["many/1", "many/2"],
        None,
    ]
    assert {entry.key for entry in store.list("")} == {"created", "many/1", "many/2", "new", "old"}


@pytest.mark.parametrize("fault", ["503", "500", "429", "hang-up", "lost"])
def test_what_a_server_gets_wrong_twice_is_asked_a_third_time(s3: S3, fault: str) -> None:
    seen: list[str] = []

    def plan(asked: Asked) -> str | None:
        seen.append(f"{asked.method} {asked.path}")
        return fault if seen.count(seen[-1]) <= 2 else None

    s3.plan = plan
    store = Objects(s3.url("run"))
    store.put("a", bytes(100_000))
    assert store.get_many(["a"]) == {"a": bytes(100_000)}
    assert s3.suffered == [fault] * 4


def test_a_server_that_stays_away_is_told_as_such(s3: S3) -> None:
    s3.go()
    with pytest.raises(StoreUnavailableError, match="has not answered") as caught:
        Objects(s3.url("run"), retry_s=0.5).put("a", b"1")
    assert caught.value.retry
    assert "\n" not in str(caught.value)


def test_missing_rights_and_a_missing_bucket_are_told_at_once(s3: S3) -> None:
    with pytest.raises(FileNotFoundError, match="bucket"):
        Objects("s3://no-such-bucket/run").put("a", b"1")
    with pytest.raises(FileNotFoundError, match="bucket"):
        Objects("s3://no-such-bucket/run").get("a")
    with pytest.raises(FileNotFoundError, match="bucket"):
        list(Objects("s3://no-such-bucket/run").list(""))
    before = len(s3.asked)
    s3.plan = lambda asked: "403"
    with pytest.raises(PermissionError):
        Objects(s3.url("run")).put("a", b"1")
    assert len(s3.asked) == before + 1


def test_a_folder_that_the_server_only_says_it_has_deleted_is_told(s3: S3) -> None:
    store = Objects(s3.url("run"))
    store.put("a/1", b"1")
    s3.plan = lambda asked: "feigned" if asked.method == "POST" else None
    with pytest.raises(PermissionError, match="could not be deleted"):
        store.delete_all("a")
    assert s3.suffered == ["feigned"]


def test_what_another_wrote_after_a_listing_is_in_the_next(s3: S3) -> None:
    store = Objects(s3.url("run"))
    store.put("a/1", b"1")
    assert [entry.key for entry in store.list("")] == ["a/1"]
    with closing(HTTPConnection(*s3.upstream)) as connection:
        connection.request("PUT", f"/{s3.bucket}/run/a/2", b"by another")
        assert connection.getresponse().status == 200
    assert [entry.key for entry in store.list("")] == ["a/1", "a/2"]
    assert store.stat("a/2") is not None


def test_a_forked_process_uses_the_store_that_its_parent_has_used(s3: S3) -> None:
    store = Objects(s3.url("run"))
    store.put("by", b"parent")
    child = multiprocessing.get_context("fork").Process(target=store.put, args=("by", b"child"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert store.get("by") == b"child"


# --- before a run -------------------------------------------------------------------------------------


def test_a_store_that_can_be_used_is_left_as_it_was(store: Objects, tmp_path: Path) -> None:
    require_usable(store.root)
    assert list(store.list("")) == []
    assert list(tmp_path.iterdir()) == []
    store.put("a", b"1")
    require_usable(store.root)
    assert [entry.key for entry in store.list("")] == ["a"]


@pytest.mark.parametrize("where", ["file in the way", "below a file", "kernel"])
def test_a_folder_that_cannot_be_written_is_refused_in_a_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"1")
    path = {"file in the way": tmp_path / "file", "below a file": tmp_path / "file" / "a" / "b"}.get(where)
    with pytest.raises(OutputError) as caught:
        require_usable(path or "/proc/cryoscale/run")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_read_only_disk_is_refused_and_one_that_is_full_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with cramped(folder, "tmpfs"):
        if not os.path.ismount(folder):  # nobody but root can make a disk, and rights do not hold root
            folder.chmod(0o555)
            with pytest.raises(OutputError, match="denied"):
                require_usable(folder / "run")
            return
        (folder / "ballast").write_bytes(bytes(256 * 1024))
        with pytest.raises(NoRoomError, match="make room"):
            require_usable(folder / "run")
        (folder / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(OutputError, match="Read-only"):
            require_usable(folder / "run")
        assert list(folder.iterdir()) == []


def test_a_bad_address_bucket_or_right_is_refused_in_a_line(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="bucket"):
        require_usable("s3://no-such-bucket/run")
    with pytest.raises(OutputError, match="correct it"):
        require_usable("s4://bucket/run")
    s3.plan = lambda asked: "403" if asked.method == "PUT" else None
    with pytest.raises(OutputError, match="right"):
        require_usable(s3.url("run"))
    monkeypatch.setattr(usable, "_ASK_S", 0.5)
    s3.go()
    with pytest.raises(OutputError, match="address") as caught:
        require_usable(s3.url("run"))
    assert "\n" not in str(caught.value)


def test_without_the_library_the_extra_is_named() -> None:
    code = (
        "import sys\nsys.modules['s3fs'] = None\n"
        "from cryoscale.write.usable import require_usable\n"
        "try:\n    require_usable('s3://bucket/run')\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    told, _ = run_python(code).communicate(timeout=60)
    assert told.startswith(ExtraError.__name__)
    assert "pip install 'cryoscale[s3]'" in told
    assert told.count("\n") == 1
