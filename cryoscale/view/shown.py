"""What the page shows: a name, years, and where the maps and outlines of each year lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from rasterio.warp import transform_bounds

from cryoscale.grid import RESOLUTION_M
from cryoscale.write import mosaic
from cryoscale.write.objects import Entry, Objects
from cryoscale.write.store import level_name, open_store

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """A finished run as the page shows it.

    Attributes:
        name: its heading.
        folders: by year, the folder or URL with ``mosaic.zarr``, ``quicklook.zarr`` and ``inventory/`` of it;
            of a run it is the same for all, of years that were mapped one by one it need not be.
        note: model, run and version in a line.
        simulated: whether the imagery is.
        seal: the file of each folder that is written anew when its run is drawn again; empty for none.
    """

    name: str
    folders: Mapping[int, str]
    note: str
    simulated: bool = False
    seal: str = ""

    @property
    def years(self) -> tuple[int, ...]:
        """The years, ascending."""
        return tuple(sorted(self.folders))

    @cached_property
    def zones(self) -> dict[int, tuple[int, ...]]:
        """EPSG codes of the zones mapped, by year."""
        return {year: tuple(mosaic.zones(out, year)) for year, out in self.folders.items()}

    @cached_property
    def bounds_deg(self) -> Bounds:
        """West, south, east, north of what is mapped; those on both sides of 180 degrees end east of 180."""
        boxes = [
            _mapped_deg(self.folders[year], year, epsg)
            for year, epsgs in self.zones.items()
            for epsg in epsgs
        ]
        wests, souths, easts, norths = zip(*boxes, strict=True)
        if any(east < west for west, east in zip(wests, easts, strict=True)) or max(easts) - min(wests) > 180:
            wests, easts = tuple(west % 360 for west in wests), tuple(east % 360 for east in easts)
        return min(wests), min(souths), max(easts), max(norths)

    def seals(self) -> tuple[Entry | None, ...]:
        """Size and stamp of the seal of each folder; others after its run was drawn again or deleted."""
        folders = dict.fromkeys(self.folders.values()) if self.seal else ()
        return tuple(Objects(out).stat(self.seal) for out in folders)

    @cached_property
    def columns(self) -> dict[str, dict[str, Any]]:
        """What each column of the inventory is: long_name, description and units, by its name."""
        content = Objects(self.folders[self.years[-1]]).get("inventory/attributes_metadata.json")
        found: dict[str, dict[str, Any]] = json.loads(content) if content is not None else {}
        return found


def _mapped_deg(out: str, year: int, epsg: int) -> Bounds:
    """West, south, east, north of what a zone has labels of, to a pixel of its coarsest level."""
    url = mosaic.store_url_of(out)
    group = zarr.open_group(open_store(url, read_only=True), path=f"{year}/{epsg}", mode="r")
    factor = mosaic.factors(group)[-1]
    label = np.asarray(group["label" if factor == 1 else f"{level_name(factor)}/label"])
    mapped = label != mosaic.NODATA
    west, _, _, north = mosaic.window_of_map(url, year, epsg).bounds_m
    rows, cols = (np.flatnonzero(mapped.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        rows, cols = (np.arange(size) for size in mapped.shape)
    pixel_m = RESOLUTION_M * factor
    bounds_m = (
        west + cols[0] * pixel_m,
        north - (rows[-1] + 1) * pixel_m,
        west + (cols[-1] + 1) * pixel_m,
        north - rows[0] * pixel_m,
    )
    bounds: Bounds = transform_bounds(f"EPSG:{epsg}", "EPSG:4326", *bounds_m)
    return bounds
