"""Profiles, and what seconds, money and disk come of them, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cryoscale.config import load_config
from cryoscale.errors import ConfigError, SourceError
from cryoscale.forecast.expense import Load, disk_of, money_of, work_of
from cryoscale.forecast.rates import (
    FORMAT,
    Disk,
    Prices,
    Profile,
    Reading,
    TileRate,
    load_profile,
    model_key,
    with_prices,
)
from cryoscale.settings import Settings
from tests.unit.test_config import KHUMBU

PROFILE = Profile(
    format=FORMAT,
    name="by hand",
    cpu_cores=4,
    read=Reading(s_per_fetch=0.01, s_per_mb=0.1, clock=3.0),
    features_s_per_mpx=2.0,
    write_s_per_mpx=1.0,
    tiles={"net": TileRate(tiles_per_s=10.0, device="cpu")},
    disk=Disk(mosaic_per_px=2.0, levels_share=0.5, quicklook_per_px=1.0, marker=100.0, group=1000.0),
    prices=Prices(cpu_hour=36.0, gpu_hour=7.0),
)
LOAD = Load(
    blocks=10, groups=2, fetches=1000, read_bytes=300e6, hull_px=5e6, pixels=4_000_000, tiles=800, model="net"
)


def settings(**cluster: Any) -> Settings:
    document = KHUMBU | {"cluster": {"kind": "local", "cpu_workers": 2, "gpu_workers": 0} | cluster}
    return load_config(document | {"tiling": {"tile_px": 256, "block_px": 1024}})


def test_seconds_money_and_disk_follow_from_rates() -> None:
    work, notes = work_of(settings(), LOAD, PROFILE)
    assert notes == []
    assert work is not None
    # 1,000 x 0.01 + 300 x 0.1; 5 x 2; 800 / 10; 10 blocks of 1.048576 million pixels
    assert (work.read_s, work.features_s, work.predict_s) == pytest.approx((40.0, 10.0, 80.0))
    assert work.write_s == pytest.approx(10.48576)
    assert work.cpu_s == pytest.approx(140.48576)
    # four tasks share reading (40 of it and 80 of waiting), features, predicting and writing
    assert work.wall_s == pytest.approx((120 + 10 + 80 + 10.48576) / 4)
    money = money_of(settings(), work, with_prices(PROFILE, {"gb": 2.0}), 3e9)
    assert money == pytest.approx(
        {"cpu": 36.0 * 2 * work.wall_s / 3600, "gpu": 0.0, "bytes": 6.0, "total": money["cpu"] + 6.0}
    )
    disk = disk_of(settings(), LOAD, PROFILE, None)
    assert disk is not None
    assert (disk.mosaic, disk.levels, disk.quicklook, disk.ledger) == (8_002_000, 4_000_000, 4_000_000, 1000)
    # 0.56 of the map with its levels
    assert disk.cogs == pytest.approx(0.56 * 12_000_000)
    assert disk.total == pytest.approx(16_003_000 + disk.cogs)


def test_tiles_of_another_size_are_reckoned_by_their_pixels() -> None:
    rate = TileRate(tiles_per_s=10.0, device="cpu", tile_px=512)
    work, notes = work_of(settings(), LOAD, PROFILE.model_copy(update={"tiles": {"net": rate}}))
    assert work is not None
    assert work.predict_s == pytest.approx(20.0)  # 800 tiles of 256 px at 40 a second
    assert any("from tiles of 512 px" in note for note in notes)


def test_actors_on_a_gpu_take_no_processor_and_bound_the_clock() -> None:
    rate = TileRate(tiles_per_s=2.0, device="gpu")
    profile = PROFILE.model_copy(update={"tiles": {"net": rate}})
    work, notes = work_of(settings(gpu_workers=1), LOAD, profile)
    assert notes == []
    assert work is not None
    assert (work.gpu_s, work.wall_s) == (400.0, 400.0)
    assert work.cpu_s == pytest.approx(60.48576)
    _, warned = work_of(settings(), LOAD, profile)
    assert any("no GPU" in note for note in warned)


def test_a_single_block_takes_as_long_as_its_stages_one_after_the_other() -> None:
    one = Load(1, 1, 100, 30e6, 0.5e6, 400_000, 80, "net")
    work, _ = work_of(settings(cpu_workers=8), one, PROFILE)
    assert work is not None
    assert work.wall_s == pytest.approx(3 * 4 + 1 + 8 + 1.048576)


def test_a_profile_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(PROFILE.to_json())
    assert load_profile(str(tmp_path / "p.json")) == PROFILE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "cryoscale-profile/0"}, "format 'cryoscale-profile/0'"),
        ({"features_s_per_mpx": -1.0}, "features_s_per_mpx: -1.0"),
        ({"speed": 1.0}, "speed"),
        ({"prices": {"cpu_hour": -2.0}}, "prices.cpu_hour: -2.0"),
    ],
)
def test_a_profile_of_another_form_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    (tmp_path / "p.json").write_text(json.dumps(json.loads(PROFILE.to_json()) | change))
    with pytest.raises(ConfigError) as told:
        load_profile(str(tmp_path / "p.json"))
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_what_is_no_profile_and_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for given in (tmp_path / "broken.json", tmp_path / "absent.json", tmp_path):
        with pytest.raises(SourceError):
            load_profile(str(given))


@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf")])
def test_a_price_that_cannot_be_is_refused(price: float) -> None:
    with pytest.raises(ConfigError, match="cpu_hour"):
        with_prices(PROFILE, {"cpu_hour": price})


def test_a_model_is_told_by_its_weights_and_passes() -> None:
    described = {"name": "cryonet", "sha256": "0123456789abcdef"}
    assert model_key(described) == "cryonet-0123456789ab"
    assert model_key(described, 8) == "cryonet-0123456789ab-x8"
    assert model_key({"name": "band-ratio", "sha256": None}) == "band-ratio"
