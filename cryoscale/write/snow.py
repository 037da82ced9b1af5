"""Snow on glaciers, and snow taken for glaciers: shares under snow, and which outlines are to be doubted.

Published inventories hold patches of seasonal snow (of the RGI 7: GLIMS-RGI/rgi7_scripts#43 and #51), which
an image of one day does not tell from ice. What does: it is gone on other dates, and the ground under it
neither moves nor loses its radar coherence. Outlines are flagged with what spoke for it; none is taken out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Polygon

from cryoscale.write import zones
from cryoscale.write.evidence import Cells, Evidence

SNOW_NIR = 0.4
"""Near-infrared reflectance on level ground above which a cell of ice is under snow.

Between bare ice, 0.26, and firn, 0.68, the means of labelled Sentinel-2 pixels (those of the simulator's
spectra). Rastner et al. (2019), https://doi.org/10.3390/rs11121410, find the value by Otsu's method, likewise
after topographic normalisation. That makes two halves of outlines that are all snow or all ice; on simulated
ranges the fixed value was right on more cells.
"""

DIFFUSE = 0.2
"""Light of the sky in the near infrared as a share of that of a sun overhead: c of the C-correction (Teillet
et al. 1982, https://doi.org/10.1080/07038992.1982.10855028). Fitted to each outline it was right on fewer
cells, as snow lies where the sun stands low."""

OVERPASS_HOUR_ANGLE_DEG = -22.5
"""Of the sun when Sentinel-2 passes, at 10:30 local solar time."""

LEAST_DATES = 2
"""Clear dates without which persistence tells nothing (choice)."""
PERSISTENT = 0.75
"""Share of the clear dates on which ice shows itself at the least, the same as in
:mod:`cryoscale.read.choice`; persistence by shares of dates is Selkowitz and Forster's (2016),
https://doi.org/10.3390/rs8010016."""
MOVES_M_YR, STILL_M_YR = 4.0, 2.5
"""Median speed above which ice moves, and below which nothing is seen to: yearly mosaics show one to two m/yr
over still ground (choice). A glacieret hardly moves either, so that this alone is no sign of snow."""
COHERENT, DECORRELATED = 0.4, 0.3
"""Median coherence that stable ground keeps, and below which a surface has changed (choice). Glaciers
decorrelate whatever covers them, and the ground beside them does not: Lippl et al. (2018),
https://doi.org/10.1017/jog.2018.70. Fresh snow and melt do it too: it is a sign of ice, and no proof."""
DEBRIS_SHARE = 0.02
"""Share under debris from which an outline has a debris-covered part (choice): snow patches have none."""
LEAST_CLEAN = 0.25
"""Share of an outline that has to be clean ice for its persistence to tell anything, as debris is no snow and
what is clean along the rim of a debris-covered tongue is mostly rock (choice)."""
SMALL_KM2 = 0.5
"""Very small glaciers, which are hard to tell from snow patches: Leigh et al. (2019),
https://doi.org/10.1017/jog.2019.50."""
STEEP_DEG = 35.0
"""Mean slope above which ice hardly builds up, and snow of avalanches and gullies lies (choice)."""
HIGH_NDSI = 0.6
"""Mean index of a surface that is all snow or ice, without rock among it (choice)."""
SNOW_COVERED, BARE = 0.9, 0.5
"""Share under snow from which no bare ice is seen, and below which it is (choice)."""
CIRCUMSTANCES = 2
"""How many of small, steep, bright, snow-covered and free of debris go with a sign of snow (choice)."""

NO, DOUBTFUL, LIKELY = "no", "doubtful", "likely"
"""Whether an outline is seasonal snow."""


@dataclass(frozen=True)
class Signs:
    """What is known of one outline, NaN where it is not.

    Attributes:
        area_km2, slope_deg, debris_fraction: as in the inventory.
        snow_fraction: share under snow in its image.
        persistence: mean share of the clear dates on which its clean part was snow or ice.
        dates: median number of clear dates.
        ndsi: mean of the composite.
        velocity_m_yr, coherence: medians.
    """

    area_km2: float = math.nan
    slope_deg: float = math.nan
    debris_fraction: float = math.nan
    snow_fraction: float = math.nan
    persistence: float = math.nan
    dates: float = math.nan
    ndsi: float = math.nan
    velocity_m_yr: float = math.nan
    coherence: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """Whether an outline is seasonal snow.

    Attributes:
        word: "no", "doubtful" or "likely"; None where none of persistence, speed and coherence is known.
        evidence: tests that spoke for snow and for ice with what was measured, and those that were missing.
    """

    word: str | None
    evidence: str


def columns_of(signs: Signs) -> dict[str, float | int | str | None]:
    """The columns of an inventory that tell of snow, NaN and None where nothing is known."""
    verdict = judge(signs)
    return {
        "snow_fraction": signs.snow_fraction,
        "snow_persistence": signs.persistence,
        "clear_dates": None if math.isnan(signs.dates) else round(signs.dates),
        "ndsi": signs.ndsi,
        "velocity_m_yr": signs.velocity_m_yr,
        "coherence": signs.coherence,
        "seasonal_snow": verdict.word,
        "snow_evidence": verdict.evidence,
    }


def signs_under(outline: Polygon, seen: Evidence, slope_deg: float) -> Signs:
    """What is known of an outline (degrees) and its mean slope."""
    (area_km2,) = zones.area_km2(np.array([outline], object)).tolist()
    return signs_of(seen.under(outline), area_km2, slope_deg, outline.representative_point().y)


def signs_of(cells: Cells, area_km2: float, slope_deg: float, lat_deg: float) -> Signs:
    """What the cells under an outline say of it; of persistence and index, those of mostly clean ice."""
    clean = cells["ice"] - cells["debris"] >= 0.5
    if float(cells.weight[clean].sum()) < LEAST_CLEAN * float(cells.weight.sum()):
        clean[:] = False
    return Signs(
        area_km2=area_km2,
        slope_deg=slope_deg,
        debris_fraction=cells.mean("debris"),
        snow_fraction=snow_fraction(cells, lat_deg),
        persistence=cells.mean("persistence", clean),
        dates=cells.median("dates", clean),
        ndsi=cells.mean("ndsi", clean),
        velocity_m_yr=cells.median("velocity"),
        coherence=cells.median("coherence"),
    )


def snow_fraction(cells: Cells, lat_deg: float) -> float:
    """Share, 0 to 1, of an outline that snow covered in the image under each of its cells.

    Cells of which :func:`under_snow` tells nothing are left out; NaN where they are more than half.
    """
    snow = under_snow(cells, lat_deg)
    known = np.isfinite(snow)
    weight = float(cells.weight[known].sum())
    if not weight or weight < 0.5 * float(cells.weight.sum()):
        return math.nan
    return float((cells.weight[known] * snow[known]).sum()) / weight


def under_snow(cells: Cells, lat_deg: float) -> NDArray[np.float64]:
    """Whether each cell was under snow in its image, 1 or 0; NaN without reflectance, elevation or date.

    It was where its near-infrared reflectance, normalised to level ground, is above :data:`SNOW_NIR`; snow
    and firn are one.
    """
    nir = level_nir(cells, lat_deg)
    return np.where(np.isfinite(nir), nir > SNOW_NIR, np.nan)


def level_nir(cells: Cells, lat_deg: float) -> NDArray[np.float64]:
    """Near-infrared reflectance of each cell as if it were level; NaN without elevation or date.

    Where reflectance does not rise with the light that falls in, the image was corrected for terrain before
    and is taken as it is.
    """
    nir = cells["nir"].astype(np.float64)
    incoming, level = _sunlight(cells, lat_deg)
    known = np.isfinite(nir) & np.isfinite(incoming) & np.isfinite(level)
    if known.any() and _rises_with(incoming[known], nir[known], cells.weight[known].astype(np.float64)):
        nir = nir * (level + DIFFUSE) / (incoming + DIFFUSE)
    return np.where(known, nir, np.nan)


def _sunlight(cells: Cells, lat_deg: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine of the sun's angle to each cell's surface and to level ground in its image, not below 0.

    Source: spherical astronomy with Cooper's (1969) declination, right to half a degree.
    """
    day = cells["day"].astype(np.float64)
    declination = np.radians(23.45) * np.sin(np.radians(360.0 / 365.0) * (285.0 + day))
    lat, hour = math.radians(lat_deg), math.radians(OVERPASS_HOUR_ANGLE_DEG)
    up = math.sin(lat) * np.sin(declination) + math.cos(lat) * np.cos(declination) * math.cos(hour)
    north = math.cos(lat) * np.sin(declination) - math.sin(lat) * np.cos(declination) * math.cos(hour)
    east = -np.cos(declination) * math.sin(hour)
    steep = np.sqrt(1.0 + cells.rise_east.astype(np.float64) ** 2 + cells.rise_north**2)
    facing = (up - cells.rise_east * east - cells.rise_north * north) / steep
    return np.maximum(facing, 0.0), np.maximum(up, 0.0)


def _rises_with(x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]) -> bool:
    """Whether the weighted straight line through points rises."""
    return bool((weight * (x - np.average(x, weights=weight)) * y).sum() > 0.0)


def judge(signs: Signs) -> Verdict:
    """Whether an outline is seasonal snow, by what is known of it.

    Signs of snow are that it did not persist and that it keeps its coherence; signs of ice that it moves, has
    lost its coherence, or is partly under debris. With a sign of snow, it is likely if there is no sign of
    ice and at least :data:`CIRCUMSTANCES` of small, steep, bright, snow-covered and free of debris go with
    it; not if there are more signs of ice than of snow; and else doubtful. Without one it is not, unless it
    is small, shows no bare ice, has more such circumstances than that, and is still, or of unknown speed and
    no sign of ice: it is doubtful then. What is still is so even if it lost its coherence, which fresh snow
    does too.
    """
    snow, ice, circumstances, unknown = _signs(signs)
    evidence = f"snow: {_listed([*snow, *circumstances])}; ice: {_listed(ice)}; unknown: {_listed(unknown)}"
    if {"persistence", "speed", "coherence"} <= set(unknown):
        return Verdict(None, evidence)
    strong = [sign for sign in snow if not sign.startswith("still")]
    against = [sign for sign in ice if not sign.startswith("bare ice")]
    if strong:
        certain = not against and len(circumstances) >= CIRCUMSTANCES
        word = LIKELY if certain else NO if len(against) > len(strong) else DOUBTFUL
        return Verdict(word, evidence)
    told = {sign.split()[0] for sign in (*snow, *ice, *circumstances)}
    # nothing but lost coherence tells such an outline from a patch that snow fell on between the images
    still = "still" in told or ("speed" in unknown and "decorrelated" not in told)
    undecided = still and "small" in told and told.isdisjoint({"debris", "bare"})
    return Verdict(DOUBTFUL if undecided and len(circumstances) > CIRCUMSTANCES else NO, evidence)


def _signs(signs: Signs) -> tuple[list[str], list[str], list[str], list[str]]:
    """Signs of snow and of ice, circumstances of snow, and tests that are missing."""
    snow, ice, circumstances, unknown = [], [], [], []

    def test(name: str, value: float) -> bool:
        if math.isnan(value):
            unknown.append(name)
            return False
        return True

    few = not signs.dates >= LEAST_DATES
    if test("persistence", math.nan if few else signs.persistence) and signs.persistence < PERSISTENT:
        snow.append(f"not persistent {signs.persistence:.2f} of {signs.dates:.0f} dates")
    if test("speed", signs.velocity_m_yr):
        if signs.velocity_m_yr >= MOVES_M_YR:
            ice.append(f"moves {signs.velocity_m_yr:.1f} m/yr")
        elif signs.velocity_m_yr < STILL_M_YR:
            snow.append(f"still {signs.velocity_m_yr:.1f} m/yr")
    if test("coherence", signs.coherence):
        if signs.coherence >= COHERENT:
            snow.append(f"coherent {signs.coherence:.2f}")
        elif signs.coherence < DECORRELATED:
            ice.append(f"decorrelated {signs.coherence:.2f}")
    if test("debris", signs.debris_fraction):
        if signs.debris_fraction >= DEBRIS_SHARE:
            ice.append(f"debris {signs.debris_fraction:.2f}")
        else:
            circumstances.append("no debris")
    if test("snow cover", signs.snow_fraction):
        if signs.snow_fraction >= SNOW_COVERED:
            circumstances.append(f"no bare ice {signs.snow_fraction:.2f}")
        elif signs.snow_fraction < BARE:
            ice.append(f"bare ice {1.0 - signs.snow_fraction:.2f}")
    if test("slope", signs.slope_deg) and signs.slope_deg >= STEEP_DEG:
        circumstances.append(f"steep {signs.slope_deg:.0f} deg")
    if test("area", signs.area_km2) and signs.area_km2 < SMALL_KM2:
        circumstances.append(f"small {signs.area_km2:.2f} km2")
    if test("NDSI", signs.ndsi) and signs.ndsi >= HIGH_NDSI:
        circumstances.append(f"NDSI {signs.ndsi:.2f}")
    return snow, ice, circumstances, unknown


def _listed(signs: list[str]) -> str:
    return ", ".join(signs) or "-"
