"""The files of a finished year that people open in other programs, by the names that they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoscale.write import corrections, mosaic
from cryoscale.write.cog import ARRAYS, write_cogs
from cryoscale.write.kmz import write_kmz
from cryoscale.write.objects import Objects
from cryoscale.write.product import About, write_product
from cryoscale.write.shapefile import write_folder
from cryoscale.write.vector_tiles import write_tiles

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_SHAPEFILE = "application/vnd.shp"
_PARQUET, _CSV = "application/vnd.apache.parquet", "text/csv"
_RGI = {"G": "Glaciers", "C": "Glacier complexes", "I": "Intersects"}


@dataclass(frozen=True)
class Found:
    """A file of a year.

    Attributes:
        key: short and unique among those of a zone, e.g. ``label-cog``.
        href: where it lies below the run.
        media_type: e.g. ``application/vnd.pmtiles``.
        title: a few words.
    """

    key: str
    href: str
    media_type: str
    title: str


def picture_of(year: int, latest: int) -> str:
    """Where the picture of a year lies below a run whose latest year is another one, or the same."""
    return "map.png" if year == latest else f"map-{year}.png"


def write_files(kinds: Sequence[str], out: str, folder: Path, about: About) -> None:
    """Writes the files of a year that are asked for, each whole or not at all.

    Args:
        kinds: of ``product``, ``pmtiles``, ``kmz``, ``cog`` and ``shapefile``.
        out: the run, whose maps are read.
        folder: a local folder with the year's inventory, where the files are put.
        about: what they say of the run.

    Raises:
        OutputError: one cannot be written.
    """
    year, inventory = about.year, folder / "inventory"
    geopackage = inventory / f"{year}.gpkg"
    title = f"{about.name}, {year}"
    if "product" in kinds:
        write_product(inventory, inventory / f"{year}-rgi", about)
    if "shapefile" in kinds:
        write_folder(geopackage, inventory / f"{year}-shapefile")
    if "pmtiles" in kinds and not write_tiles(geopackage, inventory / f"{year}.pmtiles", title=title):
        (inventory / f"{year}.pmtiles").unlink(missing_ok=True)
    if "kmz" in kinds:
        write_kmz(geopackage, inventory / f"{year}.kmz", title=title, note=about.note)
    if "cog" in kinds:
        for epsg in mosaic.zones(out, year):
            write_cogs(out, year, epsg, folder / "cog" / str(year))


def remove_stale(out: str, folder: Path, year: int) -> None:
    """Deletes files of a year that a run has from before and that were not made now.

    A product is called by its region, and there are no tiles where there is no ice: what is only put over a
    run in an object store leaves the old ones there.

    Args:
        out: the run.
        folder: the local folder where all files of the year that the run had were made anew; the run's own,
            of which nothing is deleted, where that is local.
        year: the year mapped.
    """
    objects = Objects(out)
    folders = [
        entry.key for kind in ("rgi", "shapefile") for entry in objects.list(f"inventory/{year}-{kind}")
    ]
    for key in (*folders, f"inventory/{year}.pmtiles"):
        if not (folder / key).exists():
            objects.delete(key)


def kinds_of(out: str, year: int) -> set[str]:
    """Those that a run has of a year already."""
    objects = Objects(out)
    found = {
        kind
        for kind, prefix in (("product", "rgi"), ("shapefile", "shapefile"))
        if next(iter(objects.list(f"inventory/{year}-{prefix}")), None) is not None
    }
    found |= {kind for kind in ("pmtiles", "kmz") if objects.stat(f"inventory/{year}.{kind}") is not None}
    return found | ({"cog"} if next(iter(objects.list(f"cog/{year}")), None) is not None else set())


def found_of(out: str, year: int, epsg: int) -> list[Found]:
    """The files that a run has of a year and zone beside its map, GeoParquet and GeoPackage."""
    objects = Objects(out)
    candidates = [
        *(
            Found(f"{name}-cog", f"cog/{year}/{epsg}-{name}.tif", _COG, f"{name.capitalize()}, COG")
            for name in ARRAYS
        ),
        Found("complexes", f"inventory/{year}-complexes.parquet", _PARQUET, "Complexes, GeoParquet"),
        Found("intersects", f"inventory/{year}-intersects.parquet", _PARQUET, "Divides, GeoParquet"),
        Found("fronts", f"inventory/{year}-fronts.parquet", _PARQUET, "Fronts, GeoParquet"),
        Found("hypsometry", f"inventory/{year}-hypsometry.csv", _CSV, "Hypsometry"),
        Found("corrections", corrections.FILE, _PARQUET, "Corrections by hand, GeoParquet"),
        Found("rgi-links", f"inventory/{year}-rgi_links.csv", _CSV, "Links to the RGI"),
        Found("pmtiles", f"inventory/{year}.pmtiles", "application/vnd.pmtiles", "Outlines, PMTiles"),
        Found("kmz", f"inventory/{year}.kmz", "application/vnd.google-earth.kmz", "Outlines, KMZ"),
    ]
    present = [one for one in candidates if objects.stat(one.href) is not None]
    return [*present, *sorted(_shapefiles(objects, year), key=lambda one: one.key)]


def _shapefiles(objects: Objects, year: int) -> Iterator[Found]:
    for prefix, start in ((f"inventory/{year}-rgi", "rgi-"), (f"inventory/{year}-shapefile", "shapefile-")):
        for entry in objects.list(prefix):
            if not entry.key.endswith(".shp"):
                continue
            name = entry.key.rsplit("/", 1)[-1].removesuffix(".shp")
            if start == "rgi-":
                kind = name.split("-")[2]
                yield Found(
                    f"rgi-{kind.lower()}", entry.key, _SHAPEFILE, f"{_RGI[kind]} as the RGI 7 has them"
                )
            else:
                yield Found(f"{start}{name}", entry.key, _SHAPEFILE, f"{name.capitalize()}, shapefile")
