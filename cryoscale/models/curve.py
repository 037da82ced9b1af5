"""The curve from a model's confidence to the accuracy that was observed, as a card has it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Share = Annotated[float, Field(ge=0.0, le=1.0)]

Curve = tuple[tuple[float, ...], tuple[float, ...]]
"""Rising confidences, and the accuracies observed there."""


class Calibration(BaseModel):
    """Reliability curve: in bins of rising confidence, the mean confidence and the accuracy observed.

    It holds for answers of the kind that it was fitted on: the network's own, or the mean over ``flips`` or
    over ``mc_dropout`` samples, as a run may choose.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    confidence: Annotated[tuple[Share, ...], Field(min_length=1)]
    accuracy: tuple[Share, ...]
    count: tuple[int, ...]
    flips: bool = False
    mc_dropout: Annotated[int, Field(ge=0)] = 0

    def curve(self, flips: bool, mc_dropout: int) -> Curve | None:
        """Confidence and accuracy, for answers of the kind that they were fitted on."""
        fits = (self.flips, self.mc_dropout) == (flips, mc_dropout)
        return (self.confidence, self.accuracy) if fits else None

    @property
    def answers(self) -> str:
        """The kind of answers, in words."""
        dropout = f"mc_dropout {self.mc_dropout}" if self.mc_dropout else ""
        return " and ".join(filter(None, ("flips" if self.flips else "", dropout))) or "single answers"

    @model_serializer(mode="wrap")
    def _as_before_there_were_kinds(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the kind where it is the network's own: such cards, and the runs by them, stay the same."""
        told: dict[str, Any] = plain(self)
        return {name: value for name, value in told.items() if value or name not in ("flips", "mc_dropout")}

    @model_validator(mode="after")
    def _is_a_curve(self) -> Calibration:
        if not len(self.confidence) == len(self.accuracy) == len(self.count):
            raise ValueError("confidence, accuracy and count must be of one length")
        if any(left >= right for left, right in pairwise(self.confidence)):
            raise ValueError("confidence does not rise from bin to bin")
        return self
