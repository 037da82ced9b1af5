"""The stable ids of a year that joins others, in whatever order years are added.

Ids that an archive has given stay as they are. The outlines of a new year take theirs from the version of the
same year that it replaces, then from the year before, the year after, and so on by distance: from each
by the rule of :func:`cryoscale.write.succession.inherit`, as long as outlines are without one. So a glacier
that was under cloud for a year is known again the year after. What is left begins an id of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import geopandas as gpd

from cryoscale.archive.index import Archive, Entry
from cryoscale.write.succession import inherit, link_years
from cryoscale.write.vectors import read_parts

_NEIGHBOURS = 5
"""Years that are asked, as each is laid over the new one as a whole."""

Outlines = Callable[[], Iterator[gpd.GeoDataFrame]]


def stable_ids(archive: Archive, entries: Sequence[Entry], new: Outlines, year: int) -> dict[str, str]:
    """The stable id of each outline of a year, by its ``glac_id``.

    Args:
        archive: which the year joins.
        entries: every version of the region that it has.
        new: the year's outlines in parts, with ``glac_id``.
        year: their year.
    """
    names = [str(name) for part in new() for name in part["glac_id"]]
    given = {one: ids_of(archive, one) for one in entries}
    taken = {stable for ids in given.values() for stable in ids.values()}
    found: dict[str, str] = {}
    held: set[str] = set()
    for entry in _by_distance(entries, year):
        if len(found) == len(names):
            break
        before = given[entry]
        heirs = inherit(link_years(outlines(archive, entry), new()), before, taken, year)
        known = set(before.values())
        for name, stable in heirs.items():
            if name not in found and stable in known and stable not in held:
                found[name] = stable
                held.add(stable)
    for name in names:
        if name not in found:
            found[name] = _fresh(name, year, taken | held)
            held.add(found[name])
    return found


def outlines(archive: Archive, entry: Entry) -> Iterator[gpd.GeoDataFrame]:
    """The outlines of a version in parts: glac_id and geometry."""
    for part in read_parts(archive.table("glaciers", entry), ("glac_id", "geometry")):
        yield gpd.GeoDataFrame(part)


def ids_of(archive: Archive, entry: Entry) -> Mapping[str, str]:
    """The stable id of each outline of a version by its own."""
    return {
        str(name): str(stable)
        for part in read_parts(archive.table("glaciers", entry), ("glac_id", "glacier_id"))
        for name, stable in zip(part["glac_id"], part["glacier_id"], strict=True)
    }


def _by_distance(entries: Sequence[Entry], year: int) -> list[Entry]:
    """The latest version of each year, withdrawn or not, the nearest year first and of two the earlier."""
    latest = {one.year: one for one in sorted(entries, key=lambda one: one.version)}
    return sorted(latest.values(), key=lambda one: (abs(one.year - year), one.year > year))[:_NEIGHBOURS]


def _fresh(name: str, year: int, taken: set[str]) -> str:
    """A new id: the outline's own, with the year, and a number where that was given before too."""
    tries = [name, f"{name}-{year}"]
    number = 2
    while tries[0] in taken:
        tries.pop(0)
        tries.append(f"{name}-{year}-{number}")
        number += 1
    return tries[0]
