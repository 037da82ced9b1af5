"""Cutting patches, and patch sets made along the path of a run."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from cryoscale.errors import NoRoomError, OutputError, SourceError
from cryoscale.features.stack import CHANNELS, HALO_PX, PcaBasis, build_stack
from cryoscale.grid import Window
from cryoscale.learn.recipe import SimulationConfig
from cryoscale.learn.samples import YEAR, _mapping, cut_patches, from_simulation, search_range


def cut(shape, *, patch_px=32, stride_px=32, min_labelled=0.0, truth=None, optics=None):
    rng = np.random.default_rng(0)
    stack = rng.random((30, *shape), np.float32)
    stack[16] = np.nan  # a modality that is absent takes no label away
    if optics is not None:
        stack[3][~optics] = np.nan
    truth = rng.integers(0, 5, shape).astype(np.uint8) if truth is None else truth
    found = cut_patches(stack, truth, patch_px=patch_px, stride_px=stride_px, min_labelled=min_labelled)
    return stack, truth, list(found)


@pytest.mark.parametrize("shape", [(64, 96), (70, 100), (20, 50), (32, 32)])
@pytest.mark.parametrize("stride_px", [16, 32])
def test_patches_are_cut_outs_that_together_cover_every_pixel(shape, stride_px):
    stack, truth, patches = cut(shape, stride_px=stride_px)
    seen = np.zeros(shape, int)
    for row, col, x, y in patches:
        assert x.shape == (30, 32, 32)
        assert y.shape == (32, 32)
        assert row % stride_px == 0
        assert col % stride_px == 0
        height, width = min(32, shape[0] - row), min(32, shape[1] - col)
        np.testing.assert_array_equal(x[:, :height, :width], stack[:, row : row + height, col : col + width])
        np.testing.assert_array_equal(y[:height, :width], truth[row : row + height, col : col + width])
        assert np.isnan(x[:, height:]).all()
        assert np.isnan(x[:, :, width:]).all()
        assert (y[height:] == 255).all()
        assert (y[:, width:] == 255).all()
        seen[row : row + height, col : col + width] += 1
    assert (seen > 0).all()
    if stride_px == 32:
        assert (seen == 1).all(), "without overlap every pixel counts once"


def test_pixels_without_optics_are_not_learnt_from_and_empty_patches_are_left_out():
    optics = np.ones((32, 96), bool)
    optics[:, 32:64] = False
    optics[5, 7] = False
    _, truth, patches = cut((32, 96), optics=optics, min_labelled=0.5)
    assert [(row, col) for row, col, *_ in patches] == [(0, 0), (0, 64)]
    assert patches[0][3][5, 7] == 255
    assert (patches[0][3] == 255).sum() == 1
    assert truth[5, 7] != 255
    assert not cut((32, 32), truth=np.full((32, 32), 255, np.uint8))[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config = SimulationConfig(
        train_seeds=[101],
        validation_seeds=[201],
        size="tiny",
        patch_px=128,
        stride_px=64,
        composites=["median", "least_snow"],
    )
    path = tmp_path_factory.mktemp("set") / "patches.zarr"
    events = []
    return config, path, from_simulation(config, path, progress=events.append, processes=2), events


def test_a_simulated_set_keeps_the_ranges_apart_and_says_what_it_is(made):
    _config, _, patches, events = made
    regions, splits = patches.columns["region"], patches.columns["split"]
    assert set(regions[splits == 0]) == {101}
    assert set(regions[splits == 1]) == {201}
    assert patches.channels == CHANNELS
    assert patches.attrs["source"]["size"] == "tiny"
    assert "101" in patches.attrs["split"]
    assert "201" in patches.attrs["split"]
    assert patches.class_counts(range(len(patches)), 5).sum() > 100_000
    assert {event["kind"] for event in events} == {"region", "cut"}
    assert set(patches.columns["epsg"]) == {32644, 32645}, "a range crosses a zone's border"


def test_processes_that_share_the_work_leave_the_order_of_the_ranges(made):
    _config, _, patches, events = made
    assert [event["region"] for event in events] == [101, 201, 101, 101, 201, 201]
    assert patches.columns["region"].tolist() == sorted(patches.columns["region"])
    assert patches.columns["epsg"][patches.indices("train")].tolist() == sorted(
        patches.columns["epsg"][patches.indices("train")]
    )


def test_what_came_of_a_process_that_was_killed_is_told_in_one_line():
    said = r"2 processes .* one of which was killed.*fewer processes"
    with pytest.raises(SourceError, match=said), _mapping(2) as each:
        list(each(os._exit, [9]))


def test_a_full_disk_of_temporary_files_is_told_with_its_folder(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("cryoscale.learn.samples._read_range", full)
    config = SimulationConfig(train_seeds=(101,), validation_seeds=(201,), size="tiny", patch_px=128)
    with pytest.raises(NoRoomError, match=rf"^{tmp_path} takes no more \(No space left .*TMPDIR"):
        from_simulation(config, tmp_path / "p.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_patch_is_what_a_run_would_read_there_to_the_last_bit_of_its_type(made, tmp_path):
    """Publishing the range again and reading one patch's window alone gives the stored patch."""
    from cryoscale.read.inputs import read_inputs
    from cryoscale.simulate.catalog import publish
    from cryoscale.simulate.terrain import make_range

    _config, _, patches, _ = made
    published = publish(make_range(201, "tiny"), tmp_path / "range", years=[YEAR])
    items = search_range(published.folder, published.bbox_deg)
    index = patches.indices("validation")[1]
    place, (x, y) = patches.place(index), patches.read(index)
    window = Window(place.epsg, place.row, place.col, 128, 128)
    inputs, _ = read_inputs(
        items, window.pad(HALO_PX), composite="median", velocity_href=str(published.velocity), year=YEAR
    )
    stack = build_stack(inputs, pca=PcaBasis.from_dict(patches.attrs["pca"]))
    expected = stack.values[:, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX].astype(np.float16).astype(np.float32)
    labelled = y != 255  # the set has NaN beyond the zone's truth, where a run reads on
    assert labelled.mean() > 0.2
    np.testing.assert_array_equal(x[:, labelled], expected[:, labelled])


def test_a_set_that_lies_ready_is_opened_and_one_of_other_settings_is_refused(made):
    config, path, patches, _ = made
    events = []
    again = from_simulation(config, path, progress=events.append)
    assert not events
    assert len(again) == len(patches)
    with pytest.raises(OutputError, match="other settings"):
        from_simulation(config.model_copy(update={"stride_px": 32}), path)
