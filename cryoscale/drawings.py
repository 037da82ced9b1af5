"""What follows from a year's inventory: its map, its files and its plates, each by itself.

None needs another, so that several processes may make them at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cryoscale.dates import spelled
from cryoscale.inventories import corrections_of
from cryoscale.reporting import plates_of
from cryoscale.scenes import is_simulated
from cryoscale.settings import Settings
from cryoscale.write import files, mosaic, quicklook
from cryoscale.write import map as picture
from cryoscale.write.product import About
from cryoscale.write.sheet import Plate
from cryoscale.write.vectors import read_parts

Kind = Literal["map", "plates", "cog", "pmtiles", "product", "kmz", "shapefile"]
"""What takes long comes first: whoever is done early then takes what is short."""

_DATES_SHOWN = 2
"""Dates that fit below a map; the report has them all."""


@dataclass(frozen=True)
class Drawing:
    """One thing to be made of a year."""

    year: int
    kind: Kind


def of_year(year: int, kinds: Collection[str], *, plates: bool) -> Iterator[Drawing]:
    """What is to be made of a year: its map, files of some kinds, and the report's plates if it is shown."""
    wanted = {"map", *kinds, *(["plates"] if plates else [])}
    for kind in get_args(Kind):
        if kind in wanted:
            yield Drawing(year, kind)


@dataclass(frozen=True)
class Drawer:
    """Makes drawings of one run.

    Attributes:
        settings: of the run.
        out: the run, whose maps are read.
        folder: a local folder with its inventories, where all is put.
        manifest: the run's record.
    """

    settings: Settings
    out: str
    folder: Path
    manifest: dict[str, Any]

    def __call__(self, one: Drawing) -> list[Plate]:
        """Makes it; returns the plates, if it is them.

        Raises:
            OutputError: it cannot be written.
        """
        if one.kind == "plates":
            return plates_of(self.settings, self.out, self.folder)
        if one.kind == "map":
            self._draw_map(one.year)
        else:
            files.write_files([one.kind], self.out, self.folder, self._about(one.year))
        return []

    def _about(self, year: int) -> About:
        """What the files of a year say of the run."""
        return About(
            name=self.settings.name,
            year=year,
            model=str(self.manifest["model"]["name"]),
            run_id=str(self.manifest["identity_sha256"])[:16],
            version=str(self.manifest["versions"]["cryoscale"]),
            made=str(self.manifest["created"]),
            o1region=self.settings.o1region,
            simulated=is_simulated(self.out),
            corrections=len(corrections_of(self.out, year)),
        )

    def _draw_map(self, year: int) -> None:
        """The picture of one year; that of the latest is the run's."""
        settings, out = self.settings, self.out
        name = files.picture_of(year, settings.years[-1])
        zones = mosaic.zones(out, year)
        caption = f"Model {self.manifest['model']['name']}; {_when(settings, year)}."
        if hand := corrections_of(out, year):
            caption = f"{caption} Corrected by hand."
        if is_simulated(out):
            caption = f"Simulated imagery: no real place. {caption}"
        inventory = self.folder / "inventory"
        picture.draw_map(
            self.folder / name,
            {epsg: hand.over(mosaic.open_overview(out, year, epsg), epsg) for epsg in zones},
            read_parts(str(inventory / f"{year}.parquet"), ("area_km2", "debris_area_km2", "geometry")),
            fronts=read_parts(str(inventory / f"{year}-fronts.parquet"), ("geometry",)),
            background={epsg: quicklook.open_quicklook(out, year, epsg) for epsg in zones},
            title=f"{settings.name}, {year}",
            caption=caption,
        )


def _when(settings: Settings, year: int) -> str:
    """The season, and the dates of the optical scenes where they are named."""
    days = settings.dates_of("optical", year)
    told = spelled(days) if len(days) <= _DATES_SHOWN else f"{len(days)} dates"
    return f"season {settings.season.start} to {settings.season.end}" + (
        f", optical of {told}" if days else ""
    )
