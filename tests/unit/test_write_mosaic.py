"""The mosaic on disk, held against what plain xarray, zarr and the bytes themselves say."""

from __future__ import annotations

import pickle
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rioxarray  # noqa: F401  # registers .rio
import xarray as xr
import zarr
from numpy.typing import NDArray

from cryoscale.errors import OutputError
from cryoscale.grid import Block, Window, blocks_over
from cryoscale.write import levels, mosaic

CLASSES = ("background", "clean_ice", "debris_covered_ice", "water", "vegetation")
BLOCK_PX = 64
WINDOW = Window(32645, -310 * BLOCK_PX, 60 * BLOCK_PX, 3 * BLOCK_PX, 2 * BLOCK_PX)


@pytest.fixture(params=["local", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "run")
        return
    root = f"memory://{uuid.uuid4().hex}"
    yield root
    fsspec.filesystem("memory").rm(root, recursive=True)


def made(out: str) -> str:
    store = f"{out}/mosaic.zarr"
    mosaic.create(
        store, year=2018, window=WINDOW, block_px=BLOCK_PX, classes=CLASSES, attrs={"run": "a test"}
    )
    return store


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


def test_plain_xarray_opens_the_map_without_a_warning_and_reads_what_was_written(out: str) -> None:
    store, wanted = made(out), arrays(1)
    block = list(blocks_over(WINDOW, BLOCK_PX))[3]
    mosaic.write_block(store, 2018, block, wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(store, group="2018/32645")
        y, x = block.window.slices_in(WINDOW)
        for name in ("probability", "label", "confidence", "disagreement", "n_clear", "modalities"):
            np.testing.assert_array_equal(opened[name][..., y, x].values, wanted[name])
        dates = opened["source_date"].values
    np.testing.assert_array_equal(dates[y, x].astype("datetime64[D]").astype(int), wanted["source_date"])
    assert np.isnat(np.delete(dates, np.s_[y], axis=0)).all()
    assert list(opened["class"].values) == list(CLASSES)
    assert opened["probability"].sel({"class": "water"}).shape == WINDOW.shape


def test_no_data_is_255_and_stays_a_byte(out: str) -> None:
    opened = xr.open_zarr(made(out), group="2018/32645")
    for name in ("probability", "label", "confidence", "disagreement"):
        assert opened[name].dtype == np.uint8
        assert (opened[name].values == 255).all()


def test_coordinates_and_crs_are_found_by_rioxarray_and_are_pixel_centres(out: str) -> None:
    opened = mosaic.open_mosaic(out if made(out) else "", 2018, 32645)
    y, x = WINDOW.coordinates()
    np.testing.assert_array_equal(opened["y"], y)
    np.testing.assert_array_equal(opened["x"], x)
    assert opened["label"].rio.crs.to_epsg() == 32645
    assert opened["label"].rio.bounds() == WINDOW.bounds_m
    assert opened["label"].rio.nodata == 255


def test_geozarr_attributes_agree_with_the_coordinates(out: str) -> None:
    attributes = zarr.open_group(made(out), path="2018/32645", mode="r").attrs.asdict()
    assert {one["name"] for one in attributes["zarr_conventions"]} == {"proj:", "spatial:"}
    assert attributes["proj:code"] == "EPSG:32645"
    assert attributes["spatial:shape"] == list(WINDOW.shape)
    assert attributes["spatial:bbox"] == list(WINDOW.bounds_m)
    assert attributes["spatial:transform"] == list(WINDOW.geobox.affine)[:6]
    assert attributes["run"] == "a test"


def test_one_block_is_one_object_an_array_and_blocks_never_share_one(out: str) -> None:
    store = made(out)
    filesystem, root = fsspec.core.url_to_fs(store)
    written: set[str] = set()
    for number, block in enumerate(blocks_over(WINDOW, BLOCK_PX)):
        before = {p: filesystem.info(p).get("mtime", filesystem.created(p)) for p in written}
        mosaic.write_block(store, 2018, block, arrays(number))
        objects = {p for name in mosaic.ARRAYS for p in filesystem.find(f"{root}/2018/32645/{name}/c")}
        assert len(objects - written) == len(mosaic.ARRAYS)
        assert before == {p: filesystem.info(p).get("mtime", filesystem.created(p)) for p in written}
        written = objects


def test_creating_again_changes_nothing_and_another_shape_is_refused(out: str) -> None:
    store = made(out)
    block = next(blocks_over(WINDOW, BLOCK_PX))
    record = mosaic.write_block(store, 2018, block, arrays(5))
    made(out)
    assert mosaic.read_block_checksum(store, 2018, block) == record
    larger = Window(WINDOW.epsg, WINDOW.row, WINDOW.col, WINDOW.height + BLOCK_PX, WINDOW.width)
    for change in (
        {"window": larger},
        {"block_px": BLOCK_PX // 2},
        {"classes": CLASSES[:3]},
    ):
        settings = {"window": WINDOW, "block_px": BLOCK_PX, "classes": CLASSES, "attrs": {}} | change
        with pytest.raises(OutputError, match="choose another output folder"):
            mosaic.create(store, year=2018, **settings)


def test_a_creation_that_was_cut_short_is_made_anew(out: str) -> None:
    store = made(out)
    filesystem, root = fsspec.core.url_to_fs(store)
    group = zarr.open_group(store, path="2018/32645", mode="r+", use_consolidated=False)
    del group.attrs["cryoscale:window"]
    filesystem.rm(f"{root}/2018/32645/label", recursive=True)
    made(out)
    mosaic.write_block(store, 2018, next(blocks_over(WINDOW, BLOCK_PX)), arrays(0))


def test_a_window_off_the_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not aligned"):
        mosaic.create(
            tmp_path / "m.zarr", year=2018, window=WINDOW.pad(1), block_px=BLOCK_PX, classes=CLASSES, attrs={}
        )


def test_writing_a_block_again_gives_the_same_checksum_and_any_order_the_same_store(tmp_path: Path) -> None:
    records = []
    for order in (1, -1):
        store = made(str(tmp_path / str(order)))
        blocks = list(enumerate(blocks_over(WINDOW, BLOCK_PX)))[::order]
        found = {block: mosaic.write_block(store, 2018, block, arrays(number)) for number, block in blocks}
        assert found == {
            block: mosaic.write_block(store, 2018, block, arrays(number)) for number, block in blocks
        }
        records.append(found)
    assert records[0] == records[1]


def test_a_flipped_bit_a_cut_shard_and_a_lost_shard_all_change_the_checksum(out: str) -> None:
    store = made(out)
    block = list(blocks_over(WINDOW, BLOCK_PX))[2]
    record = mosaic.write_block(store, 2018, block, arrays(3))
    filesystem, root = fsspec.core.url_to_fs(store)
    for name in mosaic.ARRAYS:
        (path,) = filesystem.find(f"{root}/2018/32645/{name}/c")
        sound = filesystem.cat_file(path)
        middle = len(sound) // 2
        flipped = sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :]
        for damaged in (flipped, sound[:-1]):
            filesystem.pipe_file(path, damaged)
            assert mosaic.read_block_checksum(store, 2018, block).checksum != record.checksum
        filesystem.rm(path)
        assert mosaic.read_block_checksum(store, 2018, block).checksum != record.checksum
        filesystem.pipe_file(path, sound)
        assert mosaic.read_block_checksum(store, 2018, block) == record


def test_a_block_whose_shards_are_torn_is_written_again(out: str) -> None:
    store = made(out)
    block = list(blocks_over(WINDOW, BLOCK_PX))[2]
    record = mosaic.write_block(store, 2018, block, arrays(3))
    filesystem, root = fsspec.core.url_to_fs(store)
    for cut in (slice(0), slice(-5), slice(2, None)):
        for name in mosaic.ARRAYS:
            (path,) = filesystem.find(f"{root}/2018/32645/{name}/c")
            filesystem.pipe_file(path, filesystem.cat_file(path)[cut])
        assert mosaic.write_block(store, 2018, block, arrays(3)) == record


def test_an_empty_block_stores_nothing_and_still_has_a_checksum(out: str) -> None:
    store = made(out)
    block = next(blocks_over(WINDOW, BLOCK_PX))
    first = mosaic.write_block(store, 2018, block, arrays(0))
    empty = mosaic.write_block(store, 2018, block, {})
    assert empty.stored_bytes == 0
    assert empty.checksum != first.checksum
    assert (mosaic.open_mosaic(out, 2018, 32645)["label"].values == 255).all()


def test_a_block_may_come_as_a_dataset_with_its_coordinates(out: str) -> None:
    store, wanted = made(out), arrays(4)
    block = next(blocks_over(WINDOW, BLOCK_PX))
    y, x = block.window.coordinates()
    dims = {"probability": ("class", "y", "x")}
    dataset = xr.Dataset(
        {name: (dims.get(name, ("y", "x")), values) for name, values in wanted.items()},
        coords={"y": y, "x": x, "class": list(CLASSES)},
    )
    assert mosaic.write_block(store, 2018, block, dataset) == mosaic.write_block(store, 2018, block, wanted)


@pytest.mark.parametrize(
    ("name", "values", "word"),
    [
        ("label", np.zeros((BLOCK_PX, BLOCK_PX - 1), np.uint8), "shape"),
        ("probability", np.zeros((5, BLOCK_PX, BLOCK_PX), np.float32), "encode"),
        ("confidence", np.full((BLOCK_PX, BLOCK_PX), 300, np.int32), "outside uint8"),
        ("elevation", np.zeros((BLOCK_PX, BLOCK_PX), np.uint8), "no array"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_a_byte_is_written(
    tmp_path: Path, name: str, values: NDArray[np.generic], word: str
) -> None:
    store = made(str(tmp_path))
    block = next(blocks_over(WINDOW, BLOCK_PX))
    mosaic.write_block(store, 2018, block, arrays(1))
    before = on_disk(tmp_path)
    with pytest.raises(ValueError, match=word):
        mosaic.write_block(store, 2018, block, arrays(2) | {name: values})
    assert on_disk(tmp_path) == before


def on_disk(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its content and the time of its last change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_block_of_another_size_or_place_or_a_missing_map_is_refused_before_a_byte_is_written(
    tmp_path: Path,
) -> None:
    store = made(str(tmp_path))
    inside = next(blocks_over(WINDOW, BLOCK_PX))
    mosaic.write_block(store, 2018, inside, arrays(1))
    before = on_disk(tmp_path)
    for block in (
        Block(inside.epsg, inside.row - 1, inside.col, BLOCK_PX),
        Block(inside.epsg, inside.row, inside.col + 2, BLOCK_PX),
        Block(inside.epsg, inside.row * 2, inside.col * 2, BLOCK_PX // 2),
        Block(32646, inside.row, inside.col, BLOCK_PX),
    ):
        with pytest.raises(OutputError):
            mosaic.write_block(store, 2018, block, arrays(2))
    with pytest.raises(OutputError):
        mosaic.open_mosaic(tmp_path, 2019, 32645)
    assert on_disk(tmp_path) == before


def test_zones_are_listed_by_year(out: str) -> None:
    store = made(out)
    other = Window(32646, WINDOW.row, 0, BLOCK_PX, BLOCK_PX)
    mosaic.create(store, year=2018, window=other, block_px=BLOCK_PX, classes=CLASSES, attrs={})
    assert mosaic.zones(out, 2018) == [32645, 32646]
    assert mosaic.zones(out, 2019) == []
    assert mosaic.zones(f"{out}/elsewhere", 2018) == []


def test_levels_are_means_of_valid_pixels_and_lie_where_the_map_lies(out: str) -> None:
    store = f"{out}/mosaic.zarr"
    window = Window(32645, -64 * 8, 64 * 4, 64 * 8, 64 * 9)
    mosaic.create(store, year=2018, window=window, block_px=64, classes=CLASSES, attrs={})
    for number, block in enumerate(blocks_over(window, 64)):
        if number % 5:
            mosaic.write_block(store, 2018, block, arrays(number))
    factors = mosaic.build_levels(store, 2018, 32645)
    assert factors == [2, 4]
    fine = mosaic.open_mosaic(out, 2018, 32645)
    for factor in factors:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            coarse = xr.open_zarr(store, group=f"2018/32645/x{factor}")
        probability = fine["probability"].where(fine["probability"] != 255).coarsen(y=2, x=2).mean()
        valid = probability.notnull().values
        np.testing.assert_array_equal(coarse["probability"].values != 255, valid)
        assert np.nanmax(np.abs(coarse["probability"].where(valid) - probability)) <= 0.5
        np.testing.assert_allclose(coarse["x"], fine["x"].coarsen(x=2).mean())
        np.testing.assert_allclose(coarse["y"], fine["y"].coarsen(y=2).mean())
        filled = probability.fillna(-1).values
        won = np.take_along_axis(
            filled, np.minimum(coarse["label"].values, 4)[np.newaxis].astype(int), axis=0
        )[0]
        assert (won == filled.max(axis=0)).all()
        np.testing.assert_array_equal(coarse["label"].values == 255, ~valid.any(axis=0))
        fine = coarse
    layout = zarr.open_group(store, path="2018/32645", mode="r").attrs["multiscales"]["layout"]
    assert [entry["asset"] for entry in layout] == [".", "x2", "x4"]
    assert mosaic.open_overview(out, 2018, 32645, longest_px=300)["label"].shape == (256, 288)
    assert mosaic.open_overview(out, 2018, 32645, longest_px=10)["label"].shape == (128, 144)
    before = mosaic.open_mosaic(out, 2018, 32645, factor=4).load()
    filled: list[Any] = []

    def each(work: Callable[[Any], Any], shards: Iterable[Any]) -> Iterator[Any]:
        """As another process does it."""
        backwards = list(shards)[::-1]
        filled.extend(backwards)
        return map(pickle.loads(pickle.dumps(work)), backwards)

    assert mosaic.build_levels(store, 2018, 32645, each) == factors
    assert len(filled) == 20 + 6
    xr.testing.assert_identical(before, mosaic.open_mosaic(out, 2018, 32645, factor=4).load())


def test_a_mean_is_rounded_half_up_and_no_data_does_not_pull_it() -> None:
    values = np.array([[10, 11, 255, 255], [255, 255, 255, 255]], np.uint8)
    np.testing.assert_array_equal(levels.halve_mean(values), [[11, 255]])
