"""A seeded, glacierised mountain range across the boundary of two UTM zones.

Ground (``landscape``), ice (``glaciers``) and cover (``surface``) are made on a world somewhat
larger than the range, so that valleys and glaciers run out of its frame as they do in nature.
"""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Geod
from rasterio import features

from cryoscale.errors import InputError
from cryoscale.grid import transformer
from cryoscale.simulate import glaciers, lakes, landscape, surface
from cryoscale.simulate.noise import F32, coarsen, refine
from cryoscale.simulate.regime import HIMALAYA, Regime

PIXEL_M = 10.0

SIZES: dict[str, tuple[int, int]] = {
    "tiny": (256, 384),
    "small": (1024, 1536),
    "medium": (2048, 3072),
    "large": (4096, 6144),
}
"""Rows and columns of 10 m pixels."""

_FRAME = "+proj=tmerc +lat_0=0 +lon_0={} +k=0.9996 +x_0=500000 +y_0=0 +datum=WGS84 +units=m +no_defs"
"""Transverse Mercator on the boundary of two zones, so that neither is favoured."""

_WORLD = {"tiny": (704, 832), "small": (1344, 1856), "medium": (2368, 3392), "large": (4416, 6464)}
_ICE_FACTOR = {"tiny": 4, "small": 4, "medium": 8, "large": 8}
_YEARS = {4: (350.0, 80.0, 12.0), 8: (400.0, 90.0)}


@dataclass(frozen=True)
class MountainRange:
    """A simulated range: arrays (y, x) of 10 m pixels, north up, in the metric frame ``crs``.

    Heights, thicknesses in m, speeds in m/yr; float32 but ``glacier_id`` (int32, 0 none),
    ``water`` (bool) and ``truth`` (uint8, classes 0..4). ``elevation_m`` is the surface, ice and
    lakes included. Ponds on a glacier are water and keep the glacier's number.
    """

    seed: int
    size: str
    crs: str
    west_m: float
    north_m: float
    elevation_m: F32
    bed_m: F32
    ice_thickness_m: F32
    velocity_east_m_yr: F32
    velocity_north_m_yr: F32
    debris_thickness_m: F32
    glacier_id: NDArray[np.int32]
    water: NDArray[np.bool_]
    vegetation_fraction: F32
    truth: NDArray[np.uint8]
    ela_m: float
    treeline_m: float
    regime: Regime = HIMALAYA

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.truth.shape[0], self.truth.shape[1]

    @property
    def affine(self) -> Affine:
        """From (column, row) of pixel corners to metres of the frame."""
        return Affine(PIXEL_M, 0.0, self.west_m, 0.0, -PIXEL_M, self.north_m)

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """West, south, east, north in metres of the frame."""
        rows, cols = self.shape
        return self.west_m, self.north_m - rows * PIXEL_M, self.west_m + cols * PIXEL_M, self.north_m

    @property
    def bounds_deg(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees (EPSG:4326) around the range."""
        found = transformer(self.crs, "EPSG:4326").transform_bounds(*self.bounds_m, densify_pts=21)
        return float(found[0]), float(found[1]), float(found[2]), float(found[3])


@dataclass(frozen=True)
class _Stage:
    """The world before the ice: its ground, its climate, and where the range's frame lies in it."""

    ground: F32
    ela_m: float
    treeline_m: float
    frame: tuple[slice, slice]
    meridian: int


def make_range(
    seed: int, size: str = "small", *, ela_shift_m: float = 0.0, regime: Regime = HIMALAYA
) -> MountainRange:
    """A mountain range with its glaciers (arrays (y, x) at 10 m), the same for the same arguments.

    ``ela_shift_m`` raises the equilibrium line of the same ground, as in a later, warmer year;
    ``regime`` says what kind of place it is.

    Raises:
        InputError: for an unknown size or a negative seed.
    """
    if size not in SIZES:
        raise InputError(f"size {size!r}", f"one of {', '.join(SIZES)}", "choose one of these")
    if seed < 0:
        raise InputError(f"seed {seed}", "a whole number from 0", "give another seed")
    stage = _set_stage(seed, size, regime)
    factor = _ICE_FACTOR[size]
    cell_m = PIXEL_M * factor
    climate = glaciers.Climate(stage.ela_m + ela_shift_m, shady_side=regime.shady_side)
    bed = coarsen(stage.ground, factor)
    thick = glaciers.grow_refined(bed, cell_m, climate, seed, _YEARS[factor])
    east, north = glaciers.surface_velocity(bed, thick, cell_m)
    ice = surface.CoarseIce(bed, thick, east, north, cell_m, factor, stage.frame)
    depth = surface.ice_at_full_resolution(stage.ground, bed, thick, factor, seed)[stage.frame]
    return _assemble((seed, size, regime), stage, ice, depth, climate)


def _set_stage(seed: int, size: str, regime: Regime) -> _Stage:
    """The ground, with the equilibrium line set so that a fair share of the frame comes under ice."""
    rng = np.random.default_rng([seed, 1])
    rows, cols = _WORLD[size]
    rivers = landscape.river_cut((rows // 8, cols // 8), 8 * PIXEL_M, seed)
    rough = refine(landscape.to_heights(rivers), 2)
    troughs = landscape.to_heights(landscape.glaciate(rough, 4 * PIXEL_M, seed, 4300.0))
    ground = landscape.add_detail(troughs, 4, PIXEL_M, seed)
    step = 8 if size == "tiny" else 16
    blocky = coarsen(ground, step)
    inner = tuple(
        slice((w - s) // (2 * step), (w + s) // (2 * step))
        for w, s in zip(ground.shape, SIZES[size], strict=True)
    )
    target = float(rng.uniform(*regime.ice_share))
    low, high = 4700.0, 5900.0
    for _ in range(6):
        ela = 0.5 * (low + high)
        climate = glaciers.Climate(ela, shady_side=regime.shady_side)
        ice = glaciers.grow(blocky, step * PIXEL_M, climate, seed, years=250.0) > 8.0
        low, high = (ela, high) if ice[inner].mean() > target else (low, ela)
    lift = np.float32(float(rng.uniform(*regime.ela_m)) - ela)
    ground += lift
    blocky += lift
    shape = SIZES[size][0] // step, SIZES[size][1] // step
    low_ground = blocky < np.quantile(blocky, 0.10)
    top, left, meridian = _place(ice, low_ground, shape, target)
    dry = blocky[top : top + shape[0], left : left + shape[1]]
    dry = dry[~ice[top : top + shape[0], left : left + shape[1]]]
    # A world too small for deep valleys has its tree line where its valleys are.
    lowest_m, highest_m = regime.treeline_m
    treeline = max(float(np.quantile(dry, 0.12)) + 40.0, lowest_m)
    treeline = treeline if size == "tiny" else min(treeline, highest_m)
    top, left = top * step, left * step
    frame = slice(top, top + SIZES[size][0]), slice(left, left + SIZES[size][1])
    return _Stage(ground, ela + float(lift), treeline, frame, meridian * step + step // 2)


def _place(
    ice: NDArray[np.bool_], low: NDArray[np.bool_], shape: tuple[int, int], target: float
) -> tuple[int, int, int]:
    """Top, left of the frame of ``shape`` in the world, and the meridian's column in it, in cells.

    The frame goes where ice and valleys both have their share, the meridian through the most ice
    near the middle.
    """
    rows, cols = shape
    best, place = -np.inf, (0, 0)
    for top in range(2, ice.shape[0] - rows - 1):
        for left in range(2, ice.shape[1] - cols - 1):
            part = slice(top, top + rows), slice(left, left + cols)
            score = min(float(low[part].mean()), 0.10) - 0.3 * abs(float(ice[part].mean()) - target)
            if score > best + 1e-9:
                best, place = score, (top, left)
    top, left = place
    start = round(0.36 * cols)
    middle = ice[top : top + rows, left + start : left + cols - start]
    return top, left, start + int(np.argmax(middle.sum(axis=0)))


def _assemble(
    what: tuple[int, str, Regime],
    stage: _Stage,
    ice: surface.CoarseIce,
    depth: F32,
    climate: glaciers.Climate,
) -> MountainRange:
    """Cover, lakes and truth on the frame of a range of this seed, size and regime."""
    seed, size, regime = what
    mask = lakes.drop_small(depth > 0.0, surface.SMALLEST_GLACIER_PX)
    mask = ~lakes.drop_small(~mask, 12)
    depth = np.where(mask, np.maximum(depth, 2.0), 0.0).astype(np.float32)
    cells = tuple(slice(s.start // ice.factor, s.stop // ice.factor) for s in stage.frame)
    divided = glaciers.divide(ice.bed + ice.thick, ice.thick > 2.0)[cells]
    number = surface.glacier_numbers(divided, mask, ice.factor)
    debris = surface.debris_thickness(ice, mask, climate, seed, regime)
    bed = stage.ground[stage.frame].copy()
    ground = lakes.Ground(bed, bed + depth, mask, debris, np.zeros(mask.shape, bool))
    lakes.flood_hollows(ground, seed)
    lakes.proglacial_lakes(ground, number, seed)
    lakes.hummocks(ground, seed)
    ground.bed[mask] = np.minimum(ground.bed, ground.elevation - 1.0)[mask]
    debris = np.where(ground.water, 0.0, debris).astype(np.float32)
    plants = surface.vegetation(ground, stage.treeline_m, seed, regime)
    # Ice on the coarse margin may have no coarse velocity: thin ice creeps all the same.
    east, north = (np.where(mask, ice.fine(v), 0.0).astype(np.float32) for v in (ice.east, ice.north))
    x_west = 500_000.0 - stage.meridian * PIXEL_M
    crs = _FRAME.format(regime.meridian_deg)
    _, y_centre = transformer("EPSG:4326", crs).transform(regime.meridian_deg, regime.latitude_deg)
    rows, _ = SIZES[size]
    return MountainRange(
        seed=seed,
        size=size,
        crs=crs,
        west_m=x_west,
        north_m=round(y_centre / PIXEL_M) * PIXEL_M + rows // 2 * PIXEL_M,
        elevation_m=ground.elevation,
        bed_m=ground.bed,
        ice_thickness_m=np.where(mask, ground.elevation - ground.bed, 0.0).astype(np.float32),
        velocity_east_m_yr=east,
        velocity_north_m_yr=north,
        debris_thickness_m=debris,
        glacier_id=number,
        water=ground.water,
        vegetation_fraction=plants,
        truth=surface.classify(ground, plants),
        ela_m=climate.ela_m,
        treeline_m=stage.treeline_m,
        regime=regime,
    )


def outlines(range: MountainRange) -> gpd.GeoDataFrame:
    """True outlines: one polygon a glacier (nunataks as holes) in EPSG:4326, by ``glacier_id``.

    Columns ``glacier_id``, ``area_km2`` and ``debris_area_km2``, both on the WGS 84 ellipsoid;
    ponds on a glacier belong to it, as in the RGI.
    """
    shapes = features.shapes(
        range.glacier_id, mask=range.glacier_id > 0, connectivity=4, transform=range.affine
    )
    rows = sorted((int(value), shapely.geometry.shape(geometry)) for geometry, value in shapes)
    frame = gpd.GeoDataFrame(
        {"glacier_id": np.array([n for n, _ in rows], np.int32)}, geometry=[g for _, g in rows], crs=range.crs
    ).to_crs("EPSG:4326")
    geod = Geod(ellps="WGS84")
    frame["area_km2"] = [abs(geod.geometry_area_perimeter(g)[0]) / 1e6 for g in frame.geometry]
    ice = np.bincount(range.glacier_id.ravel(), minlength=int(range.glacier_id.max()) + 1)
    covered = np.bincount(range.glacier_id[range.truth == 2].ravel(), minlength=ice.size)
    share = covered[frame["glacier_id"]] / ice[frame["glacier_id"]]
    frame["debris_area_km2"] = frame["area_km2"] * share
    return frame[["glacier_id", "area_km2", "debris_area_km2", "geometry"]]
