"""The 30 channels: their names, order, units, definitions, and the modality each one needs."""

from __future__ import annotations

from dataclasses import dataclass

MODALITIES = {"optical": 1, "thermal": 2, "terrain": 4, "velocity": 8, "insar": 16}
"""The bit of each modality in a bitmask; a modality is present where all its inputs are."""

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""Sentinel-2 L2A bands in the order of the stack."""


@dataclass(frozen=True)
class Channel:
    """One channel of the stack: what it is called, measured in, and defined by."""

    name: str
    unit: str
    long_name: str
    modality: str
    definition: str


def _band(name: str, centre_nm: int) -> Channel:
    return Channel(
        name, "1", f"surface reflectance at {centre_nm} nm", "optical", "Sentinel-2 L2A, bilinear to 10 m"
    )


def _index(name: str, long_name: str, a: str, b: str) -> Channel:
    definition = f"({a}-{b})/({a}+{b}), bands clipped to >= 0 first, 0 where both are 0"
    return Channel(name, "1", long_name, "optical", definition)


def _component(number: int) -> Channel:
    definition = "(bands - mean) @ components.T; a component's largest loading is positive"
    return Channel(f"PCA{number}", "1", f"principal component {number} of the bands", "optical", definition)


def _tasselled(axis: str) -> Channel:
    definition = "Nedkov (2017) coefficients without B10"
    return Channel(f"TC_{axis}", "1", f"tasselled cap {axis}", "optical", definition)


TABLE: tuple[Channel, ...] = (
    *(
        _band(name, centre_nm)
        for name, centre_nm in zip(
            BANDS, (443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1610, 2190), strict=True
        )
    ),
    _index("NDVI", "normalised difference vegetation index", "B08", "B04"),
    _index("NDSI", "normalised difference snow index", "B03", "B11"),
    _index("NDWI", "normalised difference water index", "B03", "B08"),
    _index("NDGI", "normalised difference glacier index", "B03", "B04"),
    Channel(
        "LST",
        "K",
        "land surface temperature",
        "thermal",
        "Landsat 8/9 C2 L2 ST_B10, cloud-masked, median of the season",
    ),
    Channel("elevation", "m", "surface elevation", "terrain", "Copernicus DEM GLO-30, cubic to 10 m"),
    Channel("slope", "degree", "slope of the surface", "terrain", "Horn (1981), 3x3 on elevation"),
    Channel(
        "aspect",
        "degree",
        "aspect of the surface, clockwise from north",
        "terrain",
        "Horn (1981), 3x3 on elevation, in [0, 360), flat = 0",
    ),
    Channel(
        "GLCM_dissimilarity",
        "grey levels",
        "grey-level co-occurrence dissimilarity of B08",
        "optical",
        "32 levels, floor(32 r) in 0..31, 7x7, distance 1, mean of 0, 45, 90 and 135 degrees",
    ),
    Channel("velocity", "m/yr", "surface speed of the ice", "velocity", "ITS_LIVE, magnitude of (vx, vy)"),
    Channel(
        "coherence",
        "1",
        "interferometric coherence",
        "insar",
        "abs(sum s1 conj(s2)) / sqrt(sum abs(s1)^2 * sum abs(s2)^2), or as delivered",
    ),
    Channel("phase", "rad", "interferometric phase", "insar", "arg(sum s1 conj(s2)) in (-pi, pi]"),
    *(_component(number) for number in (1, 2, 3)),
    *(_tasselled(axis) for axis in ("brightness", "greenness", "wetness")),
)
"""The channels in the order of the stack and of every weights file (CryoNet, arXiv:2605.21527)."""

CHANNELS: tuple[str, ...] = tuple(channel.name for channel in TABLE)
UNITS: dict[str, str] = {channel.name: channel.unit for channel in TABLE}
LONG_NAMES: dict[str, str] = {channel.name: channel.long_name for channel in TABLE}
