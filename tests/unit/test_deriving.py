"""When a GPU is to make channels itself, reckoned by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shapely.geometry import MultiPolygon

from cryoscale import deriving
from cryoscale.deriving import Derivation, is_open, outruns_intake
from cryoscale.features.channels import CHANNELS
from cryoscale.models.parity import Choice, Parity
from cryoscale.settings import ModelSpec, Season, Settings

FOUND = Derivation(
    tile_s=0.4e-3,
    make_s=0.02e-3,
    channels_s=0.55e-3,
    numbers_s=0.33e-3,
    agreement=0.999,
    difference=0.001,
    class_iou=0.99,
)


def test_a_gpu_gains_what_it_no_longer_waits_and_pays_for_making() -> None:
    assert FOUND.gain == pytest.approx(0.55 / 0.42)
    assert FOUND.pays
    assert str(FOUND).endswith(": 1.31 times as quick")
    assert FOUND.to_dict()["gain"] == 1.31
    held = replace(FOUND, tile_s=0.2e-3)  # by what it takes in, as numbers too
    assert held.gain == pytest.approx(0.55 / 0.33)
    dear = replace(FOUND, make_s=0.2e-3)
    assert dear.gain == pytest.approx(0.55 / 0.6)
    for other in (
        dear,
        replace(FOUND, agreement=0.99),
        replace(FOUND, difference=0.02),
        replace(FOUND, class_iou=0.9),
    ):
        assert not other.pays
        assert str(other).endswith(", not taken")
    assert FOUND.passes


def test_only_a_network_that_outruns_its_intake_is_asked() -> None:
    model = ModelSpec(weights="w", overlap=0.5)
    settings = Settings(
        "any", MultiPolygon(), (2018,), Season("10-01", "10-31"), (), {}, model, tile_px=256, block_px=2048
    )
    # 2304 x 2304 pixels for 17 x 17 tiles
    at_most_s = 2304**2 / 17**2 * 60 / 2.3e9

    def outruns(seconds: float, precision: str = "bf16-fused") -> bool:
        return outruns_intake(Choice(precision, (Parity(precision, 1.0, 0.0, seconds),)), settings, CHANNELS)

    assert outruns(0.99 * at_most_s)
    assert not outruns(1.01 * at_most_s)
    assert not outruns(0.1 * at_most_s, precision="fp32")
    for shut in ({"flips": True}, {"precision": "bf16"}, {"derive_on": "workers"}, {"weights": None}):
        assert not is_open(replace(settings, model=replace(settings.model, **shut)))
    assert is_open(settings)
    assert not outruns_intake(Choice("bf16", ()), settings, CHANNELS)  # not tried
    assert deriving.INTAKE_BYTES_S == 2.3e9
