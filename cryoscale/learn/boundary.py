"""How far mapped and true boundaries lie apart, in metres, counted exactly and part by part.

A boundary is the set of edges between two pixels of different kind, each edge told by its midpoint. So it
has no width: equal maps are 0 m apart, and a straight line moved by a pixel is 10 m apart. An edge counts
where truth and map both know the pixels on its two sides, so that the rim of the data is no boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cryoscale.grid import RESOLUTION_M
from cryoscale.learn.scan import Part
from cryoscale.learn.scores import NO_DATA

REACH_PX = 200
"""How far a boundary is looked for, in pixels; what is farther counts as beyond."""

KINDS: Mapping[str, Mapping[int, int]] = {
    "glacier": {0: 0, 1: 1, 2: 1, 3: 0, 4: 0},
    "debris": {1: 0, 2: 1},
}
"""The outline of the ice, clean and debris-covered together; and where clean ice meets debris."""

_HALF_M = RESOLUTION_M / 2
_AT_ONCE = 200_000


@dataclass(eq=False)
class Distances:
    """Distances from the edges of one boundary to the nearest edge of another.

    Attributes:
        reach_px: how far was looked.
        squared: edges by their squared distance in half pixels, which is a whole number (reach).
        beyond: edges with nothing within reach.
    """

    reach_px: int = REACH_PX
    squared: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    beyond: int = 0

    def __post_init__(self) -> None:
        if not self.squared.size:
            self.squared = np.zeros((2 * self.reach_px) ** 2 + 1, np.int64)

    def __add__(self, other: Distances) -> Distances:
        """Of both together."""
        return Distances(self.reach_px, self.squared + other.squared, self.beyond + other.beyond)

    def add(self, edges: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        """Count the distances of edges (n, 2) to the nearest of others (m, 2), both in half pixels."""
        if not others.size:
            self.beyond += len(edges)
            return
        tree = KDTree(others)
        for start in range(0, len(edges), _AT_ONCE):
            found, _ = tree.query(edges[start : start + _AT_ONCE], distance_upper_bound=2 * self.reach_px + 1)
            near = found <= 2 * self.reach_px
            self.beyond += int((~near).sum())
            self.squared += np.bincount(
                np.rint(found[near] ** 2).astype(np.int64), minlength=self.squared.size
            )

    @property
    def edges(self) -> int:
        """Edges that were counted."""
        return int(self.squared.sum()) + self.beyond

    @property
    def mean_m(self) -> float:
        """Mean distance of the edges that have one within reach, metres."""
        within = int(self.squared.sum())
        total = (self.squared * np.sqrt(np.arange(self.squared.size))).sum()
        return float(_HALF_M * total / within) if within else float("nan")

    def quantile_m(self, share: float) -> float:
        """The least distance (m) that ``share`` of the edges do not exceed; infinite where it is beyond."""
        if not self.edges:
            return float("nan")
        passed = np.searchsorted(np.cumsum(self.squared), share * self.edges - 1e-9)
        return float(_HALF_M * np.sqrt(passed)) if passed < self.squared.size else float("inf")

    def within(self, pixels: float) -> float:
        """Share of the edges at most so many pixels away."""
        top = int((2 * pixels) ** 2)
        return float(self.squared[: top + 1].sum() / self.edges) if self.edges else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a quantile that lies beyond the reach is None."""
        values = {
            "mean_m": self.mean_m,
            "median_m": self.quantile_m(0.5),
            "p95_m": self.quantile_m(0.95),
            "within_1px": self.within(1),
            "within_2px": self.within(2),
            "beyond": self.beyond / self.edges if self.edges else float("nan"),
        }
        finite = {name: value if np.isfinite(value) else None for name, value in values.items()}
        return {"edges": self.edges, **finite, "reach_m": self.reach_px * RESOLUTION_M}

    def histogram(self, edges_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of the edges in each interval of metres (low, high], 0 being in the first (n - 1,)."""
        distance = _HALF_M * np.sqrt(np.arange(self.squared.size))
        index = np.clip(np.searchsorted(edges_m, distance - 1e-9) - 1, 0, len(edges_m) - 1)
        counted = np.bincount(index, self.squared, len(edges_m))[: len(edges_m) - 1]
        share: NDArray[np.float64] = counted / max(self.edges, 1)
        return share


@dataclass(eq=False)
class BoundaryDistance:
    """Both ways between a mapped and a true boundary: what the map made up, and what it missed."""

    kind: str
    reach_px: int = REACH_PX
    mapped_to_true: Distances = field(init=False)
    true_to_mapped: Distances = field(init=False)

    def __post_init__(self) -> None:
        self.mapped_to_true, self.true_to_mapped = Distances(self.reach_px), Distances(self.reach_px)

    @property
    def rim_px(self) -> int:
        """How much around a part must be known."""
        return self.reach_px + 1

    def add(self, part: Part) -> None:
        """Count the edges that begin at a pixel of the part itself; its rim must be ``rim_px`` wide."""
        known = (part.truth != NO_DATA) & (part.label != NO_DATA)
        true = edges_of(_coded(np.where(known, part.truth, np.uint8(NO_DATA)), self.kind))
        mapped = edges_of(_coded(np.where(known, part.label, np.uint8(NO_DATA)), self.kind))
        own = np.zeros(part.outer.shape, bool)
        own[part.window.slices_in(part.outer)] = part.own
        self.mapped_to_true.add(mapped[own[tuple((mapped // 2).T)]], true)
        self.true_to_mapped.add(true[own[tuple((true // 2).T)]], mapped)

    @property
    def both(self) -> Distances:
        """All edges of either boundary, each to the other."""
        return self.mapped_to_true + self.true_to_mapped

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ways = ("mapped_to_true", "true_to_mapped", "both")
        return {way: getattr(self, way).to_dict() for way in ways}


def _coded(labels: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    table = np.full(256, NO_DATA, np.uint8)
    for label, code in KINDS[kind].items():
        table[label] = code
    return np.asarray(table[labels])


def edges_of(code: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Midpoints (n, 2) of the edges between pixels of unlike code, row and column in half pixels.

    Between (r, c) and (r, c + 1) lies (2 r, 2 c + 1), between (r, c) and (r + 1, c) lies (2 r + 1, 2 c), so
    that half of either, rounded down, is the pixel that the edge begins at. A pixel of 255 has no edges.
    """
    known = code != NO_DATA
    right = np.argwhere((code[:, :-1] != code[:, 1:]) & known[:, :-1] & known[:, 1:])
    below = np.argwhere((code[:-1] != code[1:]) & known[:-1] & known[1:])
    return np.concatenate([2 * right + [0, 1], 2 * below + [1, 0]]).astype(np.int64)
