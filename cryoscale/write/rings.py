"""Polygons of people whose rings cross: found, and told by place, before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import shapely

from cryoscale.write.polygons import PolygonArray

_NOTHING = 1e-6
"""Share of an area up to which mending changes nothing: a ring that touches itself, or a slip of rounding."""


def crossing(polygons: PolygonArray, names: Sequence[str]) -> str | None:
    """The first polygon whose rings cross each other or themselves, and where; None where there is none.

    A crossing has no one mending: a figure of eight can be two areas or a slip of one corner. What only
    touches itself can be mended without a change of area, and is left to :func:`shapely.make_valid`. RGI 7
    has neither (https://www.glims.org/rgi_user_guide/04_revisions.html).

    Args:
        polygons: in any CRS.
        names: of each.
    """
    for place in (~shapely.is_valid(polygons)).nonzero()[0].tolist():
        given = shapely.area(polygons[place])
        mended = shapely.area(shapely.make_valid(polygons[place]))
        if abs(given - mended) > _NOTHING * max(given, mended):
            return f"{names[place]}: {shapely.is_valid_reason(polygons[place])}"
    return None


def names_of(frame: pd.DataFrame) -> list[str]:
    """What the rows of a table of outlines are called: by the RGI's identifier, else by their number."""
    for column in ("rgi_id", "RGIId", "glac_id"):
        if column in frame:
            return [str(name) for name in frame[column]]
    return [f"feature {number}" for number in range(1, len(frame) + 1)]
