"""The declared table: which asset holds a band, and what its numbers mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pystac import Asset, Item

from cryoscale.read.assets import (
    BANDS,
    PROVIDERS,
    S2_BANDS,
    Encoding,
    asset_of,
    default_sign,
    encoding,
    unknown_baseline,
)

POINT = {"type": "Point", "coordinates": [86.9, 27.9]}


def scene(
    asset: str = "B04", fields: dict[str, Any] | None = None, day: str = "2023-10-08", **properties: Any
) -> Item:
    moment = datetime.fromisoformat(day).replace(tzinfo=UTC)
    item = Item("scene", POINT, [86.9, 27.9, 86.9, 27.9], moment, properties)
    item.add_asset(asset, Asset("red.tif", extra_fields=fields or {}))
    return item


def recorded(folder: Path, name: str) -> Item:
    (path,) = folder.glob(f"stac/{name}*.json")
    return Item.from_dict(json.loads(path.read_text()))


def test_the_table_names_each_band_once_and_gives_no_asset_key_to_two_bands_of_a_product() -> None:
    keys = [key for name in (*S2_BANDS, "SCL") for key in BANDS[name].assets]
    assert len(keys) == len(set(keys)) == 26


@pytest.mark.parametrize(
    ("baseline", "offset"),
    [("02.12", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.11", -0.1), ("10.00", -0.1)],
)
def test_an_item_without_raster_fields_gets_the_offset_of_its_baseline(baseline: str, offset: float) -> None:
    item = scene(**{"s2:processing_baseline": baseline})
    assert encoding(item, "B04") == Encoding(1e-4, offset, 0.0)


def test_a_baseline_is_found_in_the_product_name_and_the_date_decides_where_there_is_none() -> None:
    named = scene(day="2020-01-01", **{"s2:product_uri": "S2A_MSIL2A_20200101T000000_N0500_R1_T45RVL_X.SAFE"})
    assert encoding(named, "B04").offset == -0.1
    assert encoding(scene(day="2022-01-24"), "B04").offset == 0.0
    assert encoding(scene(day="2022-01-25"), "B04").offset == -0.1


@pytest.mark.parametrize(
    ("given", "offset"),
    [(4.0, -0.1), (4, -0.1), (5.1, -0.1), ("5.1", -0.1), ("N0500", -0.1), (2.12, 0.0), ("N0212", 0.0)],
)
@pytest.mark.parametrize("key", ["s2:processing_baseline", "sentinel:processing_baseline"])
def test_a_baseline_may_be_a_number_or_stand_as_in_product_names(
    key: str, given: object, offset: float
) -> None:
    day = "2018-10-15" if offset else "2023-10-15"  # the date would decide otherwise
    item = scene(day=day, **{key: given})
    assert encoding(item, "B04").offset == offset
    assert unknown_baseline(item) is None


def test_a_version_of_other_software_is_no_baseline_and_one_that_is_not_understood_is_told() -> None:
    other = scene(day="2023-10-15", **{"processing:version": 2.1})
    assert encoding(other, "B04").offset == -0.1
    assert unknown_baseline(other) is None
    assert unknown_baseline(scene(**{"s2:processing_baseline": "four"})) == "four"
    assert unknown_baseline(scene(**{"s2:processing_baseline": " "})) is None
    named = scene(**{"s2:processing_baseline": "?", "s2:product_uri": "S2A_MSIL2A_X_N0500_R1_T45RVL_X.SAFE"})
    assert unknown_baseline(named) is None


@pytest.mark.parametrize("said", [True, "true", "True", 1])
def test_that_the_offset_is_applied_may_be_said_as_text_or_number(said: object) -> None:
    given = {"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": said}
    assert encoding(scene("red", **given), "B04").offset == 0.0
    for no in (False, "false", 0, None):
        given["earthsearch:boa_offset_applied"] = no
        assert encoding(scene("red", **given), "B04").offset == -0.1


def test_the_item_wins_over_the_baseline_in_the_layouts_of_stac_1_0_and_1_1() -> None:
    old = {"raster:bands": [{"scale": 2e-4, "offset": 0.0, "nodata": 7}]}
    new = {"bands": [{"raster:scale": 2e-4, "raster:offset": 0.0, "nodata": 7}]}
    flat = {"raster:scale": 2e-4, "raster:offset": 0.0, "nodata": 7}
    for fields in (old, new, flat):
        item = scene(fields=fields, **{"s2:processing_baseline": "05.11"})
        assert encoding(item, "B04") == Encoding(2e-4, 0.0, 7.0)


@pytest.mark.parametrize("flag", ["earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"])
def test_an_offset_that_the_provider_has_applied_is_not_applied_again_although_its_item_lists_it(
    flag: str,
) -> None:
    fields = {"raster:bands": [{"scale": 1e-4, "offset": -0.1, "nodata": 0}]}
    applied = scene("red", fields, **{"s2:processing_baseline": "05.11", flag: True})
    waiting = scene("red", fields, **{"s2:processing_baseline": "05.11", flag: False})
    assert encoding(applied, "B04").offset == 0.0
    assert encoding(waiting, "B04").offset == -0.1


def test_no_data_may_be_a_string_as_the_raster_extension_allows() -> None:
    value = encoding(scene("vv", {"raster:bands": [{"nodata": "nan"}]}), "backscatter_vv").nodata
    assert value is not None
    assert value != value


def test_codes_are_never_scaled_and_keep_their_zero() -> None:
    fields = {"raster:bands": [{"scale": 2.0, "offset": 1.0, "nodata": 0}]}
    assert encoding(scene("scl", fields), "SCL") == Encoding(1.0, 0.0, None)


def test_a_band_that_an_item_lacks_is_no_asset_and_cannot_be_read() -> None:
    assert asset_of(scene("B04"), "B05") is None
    with pytest.raises(KeyError, match="B05"):
        encoding(scene("B04"), "B05")


# What each provider's files hold, from the documents cited in the table, not from the items: digital
# number 2500 is reflectance 0.25 before baseline 04.00 or once the raise is taken off, else 0.15.
REFLECTANCE_OF_2500 = {
    "sentinel-2-l2a__planetarycomputer": 0.25,  # 02.12, no raster:bands
    "sentinel-2-l2a__earth-search.aws.element84.com__S2A_13TDE": 0.25,  # 05.09, applied
    "sentinel-2-l2a__earth-search.aws.element84.com__S2B_24MUA": 0.25,  # 05.11, applied
    "sentinel-2-c1-l2a__earth-search.aws.element84.com__S2B_T24MUA": 0.15,  # 05.11, as delivered
    "sentinel-s2-l2a-cogs__earth-search.aws.element84.com": 0.25,  # v0, 05.11, applied
    "odc-stac__S2A_28QCH": 0.25,  # 2020, no baseline at all
    "odc-stac__S2B_MSIL2A_20190629": 0.25,  # 02.12
}


@pytest.mark.parametrize("name", REFLECTANCE_OF_2500)
def test_recorded_scenes_of_every_provider_have_twelve_bands_and_the_right_reflectance(
    shared_data: Path, name: str
) -> None:
    paths = sorted(shared_data.glob(f"stac/{name}*.json"))
    assert paths
    for path in paths:
        item = Item.from_dict(json.loads(path.read_text()))
        for band in S2_BANDS:
            rule = encoding(item, band)
            assert rule.nodata == 0.0
            assert 2500 * rule.scale + rule.offset == pytest.approx(REFLECTANCE_OF_2500[name])
        assert asset_of(item, "SCL") is not None


def test_the_same_scene_of_two_collections_gives_the_same_reflectance(shared_data: Path) -> None:
    """Digital numbers of -c1- are those of -l2a plus 1000 (https://github.com/Element84/earth-search/issues/41)."""
    applied = recorded(shared_data, "sentinel-2-l2a__earth-search.aws.element84.com__S2B_24MUA")
    delivered = recorded(shared_data, "sentinel-2-c1-l2a__earth-search.aws.element84.com__S2B_T24MUA")
    for band in S2_BANDS:
        one, two = encoding(applied, band), encoding(delivered, band)
        assert 1500 * one.scale + one.offset == pytest.approx(2500 * two.scale + two.offset)


def test_recorded_landsat_and_elevation_items_are_understood(shared_data: Path) -> None:
    for path in shared_data.glob("stac/landsat-c2-l2__*.json"):
        item = Item.from_dict(json.loads(path.read_text()))
        assert asset_of(item, "QA_PIXEL") is not None
        if "L2SP" in path.name:  # L2SR products carry no temperature
            assert encoding(item, "LST") == Encoding(0.00341802, 149.0, 0.0, "kelvin")
        else:
            assert asset_of(item, "LST") is None
    for path in shared_data.glob("stac/cop-dem-glo-30__*.json"):
        item = Item.from_dict(json.loads(path.read_text()))
        assert encoding(item, "elevation") == Encoding(1.0, 0.0, None, "meter", file_may_say=True)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.host)
def test_recorded_items_of_each_provider_carry_the_bands_that_are_declared_for_it(
    shared_data: Path, provider: Any
) -> None:
    seen = set()
    for collection, bands in provider.collections.items():
        for path in shared_data.glob(f"stac/{collection}__{provider.host}__*.json"):
            item = Item.from_dict(json.loads(path.read_text()))
            assert item.collection_id == collection
            reflectance_only = "_L2SR_" in item.id  # such Landsat scenes have no temperature
            carried = {band for band in bands if asset_of(item, band) is not None}
            assert carried == ({"QA_PIXEL"} if reflectance_only else set(bands))
            seen.add(collection)
    assert {"sentinel-2-l2a", "landsat-c2-l2"} <= seen


def test_the_uncertainty_of_recorded_landsat_temperatures_is_in_hundredths_of_a_kelvin(
    shared_data: Path,
) -> None:
    items = [
        Item.from_dict(json.loads(path.read_text())) for path in shared_data.glob("stac/*landsat*L2SP*.json")
    ]
    found = [encoding(item, "LST_uncertainty") for item in items if item.collection_id == "landsat-c2-l2"]
    assert found == [Encoding(0.01, 0.0, -9999.0, "kelvin")] * 4


def test_a_known_provider_signs_as_it_does_whatever_the_path_and_others_do_not() -> None:
    assert default_sign("https://planetarycomputer.microsoft.com/api/stac/v1") == "planetary-computer"
    assert default_sign("https://earth-search.aws.element84.com/v1") is None
    assert default_sign("https://example.org/planetarycomputer.microsoft.com") is None
    assert default_sign("/data/planetarycomputer.microsoft.com") is None


def product(**assets: Asset) -> Item:
    item = scene("unrelated")
    item.assets = assets
    return item


def test_a_file_is_told_by_a_part_of_its_name_or_by_its_role_and_a_key_of_the_table_goes_first() -> None:
    named = product(a=Asset("x/S1_INT40_corr.tif"), b=Asset("x/S1_INT40_unw_phase.tif?sig=wrapped_phase.tif"))
    assert asset_of(named, "coherence") is named.assets["a"]
    assert asset_of(named, "phase") is named.assets["b"]
    roles = product(a=Asset("1.tif", roles=["data", "phase"]), b=Asset("2.tif", roles=["coherence"]))
    assert asset_of(roles, "coherence") is roles.assets["b"]
    assert asset_of(roles, "phase") is roles.assets["a"]
    both = product(coh_old=Asset("coh_old.tif"), corr=Asset("corr.tif"))
    assert asset_of(both, "coherence") is both.assets["corr"]
    wrapped = product(u=Asset("S1_unw_phase.tif"), w=Asset("S1_wrapped_phase.tif"))
    assert asset_of(wrapped, "phase") is wrapped.assets["w"]


@pytest.mark.parametrize("href", ["S1_corr.png", "S1_correction.tif", "corr/S1_amp.tif", "S1_unwrapped.xml"])
def test_pictures_and_words_that_only_contain_a_name_are_left_alone(href: str) -> None:
    item = product(picture=Asset(href))
    assert asset_of(item, "coherence") is None
    assert asset_of(item, "phase") is None


@pytest.mark.parametrize("keys", [("slc1", "slc2"), ("primary", "secondary"), ("reference", "secondary")])
def test_a_pair_goes_by_any_of_its_usual_names(keys: tuple[str, str]) -> None:
    item = product(**{key: Asset(f"{key}.tif") for key in keys})
    assert [asset_of(item, band) for band in ("slc1", "slc2")] == [item.assets[key] for key in keys]
