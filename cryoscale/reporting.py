"""What a run's report tells, gathered from its ledger, its maps and its inventories."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd

from cryoscale.dates import spelled
from cryoscale.features.stack import MODALITIES
from cryoscale.grid import RESOLUTION_M
from cryoscale.infer.tiles import stride_px
from cryoscale.inventories import corrections_of
from cryoscale.learn.scores import Scores
from cryoscale.ledger import Ledger, Marker
from cryoscale.plan import fail_overs
from cryoscale.scenes import Account, SceneUse, account_of, is_simulated, sample_gaps, why
from cryoscale.settings import Settings
from cryoscale.write import (
    charts,
    files,
    mosaic,
    plates,
    quicklook,
    report,
    snow,
)
from cryoscale.write.seams import seam_score_of_maps
from cryoscale.write.sheet import Plate
from cryoscale.write.vectors import read_parts

_NOT_SHOWN = ("pca", "pca_sample", "identity", "channels")
"""Of the model's record: numbers, and what the report tells elsewhere."""


def write_report(
    settings: Settings,
    out: str,
    drawn: Sequence[Plate] | None = None,
    *,
    scores: Scores | None = None,
    baseline: Scores | None = None,
) -> None:
    """``OUT/report.html``, with what :func:`plates_of` has drawn, which is drawn here where it is not given.

    With ``scores`` where there is a truth to hold the map against.
    """
    manifest = Ledger(out).manifest() or {}
    account = account_of(_markers(out), keep=report.ROWS_SHOWN)
    choices, aside = account.scene_uses(), Ledger(out).set_asides()
    latest = settings.years[-1]
    maps = {epsg: mosaic.open_mosaic(out, latest, epsg, dask=False) for epsg in mosaic.zones(out, latest)}
    model = manifest["model"]
    judged = {model["name"]: scores, "band-ratio": baseline}
    fs, root = fsspec.core.url_to_fs(out)
    written = report.Report(
        title=settings.name,
        simulated=is_simulated(out),
        map_png=fs.cat_file(f"{root}/map.png"),
        map_caption=f"Classes and outlines, {latest}.",
        plates=plates_of(settings, out, out) if drawn is None else drawn,
        summary={
            **_summary(settings, manifest, account),
            **_doubts(settings, out),
            **_by_hand(settings, out),
        },
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


def plates_of(settings: Settings, out: str, beside: str | Path) -> list[Plate]:
    """What lies behind the map of the latest year, and the elevations of all years.

    Args:
        settings: of the run.
        out: the run, whose maps are read.
        beside: a folder or URL with its inventories.
    """
    latest, inventory = settings.years[-1], f"{beside}/inventory"
    zones, hand = mosaic.zones(out, latest), corrections_of(out, latest)
    drawn = plates.draw_plates(
        {epsg: hand.over(mosaic.open_mosaic(out, latest, epsg, dask=False), epsg) for epsg in zones},
        {epsg: quicklook.open_quicklook(out, latest, epsg) for epsg in zones},
        read_parts(f"{inventory}/{latest}.parquet", ("area_km2", "debris_area_km2", "geometry")),
        MODALITIES,
    )
    chart = charts.area_by_elevation({year: f"{inventory}/{year}-hypsometry.csv" for year in settings.years})
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
    return {
        "Blocks": f"{account.blocks} of {manifest['context']['blocks']}, of {settings.block_px} px",
        **_mapped(account),
        "Years": ", ".join(map(str, settings.years)),
        "Season": f"{settings.season.start} to {settings.season.end}",
        **_dates(settings),
        "Tiles": f"{settings.tile_px} px, overlap {settings.model.overlap:g}" + _gates(manifest["model"]),
        "Work": f"{sum(account.seconds.values()):,.0f} s over all blocks",
        "Catalogue": manifest["identity"]["catalogue"][:16],
        **_catalogs(manifest.get("catalogs", [])),
        **_sample(manifest),
    }


def _mapped(account: Account) -> dict[str, str]:
    """What of the region was mapped, year by year, since each year maps the same region."""
    if not account.pixels_of:  # every block was set aside
        return {"Mapped": "nothing"}
    pixel_km2 = (RESOLUTION_M / 1000.0) ** 2
    mapped, not_mapped = [], []
    for year, pixels in sorted(account.pixels_of.items()):
        valid = account.valid_pixels_of[year]
        mapped.append(f"{year}: {valid * pixel_km2:,.1f} km² of {pixels * pixel_km2:,.1f} km²")
        not_mapped.append(f"{year}: {(pixels - valid) * pixel_km2:,.1f} km²")
    return {
        "Mapped": "; ".join(mapped),
        "Not mapped": f"{'; '.join(not_mapped)}, where no scene was clear",
    }


def _dates(settings: Settings) -> dict[str, str]:
    """Which sources were taken from single days of the season."""
    named = [f"{name} {spelled(source.dates)}" for name, source in settings.sources.items() if source.dates]
    return {"Dates": "; ".join(named)} if named else {}


def _gates(model: Mapping[str, Any]) -> str:
    """Over how much ground they look, where tiles are larger."""
    px = model["identity"].get("squeeze_px")
    return "" if px is None else f", channel gates over {px} px"


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


def _by_hand(settings: Settings, out: str) -> dict[str, str]:
    """What people corrected in the maps that the outlines are drawn from."""
    found = {year: hand for year in settings.years if (hand := corrections_of(out, year))}
    lines = [f"{year}: {len(hand)} polygons of {hand.area_km2:,.2f} km²" for year, hand in found.items()]
    return {"Corrected by hand": "; ".join(lines)} if lines else {}


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
    """Share of the region's pixels, of all years together, where each modality was present."""
    pixels = sum(account.pixels_of.values()) or 1
    return {name: account.modality_pixels.get(name, 0) / pixels for name in MODALITIES}


def _citation(settings: Settings, manifest: dict[str, Any]) -> str:
    years, version = ", ".join(map(str, settings.years)), manifest["versions"]["cryoscale"]
    return (
        f"{settings.name}: glacier classes and outlines of {years}, made with cryoscale {version} "
        f"(run {manifest['identity_sha256'][:16]}). Channels and network after "
        "Barzegar, Bolch, Kuehtreiber and Ullo (2026), arXiv:2605.21527."
    )


def _markers(out: str) -> Iterator[Marker]:
    """The finished blocks, in any order."""
    return Ledger(out).markers()
