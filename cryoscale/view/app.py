"""The server behind the page: FastAPI (https://fastapi.tiangolo.com/) over tiles, outlines and assets.

Nothing is asked from anywhere else: MapLibre GL JS (https://maplibre.org/maplibre-gl-js/docs/) comes out of
the wheel ``maplibre``, and the page is forbidden to fetch from other hosts.
"""

from __future__ import annotations

import importlib.util
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from rasterio.errors import NotGeoreferencedWarning
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from cryoscale.view.outlines import Outlines
from cryoscale.view.shown import Shown
from cryoscale.view.tiles import (
    CONFIDENCE_SCALE,
    LAYERS,
    MEDIA_TYPES,
    TILE_PX,
    ZOOMS,
    Tiles,
    confidence_colours,
)
from cryoscale.write.map import CLASS_STYLE

PAGE = Path(__file__).parent / "page"
LIBRARY_FILES = ("maplibre-gl.js", "maplibre-gl.css")

_POLICY = "default-src 'self'; img-src 'self' blob: data:; worker-src blob:; child-src blob:"
"""What MapLibre needs (https://maplibre.org/maplibre-gl-js/docs/#csp-directives); nothing from outside."""


_GONE = "The run was drawn again, moved or deleted while it was shown: end cryoscale view and start it again."
_LOOK_EVERY_S = 1.0


class _Same:
    """Whether the runs are still those that the page was begun with, of which much is remembered."""

    def __init__(self, shown: Shown) -> None:
        self._shown, self._begun = shown, shown.seals()
        self._looked, self._is_same = time.monotonic(), True

    def __call__(self, *, now: bool = False) -> bool:
        """As it was a second ago, or ``now``; once they are others, for good."""
        if self._is_same and (now or time.monotonic() - self._looked > _LOOK_EVERY_S):
            self._is_same, self._looked = self._shown.seals() == self._begun, time.monotonic()
        return self._is_same


def application(shown: Shown) -> FastAPI:
    """The page, its assets, tiles and tables; read only.

    Tiles and tables are 410 with a ``detail`` for people once the run is another than at the beginning.
    """
    # rio-tiler silences it for itself, in a way that threads take from each other
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    tiles, outlines, same = Tiles(shown), Outlines(shown), _Same(shown)
    # what the first picture needs is read and compiled while the browser is still starting
    threading.Thread(target=tiles.warm, daemon=True, name="view-warm").start()
    app = FastAPI(title=f"cryoscale view: {shown.name}", docs_url=None, redoc_url=None, openapi_url=None)
    # no other site may speak to it through a name that it lets point here
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])

    route = partial(app.api_route, methods=["GET", "HEAD"])

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        drawn = request.url.path.startswith(("/api/", "/tiles/", "/outlines/"))
        if drawn and not await run_in_threadpool(same):
            response: Response = JSONResponse({"detail": _GONE}, 410)
        else:
            try:
                response = await answer(request)
            except Exception:
                if await run_in_threadpool(same, now=True):
                    raise
                response = JSONResponse({"detail": _GONE}, 410)
        response.headers["Content-Security-Policy"] = _POLICY
        # another run that is shown next has the same addresses
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    @route("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @route("/library/{name}")
    def library(name: str) -> FileResponse:
        if name not in LIBRARY_FILES:
            raise HTTPException(404)
        return FileResponse(library_folder() / name, headers={"Cache-Control": "max-age=86400"})

    @route("/api/shown")
    def what() -> JSONResponse:
        return JSONResponse(described(shown, outlines))

    @route("/tiles/{layer}/{year}/{zoom}/{column}/{row}")
    def tile(layer: str, year: int, zoom: int, column: int, row: int) -> Response:
        drawn = tiles.draw(layer, year, (zoom, column, row)) if layer in LAYERS else None
        if drawn is None:
            raise HTTPException(404)
        return Response(drawn, media_type=MEDIA_TYPES[layer])

    @route("/outlines/{year}/{zoom}/{column}/{row}")
    def outline(year: int, zoom: int, column: int, row: int) -> Response:
        found = outlines.tile(year, (zoom, column, row))
        if found is None:
            raise HTTPException(404)
        zipped = {"Content-Encoding": "gzip"}
        return Response(found, media_type="application/vnd.mapbox-vector-tile", headers=zipped)

    @route("/api/areas/{year}")
    def areas(year: int, since: int | None = None) -> JSONResponse:
        return JSONResponse(outlines.areas(year, since))

    @route("/api/glaciers/{identity}")
    def glacier(identity: str, year: int | None = None) -> JSONResponse:
        found = outlines.glacier(identity, year)
        if found is None:
            raise HTTPException(404, f"no glacier {identity}")
        return JSONResponse(found)

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def library_folder() -> Path:
    """Where the wheel ``maplibre`` has MapLibre's own files; to import it would warn of what it lacks."""
    spec = importlib.util.find_spec("maplibre")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "srcjs"


def described(shown: Shown, outlines: Outlines) -> dict[str, Any]:
    """What the page has to know before it draws anything."""
    return {
        "name": shown.name,
        "note": shown.note,
        "simulated": shown.simulated,
        "years": list(shown.years),
        "bounds": shown.bounds_deg,
        "zoneCodes": sorted({epsg for codes in shown.zones.values() for epsg in codes}),
        "tilePx": TILE_PX,
        "zooms": ZOOMS,
        "outlined": [year for year in shown.years if outlines.has_tiles(year)],
        "classes": [
            {"value": value, "name": name, "colour": colour, "opacity": opacity}
            for value, (name, colour, opacity) in CLASS_STYLE.items()
        ],
        "confidence": {"scale": CONFIDENCE_SCALE, "colours": [list(c[:3]) for c in confidence_colours(9)]},
        "columns": {
            name: {
                "label": told.get("long_name", name),
                "about": told.get("description", ""),
                "units": told.get("units", ""),
            }
            for name, told in shown.columns.items()
        },
    }
