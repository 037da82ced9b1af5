"""How often a simulated terminus moved as far as the interval of its retreat says.

``python -m benchmarks.retreat [--scale tiny|moderate|full] [--weights X]``
makes simulated ranges that the weights were not trained on, in two years with the equilibrium line 72 m
higher in the second, maps them, divides and links the outlines as a run and its archive do, and takes the
retreat of each glacier as ``cryoscale archive diff`` does.

The truth is that along the same line: where a year's terminus is mapped, the true one is the end of the true
ice that is there, or, where there is none, of the last true ice above. The line goes on beyond its end, but
not into ice that is mapped as another glacier's; gaps of one pixel end nothing. Where there is no true ice on
the line in a year, there is no true terminus: such lines are counted apart. So are the factor by which the
intervals would have to be wider or narrower to cover 90 %, and the rank correlation of the errors of the two
years, which the intervals take to be independent.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import geopandas as gpd
import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage, stats
from shapely.geometry.base import BaseGeometry

from benchmarks import RESULTS, overlap
from benchmarks.command import Parser, command
from benchmarks.uncertainty import ICE, LEAST_KM2, PACKAGES, Range, map_of
from cryoscale.archive.coverage import Maps
from cryoscale.archive.retreat import Located, Side, located, reach
from cryoscale.bench import record
from cryoscale.demo import demo_weights
from cryoscale.features.channels import CHANNELS
from cryoscale.grid import Window, transformer
from cryoscale.infer.encode import encode
from cryoscale.infer.predict import Tiling, predict_window
from cryoscale.learn.scores import NO_DATA
from cryoscale.learn.truth import in_zone
from cryoscale.models.loading import load_predictor
from cryoscale.write import outlines, quicklook
from cryoscale.write.glaciers import Divider
from cryoscale.write.ground import Ground
from cryoscale.write.succession import changes, link_years
from cryoscale.write.uncertainty import LEVEL

RISE_M = 72.0
"""Of the equilibrium line, from the first year to the second."""
SCALES: dict[str, tuple[str, tuple[Range, ...]]] = {
    "tiny": ("tiny", ((501, "himalaya"),)),  # it shows that the benchmark runs
    "moderate": ("small", ((201, "himalaya"), (402, "karakoram"), (603, "alps"))),
    "full": (
        "small",
        (
            *((seed, "himalaya") for seed in (201, 601, 611)),
            *((seed, "karakoram") for seed in (402, 602)),
            *((seed, "alps") for seed in (603, 613)),
        ),
    ),
}
_STEP_M, _BEYOND_M = 5.0, 500.0
_GAP_STEPS = 2


@dataclass(frozen=True, eq=False)
class Year:
    """A zone in a year: labels (y, x), probability (class, y, x), elevation (y, x) and truth (y, x)."""

    window: Window
    label: NDArray[np.uint8]
    probability: NDArray[np.uint8]
    elevation: NDArray[np.float32]
    truth: NDArray[np.uint8]

    def labels(self, window: Window) -> NDArray[np.uint8]:
        """As :meth:`cryoscale.archive.coverage.Maps.labels`."""
        return self._cut(self.label, window, NO_DATA)

    def ice(self, window: Window) -> NDArray[np.float64]:
        """As :meth:`cryoscale.archive.coverage.Maps.ice`."""
        clean, debris = (self._cut(self.probability[one], window, NO_DATA) for one in ICE)
        return np.where(clean == NO_DATA, np.nan, (clean.astype(float) + debris) / 250.0)

    def true_ice(self, window: Window) -> NDArray[np.bool_]:
        """Whether there is ice (y, x) in truth."""
        return np.isin(self._cut(self.truth, window, NO_DATA), ICE)

    def zone_of(self, lon_deg: float, lat_deg: float) -> int:
        """The one zone."""
        return self.window.epsg

    def _cut(self, layer: NDArray[np.uint8], window: Window, fill: int) -> NDArray[np.uint8]:
        found = np.full(window.shape, fill, np.uint8)
        both = window.intersect(self.window)
        if both is not None:
            found[both.slices_in(window)] = layer[both.slices_in(self.window)]
        return found


@dataclass(frozen=True, eq=False)
class Outlines:
    """Glaciers of a year in degrees by name, and their centre lines."""

    shapes: Mapping[str, BaseGeometry]
    lines: Mapping[str, Any]

    def parts(self) -> Iterator[gpd.GeoDataFrame]:
        """As an inventory gives them."""
        frame = {"glac_id": list(self.shapes)}
        yield gpd.GeoDataFrame(frame, geometry=list(self.shapes.values()), crs="EPSG:4326")


def outlined(year: Year) -> Outlines:
    """The glaciers of a zone as a run outlines them."""
    seen = map_of(year.window, {"label": year.label, "probability": year.probability}, year.truth)
    y, x = (axis.reshape(-1, quicklook.FACTOR).mean(axis=1) for axis in year.window.coordinates())
    thin = xr.DataArray(quicklook.thinned(year.elevation), {"y": y, "x": x}, ("y", "x"))
    ground = Ground({year.window.epsg: thin}, "simulated")
    divider = Divider(ground, None)
    with outlines.survey(seen, min_area_km2=LEAST_KM2) as found:
        shapes = [one for whole in found.complexes() for one in divider.glaciers_of(whole.outline).polygons]
    named = {str(number): shape for number, shape in enumerate(shapes)}
    lines = {name: ground.line(shape) for name, shape in named.items()}
    return Outlines(named, {name: line.line for name, line in lines.items() if line is not None})


def termini(older: Year, newer: Year) -> NDArray[np.float64]:
    """Of each terminus of a zone (n, 8): both places, reaches up and down of both, and both true places."""
    both = outlined(older), outlined(newer)
    table = changes(link_years(both[0].parts(), both[1].parts()))
    rows = []
    for old, new in zip(table["older_ids"].str.split(), table["newer_ids"].str.split(), strict=True):
        if not (old and new):
            continue
        sides = [
            Side(
                shapely.union_all([own.shapes[name] for name in names]),
                own.lines.get(names[0]),
                cast(Maps, year),
            )
            for own, names, year in zip(both, (old, new), (older, newer), strict=True)
        ]
        found = located(sides[0], sides[1])
        if found is None:
            continue
        others = [
            shapely.union_all([shape for name, shape in own.shapes.items() if name not in names])
            for own, names in zip(both, (old, new), strict=True)
        ]
        truths = [
            true_place(found, at, year, other)
            for at, year, other in zip((found.older_m, found.newer_m), (older, newer), others, strict=True)
        ]
        reaches = (
            *reach(found.track, cast(Maps, older), found.older_m),
            *reach(found.track, cast(Maps, newer), found.newer_m),
        )
        rows.append([found.older_m, found.newer_m, *reaches, *truths])
    return np.array(rows, float).reshape(-1, 8)


def true_place(found: Located, at_m: float, year: Year, other: BaseGeometry) -> float:
    """Where on the line the true terminus of a year is, in metres from the head; NaN where it has none.

    Args:
        found: the line.
        at_m: where on it the mapped one is.
        year: with the truth.
        other: all outlines (degrees) that are not of this glacier.
    """
    steps = np.arange(0.0, at_m + _BEYOND_M, _STEP_M)
    ice = np.asarray(found.track.sampled(steps, year.true_ice), bool)
    points = found.track.points(steps)
    to_degrees = transformer(f"EPSG:{found.track.epsg}", "EPSG:4326")
    beyond = steps > at_m
    ice[
        beyond & np.cumsum(beyond & shapely.contains_xy(other, *to_degrees.transform(*points.T))).astype(bool)
    ] = False
    ice |= ndimage.binary_closing(np.pad(ice, _GAP_STEPS), iterations=_GAP_STEPS // 2)[_GAP_STEPS:-_GAP_STEPS]
    upto = int(np.searchsorted(steps, at_m, side="right")) - 1
    above = np.flatnonzero(ice[: upto + 1])
    if not above.size:
        return float("nan")
    last = int(above[-1])
    if last == upto:
        gone = np.flatnonzero(~ice[upto:])
        last = upto + (int(gone[0]) if gone.size else len(ice) - upto) - 1
    return float(steps[last])


def ground_of(seed: int, regime: str, size: str, year: int, rise_m: float, predict: Any) -> Iterator[Year]:
    """Every zone of a range in a year, mapped with the study's tiling."""
    with tempfile.TemporaryDirectory() as folder:
        scale = overlap.Scale(size, ((seed, regime),), ())
        for ground in overlap.grounds(scale, Path(folder), year=year, ela_shift_m=rise_m):
            window = ground.window
            tiling = Tiling(*overlap.STUDY, 1)
            found = predict_window(
                ground.features, (window.row, window.col), window, predict=predict, tiling=tiling
            )
            bands = encode(found.probability, found.disagreement)
            truth = np.where(in_zone(window), ground.truth, np.uint8(NO_DATA))
            elevation = ground.features[CHANNELS.index("elevation")]
            yield Year(window, bands["label"], bands["probability"], elevation, truth)


def judged(found: NDArray[np.float64]) -> dict[str, Any]:
    """What rows as of :func:`termini` say of the intervals."""
    known = found[np.isfinite(found).all(axis=1)]
    moved, true = known[:, 0] - known[:, 1], known[:, 6] - known[:, 7]
    down, up = np.hypot(known[:, 2], known[:, 5]), np.hypot(known[:, 3], known[:, 4])
    error = true - moved
    score = np.where(error < 0, -error / down, error / up)
    rank = min(math.ceil(LEVEL * (len(score) + 1)), len(score))
    years = stats.spearmanr(known[:, 6] - known[:, 0], known[:, 7] - known[:, 1]).statistic
    return {
        "termini": len(known),
        "without_truth": len(found) - len(known),
        "covered_pct": round(100 * float((score <= 1).mean()), 1),
        "median_error_m": round(float(np.median(np.abs(error))), 1),
        "median_width_m": round(float(np.median(down + up)), 1),
        "factor_for_level": round(float(np.sort(score)[rank - 1]), 2),
        "correlation_of_years": round(float(years), 2),
    }


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--weights", default=str(demo_weights()))
    parser.add_argument("--out", type=Path, default=RESULTS / "retreat.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    size, ranges = SCALES[given.scale]
    predict = load_predictor(weights=given.weights, device="cpu", precision="fp32")
    found: dict[str, list[NDArray[np.float64]]] = {}
    for seed, regime in ranges:
        older = ground_of(seed, regime, size, 2018, 0.0, predict)
        newer = ground_of(seed, regime, size, 2024, RISE_M, predict)
        found.setdefault(regime, []).extend(termini(*both) for both in zip(older, newer, strict=True))
    results = {regime: judged(np.concatenate(rows)) for regime, rows in found.items()}
    results["all"] = judged(np.concatenate([row for rows in found.values() for row in rows]))
    print(json.dumps(results, indent=1))
    method = (
        "simulated ranges mapped in two years, fp32 on the CPU; retreat of every glacier along its centre "
        "line against that of the true ice on the same line"
    )
    sizes = {"scale": given.scale, "size": size, "ranges": ranges, "weights": Path(given.weights).name}
    record.append(
        given.out, record.line("retreat", method=method, sizes=sizes, results=results, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
