"""Who is to blame when a block fails: the block itself, or what it ran on.

An error that a block raises is its own. The death of a worker or an actor strikes every block in that
process, and may be a preemption or the doing of one of them. So a block under which several have died is
suspected, and done at the end with nothing beside it: if its worker dies then, it is the block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cryoscale.errors import ActorLostError, CryoscaleError
from cryoscale.ledger import Work
from cryoscale.task import ATTEMPTS

SUSPECTED = 3
"""How many workers or actors may die under a block before it is done alone."""


@dataclass(frozen=True)
class Verdict:
    """What to do with a block that failed."""

    then: Literal["again", "alone", "aside"]
    attempts: int
    lost: bool
    """Whether it was lost with a worker or an actor, and did not fail by itself."""
    reason: str


@dataclass
class Blame:
    """The failures of the blocks that are not done yet."""

    _failures: dict[Work, int] = field(default_factory=dict)
    _losses: dict[Work, int] = field(default_factory=dict)
    _alone: dict[Work, int] = field(default_factory=dict)

    def attempt(self, work: Work) -> int:
        """The number of the attempt that is to come, of those that count against the block."""
        return self._failures.get(work, 0) + 1

    def judge(self, work: Work, error: BaseException, *, alone: bool) -> Verdict:
        """Count a failure, and say what follows from it."""
        reason = " ".join(str(error).split())[:500]
        if is_loss(error):
            return self._lost(work, reason, alone)
        count = self._failures[work] = self._failures.get(work, 0) + 1
        hopeless = isinstance(error, CryoscaleError) and not error.retry
        return Verdict("aside" if hopeless or count >= ATTEMPTS else "again", count, False, reason)

    def forget(self, work: Work) -> None:
        """The block is done."""
        for counts in (self._failures, self._losses, self._alone):
            counts.pop(work, None)

    def _lost(self, work: Work, reason: str, alone: bool) -> Verdict:
        count = self._losses[work] = self._losses.get(work, 0) + 1
        if alone:
            self._alone[work] = self._alone.get(work, 0) + 1
            if self._alone[work] >= ATTEMPTS:
                told = f"its worker or actor died under it {count} times, {ATTEMPTS} with nothing beside it"
                return Verdict("aside", count, True, f"{told}: {reason}")
        return Verdict("alone" if count >= SUSPECTED else "again", count, True, reason)


def is_loss(error: BaseException) -> bool:
    """Whether a block was lost with its worker or its actor."""
    from distributed.scheduler import KilledWorker

    return isinstance(error, (ActorLostError, KilledWorker))
