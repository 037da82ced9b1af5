"""How many patches of seasonal snow are flagged among mapped outlines, and how many glaciers are, too.

``python -m benchmarks.snow [--scale tiny|moderate|full]``
simulates ranges and maps them by band ratio on the scene that shows most of them, which takes snow for ice as
inventories have done. Of each outline the simulator knows how much of it is ice: less than a tenth is snow,
at least half is a glacier, and what lies between is mixed. Verdicts (:mod:`cryoscale.write.snow`) are told on
all evidence and with parts of it, those of the years (:mod:`cryoscale.write.perennial`) where a range has
several, and the share under snow is held against snow and firn as they were rendered, cell by cell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from benchmarks import RESULTS
from benchmarks.command import Parser, command
from cryoscale.bench import record
from cryoscale.config import load_config
from cryoscale.grid import Window, window_of
from cryoscale.inventories import evidence_of
from cryoscale.learn.truth import open_truth
from cryoscale.pipeline import run
from cryoscale.simulate.catalog import Published, publish
from cryoscale.simulate.ground import MATERIALS, survey_ground
from cryoscale.simulate.illumination import utc_of_solar_time
from cryoscale.simulate.lattice import zone_lattice
from cryoscale.simulate.regime import regime_named
from cryoscale.simulate.sensors import OVERPASS_SOLAR_HOUR
from cryoscale.simulate.terrain import MountainRange, make_range
from cryoscale.write import mosaic, quicklook, snow
from cryoscale.write.evidence import LAYERS, Cells, Evidence, open_evidence
from cryoscale.write.vectors import read_parts

SNOW_BELOW, ICE_FROM = 0.1, 0.5
"""True share of ice below which an outline is snow, and from which it is a glacier."""
ELA_RISE_M_YR = 12.0
NAN = float("nan")
WITHOUT: Mapping[str, Mapping[str, float]] = {
    "all evidence": {},
    "without coherence": {"coherence": NAN},
    "without speed": {"velocity_m_yr": NAN},
    "persistence alone": {"coherence": NAN, "velocity_m_yr": NAN},
}
PACKAGES = ("cryoscale", "numpy", "xarray")


@dataclass(frozen=True)
class Scale:
    """Size of the ranges, and (seed, regime, years) of each."""

    size: str
    ranges: tuple[tuple[int, str, int], ...]


SCALES = {
    "tiny": Scale("tiny", ((701, "himalaya", 1),)),  # it shows that the benchmark runs
    "moderate": Scale("small", ((701, "himalaya", 3), (702, "himalaya-late", 1), (703, "karakoram", 1))),
    "full": Scale(
        "small",
        tuple(
            (seed, regime, years)
            for regime, years in (("himalaya", 3), ("himalaya-late", 1), ("karakoram", 3), ("alps", 3))
            for seed in (701, 702, 703)
        ),
    ),
}


def mapped(seed: int, regime: str, years: int, size: str, folder: Path) -> dict[int, MountainRange]:
    """Simulate a range and run over it; the ranges of its years."""
    chosen = regime_named(regime)
    ranges = {
        2018 + n: make_range(seed, size, ela_shift_m=n * ELA_RISE_M_YR, regime=chosen) for n in range(years)
    }
    published = publish(ranges, folder / "simulated")
    run(load_config(configuration(published, chosen.season.optical[0].month_day)), str(folder / "run"))
    return ranges


def configuration(published: Published, start: str) -> dict[str, Any]:
    """Of a run over a range: every modality, band ratio, and one scene rather than the least snow."""
    return {
        "name": "snow",
        "region": {"bbox": list(published.bbox_deg)},
        "years": list(published.years),
        "season": {"start": start, "end": "11-30"},
        "catalogs": [{"url": str(published.folder)}],
        "sources": {
            "optical": {"collection": "sentinel-2-l2a", "max_cloud_pct": 60, "composite": "best_scene"},
            "terrain": {"collection": "cop-dem-glo-30"},
            "velocity": {"href": str(published.velocity)},
            "insar": {"collection": "sentinel-1-slc-pair"},
        },
        "model": {"name": "band-ratio"},
        "tiling": {"tile_px": 256, "block_px": 512},
        "cluster": {"kind": "local", "cpu_workers": 1, "gpu_workers": 0},
    }


def outlines_of(out: Path, year: int, first: int, of_range: MountainRange) -> Iterator[dict[str, Any]]:
    """Each outline of a year: its area, true shares of ice and snow, signs, and cells told rightly."""
    seen, true = evidence_of(str(out), year), truth_of(out, year, first, of_range)
    assert seen is not None
    columns = ("glac_id", "area_km2", "slope_deg", "cenlat", "geometry")
    for part in read_parts(str(out / "inventory" / f"{year}.parquet"), columns):
        for name, area, slope, lat, outline in part[list(columns)].itertuples(index=False):
            cells, truth = seen.under(outline), true.under(outline)
            signs = snow.signs_of(cells, area, slope, lat)
            yield {
                "glac_id": name,
                "area": area,
                "ice": truth.mean("ice"),
                "snow": truth.mean("nir"),
                "signs": signs,
                "right": {
                    "normalised": right(cells, truth, snow.under_snow(cells, lat)),
                    "as it is": right(cells, truth, bright(cells["nir"], snow.SNOW_NIR)),
                    "Otsu, normalised": right(
                        cells, truth, by_otsu(snow.level_nir(cells, lat), cells.weight)
                    ),
                    "Otsu, as it is": right(cells, truth, by_otsu(cells["nir"], cells.weight)),
                },
                "weight": float(cells.weight.sum()),
            }


def truth_of(out: Path, year: int, first: int, of_range: MountainRange) -> Evidence:
    """What the simulator knows, on the run's cells: ``ice`` is the true ice, ``nir`` true snow and firn."""
    zones = {}
    for epsg in mosaic.zones(out, year):
        with mosaic.open_mosaic(out, year, epsg) as whole:
            window = window_of(whole, epsg)
            dates = whole["source_date"].values.astype("datetime64[D]")
        home = out.parent / "simulated" / "truth"
        with open_truth((home if year == first else home / str(year)) / f"{epsg}.tif", window) as read:
            label = read(window)
        kept = open_evidence(str(out), year, epsg)
        assert kept is not None
        layers = kept["evidence"].load().astype(np.float32)
        ice = np.where(label == 255, np.nan, np.isin(label, (1, 2))).astype(np.float32)
        mapped = np.isfinite(layers[LAYERS.index("ice")].values)
        layers[LAYERS.index("ice")] = np.where(mapped, quicklook.thinned(ice), np.nan)
        layers[LAYERS.index("nir")] = quicklook.thinned(rendered_snow(of_range, year, window, dates))
        zones[epsg] = xr.Dataset({"evidence": layers, "elevation": kept["elevation"]})
    return Evidence(zones)


def rendered_snow(
    of_range: MountainRange, year: int, window: Window, dates: NDArray[np.datetime64]
) -> NDArray[np.float32]:
    """Share (y, x) of each pixel under snow or firn in the image of its date; NaN without one."""
    ground, lattice = survey_ground(of_range, year), zone_lattice(of_range, window)
    lon, _ = ground.centre_deg()
    found = np.full(dates.shape, np.nan, np.float32)
    for overpass in of_range.regime.season.optical:
        when = utc_of_solar_time(overpass.day(year), OVERPASS_SOLAR_HOUR, lon)
        shares = ground.mixture(ground.snow(overpass.snow_line_m, ground.key(when.timetuple().tm_yday)))
        white = shares[MATERIALS.index("snow")] + shares[MATERIALS.index("firn")]
        there = dates == np.datetime64(overpass.day(year), "D")
        found[there] = lattice.sample(white)[there]
    return found


def right(cells: Cells, truth: Cells, told: NDArray[np.float64]) -> float:
    """Weight of the cells whose snow is told as it is."""
    if truth.weight.size != cells.weight.size:
        return NAN  # beside the simulator's range
    white = truth["nir"]
    known = np.isfinite(told) & np.isfinite(white)
    return float(cells.weight[known & ((white >= 0.5) == (told == 1))].sum())


def bright(nir: NDArray[np.floating], threshold: float) -> NDArray[np.float64]:
    """Snow by a threshold on reflectance."""
    return np.where(np.isfinite(nir), nir > threshold, np.nan)


def by_otsu(nir: NDArray[np.floating], weight: NDArray[np.floating]) -> NDArray[np.float64]:
    """Snow by the threshold of one outline's cells."""
    known = np.isfinite(nir)
    return bright(nir, otsu(nir[known], weight[known]))


def otsu(nir: NDArray[np.floating], weight: NDArray[np.floating]) -> float:
    """The threshold between two classes of reflectance that parts them best.

    Source: Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076.
    """
    count, edges = np.histogram(nir, 120, (0.0, 1.2), weights=weight)
    middle = (edges[1:] + edges[:-1]) / 2
    below, moment = np.cumsum(count), np.cumsum(count * middle)
    with np.errstate(all="ignore"):
        between = (moment[-1] * below / below[-1] - moment) ** 2 / (below * (below[-1] - below))
    return float(edges[np.nan_to_num(between).argmax() + 1])


def kind_of(ice: float) -> str:
    """What an outline is in truth."""
    return "snow" if ice < SNOW_BELOW else "ice" if ice >= ICE_FROM else "mixed"


def score(truth: Sequence[str], words: Sequence[str | None], flag: str) -> dict[str, Any]:
    """Counts of verdicts by truth, precision and recall of ``flag``, and the share of glaciers with it."""
    counts = pd.crosstab(pd.Series(truth, dtype=str), pd.Series([str(word) for word in words], dtype=str))
    flagged = [kind for kind, word in zip(truth, words, strict=True) if word == flag]

    def share(part: int, whole: int) -> float | None:
        return round(part / whole, 3) if whole else None

    return {
        "counts": {kind: {str(word): int(n) for word, n in row.items()} for kind, row in counts.iterrows()},
        "precision": share(flagged.count("snow"), len(flagged)),
        "no_glacier_among_flagged": share(len(flagged) - flagged.count("ice"), len(flagged)),
        "recall": share(flagged.count("snow"), list(truth).count("snow")),
        "glaciers_flagged": share(flagged.count("ice"), list(truth).count("ice")),
    }


def scores_of(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Verdicts with all and with parts of the evidence, and the share under snow."""
    inside = [one for one in found if not np.isnan(one["ice"])]
    truth = [kind_of(one["ice"]) for one in inside]
    rules = {}
    for name, gone in WITHOUT.items():
        words = [snow.judge(replace(one["signs"], **gone)).word for one in inside]
        rules[name] = score(truth, words, snow.LIKELY)
    known = [one for one in inside if not np.isnan(one["signs"].snow_fraction + one["snow"])]
    errors = np.array([one["signs"].snow_fraction - one["snow"] for one in known])
    weight = sum(one["weight"] for one in known)
    cells = {
        way: round(float(np.nansum([one["right"][way] for one in known])) / weight, 3)
        for way in known[0]["right"]
    }
    return {
        "outlines": len(inside),
        "verdicts": rules,
        "snow_fraction": {
            "cells_right": cells,
            "mean_error": round(float(np.abs(errors).mean()), 3),
            "median_error": round(float(np.median(np.abs(errors))), 3),
            "bias": round(float(errors.mean()), 3),
        },
    }


def measure(scale: Scale) -> dict[str, Any]:
    """The scores of each range, those of its last year, and of all together."""
    results: dict[str, Any] = {}
    everything: list[dict[str, Any]] = []
    truth_of_years: list[str] = []
    kinds: list[str] = []
    for seed, regime, years in scale.ranges:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "run")
            ranges = mapped(seed, regime, years, scale.size, Path(folder))
            found = {year: list(outlines_of(out, year, 2018, ranges[year])) for year in ranges}
            results[f"{regime} {seed}"] = scores_of(found[max(found)])
            everything += found[max(found)]
            if years > 1:
                table = pd.read_csv(out / "inventory" / "perennial.csv").set_index(["year", "glac_id"])[
                    "kind"
                ]
                inside = [(year, one) for year in found for one in found[year] if not np.isnan(one["ice"])]
                truth_of_years += [kind_of(one["ice"]) for _, one in inside]
                kinds += [table[year, one["glac_id"]] for year, one in inside]
    results["all"] = scores_of(everything)
    if kinds:
        results["years"] = score(truth_of_years, kinds, "seasonal")
    return results


def table(results: Mapping[str, Any]) -> str:
    """As lines of text."""
    lines = [
        f"{'':36}{'outlines':>9}{'precision':>10}{'no glacier':>11}{'recall':>8}{'glaciers flagged':>18}"
    ]

    def row(name: str, count: Any, scores: Mapping[str, Any]) -> str:
        return (
            f"{name:36}{count!s:>9}{scores['precision']!s:>10}{scores['no_glacier_among_flagged']!s:>11}"
            f"{scores['recall']!s:>8}{scores['glaciers_flagged']!s:>18}  {scores['counts']}"
        )

    for place, scores in results.items():
        if place == "years":
            lines.append(row("seasonal over the years", "", scores))
            continue
        lines += [row(f"{place}, {name}", scores["outlines"], v) for name, v in scores["verdicts"].items()]
        lines.append(f"{'':36}under snow: {scores['snow_fraction']}")
    return "\n".join(lines)


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep the result as a JSON line."""
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", choices=list(SCALES), default="moderate")
    parser.add_argument("--out", type=Path, default=RESULTS / "snow.jsonl")
    given = parser.parse_args(arguments)
    record.require_writable(given.out)
    scale = SCALES[given.scale]
    results = measure(scale)
    print(table(results))
    method = (
        "simulated ranges mapped by band ratio on the best scene; outlines of the last year with less than "
        "10 % true ice are snow, from 50 % on glaciers; precision and recall of 'likely', by number"
    )
    sizes = {"scale": given.scale, "size": scale.size, "ranges": scale.ranges}
    record.append(
        given.out, record.line("snow", method=method, sizes=sizes, results=results, packages=PACKAGES)
    )


if __name__ == "__main__":
    main()
