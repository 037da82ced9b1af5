"""Regimes: where a simulated range lies, and what sun, snow, debris, rock, air and radar are like there.

A seed decides the shapes of a range, its regime what kind of place and season it is. The first regime is
the one of the demo. The others differ from it in the things that models are known to lean on, so that a
benchmark can train in some and test in others. All are made up: a regime is in the manner of the mountains
that it is named after, it is no model of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from cryoscale.errors import InputError


@dataclass(frozen=True)
class OpticalDate:
    """One overpass: when, how it was processed, and its weather.

    ``snow_line_m`` is relative to the line of equilibrium; ``cloud`` is the share of the range.
    """

    month_day: str
    baseline: str
    cloud: float
    snow_line_m: float

    @property
    def offset(self) -> float:
        """Reflectance at digital number 0: -0.1 from processing baseline 04.00 on."""
        return -0.1 if self.baseline >= "04.00" else 0.0

    def day(self, year: int) -> date:
        """The calendar day in ``year``."""
        return date.fromisoformat(f"{year}-{self.month_day}")


OPTICAL_DATES = (
    OpticalDate("10-05", "02.14", cloud=0.24, snow_line_m=240.0),
    OpticalDate("10-15", "05.00", cloud=0.07, snow_line_m=140.0),
    OpticalDate("10-25", "02.14", cloud=0.14, snow_line_m=-420.0),
)
"""A season: a cloudy date, a clear one with the offset of baseline 05.00, and one after snowfall."""


@dataclass(frozen=True)
class ThermalDate:
    """One Landsat overpass; ``snow_line_m`` is relative to the line of equilibrium."""

    month_day: str
    cloud: float
    snow_line_m: float

    def day(self, year: int) -> date:
        """The calendar day in ``year``."""
        return date.fromisoformat(f"{year}-{self.month_day}")


THERMAL_DATES = (ThermalDate("10-02", 0.12, 260.0), ThermalDate("10-18", 0.05, 150.0))
"""Two passes of one satellite, 16 days apart."""


@dataclass(frozen=True)
class Season:
    """The overpasses of every year."""

    optical: tuple[OpticalDate, ...] = OPTICAL_DATES
    thermal: tuple[ThermalDate, ...] = THERMAL_DATES
    radar: bool = True

    @property
    def clearest(self) -> OpticalDate:
        """The optical date with the least cloud, the first of equals."""
        return min(self.optical, key=lambda overpass: overpass.cloud)


@dataclass(frozen=True)
class Regime:
    """What a range's place and season are like; pairs are the least and the most that a seed may draw.

    Attributes:
        name: of the regime.
        latitude_deg: of the range's middle; with the dates it sets the height of the sun.
        meridian_deg: longitude that the range lies across, a border of UTM zones.
        ela_m: height of the equilibrium line.
        treeline_m: height of the tree line.
        ice_share: share of the range under ice.
        debris_share: share of the ice under debris of more than 0.02 m.
        debris_growth: exponent of the debris thickness over 0.02 m: above 1 thick debris is thicker.
        season: the overpasses.
        radar_end: month and day of the radar pair's second image.
        radar_snow_line_m: height of the snow line at the radar pair, relative to the equilibrium line.
        rock_brightness: factor on the reflectance of rock and debris.
        rock_tint: how far that factor rises (or falls, negative) from violet to short-wave infrared.
        plants_brown: share of dead leaves and bare soil in the colour of plants.
        haze: what the atmospheric correction left in, in reflectance at 490 nm.
        air_k: air temperature on the equilibrium line relative to freezing.
        decorrelation: exponent of every material's coherence: above 1 rain, melt or snowfall between the
            images of the pair has spoiled it.
    """

    name: str
    latitude_deg: float = 28.3
    meridian_deg: int = 84
    ela_m: tuple[float, float] = (5310.0, 5450.0)
    treeline_m: tuple[float, float] = (3950.0, 4250.0)
    ice_share: tuple[float, float] = (0.22, 0.28)
    debris_share: tuple[float, float] = (0.23, 0.31)
    debris_growth: float = 1.0
    season: Season = field(default_factory=Season)
    radar_end: str = "10-15"
    radar_snow_line_m: float = 260.0
    rock_brightness: float = 1.0
    rock_tint: float = 0.0
    plants_brown: float = 0.0
    haze: float = 0.0
    air_k: float = -1.0
    decorrelation: float = 1.0

    @property
    def shady_side(self) -> float:
        """Which faces the noon sun leaves in the shade: 1 those to the north, -1 those to the south."""
        return 1.0 if self.latitude_deg >= 0.0 else -1.0


HIMALAYA = Regime("himalaya")
"""A southern slope in October, after the monsoon: the demo's."""

HIMALAYA_EARLY = Regime(
    "himalaya-early",
    debris_share=(0.16, 0.22),
    debris_growth=1.15,
    season=Season(
        optical=(
            OpticalDate("09-12", "05.00", cloud=0.26, snow_line_m=330.0),
            OpticalDate("09-22", "02.14", cloud=0.09, snow_line_m=290.0),
            OpticalDate("10-02", "05.00", cloud=0.16, snow_line_m=60.0),
        ),
        thermal=(ThermalDate("09-14", 0.14, 310.0), ThermalDate("09-30", 0.06, 180.0)),
    ),
    radar_end="09-27",
    radar_snow_line_m=300.0,
    haze=0.012,
    air_k=1.5,
    decorrelation=1.25,
)
"""The same slope as the monsoon ends: high sun, snow far up, green meadows, moist air, little debris."""

HIMALAYA_LATE = Regime(
    "himalaya-late",
    debris_share=(0.30, 0.38),
    season=Season(
        optical=(
            OpticalDate("11-05", "02.14", cloud=0.18, snow_line_m=-60.0),
            OpticalDate("11-15", "05.00", cloud=0.04, snow_line_m=-160.0),
            OpticalDate("11-25", "02.14", cloud=0.12, snow_line_m=-450.0),
        ),
        thermal=(ThermalDate("11-04", 0.10, -60.0), ThermalDate("11-20", 0.04, -240.0)),
    ),
    radar_end="11-14",
    radar_snow_line_m=-120.0,
    rock_brightness=0.88,
    plants_brown=0.4,
    air_k=-7.0,
    decorrelation=0.85,
)
"""The same slope before winter: low sun, long shadows, fresh snow below the firn, much and thick debris."""

KARAKORAM = Regime(
    "karakoram",
    latitude_deg=36.0,
    meridian_deg=78,
    ela_m=(5050.0, 5200.0),
    treeline_m=(3600.0, 3800.0),
    ice_share=(0.30, 0.36),
    debris_share=(0.34, 0.42),
    debris_growth=0.9,
    season=Season(
        optical=(
            OpticalDate("09-28", "05.00", cloud=0.20, snow_line_m=120.0),
            OpticalDate("10-08", "02.14", cloud=0.05, snow_line_m=40.0),
            OpticalDate("10-18", "05.00", cloud=0.13, snow_line_m=-300.0),
        ),
        thermal=(ThermalDate("10-01", 0.08, 110.0), ThermalDate("10-17", 0.05, 0.0)),
    ),
    radar_end="10-10",
    radar_snow_line_m=80.0,
    rock_brightness=1.12,
    rock_tint=0.08,
    plants_brown=0.3,
    air_k=-4.0,
)
"""A dry northern range in autumn: more ice, long stony tongues, bright rock, hardly a plant."""

ALPS = Regime(
    "alps",
    latitude_deg=45.9,
    meridian_deg=6,
    ela_m=(2850.0, 2980.0),
    treeline_m=(1950.0, 2200.0),
    debris_share=(0.10, 0.16),
    season=Season(
        optical=(
            OpticalDate("10-12", "02.14", cloud=0.24, snow_line_m=160.0),
            OpticalDate("10-22", "05.00", cloud=0.06, snow_line_m=70.0),
            OpticalDate("10-27", "02.14", cloud=0.14, snow_line_m=-380.0),
        ),
        thermal=(ThermalDate("10-13", 0.10, 150.0), ThermalDate("10-29", 0.06, -300.0)),
    ),
    radar_end="10-22",
    radar_snow_line_m=100.0,
    rock_brightness=1.2,
    rock_tint=-0.06,
    plants_brown=0.25,
    haze=0.02,
    air_k=0.0,
    decorrelation=1.5,
)
"""Western Alps in late October: sun below 30 degrees, granite, forest, wet ground under the radar."""

REGIMES = {regime.name: regime for regime in (HIMALAYA, HIMALAYA_EARLY, HIMALAYA_LATE, KARAKORAM, ALPS)}


def regime_named(name: str) -> Regime:
    """The regime of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in REGIMES:
        raise InputError(f"regime {name!r}", f"one of {', '.join(REGIMES)}", "choose one of these")
    return REGIMES[name]
