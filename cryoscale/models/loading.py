"""A model by its weights file or by its name; torch is imported only for one that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryoscale.errors import InputError
from cryoscale.models.protocol import PredictsTiles

NAMES = ("band-ratio",)
"""Models that need no weights."""


def load_predictor(
    *,
    weights: str | Path | None = None,
    name: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    flips: bool = False,
    mc_dropout: int = 0,
) -> PredictsTiles:
    """The model of a weights file (X.safetensors, its card beside it), or one that needs none, by name.

    Args:
        weights: path of the weights; this or ``name``, not both.
        name: one of ``NAMES``.
        device: auto, cpu, cuda or cuda:N; for models with weights.
        precision: one of ``cryoscale.models.predictor.PRECISIONS``; for models with weights.
        threads: CPU threads that torch may use; None leaves them alone.
        flips: answer with the mean over the eight flips and turns of each tile.
        mc_dropout: answer with the mean of so many samples with dropout left on; 0 switches it off.

    Raises:
        InputError: if neither or both are given, the name, device or precision is unknown, or the model
            cannot be asked in several variants.
        WeightsError: if the weights cannot be used.
    """
    if (weights is None) == (name is None):
        given = "both weights and the name of a model" if weights is not None else "no model"
        raise InputError(given, "either weights or a name", f"give a .safetensors file or {NAMES[0]}")
    if name is not None:
        if mc_dropout:
            given = f"mc_dropout {mc_dropout} with {name}, which has no dropout"
            raise InputError(given, "a network with dropout, such as glavitu", "leave mc_dropout out")
        return _turned(_by_name(name), flips)

    from cryoscale.models.predictor import BY_OPENVINO, Predictor
    from cryoscale.models.weights import load

    if mc_dropout and precision in BY_OPENVINO:
        given = f"mc_dropout {mc_dropout} with precision {precision}, where nothing is dropped"
        raise InputError(given, "precision fp32, bf16 or auto", "change one of them")
    model, card = load(str(weights))
    predictor = _turned(Predictor(model, card, device=device, precision=precision, threads=threads), flips)
    if not mc_dropout:
        return predictor
    from cryoscale.models.variants import MonteCarloDropout

    return MonteCarloDropout(predictor, model, mc_dropout)


def _turned(predictor: PredictsTiles, flips: bool) -> PredictsTiles:
    if not flips:
        return predictor
    from cryoscale.models.variants import Turned

    return Turned(predictor)


def _by_name(name: str) -> PredictsTiles:
    from cryoscale.models.bandratio import BandRatio

    if name not in NAMES:
        raise InputError(f"a model named {name!r}", f"one of {', '.join(NAMES)}", "or give weights")
    return BandRatio()


def describe(predictor: PredictsTiles) -> dict[str, Any]:
    """A model's entry in a run's manifest: name, sha256, parameters, precision, channels, classes."""
    return predictor.describe()
