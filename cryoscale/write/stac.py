"""The run described as STAC: a catalogue, one item a year and zone, and one item for the model.

The catalogue is self-contained (https://github.com/radiantearth/stac-spec/blob/master/best-practices.md):
hrefs to what the run wrote are relative, so that its folder can be moved or uploaded as it is.
The model is an item of its own with the MLM extension
(https://github.com/stac-extensions/mlm); maps point at it and at their scenes by ``derived_from``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pystac
import shapely
import xarray as xr
from pystac.extensions.projection import ProjectionExtension

from cryoscale.grid import window_of
from cryoscale.write import zones
from cryoscale.write.files import Found, picture_of
from cryoscale.write.polygons import explode
from cryoscale.write.store import geo_attributes, put

_MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
_FOLDER = "stac"
_ANYWHERE = "/run"
"""Where pystac believes the run to lie: of a folder's own name it would take a # for a URL's fragment."""
_FROZEN = "../items.parquet"
_ZARR, _PARQUET = "application/vnd+zarr", "application/vnd.apache.parquet"
_GEOPACKAGE, _SAFETENSORS = "application/geopackage+sqlite3", "application/octet-stream"


@dataclass(frozen=True)
class ModelRecord:
    """The model as the MLM extension wants it.

    Attributes:
        name: e.g. ``cryonet``.
        architecture: e.g. ``U-Net++ / ResNet-101 / scSE``.
        channels: names of the input channels, in order.
        classes: names of the classes, in order.
        tile_px: edge of the tiles that it sees.
        href: where the weights lie; None for a method without weights.
        licence: licence of the weights, SPDX where it has an identifier.
        sha256: of the weights, hexadecimal.
    """

    name: str
    architecture: str
    channels: Sequence[str]
    classes: Sequence[str]
    tile_px: int
    href: str | None = None
    licence: str = "other"
    sha256: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """The run as its catalogue tells it.

    Attributes:
        name: of the run; identifiers start with it.
        description: one sentence.
        season: by year, first and last moment of the imagery (UTC).
        scenes: by year, identifier and href of the scenes; href None where a scene has none.
        further: by year, how many scenes there are beyond those, all in the run's frozen catalogue.
        model: the model.
        attributes: further properties of each item, e.g. that the imagery is simulated.
        files: by year and EPSG code, what else there is of them.
    """

    name: str
    description: str
    season: Mapping[int, tuple[datetime, datetime]]
    scenes: Mapping[int, Sequence[tuple[str, str | None]]]
    model: ModelRecord
    attributes: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[int, int] = field(default_factory=dict)
    files: Mapping[tuple[int, int], Sequence[Found]] = field(default_factory=dict)


def write_catalog(
    out: str | os.PathLike[str], mosaics: Mapping[tuple[int, int], xr.Dataset], run: RunRecord
) -> str:
    """Writes ``OUT/catalog.json`` and ``OUT/stac/*.json`` and returns where the catalogue lies.

    Args:
        out: the run's folder or fsspec URL.
        mosaics: the maps by year and EPSG code; only their coordinates are looked at.
        run: what to tell.

    Raises:
        OutputError: if a file cannot be written.
    """
    root = os.fspath(out).rstrip("/")
    if "://" not in root:
        root = os.path.abspath(root)
    catalog = pystac.Catalog(id=run.name, description=run.description, title=run.name)
    catalog.set_self_href(f"{_ANYWHERE}/catalog.json")
    maps = [_map_item(year, epsg, data, run) for (year, epsg), data in sorted(mosaics.items())]
    model = _model_item(run, maps)
    for item in (*maps, model):
        catalog.add_item(item)
        item.set_self_href(f"{_ANYWHERE}/{_FOLDER}/{item.id}.json")
    for item in maps:
        item.add_link(pystac.Link(pystac.RelType.DERIVED_FROM, model, title=model.id))
    catalog.save(pystac.CatalogType.SELF_CONTAINED, stac_io=_PutIO(root))
    return f"{root}/catalog.json"


class _PutIO(pystac.StacIO):
    """Lets pystac write below ``root`` by :func:`cryoscale.write.store.put`: any filesystem, whole files."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = root

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        raise OSError(f"writing a catalogue reads nothing, yet {source} was asked for")

    def write_text(self, dest: Any, txt: str, *args: Any, **kwargs: Any) -> None:
        put(self.root + os.fspath(dest).removeprefix(_ANYWHERE), txt.encode())


def _map_item(year: int, epsg: int, dataset: xr.Dataset, run: RunRecord) -> pystac.Item:
    geo = geo_attributes(window_of(dataset, epsg))
    footprint = _footprint(epsg, geo["spatial:bbox"])
    start, end = run.season[year]
    item = pystac.Item(
        id=f"{run.name}-{year}-{epsg}",
        geometry=shapely.geometry.mapping(footprint),
        bbox=_bbox(footprint),
        datetime=None,
        start_datetime=start,
        end_datetime=end,
        properties={
            "title": f"Glacier classes {year}, EPSG:{epsg}",
            "gsd": 10,
            "mlm:name": run.model.name,
            "mlm:architecture": run.model.architecture,
            **run.attributes,
        },
    )
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=geo["proj:code"],
        bbox=geo["spatial:bbox"],
        shape=geo["spatial:shape"],
        transform=geo["spatial:transform"],
    )
    for key, href, media, roles, title in (
        ("mosaic", f"mosaic.zarr/{year}/{epsg}", _ZARR, ["data"], "Map, Zarr v3"),
        ("inventory", f"inventory/{year}.parquet", _PARQUET, ["data"], "Outlines, GeoParquet"),
        ("inventory-gpkg", f"inventory/{year}.gpkg", _GEOPACKAGE, ["data"], "Outlines, GeoPackage"),
        ("map", picture_of(year, max(run.season)), "image/png", ["overview"], "Picture of the range"),
        ("report", "report.html", "text/html", ["metadata"], "Report"),
    ):
        item.add_asset(key, pystac.Asset(f"../{href}", title=title, media_type=media, roles=roles))
    for one in run.files.get((year, epsg), ()):
        asset = pystac.Asset(f"../{one.href}", title=one.title, media_type=one.media_type, roles=["data"])
        item.add_asset(one.key, asset)
    for identifier, scene_href in run.scenes.get(year, ()):
        # a scene without an address of its own stands in the run's frozen catalogue
        target = scene_href or _FROZEN
        item.add_link(pystac.Link(pystac.RelType.DERIVED_FROM, target, title=identifier))
    if run.further.get(year):
        title = f"{run.further[year]} further scenes"
        item.add_link(pystac.Link(pystac.RelType.DERIVED_FROM, _FROZEN, title=title))
    return item


def _model_item(run: RunRecord, maps: Sequence[pystac.Item]) -> pystac.Item:
    model = run.model
    union = shapely.union_all([shapely.geometry.shape(item.geometry) for item in maps])
    west, south, east, north = bbox = _bbox(union)
    box = shapely.box(west, south, east if west < east else east + 360.0, north)
    starts, ends = zip(*run.season.values(), strict=True)
    item = pystac.Item(
        id=f"{run.name}-model",
        geometry=shapely.geometry.mapping(zones.cut_at_antimeridian(box)),
        bbox=bbox,
        datetime=None,
        start_datetime=min(starts),
        end_datetime=max(ends),
        properties={"title": f"Model {model.name}", "license": model.licence, **_mlm_properties(model)},
        stac_extensions=[_MLM],
    )
    # a method without weights is defined by its name alone, which the run's manifest records
    asset = pystac.Asset(
        model.href or "../run.json",
        title="Weights" if model.href else "Definition",
        media_type=_SAFETENSORS if model.href else pystac.MediaType.JSON,
        roles=["mlm:model"],
        extra_fields={
            "mlm:artifact_type": "safetensors" if model.href else "cryoscale",  # MLM wants one
            "bands": _bands(model),  # without which STAC allows the item none
        },
    )
    if model.sha256:
        asset.extra_fields["cryoscale:sha256"] = model.sha256
    item.add_asset("model", asset)
    return item


def _bands(model: ModelRecord) -> list[dict[str, str]]:
    return [{"name": name} for name in model.channels]


def _mlm_properties(model: ModelRecord) -> dict[str, Any]:
    shape = [-1, len(model.channels), model.tile_px, model.tile_px]
    return {
        "bands": _bands(model),  # what MLM's inputs name has to be described, too
        "mlm:name": model.name,
        "mlm:architecture": model.architecture,
        "mlm:framework": "PyTorch" if model.href else "cryoscale",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:input": [
            {
                "name": "channel stack",
                "bands": list(model.channels),
                "input": {
                    "shape": shape,
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
            }
        ],
        "mlm:output": [
            {
                "name": "class probabilities",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, len(model.classes), model.tile_px, model.tile_px],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                # the classification extension wants a description in its first version, a name in its second
                "classification:classes": [
                    {"value": value, "name": name, "description": name.replace("_", " ")}
                    for value, name in enumerate(model.classes)
                ],
            }
        ],
    }


def _footprint(epsg: int, bbox_m: Sequence[float]) -> shapely.Geometry:
    """Outline of a zone's map in degrees, its sides bent as the projection bends them."""
    west, south, east, north = bbox_m
    box = shapely.segmentize(shapely.box(west, south, east, north), max(east - west, north - south) / 4)
    return zones.cut_at_antimeridian(zones.to_degrees(np.array([box], object), f"EPSG:{epsg}")[0])


def _bbox(geometry: shapely.Geometry) -> list[float]:
    """West, south, east, north; west is greater than east where that is the shorter way round."""
    west, south, east, north = shapely.bounds(geometry).tolist()
    turned = shapely.transform(geometry, lambda xy: np.column_stack([xy[:, 0] % 360.0, xy[:, 1]]))
    parts = [part for part in explode(turned) if np.ptp(shapely.get_coordinates(part)[:, 0]) < 180.0]
    if len(parts) == len(explode(geometry)) > 1:
        first, last = min(p.bounds[0] for p in parts), max(p.bounds[2] for p in parts)
        if first < 180.0 < last and last - first < 180.0 < east - west:
            west, east = first, last - 360.0
    return [west, south, east, north]


def utc(year: int, month: int, day: int) -> datetime:
    """Midnight UTC of a day, as STAC wants its moments."""
    return datetime(year, month, day, tzinfo=UTC)
