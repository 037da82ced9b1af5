"""``cryoscale outline``: the outlines of a finished run drawn again from its maps, with the files asked for.

Nothing is mapped, and neither catalogue, weights nor region file is needed: what the run was asked stands in
its own record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import shapely

from cryoscale import lease
from cryoscale.config import parse_config, resolve_path
from cryoscale.errors import InputError, SourceError
from cryoscale.finish import redraw
from cryoscale.learn.outlines import read_outlines
from cryoscale.ledger import Ledger
from cryoscale.results import Run
from cryoscale.room import room
from cryoscale.sealing import asked_of, kept_told, require_kept, seal
from cryoscale.settings import FILES, ModelSpec, Season, Settings, SourceSpec
from cryoscale.write import corrections as hand
from cryoscale.write.usable import require_usable


def outline(
    out: str,
    *,
    files: str | None = None,
    year: int | None = None,
    rgi: str | None = None,
    corrections: str | None = None,
    processes: int = 1,
    on_stage: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Draw outlines and inventory of the run at ``out`` again, and write files of them.

    Args:
        out: folder or URL of a finished run.
        files: names of :data:`cryoscale.settings.FILES` with commas between; None for those of the run. What
            lies there already is made anew with the rest, so that the files of a year agree.
        year: only this one; None for all.
        rgi: where the RGI's glaciers lie, if no longer where the run's configuration says.
        corrections: a file of polygons with a column ``class``, and perhaps ``year``, that are put over the
            maps for this and every later drawing, in the place of those that were; "none" takes them back,
            None leaves what is there.
        processes: how many may work on it. They import the script that is running, so that one that asks for
            more than one calls this under ``if __name__ == "__main__":``.
        on_stage: told what is being done.

    Returns:
        For ``--json``: where, which years and which files.

    Raises:
        InputError: no finished run lies there, it has no such year, a name is unknown, corrections are none,
            or nothing can be written there.
        SourceError: the file of corrections, or of the RGI, is not there or cannot be read.
    """
    run = Run(out)
    kinds = _kinds(files)
    years = run.years if year is None else (run.require_year(year),)
    run.require_finished()
    settings = settings_of(run, kinds, rgi)
    found = _corrections(corrections, run, settings) if corrections is not None else None
    if corrections is not None and years != run.years:
        raise InputError(
            f"--corrections with --year {year}",
            "outlines of all years drawn again, since the corrections are the run's",
            "leave --year out; a column 'year' says which year a correction is about",
        )
    require_usable(out)
    lease.refuse_driven(out)
    with room(out), lease.held(out):
        require_kept(out)
        if corrections is not None:
            hand.keep(out, found)
        with kept_told(out):
            written = redraw(settings, out, on_stage, years, processes)
        seal(out, settings)
    told = {"out": out, "years": list(years), "files": written}
    return told if corrections is None else {**told, "corrections": len(found or ())}


def _corrections(given: str, run: Run, settings: Settings) -> hand.Corrections | None:
    if given == "none":
        return None
    outlines = read_outlines(
        [Path(given)], "corrections", [settings.region], layer="corrections", anywhere=True
    )
    model: Any = run.manifest["model"]
    return hand.Corrections.of_frame(outlines.frame, model["classes"], f"corrections {given}")


def _kinds(files: str | None) -> tuple[str, ...] | None:
    if files is None:
        return None
    asked = [name.strip() for name in files.split(",") if name.strip()]
    if not asked or (unknown := [name for name in asked if name not in FILES]):
        raise InputError(
            f"--files {files!r}, with {', '.join(unknown) if asked else 'nothing in it'}",
            f"some of {', '.join(FILES)}, with commas between",
            "correct it",
        )
    return tuple(name for name in FILES if name in asked)


def settings_of(run: Run, kinds: Sequence[str] | None = None, rgi: str | None = None) -> Settings:
    """The run's settings as far as its end needs them, as its end was last made."""
    identity, document = run.manifest["identity"], run.manifest["config"]
    config = parse_config(document, f"{run.out}/run.json")
    outlines = config.outlines
    asked = asked_of(run.out) or {
        "min_area_km2": outlines.min_area_km2,
        "known_glaciers": outlines.rgi,
        "divides": outlines.divides,
        "files": outlines.files,
        "o1region": outlines.o1region,
    }
    known = rgi or asked["known_glaciers"]
    if known is not None:
        known = resolve_path(known, None)
        if not Path(known).is_file():
            raise SourceError(
                f"known glaciers {known}, which are not there",
                "the run's outlines.rgi",
                "say where with --rgi",
            )
    return Settings(
        name=run.manifest["name"],
        region=shapely.from_geojson(identity["region"]),
        years=run.years,
        season=Season(*identity["season"]),
        catalogs=(),
        sources={
            name: SourceSpec(
                collection=source[0],
                href=source[1],
                dates=tuple(map(date.fromisoformat, identity.get("dates", {}).get(name, ()))),
            )
            for name, source in identity["sources"].items()
        },
        model=ModelSpec(weights=_weights(run), name=config.model.name, overlap=identity["overlap"]),
        tile_px=identity["tile_px"],
        block_px=identity["block_px"],
        document=document,
        **{**asked, "known_glaciers": known, "files": tuple(asked["files"] if kinds is None else kinds)},
    )


def _weights(run: Run) -> str | None:
    """Where the weights lie by the run's own STAC item; its configuration may say so relative to itself."""
    name = str(run.manifest["name"]).replace(" ", "-")
    content = Ledger(run.out).objects.get(f"stac/{name}-model.json")
    asset = json.loads(content)["assets"]["model"] if content is not None else {}
    return None if asset.get("title") != "Weights" else str(asset["href"])
