"""The blocks of a plan on a map: GeoJSON in WGS 84, written as a stream."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from cryoscale.forecast.plan import Area, Plan
from cryoscale.forecast.windows import Floats, Windows
from cryoscale.grid import transformer, turned
from cryoscale.region import on_globe


def write_geojson(plan: Plan, path: str | os.PathLike[str]) -> int:
    """The blocks as GeoJSON features in WGS 84, one a line, kept and dropped; returns how many.

    A block over the antimeridian comes in two parts (RFC 7946, 3.1.9).
    """
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    written = 0
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [\n')
            for area in plan.areas:
                for line in _features(area):
                    file.write((",\n" if written else "") + line)
                    written += 1
            file.write("\n]}\n")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return written


def _features(area: Area) -> Iterator[str]:
    kept, dropped = area.selection.blocks, sorted(area.selection.dropped.items())
    every = [*kept, *(block for block, _ in dropped)]
    if not every:
        return
    rings = _rings(Windows.of(area.zone.epsg, every))
    fetched = area.fetched
    for n, (block, ring) in enumerate(zip(every, rings, strict=True)):
        properties: dict[str, Any] = {"key": block.key, "zone": block.epsg, "candidate": n < len(kept)}
        if n < len(kept):
            properties |= {
                "reason": None,
                "scenes": round(float(fetched.scenes[n])),
                "tiles": int(area.tiles[n]),
                "fetches": round(float(fetched.fetches[n])),
                "bytes": round(float(fetched.fetched_bytes[n])),
            }
        else:
            properties |= {"reason": dropped[n - len(kept)][1]}
        feature = {"type": "Feature", "geometry": _geometry(ring), "properties": properties}
        yield json.dumps(feature, separators=(",", ":"))


def _rings(windows: Windows) -> Floats:
    """Longitudes and latitudes (n, 5, 2) of the corners, anticlockwise; beyond 180 rather than torn."""
    west, south, east, north = windows.bounds_m().T
    x = np.column_stack([west, east, east, west, west])
    y = np.column_stack([south, south, north, north, south])
    lon, lat = transformer(f"EPSG:{windows.epsg}", "EPSG:4326").transform(x, y)
    lon = turned(lon, lon[:, :1])
    rings: Floats = np.round(np.stack([lon, lat], axis=-1), 7)
    return rings


def _geometry(ring: Floats) -> dict[str, Any]:
    if abs(ring[:, 0]).max() <= 180.0:
        return {"type": "Polygon", "coordinates": [ring.tolist()]}
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(on_globe(shapely.Polygon(ring))))
    return geometry
