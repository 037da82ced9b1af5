"""What the markers of a run's blocks add up to: which scenes made the map and why, pixels, seconds."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass
class Account:
    """Sums over markers, taken one at a time so that they need not be held; it grows with scenes, not blocks.

    Attributes:
        blocks: how many.
        pixels_of, valid_pixels_of: how many by year, of the region and of those that got a class.
        seconds: by stage.
        modality_pixels: by modality.
        scenes_read: identifiers.
        scenes_failed: identifiers, each with its reasons.
        choices: blocks that prefer a scene.
        first_choices: the markers of the first of those by year, zone, row and column, at most ``keep``.
        keep: how many of those are asked for.
    """

    keep: int = 0
    blocks: int = 0
    pixels_of: dict[int, int] = field(default_factory=dict)
    valid_pixels_of: dict[int, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    modality_pixels: dict[str, int] = field(default_factory=dict)
    scenes_read: set[str] = field(default_factory=set)
    scenes_failed: set[tuple[str, str]] = field(default_factory=set)
    choices: int = 0
    first_choices: list[Marker] = field(default_factory=list)
    _sums: dict[tuple[int, str], _Sum] = field(default_factory=dict)

    def add(self, marker: Marker) -> None:
        """Take up one block."""
        self.blocks += 1
        year = marker.year
        self.pixels_of[year] = self.pixels_of.get(year, 0) + marker.pixels
        self.valid_pixels_of[year] = self.valid_pixels_of.get(year, 0) + marker.valid_pixels
        for stage, seconds in marker.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for name, pixels in marker.modality_pixels.items():
            self.modality_pixels[name] = self.modality_pixels.get(name, 0) + pixels
        self.scenes_read.update(marker.scenes_read)
        self.scenes_failed.update(marker.scenes_failed)
        self._add_choice(marker)

    def _add_choice(self, marker: Marker) -> None:
        weight = max(marker.pixels, 1)
        for share in marker.scene_choice:
            one = self._sums.setdefault((marker.year, share.scene), _Sum())
            one.blocks += 1
            one.preferred += share.rank == 1
            one.read += share.scene in marker.scenes_read
            one.pixels += weight
            one.clear += weight * (1.0 - share.cloud_share)
            one.snow += weight * (1.0 - share.cloud_share) * share.snow_share
        if any(share.rank == 1 for share in marker.scene_choice):
            self.choices += 1
            bisect.insort(self.first_choices, marker, key=lambda m: (m.year, m.epsg, m.row, m.col))
            del self.first_choices[self.keep :]

    def scene_uses(self) -> tuple[SceneUse, ...]:
        """All ranked scenes by year, those preferred in most blocks first, ties by what they show."""
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
            for (year, scene), one in self._sums.items()
        ]
        return tuple(sorted(uses, key=lambda u: (u.year, -u.preferred, -u.read, -u.clear_share, u.scene)))


def account_of(markers: Iterable[Marker], *, keep: int = 0) -> Account:
    """The account of some markers, in one pass."""
    made = Account(keep)
    for marker in markers:
        made.add(marker)
    return made


def scene_uses(markers: Iterable[Marker]) -> tuple[SceneUse, ...]:
    """How the scenes did, as :meth:`Account.scene_uses` tells it."""
    return account_of(markers).scene_uses()


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


def is_simulated(out: str) -> bool:
    """Whether any scene of the run says of itself that it is simulated."""
    from cryoscale.read import snapshot  # with pyarrow and GDAL, which the progress of a run is told without

    items = snapshot.scan(f"{out}/items.parquet")
    return any(item["properties"].get("cryoscale:simulated") for _, item in items)
