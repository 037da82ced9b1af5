"""After the last block: coarser levels, outlines, inventory, map, report and STAC description.

All of it is made from what lies on disk, and made anew at every call, so that a run that was
completed later ends like one that was never interrupted.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
from shapely.geometry import Polygon

from cryoscale.features.stack import MODALITIES
from cryoscale.grid import RESOLUTION_M
from cryoscale.infer.tiles import stride_px
from cryoscale.learn.scores import Scores
from cryoscale.ledger import Ledger, Marker
from cryoscale.plan import fail_overs
from cryoscale.read import snapshot
from cryoscale.scenes import Account, SceneUse, account_of, sample_gaps, why
from cryoscale.settings import Settings
from cryoscale.write import (
    bootstrap,
    charts,
    columns,
    files,
    mosaic,
    outlines,
    plates,
    quicklook,
    report,
    snow,
    stac,
)
from cryoscale.write import map as picture
from cryoscale.write.carried import KnownGlaciers, read_glaciers
from cryoscale.write.coverage import Coverage
from cryoscale.write.displacement import write_displacements
from cryoscale.write.divides import DEM
from cryoscale.write.evidence import Evidence, open_evidence
from cryoscale.write.fronts import Finder, Fronts, find_fronts
from cryoscale.write.glaciers import Divider, divide_inventory
from cryoscale.write.ground import Ground
from cryoscale.write.inventory import Description, Inventory
from cryoscale.write.perennial import write_perennial
from cryoscale.write.product import About
from cryoscale.write.seams import seam_score_of_maps
from cryoscale.write.sheet import Plate
from cryoscale.write.succession import write_links
from cryoscale.write.vectors import put_text, read_parts
from cryoscale.write.waters import Waters

_SCENES_LINKED = 1000
"""Scenes of a year that a map's STAC item names; it says how many more the frozen catalogue has."""
_DEM_NAMES = {"cop-dem-glo-30": "COPDEM30", "cop-dem-glo-90": "COPDEM90"}
"""Elevation models by the names that the RGI 7 has for them."""
_NOT_SHOWN = ("pca", "pca_sample", "identity", "channels")
"""Of the model's record: numbers, and what the report tells elsewhere."""


def finish(settings: Settings, out: str, stage: Callable[[str], None]) -> None:
    """Make everything that a finished run holds beside its blocks."""
    stage("making coarser levels of the map")
    for year in settings.years:
        for epsg in mosaic.zones(out, year):
            mosaic.build_levels(f"{out}/mosaic.zarr", year, epsg)
    redraw(settings, out, stage, settings.years)


def redraw(
    settings: Settings, out: str, stage: Callable[[str], None], years: Sequence[int]
) -> dict[int, list[str]]:
    """Everything that follows from the map of some of a run's years; returns by year which files were made.

    Files that lie there are made anew, whether they are asked for or not: those of a year shall agree.
    """
    manifest = Ledger(out).manifest() or {}
    made: dict[int, list[str]] = {}
    rgi = read_glaciers(settings.known_glaciers, settings.region) if settings.known_glaciers else None
    known = None if rgi is None else KnownGlaciers(rgi)
    with _local(out) as folder:
        _fetch_inventories(out, folder, set(settings.years) - set(years))
        for year in years:
            stage(f"drawing the outlines of {year}")
            inventory = write_inventory(settings, out, folder, year, manifest, known)
            stage(f"drawing the map of {year}")
            name = "map.png" if year == settings.years[-1] else f"map-{year}.png"
            draw(settings, out, folder / name, year, inventory, manifest)
        stage("linking the years")
        coverage = {year: coverage_of(out, year) for year in settings.years}
        write_links(folder / "inventory", coverage, rgi)
        write_displacements(folder / "inventory", settings.years)
        seen = {year: kept for year in settings.years if (kept := evidence_of(out, year)) is not None}
        if len(seen) > 1:
            stage("telling perennial from seasonal")
            write_perennial(folder / "inventory", seen)
        for year in years:
            made[year] = sorted({*settings.files, *files.kinds_of(out, year)})
            stage(f"writing files of {year}: {', '.join(made[year]) or 'none'}")
            files.write_files(made[year], out, folder, about(settings, out, year, manifest))
    stage("writing the report")  # it reads what now lies at its place
    write_report(settings, out)
    stage("writing the catalogue")
    write_catalog(settings, out, manifest)
    return made


def write_inventory(
    settings: Settings,
    out: str,
    folder: Path,
    year: int,
    manifest: dict[str, Any],
    known: KnownGlaciers | None,
) -> Path:
    """Glaciers of one year over all zones, as ``inventory/<year>.parquet`` and ``.gpkg`` under ``folder``.

    Beside them the complexes that they are parts of, the divides that they share, their hypsometry, the area
    of all with its interval, and what the columns of all years mean.
    """
    maps = {epsg: mosaic.open_mosaic(out, year, epsg) for epsg in mosaic.zones(out, year)}
    parquet = folder / "inventory" / f"{year}.parquet"
    model, run_id = str(manifest["model"]["name"]), str(manifest["identity_sha256"])[:16]
    ground = ground_of(settings, out, year)
    with (
        outlines.survey(
            maps, min_area_km2=settings.min_area_km2, year=year, model=model, run_id=run_id
        ) as found,
        Inventory({"year": year, "model": model, "run_id": run_id}) as glaciers,
    ):
        found.write_outlines(parquet.with_name(f"{year}-complexes.parquet"))
        divider = Divider(ground, known) if settings.divides else Divider(None, None)
        divide_inventory(found, glaciers, divider, maps, settings.block_px)
        glaciers.describe(_describer(ground, known, evidence_of(out, year)))
        elevations = {} if ground is None else ground.elevations
        with Waters(maps, elevations, settings.block_px) as waters, Fronts(year) as fronts:
            find_fronts(glaciers, Finder(maps, waters), ground, fronts)
            glaciers.write(parquet, parquet.with_suffix(".gpkg"), {"fronts": fronts.frames()})
            fronts.write(parquet.with_name(f"{year}-fronts.parquet"))
        glaciers.write_divides(parquet.with_name(f"{year}-intersects.parquet"))
        glaciers.write_hypsometry(parquet.with_name(f"{year}-hypsometry.csv"))
    region = json.dumps(bootstrap.region_of(read_parts(str(parquet), bootstrap.COLUMNS)), indent=2)
    put_text(f"{region}\n", parquet.with_name(f"{year}-region.json"))
    text = json.dumps(columns.metadata(), indent=2, ensure_ascii=False)
    put_text(f"{text}\n", parquet.with_name("attributes_metadata.json"))
    return parquet


def about(settings: Settings, out: str, year: int, manifest: dict[str, Any]) -> About:
    """What the files of a year say of the run."""
    return About(
        name=settings.name,
        year=year,
        model=str(manifest["model"]["name"]),
        run_id=str(manifest["identity_sha256"])[:16],
        version=str(manifest["versions"]["cryoscale"]),
        made=str(manifest["created"]),
        o1region=settings.o1region,
        simulated=is_simulated(out),
    )


def _describer(
    ground: Ground | None, known: KnownGlaciers | None, seen: Evidence | None
) -> Callable[[Polygon, str | None], Description]:
    """What elevation, evidence and the RGI say of an outline, as far as the run has them."""

    def describe(outline: Polygon, source: str | None) -> Description:
        told = ground.under(outline) if ground is not None else Description({})
        if seen is not None:
            found = snow.columns_of(snow.signs_under(outline, seen, told.values.get("slope_deg", math.nan)))
            told = replace(told, values={**told.values, **found})
        if known is None or source == DEM:  # flow divided it from the RGI's glaciers: it is none of them
            return told
        return replace(told, values={**told.values, **known.over(outline)})

    return describe


def coverage_of(out: str, year: int) -> Coverage:
    """Where the maps of a year have data."""
    return Coverage({epsg: mosaic.open_labels(out, year, epsg) for epsg in mosaic.zones(out, year)})


def ground_of(settings: Settings, out: str, year: int) -> Ground | None:
    """The elevation of a year's zones as the run saw it; None where it had none or its quicklook is gone."""
    source = settings.sources.get("terrain")
    if source is None:
        return None
    name = source.collection or source.href or ""
    try:
        elevations = {epsg: quicklook.open_elevation(out, year, epsg) for epsg in mosaic.zones(out, year)}
    except (FileNotFoundError, KeyError):
        return None
    return Ground(elevations, _DEM_NAMES.get(name, name))


def evidence_of(out: str, year: int) -> Evidence | None:
    """What the run saw of a year's zones; None where it kept none of it or it is gone."""
    found = {epsg: open_evidence(out, year, epsg) for epsg in mosaic.zones(out, year)}
    kept = {epsg: seen for epsg, seen in found.items() if seen is not None}
    return Evidence(kept) if kept else None


def draw(
    settings: Settings, out: str, path: Path, year: int, inventory: Path, manifest: dict[str, Any]
) -> None:
    """The picture of one year."""
    zones = mosaic.zones(out, year)
    maps = {epsg: mosaic.open_overview(out, year, epsg) for epsg in zones}
    seen = {epsg: quicklook.open_quicklook(out, year, epsg) for epsg in zones}
    glaciers = read_parts(str(inventory), ("area_km2", "debris_area_km2", "geometry"))
    fronts = read_parts(str(inventory.with_name(f"{year}-fronts.parquet")), ("geometry",))
    caption = f"Model {manifest['model']['name']}; season {settings.season.start} to {settings.season.end}."
    if is_simulated(out):
        caption = f"Simulated imagery: no real place. {caption}"
    picture.draw_map(
        path,
        maps,
        glaciers,
        fronts=fronts,
        background=seen,
        title=f"{settings.name}, {year}",
        caption=caption,
    )


def _markers(out: str) -> Iterator[Marker]:
    """The finished blocks, in any order."""
    return Ledger(out).markers()


@contextmanager
def _local(out: str) -> Iterator[Path]:
    """A local folder for files that libraries write by path; copied to ``out`` where that is remote."""
    fs, root = fsspec.core.url_to_fs(out)
    if isinstance(fs, fsspec.implementations.local.LocalFileSystem):
        yield Path(root)
        return
    folder = Path(tempfile.mkdtemp(prefix="cryoscale-"))
    try:
        yield folder
        fs.put(f"{folder}/", f"{root}/", recursive=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch_inventories(out: str, folder: Path, years: Collection[int]) -> None:
    """Bring what years are linked by into a local folder that is not the run's own."""
    fs, root = fsspec.core.url_to_fs(out)
    for year in years:
        local = folder / "inventory" / f"{year}.parquet"
        if not local.exists():
            local.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(f"{root}/inventory/{year}.parquet", str(local))


def is_simulated(out: str) -> bool:
    """Whether any scene of the run says of itself that it is simulated."""
    items = snapshot.scan(f"{out}/items.parquet")
    return any(item["properties"].get("cryoscale:simulated") for _, item in items)


def write_report(
    settings: Settings, out: str, *, scores: Scores | None = None, baseline: Scores | None = None
) -> None:
    """``OUT/report.html``; with ``scores`` where there is a truth to hold the map against."""
    manifest = Ledger(out).manifest() or {}
    account = account_of(_markers(out), keep=report.ROWS_SHOWN)
    choices, aside = account.scene_uses(), Ledger(out).set_asides()
    latest = settings.years[-1]
    maps = {epsg: mosaic.open_mosaic(out, latest, epsg) for epsg in mosaic.zones(out, latest)}
    model = manifest["model"]
    judged = {model["name"]: scores, "band-ratio": baseline}
    fs, root = fsspec.core.url_to_fs(out)
    written = report.Report(
        title=settings.name,
        simulated=is_simulated(out),
        map_png=fs.cat_file(f"{root}/map.png"),
        map_caption=f"Classes and outlines, {latest}.",
        plates=_plates(settings, out, maps),
        summary={**_summary(settings, manifest, account), **_doubts(settings, out)},
        timings_s=account.seconds,
        seams=_seams(settings, maps),
        scores={name: _class_scores(found) for name, found in judged.items() if found is not None},
        truth="the simulator's labels" if scores is not None else "",
        outlines={year: _outlines(f"{out}/inventory/{year}.parquet") for year in settings.years},
        files=list(itertools.islice(_file_rows(settings, out), report.ROWS_SHOWN)),
        scenes_read=heapq.nsmallest(report.ROWS_SHOWN, account.scenes_read),
        scenes_failed=heapq.nsmallest(report.ROWS_SHOWN, account.scenes_failed),
        choices=[_scene_row(use) for use in choices[: report.ROWS_SHOWN]],
        choice_of_blocks=[_block_row(marker) for marker in account.first_choices],
        blocks_set_aside=[
            (f"{s.year}/{s.epsg}/{s.block.key}", s.reason)
            for s in itertools.islice(aside.values(), report.ROWS_SHOWN)
        ],
        counts={
            "scenes_read": len(account.scenes_read),
            "scenes_failed": len(account.scenes_failed),
            "choices": len(choices),
            "choice_of_blocks": account.choices,
            "blocks_set_aside": len(aside),
        },
        modalities=_coverage(account),
        model={key: value for key, value in model.items() if key not in _NOT_SHOWN},
        citation=_citation(settings, manifest),
        made=f"{manifest['created']}, cryoscale {manifest['versions']['cryoscale']}",
    )
    report.write_report(out, written)


def _plates(settings: Settings, out: str, maps: Mapping[int, Any]) -> list[Plate]:
    """What lies behind the map of the latest year, and the elevations of all years."""
    latest = settings.years[-1]
    seen = {epsg: quicklook.open_quicklook(out, latest, epsg) for epsg in maps}
    glaciers = read_parts(f"{out}/inventory/{latest}.parquet", ("area_km2", "debris_area_km2", "geometry"))
    drawn = plates.draw_plates(maps, seen, glaciers, MODALITIES)
    hypsometries = {year: f"{out}/inventory/{year}-hypsometry.csv" for year in settings.years}
    chart = charts.area_by_elevation(hypsometries)
    return drawn if chart is None else [*drawn, chart]


def _file_rows(settings: Settings, out: str) -> Iterator[tuple[str, str]]:
    """Address and title of each file for other programs; those of a year stand once."""
    told = set()
    for year in settings.years:
        for epsg in mosaic.zones(out, year):
            for one in files.found_of(out, year, epsg):
                if one.href not in told:
                    told.add(one.href)
                    zone = f", EPSG:{epsg}" if one.href.startswith("cog/") else ""
                    yield one.href, f"{one.title}, {year}{zone}"


def _outlines(url: str) -> report.Outlines:
    """Of an inventory, which has the largest first: number, area and the rows that are shown."""
    count, area_km2, largest = 0, 0.0, []
    for part in read_parts(url, [name for name, _ in report.COLUMNS]):
        if count < report.LARGEST:
            largest.append(part.head(report.LARGEST - count))
        count += len(part)
        area_km2 += float(part["area_km2"].sum())
    return report.Outlines(count, area_km2, pd.concat(largest))


def _summary(settings: Settings, manifest: dict[str, Any], account: Account) -> dict[str, str]:
    pixel_km2 = (RESOLUTION_M / 1000.0) ** 2
    valid, inside = account.valid_pixels, account.pixels
    return {
        "Blocks": f"{account.blocks} of {manifest['context']['blocks']}, of {settings.block_px} px",
        "Mapped": f"{valid * pixel_km2:,.1f} km² of {inside * pixel_km2:,.1f} km²",
        "Not mapped": f"{(inside - valid) * pixel_km2:,.1f} km² where no scene was clear",
        "Years": ", ".join(map(str, settings.years)),
        "Season": f"{settings.season.start} to {settings.season.end}",
        "Tiles": f"{settings.tile_px} px, overlap {settings.model.overlap:g}",
        "Work": f"{sum(account.seconds.values()):,.0f} s over all blocks",
        "Catalogue": manifest["identity"]["catalogue"][:16],
        **_catalogs(manifest.get("catalogs", [])),
        **_sample(manifest),
    }


def _doubts(settings: Settings, out: str) -> dict[str, str]:
    """How many outlines look like seasonal snow."""
    lines = []
    for year in settings.years:
        words = Counter[str]()
        for part in read_parts(f"{out}/inventory/{year}.parquet", ("seasonal_snow",)):
            words.update(part["seasonal_snow"].dropna())
        if words:
            likely, doubtful = words[snow.LIKELY], words[snow.DOUBTFUL]
            lines.append(f"{year}: {likely} outlines likely, {doubtful} doubtful of {words.total()}")
    return {"Seasonal snow": "; ".join(lines)} if lines else {}


def _sample(manifest: dict[str, Any]) -> dict[str, str]:
    """What the principal components were fitted without."""
    gaps = sample_gaps(manifest)
    text = "; ".join(f"{name}: {cause}" for name, cause in gaps)
    return {"Principal components": f"fitted without {text}"} if gaps else {}


def _catalogs(record: list[dict[str, Any]]) -> dict[str, str]:
    """Where the scenes were found, and which catalogue failed before."""
    taken: dict[str, int] = {}
    for line in record:
        if line["outcome"] == "taken":
            taken[line["url"]] = taken.get(line["url"], 0) + line["items"]
    facts = {"Found in": ", ".join(f"{url} ({count} items)" for url, count in taken.items())}
    return {
        name: text for name, text in {**facts, "Fail-over": "; ".join(fail_overs(record))}.items() if text
    }


def _scene_row(use: SceneUse) -> report.SceneRow:
    return report.SceneRow(
        use.year, use.scene, use.preferred, use.read, use.blocks, use.clear_share, use.snow_share
    )


def _block_row(marker: Marker) -> report.BlockRow:
    best = next(share for share in marker.scene_choice if share.rank == 1)
    name = f"{marker.year}/{marker.epsg}/{marker.block.key}"
    return report.BlockRow(name, best.scene, 1.0 - best.cloud_share, best.snow_share, why(marker))


def _seams(settings: Settings, maps: dict[int, Any]) -> dict[str, Any]:
    """Across the borders of blocks and of tiles; 1 is what the interior looks like."""
    stride = stride_px(settings.tile_px, settings.model.overlap)
    borders = {f"blocks of {settings.block_px} px": settings.block_px, f"tiles every {stride} px": stride}
    return {name: seam_score_of_maps(maps, period) for name, period in borders.items() if period >= 18}


def _class_scores(scores: Scores) -> list[report.ClassScore]:
    columns = (scores.classes, scores.iou, scores.precision, scores.recall)
    return [report.ClassScore(n, float(i), float(p), float(r)) for n, i, p, r in zip(*columns, strict=True)]


def _coverage(account: Account) -> dict[str, float]:
    """Share of the region's pixels where each modality was present."""
    return {name: account.modality_pixels.get(name, 0) / (account.pixels or 1) for name in MODALITIES}


def _citation(settings: Settings, manifest: dict[str, Any]) -> str:
    years, version = ", ".join(map(str, settings.years)), manifest["versions"]["cryoscale"]
    return (
        f"{settings.name}: glacier classes and outlines of {years}, made with cryoscale {version} "
        f"(run {manifest['identity_sha256'][:16]}). Channels and network after "
        "Barzegar, Bolch, Kuehtreiber and Ullo (2026), arXiv:2605.21527."
    )


def _scenes(out: str, year: int) -> tuple[list[str], int]:
    """The first scenes of a year by source, time and name, and how many there are."""
    count = itertools.count()
    frozen = (
        (source, _moment(item["properties"]), item["id"], next(count))
        for source, item in snapshot.scan(f"{out}/items.parquet")
        if source.startswith((f"{year}/", "all/"))
    )
    return [name for _, _, name, _ in heapq.nsmallest(_SCENES_LINKED, frozen)], next(count)


def _moment(properties: dict[str, Any]) -> str:
    return str(properties.get("datetime") or properties.get("start_datetime") or "")


def write_catalog(settings: Settings, out: str, manifest: dict[str, Any]) -> None:
    """``OUT/catalog.json`` and its items."""
    season, scenes, further = {}, {}, {}
    for year in settings.years:
        start, end = settings.season.interval(year).split("/")
        season[year] = (datetime.fromisoformat(start), datetime.fromisoformat(end))
        first, count = _scenes(out, year)
        scenes[year], further[year] = [(name, None) for name in first], count - len(first)
    model = manifest["model"]
    record = stac.RunRecord(
        name=settings.name.replace(" ", "-"),
        description=f"Glacier classes and outlines of {settings.name}, mapped with {model['name']}.",
        season=season,
        scenes=scenes,
        further=further,
        model=stac.ModelRecord(
            name=str(model["name"]),
            architecture=str(model.get("architecture", model["name"])),
            channels=model["channels"],
            classes=model["classes"],
            tile_px=settings.tile_px,
            href=settings.model.weights,
            sha256=model["identity"]["sha256"],
        ),
        attributes={"cryoscale:simulated": True} if is_simulated(out) else {},
    )
    mosaics = {
        (year, epsg): mosaic.open_mosaic(out, year, epsg)
        for year in settings.years
        for epsg in mosaic.zones(out, year)
    }
    found = {zone: files.found_of(out, *zone) for zone in mosaics}
    stac.write_catalog(out, mosaics, replace(record, files=found))
