"""The log of a run: whole lines without secrets, and never the reason why a run ends."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cryoscale import journal
from cryoscale.errors import StoreUnavailableError
from cryoscale.journal import FileLines, Journal, StoredLines
from cryoscale.write.objects import Objects


class FullDisk:
    """Takes lines, except for a while."""

    def __init__(self, full: range) -> None:
        self.full, self.asked, self.taken = full, 0, []

    def write(self, line: bytes) -> None:
        self.asked += 1
        if self.asked - 1 in self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.taken.append(line)

    def close(self) -> None:
        raise OSError(errno.EIO, "Input/output error")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole."""
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def test_a_disk_that_is_full_for_a_while_costs_lines_that_are_counted_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = FullDisk(range(2, 5))
    written = Journal(disk)
    for number in range(7):
        written.event("block", {"row": number})
    written.close()
    rows = [json.loads(line) for line in disk.taken]
    assert [row.get("row", row.get("count")) for row in rows] == [0, 1, 3, 5, 6]
    assert rows[2]["event"] == "lines_lost"
    assert len([text for text in caplog.messages if "the log cannot be written" in text]) == 1


def test_a_line_torn_by_a_kill_spoils_no_line_that_comes_after_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for session in ("first", "second"):
        written = Journal(FileLines(str(path)))
        written.event("began", {"session": session})
        written.event("ended", {"session": session})
        written.close()
        path.write_bytes(path.read_bytes()[:-9])
    assert [(row["event"], row["session"]) for row in read(path)] == [
        ("began", "first"),
        ("began", "second"),
    ]


def test_each_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    written = Journal()
    written.event("stage", {"text": "before it was known where"})
    written.open(FileLines(str(tmp_path / "new" / "log.jsonl")))
    written.event("stage", {"text": "after"})
    assert [row["text"] for row in read(tmp_path / "new" / "log.jsonl")] == [
        "before it was known where",
        "after",
    ]


def test_of_addresses_only_what_is_public_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    secret = "https://me:hunter2@host.example/b/x.tif?sig=c2VjcmV0"
    Journal(FileLines(str(path))).event(
        "failed", {"reason": f"could not read '{secret}' (404)", "scenes_failed": [["S2A", secret]]}
    )
    text = path.read_text()
    assert "hunter2" not in text
    assert "c2VjcmV0" not in text
    assert read(path)[0]["reason"] == "could not read 'https://host.example/b/x.tif' (404)"


def test_a_beat_is_a_line_once_in_a_while(tmp_path: Path) -> None:
    written = Journal(FileLines(str(tmp_path / "log.jsonl")))
    for done in range(100):
        written.event("beat", {"done": done})
    assert [(row["event"], row["done"]) for row in read(tmp_path / "log.jsonl")] == [("progress", 0)]


def test_warnings_become_events_and_are_printed_as_before(tmp_path: Path) -> None:
    code = (
        "import logging, sys\n"
        "from cryoscale import journal\n"
        "lines = journal.Journal(journal.FileLines(sys.argv[1]))\n"
        "with journal.heard(lines.event), journal.heard(lambda name, facts: None):\n"
        "    logging.getLogger('cryoscale.read').warning('tile %d is odd', 7)\n"
        "    logging.getLogger('cryoscale').info('nothing')\n"
    )
    path = tmp_path / "log.jsonl"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == "tile 7 is odd\n"
    assert [(row["event"], row["text"]) for row in read(path)] == [("warning", "tile 7 is odd")]


def stored(out: str) -> list[int]:
    """The rows of all segments, in order."""
    objects = Objects(out)
    names = sorted(entry.key for entry in objects.list(journal.FOLDER))
    lines = b"".join(objects.get(name) or b"" for name in names).splitlines()
    return [json.loads(line)["row"] for line in lines]


def test_on_an_object_store_the_segments_hold_every_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SEGMENT_S", 0.02)
    written = Journal(StoredLines("memory://seen/run", "abc"))
    for row in range(30):
        written.event("block", {"row": row})
        time.sleep(0.005)
    written.close()
    assert len(list(Objects("memory://seen/run").list(journal.FOLDER))) > 1
    assert stored("memory://seen/run") == list(range(30))


def test_lines_wait_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    put, away = Objects.put, [0]

    def sometimes(self: Objects, key: str, content: bytes) -> None:
        away[0] += 1
        if away[0] <= 5:
            raise StoreUnavailableError("nobody answers")
        put(self, key, content)

    monkeypatch.setattr(Objects, "put", sometimes)
    monkeypatch.setattr(journal, "SEGMENT_S", 0.01)
    written = Journal(StoredLines("memory://seen/away", "abc"))
    for row in range(10):
        written.event("block", {"row": row})
        time.sleep(0.005)
    while away[0] <= 5:
        time.sleep(0.005)
    written.close()
    assert stored("memory://seen/away") == list(range(10))
