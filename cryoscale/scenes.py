"""Which scenes made a map and why, told from the markers of its blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryoscale.ledger import Marker


@dataclass(frozen=True)
class SceneUse:
    """How one optical scene did over all blocks of a year.

    Attributes:
        year, scene: which one.
        blocks: it lies over, or beside.
        preferred: blocks whose glacierised part it shows best; single pixels may show another.
        read: blocks that it gave pixels to.
        clear_share: of the glacierised part, 0 to 1, a mean over the blocks by their pixels of the region.
        snow_share: of the clear part that fresh snow covers, likewise.
    """

    year: int
    scene: str
    blocks: int
    preferred: int
    read: int
    clear_share: float
    snow_share: float


@dataclass
class _Sum:
    blocks: int = 0
    preferred: int = 0
    read: int = 0
    pixels: float = 0.0
    clear: float = 0.0
    snow: float = 0.0


def scene_uses(markers: Iterable[Marker]) -> tuple[SceneUse, ...]:
    """All ranked scenes by year, those preferred in most blocks first, ties by what they show."""
    sums: dict[tuple[int, str], _Sum] = {}
    for marker in markers:
        weight = max(marker.pixels, 1)
        for share in marker.scene_choice:
            one = sums.setdefault((marker.year, share.scene), _Sum())
            one.blocks += 1
            one.preferred += share.rank == 1
            one.read += share.scene in marker.scenes_read
            one.pixels += weight
            one.clear += weight * (1.0 - share.cloud_share)
            one.snow += weight * (1.0 - share.cloud_share) * share.snow_share
    uses = [
        SceneUse(
            year,
            scene,
            one.blocks,
            one.preferred,
            one.read,
            round(one.clear / one.pixels, 4),
            round(one.snow / one.clear, 4) if one.clear else 1.0,
        )
        for (year, scene), one in sums.items()
    ]
    return tuple(sorted(uses, key=lambda u: (u.year, -u.preferred, -u.read, -u.clear_share, u.scene)))


def why(marker: Marker) -> str:
    """Why a block prefers the scene that it does, in a line; empty where scenes were not ranked."""
    if not marker.scene_choice:
        return ""
    best, *others = sorted(marker.scene_choice, key=lambda share: share.rank)
    told = f"least cloud and fresh snow over the ice of {len(marker.scene_choice)} scenes"
    if best.cloud_share >= 1.0:
        return f"none of {len(marker.scene_choice)} scenes shows anything"
    if not others:
        return "the only scene"
    second = others[0]
    if (second.cloud_share, second.snow_share) == (best.cloud_share, best.snow_share):
        return f"{told}; {second.scene} shows as much and is later"
    return (
        f"{told}; next {second.scene} with {100 * (1 - second.cloud_share):.0f} % clear, "
        f"{100 * second.snow_share:.0f} % of it fresh snow"
    )


def sample_gaps(manifest: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What the run's principal components were fitted without: (scene or window, cause)."""
    sample = manifest.get("model", {}).get("pca_sample") or {}
    gaps = [*sample.get("scenes_failed", ()), *sample.get("windows_failed", ())]
    return tuple((str(name), str(cause)) for name, cause in gaps)
