"""After the last block: coarser levels, outlines, inventory, map, report and STAC description.

All of it is made from what lies on disk, and made anew at every call, so that a run that was
completed later ends like one that was never interrupted.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import geopandas

from cryoscale.features.stack import MODALITIES
from cryoscale.grid import RESOLUTION_M
from cryoscale.infer.tiles import stride_px
from cryoscale.learn.scores import Scores
from cryoscale.ledger import Ledger, Marker
from cryoscale.plan import fail_overs
from cryoscale.read import snapshot
from cryoscale.scenes import sample_gaps, scene_uses, why
from cryoscale.settings import Settings
from cryoscale.write import map as picture
from cryoscale.write import mosaic, outlines, quicklook, report, stac
from cryoscale.write.seams import seam_score_of_maps

_NOT_SHOWN = ("pca", "pca_sample", "identity", "channels")
"""Of the model's record: numbers, and what the report tells elsewhere."""


def finish(settings: Settings, out: str, stage: Callable[[str], None]) -> None:
    """Make everything that a finished run holds beside its blocks."""
    manifest = Ledger(out).manifest() or {}
    stage("making coarser levels of the map")
    for year in settings.years:
        for epsg in mosaic.zones(out, year):
            mosaic.build_levels(f"{out}/mosaic.zarr", year, epsg)
    with _local(out) as folder:
        for year in settings.years:
            stage(f"drawing the outlines of {year}")
            glaciers = write_inventory(settings, out, folder, year, manifest)
            stage(f"drawing the map of {year}")
            name = "map.png" if year == settings.years[-1] else f"map-{year}.png"
            draw(settings, out, folder / name, year, glaciers, manifest)
    stage("writing the report")  # it reads what now lies at its place
    write_report(settings, out)
    stage("writing the catalogue")
    write_catalog(settings, out, manifest)


def write_inventory(
    settings: Settings, out: str, folder: Path, year: int, manifest: dict[str, Any]
) -> geopandas.GeoDataFrame:
    """Outlines of one year over all zones, as ``inventory/<year>.parquet`` and ``.gpkg`` under ``folder``."""
    maps = {epsg: mosaic.open_mosaic(out, year, epsg) for epsg in mosaic.zones(out, year)}
    glaciers = outlines.polygonise(
        maps,
        min_area_km2=settings.min_area_km2,
        year=year,
        model=str(manifest["model"]["name"]),
        run_id=str(manifest["identity_sha256"])[:16],
    )
    debris = outlines.debris_polygons(maps, glaciers)
    inventory = folder / "inventory"
    outlines.write_inventory(
        glaciers, inventory / f"{year}.parquet", inventory / f"{year}.gpkg", debris=debris
    )
    return glaciers


def draw(
    settings: Settings,
    out: str,
    path: Path,
    year: int,
    glaciers: geopandas.GeoDataFrame,
    manifest: dict[str, Any],
) -> None:
    """The picture of one year."""
    zones = mosaic.zones(out, year)
    maps = {epsg: mosaic.open_overview(out, year, epsg) for epsg in zones}
    seen = {epsg: quicklook.open_quicklook(out, year, epsg) for epsg in zones}
    caption = f"Model {manifest['model']['name']}; season {settings.season.start} to {settings.season.end}."
    if is_simulated(out):
        caption = f"Simulated imagery: no real place. {caption}"
    picture.draw_map(path, maps, glaciers, background=seen, title=f"{settings.name}, {year}", caption=caption)


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


def is_simulated(out: str) -> bool:
    """Whether any scene of the run says of itself that it is simulated."""
    items = snapshot.thaw(f"{out}/items.parquet")
    return any(item.properties.get("cryoscale:simulated") for found in items.values() for item in found)


def write_report(
    settings: Settings, out: str, *, scores: Scores | None = None, baseline: Scores | None = None
) -> None:
    """``OUT/report.html``; with ``scores`` where there is a truth to hold the map against."""
    manifest = Ledger(out).manifest() or {}
    markers = list(Ledger(out).done().values())
    maps = {
        year: {epsg: mosaic.open_mosaic(out, year, epsg) for epsg in mosaic.zones(out, year)}
        for year in settings.years
    }
    model = manifest["model"]
    judged = {model["name"]: scores, "band-ratio": baseline}
    fs, root = fsspec.core.url_to_fs(out)
    written = report.Report(
        title=settings.name,
        simulated=is_simulated(out),
        map_png=fs.cat_file(f"{root}/map.png"),
        map_caption=f"Classes and outlines, {settings.years[-1]}.",
        summary=_summary(settings, manifest, markers),
        timings_s=_seconds(markers),
        seams=_seams(settings, maps),
        scores={name: _class_scores(found) for name, found in judged.items() if found is not None},
        truth="the simulator's labels" if scores is not None else "",
        outlines={year: geopandas.read_parquet(f"{out}/inventory/{year}.parquet") for year in settings.years},
        scenes_read=sorted({scene for marker in markers for scene in marker.scenes_read}),
        scenes_failed=sorted({scene for marker in markers for scene in marker.scenes_failed}),
        choices=_choices(markers),
        choice_of_blocks=_choice_of_blocks(markers),
        blocks_set_aside=[
            (f"{s.year}/{s.epsg}/{s.block.key}", s.reason) for s in Ledger(out).set_asides().values()
        ],
        modalities=_coverage(markers),
        model={key: value for key, value in model.items() if key not in _NOT_SHOWN},
        citation=_citation(settings, manifest),
        made=f"{manifest['created']}, cryoscale {manifest['versions']['cryoscale']}",
    )
    report.write_report(out, written)


def _summary(settings: Settings, manifest: dict[str, Any], markers: list[Marker]) -> dict[str, str]:
    pixel_km2 = (RESOLUTION_M / 1000.0) ** 2
    valid, inside = sum(m.valid_pixels for m in markers), sum(m.pixels for m in markers)
    busy = _seconds(markers)
    return {
        "Blocks": f"{len(markers)} of {manifest['context']['blocks']}, of {settings.block_px} px",
        "Mapped": f"{valid * pixel_km2:,.1f} km² of {inside * pixel_km2:,.1f} km²",
        "Not mapped": f"{(inside - valid) * pixel_km2:,.1f} km² where no scene was clear",
        "Years": ", ".join(map(str, settings.years)),
        "Season": f"{settings.season.start} to {settings.season.end}",
        "Tiles": f"{settings.tile_px} px, overlap {settings.model.overlap:g}",
        "Work": f"{sum(busy.values()):,.0f} s over all blocks",
        "Catalogue": manifest["identity"]["catalogue"][:16],
        **_catalogs(manifest.get("catalogs", [])),
        **_sample(manifest),
    }


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


def _choices(markers: list[Marker]) -> list[report.SceneRow]:
    return [
        report.SceneRow(
            use.year, use.scene, use.preferred, use.read, use.blocks, use.clear_share, use.snow_share
        )
        for use in scene_uses(markers)
    ]


def _choice_of_blocks(markers: list[Marker]) -> list[report.BlockRow]:
    rows = []
    for marker in sorted(markers, key=lambda m: (m.year, m.epsg, m.row, m.col)):
        best = next((share for share in marker.scene_choice if share.rank == 1), None)
        if best is not None:
            name = f"{marker.year}/{marker.epsg}/{marker.block.key}"
            rows.append(
                report.BlockRow(name, best.scene, 1.0 - best.cloud_share, best.snow_share, why(marker))
            )
    return rows


def _seconds(markers: list[Marker]) -> dict[str, float]:
    total: dict[str, float] = {}
    for marker in markers:
        for name, value in marker.seconds.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _seams(settings: Settings, maps: dict[int, dict[int, Any]]) -> dict[str, Any]:
    """Across the borders of blocks and of tiles; 1 is what the interior looks like."""
    stride = stride_px(settings.tile_px, settings.model.overlap)
    borders = {f"blocks of {settings.block_px} px": settings.block_px, f"tiles every {stride} px": stride}
    latest = maps[settings.years[-1]]
    return {name: seam_score_of_maps(latest, period) for name, period in borders.items() if period >= 18}


def _class_scores(scores: Scores) -> list[report.ClassScore]:
    columns = (scores.classes, scores.iou, scores.precision, scores.recall)
    return [report.ClassScore(n, float(i), float(p), float(r)) for n, i, p, r in zip(*columns, strict=True)]


def _coverage(markers: list[Marker]) -> dict[str, float]:
    """Share of the region's pixels where each modality was present."""
    inside = sum(marker.pixels for marker in markers) or 1
    return {name: sum(m.modality_pixels.get(name, 0) for m in markers) / inside for name in MODALITIES}


def _citation(settings: Settings, manifest: dict[str, Any]) -> str:
    years, version = ", ".join(map(str, settings.years)), manifest["versions"]["cryoscale"]
    return (
        f"{settings.name}: glacier classes and outlines of {years}, made with cryoscale {version} "
        f"(run {manifest['identity_sha256'][:16]}). Channels and network after "
        "Barzegar, Bolch, Kuehtreiber and Ullo (2026), arXiv:2605.21527."
    )


def write_catalog(settings: Settings, out: str, manifest: dict[str, Any]) -> None:
    """``OUT/catalog.json`` and its items."""
    items = snapshot.thaw(f"{out}/items.parquet")
    scenes = {}
    season = {}
    for year in settings.years:
        used = [
            item for key, found in items.items() if key.startswith((f"{year}/", "all/")) for item in found
        ]
        scenes[year] = [(item.id, item.get_self_href()) for item in used]
        start, end = settings.season.interval(year).split("/")
        season[year] = (datetime.fromisoformat(start), datetime.fromisoformat(end))
    model = manifest["model"]
    record = stac.RunRecord(
        name=settings.name.replace(" ", "-"),
        description=f"Glacier classes and outlines of {settings.name}, mapped with {model['name']}.",
        season=season,
        scenes=scenes,
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
    stac.write_catalog(out, mosaics, record)
