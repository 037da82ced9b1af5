"""How well the displacement of a front is measured: lakes of simulated ranges that are led into their ice.

``python -m benchmarks.fronts [--size tiny|small] [--seeds 7 11 ...]``
takes the true classes of simulated ranges, finds the fronts, and moves each back along its own axis by
distances that are no whole pixels: on a grid eight times as fine the lake floods what it sweeps over. Both
years are thinned to pixels of 10 m, each to the class that most of it has, and go the way of an inventory.
Ranges are laid on the pixels of a UTM zone as they are, so that nothing is resampled. What is not tested is
the map: its classes are taken to be true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import LineString, MultiLineString

from benchmarks import RESULTS
from benchmarks.command import Parser, at_least, command
from cryoscale.bench import record
from cryoscale.errors import InputError
from cryoscale.grid import RESOLUTION_M, Window
from cryoscale.simulate.terrain import MountainRange, make_range
from cryoscale.write import outlines
from cryoscale.write.displacement import UNCERTAINTY_M, displacement
from cryoscale.write.fronts import Finder, Fronts, find_fronts
from cryoscale.write.glaciers import Divider, divide_inventory
from cryoscale.write.ground import Ground
from cryoscale.write.inventory import Inventory
from cryoscale.write.waters import Waters

EPSG = 32645
FINE = 8
"""Parts of a pixel's edge."""
LED_M = (3.0, 7.3, 12.6, 25.0, 47.7)
AROUND_M = 350.0
STEP_PX = 512
SEEDS = (3, 5, 7, 11, 21)
PACKAGES = ("cryoscale", "numpy", "scipy", "shapely")

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scene:
    """A range on the pixels of a zone.

    Attributes:
        label: (y, x), all ice one class.
        ground: its elevation at 40 m.
    """

    label: Labels
    ground: Ground

    @classmethod
    def of(cls, simulated: MountainRange) -> Scene:
        label = np.where(simulated.truth == 2, 1, simulated.truth).astype(np.uint8)
        data = map_of(label)
        y, x = (data[axis].values.reshape(-1, 4).mean(axis=1) for axis in ("y", "x"))
        z = simulated.elevation_m.reshape(y.size, 4, x.size, 4).mean(axis=(1, 3))
        return cls(
            label, Ground({EPSG: xr.DataArray(z, dims=("y", "x"), coords={"y": y, "x": x})}, "simulated")
        )

    def fronts(self, label: Labels) -> gpd.GeoDataFrame:
        """Fronts in metres of the zone, of a map of the same ground, with their axes."""
        maps = {EPSG: map_of(label)}
        with (
            outlines.survey(maps) as complexes,
            Inventory({}) as glaciers,
            Waters(maps, self.ground.elevations, STEP_PX) as waters,
            Fronts(0) as fronts,
        ):
            divide_inventory(complexes, glaciers, Divider(None, None), maps, STEP_PX)
            glaciers.describe(lambda outline, _: self.ground.under(outline))
            find_fronts(glaciers, Finder(maps, waters), self.ground, fronts)
            found: gpd.GeoDataFrame = pd.concat(list(fronts.frames()), ignore_index=True).to_crs(EPSG)
        found["axis"] = gpd.GeoSeries.from_wkt(found["axis"], crs=4326).to_crs(EPSG)
        return found


def map_of(label: Labels) -> xr.Dataset:
    """A label map (y, x) in the middle of a zone."""
    window = Window(EPSG, -310_000, 50_000, *label.shape)
    y, x = window.coordinates()
    return xr.Dataset({"label": (("y", "x"), label)}, {"y": y, "x": x}, {"crs": f"EPSG:{EPSG}"})


@dataclass(frozen=True, eq=False)
class Shore:
    """The ground around one front, finely: what is ice, and the lake that ends it."""

    scene: Scene
    window: tuple[slice, slice]
    ice: Mask
    lake: Mask

    @classmethod
    def around(cls, scene: Scene, line: MultiLineString) -> Shore:
        data = map_of(scene.label)
        west, south, east, north = line.buffer(AROUND_M).bounds
        window = tuple(
            slice(int(inside[0]), int(inside[-1]) + 1)
            for inside in (
                np.flatnonzero((data["y"].values > south) & (data["y"].values < north)),
                np.flatnonzero((data["x"].values > west) & (data["x"].values < east)),
            )
        )
        near = scene.label[window]
        ice = _finely(near == 1) > 0
        bodies, _ = ndimage.label(near == 3)
        x, y = np.meshgrid(data["x"].values[window[1]], data["y"].values[window[0]])
        away = shapely.distance(shapely.points(x[bodies > 0], y[bodies > 0]), line)
        own = bodies == bodies[bodies > 0][np.argmin(away)]
        return cls(scene, (window[0], window[1]), ice, (_finely(own) > -0.75) & ~ice)

    def label(self, lake: Mask) -> Labels:
        """The scene's map with this lake in the ice's place."""
        ice, water = (
            part.reshape(len(part) // FINE, FINE, -1, FINE).mean(axis=(1, 3))
            for part in (self.ice & ~lake, lake)
        )
        land = 1.0 - ice - water
        own = np.where((ice >= water) & (ice >= land), 1, np.where(water >= land, 3, 0))
        label = self.scene.label.copy()
        label[self.window] = own
        return label

    def led_back(self, axis: LineString, distance_m: float) -> Mask:
        """The lake after it has swept along the last leg of an axis, upwards."""
        (x0, y0), (x1, y1) = np.asarray(axis.coords)[-2:]
        length, step_m = float(np.hypot(x1 - x0, y1 - y0)), RESOLUTION_M / FINE
        lake = self.lake.copy()
        for led in np.append(np.arange(step_m / 2, distance_m, step_m / 2), distance_m):
            rows, cols = led / step_m * (y1 - y0) / length, -led / step_m * (x1 - x0) / length
            lake |= (ndimage.shift(self.lake.astype(np.uint8), (rows, cols), order=0) > 0) & self.ice
        return lake


def _finely(mask: Mask) -> NDArray[np.float64]:
    """Distance inside a mask (px, negative outside) on the fine grid, smoothed: edges cross pixels."""
    inside = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    smooth = ndimage.gaussian_filter(inside - 0.5 * np.sign(inside), 1.0)
    places = [(np.arange(size * FINE) + 0.5) / FINE - 0.5 for size in mask.shape]
    return np.asarray(
        ndimage.map_coordinates(smooth, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    )


def measured(seed: int, size: str) -> Iterator[dict[str, Any]]:
    """A row a front and distance: by how much it was led back and how much was found."""
    scene = Scene.of(make_range(seed, size))
    for line in scene.fronts(scene.label).geometry:
        shore = Shore.around(scene, line)
        older = _nearest(scene.fronts(shore.label(shore.lake)), line)
        for led_m in LED_M:
            newer = _nearest(scene.fronts(shore.label(shore.led_back(older.axis, led_m))), older.geometry)
            found = displacement(older.geometry, newer.geometry, older.axis)
            if found is not None:
                row = {"seed": seed, "length_m": older.length_m, "led_m": led_m, "width_m": found.width_m}
                yield row | {"error_m": -found.displacement_m - led_m}


def _nearest(fronts: gpd.GeoDataFrame, line: MultiLineString) -> Any:
    return fronts.iloc[int(np.argmin(shapely.hausdorff_distance(fronts.geometry.to_numpy(), line)))]


def told(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures over all rows."""
    error = np.array([row["error_m"] for row in rows])
    return {
        "fronts": len(rows) // len(LED_M),
        "measurements": len(rows),
        "mean_abs_error_m": round(float(np.abs(error).mean()), 2),
        "rms_error_m": round(float(np.sqrt((error**2).mean())), 2),
        "bias_m": round(float(error.mean()), 2),
        "largest_error_m": round(float(np.abs(error).max()), 2),
        "share_within_stated": round(float((np.abs(error) <= UNCERTAINTY_M).mean()), 3),
        "stated_90_m": round(UNCERTAINTY_M, 2),
    }


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="small", choices=("tiny", "small"))
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=RESULTS / "fronts.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    rows = [row for seed in given.seeds for row in measured(seed, given.size)]
    if not rows:
        seeds = " ".join(map(str, given.seeds))
        raise InputError(f"seeds {seeds} of size {given.size}", "ranges with a front", "give other --seeds")
    print(pd.DataFrame(rows).round(2).to_string())
    results = told(rows)
    print(results)
    method = (
        "true classes of simulated ranges; lakes led into the ice along the axes of their fronts on a grid "
        "of 1.25 m, thinned to 10 m, measured by the way of an inventory"
    )
    sizes = {"size": given.size, "seeds": given.seeds, "led_m": list(LED_M)}
    record.append(
        given.out, record.line("fronts", method=method, sizes=sizes, results=results, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
