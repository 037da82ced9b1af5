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

import fsspec
from dask.system import CPU_COUNT

from cryoscale import drawings
from cryoscale.cataloguing import write_catalog
from cryoscale.crew import Crew
from cryoscale.drawings import Drawing
from cryoscale.inventories import coverage_of, evidence_of, write_inventory
from cryoscale.ledger import Ledger
from cryoscale.reporting import write_report
from cryoscale.settings import ClusterSpec, Settings
from cryoscale.write import files, mosaic
from cryoscale.write.carried import KnownGlaciers, read_glaciers
from cryoscale.write.displacement import write_displacements
from cryoscale.write.perennial import write_perennial
from cryoscale.write.sheet import Plate
from cryoscale.write.succession import write_links

MANY_PX = 4_000_000
"""Pixels of a map whose end takes long enough for others to be called before it is begun."""


def finish(settings: Settings, out: str, stage: Callable[[str], None]) -> None:
    """Make everything that a finished run holds beside its blocks."""
    with _crew(out, settings.years, _processes(settings.cluster, out)) as crew:
        stage("making coarser levels of the map")
        for year in settings.years:
            for epsg in mosaic.zones(out, year):
                mosaic.build_levels(f"{out}/mosaic.zarr", year, epsg, crew.each)
        _what_follows(settings, out, stage, settings.years, crew)


@contextmanager
def _crew(out: str, years: Sequence[int], processes: int) -> Iterator[Crew]:
    """Those who work on a run's end, under way already where there is much to do."""
    shapes = [mosaic.open_labels(out, year, epsg).shape for year in years for epsg in mosaic.zones(out, year)]
    with Crew(processes, drawings.__name__) as crew:
        if sum(rows * cols for rows, cols in shapes) >= MANY_PX:
            crew.call()
        yield crew


def _processes(spec: ClusterSpec, out: str) -> int:
    """How many may work on a run's end: its workers are gone by then, and the driver's machine is free.

    Dask's count of cores is that of a container where it is allowed fewer than there are.
    """
    if out.startswith("memory://"):  # which no other process sees
        return 1
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
    Outlines are found, divided and described, maps drawn and files written by up to ``processes``.
    """
    with _crew(out, years, processes) as crew:
        return _what_follows(settings, out, stage, years, crew)


def _what_follows(
    settings: Settings, out: str, stage: Callable[[str], None], years: Sequence[int], crew: Crew
) -> dict[int, list[str]]:
    manifest = Ledger(out).manifest() or {}
    rgi = read_glaciers(settings.known_glaciers, settings.region) if settings.known_glaciers else None
    known = None if rgi is None else KnownGlaciers(rgi)
    plates: list[Plate] = []
    with _local(out) as folder:
        _fetch_inventories(out, folder, set(settings.years) - set(years))
        for year in years:
            stage(f"drawing the outlines of {year}")
            write_inventory(settings, out, folder, year, manifest, known, crew.each)
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
        made = {year: sorted({*settings.files, *files.kinds_of(out, year)}) for year in years}

        def wanted() -> Iterator[Drawing]:
            for year in years:
                stage(f"drawing the map of {year}, writing files: {', '.join(made[year]) or 'none'}")
                yield from drawings.of_year(year, made[year], plates=year == settings.years[-1])

        for drawn in crew.each(drawings.Drawer(settings, out, folder, manifest), wanted()):
            plates += drawn
        for year in years:
            files.remove_stale(out, folder, year)
    stage("writing the report")  # it reads what now lies at its place
    write_report(settings, out, plates if settings.years[-1] in years else None)
    stage("writing the catalogue")
    write_catalog(settings, out, manifest)
    return made


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
    """Bring what years are linked and drawn together by into a local folder that is not the run's own."""
    fs, root = fsspec.core.url_to_fs(out)
    for year in years:
        for name in (f"{year}.parquet", f"{year}-fronts.parquet", f"{year}-hypsometry.csv"):
            local, stored = folder / "inventory" / name, f"{root}/inventory/{name}"
            if not local.exists() and fs.exists(stored):
                local.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(stored, str(local))
