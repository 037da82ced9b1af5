"""What a workload has to say: a rate, its limit, and others measured in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rival:
    """What people would use instead, on the same input; ``rate`` is None where it could not be measured.

    Attributes:
        name: which libraries, in words.
        rate: in the unit of the figure it stands beside.
        note: what is different about it, or why it was not measured.
    """

    name: str
    rate: float | None
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A rate beside its limit and its rival.

    Attributes:
        workload: the stage.
        rate: how much of ``unit`` was done.
        unit: such as "Mpixel/s".
        limit: what the machine would allow in that unit.
        limit_is: how the limit was reckoned.
        rival: what it is compared with.
        more: other figures of the same measurement, JSON.
    """

    workload: str
    rate: float
    unit: str
    limit: float
    limit_is: str
    rival: Rival
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_limit(self) -> float:
        """Share of the limit that was reached."""
        return self.rate / self.limit

    @property
    def times_rival(self) -> float | None:
        """How many times the rival's rate; None where that was not measured."""
        return None if self.rival.rate is None else self.rate / self.rival.rate

    def to_dict(self) -> dict[str, Any]:
        """JSON, ratios included; rates with four digits."""
        return {
            "rate": rounded(self.rate),
            "unit": self.unit,
            "limit": rounded(self.limit),
            "limit_is": self.limit_is,
            "of_limit": rounded(self.of_limit),
            "rival": self.rival.name,
            "rival_rate": None if self.rival.rate is None else rounded(self.rival.rate),
            "rival_note": self.rival.note,
            "times_rival": None if self.times_rival is None else rounded(self.times_rival),
            **self.more,
        }


def rounded(value: float) -> float:
    """Four digits of a number: more would be noise."""
    return float(f"{value:.4g}")
