"""A model by its weights file or by its name; torch is imported only for one that needs it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoscale.errors import InputError, WeightsError
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
        weights: path or URL of the weights; this or ``name``, not both.
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


# --- a model that a process keeps for whoever comes -------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    predictor: PredictsTiles
    asked: Mapping[str, Any]

    def is_what(self, asked: Mapping[str, Any]) -> bool:
        """Whether it is the model that is asked for: by what the files hold, not by where they lie."""
        own, others = ({**one, "weights": None, "precision": None} for one in (self.asked, asked))
        if own != others or asked["weights"] is None:
            return False
        described = self.predictor.describe()
        if asked["precision"] not in (self.asked["precision"], described["precision"]):
            return False
        from cryoscale.models.weights import read_card, serving_digest

        try:
            card = read_card(str(asked["weights"]))
        except WeightsError:  # whoever loads them says so
            return False
        return (card.sha256, serving_digest(card)) == (described["sha256"], described["card"])


_kept: list[_Kept] = []
"""At most one: a device has room for one model."""


def keep(**spec: Any) -> None:
    """Load a model as :func:`load_predictor`, for the actor to come in this process.

    Raises:
        InputError: as there.
        WeightsError: as there.
    """
    _kept[:] = [_Kept(load_predictor(**spec), _asked(spec))]


def at_hand(**spec: Any) -> PredictsTiles:
    """The model that this process keeps, if it is the one asked for, else as :func:`load_predictor`.

    A kept one stays for the next who asks; it is let go of once another is asked for.
    """
    if any(one.is_what(_asked(spec)) for one in _kept):
        return _kept[0].predictor
    _kept.clear()
    return load_predictor(**spec)


def _asked(spec: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(load_predictor).parameters.values()
    return {**{one.name: one.default for one in parameters}, **spec}
