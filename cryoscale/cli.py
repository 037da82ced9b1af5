"""The command line. Heavy libraries are imported inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import errno
import io
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cryoscale.cli_archive import app as archive
from cryoscale.cli_kube import NamespaceOption, detach, submission
from cryoscale.cli_kube import app as on_kubernetes
from cryoscale.cli_learn import app as learning
from cryoscale.cli_plan import app as planning
from cryoscale.cli_view import app as viewing
from cryoscale.options import ConfigArgument, JsonOption, OutArgument, output, print_json

if TYPE_CHECKING:
    from cryoscale.outcome import Outcome
    from cryoscale.session import OnEvent

app = typer.Typer(
    name="cryoscale",
    help="Map glaciers of whole mountain ranges: from a STAC query to a Zarr map and outlines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(planning)
app.add_typer(learning)
app.add_typer(archive)
app.add_typer(viewing)
app.add_typer(on_kubernetes)


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Where to put the run.")] = "cryoscale-demo",
    size: Annotated[str, typer.Option(help="tiny, small, medium or large.")] = "small",
    years: Annotated[int, typer.Option(min=1, max=20, help="How many years to simulate and map.")] = 1,
    seed: Annotated[int, typer.Option(help="Which mountain range.")] = 7,
    json_: JsonOption = False,
) -> None:
    """Simulate a mountain range, map it offline, and score the map against the truth."""
    from cryoscale.console import Console
    from cryoscale.demo import run_demo

    console = Console(quiet=json_)
    with console:
        result = run_demo(
            out, size=size, years=years, seed=seed, on_progress=console.progress, on_stage=console.stage
        )
    if json_:
        print_json(result.to_dict())
    else:
        console.demo(result)
    raise typer.Exit(result.outcome.exit_code)


@app.command()
def run(
    config: ConfigArgument,
    out: Annotated[str, typer.Option(help="Output folder or fsspec URL.")],
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh",
            help="Search again first and print what is new, gone or changed; then nothing is started, as one "
            "map is made from one catalogue.",
        ),
    ] = False,
    new_run: Annotated[
        bool,
        typer.Option("--new-run", help="Begin anew: what another or the same run made in --out is deleted."),
    ] = False,
    redo: Annotated[
        str, typer.Option(help="Do the blocks again that meet W,S,E,N (degrees) or the polygons of a file.")
    ] = "",
    retry_set_aside: Annotated[
        bool, typer.Option("--retry-set-aside", help="Try the blocks again that were set aside.")
    ] = False,
    slice_: Annotated[
        str,
        typer.Option(
            "--slice",
            metavar="I/N",
            help="Drive only slice I of N, from 0, beside the others; auto: by JOB_COMPLETION_INDEX and "
            "CRYOSCALE_SLICES.",
        ),
    ] = "",
    log: Annotated[
        str, typer.Option(help="Append what happens to this file as JSON lines; - for stderr.")
    ] = "",
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve metrics for Prometheus on this port; 0 for any."),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="On which interface.")] = "127.0.0.1",
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Serve Dask's dashboard of a local cluster, on loopback.")
    ] = False,
    detached: Annotated[
        bool,
        typer.Option(
            "--detach", help="Have a Job on Kubernetes drive the run; this command only submits it."
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Map a region; run again to complete what was interrupted, from the scenes that were found first."""
    from cryoscale.config import load_config
    from cryoscale.console import Console
    from cryoscale.pipeline import Again
    from cryoscale.pipeline import run as run_pipeline
    from cryoscale.region import parse_region
    from cryoscale.session import View
    from cryoscale.signals import stopping
    from cryoscale.slices import Slice

    if detached:
        again_and_again = {"--refresh": refresh, "--new-run": new_run, "--redo": redo, "--log": log}
        unseen = {"--slice": slice_, "--dashboard": dashboard, "--metrics-port": metrics_port is not None}
        options = ["--retry-set-aside"] if retry_set_aside else []
        made = detach(config, output(out), options, again_and_again | unseen)
        if json_:
            print_json(asdict(made))
        else:
            typer.echo("\n".join(made.lines()))
        return
    console = Console(quiet=json_)
    found: dict[str, Any] = {}
    with console, stopping() as stop, _listening(log, metrics_host, metrics_port) as (on_event, metrics):
        settings = load_config(config)
        again = Again(new_run, parse_region(redo) if redo else None, retry_set_aside)
        part = Slice.parse(slice_) if slice_ else None
        if refresh and not new_run:  # which searches anew, whatever was found before
            from cryoscale.preparation import look_again, refuse_to_mix

            changes = look_again(settings, output(out))
            found = {"refresh": changes.to_dict() if changes is not None else None}
            console.changes(changes)
            if changes and json_:
                print_json({"out": output(out), **found})
            refuse_to_mix(changes, output(out))
        outcome = run_pipeline(
            settings,
            output(out),
            again=again,
            part=part,
            on_progress=console.progress,
            on_stage=console.stage,
            on_event=on_event,
            stop=stop,
            view=View(dashboard, metrics),
        )
    _report(outcome, console, json_, found)


@contextmanager
def _listening(log: str, host: str, port: int | None) -> Iterator[tuple[OnEvent, str]]:
    """A listener for a run's events that feeds what was asked for, and the address of its metrics."""
    from cryoscale import journal, metrics

    listeners: list[OnEvent] = []
    address = ""
    with ExitStack() as stack:
        if log:
            listeners.append(stack.enter_context(journal.kept(log)).event)
        if port is not None:
            served, address = stack.enter_context(metrics.served(host, port))
            listeners.append(served.event)

        def tell(name: str, facts: Mapping[str, Any]) -> None:
            for listener in listeners:
                listener(name, facts)

        yield tell, address


def _report(outcome: Outcome, console: Any, as_json: bool, more: dict[str, Any]) -> None:
    if as_json:
        print_json({**outcome.to_dict(), **more})
    else:
        console.outcome(outcome)
    raise typer.Exit(outcome.exit_code)


@app.command()
def status(
    out: OutArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every 2 seconds until nobody drives the run.")
    ] = False,
    job: Annotated[
        bool, typer.Option("--job", help="Say as well what the Job of run --detach and its pods do.")
    ] = False,
    namespace: NamespaceOption = None,
    json_: JsonOption = False,
) -> None:
    """Say who drives a run, how far and how quick it is, and what was set aside and why."""
    from cryoscale.console import Console
    from cryoscale.errors import SourceError
    from cryoscale.ledger import Ledger
    from cryoscale.results import Run
    from cryoscale.watch import Watcher

    submitted = submission(output(out), namespace) if job else None
    console = Console()
    if submitted is not None and not json_:
        console.say("\n".join(submitted.lines()))
    seen = Watcher(Run(output(out)))
    try:
        seen.run.manifest  # noqa: B018 - which raises where there is none
    except SourceError:
        if submitted is None or submitted.job is None or Ledger(seen.run.out).is_begun():
            raise
        if json_:
            print_json({"job": submitted.to_dict()})
        return  # its driver has not begun
    if not watch:
        frame = seen.frame()
        if not json_:
            console.say("\n".join(frame.lines()))
        state = seen.run.status()
        if json_:
            told = {"job": submitted.to_dict()} if submitted is not None else {}
            print_json({**state.to_dict(), "causes": frame.caused(), "driver": frame.live.to_dict(), **told})
        else:
            console.totals(state, frame.scenes_failed)
        raise typer.Exit(1 if state.set_aside else 0)
    with suppress(KeyboardInterrupt):  # how one stops to watch; the run goes on
        if json_:
            seen.read()
            for frame in seen.frames():
                sys.stdout.write(json.dumps(frame.to_dict()) + "\n")
                sys.stdout.flush()
        else:
            console.watching(seen.frames())
    raise typer.Exit(1 if seen.frame().set_aside else 0)


@app.command()
def verify(out: OutArgument, json_: JsonOption = False) -> None:
    """Prove a run: every planned block is there and is what was written, and outlines and STAC agree."""
    from cryoscale.console import Console
    from cryoscale.results import Run

    found = Run(output(out)).verify()
    if json_:
        print_json(found.to_dict())
    else:
        Console().verification(found)
    raise typer.Exit(0 if found.sound else 1)


@app.command()
def outline(
    out: OutArgument,
    files: Annotated[
        str | None,
        typer.Option(help="Which: product,pmtiles,kmz,cog,shapefile; default: those of the configuration."),
    ] = None,
    year: Annotated[int | None, typer.Option(help="Only this one of the years that were mapped.")] = None,
    rgi: Annotated[
        str | None, typer.Option(help="Where outlines.rgi lies now, if not where the run looked for it.")
    ] = None,
    corrections: Annotated[
        str | None,
        typer.Option(
            metavar="<file|none>",
            help="Polygons with a column class that win over the map; kept by the run. none: take them back.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Draw the outlines of a finished run again from its maps, and write them as files for other programs."""
    from dask.system import CPU_COUNT

    from cryoscale.console import Console
    from cryoscale.redraw import outline as draw_again

    console = Console(quiet=json_)
    with console:
        made = draw_again(
            output(out),
            files=files,
            year=year,
            rgi=rgi,
            corrections=corrections,
            processes=CPU_COUNT,
            on_stage=console.stage,
        )
    if json_:
        print_json(made)
    else:
        for mapped, kinds in made["files"].items():
            console.say(f"{mapped}: inventory and {', '.join(kinds) or 'no further files'}")


@app.command()
def features(
    config: ConfigArgument,
    out: Annotated[str, typer.Option(help="Zarr store to write.")],
    json_: JsonOption = False,
) -> None:
    """Write the 30-channel stack itself, one group a year and zone."""
    from cryoscale.config import load_config
    from cryoscale.console import Console

    console = Console(quiet=json_)
    with console:
        settings = load_config(config)
        from cryoscale.featurise import write_features

        summary = write_features(settings, output(out), on_stage=console.stage)
    if json_:
        print_json(summary)
    else:
        for scene, cause in summary["scenes_failed"]:
            console.say(f"scene not read: {scene}: {cause}")
        console.say(f"{summary['blocks']} blocks of {len(summary['channels'])} channels in {summary['out']}")


@app.command()
def bench(
    workloads: Annotated[
        list[str] | None, typer.Argument(metavar="[WORKLOAD]...", help="Which stages; all if none is named.")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="tiny, moderate or full (with the paper's network).")
    ] = "moderate",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Add the measurement to this file of JSON lines.")] = None,
    timeline: Annotated[
        Path | None, typer.Option(help="Draw the stages of the end-to-end run into this PNG.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Measure this machine's speed stage by stage, beside its limits and what others would use."""
    from cryoscale.bench.suite import measure
    from cryoscale.bench.table import text
    from cryoscale.console import Console

    console = Console(quiet=json_)
    with console:
        made = measure(
            workloads or (), scale, device=device, out=out, timeline=timeline, on_stage=console.stage
        )
    if json_:
        print_json(made.line())
    else:
        typer.echo(text(made.line()))


def main() -> None:
    """Entry point: errors made for people are one line on stderr and their own exit code."""
    import cryoscale.collecting  # noqa: F401 - before all that is heavy
    from cryoscale.errors import CryoscaleError

    # rasterio silences its rasters in memory for itself, in a way that threads take from each other
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a locale has no letter for is no reason to end
            stream.reconfigure(errors="replace")
    try:
        app()
    except CryoscaleError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        # A path that cannot be used and a full disk reach us as they are; they are no bug of ours.
        where = f" {error.filename}" if error.filename else ""
        unusable = error.errno in (
            errno.ENOENT,
            errno.ENOTDIR,
            errno.EISDIR,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
        )
        todo = "give a path that can be used" if unusable else "mend it and run again: what is done is kept"
        _fail(f"{error.strerror or error}{where}; {todo}", 2 if unusable else 1)
    except KeyboardInterrupt:
        _fail("interrupted; start the same command again", 130)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"cryoscale: {' '.join(message.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
