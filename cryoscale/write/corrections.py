"""Classes that people set by hand, put over a run's maps wherever its outlines are drawn from them.

The maps stay as the model made them. A correction decides between the classes of ground that an image
showed: where a map has no data it changes nothing, since nothing would tell of what day the ice is. The
pixels that it sets count as certain, and their confidence as not known, which is the model's.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import xarray as xr
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry import Polygon
from xarray.backends import BackendArray
from xarray.core import indexing

from cryoscale.errors import InputError, SourceError
from cryoscale.grid import transformer
from cryoscale.write import store, zones
from cryoscale.write.arrays import NODATA
from cryoscale.write.objects import Objects
from cryoscale.write.polygons import PolygonArray, explode
from cryoscale.write.zonal import affine_of

FILE = "inventory/corrections.parquet"
"""Where a run keeps them: WGS 84 polygons, later ones over earlier ones, with class and year."""

_CERTAIN = 250
_EVERY_YEAR = 0
_UNSET = -1
_LONGEST_EDGE_DEG = 0.002
"""Edges are straight in degrees, and bend in metres."""


@dataclass(frozen=True, eq=False)
class Corrections:
    """Polygons with the class of the ground in each, later ones over earlier ones.

    Attributes:
        shapes: valid, of one part or several, in degrees.
        classes: the class of each by its number in the map; 255 takes ground out of it.
        years: the year that each is about, 0 for all.
    """

    shapes: PolygonArray
    classes: NDArray[np.uint8]
    years: NDArray[np.int32]

    @classmethod
    def of_frame(cls, frame: gpd.GeoDataFrame, names: Sequence[str], given: str) -> Corrections:
        """Those of a table with a column ``class``, and perhaps ``year``, whose empty cells mean every year.

        Args:
            frame: polygons in any CRS that it knows.
            names: of the map's classes, in its order.
            given: what they are called where they are refused.

        Raises:
            InputError: no such column, a class or a year that is none, or no polygon.
        """
        classes, years = facts_of(frame, names, given)
        if frame.empty:
            raise InputError(
                f"{given} without a polygon in the region", "what is to be corrected", "check its CRS"
            )
        valid = [explode(shapely.make_valid(shape)) for shape in frame.geometry.to_crs(4326)]
        shapes = np.array([shapely.multipolygons(parts) for parts in valid], object)
        return cls(shapes, classes, years)

    def of(self, year: int) -> Corrections:
        """Those that are about a year."""
        own = (self.years == year) | (self.years == _EVERY_YEAR)
        return replace(self, shapes=self.shapes[own], classes=self.classes[own], years=self.years[own])

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def area_km2(self) -> float:
        """Of the ground that they are about, each place once."""
        return float(zones.area_km2(explode(shapely.union_all(self.shapes))).sum())

    def share(self, outline: Polygon) -> float:
        """How much of an outline (degrees) lies in them, 0-1."""
        if not len(self):
            return 0.0
        here = np.array([outline], object)
        if outline.bounds[2] > 180.0:  # whose other part others have at -180
            here = np.concatenate([here, zones.turn(here, -360.0)])
        near = self.shapes[np.unique(self._tree.query(here, predicate="intersects")[1])]
        inside = explode(shapely.intersection(shapely.union_all(near), here))
        if not inside.size:
            return 0.0
        whole = float(zones.area_km2(np.array([outline], object))[0])
        return min(float(zones.area_km2(inside).sum()) / whole, 1.0)

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.shapes)

    def over(self, dataset: xr.Dataset, epsg: int) -> xr.Dataset:
        """A map of a zone, or a coarser level of it, with these put over it; read as lazily as before.

        Args:
            dataset: ``label`` ``(y, x)``, and where there are, ``probability`` ``(class, y, x)`` and
                ``confidence``, in the integer encoding of the store.
            epsg: of its zone.
        """
        burnt = _Burnt.of(self, dataset, epsg) if len(self) else None
        if burnt is None:
            return dataset
        put: dict[str, Callable[..., NDArray[Any]]] = {
            "label": _put_label,
            "probability": _put_probability,
            "confidence": _put_confidence,
        }
        new = {}
        for name in put.keys() & set(dataset.data_vars):
            inner = dataset[name].variable
            lazy = indexing.LazilyIndexedArray(_Over(inner, burnt, put[name]))
            new[name] = xr.Variable(inner.dims, lazy, inner.attrs, inner.encoding)
        return dataset.assign(new)

    def to_frame(self) -> gpd.GeoDataFrame:
        """As :data:`FILE` holds them."""
        years = pd.array(np.where(self.years == _EVERY_YEAR, pd.NA, self.years), dtype="Int32")
        return gpd.GeoDataFrame(
            {"class": self.classes.astype(np.int16), "year": years},
            geometry=list(self.shapes),
            crs="EPSG:4326",
        )


NONE = Corrections(np.empty(0, object), np.empty(0, np.uint8), np.empty(0, np.int32))
"""Of a run whose outlines are drawn from its maps as they are."""


def keep(out: str, found: Corrections | None) -> None:
    """Puts them into a run, from whose maps outlines are drawn with them from now on; None takes them back.

    Raises:
        OutputError: if they cannot be written.
    """
    if found is None:
        Objects(out).delete(FILE)
        return
    content = io.BytesIO()
    found.to_frame().to_parquet(content, index=False, schema_version="1.1.0")
    store.put(f"{out}/{FILE}", content.getvalue())


def kept(out: str) -> Corrections | None:
    """Those of a run, None where it has none.

    Raises:
        SourceError: they are there and cannot be read.
    """
    content = Objects(out).get(FILE)
    if content is None:
        return None
    try:
        frame = gpd.read_parquet(io.BytesIO(content))
        years = frame["year"].fillna(_EVERY_YEAR).to_numpy(np.int32)
        return Corrections(np.asarray(frame.geometry, object), frame["class"].to_numpy(np.uint8), years)
    except Exception as error:  # whatever a damaged file makes of its reader
        raise SourceError(
            f"{out}/{FILE}, which cannot be read ({' '.join(str(error).split())[:120]})",
            "the corrections that cryoscale outline put there",
            "give them again with cryoscale outline --corrections, or none",
        ) from error


def facts_of(
    frame: gpd.GeoDataFrame, names: Sequence[str], given: str
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Class and year of every correction of a table, 0 for all years; see :meth:`Corrections.of_frame`.

    Raises:
        InputError: no column ``class``, or a class or a year that is none.
    """
    if "class" not in frame:
        raise InputError(
            f"{given} without a column 'class'",
            f"for each polygon a class: 0 to {len(names) - 1}, 255 or one of {', '.join(names)}",
            "add the column",
        )
    classes = [class_of(value, names) for value in frame["class"]]
    years = [_year_of(value, given) for value in frame.get("year", [None] * len(frame))]
    return np.array(classes, np.uint8), np.array(years, np.int32)


def class_of(value: object, names: Sequence[str]) -> int:
    """The class that a correction names by number or by name; 255 is no data.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, str) and value in names:
        return list(names).index(value)
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)  # of a column that holds names, too
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)  # what a table with an empty cell makes of whole numbers
    if isinstance(value, (int, np.integer)) and (0 <= value < len(names) or value == NODATA):
        return int(value)
    raise InputError(
        f"correction class {value!r}",
        f"0..{len(names) - 1}, 255 or one of {', '.join(names)}",
        "mend the column 'class'",
    )


def _year_of(value: Any, given: str) -> int:
    if pd.isna(value):
        return _EVERY_YEAR
    try:
        year = float(value)
    except (TypeError, ValueError):
        year = 0.0
    if not (year.is_integer() and year > 0):
        raise InputError(
            f"{given} of the year {value!r}",
            "a year, or an empty cell for every year",
            "mend the column 'year'",
        )
    return int(year)


@dataclass(frozen=True, eq=False)
class _Burnt:
    """Corrections on the grid of a map.

    Attributes:
        shapes: those that reach into it, in metres of its zone.
        classes: of each.
        affine: of the map.
    """

    shapes: PolygonArray
    classes: NDArray[np.uint8]
    affine: Affine

    @classmethod
    def of(cls, found: Corrections, dataset: xr.Dataset, epsg: int) -> _Burnt | None:
        project = transformer("EPSG:4326", f"EPSG:{epsg}")
        shapes = shapely.transform(
            shapely.segmentize(found.shapes, _LONGEST_EDGE_DEG),
            lambda xy: np.column_stack(project.transform(xy[:, 0], xy[:, 1])),
        )
        x, y = dataset["x"].values, dataset["y"].values
        with np.errstate(invalid="ignore"):
            west, south, east, north = shapely.bounds(shapes).reshape(-1, 4).T
            near = (west <= x.max()) & (east >= x.min()) & (south <= y.max()) & (north >= y.min())
        near &= np.isfinite(west + south + east + north)  # others lie on the other side of the globe
        if not near.any():
            return None
        return cls(np.asarray(shapes[near], object), found.classes[near], affine_of(dataset))

    def at(self, rows: range, cols: range) -> NDArray[np.int16]:
        """The class that is set at every pixel (y, x) of some rows and columns, -1 where none is."""
        here = self.affine * Affine.translation(cols.start + 0.5, rows.start + 0.5)
        here *= Affine.scale(cols.step, rows.step) * Affine.translation(-0.5, -0.5)
        west, north = here * (0, 0)
        east, south = here * (len(cols), len(rows))
        low, high = min(south, north), max(south, north)
        left, bottom, right, top = shapely.bounds(self.shapes).reshape(-1, 4).T
        near = (left < max(east, west)) & (right > min(east, west)) & (bottom < high) & (top > low)
        shape = len(rows), len(cols)
        if not near.any() or 0 in shape:
            return np.full(shape, _UNSET, np.int16)
        burnt = zip(self.shapes[near], self.classes[near].tolist(), strict=True)
        return np.asarray(rasterize(list(burnt), shape, transform=here, fill=_UNSET, dtype="int16"))


class _Over(BackendArray):
    """An array of a map that is corrected where it is read; see xarray's `How to add a new backend
    <https://docs.xarray.dev/en/stable/internals/how-to-add-new-backend.html>`_."""

    def __init__(self, inner: xr.Variable, burnt: _Burnt, put: Callable[..., NDArray[Any]]) -> None:
        self.inner, self.burnt, self.put = inner, burnt, put
        self.shape, self.dtype = inner.shape, inner.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> NDArray[Any]:
        values = np.asarray(self.inner[key].values)
        # a single row or column is read as one of one, and its axis goes again
        *before, rows, cols = (
            range(size)[one if isinstance(one, slice) else slice(one, one + 1)]
            for one, size in zip(key, self.shape, strict=True)
        )
        shape = (*(len(one) for one in before), len(rows), len(cols))
        found = self.put(values.reshape(shape), self.burnt.at(rows, cols), *before)
        return found.reshape(values.shape)


def _put_label(label: NDArray[np.uint8], burnt: NDArray[np.int16]) -> NDArray[np.uint8]:
    return np.where((burnt != _UNSET) & (label != NODATA), burnt, label).astype(np.uint8)


def _put_confidence(confidence: NDArray[np.uint8], burnt: NDArray[np.int16]) -> NDArray[np.uint8]:
    return np.where(burnt != _UNSET, NODATA, confidence).astype(np.uint8)


def _put_probability(
    probability: NDArray[np.uint8], burnt: NDArray[np.int16], classes: range
) -> NDArray[np.uint8]:
    wanted = np.array(classes).reshape(-1, 1, 1)
    certain = np.where(burnt == NODATA, NODATA, np.where(burnt == wanted, _CERTAIN, 0))
    return np.where((burnt != _UNSET) & (probability != NODATA), certain, probability).astype(np.uint8)
