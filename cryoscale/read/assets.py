"""Which asset of an item holds which band, and how its numbers become physical units.

One table for all providers: a band of ours lists the asset names under which Planetary Computer,
Earth Search and plain folders publish it. The names of our bands are unique over all products, so
a collection that nobody has heard of works as long as its assets carry one of the names. What holds
for a provider as a whole, how it signs and which collections of it were tried, is in PROVIDERS.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

from cryoscale.read.units import metres_per_year

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pystac import Asset, Item

Resampling = Literal["nearest", "bilinear", "cubic"]
"""How a band is brought to the 10 m lattice."""

S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""The twelve reflectance bands of Sentinel-2 L2A, in channel order."""

OFFSET_BASELINE = (4, 0)
"""First Sentinel-2 processing baseline whose digital numbers are raised by 1000."""

OFFSET_SINCE = "2022-01-25"
"""Day on which that baseline became operational; decides only where an item names no baseline."""

SCL_CLEAR = (2, 4, 5, 6, 7, 11)
"""Classes of Sentinel-2's scene classification (SCL) that show the ground.

They are dark, vegetation, bare, water, unclassified and snow. Masked: 0 no data, 1 saturated, 3 cloud shadow,
8 and 9 cloud, 10 thin cirrus (https://sentiwiki.copernicus.eu/web/s2-processing).
"""

QA_HIDDEN_BITS = 0b11111
"""QA_PIXEL bits that hide the ground: fill, dilated cloud, cirrus, cloud, cloud shadow (USGS LSDS-1619)."""

APPLIED_FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
"""Properties by which Earth Search (v1, v0) says that its files no longer carry the raise."""


_YES = ("true", "1", "1.0")

BASELINE_KEYS = ("s2:processing_baseline", "sentinel:processing_baseline")
"""Properties that hold nothing but Sentinel-2's baseline, so that a number or a shorter text is one too."""


@dataclass(frozen=True)
class Band:
    """A band of ours: where providers keep it, and what holds where an item says nothing.

    Attributes:
        name: our name, unique over all products.
        assets: asset keys, the first that an item has is taken.
        resampling: onto the 10 m lattice.
        scale, offset: ``physical = digital * scale + offset``, where the item gives none.
        nodata: digital number of no data, where the item gives none; the file's own tag holds beside it.
        is_code: classes or bits, so that neither scale, offset nor no-data of the item applies.
        is_reflectance: Sentinel-2 reflectance, whose offset depends on baseline and provider.
        tokens: parts of an asset's key or file name, or roles, that tell it where no key fits, in order.
        fill: a value that processors fill with, no data whatever the item and the file say.
        is_velocity: m/yr, where the item does not name another unit.
    """

    name: str
    assets: tuple[str, ...]
    resampling: Resampling = "bilinear"
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    is_code: bool = False
    is_reflectance: bool = False
    tokens: tuple[str, ...] = ()
    fill: float | None = None
    is_velocity: bool = False


def _reflectance(name: str, earth_search: str) -> Band:
    return Band(name, (name, earth_search), scale=1e-4, nodata=0.0, is_reflectance=True, fill=0.0)


_TABLE = (
    # Sentinel-2 L2A: B.. on Planetary Computer and Earth Search v0, colours on Earth Search v1 and c1
    _reflectance("B01", "coastal"),
    _reflectance("B02", "blue"),
    _reflectance("B03", "green"),
    _reflectance("B04", "red"),
    _reflectance("B05", "rededge1"),
    _reflectance("B06", "rededge2"),
    _reflectance("B07", "rededge3"),
    _reflectance("B08", "nir"),
    _reflectance("B8A", "nir08"),
    _reflectance("B09", "nir09"),
    _reflectance("B11", "swir16"),
    _reflectance("B12", "swir22"),
    Band("SCL", ("SCL", "scl"), resampling="nearest", is_code=True),
    # Landsat Collection 2 Level 2: lwir11 on both APIs (lwir before Landsat 8), else the file's own name
    Band(
        "LST", ("lwir11", "lwir", "ST_B10", "ST_B10.TIF", "ST_B6"), scale=0.00341802, offset=149.0, nodata=0.0
    ),
    Band("LST_uncertainty", ("qa", "ST_QA", "ST_QA.TIF"), scale=0.01, nodata=-9999.0),
    Band("QA_PIXEL", ("qa_pixel", "QA_PIXEL", "QA_PIXEL.TIF"), resampling="nearest", is_code=True),
    # Copernicus DEM and other height models
    Band("elevation", ("data", "elevation", "dem"), resampling="cubic"),
    # Sentinel-1: terrain-corrected backscatter, interferometric products, a coregistered pair
    Band("backscatter_vv", ("vv", "VV")),
    Band("backscatter_vh", ("vh", "VH")),
    # HyP3 (GAMMA and ISCE2) names files ..._corr, ..._wrapped_phase and ..._unw_phase, SNAP coh_... and
    # Phase_ifg_...; all fill with 0 (https://hyp3-docs.asf.alaska.edu/guides/insar_product_guide)
    Band(
        "coherence",
        ("coherence", "corr", "coh", "cc"),
        tokens=("coherence", "corr", "coh", "cc"),
        fill=0.0,
    ),
    Band(
        "phase",
        ("phase", "wrapped_phase", "unw_phase", "unw"),
        tokens=("wrapped_phase", "unw_phase", "phase", "unw"),
        fill=0.0,
    ),
    Band("slc1", ("slc1", "primary", "reference")),
    Band("slc2", ("slc2", "secondary")),
    # ITS_LIVE mosaics published as one file a component, ..._vx.tif and ..._vy.tif
    Band("vx", ("vx",), nodata=-32767.0, tokens=("vx",), is_velocity=True),
    Band("vy", ("vy",), nodata=-32767.0, tokens=("vy",), is_velocity=True),
)

BANDS: Mapping[str, Band] = {band.name: band for band in _TABLE}
"""The declared table, by our band name."""


@dataclass(frozen=True)
class Provider:
    """A public STAC API as a whole.

    Attributes:
        host: of its address.
        sign: how its assets are signed where a configuration does not say; None for open ones.
        collections: those whose items the table was held against, with the bands of ours that they carry.
    """

    host: str
    sign: str | None
    collections: Mapping[str, tuple[str, ...]]


_OPTICAL = (*S2_BANDS, "SCL")
_THERMAL = ("LST", "LST_uncertainty", "QA_PIXEL")
_RADAR = ("backscatter_vv", "backscatter_vh")

PROVIDERS = (
    Provider(
        "planetarycomputer.microsoft.com",
        "planetary-computer",
        {
            "sentinel-2-l2a": _OPTICAL,
            "landsat-c2-l2": _THERMAL,
            "cop-dem-glo-30": ("elevation",),
            "sentinel-1-rtc": _RADAR,
        },
    ),
    Provider(
        "earth-search.aws.element84.com",
        None,
        {
            "sentinel-2-l2a": _OPTICAL,
            "sentinel-2-c1-l2a": _OPTICAL,
            "sentinel-s2-l2a-cogs": _OPTICAL,
            "landsat-c2-l2": _THERMAL,
            "cop-dem-glo-30": ("elevation",),
        },
    ),
)
"""The providers that were tried; any other catalogue is read by the names of its assets alone."""


def default_sign(url: str) -> str | None:
    """How the provider at ``url`` signs; None where it does not, or is not known."""
    host = urlparse(url).hostname
    return next((provider.sign for provider in PROVIDERS if provider.host == host), None)


@dataclass(frozen=True)
class Encoding:
    """How the stored numbers of one asset of one item are read.

    Attributes:
        scale, offset: ``physical = digital * scale + offset``.
        nodata: digital number of no data; None where the item gives none.
        unit: as the item names it.
        file_may_say: whether scale and offset that the file itself carries come before these, since the item
            gives none.
        fault: why the numbers cannot be read; empty where they can.
    """

    scale: float
    offset: float
    nodata: float | None
    unit: str | None = None
    file_may_say: bool = False
    fault: str = ""


def asset_of(item: Item, band: str) -> Asset | None:
    """The asset of ``item`` that holds ``band``, or None where the item has none.

    Where no key is one of the table's, a GeoTIFF is taken whose role, key or file name carries one of
    the band's tokens; the first token wins, then the first key.
    """
    rule = BANDS[band]
    for key in rule.assets:
        if key in item.assets:
            return item.assets[key]
    for token in rule.tokens:
        for key in sorted(item.assets):
            if _carries(token, key, item.assets[key]):
                return item.assets[key]
    return None


def _carries(token: str, key: str, asset: Asset) -> bool:
    file = PurePosixPath(urlparse(asset.href).path)
    if file.suffix.lower() not in (".tif", ".tiff"):
        return False
    part = re.compile(rf"(?:^|[_-]){token}(?:[_.-]|$)", re.IGNORECASE)
    return token in (asset.roles or []) or part.search(key) is not None or part.search(file.stem) is not None


def address(asset: Asset) -> str:
    """Where an asset lies, resolved against its item; a rooted path is a file, whichever host lists it."""
    if asset.href.startswith("/"):
        return asset.href
    return asset.get_absolute_href() or asset.href


def encoding(item: Item, band: str) -> Encoding:
    """Scale, offset, no-data and unit of ``band`` of ``item``.

    The item's own ``raster:bands`` (or the ``bands`` of STAC 1.1) win over the table, with one
    exception: where Earth Search says that it has applied the offset, the offset is 0, although
    its ``raster:bands`` go on listing -0.1 (https://github.com/Element84/earth-search/issues/66).

    Raises:
        KeyError: for a band that the item lacks.
    """
    rule, asset = BANDS[band], asset_of(item, band)
    if asset is None:
        raise KeyError(f"item {item.id} has no asset for {band}")
    if rule.is_code:
        return Encoding(1.0, 0.0, None)
    given, fault = _raster_fields(asset)
    fallback = _sentinel2_offset(item) if rule.is_reflectance else rule.offset
    scale, offset = number(given.get("scale", rule.scale)), number(given.get("offset", fallback))
    fault = fault or scaling_fault(scale, offset)
    if rule.is_reflectance and offset_is_applied(item):
        offset = 0.0
    if rule.is_velocity:
        factor = metres_per_year(str(given.get("unit") or ""))
        if factor is None:
            fault = fault or f"unit {given['unit']!r}, expected a length per time, such as meter/year"
        else:
            scale, offset = scale * factor, offset * factor
    nodata = given.get("nodata")
    value = rule.nodata if nodata is None else number(nodata, math.nan)
    silent = not rule.is_reflectance and "scale" not in given and "offset" not in given
    return Encoding(scale, offset, value, given.get("unit"), silent, fault)


def scaling_fault(scale: float, offset: float) -> str:
    """Why numbers cannot be read by such a scale and offset; empty where they can."""
    if scale != 0.0 and math.isfinite(scale) and math.isfinite(offset):
        return ""
    return f"scale {scale:g} and offset {offset:g}, expected finite numbers and a scale other than 0"


def offset_is_applied(item: Item) -> bool:
    """Whether the provider says that its files no longer carry Sentinel-2's raise by 1000."""
    return any(str(item.properties.get(flag)).strip().lower() in _YES for flag in APPLIED_FLAGS)


def _sentinel2_offset(item: Item) -> float:
    """Offset of a Sentinel-2 item that lists none: -0.1 from baseline 04.00 on.

    Source: https://sentiwiki.copernicus.eu/web/s2-processing (baseline 04.00).
    """
    baseline = baseline_of(item)
    if baseline is not None:
        return -0.1 if baseline >= OFFSET_BASELINE else 0.0
    return -0.1 if item.datetime is not None and item.datetime.date().isoformat() >= OFFSET_SINCE else 0.0


def unknown_baseline(item: Item) -> str | None:
    """What an item gives for a processing baseline and nobody understands; None where that is not so."""
    given = [told for key in BASELINE_KEYS if (told := str(item.properties.get(key) or "").strip())]
    return given[0] if given and baseline_of(item) is None else None


def baseline_of(item: Item) -> tuple[int, int] | None:
    """Sentinel-2's processing baseline, (4, 0) for 04.00; None where no field and no name tells it."""
    for key in (*BASELINE_KEYS[:1], "processing:version", *BASELINE_KEYS[1:]):
        given = str(item.properties.get(key, "")).strip()
        match = re.fullmatch(r"(\d{1,2})\.(\d{2})", given) or re.fullmatch(r"N(\d{2})\.?(\d{2})", given)
        if match is None and key in BASELINE_KEYS:  # as a number, 05.10 is 5.1 and 04.00 is 4
            match = re.fullmatch(r"(\d{1,2})(?:\.(\d))?", given)
        if match:
            return int(match[1]), int((match[2] or "0").ljust(2, "0"))
    # product names carry it too: ..._N0511_R095_...
    for name in (item.properties.get("s2:product_uri"), item.id):
        match = re.search(r"_N(\d{2})(\d{2})_", str(name))
        if match:
            return int(match[1]), int(match[2])
    return None


def _raster_fields(asset: Asset) -> tuple[dict[str, Any], str]:
    """``scale``, ``offset``, ``nodata``, ``unit`` of an asset, wherever its STAC version puts them.

    And, where it has a list of bands that is none, what is wrong with it.
    """
    places, fault = [asset.extra_fields], ""
    for name in ("bands", "raster:bands"):
        listed = asset.extra_fields.get(name) or []
        if isinstance(listed, list) and all(isinstance(band, dict) for band in listed[:1]):
            places += listed[:1]
        else:
            fault = f"{name} {listed!r:.80}, expected a list of objects"
    found = {}
    for place in places:
        for name in ("scale", "offset", "nodata", "unit"):
            value = place.get(f"raster:{name}", place.get(name))
            if value is not None:
                found[name] = value
    return found, fault


def number(value: Any, fallback: float = math.nan) -> float:
    """A JSON number, or the strings ``nan`` and ``inf`` that the raster extension allows."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return fallback
