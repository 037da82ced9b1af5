"""Label rasters for training, from outlines and two spectral indices (y, x).

The rules are those of the published CryoNet study (Barzegar et al. 2026, https://arxiv.org/abs/2605.21527):
debris-covered ice from debris outlines, clean ice from glacier outlines minus debris, water where
NDWI > 0.17, vegetation where NDVI > 0.3, then corrections by hand. The study leaves the order open;
here ice goes before indices, for two reasons: bare ice itself has NDWI above 0.17, and a sparse cover
of plants on a moraine does not make it less of a glacier. One exception: supraglacial ponds. On debris,
unlike on bare ice, a high NDWI is water, so a debris pixel above the threshold becomes water.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from scipy.ndimage import distance_transform_edt

from cryoscale.errors import InputError
from cryoscale.grid import Window
from cryoscale.learn.scores import CLASS_NAMES, NO_DATA
from cryoscale.write.corrections import class_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

BACKGROUND, CLEAN_ICE, DEBRIS, WATER, VEGETATION = range(5)


@dataclass(frozen=True)
class LabelRules:
    """The choices in the label rules.

    ``ponds_on_debris`` keeps supraglacial ponds as water. ``max_water_slope_deg`` leaves steeper ground to
    the other rules, whatever its NDWI: shade and snow reach the threshold too. Pixels within ``rim_px`` of
    the edge of the ice, or of the debris, get no label: outlines are a pixel or two off, and those pixels
    are mixed.
    """

    ndwi_water: float = 0.17
    ndvi_vegetation: float = 0.3
    ponds_on_debris: bool = True
    max_water_slope_deg: float | None = None
    rim_px: float = 0.0


def label_window(
    window: Window,
    *,
    glaciers: GeoDataFrame,
    debris: GeoDataFrame,
    ndwi: NDArray[np.float32],
    ndvi: NDArray[np.float32],
    slope_deg: NDArray[np.float32] | None = None,
    corrections: GeoDataFrame | None = None,
    rules: LabelRules | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Labels (y, x) u1 of a window: 0 background, 1 clean ice, 2 debris, 3 water, 4 vegetation, 255 no data.

    And the rim (y, x), where the rules take no label for the edge of the ice or the debris.

    Args:
        window: where, on the 10 m lattice.
        glaciers: outlines of whole glaciers, debris included (RGI 7), in any CRS.
        debris: outlines of debris-covered ice (Herreid and Pellicciotti 2020), in any CRS. Debris
            outside the glacier outlines counts as debris-covered ice too.
        ndwi: (y, x) on the window; NaN = no data.
        ndvi: (y, x) on the window; NaN = no data.
        slope_deg: (y, x) on the window, where the rules ask for it; NaN = not known, taken for flat.
        corrections: polygons with a column ``class`` (a label, 255 for "not to be learnt", or a class
            name) that win over all rules, later rows over earlier ones.
        rules: other thresholds, and the rim.

    A pixel belongs to a polygon when its centre does. Where an index is NaN the label is 255, even
    inside an outline: without optics the map has no data there, and nothing is to be learnt.

    Raises:
        InputError: outlines without a CRS, indices of another shape, or a correction of no class.
    """
    rules = rules or LabelRules()
    for name, index in (("NDWI", ndwi), ("NDVI", ndvi)):
        if index.shape != window.shape:
            raise InputError(
                f"{name} of shape {index.shape}", f"the window's shape {window.shape}", "cut it to the window"
            )
    margin = math.ceil(rules.rim_px)
    # Outlines beyond the window have a rim inside it: burnt with a margin, a part's labels are the whole's.
    outer = window.pad(margin)
    debris_around = _burn(debris, "debris outlines", outer)
    ice_around = _burn(glaciers, "glacier outlines", outer) | debris_around
    is_debris, is_ice = (mask[window.slices_in(outer)] for mask in (debris_around, ice_around))
    wet = ndwi > rules.ndwi_water
    if rules.max_water_slope_deg is not None and slope_deg is not None:
        wet &= ~(slope_deg > rules.max_water_slope_deg)
    labels = np.full(window.shape, BACKGROUND, np.uint8)
    labels[ndvi > rules.ndvi_vegetation] = VEGETATION
    labels[wet] = WATER
    labels[is_debris & ~(rules.ponds_on_debris & wet)] = DEBRIS
    labels[is_ice & ~is_debris] = CLEAN_ICE
    rim = np.zeros(window.shape, bool)
    if margin:
        around = _rim(ice_around, rules.rim_px) | _rim(debris_around, rules.rim_px)
        rim = around[window.slices_in(outer)]
    labels[rim] = NO_DATA
    if corrections is not None:
        labels = corrected(labels, window, corrections)
    labels[np.isnan(ndwi) | np.isnan(ndvi)] = NO_DATA
    return labels, rim


def corrected(labels: NDArray[np.uint8], window: Window, corrections: GeoDataFrame) -> NDArray[np.uint8]:
    """Labels (y, x) of a window with polygons put over them, later rows over earlier ones.

    Raises:
        InputError: polygons without a CRS, or of no class.
    """
    out = labels.copy()
    for number, row in enumerate(corrections["class"]):
        out[_burn(corrections.iloc[[number]], "corrections", window)] = class_of(row, CLASS_NAMES)
    return out


def _rim(mask: NDArray[np.bool_], rim_px: float) -> NDArray[np.bool_]:
    """Pixels (y, x) whose centre is within ``rim_px`` of the centre of one on the mask's other side."""
    if mask.all() or not mask.any():
        return np.zeros(mask.shape, bool)
    near_outside, near_inside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.asarray(np.where(mask, near_outside, near_inside) <= rim_px)


def _burn(outlines: GeoDataFrame, name: str, window: Window) -> NDArray[np.bool_]:
    """Pixels of the window whose centre lies in one of the outlines (y, x)."""
    if outlines.crs is None:
        raise InputError(f"{name} without a CRS", "a layer that knows its CRS", "set it with set_crs")
    shapes = outlines.geometry.to_crs(window.epsg)
    shapes = shapes[~(shapes.is_empty | shapes.isna())]
    west, south, east, north = window.bounds_m
    near = [(shape, 1) for shape in shapes.cx[west:east, south:north]]
    if not near:
        return np.zeros(window.shape, bool)
    burned = rasterize(near, out_shape=window.shape, transform=window.geobox.transform, dtype="uint8")
    return np.asarray(burned, bool)
