"""What befalls the place that a run writes to: it fills, is read-only, goes away, bytes in it change."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cryoscale.config import load_config
from cryoscale.ledger import Ledger
from cryoscale.pipeline import run as run_pipeline
from cryoscale.results import Run
from cryoscale.write.objects import Objects
from tests.integration.conftest import Calm
from tests.integration.faults import Command, bytes_that_differ, done, here, run_here, run_to_end, until
from tests.integration.s3 import S3
from tests.tables import Table


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A real filesystem of its own size."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _resize(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/bin/mount").exists(), reason="mounting a small disk takes root"
)


@needs_mounts
def test_a_full_disk_ends_the_run_in_one_line_and_room_on_it_completes_the_run(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    with _small_disk(tmp_path / "disk", "512k") as disk:
        out = disk / "run"
        code, _, complained = Command.start("run", calm.config, "--out", out).end()
        assert code == 1
        assert "No space left" in complained.splitlines()[-1]
        assert "Traceback" not in complained
        kept = done(out)
        assert kept < calm.blocks
        assert Ledger(str(out)).set_asides() == {}, "no block is to blame for a full disk"
        _resize(disk, "size=64m")
        told = run_here(calm.config, out)
        differ = bytes_that_differ(out, calm.out)
        assert told["skipped"] == kept
        partial = [path for path in out.rglob("*") if path.name.endswith(".partial")]
        assert partial == []
    faults.add("disk full in the middle of a run", 1, told["computed"] + kept - calm.blocks, differ)
    assert differ == 0


@needs_mounts
def test_an_output_that_becomes_read_only_ends_the_run_and_blames_no_block(
    calm: Calm, tmp_path: Path, faults: Table
) -> None:
    with _small_disk(tmp_path / "disk", "64m") as disk:
        out = disk / "run"
        # a file in the place of its folder: no log is held open, which would keep the disk writable
        (out / "ledger").mkdir(parents=True)
        (out / "ledger" / "log").touch()
        command = Command.start("run", calm.config, "--out", out)
        assert until(lambda: done(out) >= 1, command)
        _make_read_only(disk)
        code, _, complained = command.end()
        assert code == 1
        assert "Read-only" in complained
        assert "Traceback" not in complained
        kept = done(out)
        refused, _, words = here("run", calm.config, "--out", out)
        assert (refused, len(words.splitlines())) == (2, 1)
        assert "Read-only" in words
        _resize(disk, "rw")
        told = run_here(calm.config, out)
        differ = bytes_that_differ(out, calm.out)
        assert told["skipped"] == kept
    faults.add("output read-only in the middle of a run", 1, told["computed"] + kept - calm.blocks, differ)
    assert differ == 0


def _make_read_only(disk: Path) -> None:
    """At a moment when nobody has a file open for writing, which the kernel would wait for in vain."""
    until(
        lambda: subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode == 0
    )


def test_a_store_that_goes_away_in_the_middle_of_a_run_costs_no_block(
    calm: Calm, s3: S3, faults: Table
) -> None:
    out = s3.url("run")
    command = Command.start("run", calm.config, "--out", out, "--json")
    assert until(lambda: done(out) >= 2, command, every_s=0.2)
    s3.go_for(20.0)
    code, said, complained = command.end()
    assert code == 0, complained
    told = json.loads(said)
    differ = bytes_that_differ(out, calm.out)
    faults.add("S3 server away for 20 s", 1, told["repeated"], differ)
    assert told["set_aside"] == []
    assert differ == 0
    code, said, complained = here("verify", out, "--json")
    assert code == 0, said + complained


def test_a_driver_killed_while_it_writes_to_s3_is_followed_by_the_next(
    calm: Calm, s3: S3, faults: Table
) -> None:
    out = s3.url("run")
    command = Command.start("run", calm.config, "--out", out)
    assert until(lambda: done(out) >= 2, command, every_s=0.2)
    command.kill()
    command.end()
    kept = done(out)
    told = run_to_end(calm.config, out)  # a fork server that is there knows nothing of this server's keys
    differ = bytes_that_differ(out, calm.out)
    faults.add("SIGKILL of the driver, output on S3", 1, told["computed"] + kept - calm.blocks, differ)
    assert told["skipped"] == kept
    assert differ == 0
    asked = Counter(one.path for one in s3.asked if one.method == "GET" and "/elevation/c/" in one.path)
    assert len(asked) >= calm.blocks // 2
    assert max(asked.values()) <= 10, "once by each that opens it, not by each outline over it (30 and more)"


@pytest.fixture
def copy(calm: Calm, tmp_path: Path) -> Path:
    """A finished run to do harm to, times kept as ``cp -a`` keeps them."""
    out = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(calm.out), str(out)], check=True)
    return out


def _flip(path: Path, *, keep_time: bool = False) -> None:
    """One byte changed, in the middle."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _shard(out: Path) -> Path:
    return max((out / "mosaic.zarr").glob("2018/*/probability/c/0/*/*"), key=lambda p: p.stat().st_size)


def _of_map(out: Path, pattern: str) -> Path:
    return sorted((out / "mosaic.zarr").glob(pattern))[0]


def _marker(out: Path) -> Path:
    return sorted((out / "ledger" / "done").rglob("*.json"))[0]


HARMS = {
    "a shard, one byte flipped": lambda out: _flip(_shard(out)),
    "a shard, one byte flipped, its time kept": lambda out: _flip(_shard(out), keep_time=True),
    "a shard cut short by a byte": lambda out: _cut(_shard(out)),
    "a shard gone": lambda out: _shard(out).unlink(),
    "a marker, one byte flipped": lambda out: _flip(_marker(out)),
    "a marker cut in half": lambda out: _marker(out).write_bytes(_marker(out).read_bytes()[:400]),
    "a marker gone": lambda out: _marker(out).unlink(),
    "a coarser level, one byte flipped": lambda out: _flip(
        next((out / "mosaic.zarr").glob("2018/*/x2/label/c/*/*"))
    ),
    "the map's metadata, one byte flipped": lambda out: _flip(
        next((out / "mosaic.zarr").glob("2018/*/label/zarr.json"))
    ),
    "the metadata of a zone cut short": lambda out: _cut(
        next((out / "mosaic.zarr").glob("2018/*/zarr.json"))
    ),
    "the map's own metadata gone": lambda out: (out / "mosaic.zarr" / "zarr.json").unlink(),
    "coordinates, one byte flipped": lambda out: _flip(
        next(path for path in (out / "mosaic.zarr").glob("2018/*/x/c/*") if path.is_file())
    ),
    "the inventory, one byte flipped": lambda out: _flip(out / "inventory" / "2018.parquet"),
    "a STAC item gone": lambda out: next((out / "stac").glob("*.json")).unlink(),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_damaged_is_found_by_verify_and_mended_by_run(
    calm: Calm, copy: Path, harm: str, faults: Table
) -> None:
    HARMS[harm](copy)
    found = Run(str(copy)).verify()
    assert not found.sound
    assert found.faults
    assert all(fault.repair for fault in found.faults)
    outcome = run_pipeline(load_config(calm.config), str(copy))
    differ = bytes_that_differ(copy, calm.out)
    faults.add(harm, 1, outcome.computed, differ)
    assert differ == 0
    assert Run(str(copy)).verify().sound


def test_the_commands_tell_damage_by_their_exit_codes(calm: Calm, copy: Path) -> None:
    _flip(_shard(copy))
    code, said, complained = here("verify", copy, "--json")
    found = json.loads(said)
    assert (code, found["sound"]) == (1, False), complained
    (fault,) = found["faults"]
    assert (fault["kind"], fault["repair"]) == ("shard", True)
    assert "probability was written to since" in fault["reason"]
    assert run_here(calm.config, copy)["computed"] == 1
    assert here("verify", copy)[0] == 0


def test_verify_of_a_sound_run_says_so_and_how_long_a_thousand_blocks_take(calm: Calm) -> None:
    code, said, _ = here("verify", calm.out, "--json")
    found = json.loads(said)
    assert code == 0
    assert found["sound"]
    assert found["checked"] == found["planned"] == calm.blocks
    assert found["seconds_per_1000_blocks"] > 0


def test_verify_of_an_unfinished_run_names_what_is_not_done(calm: Calm, copy: Path) -> None:
    lost = _marker(copy)
    lost.unlink()
    (fault,) = Run(str(copy)).verify().faults
    assert fault.where.rsplit("/", 1)[-1] == lost.stem
    assert "not done" in fault.reason


def test_a_flipped_byte_is_mended_by_run_without_verify_where_the_files_time_tells(
    calm: Calm, copy: Path
) -> None:
    _flip(_shard(copy))
    assert run_pipeline(load_config(calm.config), str(copy)).computed == 1
    assert bytes_that_differ(copy, calm.out) == 0


def test_resuming_reads_no_shard_that_nobody_touched(calm: Calm, copy: Path) -> None:
    from cryoscale.resume import sound

    told: list[str] = []
    assert len(sound(Ledger(str(copy)), told.append)) == calm.blocks
    # a copy that keeps the times has other inodes: all is read once, found right and stamped anew
    assert any("reading back" in line for line in told)
    told.clear()
    assert len(sound(Ledger(str(copy)), told.append)) == calm.blocks
    assert not any("reading back" in line for line in told)


def test_every_object_of_a_map_has_one_writer(calm: Calm) -> None:
    """One block, one shard: each stored object of the map's arrays belongs to exactly one block."""
    from cryoscale.write import mosaic

    markers = list(Ledger(str(calm.out)).markers())
    seen: list[str] = []
    for year, epsg in {(m.year, m.epsg) for m in markers}:
        seen += [entry.key for _, _, entry in mosaic.zone_entries(f"{calm.out}/mosaic.zarr", year, epsg)]
    stored = [
        entry.key
        for entry in Objects(f"{calm.out}/mosaic.zarr").list("2018")
        if "/c/" in entry.key and entry.key.split("/")[2] in mosaic.ARRAYS
    ]
    assert sorted(seen) == sorted(stored)
    assert len(seen) == sum(len(marker.shards) for marker in markers)
