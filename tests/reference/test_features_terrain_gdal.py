"""Slope and aspect against GDAL's own gdaldem, called in the GDAL that rasterio brings along."""

from __future__ import annotations

import numpy as np
import pytest

from cryoscale.features.terrain import slope_aspect
from cryoscale.simulate.strata import slope_deg as simulated_slope
from tests.reference.conftest import gdaldem


def rough(shape=(80, 90)):
    """Smoothed noise on a tilt: ridges, hollows, steps."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (3.0 * x - 1.5 * y + 60 * np.sin(x / 7) * np.cos(y / 5) + rng.normal(0, 4, shape)).astype(
        np.float32
    )


def tilted():
    y, x = np.mgrid[:30, :40]
    return (4.0 * x + 2.0 * y).astype(np.float32)


@pytest.mark.parametrize("make", [tilted, rough])
def test_slope_and_aspect_agree_with_gdal_on_a_tilted_plane_and_on_rough_ground(gdal, tmp_path, make):
    z = make()
    slope, aspect = slope_aspect(z)
    # gdaldem sums in float32: near sea level, so that its rounding stays small.
    np.testing.assert_allclose(slope, gdaldem(gdal, tmp_path, z, "slope"), atol=2e-4)
    difference = aspect - gdaldem(gdal, tmp_path, z, "aspect", "-zero_for_flat")
    turned = (difference + 180) % 360 - 180
    assert np.nanmax(np.abs(turned)) < 2e-3
    np.testing.assert_array_equal(np.isnan(turned), np.isnan(slope))


def test_no_data_and_flat_ground_agree_with_gdal(gdal, tmp_path):
    z = rough((40, 40))
    z[10:13, 20] = np.nan
    z[25:35, 5:15] = 1234.0
    slope, aspect = slope_aspect(z)
    np.testing.assert_array_equal(np.isnan(slope), np.isnan(gdaldem(gdal, tmp_path, z, "slope")))
    theirs = gdaldem(gdal, tmp_path, z, "aspect", "-zero_for_flat")
    np.testing.assert_array_equal(aspect[27:33, 7:13], theirs[27:33, 7:13])


def test_the_simulators_slope_of_its_truth_agrees_with_gdal(gdal, tmp_path):
    z = rough()
    np.testing.assert_allclose(simulated_slope(z), gdaldem(gdal, tmp_path, z, "slope"), atol=2e-3)
