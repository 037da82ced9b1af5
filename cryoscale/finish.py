"""After the last block: coarser levels, outlines, inventory, map, report and STAC description.

All of it is made from what lies on disk, and anew at every call, so that a run that was completed later
ends like one that was never interrupted; :mod:`cryoscale.ending` knows when there is nothing to make.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from dask.system import CPU_COUNT

from cryoscale.cataloguing import write_catalog
from cryoscale.crew import Crew
from cryoscale.inventories import coverage_of, evidence_of, write_inventory
from cryoscale.ledger import Ledger
from cryoscale.reporting import write_report
from cryoscale.scenes import is_simulated
from cryoscale.settings import ClusterSpec, Settings
from cryoscale.write import files, mosaic, quicklook
from cryoscale.write import map as picture
from cryoscale.write.carried import KnownGlaciers, read_glaciers
from cryoscale.write.displacement import write_displacements
from cryoscale.write.perennial import write_perennial
from cryoscale.write.product import About
from cryoscale.write.succession import write_links
from cryoscale.write.vectors import read_parts


def finish(settings: Settings, out: str, stage: Callable[[str], None]) -> None:
    """Make everything that a finished run holds beside its blocks."""
    stage("making coarser levels of the map")
    for year in settings.years:
        for epsg in mosaic.zones(out, year):
            mosaic.build_levels(f"{out}/mosaic.zarr", year, epsg)
    redraw(settings, out, stage, settings.years, _processes(settings.cluster))


def _processes(spec: ClusterSpec) -> int:
    """How many may work on a run's end: its workers are gone by then, and the driver's machine is free.

    Dask's count of cores is that of a container where it is allowed fewer than there are.
    """
    if spec.kind == "local":
        return min(CPU_COUNT, spec.cpu_workers + spec.gpu_workers)
    return CPU_COUNT if _is_command() else 1


def _is_command() -> bool:
    """Whether the command runs: processes import the script that does, and for workers elsewhere it need not
    be guarded by ``if __name__ == "__main__":``."""
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    return script.name == "cryoscale" or script == Path(__file__).with_name("__main__.py")


def redraw(
    settings: Settings, out: str, stage: Callable[[str], None], years: Sequence[int], processes: int = 1
) -> dict[int, list[str]]:
    """Everything that follows from the map of some of a run's years; returns by year which files were made.

    Files that lie there are made anew, whether they are asked for or not: those of a year shall agree.
    Outlines are found, divided and described by up to ``processes``.
    """
    manifest = Ledger(out).manifest() or {}
    made: dict[int, list[str]] = {}
    rgi = read_glaciers(settings.known_glaciers, settings.region) if settings.known_glaciers else None
    known = None if rgi is None else KnownGlaciers(rgi)
    each = Crew(processes).each
    with _local(out) as folder:
        _fetch_inventories(out, folder, set(settings.years) - set(years))
        for year in years:
            stage(f"drawing the outlines of {year}")
            inventory = write_inventory(settings, out, folder, year, manifest, known, each)
            stage(f"drawing the map of {year}")
            name = "map.png" if year == settings.years[-1] else f"map-{year}.png"
            draw(settings, out, folder / name, year, inventory, manifest)
        stage("linking the years")
        if rgi is None:  # links to an RGI that was asked for another time would be taken for this one's
            for year in settings.years:
                Ledger(out).objects.delete(f"inventory/{year}-rgi_links.csv")
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
        for name in (f"{year}.parquet", f"{year}-fronts.parquet"):
            local, stored = folder / "inventory" / name, f"{root}/inventory/{name}"
            if not local.exists() and fs.exists(stored):
                local.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(stored, str(local))
