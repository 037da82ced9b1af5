"""The same scene as each provider publishes it: twins that must give the same physical values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from numpy.typing import NDArray
from pystac import Asset, Item
from rasterio.windows import Window as FileWindow
from rasterio.windows import from_bounds
from shapely.geometry import box, mapping
from stac_geoparquet import arrow as stac_geoparquet

from cryoscale.grid import Window, transformer, window_over_bounds
from cryoscale.preparation import prepare
from cryoscale.read import catalog
from cryoscale.read.assets import S2_BANDS
from cryoscale.read.inputs import read_inputs
from cryoscale.task import Stopwatch, features_of, run_context
from tests.integration.conftest import TinyRange

OCTOBER = "2018-10-01T00:00:00Z/2018-10-31T23:59:59Z"
COLOURS = dict(
    zip(
        (*S2_BANDS, "SCL"),
        (
            *("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3"),
            *("nir", "nir08", "nir09", "swir16", "swir22", "scl"),
        ),
        strict=True,
    )
)
"""Asset keys of Earth Search v1, from its recorded items."""

EPSG = 32645
EDGE_M = 1800.0
DN = 1e-4


@dataclass(frozen=True)
class Cut:
    """A corner of one simulated product: numbers of each asset, and where they lie."""

    item: Item
    window: Window
    digital: Mapping[str, NDArray[Any]]
    profiles: Mapping[str, dict[str, Any]]

    def write(self, path: Path, name: str, digital: NDArray[Any] | None = None, **profile: Any) -> str:
        """One asset as a file of its own."""
        values = self.digital[name] if digital is None else digital
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(path, "w", **{**self.profiles[name], "dtype": values.dtype, **profile}) as file:
            file.write(values, 1)
        return str(path)

    def publish(
        self,
        folder: Path,
        collection: str,
        assets: Mapping[str, Asset],
        identifier: str = "",
        **properties: Any,
    ) -> dict[str, str]:
        """An item of ``assets`` in a folder of its own; the catalogue to search it by."""
        bounds = transformer(f"EPSG:{self.window.epsg}", "EPSG:4326").transform_bounds(*self.window.bounds_m)
        moment = self.item.datetime
        name = identifier or self.item.id
        made = Item(name, mapping(box(*bounds)), list(bounds), moment, properties, collection=collection)
        for key, asset in assets.items():
            made.add_asset(key, asset)
        folder.mkdir(parents=True, exist_ok=True)
        made.save_object(include_self_link=False, dest_href=str(folder / "item.json"))
        return {"url": str(folder)}


def cut_corner(source: TinyRange, collection: str, names: tuple[str, ...]) -> Cut:
    """The middle of the first product of ``collection`` in the zone, on whole 180 m."""
    found = catalog.search([{"url": str(source.folder)}], collection=collection, datetime=OCTOBER)
    item = next(one for one in found if one.properties["proj:code"] == f"EPSG:{EPSG}")
    with rasterio.open(item.assets[names[0]].href) as file:
        west, south, east, north = file.bounds
    left = west + round((east - west - EDGE_M) / 360.0) * 180.0
    top = north - round((north - south - EDGE_M) / 360.0) * 180.0
    bounds = (left, top - EDGE_M, left + EDGE_M, top)
    digital, profiles = {}, {}
    for name in names:
        with rasterio.open(item.assets[name].href) as file:
            place = from_bounds(*bounds, transform=file.transform)
            place = FileWindow(*(round(v) for v in place.flatten()))
            digital[name] = file.read(1, window=place)
            profiles[name] = {
                "driver": "GTiff",
                "height": digital[name].shape[0],
                "width": digital[name].shape[1],
                "count": 1,
                "crs": file.crs,
                "transform": file.window_transform(place),
            }
    return Cut(item, window_over_bounds(EPSG, bounds).pad(-12), digital, profiles)


def read(modality: str, places: Any, collection: str, window: Window, **options: Any) -> xr.Dataset:
    items = catalog.search(places, collection=collection)
    data, report = read_inputs({modality: items}, window, **options)
    assert report.scenes_failed == ()
    return data


# --- Sentinel-2 ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twin:
    """How a provider keeps a scene: ``raised`` by 1000 or not, and what its item says of that."""

    collection: str
    raised: bool
    baseline: str
    listed_offset: float | None
    colours: bool
    properties: dict[str, Any] = field(default_factory=dict)


E84 = "earthsearch:boa_offset_applied"
TWINS = {
    "planetary computer, 02.12, nothing listed": Twin("sentinel-2-l2a", False, "02.12", None, False),
    "planetary computer, 05.11, nothing listed": Twin("sentinel-2-l2a", True, "05.11", None, False),
    "planetary computer, 02.12, offset listed": Twin("sentinel-2-l2a", False, "02.12", 0.0, False),
    "planetary computer, 05.11, offset listed": Twin("sentinel-2-l2a", True, "05.11", -0.1, False),
    "earth search v1, applied though listed": Twin("sentinel-2-l2a", False, "05.11", -0.1, True, {E84: True}),
    "earth search v1, not applied": Twin("sentinel-2-l2a", True, "05.11", -0.1, True, {E84: False}),
    "earth search v1, before 04.00": Twin("sentinel-2-l2a", False, "02.12", 0.0, True, {E84: False}),
    "earth search c1": Twin("sentinel-2-c1-l2a", True, "05.00", -0.1, True),
    "earth search v0": Twin(
        "sentinel-s2-l2a-cogs", False, "05.11", None, False, {"sentinel:boa_offset_applied": True}
    ),
}


@pytest.fixture(scope="module")
def scene(tiny_range: TinyRange) -> Cut:
    return cut_corner(tiny_range, "sentinel-2-l2a", (*S2_BANDS, "SCL"))


@pytest.fixture(scope="module")
def reflectance(scene: Cut) -> NDArray[np.float64]:
    """Surface reflectance of the 10 m bands' own pixels, from the simulated files and their item."""
    offset = scene.item.assets["B04"].extra_fields["raster:bands"][0]["offset"]
    return np.stack([scene.digital[band] * DN + offset for band in ("B02", "B03", "B04", "B08")])


@pytest.fixture(scope="module")
def files(scene: Cut, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool, str], str]:
    """The scene's files, raised by 1000 or not; each is written once."""
    folder = tmp_path_factory.mktemp("twins")
    offset = scene.item.assets["B04"].extra_fields["raster:bands"][0]["offset"]

    def path(raised: bool, band: str) -> str:
        place = folder / str(raised) / f"{band}.tif"
        if place.exists():
            return str(place)
        digital = scene.digital[band]
        if band != "SCL":
            plain = digital.astype(int) + round(offset / DN)
            digital = np.where(digital == 0, 0, plain + 1000 * raised).astype(np.uint16)
        return scene.write(place, band, digital)

    return path


def publish_twin(scene: Cut, files: Callable[[bool, str], str], twin: Twin, folder: Path) -> dict[str, str]:
    assets = {}
    for band, colour in COLOURS.items():
        fields: dict[str, Any] = {}
        if twin.listed_offset is not None and band != "SCL":
            fields["raster:bands"] = [{"nodata": 0, "scale": DN, "offset": twin.listed_offset}]
        key = colour if twin.colours else band
        assets[key] = Asset(files(twin.raised, band), roles=["data"], extra_fields=fields)
    properties = {"s2:processing_baseline": twin.baseline, "eo:cloud_cover": 10.0, **twin.properties}
    return scene.publish(folder, twin.collection, assets, **properties)


@pytest.mark.parametrize("name", TWINS)
def test_a_scene_has_the_same_reflectance_from_every_provider_and_baseline(
    name: str,
    scene: Cut,
    files: Callable[[bool, str], str],
    reflectance: NDArray[np.float64],
    tmp_path: Path,
) -> None:
    twin = TWINS[name]
    place = publish_twin(scene, files, twin, tmp_path)
    data = read("optical", [place], twin.collection, scene.window)
    clear = np.isfinite(data["B04"].values)
    assert clear.sum() > 5000
    assert reflectance.std() > 50 * DN  # not a flat field, in which an error of scale would hide
    inside = slice(12, -12)
    for band, want in zip(("B02", "B03", "B04", "B08"), reflectance[:, inside, inside], strict=True):
        np.testing.assert_allclose(data[band].values[clear], want[clear], atol=DN / 10)
    reference = publish_twin(scene, files, TWINS["earth search c1"], tmp_path / "c1")
    other = read("optical", [reference], "sentinel-2-c1-l2a", scene.window)
    for band in S2_BANDS:
        np.testing.assert_allclose(data[band], other[band], atol=DN / 10)


def test_a_stac_geoparquet_file_gives_the_same_reflectance(
    scene: Cut, files: Callable[[bool, str], str], reflectance: NDArray[np.float64], tmp_path: Path
) -> None:
    twins = ("earth search v1, applied though listed", "earth search v1, not applied")
    rows = []
    for number, name in enumerate(twins):
        place = publish_twin(scene, files, TWINS[name], tmp_path / str(number))
        (item,) = catalog.search([place], collection="sentinel-2-l2a")
        item.id = f"twin-{number}"
        rows.append(item.to_dict(include_self_link=False, transform_hrefs=False))
    stac_geoparquet.to_parquet(stac_geoparquet.parse_stac_items_to_arrow(rows), tmp_path / "items.parquet")
    found = catalog.search([{"url": str(tmp_path / "items.parquet")}], collection="sentinel-2-l2a")
    assert [item.id for item in found] == ["twin-0", "twin-1"]
    for item in found:
        data, _ = read_inputs({"optical": [item]}, scene.window)
        clear = np.isfinite(data["B04"].values)
        np.testing.assert_allclose(
            data["B04"].values[clear], reflectance[2, 12:-12, 12:-12][clear], atol=DN / 10
        )


# --- Landsat ------------------------------------------------------------------------------------------


def test_landsat_has_the_same_temperature_and_uncertainty_from_both_providers_and_as_files(
    tiny_range: TinyRange, tmp_path: Path
) -> None:
    scene = cut_corner(tiny_range, "landsat-c2-l2", ("lwir11", "qa_pixel"))
    st, qa = scene.digital["lwir11"], scene.digital["qa_pixel"].copy()
    rng = np.random.default_rng(4)
    doubt = rng.integers(150, 900, st.shape).astype(np.int16)  # ST_QA: hundredths of a kelvin
    doubt[:3] = -9999
    qa[20:30, 20:30] = 22280  # cloud, high confidence (LSDS-1619, table 6-3)
    lwir = scene.write(tmp_path / "ST_B10.TIF", "lwir11")
    quality = scene.write(tmp_path / "QA_PIXEL.TIF", "qa_pixel", qa, nodata=1)
    uncertainty = scene.write(tmp_path / "ST_QA.TIF", "lwir11", doubt)

    def bands(**fields: Any) -> dict[str, Any]:
        return {"raster:bands": [fields]}

    listed = {
        "lwir11": Asset(lwir, extra_fields=bands(scale=0.00341802, offset=149.0, nodata=0, unit="kelvin")),
        "qa_pixel": Asset(quality, extra_fields=bands(nodata=1, unit="bit index")),
        "qa": Asset(uncertainty, extra_fields=bands(scale=0.01, nodata=-9999, unit="kelvin")),
    }
    plain = {"lwir11": Asset(lwir), "qa_pixel": Asset(quality), "qa": Asset(uncertainty)}
    folder = {"ST_B10.TIF": Asset(lwir), "QA_PIXEL.TIF": Asset(quality), "ST_QA.TIF": Asset(uncertainty)}
    found = []
    for name, assets in (("listed", listed), ("plain", plain), ("folder", folder)):
        place = scene.publish(tmp_path / name, "landsat-c2-l2", assets)
        found.append(read("thermal", [place], "landsat-c2-l2", scene.window, max_lst_uncertainty_k=np.inf))
    for other in found[1:]:
        xr.testing.assert_identical(found[0], other)
    lst, sigma = found[0]["LST"].values, found[0]["LST_uncertainty"].values
    # at the centre of a 30 m pixel, bilinear gives its own value: every third 10 m pixel from the second on
    centre = slice(1, None, 3)
    kelvin = (st * 0.00341802 + 149.0)[4:-4, 4:-4]
    hidden = (qa & 0b11111) != 0
    seen = ~hidden[4:-4, 4:-4]
    np.testing.assert_allclose(lst[centre, centre][seen], kelvin[seen], atol=2e-4)
    assert np.isnan(lst[centre, centre][~seen]).all()
    np.testing.assert_allclose(sigma[centre, centre][seen], doubt[4:-4, 4:-4][seen] * 0.01, atol=1e-4)
    np.testing.assert_array_equal(np.isnan(sigma), np.isnan(lst))
    assert 0.0 < seen.mean() < 1.0
    limited = read("thermal", [place], "landsat-c2-l2", scene.window, max_lst_uncertainty_k=5.0)["LST"].values
    certain = doubt[4:-4, 4:-4] * 0.01 <= 5.0
    np.testing.assert_array_equal(
        limited[centre, centre][seen & certain], lst[centre, centre][seen & certain]
    )
    assert np.isnan(limited[centre, centre][seen & ~certain]).all()
    unlimited = read("thermal", [place], "landsat-c2-l2", scene.window)
    assert set(unlimited.data_vars) == {"LST"}  # nothing is read that nothing asks for
    np.testing.assert_array_equal(unlimited["LST"], lst)


def test_temperatures_of_unknown_uncertainty_are_kept(tiny_range: TinyRange, tmp_path: Path) -> None:
    scene = cut_corner(tiny_range, "landsat-c2-l2", ("lwir11", "qa_pixel"))
    unknown = np.full(scene.digital["lwir11"].shape, -9999, np.int16)
    assets = {name: Asset(scene.write(tmp_path / f"{name}.tif", name)) for name in ("lwir11", "qa_pixel")}
    bare = scene.publish(tmp_path / "bare", "landsat-c2-l2", assets)
    told = {**assets, "qa": Asset(scene.write(tmp_path / "qa.tif", "lwir11", unknown))}
    blank = scene.publish(tmp_path / "blank", "landsat-c2-l2", told)
    want = read("thermal", [bare], "landsat-c2-l2", scene.window)["LST"]
    for place in (bare, blank):
        got = read("thermal", [place], "landsat-c2-l2", scene.window, max_lst_uncertainty_k=1.0)["LST"]
        np.testing.assert_array_equal(got, want)


def test_the_limit_of_uncertainty_reaches_the_blocks_of_a_run(tiny_range: TinyRange, tmp_path: Path) -> None:
    scene = cut_corner(tiny_range, "landsat-c2-l2", ("lwir11", "qa_pixel"))
    doubt = np.full(scene.digital["lwir11"].shape, 600, np.int16)
    doubt[:, :30] = 200
    assets = {name: Asset(scene.write(tmp_path / f"{name}.tif", name)) for name in ("lwir11", "qa_pixel")}
    assets["qa"] = Asset(scene.write(tmp_path / "qa.tif", "lwir11", doubt))
    place = scene.publish(tmp_path / "own", "own-landsat", assets)
    sources = {"optical": {"collection": "sentinel-2-l2a"}}
    layers, identities = [], []
    for limit in ({}, {"max_uncertainty_k": 5.0}):
        settings = tiny_range.settings(
            model={"name": "band-ratio"},
            catalogs=[{"url": str(tiny_range.folder)}, place],
            sources=sources | {"thermal": {"collection": "own-landsat", **limit}},
        )
        out = str(tmp_path / f"run{len(layers)}")
        identity, _ = prepare(settings, out)
        _, inputs, _ = features_of(run_context(out, identity), 2018, scene.window, Stopwatch())
        layers.append(inputs["LST"].values)
        identities.append(identity)
    assert identities[0] != identities[1]
    certain = np.s_[:, : 30 * 3 - 12 - 3]
    np.testing.assert_array_equal(layers[1][certain], layers[0][certain])
    assert np.isfinite(layers[0][:, 90:]).any()
    assert np.isnan(layers[1][:, 90:]).all()


# --- elevation ----------------------------------------------------------------------------------------


def test_both_providers_of_the_copernicus_dem_give_the_same_elevation(
    tiny_range: TinyRange, scene: Cut, tmp_path: Path
) -> None:
    (tile,) = catalog.search([{"url": str(tiny_range.folder)}], collection="cop-dem-glo-30")
    href, bounds = tile.assets["data"].href, list(tile.bbox or ())
    layouts = {
        "planetary-computer": ({"raster:bands": [{"nodata": 0, "unit": "meter"}]}, {"proj:epsg": 4326}),
        "earth-search": (
            {"raster:bands": [{"sampling": "point", "data_type": "float32", "unit": "meter"}]},
            {"proj:epsg": 4326, "proj:centroid": {"lat": 0, "lon": 0}},
        ),
        "nothing listed": ({}, {}),
    }
    found = []
    for name, (fields, properties) in layouts.items():
        made = Item(
            tile.id, mapping(box(*bounds)), bounds, tile.datetime, properties, collection="cop-dem-glo-30"
        )
        made.add_asset("data", Asset(href, extra_fields=fields))
        (tmp_path / name).mkdir()
        made.save_object(include_self_link=False, dest_href=str(tmp_path / name / "item.json"))
        found.append(read("terrain", [{"url": str(tmp_path / name)}], "cop-dem-glo-30", scene.window))
    for other in found[1:]:
        xr.testing.assert_identical(found[0], other)
    assert np.isfinite(found[0]["elevation"]).all()


# --- velocity -----------------------------------------------------------------------------------------


def test_its_live_has_the_same_speed_as_zarr_and_as_a_file_a_component(
    tiny_range: TinyRange, scene: Cut, tmp_path: Path
) -> None:
    store = tiny_range.folder / "ITS_LIVE_velocity_120m.zarr"
    with xr.open_zarr(store, mask_and_scale=False, chunks=None) as zarr:
        transform = rasterio.Affine(
            *(120.0, 0.0, zarr.x[0].item() - 60.0, 0.0, -120.0, zarr.y[0].item() + 60.0)
        )
        stem = "ITS_LIVE_velocity_120m_RGI13A_2018_v02"
        for name in ("vx", "vy"):
            values = zarr[name].values
            assert values.dtype == np.int16
            profile = {
                "height": values.shape[0],
                "width": values.shape[1],
                "transform": transform,
                "count": 1,
            }
            with rasterio.open(
                tmp_path / f"{stem}_{name}.tif",
                "w",
                driver="GTiff",
                dtype="int16",
                crs=f"EPSG:{EPSG}",
                **profile,
            ) as file:  # without a no-data tag
                file.write(values, 1)
    zone = scene.window
    want, _ = read_inputs({}, zone, velocity_href=str(store))
    assert float(want["velocity"].std()) > 0.1
    for number, keys in enumerate((("vx", "vy"), (f"{stem}_vx", f"{stem}_vy"))):
        assets = {
            key: Asset(str(tmp_path / f"{stem}_{name}.tif"))
            for key, name in zip(keys, ("vx", "vy"), strict=True)
        }
        place = scene.publish(tmp_path / str(number), "its-live-mosaics", assets)
        data = read("velocity", [place], "its-live-mosaics", zone)
        np.testing.assert_allclose(data["velocity"], want["velocity"], rtol=1e-6)


# --- interferometry -----------------------------------------------------------------------------------

HYP3 = "S1AA_20180921T001700_20181015T001700_VVP024_INT40_G_ueF_1A2B"
SNAP = "IW1_VV_21Sep2018_15Oct2018"


def interferogram(shape: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coherence and unwrapped phase over several cycles; the first rows are filled with 0."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    coherence = (0.2 + 0.7 * (column / shape[1])).astype(np.float32)
    phase = (0.31 * row - 0.17 * column + 0.1).astype(np.float32)
    coherence[:3] = phase[:3] = 0.0
    return coherence, phase


def hyp3(folder: Path, write: Callable[..., str], coherence: Any, phase: Any) -> dict[str, Asset]:
    """As HyP3 names the files of a GAMMA or ISCE2 job, every file an asset named after it."""
    wrapped = np.angle(np.exp(1j * phase)).astype(np.float32)
    layers = {"amp": coherence * 7, "corr": coherence, "unw_phase": phase, "wrapped_phase": wrapped}
    layers["dem"] = coherence * 5000
    assets = {
        f"{HYP3}_{name}": Asset(write(folder / f"{HYP3}_{name}.tif", values))
        for name, values in layers.items()
    }
    return assets | {f"{HYP3}_color_phase": Asset(f"{HYP3}_color_phase.png", roles=["thumbnail"])}


def hyp3_unwrapped(folder: Path, write: Callable[..., str], coherence: Any, phase: Any) -> dict[str, Asset]:
    """The default of HyP3, without the wrapped phase, under short keys."""
    return {
        "amp": Asset(write(folder / "amp.tif", coherence * 7)),
        "corr": Asset(write(folder / "corr.tif", coherence, nodata=0)),
        "unw_phase": Asset(write(folder / "unw.tif", phase, nodata=0)),
    }


def snap(folder: Path, write: Callable[..., str], coherence: Any, phase: Any) -> dict[str, Asset]:
    """Single bands exported from SNAP's geocoded product, under the names of its bands."""
    wrapped = np.angle(np.exp(1j * phase)).astype(np.float32)
    return {
        f"coh_{SNAP}": Asset(write(folder / f"coh_{SNAP}.tif", coherence)),
        f"Phase_ifg_{SNAP}": Asset(write(folder / f"Phase_ifg_{SNAP}.tif", wrapped)),
        f"Intensity_{SNAP}": Asset(write(folder / f"Intensity_{SNAP}.tif", coherence * 3)),
    }


def by_role(folder: Path, write: Callable[..., str], coherence: Any, phase: Any) -> dict[str, Asset]:
    """Names that say nothing, and roles that do."""
    return {
        "a": Asset(write(folder / "a.tif", coherence), roles=["data", "coherence"]),
        "b": Asset(write(folder / "b.tif", phase), roles=["data", "phase"]),
    }


@pytest.mark.parametrize("layout", [hyp3, hyp3_unwrapped, snap, by_role])
def test_interferograms_of_every_processor_decode_to_coherence_and_wrapped_phase(
    layout: Callable[..., dict[str, Asset]], scene: Cut, tmp_path: Path
) -> None:
    west, _, _, north = scene.window.bounds_m
    height, width = scene.window.shape
    coherence, phase = interferogram((height // 4, width // 4))

    def write(path: Path, values: NDArray[np.float32], **profile: Any) -> str:
        transform = rasterio.Affine(40.0, 0.0, west, 0.0, -40.0, north)
        return scene.write(
            path, "B02", values.astype(np.float32), **profile,
            transform=transform, height=values.shape[0], width=values.shape[1],
        )  # fmt: skip

    place = scene.publish(tmp_path / "stac", "my-coherence", layout(tmp_path, write, coherence, phase))
    data = read("insar", [place], "my-coherence", scene.window)
    assert set(data.data_vars) == {"coherence", "phase"}
    # a linear field is what bilinear interpolation keeps; fill must not leak into it
    row, column = np.mgrid[: height // 4 * 4, : width // 4 * 4]
    y, x = (row + 0.5) / 4 - 0.5, (column + 0.5) / 4 - 0.5
    inner = np.s_[18:-4, 4:-4]
    got = data["coherence"].values[: row.shape[0], : row.shape[1]]
    np.testing.assert_allclose(got[inner], (0.2 + 0.7 * x / (width // 4))[inner], atol=1e-5)
    assert np.isnan(got[:10]).all()
    assert np.nanmin(got) >= 0.2 - 1e-6
    turn = data["phase"].values[: row.shape[0], : row.shape[1]] - (0.31 * y - 0.17 * x + 0.1)
    off = np.angle(np.exp(1j * turn))
    assert np.abs(off[inner]).max() < 0.01  # vectors are interpolated, whose angle bends a little
    assert np.isnan(data["phase"].values[:10]).all()
    assert float(np.nanmax(np.abs(data["phase"]))) <= np.pi


def test_a_real_coherence_file_decodes_by_its_name(shared_data: Path) -> None:
    (coh,) = shared_data.glob("insar/*_cc.tif")
    (unw,) = shared_data.glob("insar/*_unw.tif")
    with rasterio.open(coh) as file:
        bounds, stored = list(file.bounds), file.read(1)
    item = Item("mexico", mapping(box(*bounds)), bounds, None, {"start_datetime": "2018-01-06T00:00:00Z",
        "end_datetime": "2018-01-30T00:00:00Z"}, collection="pyrate")  # fmt: skip
    for path in (coh, unw):
        item.add_asset(path.stem, Asset(str(path)))
    inner = transformer("EPSG:4326", "EPSG:32614").transform_bounds(*bounds)
    window = window_over_bounds(32614, inner)
    data, report = read_inputs({"insar": [item]}, window)
    assert report.scenes_failed == ()
    valid = stored[stored != 0]
    found = data["coherence"].values
    assert np.nanmin(found) >= valid.min() - 1e-6
    assert np.nanmax(found) <= valid.max() + 1e-6
    assert float(np.nanmean(found)) == pytest.approx(float(valid.mean()), abs=0.01)
    assert np.isfinite(data["phase"]).mean() > 0.8
