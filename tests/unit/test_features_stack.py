"""The stack as a whole: names, missing inputs, lazy and eager, part and whole."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr

from cryoscale.errors import InputError
from cryoscale.features import insar, spectral, terrain, texture
from cryoscale.features.stack import (
    BANDS,
    CHANNELS,
    HALO_PX,
    MODALITIES,
    TABLE,
    UNITS,
    PcaBasis,
    build_stack,
    fit_pca_on,
    modalities,
    sample_clear_pixels,
)
from cryoscale.grid import Window

SHARED = Path(os.environ.get("CRYOSCALE_SHARED", Path(__file__).parents[2].parent / "shared"))

# The list of channels.md, typed here once more.
NAMES = (
    "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12 NDVI NDSI NDWI NDGI LST elevation slope aspect "
    "GLCM_dissimilarity velocity coherence phase PCA1 PCA2 PCA3 TC_brightness TC_greenness TC_wetness"
)


def inputs(height=60, width=70, *, holes=0.03, seed=0):
    """A window with every input but delivered coherence and phase (an SLC pair instead), with holes."""
    rng = np.random.default_rng(seed)
    y, x = Window(32645, -310_000, 40_000, height, width).coordinates()
    shape = height, width
    planes = {name: rng.uniform(-0.05, 1.1, shape).astype(np.float32) for name in BANDS}
    planes |= {"LST": rng.uniform(250, 290, shape).astype(np.float32)}
    planes |= {"elevation": (5000 + rng.normal(0, 8, shape)).astype(np.float32)}
    planes |= {"velocity": rng.uniform(0, 90, shape).astype(np.float32)}
    for name in ("slc1", "slc2"):
        planes[name] = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    for plane in planes.values():
        plane[rng.random(shape) < holes] = np.nan
    return xr.Dataset(
        {name: (("y", "x"), plane) for name, plane in planes.items()},
        coords={"y": y, "x": x},
        attrs={"crs": "EPSG:32645"},
    )


def test_the_channels_are_those_of_the_definition_in_their_order():
    assert " ".join(CHANNELS) == NAMES
    assert tuple(UNITS) == CHANNELS
    assert {channel.modality for channel in TABLE} == set(MODALITIES)


def test_the_stack_carries_names_units_grid_and_basis():
    dataset = inputs()
    stack = build_stack(dataset)
    assert stack.dims == ("channel", "y", "x")
    assert stack.dtype == np.float32
    assert stack.shape == (30, 60, 70)
    assert tuple(stack["channel"].values) == CHANNELS
    np.testing.assert_array_equal(stack["y"], dataset["y"])
    np.testing.assert_array_equal(stack["x"], dataset["x"])
    assert stack.attrs["crs"] == "EPSG:32645"
    assert stack.attrs["units"]["velocity"] == "m/yr"
    assert set(stack.attrs["long_names"]) == set(CHANNELS)
    stored = json.loads(json.dumps(stack.attrs))
    xr.testing.assert_identical(build_stack(dataset, pca=stored["pca"]), stack)
    xr.testing.assert_identical(build_stack(dataset, pca=PcaBasis.from_dict(stored["pca"])), stack)


def test_every_channel_holds_what_its_name_says():
    dataset = inputs()
    stack = build_stack(dataset)
    basis = fit_pca_on(dataset)
    bands = np.stack([dataset[name].values for name in BANDS])
    slope, aspect = terrain.slope_aspect(dataset["elevation"].values)
    coherence, phase = insar.coherence_phase(dataset["slc1"].values, dataset["slc2"].values)
    pca = spectral.project(bands, basis.mean, basis.components)
    cap = spectral.tasselled_cap(bands)
    ratio = {
        name: spectral.normalized_difference(dataset[a].values, dataset[b].values)
        for name, (a, b) in {
            "NDVI": ("B08", "B04"),
            "NDSI": ("B03", "B11"),
            "NDWI": ("B03", "B08"),
            "NDGI": ("B03", "B04"),
        }.items()
    }
    expected = {name: dataset[name].values for name in (*BANDS, "LST", "elevation", "velocity")}
    expected |= ratio | {"slope": slope, "aspect": aspect, "coherence": coherence, "phase": phase}
    expected |= {"GLCM_dissimilarity": texture.glcm_dissimilarity(dataset["B08"].values)}
    expected |= dict(zip(("PCA1", "PCA2", "PCA3"), pca, strict=True))
    expected |= dict(zip(("TC_brightness", "TC_greenness", "TC_wetness"), cap, strict=True))
    assert set(expected) == set(CHANNELS)
    for name in CHANNELS:
        np.testing.assert_array_equal(stack.sel(channel=name), expected[name], err_msg=name)
        assert np.isfinite(stack.sel(channel=name)).mean() > 0.5, name


@pytest.mark.parametrize("chunks", [{"y": 16, "x": 23}, {"y": 7, "x": 70}, {"y": (58, 2), "x": (1, 69)}, {}])
def test_lazy_inputs_give_a_lazy_stack_of_the_same_values(chunks):
    dataset = inputs()
    eager = build_stack(dataset)
    lazy = build_stack(dataset.chunk(chunks))
    assert dask.is_dask_collection(lazy)
    assert lazy.dtype == np.float32
    xr.testing.assert_identical(lazy.compute(), eager)
    xr.testing.assert_identical(modalities(dataset.chunk(chunks)).compute(), modalities(dataset))


def test_inputs_of_which_only_some_are_lazy_give_the_same_values():
    dataset = inputs()
    mixed = dataset.assign(B08=dataset["B08"].chunk({"y": 20}), LST=dataset["LST"].chunk({"x": 30}))
    xr.testing.assert_identical(build_stack(mixed).compute(), build_stack(dataset))


def test_nothing_is_read_before_it_is_asked_for_when_the_basis_is_given():
    def fail(block):
        raise AssertionError("read")

    dataset = inputs(40, 40)
    basis = fit_pca_on(dataset)
    bomb = da.map_blocks(fail, da.zeros((40, 40), dtype=np.float32), dtype=np.float32, meta=np.zeros((0, 0)))
    trapped = dataset.assign({name: (("y", "x"), bomb) for name in dataset.data_vars})
    assert build_stack(trapped, pca=basis).shape == (30, 40, 40)
    assert modalities(trapped).shape == (40, 40)


def test_a_part_read_with_its_halo_equals_that_part_of_the_whole_stack_bit_for_bit():
    dataset = inputs(120, 600)
    whole = build_stack(dataset)
    for top, left, size in ((HALO_PX, HALO_PX, 32), (40, 51, 64), (77, 85, 40), (9, 201, 90)):
        part = dataset.isel(
            y=slice(top - HALO_PX, top + size + HALO_PX), x=slice(left - HALO_PX, left + size + HALO_PX)
        )
        stack = build_stack(part, pca=whole.attrs["pca"])
        inside = np.s_[:, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]
        expected = whole.values[:, top : top + size, left : left + size]
        np.testing.assert_array_equal(stack.values[inside], expected)


def test_the_halo_is_as_wide_as_the_widest_window_and_no_wider():
    dataset = inputs(40, 40, holes=0)
    basis = fit_pca_on(dataset)
    whole = build_stack(dataset, pca=basis).values
    narrow = build_stack(dataset.isel(y=slice(10, None)), pca=basis).values
    same = (whole[:, 10:] == narrow) | (np.isnan(whole[:, 10:]) & np.isnan(narrow))
    differs = ~same.all(axis=(0, 2))
    assert differs[:HALO_PX].all()
    assert not differs[HALO_PX:].any()


def test_absent_inputs_are_nan_channels_and_the_others_are_unchanged():
    dataset = inputs()
    whole = build_stack(dataset)
    without = {
        "LST": ["LST"],
        "velocity": ["velocity"],
        "elevation": ["elevation", "slope", "aspect"],
        "slc2": ["coherence", "phase"],
        "B08": [
            "B08", "NDVI", "NDWI", "GLCM_dissimilarity", "PCA1", "PCA2", "PCA3",
            "TC_brightness", "TC_greenness", "TC_wetness",
        ],
    }  # fmt: skip
    for name, channels in without.items():
        stack = build_stack(dataset.drop_vars(name), pca=whole.attrs["pca"])
        assert np.isnan(stack.sel(channel=channels)).all(), name
        others = [channel for channel in CHANNELS if channel not in channels]
        np.testing.assert_array_equal(stack.sel(channel=others), whole.sel(channel=others))


def test_a_window_without_any_input_is_all_nan():
    dataset = inputs()
    stack = build_stack(dataset.drop_vars(list(dataset.data_vars)))
    assert stack.shape == (30, 60, 70)
    assert np.isnan(stack).all()
    assert stack.attrs["pca"] is None
    clouded = dataset.assign({name: dataset[name] * np.float32(np.nan) for name in BANDS})
    assert build_stack(clouded).attrs["pca"] is None
    assert np.isnan(build_stack(clouded).sel(channel="PCA1")).all()


@pytest.mark.parametrize(
    ("absent", "told"),
    [
        ("velocity", "velocity"),
        ("LST", "thermal"),
        ("elevation", "terrain"),
        ("slc1", "insar"),
        ("B11", r"optical \(B11\)"),
    ],
)
def test_on_missing_fail_names_the_modality_that_is_absent(absent, told):
    dataset = inputs()
    build_stack(dataset, on_missing="fail")
    with pytest.raises(InputError, match=told):
        build_stack(dataset.drop_vars(absent), on_missing="fail")


def test_delivered_coherence_and_phase_pass_through_and_go_before_the_pair():
    dataset = inputs()
    coherence = np.random.default_rng(2).random((60, 70)).astype(np.float32)
    phase = (coherence * 6 - 3).astype(np.float32)
    delivered = dataset.assign(coherence=(("y", "x"), coherence), phase=(("y", "x"), phase))
    for given in (delivered, delivered.drop_vars(["slc1", "slc2"])):
        stack = build_stack(given)
        np.testing.assert_array_equal(stack.sel(channel="coherence"), coherence)
        np.testing.assert_array_equal(stack.sel(channel="phase"), phase)
    half = build_stack(delivered.drop_vars("phase"))
    np.testing.assert_array_equal(half.sel(channel="coherence"), coherence)
    np.testing.assert_array_equal(half.sel(channel="phase"), build_stack(dataset).sel(channel="phase"))


def test_modalities_are_set_where_all_of_their_inputs_are():
    dataset = inputs(holes=0)
    assert (modalities(dataset) == 31).all()
    assert modalities(dataset).dtype == np.uint8
    holed = dataset.copy(deep=True)
    holed["B05"][3, 4] = np.nan
    holed["LST"][5, 6] = np.nan
    holed["slc2"][7, 8] = 0
    mask = modalities(holed.drop_vars("velocity"))
    expected = np.full((60, 70), 1 + 2 + 4 + 16)
    expected[3, 4] -= 1
    expected[5, 6] -= 2
    expected[7, 8] -= 16
    np.testing.assert_array_equal(mask, expected)
    stack = build_stack(holed)
    np.testing.assert_array_equal(np.isfinite(stack.sel(channel="coherence")), (mask & 16) > 0)


def test_an_image_stored_x_first_or_in_float64_gives_the_same_stack():
    dataset = inputs()
    turned = dataset.transpose("x", "y")
    xr.testing.assert_identical(build_stack(turned), build_stack(dataset))
    double = dataset.assign(elevation=dataset["elevation"].astype(float), B08=dataset["B08"].astype(float))
    xr.testing.assert_identical(build_stack(double), build_stack(dataset))


def test_the_inputs_are_left_as_they_were():
    dataset = inputs()
    before = dataset.copy(deep=True)
    build_stack(dataset)
    xr.testing.assert_identical(dataset, before)


def test_a_stack_costs_little_more_memory_than_itself():
    dataset = inputs(512, 512).drop_vars(["slc1", "slc2"])
    basis = fit_pca_on(dataset)
    build_stack(dataset, pca=basis)
    tracemalloc.start()
    try:
        stack = build_stack(dataset, pca=basis)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * stack.nbytes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.isel(y=slice(None, None, -1)), "north up"),
        (lambda d: d.isel(x=slice(None, None, 2)), "10 m"),
        (lambda d: d.rename(y="row"), "dimensions y and x"),
        (lambda d: d.assign(B03=d["B03"].expand_dims(time=2)), "B03"),
    ],
)
def test_data_on_another_grid_are_refused(change, told):
    with pytest.raises(InputError, match=told):
        build_stack(change(inputs()))


def test_an_unknown_word_for_on_missing_is_refused():
    with pytest.raises(InputError, match="on_missing"):
        build_stack(inputs(), on_missing="ignore")


def test_the_sample_is_bounded_seeded_clear_and_blind_to_chunks():
    dataset = inputs(300, 400)
    drawn = np.concatenate(list(sample_clear_pixels(dataset, sample_px=5000, seed=1)))
    assert drawn.shape == (5000, 12)
    assert np.isfinite(drawn).all()
    lazy = dataset.chunk({"y": 100, "x": 90})
    again = np.concatenate(list(sample_clear_pixels(lazy, sample_px=5000, seed=1)))
    np.testing.assert_array_equal(again, drawn)
    other = np.concatenate(list(sample_clear_pixels(dataset, sample_px=5000, seed=2)))
    assert not np.array_equal(other, drawn)
    rows = {row.tobytes() for row in np.stack([dataset[b].values.ravel() for b in BANDS], axis=1)}
    assert all(row.tobytes() in rows for row in drawn[:200])


def test_a_basis_of_a_sample_is_close_to_that_of_all_pixels():
    rng = np.random.default_rng(8)
    loadings = rng.normal(size=(3, 12))
    dataset = inputs(256, 256, holes=0)
    scores = rng.normal(size=(3, 256, 256)) * np.array([3, 2, 1])[:, None, None]
    cube = np.tensordot(loadings.T, scores, axes=1) * 0.05 + 0.4
    dataset = dataset.assign({b: (("y", "x"), cube[i].astype(np.float32)) for i, b in enumerate(BANDS)})
    some, every = fit_pca_on(dataset, sample_px=20_000), fit_pca_on(dataset, sample_px=10**6)
    np.testing.assert_allclose(some.components, every.components, atol=0.02)


def test_a_real_chip_gives_a_sane_stack():
    chips = SHARED / "data" / "chips"
    if not chips.is_dir():
        pytest.skip(f"no real samples at {chips}")
    folder = chips / "sentinel-2-l2a" / "609U_541L_3_0"
    planes = {}
    for name in BANDS:
        found = [path for path in folder.iterdir() if path.suffix == ".tif" and path.stem.upper() == name]
        assert len(found) == 1, name
        with rasterio.open(found[0]) as raster:
            planes[name] = raster.read(1).astype(np.float32) * 1e-4
    with rasterio.open(chips / "cop-dem-glo-30" / "609U_541L_3_0" / "data.tif") as raster:
        planes["elevation"] = raster.read(1).astype(np.float32)
    dataset = xr.Dataset({name: (("y", "x"), plane) for name, plane in planes.items()})
    stack = build_stack(dataset)
    assert stack.sel(channel="NDSI").median() > 0.4  # snow on a winter bog
    assert stack.sel(channel="slope").median() < 10  # flat ground
    variances = stack.sel(channel=["PCA1", "PCA2", "PCA3"]).var(("y", "x")).values
    assert (np.diff(variances) < 0).all()
    assert (modalities(dataset) == MODALITIES["optical"] + MODALITIES["terrain"]).all()
