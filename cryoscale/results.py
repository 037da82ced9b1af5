"""A run on disk, opened: its state, its maps and its outlines. Starts nothing and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cryoscale.errors import SourceError
from cryoscale.grid import RESOLUTION_M
from cryoscale.ledger import SEAL, Ledger, Marker, SetAside
from cryoscale.scenes import SceneUse, sample_gaps, scene_uses

if TYPE_CHECKING:
    import geopandas
    import xarray as xr

    from cryoscale.verify import Verification


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    name: str
    total: int
    done: int
    set_aside: tuple[SetAside, ...]
    area_km2: float
    """Area of the pixels that got a class, on the UTM grid, summed over the years that map the region."""
    area_km2_of: dict[int, float]
    """The same by year."""
    seconds: dict[str, float]
    """Seconds by stage, summed over the blocks."""
    scenes_failed: tuple[tuple[str, str], ...]
    scenes_used: tuple[SceneUse, ...] = ()
    """How the optical scenes did over the ice, by year, those preferred in most blocks first."""
    sample_failed: tuple[tuple[str, str], ...] = ()
    """What the principal components were fitted without."""

    def causes(self) -> dict[str, list[str]]:
        """The blocks that are set aside by their reason."""
        return causes_of(self.set_aside)

    def mapped(self) -> str:
        """The area that each year maps, in words."""
        years = [f"{year}: {area:,.1f} km2" for year, area in self.area_km2_of.items()]
        return f"mapped {', '.join(years) or 'nothing yet'}"

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        aside = [record.model_dump(mode="json") for record in self.set_aside]
        return {**asdict(self), "set_aside": aside, "complete": self.done == self.total}


def causes_of(records: Iterable[SetAside]) -> dict[str, list[str]]:
    """Names of blocks that are set aside by their cause, the commonest first."""
    grouped: dict[str, list[str]] = {}
    for record in records:
        key = f"{record.error}: {record.reason}"
        grouped.setdefault(key, []).append(f"{record.year}/{record.epsg}/{record.block.key}")
    return dict(sorted(grouped.items(), key=lambda item: -len(item[1])))


@dataclass
class _Sums:
    """What is counted while markers pass by, so that no more than one is ever in memory."""

    done: int = 0
    valid_pixels_of: dict[int, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: set[tuple[str, str]] = field(default_factory=set)

    def passing(self, markers: Iterable[Marker]) -> Iterator[Marker]:
        """The markers, counted."""
        for marker in markers:
            self.done += 1
            earlier = self.valid_pixels_of.get(marker.year, 0)
            self.valid_pixels_of[marker.year] = earlier + marker.valid_pixels
            self.failed.update(marker.scenes_failed)
            for stage, value in marker.seconds.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + value
            yield marker


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

        return geopandas.read_parquet(f"{self.out}/inventory/{self.require_year(year)}.parquet")

    def require_year(self, year: int) -> int:
        """The year, if it was mapped.

        Raises:
            SourceError: it was not.
        """
        if year not in self.years:
            mapped = ", ".join(map(str, self.years))
            raise SourceError(
                f"year {year} of a run of {mapped}", "a year that was mapped", "give one of those"
            )
        return year

    def require_finished(self) -> None:
        """Raises SourceError unless the run came to its end: all blocks done or set aside, and sealed."""
        state = self.status()
        over = state.done + len(state.set_aside)
        if over >= state.total and Ledger(self.out).get(SEAL) is not None:
            return
        raise SourceError(
            f"{self.out}, a run that is not finished ({over} of {state.total} blocks)",
            "one that came to its end",
            "complete it with cryoscale run, which draws its outlines",
        )

    def status(self) -> Status:
        """How far the run is, from the ledger alone."""
        manifest, ledger = self.manifest, Ledger(self.out)
        sums = _Sums()
        uses = scene_uses(sums.passing(ledger.markers()))
        pixel_km2 = (RESOLUTION_M / 1000.0) ** 2
        area_km2_of = {year: pixels * pixel_km2 for year, pixels in sorted(sums.valid_pixels_of.items())}
        asides = tuple(record for key, record in sorted(ledger.set_asides().items()))
        return Status(
            manifest["name"],
            manifest["context"]["blocks"],
            sums.done,
            asides,
            sum(area_km2_of.values()),
            area_km2_of,
            sums.seconds,
            tuple(sorted(sums.failed)),
            uses,
            sample_gaps(manifest),
        )

    def verify(self) -> Verification:
        """Prove the run from its first block to its last file; see :func:`cryoscale.verify.verify`."""
        from cryoscale.verify import verify

        _ = self.manifest
        return verify(self.out)

    def _repr_html_(self) -> str:
        state = self.status()
        rows = "".join(
            f"<li>{year}: EPSG {', '.join(map(str, self.zones(year)))}</li>" for year in self.years
        )
        return (
            f"<b>cryoscale run {state.name}</b><br>{state.done} of {state.total} blocks, "
            f"{state.mapped()}<ul>{rows}</ul>"
        )
