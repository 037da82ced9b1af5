"""``cryoscale plan``: of a configuration, or of a cluster for regions; :mod:`cryoscale.cli` takes it in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoscale.options import JsonOption, print_json

if TYPE_CHECKING:
    from cryoscale.forecast.capacity import Site
    from cryoscale.forecast.clusters import ClusterPlan
    from cryoscale.forecast.plan import Plan
    from cryoscale.forecast.rates import Profile
    from cryoscale.settings import Settings

app = typer.Typer()

_PANEL = "What cluster it takes"


@app.command()
def plan(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="The run's YAML file; --cluster needs none.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Where the run shall lie: is there room? Nothing is written.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Rates of another machine: a profile (JSON), or a finished run's folder."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Measure this machine's rates on a few sample blocks."),
    ] = True,
    save_profile: Annotated[Path | None, typer.Option(help="Keep the rates, for --profile.")] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Write the blocks, kept and dropped, as GeoJSON.")
    ] = None,
    price_cpu_hour: Annotated[float | None, typer.Option(help="Of a CPU worker.")] = None,
    price_gpu_hour: Annotated[float | None, typer.Option(help="Of a GPU.")] = None,
    price_gb: Annotated[float | None, typer.Option(help="Of a billion bytes fetched.")] = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="CPU nodes that feed GPUs, hours, money, what is slowest.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    rgi: Annotated[
        list[str] | None,
        typer.Option(
            help="RGI regions, not CONFIG: 11, 13-15, 1,2, all. Repeatable; default: 11, 13-15, all.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    outlines: Annotated[
        str | None,
        typer.Option(
            help="Outlines of glaciers, not CONFIG: their blocks are counted.", rich_help_panel=_PANEL
        ),
    ] = None,
    ice_pct: Annotated[
        str | None,
        typer.Option(help="Ice in the blocks of RGI regions, per cent, as 3,25.", rich_help_panel=_PANEL),
    ] = None,
    dates: Annotated[
        int,
        typer.Option(help="Dates of a season whose scenes are read, without CONFIG.", rich_help_panel=_PANEL),
    ] = 10,
    years: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="How many are mapped, without CONFIG.", rich_help_panel=_PANEL),
    ] = 1,
    overlap: Annotated[float, typer.Option(help="Of tiles, without CONFIG.", rich_help_panel=_PANEL)] = 0.5,
    latency_ms: Annotated[
        float | None,
        typer.Option(
            help="After which a chunk comes, without CONFIG; default: as --profile waited, else 50.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="How many there are; or", rich_help_panel=_PANEL)] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            help="in how many the blocks shall be mapped; default: what CONFIG's own cluster takes, else 1.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    cpu_workers: Annotated[
        int | None,
        typer.Option(
            help="How many there are; default: CONFIG's, or with --hours or --gpus as many as it takes.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    gpu_tiles_per_s: Annotated[
        float | None, typer.Option(help="Tiles that a GPU predicts.", rich_help_panel=_PANEL)
    ] = None,
    node_cores: Annotated[int, typer.Option(help="Of a CPU node, for pods.", rich_help_panel=_PANEL)] = 16,
    node_gib: Annotated[
        float, typer.Option(help="Memory of a CPU node, for pods.", rich_help_panel=_PANEL)
    ] = 64.0,
    worker_cores: Annotated[
        int, typer.Option(help="What the pod of a CPU worker asks for.", rich_help_panel=_PANEL)
    ] = 2,
    worker_gib: Annotated[
        float, typer.Option(help="What the pod of a CPU worker asks for.", rich_help_panel=_PANEL)
    ] = 8.0,
    node_gpus: Annotated[int, typer.Option(help="GPUs of a GPU node.", rich_help_panel=_PANEL)] = 1,
    node_gbit: Annotated[
        float | None, typer.Option(help="Gbit/s into a GPU node; default: no limit.", rich_help_panel=_PANEL)
    ] = None,
    scenes_gbit: Annotated[
        float | None,
        typer.Option(help="Gbit/s of the scenes' store; default: no limit.", rich_help_panel=_PANEL),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Say what a run would take: blocks, scenes, fetches, bytes, seconds, money, disk; nothing is started.

    With --cluster also what cluster; then regions may stand in place of CONFIG.
    """
    from cryoscale.config import load_config
    from cryoscale.console import Console
    from cryoscale.errors import ConfigError
    from cryoscale.forecast.blockmap import write_geojson
    from cryoscale.forecast.capacity import Site
    from cryoscale.forecast.plan import Asked, make_plan
    from cryoscale.forecast.rates import empty_profile, load_profile, with_prices

    if not cluster and (rgi or outlines or config is None):
        raise ConfigError(
            "plan without CONFIG", "the run's YAML file, or --cluster with regions", "add either"
        )
    if config is not None and (rgi or outlines):
        raise ConfigError("CONFIG and regions beside it", "one of both", "leave out one")
    prices = {"cpu_hour": price_cpu_hour, "gpu_hour": price_gpu_hour, "gb": price_gb}
    rates = load_profile(profile) if profile is not None else None
    site = Site(
        gpus=gpus,
        hours=hours,
        cpu_workers=cpu_workers,
        node_cores=node_cores,
        node_gib=node_gib,
        worker_cores=worker_cores,
        worker_gib=worker_gib,
        node_gpus=node_gpus,
        node_gbit_s=node_gbit,
        scenes_gbit_s=scenes_gbit,
        prices=with_prices(rates or empty_profile(""), prices).prices,
    )
    if config is None:
        where = _Where(tuple(rgi or ()), outlines, ice_pct, dates, years, overlap, latency_ms)
        _tell(_of_regions(where, rates, gpu_tiles_per_s, site), json_)
        return
    settings = load_config(config)
    made = make_plan(settings, asked=Asked(rates, measure, out, prices))
    if geojson is not None:
        write_geojson(made, geojson)
    if save_profile is not None:
        save_profile.write_text(made.profile.to_json(), encoding="utf-8")
    clusters = _of_config(settings, made, gpu_tiles_per_s, site) if cluster else None
    if json_:
        print_json({**made.to_dict(), **({"cluster": clusters.to_dict()} if clusters else {})})
        return
    Console().plan(made)
    if clusters is not None:
        _tell(clusters, json_)


@dataclass(frozen=True)
class _Where:
    """What is asked of the plan of a cluster where there is no configuration."""

    rgi: tuple[str, ...]
    outlines: str | None
    ice_pct: str | None
    dates: int
    years: int
    overlap: float
    latency_ms: float | None


def _of_regions(where: _Where, rates: Profile | None, gpu_tiles_s: float | None, site: Site) -> ClusterPlan:
    from cryoscale.forecast.clusters import Basis, ClusterPlan, assumed_dates, assumed_ice
    from cryoscale.forecast.demand import BLOCK_PX, LATENCY_MS, cost_by_dates, gpu_rate, measured_profile
    from cryoscale.forecast.rgi import of_outlines, rows_of, share_of

    profile = rates or measured_profile()
    tiles_s, told = gpu_rate(profile, gpu_tiles_s)
    # the rates that come with the package were measured on local files, which nobody waits for
    latency_ms = LATENCY_MS if rates is None and where.latency_ms is None else where.latency_ms
    cost = cost_by_dates(profile, where.dates, where.overlap, latency_ms)
    share = share_of(where.ice_pct) if where.ice_pct is not None else None
    rows, assumed = [], [assumed_dates(where.dates, latency_ms)]
    if where.outlines is not None:
        rows.append(of_outlines(where.outlines, BLOCK_PX))
    if where.rgi or where.outlines is None:
        rows += rows_of(where.rgi, BLOCK_PX, share)
        assumed.insert(0, assumed_ice(share))
    basis = Basis(profile.name, told, tuple(assumed))
    return ClusterPlan.of(rows, where.years, cost, _timed(replace(site, tiles_s=tiles_s)), basis)


def _of_config(settings: Settings, made: Plan, gpu_tiles_s: float | None, site: Site) -> ClusterPlan:
    from cryoscale.deriving import is_open
    from cryoscale.forecast.clusters import Basis, ClusterPlan
    from cryoscale.forecast.demand import cost_of_plan, gpu_rate
    from cryoscale.forecast.rgi import Blocks

    site, told = _own(settings, site, asks_gpus=gpu_tiles_s is not None), None
    if site.has_gpus:
        tiles_s, told = gpu_rate(made.profile, gpu_tiles_s, made.passes, settings.tile_px)
        site = replace(site, tiles_s=tiles_s)
    if settings.model.weights is not None:
        from cryoscale.models.weights import read_card

        site = replace(site, channels=tuple(read_card(settings.model.weights).channels))
    if settings.model.derive_on != "auto" or is_open(settings):
        site = replace(site, derive_on=settings.model.derive_on)
    else:  # nothing will be tried, and workers make the channels
        site = replace(site, derive_on="workers")
    years = len(settings.years)
    row = Blocks(made.name, None, made.region_km2, made.blocks // years, made.blocks // years)
    cost = cost_of_plan(settings, made, on_gpus=site.has_gpus)
    in_pods = settings.cluster.kind == "kubernetes" and not site.has_gpus
    assumed = ("the pods that hold models, one a CPU worker, take no cores beside theirs",) if in_pods else ()
    return ClusterPlan.of([row], years, cost, _timed(site), Basis(made.profile.name, told, assumed))


def _own(settings: Settings, site: Site, *, asks_gpus: bool) -> Site:
    """With the configuration's own workers and GPUs, or none, where nothing else is asked for."""
    cluster, asked = settings.cluster, site.hours is not None or site.gpus is not None
    has_gpus = bool(cluster.gpu_workers or site.gpus or asks_gpus)
    if asked or (has_gpus and not cluster.gpu_workers):
        return replace(site, has_gpus=has_gpus)
    workers = site.cpu_workers or cluster.cpu_workers
    return replace(site, gpus=cluster.gpu_workers or None, has_gpus=has_gpus, cpu_workers=workers)


def _timed(site: Site) -> Site:
    """With an hour to do it in where nothing else was said."""
    said = site.hours is not None or site.gpus is not None or not site.has_gpus
    return site if said else replace(site, hours=1.0)


def _tell(clusters: ClusterPlan, as_json: bool) -> None:
    from cryoscale.console import Console

    if as_json:
        print_json(clusters.to_dict())
    else:
        Console().say(clusters.text())
