"""What a run is asked to do, as plain frozen values: the one thing that all stages' callers share."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, ClassVar, Literal

from shapely.geometry import MultiPolygon, Polygon

from cryoscale.errors import ConfigError

Composite = Literal["best_scene", "median", "least_snow"]
OnMissing = Literal["nan", "fail"]
Loader = Literal["direct", "odc-stac", "stackstac"]
OnUnreadable = Literal["set_aside", "fail"]
DeriveOn = Literal["auto", "workers", "device"]


FILES: tuple[str, ...] = ("product", "pmtiles", "kmz", "cog", "shapefile")
"""What can be written of a year beside GeoParquet and GeoPackage."""

SEASONAL: tuple[str, ...] = ("optical", "thermal", "insar", "radar")
"""Modalities whose scenes are of the season; elevation has none, and velocity is of a whole year."""


@dataclass(frozen=True)
class CatalogSpec:
    """One catalogue to search, and how its assets are signed."""

    url: str
    sign: str | None = None


@dataclass(frozen=True)
class SourceSpec:
    """One modality's source: a collection of the catalogues, or an address."""

    collection: str | None = None
    href: str | None = None
    max_cloud_pct: float | None = None
    composite: Composite | None = None
    max_uncertainty_k: float | None = None
    dates: tuple[date, ...] = ()
    """Days (UTC), in order, whose scenes alone are taken; empty for the whole season."""


@dataclass(frozen=True)
class ModelSpec:
    """Which model predicts, with what overlap of its tiles (fraction) and in which precision."""

    weights: str | None = None
    name: str | None = None
    overlap: float = 0.5
    precision: str = "auto"
    derive_on: DeriveOn = "auto"
    """Who makes channels of bands: the workers that read them, or the device of the model."""
    flips: bool = False
    mc_dropout: int = 0
    confidence: str = "entropy"

    CHOICES: ClassVar[tuple[str, ...]] = ("flips", "mc_dropout", "confidence")

    @property
    def passes(self) -> int:
        """How often the network sees each tile."""
        return (8 if self.flips else 1) * max(self.mc_dropout, 1)

    @property
    def keywords(self) -> dict[str, Any]:
        """What ``cryoscale.models.loading.load_predictor`` takes of this, the device left to it."""
        more = {"flips": self.flips, "mc_dropout": self.mc_dropout} if self.passes > 1 else {}
        return {"weights": self.weights, "name": self.name, "precision": self.precision, **more}

    @property
    def choices(self) -> dict[str, Any]:
        """The choices that decide pixels and are not at their defaults, for a run's identity."""
        defaults = ModelSpec()
        return {
            name: getattr(self, name)
            for name in self.CHOICES
            if getattr(self, name) != getattr(defaults, name)
        }


@dataclass(frozen=True)
class ClusterSpec:
    """Where the work runs, on how many workers for blocks and how many GPUs."""

    kind: str = "local"
    cpu_workers: int = 2
    """On Kubernetes at most."""
    gpu_workers: int = 0
    cpu_workers_min: int = 1
    namespace: str | None = None
    """Of Kubernetes; where None, the pod's own or that of the kubeconfig's context."""
    name: str = "cryoscale"
    """Of the DaskCluster."""
    image: str | None = None
    gpu_image: str | None = None
    wait_s: float = 900.0
    """How long the cluster may take until blocks can be mapped on it."""
    keep: bool = False
    """Whether a cluster that was created for the run stays behind."""
    service_account: str | None = None
    """Of the pod that drives."""
    secret: str | None = None
    """A Secret whose entries are environment variables of all pods, such as the store's keys."""
    claim: str | None = None
    """A PersistentVolumeClaim that all pods see at ``/data``."""
    manifest: str | None = None
    """A file with a DaskCluster and its DaskWorkerGroup, in place of ours."""

    @property
    def actors(self) -> int:
        """Pods that hold a model: one a GPU, or as many as there are CPU workers at most."""
        return self.gpu_workers or self.cpu_workers


@dataclass(frozen=True)
class Season:
    """Month-day to month-day, both included.

    A season that wraps over the new year belongs to the year in which it ends, as a hydrological
    year does (Cogley et al. 2011, Glossary of glacier mass balance, https://unesdoc.unesco.org/ark:/48223/pf0000192525).
    """

    start: str
    end: str

    @classmethod
    def default(cls, region: Polygon | MultiPolygon) -> Season:
        """The end of the ablation season of the region's hemisphere, when least snow lies."""
        return cls("07-15", "10-15") if region.centroid.y >= 0 else cls("01-15", "04-15")

    def interval(self, year: int) -> str:
        """The season of ``year`` as a STAC datetime interval (UTC).

        Raises:
            ConfigError: the month has no such day.
        """
        first, last = self.days(year)
        return f"{first}T00:00:00Z/{last}T23:59:59Z"

    def days(self, year: int) -> tuple[date, date]:
        """First and last day of the season of ``year``.

        Raises:
            ConfigError: the month has no such day.
        """
        first = year - 1 if self.start > self.end else year
        return _date(first, self.start), _date(year, self.end)


def _date(year: int, month_day: str) -> date:
    month, day = (int(part) for part in month_day.split("-"))
    last = calendar.monthrange(year, month)[1]
    if (month, day) == (2, 29):
        day = min(day, last)
    if day > last:
        raise ConfigError(f"season day {month_day}", f"a day of a month of {last} days", "correct it")
    return date(year, month, day)


@dataclass(frozen=True)
class CoarseLimits:
    """What some coarse pixel of a block has to meet, all at once, for the block to be mapped."""

    min_elevation_m: float | None = None
    max_slope_deg: float | None = None
    min_ndsi: float | None = None
    ndsi_reach_m: float = 5000.0

    @property
    def looks_at_terrain(self) -> bool:
        """Whether the elevation model is needed."""
        return self.min_elevation_m is not None or self.max_slope_deg is not None


@dataclass(frozen=True)
class Settings:
    """A run, fully resolved: paths absolute, region in degrees, defaults filled in."""

    name: str
    region: Polygon | MultiPolygon
    years: tuple[int, ...]
    season: Season
    catalogs: tuple[CatalogSpec, ...]
    sources: Mapping[str, SourceSpec]
    model: ModelSpec
    tile_px: int = 256
    block_px: int = 2048
    on_missing: OnMissing = "nan"
    on_unreadable: OnUnreadable = "set_aside"
    """A scene that cannot be read is left out by name, or fails its block."""
    loader: Loader = "direct"
    """Who calls the reader of a block's bands: the block itself, or the graph of a library."""
    candidates: Polygon | MultiPolygon | None = None
    """Known outlines with their buffer; blocks beside them are not mapped."""
    coarse: CoarseLimits | None = None
    min_area_km2: float = 0.01
    known_glaciers: str | None = None
    """A file of the RGI 7's glaciers, of which divides, names and identifiers are carried over."""
    divides: bool = True
    """Whether connected ice is divided into glaciers."""
    files: tuple[str, ...] = ()
    """What is written of each year for other programs, by the names of :data:`FILES`."""
    o1region: str | None = None
    """First-order region of the RGI, for glaciers that no RGI file places."""
    cluster: ClusterSpec = ClusterSpec()
    document: Mapping[str, Any] = field(default_factory=dict)
    """The configuration as it was written, for the run's record."""

    def dates_of(self, modality: str, year: int) -> tuple[date, ...]:
        """Days of the season of ``year`` that the modality is taken from; empty for all of them."""
        first, last = self.season.days(year)
        return tuple(day for day in self.sources.get(modality, SourceSpec()).dates if first <= day <= last)

    def imagery_days(self, year: int) -> tuple[date, date]:
        """First and last day that scenes of ``year`` are of: the season's, or fewer where dates are named."""
        season = self.season.days(year)
        spans = [self.dates_of(name, year) or season for name in SEASONAL if name in self.sources]
        days = [day for span in spans or [season] for day in span]
        return min(days), max(days)
