"""``cryoscale archive``: years of finished runs in one store; :mod:`cryoscale.cli` takes it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cryoscale.options import JsonOption, OutArgument, output, print_json

if TYPE_CHECKING:
    from cryoscale.archive.index import Entry

app = typer.Typer(
    name="archive",
    help="Years and regions of finished runs in one store, and what changed between them.",
    no_args_is_help=True,
)

ArchiveOption = Annotated[
    str,
    typer.Option("--archive", "-a", envvar="CRYOSCALE_ARCHIVE", help="The archive's folder or URL."),
]
RegionOption = Annotated[str | None, typer.Option(help="Name of the region.")]


@app.command()
def add(
    run: OutArgument,
    archive: ArchiveOption = ".",
    region: Annotated[str | None, typer.Option(help="Name of the region; default: the run's.")] = None,
    year: Annotated[list[int] | None, typer.Option(help="Only this year; repeatable. Default: all.")] = None,
    new_version: Annotated[
        bool,
        typer.Option("--new-version", help="Add a year that is there with other content as a new version."),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Add the years of a finished run; begins the archive where the folder is empty."""
    from cryoscale.archive.adding import add as add_run
    from cryoscale.console import Console

    console = Console(quiet=json_)
    with console:
        done = add_run(
            output(archive),
            output(run),
            region=region,
            years=year or (),
            new_version=new_version,
            stage=console.stage,
        )
    if json_:
        print_json(done.to_dict())
        return
    for one in done.new:
        console.say(f"added {_line(one)}")
    for one in done.unchanged:
        console.say(f"unchanged, it is there already: {_line(one)}")


@app.command("list")
def list_(
    archive: ArchiveOption = ".",
    region: RegionOption = None,
    versions: Annotated[
        bool, typer.Option("--versions", help="Also what was superseded or withdrawn.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """List what an archive holds."""
    from cryoscale.archive.index import CURRENT, Archive

    index = Archive(output(archive)).read()
    found = [
        one for one in index.entries if (versions or one.state == CURRENT) and region in (None, one.region)
    ]
    if json_:
        print_json([one.model_dump(mode="json") for one in found])
        return
    typer.echo("\n".join(map(_line, found)) or "nothing")


@app.command()
def withdraw(
    year: Annotated[int, typer.Argument(help="The year to take out.")],
    region: Annotated[str, typer.Option(help="Name of the region.")],
    archive: ArchiveOption = ".",
    json_: JsonOption = False,
) -> None:
    """Take a year out of what is current; it stays readable as a version."""
    from cryoscale.archive.adding import withdraw as take_out

    gone = take_out(output(archive), region, year)
    if json_:
        print_json(gone.model_dump(mode="json"))
    else:
        typer.echo(f"withdrawn {_line(gone)}")


@app.command()
def verify(archive: ArchiveOption = ".", json_: JsonOption = False) -> None:
    """Prove an archive: every file of every version is there and is what was written."""
    from cryoscale.archive.checking import verify_archive

    proof = verify_archive(output(archive))
    if json_:
        print_json(proof.to_dict())
    else:
        for fault in proof.faults:
            typer.echo(f"{fault.where}: {fault.reason}")
        for name in proof.leftovers:
            typer.echo(f"{name}: left by an addition that did not end; the next one sweeps it")
        typer.echo(
            f"{proof.versions} versions, {proof.files} files, {proof.size_bytes / 1e6:,.1f} MB: "
            + ("all there and right" if proof.sound else f"{len(proof.faults)} faults")
        )
    raise typer.Exit(0 if proof.sound else 1)


@app.command()
def diff(
    older: Annotated[int, typer.Argument(help="The older year.")],
    newer: Annotated[int, typer.Argument(help="The newer year.")],
    archive: ArchiveOption = ".",
    region: Annotated[str | None, typer.Option(help="Only this region.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Where to write; default: change-<older>-<newer> here.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Say what changed between two years, on ground that both have seen: tables, maps and charts."""
    from cryoscale.archive.change import difference, regions
    from cryoscale.archive.index import Archive
    from cryoscale.archive.reported import require_own, write_changes
    from cryoscale.console import Console
    from cryoscale.write.usable import require_usable

    opened, target = Archive(output(archive)), output(out or f"change-{older}-{newer}")
    require_usable(target)
    require_own(target)
    console = Console(quiet=json_)
    with console:
        found = []
        for name in regions(opened, older, newer, region):
            console.stage(f"comparing {older} and {newer} of {name}")
            found.append(difference(opened, name, older, newer))
        write_changes(found, target)
    if json_:
        print_json([{"region": one.region, **one.total} for one in found])
        return
    for one in found:
        console.say(one.sentence())
    console.say(f"tables, maps and charts in {target}")


@app.command()
def export(
    out: Annotated[str, typer.Argument(help="A new folder or URL, or a file that ends in .gpkg.")],
    archive: ArchiveOption = ".",
    region: Annotated[str | None, typer.Option(help="Only this region.")] = None,
    year: Annotated[list[int] | None, typer.Option(help="Only this year; repeatable.")] = None,
    version: Annotated[int | None, typer.Option(help="A version of one region's year.")] = None,
    mosaics: Annotated[bool, typer.Option("--mosaics", help="Take the maps as well.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write outlines of regions and years with one table of stable ids."""
    from cryoscale.archive.exporting import export as write
    from cryoscale.archive.index import Archive

    target = output(out)
    made = write(
        Archive(output(archive)), target, region=region, years=year or (), version=version, mosaics=mosaics
    )
    if json_:
        print_json({"out": target, "files": made})
    else:
        typer.echo(target if made == [target] else f"{', '.join(made)} in {target}")


def _line(entry: Entry) -> str:
    low, high = entry.area_low_km2, entry.area_high_km2
    interval = f" ({low:,.1f} to {high:,.1f})" if low is not None and high is not None else ""
    return (
        f"{entry.region} {entry.year} version {entry.version} ({entry.state}): {entry.glaciers} glaciers, "
        f"{entry.area_km2:,.1f} km²{interval}, run {entry.run_id}, {entry.size_bytes / 1e6:,.1f} MB"
    )
