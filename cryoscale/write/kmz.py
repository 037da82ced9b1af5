"""A year's outlines for Google Earth: styled KML 2.2 (https://www.ogc.org/standards/kml/) in a zip.

Written as text, an outline at a time: GDAL's own writer takes a whole layer into memory, and knows no
balloons. Coordinates have six decimals, 0.1 m. The file holds every outline in full, so that for a whole
mountain range the PMTiles are what a person can look at.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pandas as pd
import shapely

from cryoscale.write.layers import COMPANIONS, GLACIERS, parts
from cryoscale.write.vectors import move

_STYLES = {
    # aabbggrr, as KML has its colours
    "glaciers": ("ffb4410a", "40f0c878"),
    "debris": ("00ffffff", "80325a96"),
    "divides": ("ff00a5ff", "00ffffff"),
}
"""Colours of line and fill."""

_BALLOON = (
    "<h3>$[name]</h3><table>"
    "<tr><td>Area</td><td>$[area]</td></tr>"
    "<tr><td>Image of</td><td>$[date]</td></tr>"
    "<tr><td>Under debris</td><td>$[debris]</td></tr>"
    "<tr><td>Elevation</td><td>$[elevation]</td></tr>"
    "<tr><td>Identifiers</td><td>$[ids]</td></tr></table>"
)


def write_kmz(geopackage: Path, target: Path, *, title: str, note: str = "") -> None:
    """Writes the layers glaciers, debris and divides of a GeoPackage as a KMZ; glaciers have balloons.

    Args:
        geopackage: the outlines of a year.
        target: the file to write; it appears whole or not at all.
        title: of the document.
        note: what to know of it, a sentence.

    Raises:
        OutputError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="cryoscale-") as scratch:
        local, plain = Path(scratch, "outlines.kmz"), Path(scratch, "doc.kml")
        with plain.open("w", encoding="utf-8") as file:
            file.writelines(_document(geopackage, title, note))
        # a fixed date, so that the same outlines make the same bytes; and a length that is known beforehand:
        # libkml, which Google Earth and GDAL read with, opens no zip with the marks of one beyond 4 GB
        entry = zipfile.ZipInfo("doc.kml", (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.file_size = plain.stat().st_size
        with (
            zipfile.ZipFile(local, "w", zipfile.ZIP_DEFLATED) as archive,
            plain.open("rb") as read,
            archive.open(entry, "w") as packed,
        ):
            shutil.copyfileobj(read, packed)
        move(local, target)


def _document(geopackage: Path, title: str, note: str) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>\n'
    yield f"<name>{escape(title)}</name><description>{escape(note)}</description>\n"
    for name, (line, fill) in _STYLES.items():
        balloon = (
            f"<BalloonStyle><text><![CDATA[{_BALLOON}]]></text></BalloonStyle>" if name == "glaciers" else ""
        )
        yield (
            f'<Style id="{name}"><LineStyle><color>{line}</color><width>1.5</width></LineStyle>'
            f"<PolyStyle><color>{fill}</color></PolyStyle>{balloon}</Style>\n"
        )
    for layer, sql in {"glaciers": GLACIERS, **COMPANIONS}.items():
        yield f"<Folder><name>{layer}</name>\n"
        for frame in parts(geopackage, sql):
            columns = [str(name) for name in frame.columns if name != "geometry"]
            for row, shape in zip(frame[columns].itertuples(index=False), frame.geometry, strict=True):
                yield _placemark(layer, dict(zip(columns, row, strict=True)), shape)
        yield "</Folder>\n"
    yield "</Document></kml>\n"


def _placemark(layer: str, row: Mapping[str, Any], shape: shapely.Geometry) -> str:
    if layer == "glaciers":
        name, told = _glacier(row)
    elif layer == "debris":
        name, told = f"debris of {row['glac_id']}", {"area": f"{row['area_km2']:.3f} km²"}
    else:
        name, told = f"{row['glac_id_1']} | {row['glac_id_2']}", {"length": f"{row['length_m']:.0f} m"}
    data = "".join(
        f'<Data name="{key}"><value>{escape(value)}</value></Data>' for key, value in told.items() if value
    )
    return (
        f"<Placemark><name>{escape(name)}</name><styleUrl>#{layer}</styleUrl>"
        f"<ExtendedData>{data}</ExtendedData>{_geometry(shape)}</Placemark>\n"
    )


def _glacier(row: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """What a glacier is called, and what its balloon says; nothing where nothing is known."""
    known = {key: value for key, value in row.items() if not pd.isna(value)}
    area = f"{row['area_km2']:.3f} km²"
    if "area_low_km2" in known:
        area += f" ({known['area_low_km2']:.3f} to {known['area_high_km2']:.3f})"
    told = {
        "area": area,
        "date": str(known.get("src_date", "")),
        "debris": f"{100 * known['debris_fraction']:.0f} %" if "debris_fraction" in known else "",
        "elevation": f"{known['zmin_m']:.0f} to {known['zmax_m']:.0f} m" if "zmin_m" in known else "",
        "ids": " ".join(str(known[key]) for key in ("rgi_id", "glac_id") if key in known),
    }
    return str(known.get("glac_name") or known.get("rgi_id") or known["glac_id"]), told


def _geometry(shape: shapely.Geometry) -> str:
    pieces = [_piece(part) for part in shapely.get_parts(shape)]
    return pieces[0] if len(pieces) == 1 else f"<MultiGeometry>{''.join(pieces)}</MultiGeometry>"


def _piece(part: Any) -> str:
    if part.geom_type == "LineString":
        return f"<LineString><tessellate>1</tessellate>{_coordinates(part)}</LineString>"
    holes = "".join(
        f"<innerBoundaryIs><LinearRing>{_coordinates(ring)}</LinearRing></innerBoundaryIs>"
        for ring in part.interiors
    )
    outer = f"<outerBoundaryIs><LinearRing>{_coordinates(part.exterior)}</LinearRing></outerBoundaryIs>"
    # tessellated, so that it lies on the ground and not through the mountain
    return f"<Polygon><tessellate>1</tessellate>{outer}{holes}</Polygon>"


def _coordinates(line: shapely.Geometry) -> str:
    pairs = " ".join(f"{x:.6f},{y:.6f}" for x, y in shapely.get_coordinates(line).tolist())
    return f"<coordinates>{pairs}</coordinates>"
