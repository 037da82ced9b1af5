"""One call's reading: its window, threads and accounts, and which failures it may leave out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cryoscale.errors import AssetReadError, CryoscaleError
from cryoscale.grid import transformer
from cryoscale.read.band import AssetSpec, asset_spec, footprint_deg, read_asset
from cryoscale.read.cube import load_planes
from cryoscale.read.metered import NOTHING, Cost
from cryoscale.read.raster import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray
    from pystac import Item

    from cryoscale.grid import Window
    from cryoscale.read.choice import Choice

Planes = dict[str, "NDArray[Any]"]

Loader = Literal["direct", "odc-stac", "stackstac"]
"""Who calls the reader for a scene's bands: the block itself, or the graph that a library draws."""

NEEDED = ("optical", "terrain")
"""Modalities that a block is not mapped without where they cover it; any other is a missing channel."""


@dataclass
class Session:
    """One call's window, threads and accounts."""

    window: Window
    sign: str | None
    pool: ThreadPoolExecutor
    left_out: tuple[type[CryoscaleError], ...]
    """Failures for which a scene is named and left out; others end the block."""
    bounds_deg: tuple[float, float, float, float]
    loader: Loader
    read: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    cost: Cost = NOTHING
    choice: Choice | None = None

    def near(self, items: Sequence[Item]) -> list[Item]:
        """Items whose footprint, with its collar, touches the window; their order is kept."""
        return [item for item in items if touches(footprint_deg(item), self.bounds_deg)]

    def bands(self, item: Item, names: Sequence[str]) -> Planes:
        """Bands of one item on the window, those that it has there."""
        if self.loader != "direct":
            planes, cost = load_planes(
                item, names, self.window.geobox, loader=self.loader, sign=self.sign, pool=self.pool
            )
            self.cost += cost
            return planes
        specs = [spec for name in names if (spec := asset_spec(item, name, self.sign)) is not None]
        planes = {}
        for spec, (values, cost) in zip(specs, self.pool.map(self._read, specs), strict=True):
            self.cost += cost
            if values is not None:
                planes[spec.band] = values
        return planes

    def _read(self, spec: AssetSpec) -> tuple[NDArray[Any] | None, Cost]:
        return read_asset(spec, self.window.geobox)

    def each(self, modality: str, items: Sequence[Item], use: Callable[[Item], bool]) -> int:
        """Calls ``use`` for each item near the window; how many gave pixels.

        An item that is broken, or out of reach where that is left out too, is named and passed over,
        unless its modality is needed and no other item of it could be read.
        """
        count, broken = 0, []
        for item in self.near(items):
            try:
                gave = use(item)
            except (UnreadableError, AssetReadError) as error:
                cause = cause_of(item.id, error)
                if not isinstance(error, self.left_out):
                    raise type(error)(f"{item.id} {cause}") from error
                self.failed.append((item.id, cause))
                if touches(_bbox(item), self.bounds_deg):
                    broken.append(f"{item.id} ({cause})")
                continue
            if gave:
                count += 1
                self.read.append(item.id)
        if broken and not count and modality in NEEDED:
            raise AssetReadError(f"no {modality} item over the window could be read: {'; '.join(broken)}")
        return count


def cause_of(scene: str, error: Exception) -> str:
    """Band and reason of a failure, without the scene's id, which is told beside it."""
    return str(error).removeprefix(f"{scene} ")


def bounds_deg(window: Window) -> tuple[float, float, float, float]:
    """West, south, east, north around a window; west may lie below -180 at the antimeridian."""
    west, south, east, north = window.bounds_m
    bounds = transformer(f"EPSG:{window.epsg}", "EPSG:4326").transform_bounds(west, south, east, north)
    left, low, right, high = (float(side) for side in bounds)
    return (left - 360.0 if left > right else left), low, right, high


def _bbox(item: Item) -> tuple[float, float, float, float]:
    box = item.bbox
    if not box:
        return -180.0, -90.0, 180.0, 90.0
    west, south, east, north = (box[0], box[1], box[3], box[4]) if len(box) == 6 else box
    return float(west), float(south), float(east + 360.0 if west > east else east), float(north)


def touches(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two boxes share a point, on any turn of the globe."""
    if a[1] > b[3] or b[1] > a[3]:
        return False
    return any(a[0] + turn <= b[2] and b[0] <= a[2] + turn for turn in (-360.0, 0.0, 360.0))
