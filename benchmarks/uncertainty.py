"""How often the true area of a simulated glacier lies in its interval, and how wide intervals must be for it.

``python -m benchmarks.uncertainty [--scale tiny|moderate|full] [--weights X]``
makes simulated ranges that the weights were not trained on, maps them, divides the outlines into glaciers as
a run does, and counts of each what :mod:`cryoscale.write.uncertainty` counts. Rules are fitted on some of the
ranges, and their coverage and width are told on the others, by size and by regime, beside the rule with the
constants that the package has.

The true area of an outline is the true ice under it and the true ice that was missed: of bodies of true ice
that the map has some of, and nearer to this outline than to any other, within 500 m. Ice that the map has
nothing of is no error of any outline, and pixels that either side does not know count nowhere. The interval
score is the width plus 20 times what the truth lies outside by (Gneiting and Raftery 2007,
https://doi.org/10.1198/016214506000001437), as a share of the area.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import RESULTS, overlap
from benchmarks.command import Parser, command
from cryoscale.bench import record
from cryoscale.demo import demo_weights
from cryoscale.features.channels import CHANNELS
from cryoscale.grid import Window, transformer
from cryoscale.infer.encode import encode
from cryoscale.infer.predict import Tiling, predict_window
from cryoscale.learn.glaciers import REACH_PX, nearest
from cryoscale.learn.scores import NO_DATA
from cryoscale.learn.truth import in_zone
from cryoscale.models.loading import load_predictor
from cryoscale.write import outlines, quicklook
from cryoscale.write.bootstrap import BLOCK_KM, COMMON, Z, region_interval
from cryoscale.write.glaciers import Divider
from cryoscale.write.ground import Ground
from cryoscale.write.polygons import burned
from cryoscale.write.uncertainty import LEVEL, MEASURED, AreaRule
from cryoscale.write.zonal import Tally, count_pixels, part_of

PIXEL_KM2 = 1e-4
ICE = (1, 2)
LEAST_KM2 = 0.01
"""The least outline of an inventory."""
SIZES_KM2 = {"0.01-0.1": (0.01, 0.1), "0.1-1": (0.1, 1.0), "1-5": (1.0, 5.0), "5-": (5.0, np.inf)}
EXPONENTS = (0.5, 0.7, 1.0)
PACKAGES = ("cryoscale", "torch", "numpy", "scipy")

Range = tuple[int, str]


@dataclass(frozen=True)
class Scale:
    """Size of the ranges, and (seed, regime) of those to fit on and of those to judge on."""

    size: str
    fit: tuple[Range, ...]
    test: tuple[Range, ...]


_REGIMES = ("himalaya", "karakoram", "alps")


def _seeds(first: Sequence[int], further: int) -> tuple[Range, ...]:
    """Four ranges of each regime."""
    seeds = [*first, *(further + 10 * n + k for n in range(3) for k in range(3))]
    return tuple(zip(seeds, _REGIMES * 4, strict=True))


SCALES = {
    "tiny": Scale("tiny", ((501, "himalaya"),), ((501, "himalaya"),)),  # it shows that the benchmark runs
    "moderate": Scale(
        "small",
        tuple(zip((201, 402, 403), _REGIMES, strict=True)),
        tuple(zip((601, 602, 603), _REGIMES, strict=True)),
    ),
    "full": Scale("small", _seeds((201, 402, 403), 211), _seeds((601, 602, 603), 611)),
}
"""The package's constants were fitted at the full scale."""


@dataclass(frozen=True)
class Glaciers:
    """Outlines (n,) of one or several ranges; areas in km2."""

    place: NDArray[np.str_]
    block: NDArray[np.int64]
    area: NDArray[np.float64]
    truth: NDArray[np.float64]
    false: NDArray[np.float64]
    missed: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_]) -> Glaciers:
        """Some of them."""
        return Glaciers(*(getattr(self, one.name)[chosen] for one in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Glaciers]) -> Glaciers:
        """All of all."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))


def map_of(window: Window, bands: Mapping[str, NDArray[Any]], truth: NDArray[np.uint8]) -> xr.Dataset:
    """``label`` and ``probability`` of a zone; where one side does not know, neither has ice."""
    y, x = window.coordinates()
    known = (bands["label"] != NO_DATA) & (truth != NO_DATA)
    layers = {
        "label": (("y", "x"), np.where(known, bands["label"], NO_DATA).astype(np.uint8)),
        "probability": (("class", "y", "x"), np.where(known, bands["probability"], 0).astype(np.uint8)),
    }
    return xr.Dataset(layers, {"y": y, "x": x}, {"proj:code": f"EPSG:{window.epsg}"})


def numbers_of(seen: xr.Dataset, elevation_m: NDArray[np.float32], window: Window) -> NDArray[np.int32]:
    """Number (y, x) of the glacier that each pixel of mapped ice belongs to, from 0, -1 outside all."""
    y, x = (axis.reshape(-1, quicklook.FACTOR).mean(axis=1) for axis in window.coordinates())
    thin = xr.DataArray(quicklook.thinned(elevation_m), {"y": y, "x": x}, ("y", "x"))
    divider = Divider(Ground({window.epsg: thin}, "simulated"), None)
    with outlines.survey(seen, min_area_km2=LEAST_KM2) as found:
        glaciers = [one for whole in found.complexes() for one in divider.glaciers_of(whole.outline).polygons]
    to_zone = transformer("EPSG:4326", f"EPSG:{window.epsg}")
    number = np.full(window.shape, -1, np.int32)
    for index, glacier in enumerate(glaciers):
        shape = shapely.transform(glacier, lambda xy: np.column_stack(to_zone.transform(*xy.T)))
        number[burned(shape, window.geobox.transform, window.shape)] = index
    number[~np.isin(seen["label"].values, ICE)] = -1
    return number


def glaciers_of(
    place: str, seen: xr.Dataset, number: NDArray[np.int32], truth: NDArray[np.uint8]
) -> Glaciers:
    """The glaciers of a zone: :func:`map_of`, :func:`numbers_of`, and the truth (y, x), 255 not known."""
    height, width = truth.shape
    known = seen["label"].values != NO_DATA
    count = int(number.max(initial=-1)) + 1
    tally = Tally(count)
    part = part_of(seen, slice(0, height), slice(0, width))
    count_pixels(tally, part, part["label"].values, number.astype(np.int64))
    false, missed = tally.expected_errors()
    area = tally.ice_px * PIXEL_KM2
    middle = ndimage.center_of_mass(number >= 0, number + 1, np.arange(1, count + 1))
    rows, cols = np.nan_to_num(np.array(middle)).reshape(-1, 2).T
    cell = BLOCK_KM * 100
    found = Glaciers(
        np.full(count, place),
        (rows // cell * 1000 + cols // cell).astype(np.int64),
        area,
        _true_px(number, np.isin(truth, ICE) & known, count) * PIXEL_KM2,
        np.nan_to_num(false) * area,
        np.nan_to_num(missed) * area,
    )
    return found.where(area >= LEAST_KM2)


def _true_px(number: NDArray[np.int32], true_ice: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Pixels of true ice that belong to each outline, see the module."""
    kept = true_ice & (number >= 0)
    bodies, found = ndimage.label(true_ice)
    met = np.zeros(found + 1, bool)
    met[bodies[kept]] = True
    owner = nearest(number, np.argwhere(true_ice & (number < 0) & met[bodies]), REACH_PX)
    return np.bincount(number[kept], minlength=count) + np.bincount(owner[owner >= 0], minlength=count)


def mapped(ranges: Sequence[Range], size: str, weights: str) -> Iterator[Glaciers]:
    """Every zone of every range, mapped by the weights with the study's tiling; each place in one zone."""
    predictor = load_predictor(weights=weights, device="cpu", precision="fp32")
    for seed, regime in ranges:
        with tempfile.TemporaryDirectory() as folder:
            for ground in overlap.grounds(overlap.Scale(size, ((seed, regime),), ()), Path(folder)):
                window = ground.window
                found = predict_window(
                    ground.features,
                    (window.row, window.col),
                    window,
                    predict=predictor,
                    tiling=Tiling(*overlap.STUDY, 1),
                )
                bands = encode(found.probability, found.disagreement)
                truth = np.where(in_zone(window), ground.truth, np.uint8(NO_DATA))
                seen = map_of(window, bands, truth)
                number = numbers_of(seen, ground.features[CHANNELS.index("elevation")], window)
                yield glaciers_of(f"{regime} {seed}/{window.epsg}", seen, number, truth)


Bases = Callable[[Glaciers], tuple[NDArray[np.float64], NDArray[np.float64]]]


def _bases() -> dict[str, Bases]:
    """What a rule multiplies by its two factors, by the rule's name."""

    def power(exponent: float) -> Bases:
        return lambda g: (g.false**exponent, g.missed**exponent)

    rules: dict[str, Bases] = {"share of the area": lambda g: (g.area, g.area)}
    return rules | {f"expected errors ^ {exponent:g}": power(exponent) for exponent in EXPONENTS}


def fitted(glaciers: Glaciers, bases: Bases) -> tuple[float, float]:
    """The least factors with which no more than 5 % of the truths lie below, and 5 % above, the interval.

    They are the quantiles of split conformal prediction: of n scores the ceil(0.95 (n + 1))-th.
    """
    below, above = bases(glaciers)
    tail = (1 + LEVEL) / 2
    factors = []
    for base, error in ((below, glaciers.area - glaciers.truth), (above, glaciers.truth - glaciers.area)):
        scores = np.sort(error / np.maximum(base, 1e-12))
        rank = min(int(np.ceil(tail * (scores.size + 1))), scores.size)
        factors.append(max(float(scores[rank - 1]), 0.0))
    return factors[0], factors[1]


def judged(glaciers: Glaciers, below: NDArray[np.float64], above: NDArray[np.float64]) -> dict[str, Any]:
    """Coverage in per cent by size and regime, and width and score in per cent of the area, >= 0.1 km2."""
    low, high = np.maximum(glaciers.area - below, 0.0), glaciers.area + above
    inside = (low <= glaciers.truth) & (glaciers.truth <= high)
    outside = np.maximum(low - glaciers.truth, 0) + np.maximum(glaciers.truth - high, 0)
    score = 100 * (high - low + 2 / (1 - LEVEL) * outside) / glaciers.area
    large = glaciers.area >= 0.1
    regime = np.array([place.split()[0] for place in glaciers.place])
    sizes = {name: (lo <= glaciers.area) & (glaciers.area < hi) for name, (lo, hi) in SIZES_KM2.items()}
    return {
        "coverage": _share(inside[large]),
        "by_size": {name: [_share(inside[m]), int(m.sum())] for name, m in sizes.items()},
        "by_regime": {str(r): _share(inside[large & (regime == r)]) for r in np.unique(regime)},
        "median_width": round(float(np.median((100 * (high - low) / glaciers.area)[large])), 2),
        "score": round(float(score[large].mean()), 2),
        "score_of_all": round(float(score.mean()), 2),
    }


def _share(inside: NDArray[np.bool_]) -> float | None:
    return round(100 * float(inside.mean()), 1) if inside.size else None


def compare(fit: Glaciers, test: Glaciers) -> dict[str, Any]:
    """Every rule fitted on the first and judged on the second, the package's own beside them."""
    rows = {}
    for name, bases in _bases().items():
        low, high = fitted(fit, bases)
        below, above = bases(test)
        rows[name] = {"low": round(low, 4), "high": round(high, 4)} | judged(test, low * below, high * above)
    # the errors of independent pixels, with no factor to fit
    sd = Z * np.sqrt((test.false + test.missed) * PIXEL_KM2)
    rows["independent pixels"] = {"low": None, "high": None} | judged(test, sd, sd)
    low_km2, high_km2 = MEASURED.interval(test.area, test.false, test.missed)
    own = {"low": MEASURED.low, "high": MEASURED.high}
    rows["the package's"] = own | judged(test, test.area - low_km2, high_km2 - test.area)
    return {"rules": rows, "common_of_fit": common_share(fit, MEASURED), "regions": regions(test, MEASURED)}


def _blocks(glaciers: Glaciers, rule: AreaRule) -> Iterator[tuple[str, Glaciers, NDArray[np.float64]]]:
    """Each place, its glaciers, and by block how far their bounds lie down and up (n, 2)."""
    for place in np.unique(glaciers.place):
        here = glaciers.where(glaciers.place == place)
        low, high = rule.interval(here.area, here.false, here.missed)
        _, index = np.unique(here.block, return_inverse=True)
        widths = [np.bincount(index, one) for one in (here.area - low, high - here.area)]
        yield str(place), here, np.column_stack(widths)


def common_share(glaciers: Glaciers, rule: AreaRule) -> float | None:
    """The least share of variance in common, by steps of 0.05, with which enough of the places are covered.

    Of n places that is ceil(0.9 (n + 1)), at most all, as for the factors of a rule.
    """
    for common in np.linspace(0, 1, 21).tolist():
        rows = regions(glaciers, rule, common)
        enough = min(int(np.ceil(LEVEL * (len(rows) + 1))), len(rows))
        if sum(row["interval"][2] for row in rows) >= enough:
            return round(common, 2)
    return None


def regions(glaciers: Glaciers, rule: AreaRule, common: float = COMMON) -> list[dict[str, Any]]:
    """Area, truth and interval of each zone of each range, as if it were a region."""
    rows = []
    for place, here, widths in _blocks(glaciers, rule):
        area, truth = float(here.area.sum()), float(here.truth.sum())
        row: dict[str, Any] = {"place": place, "blocks": len(widths), "area": round(area, 3)}
        row["truth"] = round(truth, 3)
        for name, shared in (("without_common", 0.0), ("interval", common)):
            low, high = region_interval(area, *widths.T, common=shared)
            row[name] = [round(low, 3), round(high, 3), bool(low <= truth <= high)]
        rows.append(row)
    return rows


def table(results: Mapping[str, Any]) -> str:
    """As lines of text."""
    sizes = "".join(f"{name:>15}" for name in SIZES_KM2)
    lines = [f"{'rule':24}{'low':>8}{'high':>8}{'>=0.1':>7}{sizes}{'width':>8}{'score':>8}{'all':>8}"]
    for name, row in results["rules"].items():
        shares = "".join(f"{f'{share} ({n})':>15}" for share, n in row["by_size"].values())
        factors = "".join(f"{'' if row[side] is None else f'{row[side]:.3f}':>8}" for side in ("low", "high"))
        lines.append(
            f"{name:24}{factors}{row['coverage']!s:>7}{shares}{row['median_width']:8.1f}{row['score']:8.1f}"
            f"{row['score_of_all']:8.1f}  {row['by_regime']}"
        )
    for row in results["regions"]:
        low, high, inside = row["interval"]
        lines.append(
            f"{row['place']:32}{row['blocks']:3} blocks {row['area']:9.2f} km2, truth {row['truth']:9.2f} "
            f"{'in' if inside else 'NOT in'} [{low:.2f}, {high:.2f}]"
        )
    inside = [row["interval"][2] for row in results["regions"]]
    alone = [row["without_common"][2] for row in results["regions"]]
    lines.append(
        f"{sum(inside)} of {len(inside)} regions covered, {sum(alone)} if blocks had no error in common; "
        f"those fitted on ask for a share in common of {results['common_of_fit']}"
    )
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--weights", default=str(demo_weights()))
    parser.add_argument("--out", type=Path, default=RESULTS / "uncertainty.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    scale = SCALES[given.scale]
    chosen = dict.fromkeys((scale.fit, scale.test))
    found = {one: Glaciers.joined(list(mapped(one, scale.size, given.weights))) for one in chosen}
    fit, test = found[scale.fit], found[scale.test]
    results = compare(fit, test)
    print(table(results))
    method = (
        "simulated ranges mapped zone by zone, fp32 on the CPU; glaciers of at least 0.01 km2, divided by "
        "flow, against true ice under them or missed nearest to them; factors by split conformal prediction "
        "on the first ranges, coverage, width and interval score (per cent of the area) on the second"
    )
    sizes = {"scale": given.scale, "size": scale.size, "fit": scale.fit, "test": scale.test}
    sizes["glaciers"] = [len(fit.area), len(test.area)]
    sizes["weights"] = Path(given.weights).name
    record.append(
        given.out, record.line("uncertainty", method=method, sizes=sizes, results=results, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
