"""A run driven in slices: N processes, each with workers of its own, each with its part of the plan.

For an indexed Job of Kubernetes, a job array of a batch system, or some machines with a common store; nothing
but that store connects them (https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode).
Whoever comes first prepares the run, the others wait; whoever finds the last block done makes what follows
from all of them. Both is done under a lease of its own, so that another takes over from one that dies.

Blocks are put in the order of a Hilbert curve, year by year and zone by zone, and cut into N runs of equal
length. Blocks next to each other read the same scenes, of which a process opens each once, and the curve
keeps neighbours together better than rows or Morton's curve do (Moon et al. 2001, Analysis of the clustering
properties of the Hilbert space-filling curve, https://doi.org/10.1109/69.908985). The cut depends on the plan
and on N alone, so that a slice that is started again has the blocks that it had.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

from cryoscale import lease
from cryoscale.curve import along_curve
from cryoscale.errors import (
    DrivenError,
    InputError,
    LeaseLostError,
    OutputError,
    StoppedError,
    UnfinishedError,
)
from cryoscale.ledger import Ledger, Work

DIVISION = "ledger/slices.json"
"""Into how many slices a run is divided, and which run that is."""

PREPARING, FINISHING = f"{lease.SLICES}/preparing", f"{lease.SLICES}/finishing"

INDEX, COUNT = "JOB_COMPLETION_INDEX", "CRYOSCALE_SLICES"
"""What ``--slice auto`` reads: Kubernetes' number of a pod of an indexed Job, and how many there are."""

PREPARED_S = 3600.0
"""How long a slice waits for the others to prepare the run."""

WAIT_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class Slice:
    """Slice ``index`` of ``count``, from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def lease(self) -> str:
        """Where its lease lies."""
        return f"{lease.SLICES}/{self.index}"

    @property
    def role(self) -> str:
        """What its driver does."""
        return f"{lease.AS_SLICE}{self}"

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Slice:
        """The slice that ``I/N`` or ``auto`` names.

        Raises:
            InputError: it names none.
        """
        given, do = f"--slice {text}", "correct it"
        if text == "auto":
            absent = [name for name in (INDEX, COUNT) if not environment.get(name)]
            if absent:
                raise InputError(
                    f"--slice auto without {' and '.join(absent)}",
                    f"{INDEX} and {COUNT} in the environment",
                    "run it in an indexed Job that sets both, or give --slice I/N",
                )
            text = f"{environment[INDEX]}/{environment[COUNT]}"
            given, do = f"--slice auto, which is {text}", f"correct {COUNT}"
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise InputError(given, "I/N, with I from 0 to N - 1", do)
        return cls(int(match[1]), int(match[2]))

    def share(self, work: Sequence[Work]) -> list[Work]:
        """Its part of the plan: at most one block more or less than any other's."""
        ordered = along_curve(work)
        start, end = (len(ordered) * bound // self.count for bound in (self.index, self.index + 1))
        return ordered[start:end]


# --- what is done once ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Division:
    """The division of the run at ``out``, seen from one of its slices."""

    out: str
    part: Slice

    def refuse(self) -> None:
        """Refuse, before any work, a slice that does not fit the others, or is driven.

        Raises:
            OutputError: the run is divided into another number, or driven as a whole, or this slice is.
        """
        lease.refuse_driven(self.out, self.part.lease)
        self._record()

    def prepared(
        self, prepare: Callable[[], T], go_on: Callable[[], T], stage: Callable[[str], None], stop: Event
    ) -> T:
        """What ``prepare`` gives to the slice that comes first, and ``go_on`` to those that find it done.

        Args:
            prepare: makes all that a run has before its first block, or what is not there of it yet.
            go_on: reads what lies there.
            stage: told for whom this slice waits.
            stop: set to end the waiting.

        Raises:
            OutputError: as :meth:`refuse`.
            UnfinishedError: it was not prepared for :data:`PREPARED_S`, or this slice was told to stop.
        """
        since, told = time.monotonic(), ""
        while not self._is_prepared():
            with _alone(self.out, PREPARING, "preparing") as held:
                if isinstance(held, lease.Lease):
                    if self._is_prepared():
                        break
                    made = prepare()
                    held.require()
                    made_of = {"slices": self.part.count, "identity_sha256": _identity(self.out)}
                    Ledger(self.out).put(DIVISION, made_of)
                    return made
            if told != held:
                stage(f"waiting until the run is prepared ({held})")
                told = held
            if time.monotonic() - since > PREPARED_S:
                raise UnfinishedError(
                    f"the run was not prepared for {PREPARED_S:.0f} s ({told}); start the same command again"
                )
            if stop.wait(WAIT_S):
                raise StoppedError("stopped while the run was prepared; the same command goes on")
        return go_on()

    def finished(self, work: Sequence[Work], finish: Callable[[], None]) -> str:
        """Finish the run, if all its blocks are over and nobody else does; in words, what is left to others.

        Args:
            work: the whole plan.
            finish: makes what follows from all blocks, where it is not there by now.
        """
        ledger = Ledger(self.out)
        over = ledger.done_works(work[0][1].size_px) | ledger.set_asides().keys()
        left = sum(item not in over for item in work)
        if left:
            return (
                f"slice {self.part} is done; {left} of the run's {len(work)} blocks are still for others, "
                "the last of whom draws its outlines"
            )
        with _alone(self.out, FINISHING, "finishing") as held:
            if not isinstance(held, lease.Lease):
                return f"slice {self.part} is done, and so is the last block; the rest is under way ({held})"
            finish()
            held.require()
        return ""

    def _is_prepared(self) -> bool:
        record = self._record()
        if record is None or Ledger(self.out).is_clearing():
            return False
        return bool(record.get("identity_sha256") == _identity(self.out))

    def _record(self) -> dict[str, Any] | None:
        record = Ledger(self.out).get(DIVISION)
        if record is not None and record.get("slices") != self.part.count:
            raise OutputError(
                f"--slice {self.part} of {self.out}, a run that is driven in {record.get('slices')} slices",
                f"I/{record.get('slices')}",
                "give that, or go on once without --slice, which ends the division",
            )
        return record


def dissolve(out: str) -> None:
    """End a run's division, by a driver of the whole of it: nobody drives a slice any more."""
    ledger = Ledger(out)
    ledger.objects.delete(DIVISION)
    ledger.objects.delete_all(lease.SLICES)


def _identity(out: str) -> str | None:
    manifest = Ledger(out).manifest()
    return None if manifest is None else str(manifest["identity_sha256"])


@contextmanager
def _alone(out: str, folder: str, role: str) -> Iterator[lease.Lease | str]:
    """A lease that one slice holds at a time; or, in words, who holds it."""
    with ExitStack() as stack:
        found: lease.Lease | str
        try:
            found = stack.enter_context(lease.held(out, folder=folder, role=role))
        except DrivenError as error:
            if error.lease == lease.FOLDER:
                raise
            found = error.given.partition(", which ")[2]
        except LeaseLostError:
            found = "another slice was quicker in this moment"
        yield found
