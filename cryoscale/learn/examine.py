"""Everything that can be said of a finished map where the truth is known, in one pass over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoscale.grid import Window, window_of
from cryoscale.learn.boundary import KINDS, BoundaryDistance
from cryoscale.learn.errormap import ErrorMap
from cryoscale.learn.evaluate import Evaluation, refuse_nothing_in_common
from cryoscale.learn.glaciers import GlacierAreas, bodies_of_truth, read_outlines
from cryoscale.learn.reliability import PROBABILITY_SCALE, MapTemperature, Reliability, Stated
from cryoscale.learn.scan import Part, groups, open_raw, parts_of
from cryoscale.learn.scores import CLASS_NAMES, Scores, confusion_matrix
from cryoscale.learn.strata import Layers, StrataScores
from cryoscale.learn.truth import Truth, truth_of


def no_layers(year: int, window: Window) -> dict[str, NDArray[np.float32]]:
    """Nothing is known of the ground."""
    return {}


@dataclass(eq=False)
class Examination:
    """What one pass over a run's maps counted.

    Attributes:
        parts: scores of each ``<year>/<epsg>``.
        reliability: of the winning probability.
        stated: what each class's probability is worth.
        temperature: what one more temperature on the map would do.
        boundaries: distances by kind of boundary.
        areas: of each glacier, by year.
        strata: scores by what the ground is like.
        errors: pictures of the differences, by ``<year>/<epsg>``.
    """

    parts: dict[str, Scores] = field(default_factory=dict)
    reliability: Reliability = field(default_factory=Reliability.none)
    stated: Stated = field(default_factory=Stated)
    temperature: MapTemperature = field(default_factory=MapTemperature)
    boundaries: dict[str, BoundaryDistance] = field(
        default_factory=lambda: {kind: BoundaryDistance(kind) for kind in KINDS}
    )
    areas: dict[int, GlacierAreas] = field(default_factory=dict)
    strata: StrataScores = field(default_factory=StrataScores)
    errors: dict[str, ErrorMap] = field(default_factory=dict)

    @property
    def scores(self) -> Scores:
        """Of all years and zones together."""
        return sum(self.parts.values(), start=Scores(np.zeros((len(CLASS_NAMES),) * 2, np.int64)))

    @property
    def evaluation(self) -> Evaluation:
        """The scores and the reliability alone, as :func:`cryoscale.learn.evaluate.evaluate` gives them."""
        return Evaluation(self.scores, self.reliability, self.parts)

    def add(self, part: Part, layers: Layers) -> None:
        """Count one part, whose rim must be ``rim_px`` wide."""
        known, label = part.inner(part.truth), part.inner(part.label)
        key = f"{part.year}/{part.window.epsg}"
        self.parts[key] += Scores(confusion_matrix(known, label, len(CLASS_NAMES)))
        stored = part.probability()
        if stored is not None:
            winning = stored.max(axis=0) / PROBABILITY_SCALE
            self.reliability += Reliability.of(known, label, winning, len(self.reliability.count))
            self.stated.add(known, stored)
            self.temperature.add(part.window, known, label, stored)
        for boundary in self.boundaries.values():
            boundary.add(part)
        self.areas[part.year].add(part)
        self.strata.add(part, layers(part.year, part.window))
        self.errors[key].add(part)

    def rim_px(self) -> int:
        """How much around a part the counts look at."""
        return max([b.rim_px for b in self.boundaries.values()] + [a.rim_px for a in self.areas.values()])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: those of an :class:`Evaluation`, and the rest under names of their own."""
        return {
            **self.evaluation.to_dict(),
            "probabilities": self.stated.to_dict(),
            "map_temperature": self.temperature.to_dict(),
            "boundary": {kind: found.to_dict() for kind, found in self.boundaries.items()},
            "area": {str(year): found.to_dict() for year, found in self.areas.items()},
            "strata": self.strata.to_dict(),
        }


def examine(
    out: str | Path,
    truth: Truth,
    *,
    years: Sequence[int] | None = None,
    outlines: Path | None = None,
    layers: Layers = no_layers,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Examination:
    """Scores, reliability, boundaries, areas, strata and error pictures of a run's maps.

    Args:
        out: output folder or fsspec URL of the run.
        truth: as for :func:`cryoscale.learn.evaluate.evaluate`.
        years: which years; None takes all.
        outlines: vector file of glaciers with ids; without it each body of true ice counts as one.
        layers: what the ground is like, by year and window.
        on_stage: told what is being done.

    Raises:
        SourceError: as for ``evaluate``; or the outlines cannot be used.
    """
    wanted = groups(out, years)
    found = Examination()
    for year in sorted({year for year, _ in wanted}):
        paths = {epsg: truth_of(truth, epsg, year) for y, epsg in wanted if y == year}
        if outlines is None:
            on_stage(f"drawing the bodies of true ice of {year}")
        glaciers = read_outlines(outlines, year) if outlines else bodies_of_truth(out, year, paths)
        found.areas[year] = GlacierAreas(glaciers)
        for epsg, path in paths.items():
            on_stage(f"comparing {year}, EPSG:{epsg}")
            key = f"{year}/{epsg}"
            found.parts[key] = Scores(np.zeros((len(CLASS_NAMES),) * 2, np.int64))
            with open_raw(out, year, epsg) as mosaic:
                found.errors[key] = ErrorMap(window_of(mosaic, epsg))
            for part in parts_of(out, year, epsg, path, found.rim_px()):
                found.add(part, layers)
    refuse_nothing_in_common(found.scores, out, truth)
    return found
