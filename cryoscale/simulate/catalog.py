"""Publish a simulated range: every sensor's files, the truth, and a static STAC catalogue of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pystac
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray

from cryoscale.errors import InputError, OutputError
from cryoscale.grid import RESOLUTION_M, Window, transformer
from cryoscale.simulate import stac
from cryoscale.simulate.ground import Ground, survey_ground
from cryoscale.simulate.lattice import Lattice, block_mean, granules, rim, zone_lattice
from cryoscale.simulate.radar import RadarPair, observe_radar, pair_on
from cryoscale.simulate.regime import OpticalDate, Season, ThermalDate
from cryoscale.simulate.sensors import (
    BAND_RESOLUTION_M,
    OpticalScene,
    band_on,
    classify,
    observe,
    to_digital,
)
from cryoscale.simulate.strata import STRATA, strata_on
from cryoscale.simulate.survey import Raster, elevation_tile, velocity_mosaic
from cryoscale.simulate.thermal import (
    QA_CLOUD,
    QA_FILL,
    ThermalScene,
    observe_thermal,
    thermal_on,
)

if TYPE_CHECKING:
    from cryoscale.simulate.terrain import MountainRange

VELOCITY_NAME = "ITS_LIVE_velocity_120m.zarr"
_NO_LABEL = 255
_Items = list[Future[pystac.Item]]
_Tell = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """Where a published range lies."""

    folder: Path
    years: tuple[int, ...]
    epsgs: tuple[int, ...]
    bbox_deg: tuple[float, float, float, float]
    items: int

    @property
    def catalog(self) -> Path:
        """The root of the static STAC catalogue."""
        return self.folder / "catalog.json"

    @property
    def velocity(self) -> Path:
        """The velocity mosaic, a Zarr group."""
        return self.folder / VELOCITY_NAME

    @property
    def outlines(self) -> Path:
        """The true outlines of all years (column ``year``), GeoParquet in EPSG:4326."""
        return self.folder / "truth" / "outlines.parquet"

    def truth(self, epsg: int, year: int | None = None) -> Path:
        """The true classes (u1, 255 outside) on the 10 m grid of a zone; of the first year unless given."""
        if year in (None, self.years[0]):
            return self.folder / "truth" / f"{epsg}.tif"
        return self.folder / "truth" / str(year) / f"{epsg}.tif"

    def strata(self, epsg: int, year: int | None = None) -> dict[str, Path]:
        """What makes pixels hard or easy to map, on the grid of :meth:`truth`, by name.

        ``debris_thickness_m`` (NaN outside), ``slope_deg`` (NaN outside), and ``shadow`` (u1, 255 outside): 1
        where terrain takes all direct sun at the year's clearest optical date, which is left out when
        there is none.
        """
        home = self.folder / "strata"
        home = home if year in (None, self.years[0]) else home / str(year)
        paths = {name: home / f"{epsg}_{name}.tif" for name in STRATA}
        return {name: path for name, path in paths.items() if path.exists()}


@dataclass(frozen=True)
class _Zone:
    lattice: Lattice
    footprint: stac.Footprint

    @property
    def window(self) -> Window:
        return self.footprint.window


class _Crew:
    """Threads that encode and write what is rendered; ``close`` raises what went wrong there."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._pending: list[Future[Any]] = []

    def submit(self, task: Callable[..., Any], *arguments: Any) -> Future[Any]:
        # Tasks hold rendered scenes: without a bound a large range would pile up in memory.
        while sum(not future.done() for future in self._pending) >= 8:
            next(future for future in self._pending if not future.done()).result()
        future = self._pool.submit(task, *arguments)
        self._pending.append(future)
        return future

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        for future in self._pending:
            future.result()


def write_cog(path: Path, raster: Raster, nodata: float | None) -> None:
    """Write one band as a cloud-optimised GeoTIFF: tiled, deflate at its fastest level, with overviews."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = raster.data
    noise = np.iscomplexobj(data)
    profile = {
        "driver": "COG",
        "height": data.shape[0],
        "width": data.shape[1],
        "count": 1,
        "dtype": data.dtype.name,
        "crs": raster.crs,
        "transform": Affine(raster.step, 0.0, raster.west, 0.0, -raster.step, raster.north),
        "nodata": nodata,
        "blocksize": 512,
        "overviews": "NONE" if noise else "AUTO",
        "overview_resampling": "NEAREST" if data.dtype == np.uint8 else "AVERAGE",
        # Speckle does not compress; deflate would only cost time.
        **({"compress": "NONE"} if noise else {"compress": "DEFLATE", "level": 1, "predictor": "YES"}),
    }
    with rasterio.open(path, "w", **profile) as target:
        target.write(data, 1)


def publish(
    mountain_range: MountainRange | Mapping[int, MountainRange],
    folder: str | Path,
    *,
    years: Sequence[int] = (2018,),
    season: Season | None = None,
    threads: int = 2,
    on_progress: Callable[[str], None] | None = None,
) -> Published:
    """Render every sensor and write it with a static STAC catalogue under ``folder``.

    Args:
        mountain_range: one range for all ``years``, or a range for each year (``years`` is then its keys).
        folder: is made; may not hold a catalogue yet.
        years: calendar years of the seasons.
        season: the overpasses of each year; those of the range's regime unless given (three of
            Sentinel-2, two of Landsat, a radar pair).
        threads: writers beside the renderer.
        on_progress: is told what is rendered next, one line each.

    Raises:
        OutputError: ``folder`` holds a catalogue already.
    """
    ranges = (
        dict(mountain_range) if isinstance(mountain_range, Mapping) else dict.fromkeys(years, mountain_range)
    )
    if not ranges:
        raise InputError("no years", "at least one year", "name a year to simulate")
    folder = Path(folder).absolute()
    if (folder / "catalog.json").exists():
        raise OutputError(
            f"{folder}", "a folder without a catalogue", "choose another folder or empty this one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    first = ranges[min(ranges)]
    zones = [_zone(first, window) for window in granules(first)]
    tell = on_progress or (lambda _line: None)
    crew = _Crew(threads)
    try:
        tell("elevation")
        coming = [crew.submit(_elevation, first, folder)]
        for year in sorted(ranges):
            ground = survey_ground(ranges[year], year)
            overpasses = season or ranges[year].regime.season
            coming += _season(ground, overpasses, zones, folder, crew, tell)
            home = folder / "strata" if year == min(ranges) else folder / "strata" / str(year)
            _strata(ground, overpasses, zones, home, crew)
        tell("velocity and truth")
        _velocity([ranges[year] for year in sorted(ranges)], folder, zones[-1].window.epsg)
        _truth(ranges, zones, folder, crew)
    finally:
        crew.close()
    items = [future.result() for future in coming]
    _save(items, folder)
    ring = rim(first, "EPSG:4326")
    west, south, east, north = (float(v) for v in (*ring.min(axis=0), *ring.max(axis=0)))
    epsgs = tuple(zone.window.epsg for zone in zones)
    return Published(folder, tuple(sorted(ranges)), epsgs, (west, south, east, north), len(items))


def _zone(mountain_range: MountainRange, window: Window) -> _Zone:
    crs = f"EPSG:{window.epsg}"
    valid = shapely.Polygon(rim(mountain_range, crs)).intersection(shapely.box(*window.bounds_m))
    to_degrees = transformer(crs, "EPSG:4326").transform
    ring = shapely.segmentize(valid, 2000.0).exterior
    x, y = to_degrees(*ring.coords.xy)
    return _Zone(
        zone_lattice(mountain_range, window), stac.Footprint(window, shapely.Polygon(zip(x, y, strict=True)))
    )


def _write(folder: Path, item: pystac.Item, asset: str, raster: Raster, nodata: float | None) -> None:
    """Write an asset beside its item."""
    write_cog(folder / str(item.collection_id) / item.id / f"{asset}.tif", raster, nodata)


def _on_window(data: NDArray[Any], window: Window, resolution_m: float) -> Raster:
    west, _, _, north = window.bounds_m
    return Raster(data, f"EPSG:{window.epsg}", west, north, resolution_m)


def _optical(ground: Ground, overpass: OpticalDate, zones: list[_Zone], folder: Path, crew: _Crew) -> _Items:
    scene = observe(ground, overpass)
    return [crew.submit(_granule, scene, overpass, zone, folder) for zone in zones]


def _granule(scene: OpticalScene, overpass: OpticalDate, zone: _Zone, folder: Path) -> pystac.Item:
    """Encode and write one zone's bands and classification of a scene."""
    coarse, digital = {}, {}
    for band, resolution_m in BAND_RESOLUTION_M.items():
        values = band_on(scene, zone.lattice, band)
        digital[band] = to_digital(values, overpass.offset)
        if band in ("B03", "B04", "B8A", "B11"):
            coarse[band] = values if resolution_m == 20 else block_mean(values, 2)
    scl = classify(scene, zone.lattice, coarse)
    item = stac.optical_item(zone.footprint, scene.when, scene.sun, overpass, _class_shares(scl))
    for band, resolution_m in BAND_RESOLUTION_M.items():
        _write(folder, item, band, _on_window(digital[band], zone.window, resolution_m), 0)
    _write(folder, item, "SCL", _on_window(scl, zone.window, 20), 0)
    return item


def _thermal(ground: Ground, overpass: ThermalDate, zones: list[_Zone], folder: Path, crew: _Crew) -> _Items:
    scene = observe_thermal(ground, overpass)
    return [crew.submit(_thermal_granule, scene, zone, folder) for zone in zones]


def _thermal_granule(scene: ThermalScene, zone: _Zone, folder: Path) -> pystac.Item:
    temperature, quality = thermal_on(scene, zone.lattice)
    seen = int((quality != QA_FILL).sum())
    cloud_pct = 100.0 * float((quality == QA_CLOUD).sum()) / max(seen, 1)
    item = stac.thermal_item(zone.footprint, scene.when, scene.sun, round(cloud_pct, 2))
    _write(folder, item, "lwir11", _on_window(temperature, zone.window, 30), 0)
    _write(folder, item, "qa_pixel", _on_window(quality, zone.window, 30), QA_FILL)
    return item


def _radar(ground: Ground, zones: list[_Zone], folder: Path, crew: _Crew) -> _Items:
    pair = observe_radar(ground)
    return [crew.submit(_radar_granule, pair, ground, zone, folder) for zone in zones]


def _radar_granule(pair: RadarPair, ground: Ground, zone: _Zone, folder: Path) -> pystac.Item:
    end = datetime.fromisoformat(f"{ground.year}-{ground.range.regime.radar_end}T00:17:00").replace(
        tzinfo=UTC
    )
    item = stac.radar_item(zone.footprint, end)
    images = pair_on(pair, zone.lattice, ground.key(zone.window.epsg))
    for name, image in zip(("slc1", "slc2"), images, strict=True):
        _write(folder, item, name, _on_window(image, zone.window, RESOLUTION_M), 0)
    return item


def _season(
    ground: Ground, season: Season, zones: list[_Zone], folder: Path, crew: _Crew, tell: _Tell
) -> _Items:
    """Render every overpass of a year; the items come when the crew has written them."""
    items: _Items = []
    for optical in season.optical:
        tell(f"Sentinel-2 {ground.year}-{optical.month_day}")
        items += _optical(ground, optical, zones, folder, crew)
    for thermal in season.thermal:
        tell(f"Landsat {ground.year}-{thermal.month_day}")
        items += _thermal(ground, thermal, zones, folder, crew)
    if season.radar:
        tell(f"Sentinel-1 pair ending {ground.year}-{ground.range.regime.radar_end}")
        items += _radar(ground, zones, folder, crew)
    return items


def _class_shares(scl: NDArray[np.uint8]) -> dict[str, float]:
    """Percentages of the scene classification among valid pixels, by their STAC names."""
    counts = np.bincount(scl.ravel(), minlength=12).astype(float)
    share = 100.0 * counts / max(counts[1:].sum(), 1.0)
    named = {
        "eo:cloud_cover": share[8] + share[9] + share[10],
        "s2:cloud_shadow_percentage": share[3],
        "s2:vegetation_percentage": share[4],
        "s2:water_percentage": share[6],
        "s2:snow_ice_percentage": share[11],
        "s2:nodata_pixel_percentage": 100.0 * counts[0] / scl.size,
    }
    return {name: round(float(value), 4) for name, value in named.items()}


def _elevation(mountain_range: MountainRange, folder: Path) -> pystac.Item:
    tile = elevation_tile(mountain_range)
    item = stac.elevation_item(tile)
    _write(folder, item, "data", tile, None)
    return item


def _velocity(ranges: Sequence[MountainRange], folder: Path, epsg: int) -> None:
    dataset = velocity_mosaic(ranges, epsg)
    dataset.attrs = {"title": "ITS_LIVE-like velocity mosaic", "description": stac.SIMULATED}
    dataset.attrs["cryoscale:simulated"] = 1
    # Version 2 of the format, as the real mosaics have it.
    dataset.to_zarr(folder / VELOCITY_NAME, mode="w", zarr_format=2, consolidated=True)


def _truth(ranges: Mapping[int, MountainRange], zones: list[_Zone], folder: Path, crew: _Crew) -> None:
    from cryoscale.simulate.terrain import outlines

    tables = []
    for year in sorted(ranges):
        place = folder / "truth" if year == min(ranges) else folder / "truth" / str(year)
        for zone in zones:
            labels = zone.lattice.nearest(ranges[year].truth, _NO_LABEL)
            raster = _on_window(labels, zone.window, RESOLUTION_M)
            crew.submit(write_cog, place / f"{zone.window.epsg}.tif", raster, _NO_LABEL)
        tables.append(outlines(ranges[year]).assign(year=year))
    (folder / "truth").mkdir(exist_ok=True)
    pd.concat(tables, ignore_index=True).to_parquet(folder / "truth" / "outlines.parquet")


def _strata(ground: Ground, season: Season, zones: list[_Zone], folder: Path, crew: _Crew) -> None:
    for zone in zones:
        for name, (data, nodata) in strata_on(ground, zone.lattice, season).items():
            raster = _on_window(data, zone.window, RESOLUTION_M)
            crew.submit(write_cog, folder / f"{zone.window.epsg}_{name}.tif", raster, nodata)


def _save(items: list[pystac.Item], folder: Path) -> None:
    """Write the catalogue with relative links; each item lies beside its files."""
    root = stac.catalogue(items)
    root.normalize_hrefs(str(folder), strategy=pystac.layout.TemplateLayoutStrategy(item_template="${id}"))
    root.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)
