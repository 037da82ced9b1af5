"""The map in S3, held against the same map on disk, while its server goes away and comes back."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import boto3
import fsspec
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from cryoscale.errors import OutputError
from cryoscale.grid import Block, Window, blocks_over
from cryoscale.write import mosaic, quicklook
from cryoscale.write.objects import Entry
from tests.integration.disks import cramped
from tests.integration.s3 import S3, Asked

CLASSES = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")
BLOCK_PX = 256
WINDOW = Window(32645, -310 * BLOCK_PX, 60 * BLOCK_PX, 2 * BLOCK_PX, 2 * BLOCK_PX)
BLOCKS: Sequence[Block] = list(blocks_over(WINDOW, BLOCK_PX))


def arrays(seed: int) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(seed)
    shape = (BLOCK_PX, BLOCK_PX)
    probability = random.integers(0, 251, (len(CLASSES), *shape), dtype=np.uint8)
    return {
        "probability": probability,
        "label": probability.argmax(axis=0).astype(np.uint8),
        "confidence": random.integers(0, 251, shape, dtype=np.uint8),
        "disagreement": random.integers(0, 251, shape, dtype=np.uint8),
        "source_date": random.integers(17_000, 18_000, shape, dtype=np.int32),
        "n_clear": random.integers(0, 400, shape, dtype=np.uint16),
        "modalities": random.integers(0, 32, shape, dtype=np.uint8),
    }


def made(out: str) -> str:
    store = f"{out}/mosaic.zarr"
    mosaic.create(store, year=2018, window=WINDOW, block_px=BLOCK_PX, classes=CLASSES, attrs={})
    return store


def stored(s3: S3, name: str) -> dict[str, bytes]:
    """What the server holds under ``name``, asked with another client and beside the proxy."""
    host, port = s3.upstream
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        region_name="us-east-1",
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=s3.bucket, Prefix=f"{name}/")
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return {
        key.removeprefix(f"{name}/"): client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()
        for key in keys
    }


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_whole_map_in_s3_is_the_one_on_disk_byte_for_byte(s3: S3, tmp_path: Path) -> None:
    layer = np.random.default_rng(1).random((BLOCK_PX, BLOCK_PX), np.float32)
    records = []
    for out in (str(tmp_path / "run"), s3.url("run")):
        store = made(out)
        quicklook.create(out, year=2018, window=WINDOW, block_px=BLOCK_PX)
        records.append([mosaic.write_block(store, 2018, b, arrays(n)) for n, b in enumerate(BLOCKS[:3])])
        quicklook.write_block(out, 2018, BLOCKS[1], {"B04": layer})
        mosaic.write_block(store, 2018, BLOCKS[0], {"label": arrays(0)["label"]})
        assert mosaic.build_levels(store, 2018, WINDOW.epsg) == [2]
    assert records[0] == records[1]
    disk = on_disk(tmp_path / "run")
    assert any("/x2/" in key for key in disk)
    assert stored(s3, "run") == disk
    uploads = [one.path for one in s3.asked if "uploadId" in one.path or "uploads" in one.path]
    assert uploads == [], "an object was put in parts"
    np.testing.assert_array_equal(
        mosaic.open_mosaic(s3.url("run"), 2018, WINDOW.epsg)["label"].values,
        mosaic.open_mosaic(tmp_path / "run", 2018, WINDOW.epsg)["label"].values,
    )


@pytest.mark.parametrize("fault", ["away", "503"])
def test_a_block_written_through_an_outage_is_the_same_block(s3: S3, tmp_path: Path, fault: str) -> None:
    here, there = made(str(tmp_path / "run")), made(s3.url("run"))
    puts: list[str] = []

    def plan(asked: Asked) -> str | None:
        if asked.method != "PUT" or "/c/" not in asked.path:
            return None
        puts.append(asked.path)
        if fault == "503":
            return "503" if puts.count(asked.path) == 1 else None
        if len(puts) == 3 and s3.refused_s == 0:
            s3.go_for(3)
            return "hang-up"
        return None

    s3.plan = plan
    record = mosaic.write_block(there, 2018, BLOCKS[2], arrays(2))
    assert record == mosaic.write_block(here, 2018, BLOCKS[2], arrays(2))
    assert stored(s3, "run") == on_disk(tmp_path / "run")
    assert s3.suffered == (["hang-up"] if fault == "away" else ["503"] * len(mosaic.ARRAYS))
    # of the three that had come when the store went, those still under way are put again, not only the third
    again = len(puts) - len(mosaic.ARRAYS)
    assert 1 <= again <= 3 if fault == "away" else again == len(s3.suffered)


def test_reading_lazily_bears_with_an_outage_that_begins_after_the_opening(s3: S3) -> None:
    mosaic.write_block(made(s3.url("run")), 2018, BLOCKS[0], arrays(0))
    opened = mosaic.open_mosaic(s3.url("run"), 2018, WINDOW.epsg)
    s3.go_for(1)
    y, x = BLOCKS[0].window.slices_in(WINDOW)
    np.testing.assert_array_equal(opened["probability"][:, y, x].values, arrays(0)["probability"])


def test_a_zone_that_another_process_made_is_seen(s3: S3) -> None:
    store = made(s3.url("run"))
    assert mosaic.zones(s3.url("run"), 2018) == [32645]
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    root = store.removeprefix("s3://")
    for path in other.find(f"{root}/2018/32645"):
        other.pipe_file(path.replace("32645", "32646"), other.cat_file(path))
    assert mosaic.zones(s3.url("run"), 2018) == [32645, 32646]
    mosaic.create(
        store,
        year=2018,
        window=replace(WINDOW, epsg=32647),
        block_px=BLOCK_PX,
        classes=CLASSES,
        attrs={},
    )
    gathered = zarr.open_group(store, mode="r", use_consolidated=True)
    assert {f"2018/{epsg}/label" for epsg in (32645, 32646, 32647)} <= {
        name for name, _ in gathered.members(None)
    }


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_entries_tell_sizes_and_change_with_every_writing(
    request: pytest.FixtureRequest, tmp_path: Path, where: str
) -> None:
    server: S3 | None = request.getfixturevalue("s3") if where == "s3" else None
    store = made(server.url("run") if server else str(tmp_path / "run"))
    for number in (0, 3):
        mosaic.write_block(store, 2018, BLOCKS[number], arrays(number))
    mosaic.write_block(store, 2018, BLOCKS[1], {"label": arrays(1)["label"]})
    lying = stored(server, "run") if server else on_disk(tmp_path / "run")
    entries = {block: mosaic.block_entries(store, 2018, block) for block in BLOCKS}
    for block, (row, col) in zip(BLOCKS, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        for name, entry in entries[block].items():
            leading = "0/" if name == "probability" else ""
            raw = lying.get(f"mosaic.zarr/2018/32645/{name}/c/{leading}{row}/{col}")
            assert (entry and entry.size_bytes) == (None if raw is None else len(raw))
    assert {entry is None for entry in entries[BLOCKS[2]].values()} == {True}
    assert [name for name, entry in entries[BLOCKS[1]].items() if entry] == ["label"]
    del entries[BLOCKS[2]]
    one_by_one = {(b, name): e for b, found in entries.items() for name, e in found.items() if e}
    assert of_the_zone(store) == one_by_one
    mosaic.write_block(store, 2018, BLOCKS[0], arrays(9))
    after = of_the_zone(store)
    assert all(after[BLOCKS[0], name] != entry for name, entry in entries[BLOCKS[0]].items())
    assert all(after[BLOCKS[3], name] == entry for name, entry in entries[BLOCKS[3]].items())


def of_the_zone(store: str) -> dict[tuple[Block, str], Entry]:
    """All shards of the zone by block and array."""
    return {(block, name): entry for block, name, entry in mosaic.zone_entries(store, 2018, 32645)}


def test_a_missing_bucket_is_no_map(s3: S3) -> None:
    with pytest.raises(OutputError, match="run the map first"):
        mosaic.write_block("s3://no-such-bucket/mosaic.zarr", 2018, BLOCKS[0], {})


def test_a_forked_process_writes_blocks_after_its_parent_has(s3: S3, tmp_path: Path) -> None:
    store = made(s3.url("run"))
    mosaic.write_block(store, 2018, BLOCKS[0], arrays(0))
    write = multiprocessing.get_context("fork").Process(
        target=mosaic.write_block, args=(store, 2018, BLOCKS[1], arrays(1))
    )
    write.start()
    write.join(60)
    assert write.exitcode == 0
    here = made(str(tmp_path))
    assert mosaic.read_block_checksum(store, 2018, BLOCKS[1]) == mosaic.write_block(
        here, 2018, BLOCKS[1], arrays(1)
    )


@pytest.mark.parametrize("how", ["tmpfs", "limit"])
def test_a_full_disk_ends_the_writing_of_a_block_and_leaves_no_half_shard(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "small"
    with cramped(folder, how):
        store = made(str(folder))
        before = on_disk(folder)
        with pytest.raises(OSError, match="No space left|File too large"):
            mosaic.write_block(store, 2018, BLOCKS[0], arrays(0))
        assert on_disk(folder) == before
        record = mosaic.write_block(store, 2018, BLOCKS[0], {"modalities": arrays(0)["modalities"] * 0 + 1})
        assert mosaic.read_block_checksum(store, 2018, BLOCKS[0]) == record
