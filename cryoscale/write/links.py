"""Links between two inventories: which outlines of the one lie where outlines of the other do.

The table is that of the RGI 7 to its forerunner, names included
(https://glims-rgi.github.io/rgi_user_guide/products/glacier_product.html): every pair that has more than
200 m2 in common, how much of each outline that is, and the cluster to which the pair belongs. A cluster is
all that hangs together by such pairs. Areas are on the WGS 84 ellipsoid, as in the column area_km2.

One inventory waits in a temporary file with an R-tree, the other passes by it, each one outline at a time:
what is in memory are two outlines, and numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely import affinity
from shapely.geometry import MultiPolygon
from shapely.geometry.base import BaseGeometry

from cryoscale.errors import InputError
from cryoscale.write import zones
from cryoscale.write.carried import LEAST_KM2
from cryoscale.write.nearby import Nearby
from cryoscale.write.polygons import explode

_DECIMALS = 9
"""Of areas in km2, 0.001 m2: below it, areas of one figure differ by where its ring begins."""


@dataclass(frozen=True, eq=False)
class Inventoried:
    """One of the two inventories.

    Attributes:
        name: begins its columns: ``<name>_id``, ``<name>_area_fraction``, ``n_<name>``.
        parts: its outlines in any CRS, in parts of any size; those without area are left out, invalid rings
            are mended.
        id_column: the column that tells outlines from each other.
    """

    name: str
    parts: Iterable[gpd.GeoDataFrame]
    id_column: str = "glac_id"


@dataclass(frozen=True, eq=False)
class Links:
    """Two inventories, linked.

    Attributes:
        table: a row a pair: ``<first>_id``, ``<second>_id``, overlap_area_km2, ``<first>_area_fraction``,
            ``<second>_area_fraction`` (0-1, of the overlap), ``n_<first>``, ``n_<second>`` (outlines of each
            in the cluster), cluster_id. Clusters are numbered from 1 by their largest overlap; in each the
            largest overlap goes before.
        first_km2: areas of all outlines of the first, by id, in its order.
        second_km2: likewise of the second.
    """

    table: pd.DataFrame
    first_km2: pd.Series
    second_km2: pd.Series


def link(first: Inventoried, second: Inventoried) -> Links:
    """All pairs of outlines that have more than 200 m2 in common, and their clusters.

    Which of the inventories is the first changes the columns and nothing else.

    Raises:
        InputError: if outlines have no CRS or no identifiers, or two have the same.
    """
    first_km2: dict[str, float] = {}
    second_km2: dict[str, float] = {}
    common: dict[tuple[str, str], float] = {}
    with Nearby() as waiting:
        for _, outline in _outlines(first, first_km2):
            waiting.add(np.array([outline], object))
        names = list(first_km2)
        for name, outline in _outlines(second, second_km2):
            shapely.prepare(outline)
            for number, other, turn in waiting.meeting(outline.bounds):
                pair = names[number - 1], name
                common[pair] = common.get(pair, 0.0) + _common_km2(outline, other, turn)
    kept = [(a, b, round(area, _DECIMALS)) for (a, b), area in common.items()]
    pairs = pd.DataFrame(
        [pair for pair in kept if pair[2] > LEAST_KM2], columns=["first", "second", "overlap_area_km2"]
    )
    areas = pd.Series(first_km2, dtype=float), pd.Series(second_km2, dtype=float)
    return Links(_table(pairs, areas, (first.name, second.name)), *areas)


def _common_km2(outline: MultiPolygon, other: BaseGeometry, turn: float) -> float:
    """Area that an outline has in common with another that lies ``turn`` degrees further east."""
    if turn:
        other = affinity.translate(other, -turn)
    if not shapely.intersects(outline, other):
        return 0.0
    return float(zones.area_km2(explode(shapely.intersection(outline, other))).sum())


def components(first: pd.Series, second: pd.Series) -> pd.Series:
    """Number of the component to which each pair of ids belongs, from 0 in the order of the pairs."""
    if first.empty:
        return pd.Series([], index=first.index, dtype=np.int64)
    left, right = pd.factorize(first)[0], pd.factorize(second)[0]
    count = int(left.max()) + 1
    size = count + int(right.max()) + 1
    edges = coo_array((np.ones(left.size), (left, right + count)), shape=(size, size))
    found = connected_components(edges, directed=False)[1][left]
    return pd.Series(pd.factorize(found)[0], index=first.index, dtype=np.int64)


def _outlines(inventory: Inventoried, areas: dict[str, float]) -> Iterator[tuple[str, MultiPolygon]]:
    """Identifiers and mended outlines (degrees), whose areas are noted in passing."""
    whole = f"outlines of the inventory {inventory.name!r}"
    for part in inventory.parts:
        if part.crs is None:
            raise InputError(f"{whole} without a CRS", "outlines that name theirs", "set it in the file")
        if inventory.id_column not in part:
            raise InputError(
                f"{whole} with the columns {', '.join(map(str, part.columns))}",
                f"a column {inventory.id_column}",
                "name the column that tells outlines from each other",
            )
        degrees = part.geometry.to_crs("EPSG:4326")
        for name, shape in zip(part[inventory.id_column].astype(str), degrees, strict=True):
            outline = MultiPolygon(list(explode(shapely.make_valid(shape))))
            area = round(float(zones.area_km2(explode(outline)).sum()), _DECIMALS)
            if area == 0:
                continue
            if name in areas:
                raise InputError(
                    f"{whole}, two of them with {name}", "one outline an id", "unite or rename them"
                )
            areas[name] = area
            yield name, outline


def _table(pairs: pd.DataFrame, areas: tuple[pd.Series, pd.Series], names: tuple[str, str]) -> pd.DataFrame:
    sides = ("first", "second")
    ordered = pairs.sort_values(
        ["overlap_area_km2", *sides], ascending=[False, True, True], ignore_index=True
    )
    cluster = components(ordered["first"], ordered["second"]) + 1
    columns = {f"{name}_id": ordered[side] for name, side in zip(names, sides, strict=True)}
    overlap = columns["overlap_area_km2"] = ordered["overlap_area_km2"].astype(float)
    for name, side, area in zip(names, sides, areas, strict=True):
        whole = area.reindex(ordered[side]).to_numpy()
        columns[f"{name}_area_fraction"] = (overlap / whole).clip(upper=1.0)
    for name, side in zip(names, sides, strict=True):
        columns[f"n_{name}"] = ordered[side].groupby(cluster).transform("nunique").astype(np.int64)
    columns["cluster_id"] = cluster
    return pd.DataFrame(columns).sort_values("cluster_id", kind="stable", ignore_index=True)
