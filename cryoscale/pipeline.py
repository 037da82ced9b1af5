"""A run: prepared, driven over its blocks, and finished with its map, outlines and report.

Killed at any moment, it leaves a folder that the same command completes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shapely

import cryoscale
from cryoscale.cluster import require_reachable, workers
from cryoscale.drive import Driver, OnProgress, Outcome, Work
from cryoscale.errors import InputError, OutputError, WeightsError
from cryoscale.features.stack import CHANNELS, MODALITIES
from cryoscale.featurise import fit_run_basis
from cryoscale.finish import finish
from cryoscale.ledger import Ledger
from cryoscale.models import loading
from cryoscale.models.protocol import PredictsTiles
from cryoscale.models.weights import refuse_other_classes
from cryoscale.plan import (
    Items,
    block_aligned,
    blocks_of,
    catalog_record,
    fail_overs,
    find_items,
    search_items,
    unmasked,
    zone_regions,
)
from cryoscale.read import snapshot
from cryoscale.read.catalog import CatalogAnswer
from cryoscale.settings import Settings, SourceSpec
from cryoscale.write import mosaic, quicklook
from cryoscale.write.mosaic import read_block_checksum

log = logging.getLogger("cryoscale")

OnStage = Callable[[str], None]


def run(
    settings: Settings,
    out: str,
    *,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
) -> Outcome:
    """Map the region of ``settings`` into ``out``, or complete the run that lies there.

    Raises:
        InputError: anything the caller has to correct; nothing is written in that case.
    """
    stage = on_stage or (lambda text: log.info(text))
    outcome = Outcome(out)
    started = time.perf_counter()
    require_reachable(settings.cluster, out)
    stage("searching the catalogues")
    identity, work = prepare(settings, out, stage)
    outcome.seconds["prepare"] = time.perf_counter() - started
    ledger = Ledger(out)
    done = sound(ledger, stage)
    remaining = [item for item in work if item not in done]
    outcome.skipped = len(work) - len(remaining)
    if remaining:
        stage(f"starting workers for {len(remaining)} blocks")
        with workers(settings.cluster) as found:
            outcome.seconds["workers"] = time.perf_counter() - started - outcome.seconds["prepare"]
            stage(f"mapping on {found.tasks} tasks and {found.actors} actors")
            start = time.perf_counter()
            driver = Driver(settings, out, identity, found, outcome, on_progress, len(work))
            driver.drive(remaining)
            outcome.seconds["blocks"] = time.perf_counter() - start
    outcome.set_aside = list(ledger.set_asides().values())
    start = time.perf_counter()
    finish(settings, out, stage)
    outcome.seconds["finish"] = time.perf_counter() - start
    return outcome


def sound(ledger: Ledger, stage: OnStage) -> set[Work]:
    """The blocks that are done and lie in the store as their markers say; the marker of another goes."""
    done = ledger.done()
    if not done:
        return set()
    stage(f"reading back {len(done)} blocks that are done")
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda key: read_block_checksum(f"{ledger.out}/mosaic.zarr", *key).checksum, done)
        damaged = {
            key
            for (key, marker), checksum in zip(done.items(), found, strict=True)
            if checksum != marker.checksum
        }
    for year, block in damaged:
        log.warning("block %s of %d is damaged on disk and is done again", block.key, year)
        ledger.unmark(year, block)
    return set(done) - damaged


def look_again(settings: Settings, out: str) -> snapshot.Changes | None:
    """How the catalogues differ by now from what the run in ``out`` froze; None where there is no run.

    Raises:
        InputError: the frozen catalogue or one to search is not there.
        CatalogUnavailableError: no catalogue answers.
    """
    if Ledger(out).manifest() is None:
        return None
    return snapshot.compare(snapshot.thaw(f"{out}/items.parquet"), search_items(settings))


def refuse_to_mix(changes: snapshot.Changes | None, out: str) -> None:
    """One map shall not be made of two catalogues.

    Raises:
        OutputError: something has changed.
    """
    if changes:
        raise OutputError(
            f"output {out}, whose frozen catalogue is no longer what the providers have ({changes})",
            "the catalogue that the run was begun with; nothing was started",
            "give another --out to map what is there now, or leave --refresh out to go on as begun",
        )


# --- preparation ------------------------------------------------------------------------------------


def prepare(settings: Settings, out: str, stage: OnStage | None = None) -> tuple[str, list[Work]]:
    """Check everything, then write manifest, frozen catalogue and empty mosaics; or find them there.

    Returns the digest of the run's identity, and all its blocks.
    """
    ledger = Ledger(out)
    model = _model_record(settings)
    zones = [(zone, blocks_of(settings, zone)) for zone in zone_regions(settings)]
    if not any(blocks for _, blocks in zones):
        raise InputError("region and candidates with nothing in common", "a block to map", "check both")
    present = ledger.manifest()
    frozen = f"{out}/items.parquet"
    answers: list[CatalogAnswer] = []
    items = find_items(settings, answers) if present is None else snapshot.thaw(frozen)
    catalogs = catalog_record(answers)
    for line in [*fail_overs(catalogs), *unmasked(items)]:
        (stage or log.warning)(line)
    _require_modalities(settings, items)
    if (
        present is None
        and model["pca"] is None
        and not {"PCA1", "PCA2", "PCA3"}.isdisjoint(model["channels"])
    ):
        fitted = fit_run_basis(settings, items)
        model["pca"], model["pca_sample"] = fitted.basis.to_dict(), fitted.record()
        for line in fitted.lines():
            (stage or log.warning)(line)
    identity = _identity(settings, model, snapshot.digest(items))
    work = [(year, block) for year in settings.years for _, blocks in zones for block in blocks]
    sha256 = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    manifest = {
        "name": settings.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": dict(settings.document),
        "versions": versions(),
        "commit": commit(),
        "model": model,
        "catalogs": catalogs,
        "identity_sha256": sha256,
        "context": {**_context(settings, model), "blocks": len(work)},
    }
    if present is None:
        ledger.refuse_foreign()
        with tempfile.TemporaryDirectory() as folder:
            snapshot.freeze(items, Path(folder) / "items.parquet")
            ledger.put_bytes("items.parquet", (Path(folder) / "items.parquet").read_bytes())
    ledger.open(manifest, identity)
    for zone, blocks in zones:
        for year in settings.years if blocks else ():
            window = block_aligned(zone.window(), settings.block_px)
            mosaic.create(
                f"{out}/mosaic.zarr",
                year=year,
                window=window,
                block_px=settings.block_px,
                classes=tuple(model["classes"]),
                attrs={"cryoscale:run": settings.name, "cryoscale:confidence": model["confidence"]},
            )
            quicklook.create(out, year=year, window=window, block_px=settings.block_px)
    return sha256, work


def _model_record(settings: Settings) -> dict[str, Any]:
    """Load the model once in the driver, so that weights that cannot be used are refused at once."""
    spec = settings.model
    predictor = loading.load_predictor(
        **{**spec.keywords, "device": "cpu", "precision": "fp32" if spec.name is None else "auto"}
    )
    if predictor.needs_halo and settings.tile_px % predictor.tile_multiple:
        raise InputError(
            f"tile_px {settings.tile_px}",
            f"a multiple of {predictor.tile_multiple}, as the model needs",
            "correct tiling.tile_px",
        )
    unknown = sorted(set(predictor.channels) - set(CHANNELS))
    if unknown:
        raise WeightsError(
            f"weights for the channels {', '.join(unknown)}",
            "channels of the 30-channel stack",
            "take weights made for these channels",
        )
    refuse_other_classes(predictor.classes)
    described = predictor.describe()
    return {
        **described,
        "identity": {
            # The tensors' sha256 does not cover the card: temperature, statistics, basis, curve.
            **{key: described.get(key) for key in ("name", "sha256", "card")},
            **spec.choices,
        },
        "confidence": confidence_layer(settings.model.confidence, predictor),
        "channels": list(predictor.channels),
        "classes": list(predictor.classes),
        "needs_halo": predictor.needs_halo,
        "pca": predictor.pca,
    }


def confidence_layer(kind: str, predictor: PredictsTiles) -> str:
    """What the map's layer ``confidence`` holds, in words."""
    if kind == "max":
        return "probability of the most probable class"
    calibrated = getattr(predictor, "calibration", None) is not None
    return "one minus normalised entropy" + (", read as observed accuracy" if calibrated else "")


def _require_modalities(settings: Settings, items: Items) -> None:
    if settings.on_missing != "fail":
        return
    left_out = sorted(set(MODALITIES) - set(settings.sources))
    if left_out:
        raise InputError(
            f"sources without {', '.join(left_out)} under on_missing: fail",
            "every modality",
            "name a source for each, or leave on_missing out",
        )
    for key, found in items.items():
        if not found:
            raise InputError(
                f"no item for {key} under on_missing: fail",
                "every modality of sources",
                "widen the season, or leave the source out",
            )


def _identity(settings: Settings, model: Mapping[str, Any], catalogue: str) -> dict[str, Any]:
    """Everything that decides a pixel, and nothing else.

    The loader is left out: whichever is chosen, the same reader is called, for equal bits.
    """
    return {
        "region": shapely.to_geojson(settings.region),
        "years": list(settings.years),
        "catalogue": catalogue,
        "model": model["identity"],
        "season": [settings.season.start, settings.season.end],
        "sources": {
            name: [s.collection, s.href, s.composite, s.max_cloud_pct, *_limit(s)]
            for name, s in sorted(settings.sources.items())
        },
        "candidates": shapely.to_geojson(settings.candidates) if settings.candidates else None,
        "overlap": settings.model.overlap,
        "precision": settings.model.precision,
        "tile_px": settings.tile_px,
        "block_px": settings.block_px,
        "on_missing": settings.on_missing,
    }


def _limit(source: SourceSpec) -> list[float]:
    """The limit of uncertainty where there is one; runs begun without the choice keep their identity."""
    return [] if source.max_uncertainty_k is None else [source.max_uncertainty_k]


def _context(settings: Settings, model: Mapping[str, Any]) -> dict[str, Any]:
    velocity, thermal = settings.sources.get("velocity"), settings.sources.get("thermal")
    return {
        "region": shapely.to_geojson(settings.region),
        "tile_px": settings.tile_px,
        "overlap": settings.model.overlap,
        "on_missing": settings.on_missing,
        "on_unreadable": settings.on_unreadable,
        "composite": settings.sources["optical"].composite or "least_snow",
        "max_cloud_pct": settings.sources["optical"].max_cloud_pct,
        "velocity_href": velocity.href if velocity else None,
        "max_lst_uncertainty_k": thermal.max_uncertainty_k if thermal else None,
        "loader": settings.loader,
        "channels": model["channels"],
        "needs_halo": model["needs_halo"],
        "pca": model["pca"],
    }


def versions() -> dict[str, str]:
    """Versions of cryoscale and of what decides its pixels."""
    from importlib.metadata import version

    names = ("numpy", "torch", "xarray", "dask", "zarr", "odc-stac", "rasterio", "numba")
    return {"cryoscale": cryoscale.__version__, **{name: version(name) for name in names}}


def commit() -> str | None:
    """The commit of the checkout that this package runs from, with a + where it was changed since."""
    checkout = Path(cryoscale.__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout)]
    try:
        found = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
        state = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() + ("+" if state.stdout.strip() else "")
