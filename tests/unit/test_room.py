"""A full disk, told from a path that is no good: by what writes whole files, with exit code 1 and not 2."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cryoscale.errors import NoRoomError, OutputError
from cryoscale.room import room
from cryoscale.write.shapefile import move_folder
from cryoscale.write.store import put
from cryoscale.write.usable import require_usable
from cryoscale.write.vectors import move
from tests.integration.disks import cramped

WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "put": lambda made, path: put(path, (made / "large").read_bytes()),
    "move": lambda made, path: move(made / "large", path),
    "folder": lambda made, path: move_folder(made, path),
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with a file that the disk has no room for."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "large").write_bytes(bytes(100_000))
    return folder


def told(caught: pytest.ExceptionInfo[NoRoomError], path: Path) -> None:
    """One line that names the path, for somebody to look at."""
    assert str(caught.value).startswith(f"{path} takes no more (")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_outgrows_its_disk_is_named_and_not_left_behind(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Path], object]
) -> None:
    def across(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.rename", across)
    path = tmp_path / "disk" / "x"
    with cramped(path.parent, "limit"), pytest.raises(NoRoomError, match="make room and start") as caught:
        write(made, path)
    told(caught, path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_full_quota_are_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("cryoscale.write.disk.os.fsync", full)
    with pytest.raises(NoRoomError) as caught:
        put(tmp_path / "x", b"x")
    told(caught, tmp_path / "x")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_path_that_is_no_good_is_bad_input(
    tmp_path: Path, made: Path, write: Callable[[Path, Path], object]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="can be written; choose another") as caught:
        write(made, tmp_path / "file" / "x")
    assert caught.value.exit_code == 2


def test_a_disk_that_is_full_before_the_work_is_no_bad_input_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cryoscale.write.disk.os.fsync", full)
    with pytest.raises(NoRoomError) as caught:
        require_usable(tmp_path / "evaluation")
    told(caught, tmp_path / "evaluation")


def test_within_a_run_it_is_the_run_that_takes_no_more(tmp_path: Path) -> None:
    with (
        cramped(tmp_path / "run", "limit"),
        pytest.raises(NoRoomError, match="what is done is kept") as caught,
        room(str(tmp_path / "run")),
    ):
        put(tmp_path / "run" / "report.html", bytes(100_000))
    told(caught, tmp_path / "run")
