"""The configuration file: read, checked, and turned into the plain settings of a run.

Whatever a person may write is validated here, in one place; nothing below imports this module.
Relative paths are looked up beside the configuration file first, then in the working folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cryoscale.cluster_config import ClusterConfig
from cryoscale.complaint import explain
from cryoscale.dates import Day, require_dates
from cryoscale.document import Written, read_document
from cryoscale.errors import ConfigError, RegionError
from cryoscale.region import RegionSpec, read_region
from cryoscale.settings import (
    FILES,
    CatalogSpec,
    ClusterSpec,
    CoarseLimits,
    DeriveOn,
    ModelSpec,
    Season,
    Settings,
    SourceSpec,
)


def _given(value: str) -> str:
    if not value.strip():  # an empty address would be this folder, an empty collection that of no item
        raise ValueError("a name or an address that is not empty")
    return value


Named = Annotated[str, AfterValidator(_given)]
"""An address or the id of a collection."""


class RegionConfig(Written):
    """Where: a bbox in degrees, a vector file, or RGI outlines with a buffer."""

    bbox: tuple[float, float, float, float] | None = None
    file: str | None = None
    rgi: str | None = None
    buffer_m: Annotated[float, Field(ge=0, le=100_000)] = 0.0

    @model_validator(mode="after")
    def _one_of(self) -> RegionConfig:
        if sum(value is not None for value in (self.bbox, self.file, self.rgi)) != 1:
            raise ValueError("give exactly one of bbox, file and rgi")
        return self


class SeasonConfig(Written):
    """When in the year: month-day to month-day, both included; may wrap over the new year."""

    start: str
    end: str

    @field_validator("start", "end")
    @classmethod
    def _month_day(cls, value: str) -> str:
        if not re.fullmatch(r"(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", value):
            raise ValueError(f"{value!r} is no month-day such as '10-01'")
        return value


class CatalogConfig(Written):
    """A STAC API, a folder of static STAC JSON, or a stac-geoparquet file."""

    url: Named
    sign: Literal["planetary-computer"] | None = None


class SeasonalConfig(Written):
    """A collection whose items are of the season, or of ``dates`` alone: UTC days that lie in it."""

    collection: Named
    dates: Annotated[list[Day], Field(min_length=1)] | None = None

    @field_validator("dates", mode="before")
    @classmethod
    def _some(cls, value: object) -> object:
        if value is None:  # written, with nothing after it: not what leaving it out means
            raise ValueError("no day; list some, or leave dates out for all of the season")
        return value


class OpticalConfig(SeasonalConfig):
    """Sentinel-2 L2A.

    ``max_cloud_pct`` is a limit over the ice, not over the scene: one that is cloudier as a whole is looked
    at all the same, up to 95 % (:data:`cryoscale.read.choice.HOPELESS_CLOUD_PCT`), and is used where it hides
    no more than the limit around a pixel.
    """

    max_cloud_pct: Annotated[float, Field(ge=0, le=100)] = 60.0
    composite: Literal["best_scene", "median", "least_snow"] = "least_snow"


class TerrainConfig(Written):
    """An elevation model, which has no season."""

    collection: Named


class ThermalConfig(SeasonalConfig):
    """Landsat Collection 2 Level 2; temperatures less certain than the limit are left out."""

    max_uncertainty_k: Annotated[float, Field(gt=0, le=100)] | None = None


class VelocityConfig(Written):
    """ITS_LIVE: a Zarr mosaic by address, or a collection of vx, vy rasters."""

    href: Named | None = None
    collection: Named | None = None

    @model_validator(mode="after")
    def _one_of(self) -> VelocityConfig:
        if (self.href is None) == (self.collection is None):
            raise ValueError("give exactly one of href and collection")
        return self


class SourcesConfig(Written):
    """The modalities; one that is left out is a missing channel."""

    optical: OpticalConfig
    terrain: TerrainConfig | None = None
    thermal: ThermalConfig | None = None
    velocity: VelocityConfig | None = None
    insar: SeasonalConfig | None = None
    radar: SeasonalConfig | None = None


class ModelConfig(Written):
    """Which model: a weights file, or a method that needs none."""

    weights: str | None = None
    name: Literal["band-ratio"] | None = None
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    precision: Literal["auto", "fp32", "bf16", "bf16-fused", "bf16-compiled", "openvino", "openvino-bf16"] = (
        "auto"
    )
    derive_on: DeriveOn = "auto"
    flips: bool = False
    mc_dropout: Annotated[int, Field(ge=2, le=1000)] | None = None
    confidence: Literal["entropy", "max"] = "entropy"

    @model_validator(mode="after")
    def _one_of(self) -> ModelConfig:
        if (self.weights is None) == (self.name is None):
            raise ValueError("give exactly one of weights and name")
        return self


class TilingConfig(Written):
    """Edges of the model's tiles and of the blocks of work, in pixels."""

    tile_px: Annotated[int, Field(ge=32, le=4096, multiple_of=16)] = 256
    block_px: Annotated[int, Field(ge=256, le=8192, multiple_of=256)] = 2048


class CandidatesConfig(Written):
    """What a block has to have to be mapped: outlines nearby, and a place that meets all limits at once.

    Limits are held against coarse pixels of 80 m; a block of which something is not known is mapped.
    """

    rgi: str | None = None
    buffer_m: Annotated[float, Field(ge=0, le=100_000)] = 3000.0
    min_elevation_m: Annotated[float, Field(ge=-500, le=9000)] | None = None
    max_slope_deg: Annotated[float, Field(gt=0, le=90)] | None = None
    min_ndsi: Annotated[float, Field(ge=-1, le=1)] | None = None
    ndsi_reach_m: Annotated[float, Field(ge=0, le=20_000)] = 5000.0

    @model_validator(mode="after")
    def _any_of(self) -> CandidatesConfig:
        names = ("rgi", "min_elevation_m", "max_slope_deg", "min_ndsi")
        if all(getattr(self, name) is None for name in names):
            raise ValueError(f"give at least one of {', '.join(names)}")
        for name, needed in (("buffer_m", "rgi"), ("ndsi_reach_m", "min_ndsi")):
            if name in self.model_fields_set and getattr(self, needed) is None:
                raise ValueError(f"{name} means nothing without {needed}")
        return self

    @property
    def limits(self) -> CoarseLimits | None:
        """The limits that coarse pixels are held against, if there is one."""
        limits = CoarseLimits(self.min_elevation_m, self.max_slope_deg, self.min_ndsi, self.ndsi_reach_m)
        return limits if limits.looks_at_terrain or limits.min_ndsi is not None else None


class OutlinesConfig(Written):
    """What counts as a glacier, what is carried over from the RGI, and which files are written.

    ``o1region`` is the RGI's number of the first-order region, for glaciers that were not matched to the RGI.
    """

    min_area_km2: Annotated[float, Field(ge=0)] = 0.01
    rgi: str | None = None
    divides: bool = True
    files: tuple[str, ...] = ("product", "pmtiles", "kmz", "cog")
    o1region: str | None = None

    @field_validator("files")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in FILES]:
            raise ValueError(f"some of {', '.join(FILES)}, which {', '.join(unknown)} is not")
        return tuple(name for name in FILES if name in value)

    @field_validator("o1region", mode="before")
    @classmethod
    def _region(cls, value: Any) -> Any:
        number = isinstance(value, int) and not isinstance(value, bool)  # for which YAML takes 15
        text = f"{value:02d}" if number else value
        if text is not None and not re.fullmatch(r"0[1-9]|1\d|20", str(text)):
            raise ValueError("a first-order region of the RGI, 01 to 20")
        return text


class Config(Written):
    """The whole file."""

    name: Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[\w .()-]+$")]
    region: RegionConfig
    years: Annotated[list[Annotated[int, Field(ge=1980, le=2100)]], Field(min_length=1)]
    season: SeasonConfig | None = None
    catalogs: Annotated[list[CatalogConfig], Field(min_length=1)]
    sources: SourcesConfig
    on_missing: Literal["nan", "fail"] = "nan"
    on_unreadable: Literal["set_aside", "fail"] = "set_aside"
    loader: Literal["direct", "odc-stac", "stackstac"] = "direct"
    model: ModelConfig
    tiling: TilingConfig = TilingConfig()
    candidates: CandidatesConfig | None = None
    outlines: OutlinesConfig = OutlinesConfig()
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not value.strip(" ."):
            raise ValueError("more than dots and spaces, as a folder may be called so")
        return value

    def settings(self, base: Path | None = None) -> Settings:
        """Unpack into the settings that the pipeline takes; paths are resolved against ``base``.

        Raises:
            RegionError: the region is reversed, empty or unreadable.
            ConfigError: the loader is not installed, or a source's dates are not of the run's seasons.
        """
        if self.loader == "stackstac" and find_spec("stackstac") is None:
            raise ConfigError(
                "loader: stackstac without stackstac installed",
                "the extra cryoscale[stackstac]",
                "pip install 'cryoscale[stackstac]', or leave loader out",
            )

        def path(value: str) -> str:
            return resolve_path(value, base)

        region = self.region
        geometry = read_region(
            RegionSpec(
                bbox=region.bbox,
                file=path(region.file) if region.file else None,
                rgi=path(region.rgi) if region.rgi else None,
                buffer_m=region.buffer_m,
            )
        )
        season = Season(self.season.start, self.season.end) if self.season else Season.default(geometry)
        years = tuple(sorted(set(self.years)))
        sources = self._sources(path)
        require_dates(sources, season, years)
        candidates, known = self.candidates, None
        if candidates is not None and candidates.rgi is not None:
            known = read_region(
                RegionSpec(rgi=path(candidates.rgi), buffer_m=candidates.buffer_m, what="candidates.rgi")
            )
            if not known.intersects(geometry):
                raise RegionError(
                    f"candidates.rgi {path(candidates.rgi)}, of which nothing lies within "
                    f"{candidates.buffer_m:g} m of the region",
                    "outlines of the region that is mapped",
                    "give that region's file",
                )
        coarse = candidates.limits if candidates is not None else None
        if coarse is not None and coarse.looks_at_terrain and self.sources.terrain is None:
            raise ConfigError(
                "candidates by elevation or slope without sources.terrain",
                "an elevation model to tell them",
                "name a terrain collection, or leave these limits out",
            )
        glaciers = path(self.outlines.rgi) if self.outlines.rgi else None
        if glaciers is not None:
            from cryoscale.write.carried import read_glaciers  # geopandas, which most commands do without

            read_glaciers(
                glaciers, geometry
            )  # it is wanted at the end, and told to be wrong at the beginning
        return Settings(
            name=self.name,
            region=geometry,
            years=years,
            season=season,
            catalogs=tuple(CatalogSpec(path(c.url), c.sign) for c in self.catalogs),
            sources=sources,
            on_missing=self.on_missing,
            on_unreadable=self.on_unreadable,
            loader=self.loader,
            model=ModelSpec(
                weights=path(self.model.weights) if self.model.weights else None,
                name=self.model.name,
                overlap=self.model.overlap,
                precision=self.model.precision,
                derive_on=self.model.derive_on,
                flips=self.model.flips,
                mc_dropout=self.model.mc_dropout or 0,
                confidence=self.model.confidence,
            ),
            tile_px=self.tiling.tile_px,
            block_px=self.tiling.block_px,
            candidates=known,
            coarse=coarse,
            min_area_km2=self.outlines.min_area_km2,
            known_glaciers=glaciers,
            divides=self.outlines.divides,
            files=self.outlines.files,
            o1region=self.outlines.o1region,
            cluster=self.cluster_spec(path),
            document=self.model_dump(mode="json", exclude_none=True),
        )

    def cluster_spec(self, path: Callable[[str], str] = str) -> ClusterSpec:
        """Where the work runs; ``path`` makes the paths of this machine absolute."""
        return self.cluster.spec(path)

    def _sources(self, path: Any) -> dict[str, SourceSpec]:
        specs: dict[str, SourceSpec] = {}
        for name in type(self.sources).model_fields:
            source = getattr(self.sources, name)
            if source is None:
                continue
            href = getattr(source, "href", None)
            specs[name] = SourceSpec(
                collection=source.collection,
                href=path(href) if href else None,
                max_cloud_pct=getattr(source, "max_cloud_pct", None),
                max_uncertainty_k=getattr(source, "max_uncertainty_k", None),
                composite=getattr(source, "composite", None),
                dates=tuple(sorted(getattr(source, "dates", None) or ())),
            )
        return specs


def resolve_path(value: str, base: Path | None) -> str:
    """``value`` as an absolute path, unless it is an address with a scheme such as ``s3://``.

    Raises:
        ConfigError: no file can be called so, or it begins with the home of a user who is not there.
    """
    if "://" in value or "::" in value:
        return value
    try:
        path = Path(value).expanduser()
        if path.is_absolute():
            return str(path)
        if base is not None and (base / path).exists():
            return str((base / path).resolve())
        return str(path.resolve())
    except (RuntimeError, ValueError, OSError) as error:
        shown = repr(value if len(value) < 80 else f"{value[:77]}...")
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{shown} ({reason})", "the path of a file or folder", "correct it") from error


def load_config(source: str | Path | Mapping[str, Any] | Config) -> Settings:
    """The settings of a run from a YAML file, a mapping of the same shape, or a :class:`Config`.

    Raises:
        ConfigError: the file is absent or no YAML, a key is unknown or twice there, or a value does not fit.
        RegionError: the region is reversed, empty or unreadable.
    """
    if isinstance(source, Config):
        return source.settings()
    if isinstance(source, Mapping):
        return parse_config(source, "the configuration").settings()
    path = Path(source)
    return read_config(path).settings(path.resolve().parent)


def read_config(path: Path) -> Config:
    """A YAML file as the configuration that it is; none of the files that it names is looked at.

    Raises:
        ConfigError: the file is absent or no YAML, a key is unknown or twice there, or a value does not fit.
    """
    return parse_config(read_document(path, "the configuration"), str(path))


def parse_config(document: Any, where: str) -> Config:
    """A document as the configuration that it is; ``where`` it stands is told if it is none.

    Raises:
        ConfigError: a key is unknown, or a value does not fit.
    """
    if not isinstance(document, Mapping):
        raise ConfigError(
            f"{where} with {type(document).__name__} at its top", "a mapping of keys", "see the README"
        )
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(*explain(error, where, Config)) from error
