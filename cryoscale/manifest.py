"""What a run is: its model, its identity, its context; and what tells one run from another.

The identity is everything that decides a pixel, and nothing else; the context is what a block's task
needs to know; what was asked is kept beside both, so that a configuration that changed is told.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import shapely

import cryoscale
from cryoscale.dates import spelled
from cryoscale.errors import InputError, OutputError, WeightsError
from cryoscale.features.stack import CHANNELS, MODALITIES
from cryoscale.models import loading
from cryoscale.models.protocol import PredictsTiles
from cryoscale.models.weights import refuse_other_classes
from cryoscale.plan import Items
from cryoscale.read.signing import public
from cryoscale.settings import Settings, SourceSpec

_LOOPBACK = re.compile(r"^(https?://(?:127\.0\.0\.1|localhost|\[::1\])):\d+")
"""A server on this machine, which may listen on another port the next time."""

_SHOWN = 60
"""Characters of a value that are shown where it differs."""


def digest(identity: Mapping[str, Any]) -> str:
    """The run's identity in a few characters."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def compose(
    settings: Settings, model: Mapping[str, Any], catalogue: str, catalogs: list[dict[str, Any]]
) -> dict[str, Any]:
    """The manifest of a run that is to begin.

    Args:
        settings: of the run.
        model: from :func:`model_record`.
        catalogue: digest of the frozen scenes.
        catalogs: what the catalogues answered.
    """
    identity = _identity(settings, model, catalogue)
    return {
        "name": settings.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": dict(settings.document),
        "versions": versions(),
        "commit": commit(),
        "model": dict(model),
        "catalogs": catalogs,
        "identity": identity,
        "identity_sha256": digest(identity),
        "asked": _asked(settings),
        "context": _context(settings, model),
    }


def refuse_another(present: Mapping[str, Any], wanted: Mapping[str, Any], out: str) -> None:
    """Refuse to go on with the run in ``out`` under another configuration, model or catalogue.

    Raises:
        OutputError: with each key that differs, what it is there and what it is now.
    """
    told = [
        *_differences(present.get("identity", {}), wanted["identity"]),
        # runs begun before this was kept have nothing to compare
        *(_differences(present["asked"], wanted["asked"]) if "asked" in present else ()),
    ]
    if told:
        raise OutputError(
            f"output {out}, which holds run {present.get('name')!r} with another {', '.join(told)}",
            "the run that was begun there, or an empty folder",
            "give another --out or the configuration it was begun with, or begin anew with --new-run",
        )


def _differences(there: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    told = []
    now = json.loads(json.dumps(now))
    for key in sorted({*there, *now}):
        before, after = there.get(key), now.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            told += _differences(before, after, f"{path}{key}.")
        else:
            told.append(f"{path}{key} ({_short(key, before)} there, {_short(key, after)} now)")
    return told


def _short(key: str, value: Any) -> str:
    """A value in a few characters: a region by its bounds, a digest by its head."""
    if value is None:
        return "none"
    if key in ("region", "candidates") and isinstance(value, str):
        bounds = shapely.from_geojson(value).bounds
        return "/".join(f"{v:.4f}" for v in bounds)
    text = value if isinstance(value, str) else json.dumps(value)
    if key in ("sha256", "card", "catalogue"):
        return text[:12]
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _asked(settings: Settings) -> dict[str, Any]:
    """What is not the identity's and holds from the start all the same: a change is told, not ignored.

    The cluster is left out: with it a run may go on elsewhere.
    """
    return {
        "name": settings.name,
        "catalogs": [[_LOOPBACK.sub(r"\1", public(c.url)), c.sign] for c in settings.catalogs],
        "on_unreadable": settings.on_unreadable,
        "loader": settings.loader,
        "min_area_km2": settings.min_area_km2,
    }


def model_record(settings: Settings) -> dict[str, Any]:
    """What the model says of itself; loaded once in the driver, so that unfit weights are refused at once.

    Raises:
        InputError: the tile does not fit the network.
        WeightsError: the weights want channels or classes that there are not.
    """
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
            **_gates(settings.tile_px, described.get("squeeze_px")),
            # runs in which it was read off all the same have another layer, and cannot be gone on with
            **({"curve": "not read"} if spec.confidence == "entropy" and _unused_curve(predictor) else {}),
        },
        "confidence": confidence_layer(settings.model.confidence, predictor),
        "channels": list(predictor.channels),
        "classes": list(predictor.classes),
        "needs_halo": predictor.needs_halo,
        "needs_location": predictor.needs_location,
        "pca": predictor.pca,
    }


def _gates(tile_px: int, squeeze_px: int | None) -> dict[str, int]:
    """Over how much ground gates look, where that is less than a tile: before, they looked at all of it."""
    if squeeze_px is None:
        return {}
    from cryoscale.models.cryonet import squeeze_cells  # and with it torch, which such a network has imported

    return {} if squeeze_cells((tile_px, tile_px), squeeze_px) is None else {"squeeze_px": squeeze_px}


def confidence_layer(kind: str, predictor: PredictsTiles) -> str:
    """What the map's layer ``confidence`` holds, in words."""
    if kind == "max":
        return "probability of the most probable class"
    if getattr(predictor, "calibration", None) is not None:
        return "one minus normalised entropy, read as observed accuracy"
    unused = _unused_curve(predictor)
    return "one minus normalised entropy" + (f", uncalibrated: the curve is for {unused}" if unused else "")


def _unused_curve(predictor: PredictsTiles) -> str | None:
    """What the curve on the weights' card was fitted on, where that is not how the run asks them."""
    card = getattr(predictor, "card", None)
    if card is None or card.calibration is None or getattr(predictor, "calibration", None) is not None:
        return None
    return str(card.calibration.answers)


def require_modalities(settings: Settings, items: Items) -> None:
    """Under ``on_missing: fail``, require a source and an item for every modality.

    Raises:
        InputError: one is not there.
    """
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
            period, modality = key.split("/")
            days = settings.dates_of(modality, int(period)) if period != "all" else ()
            raise InputError(
                f"no item for {key}{f' of {spelled(days)}' if days else ''} under on_missing: fail",
                "every modality of sources",
                f"{'correct its dates' if days else 'widen the season'}, or leave the source out",
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
        **_dates(settings),
        "candidates": shapely.to_geojson(settings.candidates) if settings.candidates else None,
        # only where it is asked for, so that runs begun without the choice keep their identity
        **({"coarse": asdict(settings.coarse)} if settings.coarse else {}),
        "overlap": settings.model.overlap,
        "precision": settings.model.precision,
        # only where it is so: runs begun before there was a choice keep their identity
        **({"derive_on": "device"} if settings.model.derive_on == "device" else {}),
        "tile_px": settings.tile_px,
        "block_px": settings.block_px,
        "on_missing": settings.on_missing,
    }


def _dates(settings: Settings) -> dict[str, dict[str, list[str]]]:
    """The days that sources are taken from, where any is named; runs begun without keep their identity."""
    named = {m: [str(day) for day in s.dates] for m, s in sorted(settings.sources.items()) if s.dates}
    return {"dates": named} if named else {}


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
        "derive_on": "device" if settings.model.derive_on == "device" else "workers",
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
