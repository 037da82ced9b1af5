"""``cryoscale view``: the web page on a finished run; :mod:`cryoscale.cli` takes it among its own."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from cryoscale.options import OutArgument, output

if TYPE_CHECKING:
    from cryoscale.view.shown import Shown

app = typer.Typer()

_LIBRARIES = ("fastapi", "maplibre", "rio_tiler", "uvicorn")


@app.command()
def view(
    out: OutArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On loopback; 0 for any.")] = 8765,
    open_: Annotated[
        bool, typer.Option("--open/--no-browser", help="Open it in the browser, or only print its address.")
    ] = True,
) -> None:
    """Look at a finished run: its maps, outlines and years on a web page of this machine, offline."""
    shown = shown_of(output(out))
    _require_libraries()
    from cryoscale.view.serving import open_page, serve

    def ready(address: str) -> None:
        typer.echo(f"{shown.name}: {address}  (Ctrl-C ends it)")
        if open_:
            open_page(address)

    serve(shown, port, ready)


def shown_of(out: str) -> Shown:
    """What the page shows of the run at ``out``.

    Raises:
        SourceError: no finished run lies there, or not all of its maps.
    """
    from cryoscale.errors import SourceError
    from cryoscale.ledger import SEAL
    from cryoscale.results import Run
    from cryoscale.scenes import is_simulated
    from cryoscale.view.shown import Shown

    run = Run(out)
    manifest = run.manifest
    run.require_finished()
    note = (
        f"Mapped by cryoscale {manifest['versions']['cryoscale']}, model {manifest['model']['name']}, "
        f"run {str(manifest['identity_sha256'])[:16]}"
    )
    shown = Shown(manifest["name"], dict.fromkeys(run.years, out), note, is_simulated(out), SEAL)
    for year, zones in shown.zones.items():
        if not zones:
            raise SourceError(
                f"{out}, a finished run without its map of {year}",
                "mosaic.zarr with every year",
                "bring it back, or start the run again, which makes what is not there",
            )
    return shown


def _require_libraries() -> None:
    from cryoscale.errors import ExtraError

    absent = [name for name in _LIBRARIES if find_spec(name) is None]
    if absent:
        raise ExtraError(
            f"cryoscale view, without {', '.join(absent)}", "the extra view", "pip install 'cryoscale[view]'"
        )
