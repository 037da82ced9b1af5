"""``cryoscale evaluate``: a finished run against the truth, as JSON, tables and pictures.

What is judged is the blended map as it lies on disk. With ``without`` the map is made again by the production
path, less a modality or the temperature of the weights (:mod:`cryoscale.repredict`), and judged alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pystac import Item
from scipy.ndimage import map_coordinates

from cryoscale.errors import AssetReadError, SourceError
from cryoscale.features.terrain import slope_aspect
from cryoscale.grid import RESOLUTION_M, Window
from cryoscale.learn import charts, tables
from cryoscale.learn.errormap import ErrorMap
from cryoscale.learn.evaluate import Evaluation, evaluate
from cryoscale.learn.examine import Examination, examine, no_layers
from cryoscale.learn.scan import groups
from cryoscale.learn.scores import NO_DATA
from cryoscale.learn.strata import Layers, open_strata
from cryoscale.learn.truth import Truth, open_truth, truth_of
from cryoscale.ledger import Work
from cryoscale.outcome import OnProgress
from cryoscale.read import snapshot
from cryoscale.read.inputs import read_inputs
from cryoscale.repredict import Variant, choose_variants, repredict, settings_of
from cryoscale.results import Run
from cryoscale.scenes import is_simulated
from cryoscale.write import quicklook
from cryoscale.write.map import hillshade
from cryoscale.write.store import put
from cryoscale.write.usable import require_usable

FOLDER = "evaluation"


@dataclass(frozen=True)
class Wanted:
    """What an evaluation is to hold beside the scores.

    Attributes:
        out: folder or URL of the results, None for ``evaluation`` in the run.
        outlines: vector file of glaciers with ids; None takes each body of true ice for one.
        strata: folder of rasters that say what the ground is like; slope comes from the run's own elevation
            model where there is none.
        without: what to leave out and predict again, e.g. ``each`` or ``thermal,calibration``.
        weights: where the run's weights lie, if no longer where its configuration says.
    """

    out: str | None = None
    outlines: Path | None = None
    strata: Path | None = None
    without: str = ""
    weights: str | None = None


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found, and where it was written."""

    out: str
    about: Mapping[str, Any]
    found: Examination
    without: Mapping[str, Evaluation] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = self.found.to_dict()
        uncalibrated = self.without.get("calibration")
        return {
            **found,
            "about": dict(self.about),
            "calibration": {
                "temperature": self.about["temperature"],
                "before": uncalibrated.reliability.to_dict() if uncalibrated else None,
                "after": found["reliability"],
                "on_the_map": found["map_temperature"],
            },
            "without": {
                name: {"scores": e.scores.to_dict(), "reliability": e.reliability.to_dict()}
                for name, e in self.without.items()
            },
            "out": self.out,
        }


def judge(
    out: str,
    truth: Truth,
    wanted: Wanted | None = None,
    *,
    on_progress: OnProgress | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> Judgement:
    """Evaluate the run at ``out`` and write ``evaluation.json``, ``tables.md`` and the pictures.

    Raises:
        SourceError: no finished run lies there, or truth, outlines, strata or weights cannot be used.
        InputError: ``without`` names what the run does not have.
        OutputError: nothing can be written where the judgement is to go.
        NoRoomError: the disk there is full.
    """
    wanted = wanted or Wanted()
    run = Run(out)
    about = _about(run)
    names = choose_variants(run, wanted.without) if wanted.without else []
    target = wanted.out or f"{out.rstrip('/')}/{FOLDER}"
    variants = [Variant(run, name, f"{target}/without/{name}", wanted.weights) for name in names]
    for variant in variants:
        settings_of(variant)  # what cannot be predicted again is told before the work begins
    require_usable(target)  # and so is a place where nothing can be written
    layers, unread = _layers(run, wanted.strata)
    found = examine(out, truth, outlines=wanted.outlines, layers=layers, on_stage=on_stage)
    about["elevation_unread"] = unread
    repredict(variants, _has_truth(truth), on_progress=on_progress, on_stage=on_stage)
    without = {variant.name: evaluate(variant.folder, truth) for variant in variants}
    judgement = Judgement(target, about, found, without)
    on_stage(f"writing tables and pictures to {target}")
    write(judgement, run)
    return judgement


def require_finished(run: Run) -> None:
    """Raises SourceError where blocks of a run are neither done nor set aside."""
    status = run.status()
    open_blocks = status.total - status.done - len(status.set_aside)
    if open_blocks > 0 or not status.done:
        raise SourceError(
            f"run {run.out} with {status.done} of {status.total} blocks done",
            "a finished run",
            "complete it first: the same cryoscale run command goes on where it stopped",
        )


def _about(run: Run) -> dict[str, Any]:
    """What the run is; refuses one that has not come to its end."""
    require_finished(run)
    manifest, status = run.manifest, run.status()
    return {
        "run": manifest["name"],
        "model": manifest["model"]["name"],
        "weights_sha256": manifest["model"]["identity"]["sha256"],
        "temperature": manifest["model"].get("temperature", 1.0),
        "sources": sorted(manifest["identity"]["sources"]),
        "blocks": status.total,
        "blocks_set_aside": len(status.set_aside),
        "simulated": is_simulated(run.out),
    }


def _has_truth(truth: Truth) -> Callable[[Work], bool]:
    """Whether any pixel of a block is known, so that no other is predicted again."""

    def known(work: Work) -> bool:
        year, block = work
        with open_truth(truth_of(truth, block.epsg, year), block.window) as read:
            return bool((read(block.window) != NO_DATA).any())

    return known


def _layers(run: Run, folder: Path | None) -> tuple[Layers, list[str]]:
    """Strata of a folder, and slope of the run's own elevation model where the folder has none.

    The list fills with the causes for which elevation could not be had while the layers are asked for:
    a provider that is down spoils no score but those by slope.
    """
    given = open_strata(folder, groups(run.out)) if folder is not None else no_layers
    unread: list[str] = []
    elevation = snapshot.thaw(f"{run.out}/items.parquet").get("all/terrain", [])

    def layers(year: int, window: Window) -> dict[str, NDArray[np.float32]]:
        found = dict(given(year, window))
        if "slope_deg" not in found and elevation:
            try:
                slope = _slope(elevation, window)
            except AssetReadError as error:
                unread.append(str(error))
                return found
            if slope is not None:
                found["slope_deg"] = slope
        return found

    return layers, unread


def _slope(elevation: list[Item], window: Window) -> NDArray[np.float32] | None:
    outer = window.pad(1)
    inputs, _ = read_inputs({"terrain": elevation}, outer, leave_unreachable=True)
    if "elevation" not in inputs:
        return None
    slope, _ = slope_aspect(np.ascontiguousarray(inputs["elevation"].values, np.float32))
    return slope[window.slices_in(outer)]


# --- writing ----------------------------------------------------------------------------------------


def write(judgement: Judgement, run: Run) -> None:
    """``evaluation.json``, ``tables.md`` and the pictures, each whole or not at all."""
    out, found, about = judgement.out, judgement.found, judgement.about
    document = json.dumps(judgement.to_dict(), indent=1, allow_nan=False) + "\n"
    notes = [f"Model {about['model']}, {about['blocks']} blocks, {about['blocks_set_aside']} set aside."]
    if about["elevation_unread"]:
        notes.append(f"Slope is not known everywhere: {about['elevation_unread'][0]}.")
    caption = f"{about['run']}, model {about['model']}"
    if about["simulated"]:
        notes.append("Simulated imagery: a made-up mountain range, no real place.")
        caption = f"Simulated imagery: no real place. {caption}"
    title = f"Evaluation of {about['run']}"
    put(f"{out}/tables.md", tables.markdown(title, found, judgement.without, notes).encode())
    for name, picture in _pictures(judgement, caption).items():
        put(f"{out}/{name}.png", picture)
    for key, errors in found.errors.items():
        year, epsg = key.split("/")
        if errors.known() is not None:
            relief = _relief(run.out, int(year), errors)
            picture = charts.errors(errors, relief, f"Where map and truth differ, {year}", caption)
            put(f"{out}/errors-{year}-{epsg}.png", picture)
    put(f"{out}/evaluation.json", document.encode())  # last: where it lies, the rest lies too


def _pictures(judgement: Judgement, caption: str) -> dict[str, bytes]:
    found, without = judgement.found, judgement.without
    made = {
        "confusion": charts.confusion(found.scores, caption),
        "boundary": charts.boundary(found.boundaries, caption),
    }
    shown = tables.reliabilities(found, without)
    if shown:
        made["reliability"] = charts.reliability(shown, caption)
    for year, areas in found.areas.items():
        if areas.rows():
            made[f"areas-{year}"] = charts.areas(areas.rows(), f"{caption}, {year}")
    strata = found.strata.scores()
    if strata:
        made["strata"] = charts.strata(strata, caption)
    rows = tables.without_rows(found, without)
    if len(rows) > 1:
        made["without"] = charts.without(rows, caption)
    return made


def _relief(out: str, year: int, errors: ErrorMap) -> NDArray[np.float32] | None:
    """Shaded relief 0-1 on the picture's pixels, from the run's quicklook where it is still there."""
    try:
        with quicklook.open_quicklook(out, year, errors.whole.epsg) as thumb:
            elevation = thumb["elevation"].values
    except (FileNotFoundError, KeyError):
        return None
    shade = np.nan_to_num(hillshade(elevation, RESOLUTION_M * quicklook.FACTOR), nan=0.9)
    # From pixel centres of the one to those of the other.
    rows, cols = (
        (np.arange(length) * errors.step + 0.5) / quicklook.FACTOR - 0.5 for length in errors.codes.shape
    )
    smooth = map_coordinates(shade, np.meshgrid(rows, cols, indexing="ij"), order=1, mode="nearest")
    return np.asarray(smooth, np.float32)
