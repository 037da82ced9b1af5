"""STAC items and collections of the simulated products, named as Planetary Computer names the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pystac
import shapely
from shapely.geometry import mapping

from cryoscale.grid import RESOLUTION_M, Window, transformer
from cryoscale.simulate.illumination import Sun
from cryoscale.simulate.radar import DAYS, INCIDENCE_DEG
from cryoscale.simulate.regime import OpticalDate
from cryoscale.simulate.sensors import BAND_RESOLUTION_M
from cryoscale.simulate.survey import ARC_SECOND_DEG, Raster
from cryoscale.simulate.thermal import OFFSET_K, SCALE_K

SIMULATED = "Simulated by cryoscale from a made-up mountain range; not an observation."
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSION = "https://stac-extensions.github.io"
_PROJECTION = f"{_EXTENSION}/projection/v2.0.0/schema.json"
_RASTER = f"{_EXTENSION}/raster/v1.1.0/schema.json"
_EO = f"{_EXTENSION}/eo/v1.1.0/schema.json"
_VIEW = f"{_EXTENSION}/view/v1.0.0/schema.json"
_SAR = f"{_EXTENSION}/sar/v1.0.0/schema.json"

COLLECTIONS = {
    "sentinel-2-l2a": "Sentinel-2 Level-2A surface reflectance and scene classification",
    "landsat-c2-l2": "Landsat Collection 2 Level-2 surface temperature",
    "cop-dem-glo-30": "Copernicus DEM GLO-30",
    "sentinel-1-slc-pair": "Coregistered, geocoded pairs of Sentinel-1 single-look complex images",
}
"""Identifier and title of every collection."""

_COMMON_NAME = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge",
    "B06": "rededge",
    "B07": "rededge",
    "B08": "nir",
    "B8A": "rededge",
    "B09": "nir09",
    "B11": "swir16",
    "B12": "swir22",
}


@dataclass(frozen=True)
class Footprint:
    """A product's grid ``window`` and the outline of its valid pixels in longitude and latitude."""

    window: Window
    outline: shapely.Polygon

    def fields(self, resolution_m: int) -> dict[str, Any]:
        """The projection fields of an asset on this window at ``resolution_m``."""
        west, _, _, north = self.window.bounds_m
        factor = resolution_m // int(RESOLUTION_M)
        return {
            "proj:shape": [self.window.height // factor, self.window.width // factor],
            "proj:transform": [float(resolution_m), 0.0, west, 0.0, -float(resolution_m), north],
            "gsd": resolution_m,
        }


def mgrs_tile(epsg: int, east_m: float, north_m: float, lat_deg: float) -> str:
    """The 100 km square of the Military Grid Reference System, e.g. ``45RUL``, of a place on a UTM grid."""
    zone = epsg % 100
    band = "CDEFGHJKLMNPQRSTUVWX"[min(int((lat_deg + 80) // 8), 19)]
    column = ("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3][int(east_m // 1e5) - 1]
    row = "ABCDEFGHJKLMNPQRSTUV"[(int(north_m // 1e5) + (5 if zone % 2 == 0 else 0)) % 20]
    return f"{zone:02d}{band}{column}{row}"


def _tile_of(footprint: Footprint) -> str:
    centre = footprint.outline.centroid
    east, north = transformer("EPSG:4326", f"EPSG:{footprint.window.epsg}").transform(centre.x, centre.y)
    return mgrs_tile(footprint.window.epsg, east, north, centre.y)


def _item(
    identifier: str, collection: str, outline: shapely.Polygon, when: datetime, **properties: Any
) -> pystac.Item:
    properties = {"cryoscale:simulated": True, "description": SIMULATED, **properties}
    item = pystac.Item(
        identifier, mapping(outline), list(outline.bounds), when, properties, collection=collection
    )
    item.stac_extensions = [_PROJECTION, _RASTER]
    return item


def _raster(data_type: str, nodata: float, resolution_m: float, **more: Any) -> list[dict[str, Any]]:
    return [{"data_type": data_type, "nodata": nodata, "spatial_resolution": resolution_m, **more}]


def optical_item(
    footprint: Footprint, when: datetime, sun: Sun, overpass: OpticalDate, shares: dict[str, float]
) -> pystac.Item:
    """A Sentinel-2 L2A granule; ``shares`` are the percentages of its classes by STAC property name."""
    tile = _tile_of(footprint)
    stamp = when.strftime("%Y%m%dT%H%M%S")
    made = (when + timedelta(hours=7)).strftime("%Y%m%dT%H%M%S")
    item = _item(
        f"S2A_MSIL2A_{stamp}_R119_T{tile}_{made}",
        "sentinel-2-l2a",
        footprint.outline,
        when,
        platform="Sentinel-2A",
        constellation="Sentinel 2",
        instruments=["msi"],
        **{"proj:code": f"EPSG:{footprint.window.epsg}"},
        **{"s2:mgrs_tile": tile, "s2:processing_baseline": overpass.baseline, "s2:product_type": "S2MSI2A"},
        **{"s2:mean_solar_zenith": 90.0 - sun.elevation_deg, "s2:mean_solar_azimuth": sun.azimuth_deg},
        **shares,
    )
    item.stac_extensions.append(_EO)
    for band, resolution_m in BAND_RESOLUTION_M.items():
        raster = _raster("uint16", 0, resolution_m, scale=1e-4, offset=overpass.offset)
        extra = {
            **footprint.fields(resolution_m),
            "raster:bands": raster,
            "eo:bands": [{"name": band, "common_name": _COMMON_NAME[band]}],
        }
        item.add_asset(
            band, pystac.Asset(f"{band}.tif", band, media_type=COG, roles=["data"], extra_fields=extra)
        )
    extra = {**footprint.fields(20), "raster:bands": _raster("uint8", 0, 20)}
    scl = pystac.Asset(
        "SCL.tif", "Scene classification map", media_type=COG, roles=["data"], extra_fields=extra
    )
    item.add_asset("SCL", scl)
    return item


def thermal_item(footprint: Footprint, when: datetime, sun: Sun, cloud_pct: float) -> pystac.Item:
    """A Landsat Collection 2 Level 2 scene on one zone: surface temperature and quality."""
    row = footprint.window.epsg % 100
    item = _item(
        f"LC08_L2SP_142{row:03d}_{when:%Y%m%d}_02_T1",
        "landsat-c2-l2",
        footprint.outline,
        when,
        platform="landsat-8",
        instruments=["oli", "tirs"],
        gsd=30,
        **{"proj:code": f"EPSG:{footprint.window.epsg}", "eo:cloud_cover": cloud_pct},
        **{"view:sun_azimuth": sun.azimuth_deg, "view:sun_elevation": sun.elevation_deg, "view:off_nadir": 0},
        **{
            "landsat:collection_number": "02",
            "landsat:collection_category": "T1",
            "landsat:correction": "L2SP",
        },
    )
    item.stac_extensions += [_EO, _VIEW]
    temperature = _raster("uint16", 0, 30, scale=SCALE_K, offset=OFFSET_K, unit="kelvin")
    for key, title, raster in (
        ("lwir11", "Surface Temperature Band (ST_B10)", temperature),
        ("qa_pixel", "Pixel Quality Assessment Band", _raster("uint16", 1, 30)),
    ):
        extra = {**footprint.fields(30), "raster:bands": raster}
        item.add_asset(
            key, pystac.Asset(f"{key}.tif", title, media_type=COG, roles=["data"], extra_fields=extra)
        )
    return item


def elevation_item(tile: Raster) -> pystac.Item:
    """The tile of the 30 m elevation model."""
    rows, cols = tile.data.shape
    box = shapely.box(tile.west, tile.north - rows * tile.step, tile.west + cols * tile.step, tile.north)
    south, west = int(box.bounds[1] // 1), int(box.bounds[0] // 1)
    name = f"Copernicus_DSM_COG_10_{'N' if south >= 0 else 'S'}{abs(south):02d}_00_"
    name += f"{'E' if west >= 0 else 'W'}{abs(west):03d}_00_DEM"
    when = datetime(2021, 4, 22, tzinfo=UTC)
    item = _item(name, "cop-dem-glo-30", box, when, gsd=30, platform="TanDEM-X", **{"proj:code": "EPSG:4326"})
    extra = {
        "proj:shape": [rows, cols],
        "proj:transform": [ARC_SECOND_DEG, 0.0, tile.west, 0.0, -ARC_SECOND_DEG, tile.north],
        "raster:bands": [
            {"sampling": "point", "data_type": "float32", "spatial_resolution": 30, "unit": "meter"}
        ],
    }
    item.add_asset(
        "data", pystac.Asset("data.tif", "Elevation", media_type=COG, roles=["data"], extra_fields=extra)
    )
    return item


def radar_item(footprint: Footprint, end: datetime) -> pystac.Item:
    """A coregistered SLC pair: ``slc1`` is the earlier image, ``slc2`` the one at ``end``."""
    start = end - timedelta(days=DAYS)
    item = _item(
        f"S1A_IW_SLC_PAIR_{start:%Y%m%d}_{end:%Y%m%d}_{footprint.window.epsg}",
        "sentinel-1-slc-pair",
        footprint.outline,
        end,
        platform="sentinel-1a",
        constellation="sentinel-1",
        instruments=["c-sar"],
        start_datetime=start.isoformat().replace("+00:00", "Z"),
        end_datetime=end.isoformat().replace("+00:00", "Z"),
        **{"proj:code": f"EPSG:{footprint.window.epsg}", "sat:orbit_state": "descending"},
        **{"sar:instrument_mode": "IW", "sar:frequency_band": "C", "sar:polarizations": ["VV"]},
        **{"sar:product_type": "SLC", "view:incidence_angle": INCIDENCE_DEG},
        **{"cryoscale:temporal_baseline_days": DAYS},
    )
    item.stac_extensions += [_SAR, _VIEW]
    for key, when in (("slc1", start), ("slc2", end)):
        extra = {
            **footprint.fields(10),
            "raster:bands": _raster("cfloat32", 0, 10),
            "datetime": when.isoformat().replace("+00:00", "Z"),
        }
        title = f"Geocoded single-look complex image of {when:%Y-%m-%d}, VV"
        item.add_asset(
            key, pystac.Asset(f"{key}.tif", title, media_type=COG, roles=["data"], extra_fields=extra)
        )
    return item


def catalogue(items: list[pystac.Item]) -> pystac.Catalog:
    """All ``items`` under one catalogue, in a collection each kind."""
    root = pystac.Catalog("cryoscale-simulated-range", SIMULATED, title="A simulated mountain range")
    for identifier, title in COLLECTIONS.items():
        own = [item for item in items if item.collection_id == identifier]
        if not own:
            continue
        collection = pystac.Collection(
            identifier,
            f"{title}. {SIMULATED}",
            pystac.Extent.from_items(own),
            title=f"{title} (simulated)",
            license="other",
            extra_fields={"cryoscale:simulated": True},
        )
        collection.add_items(own)
        root.add_child(collection)
    return root
