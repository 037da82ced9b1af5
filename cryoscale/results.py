"""A run on disk, opened: its state, its maps and its outlines. Starts nothing and writes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cryoscale.errors import SourceError
from cryoscale.grid import RESOLUTION_M
from cryoscale.ledger import Ledger, SetAside
from cryoscale.scenes import SceneUse, sample_gaps, scene_uses

if TYPE_CHECKING:
    import geopandas
    import xarray as xr


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    name: str
    total: int
    done: int
    set_aside: tuple[SetAside, ...]
    area_km2: float
    """Area of the pixels that got a class, on the UTM grid."""
    seconds: dict[str, float]
    """Seconds by stage, summed over the blocks."""
    scenes_failed: tuple[tuple[str, str], ...]
    scenes_used: tuple[SceneUse, ...] = ()
    """How the optical scenes did over the ice, by year, those preferred in most blocks first."""
    sample_failed: tuple[tuple[str, str], ...] = ()
    """What the principal components were fitted without."""

    def causes(self) -> dict[str, list[str]]:
        """The blocks that are set aside by their reason."""
        grouped: dict[str, list[str]] = {}
        for record in self.set_aside:
            key = f"{record.error}: {record.reason}"
            grouped.setdefault(key, []).append(f"{record.year}/{record.epsg}/{record.block.key}")
        return grouped

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        aside = [record.model_dump(mode="json") for record in self.set_aside]
        return {**asdict(self), "set_aside": aside, "complete": self.done == self.total}


@dataclass(frozen=True)
class Verification:
    """What reading back a run's blocks showed."""

    checked: int
    damaged: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every block is what its marker says."""
        return not self.damaged

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "sound": self.sound}


@dataclass(frozen=True)
class Run:
    """The run at ``out``, a folder or fsspec URL.

    Raises:
        SourceError: on first use, where no run lies there.
    """

    out: str

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """``run.json``: configuration, versions, model and catalogue of the run."""
        found = Ledger(self.out).manifest()
        if found is None:
            raise SourceError(
                f"{self.out}, which holds no run",
                "a folder with run.json",
                "check the path, or start one with cryoscale run",
            )
        return found

    @property
    def years(self) -> tuple[int, ...]:
        """The years that were mapped."""
        return tuple(self.manifest["identity"]["years"])

    def zones(self, year: int) -> list[int]:
        """EPSG codes of the zones mapped in ``year``."""
        from cryoscale.write.mosaic import zones

        return zones(self.out, year)

    def mosaic(self, year: int, epsg: int) -> xr.Dataset:
        """The map of one year and zone, lazy: label (y, x), probability (class, y, x) and the others."""
        from cryoscale.write.mosaic import open_mosaic

        return open_mosaic(self.out, year, epsg)

    def outlines(self, year: int) -> geopandas.GeoDataFrame:
        """The glaciers of ``year`` in WGS 84."""
        import geopandas

        if year not in self.years:
            mapped = ", ".join(map(str, self.years))
            raise SourceError(
                f"year {year} of a run of {mapped}", "a year that was mapped", "give one of those"
            )
        return geopandas.read_parquet(f"{self.out}/inventory/{year}.parquet")

    def status(self) -> Status:
        """How far the run is, from the ledger alone."""
        manifest = self.manifest
        ledger = Ledger(self.out)
        done = ledger.done()
        seconds: dict[str, float] = {}
        failed: set[tuple[str, str]] = set()
        for marker in done.values():
            failed.update(marker.scenes_failed)
            for stage, value in marker.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + value
        area = sum(marker.valid_pixels for marker in done.values()) * (RESOLUTION_M / 1000.0) ** 2
        asides = tuple(record for key, record in sorted(ledger.set_asides().items()) if key not in done)
        total = manifest["context"]["blocks"]
        return Status(
            manifest["name"],
            total,
            len(done),
            asides,
            area,
            seconds,
            tuple(sorted(failed)),
            scene_uses(done.values()),
            sample_gaps(manifest),
        )

    def verify(self) -> Verification:
        """Read back every finished block and hold it against its marker's checksum."""
        from cryoscale.write.mosaic import read_block_checksum

        _ = self.manifest
        done = Ledger(self.out).done()
        damaged = []
        for (year, block), marker in sorted(done.items()):
            found = read_block_checksum(f"{self.out}/mosaic.zarr", year, block)
            if found.checksum != marker.checksum:
                damaged.append(f"{year}/{block.epsg}/{block.key}")
        return Verification(len(done), tuple(damaged))

    def _repr_html_(self) -> str:
        state = self.status()
        rows = "".join(
            f"<li>{year}: EPSG {', '.join(map(str, self.zones(year)))}</li>" for year in self.years
        )
        return (
            f"<b>cryoscale run {state.name}</b><br>{state.done} of {state.total} blocks, "
            f"{state.area_km2:,.1f} km2<ul>{rows}</ul>"
        )
