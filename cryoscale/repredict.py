"""A finished run predicted again with something left out, by the very path that made it.

The variant is a run of its own in a work folder: the frozen scenes of the first without those of a modality,
or the same weights with temperature 1. It reads, computes, predicts, blends and writes as the first run did,
on the blocks that the first has done, and resumes like any run. A temperature acts on each tile before tiles
are blended, so that this is the only way to see a map without it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import shapely

from cryoscale.cluster import workers
from cryoscale.drive import Driver
from cryoscale.errors import InputError, OperatorError, SourceError
from cryoscale.grid import window_of
from cryoscale.ledger import ITEMS, Ledger, Work
from cryoscale.manifest import digest, refuse_another
from cryoscale.models.fetching import on_this_machine
from cryoscale.outcome import OnProgress, Outcome, Watch
from cryoscale.read import snapshot
from cryoscale.results import Run
from cryoscale.resume import forget, sound
from cryoscale.settings import ClusterSpec, ModelSpec, Season, Settings
from cryoscale.write import mosaic, quicklook

MODALITIES = ("thermal", "velocity", "insar", "terrain")
"""What can be left out alone; optical is what the map is made of."""

VARIANTS: Mapping[str, tuple[str, ...]] = {
    **{name: (name,) for name in MODALITIES},
    "all-but-optical": (*MODALITIES, "radar"),
    "calibration": (),
}
"""What can be left out, and the modalities that go with it; ``calibration`` is the weights' temperature."""


@dataclass(frozen=True)
class Variant:
    """A run to be predicted again.

    Attributes:
        run: the finished one.
        name: of :data:`VARIANTS`.
        folder: where to work, a folder or fsspec URL.
        weights: where the run's weights lie, None for where its configuration says.
    """

    run: Run
    name: str
    folder: str
    weights: str | None = None


def choose_variants(run: Run, asked: str) -> list[str]:
    """The names of a comma-separated list; ``each`` is all that the run has to leave out.

    Raises:
        InputError: nothing is named, a name is unknown, or the run has no such thing.
    """
    there = [name for name in VARIANTS if _has(run, name)]
    if asked == "each":
        return there
    names = [name.strip() for name in asked.split(",") if name.strip()]
    expected = f"each, or some of {', '.join(there) or 'nothing: this run is optical alone'}"
    if not names:
        raise InputError(f"--without {asked!r}, which names nothing", expected, "correct the list")
    for name in names:
        if name not in there:
            why = "has none" if name in VARIANTS else "is not known"
            raise InputError(
                f"--without {name}, which {'run ' + run.out + ' ' if name in VARIANTS else ''}{why}",
                expected,
                "correct the list",
            )
    return list(dict.fromkeys(names))


def _has(run: Run, name: str) -> bool:
    sources = set(run.manifest["identity"]["sources"])
    if name == "calibration":
        return bool(run.manifest["model"].get("temperature", 1.0) != 1.0)
    return any(modality in sources for modality in VARIANTS[name])


def repredict(
    variants: Sequence[Variant],
    wanted: Callable[[Work], bool],
    *,
    on_progress: OnProgress | None = None,
    on_stage: Callable[[str], None] = lambda text: None,
) -> None:
    """Map the ``wanted`` blocks of a run again, once a variant, or complete what lies in their folders.

    One set of workers serves all variants.

    Raises:
        InputError: the weights are not those of the run, or a folder holds another run.
        OperatorError: a block could not be mapped, or not from the scenes that the run was made from.
    """
    to_do = []
    for variant in variants:
        settings = settings_of(variant)
        forget(Ledger(variant.folder), _without_scenes_of_the_run(variant))
        work = [key for key in sorted(Ledger(variant.run.out).done()) if wanted(key)]
        identity = _prepare(variant, settings, work)
        remaining = sorted(set(work) - sound(Ledger(variant.folder), on_stage))
        if remaining:
            to_do.append((variant, settings, identity, remaining, len(work)))
    if not to_do:
        return
    on_stage("starting workers to predict again")
    with workers(to_do[0][1].cluster) as found:
        for variant, settings, identity, remaining, total in to_do:
            on_stage(f"mapping {len(remaining)} blocks again without {variant.name}")
            outcome = Outcome(variant.folder, skipped=total - len(remaining))
            with _served(variant, settings) as serving:
                driver = Driver(serving, variant.folder, identity, found, outcome, Watch(on_progress))
                driver.drive(remaining)
            _refuse_gaps(variant, outcome)


@contextmanager
def _served(variant: Variant, settings: Settings) -> Iterator[Settings]:
    """Settings to predict with: without ``calibration``, of a copy of the weights that has temperature 1.

    The copy lies beside the work folder, where workers see it, or, where that is no folder, in a temporary
    one of its own; in the end it is gone.
    """
    if variant.name != "calibration":
        yield settings
        return
    from cryoscale.models.weights import card_path, read_card

    weights = Path(str(settings.model.weights))
    card = read_card(weights)
    with ExitStack() as at_end:
        if "://" in variant.folder:
            place = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="temperature-1-")))
        else:
            place = Path(variant.folder).parent / f"temperature-1-{str(card.sha256)[:16]}"
            place.mkdir(parents=True, exist_ok=True)
            at_end.callback(shutil.rmtree, place, ignore_errors=True)
        copy = place / weights.name
        shutil.copyfile(weights, copy)
        plain = card.model_copy(update={"temperature": 1.0, "calibration": None})
        card_path(copy).write_text(plain.model_dump_json(indent=1), encoding="utf-8")
        yield replace(settings, model=replace(settings.model, weights=str(copy)))


def _without_scenes_of_the_run(variant: Variant) -> dict[Work, tuple[str, str]]:
    """Blocks of a variant that were made without a scene which the run had: the first such, and why."""
    failed = {marker.key: marker.scenes_failed for marker in Ledger(variant.folder).markers()}
    if not any(failed.values()):
        return {}
    missed = {scene for marker in Ledger(variant.run.out).markers() for scene, _ in marker.scenes_failed}
    lost = {key: [one for one in scenes if one[0] not in missed] for key, scenes in failed.items()}
    return {key: scenes[0] for key, scenes in lost.items() if scenes}


def _refuse_gaps(variant: Variant, outcome: Outcome) -> None:
    """What is compared may differ in what was left out alone."""
    if lost := _without_scenes_of_the_run(variant):
        scene, reason = next(iter(lost.values()))
        raise OperatorError(
            f"{len(lost)} blocks were mapped without {variant.name}, but also without scene {scene}, of "
            f"which the run was made ({reason}); bring it back and run again: they are then done anew"
        )
    if outcome.set_aside:
        raise OperatorError(
            f"{len(outcome.set_aside)} blocks could not be mapped without {variant.name} "
            f"({outcome.set_aside[0].reason}); mend it and run again: what is done is kept"
        )


def settings_of(variant: Variant) -> Settings:
    """The run's settings from its own record, so that neither its catalogues nor its region file is needed.

    Raises:
        SourceError: the weights are not there, or not those that the run was made with.
    """
    manifest = variant.run.manifest
    identity, document = manifest["identity"], manifest["config"]
    model = document["model"]
    weights = variant.weights or model.get("weights")
    if model.get("name") is None:
        _require_weights(weights, identity["model"])
    return Settings(
        name=manifest["name"],
        region=shapely.from_geojson(identity["region"]),
        years=tuple(identity["years"]),
        season=Season(*identity["season"]),
        catalogs=(),
        sources={},
        model=ModelSpec(
            weights=str(on_this_machine(weights).resolve()) if model.get("name") is None else None,
            name=model.get("name"),
            overlap=identity["overlap"],
            precision=identity["precision"],
            **{name: value for name, value in identity["model"].items() if name in ModelSpec.CHOICES},
        ),
        tile_px=identity["tile_px"],
        block_px=identity["block_px"],
        cluster=ClusterSpec(**document.get("cluster", {})),
        document=document,
    )


def _require_weights(weights: str | None, model: Mapping[str, Any]) -> None:
    from cryoscale.models.weights import read_card, serving_digest

    if weights is None or not on_this_machine(weights).is_file():
        raise SourceError(
            f"weights {weights}, which the run names and which are not there",
            "the weights that the run was made with",
            "say where they lie with --weights",
        )
    card = read_card(weights)
    for kind, found in (("sha256", card.sha256), ("card", serving_digest(card))):
        if found != model[kind]:
            what = "" if kind == "sha256" else "a card of digest "
            raise SourceError(
                f"weights {weights} with {what or 'sha256 '}{str(found)[:12]}...",
                f"{what}{str(model[kind])[:12]}..., with which the run was made",
                "say where those lie with --weights",
            )


def _prepare(variant: Variant, settings: Settings, work: Sequence[Work]) -> str:
    """Manifest, frozen scenes and empty maps of the variant, unless they lie there; its identity's digest."""
    manifest = variant.run.manifest
    gone = VARIANTS[variant.name]
    identity = {**manifest["identity"], "without": variant.name, "of": manifest["identity_sha256"]}
    model = {**manifest["model"]}
    context = {**manifest["context"], "on_missing": "nan", "blocks": len(work)}
    if variant.name == "calibration":
        model["temperature"] = 1.0
    if "velocity" in gone:
        context["velocity_href"] = None
    changed = {"context": context, "model": model, "identity": identity, "identity_sha256": digest(identity)}
    wanted = {**manifest, **changed, "blocks_sha256": None}
    ledger = Ledger(variant.folder)
    present = ledger.manifest()
    if present is None:
        ledger.refuse_foreign()
        items = snapshot.thaw(f"{variant.run.out}/{ITEMS}")
        kept = {key: found for key, found in items.items() if key.split("/")[1] not in gone}
        with tempfile.TemporaryDirectory() as folder:
            snapshot.freeze(kept, Path(folder) / ITEMS)
            ledger.put_bytes(ITEMS, (Path(folder) / ITEMS).read_bytes())
        ledger.begin(wanted)
    else:
        refuse_another(present, wanted, variant.folder)
    for year, epsg in sorted({(year, block.epsg) for year, block in work}):
        with mosaic.open_mosaic(variant.run.out, year, epsg) as first_map:
            window = window_of(first_map, epsg)
        mosaic.create(
            f"{variant.folder}/mosaic.zarr",
            year=year,
            window=window,
            block_px=settings.block_px,
            classes=tuple(manifest["model"]["classes"]),
            attrs={"cryoscale:run": f"{settings.name} without {variant.name}"},
        )
        quicklook.create(variant.folder, year=year, window=window, block_px=settings.block_px)
    return str(wanted["identity_sha256"])
