"""The errors of cryoscale, grouped by what whoever catches them does next.

* :class:`InputError`: the caller fixes what was given and starts again (exit code 2).
* :class:`TransientError`: trying again may help; the pipeline does so by itself.
* :class:`UnfinishedError`, of the former: the whole command is to be started again (exit code 75).
* :class:`OperatorError`: neither helps; somebody has to look (exit code 1).

Every class has a builtin as its second base, so that code which knows nothing of cryoscale can
still catch it sensibly, and says in ``retry`` whether a repeat can help.
"""

from __future__ import annotations

from typing import ClassVar


class CryoscaleError(Exception):
    """Anything cryoscale raises on purpose; ``str()`` is one line meant for people."""

    retry: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


# --- the caller fixes ---------------------------------------------------------------------------


class InputError(CryoscaleError, ValueError):
    """Bad input, told in one line: what was given, what is expected, what to do.

    Args:
        given: what came in, quoted so that the reader recognises it.
        expected: what would have been right.
        do: the next step, in the imperative.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, given: str, expected: str, do: str) -> None:
        self.given, self.expected, self.do = given, expected, do
        super().__init__(given, expected, do)

    def __str__(self) -> str:
        parts = (f"given {self.given}", f"expected {self.expected}", self.do)
        return "; ".join(" ".join(part.split()) for part in parts)


class ConfigError(InputError):
    """The configuration file is not one: an unknown key, a wrong type, a reversed season."""


class RegionError(InputError):
    """The region is empty, reversed or cannot be read."""


class NoScenesError(InputError, LookupError):
    """The catalogues answered, and hold nothing for this region, season and source."""


class SourceError(InputError):
    """A file or folder the caller named is absent, unreadable or not of the promised kind."""


class WeightsError(InputError):
    """The weights cannot be used: pickled, truncated, altered, or made for other channels."""


class ExtraError(InputError, ImportError):
    """Something asked for needs a library that an extra of cryoscale brings, and it is not installed."""


class OutputError(InputError, FileExistsError):
    """The output folder holds another run, or cannot be written."""


class DrivenError(OutputError):
    """Another process drives the run, or is at what only one at a time may do; ``lease`` says at what."""

    def __init__(self, given: str, expected: str, do: str, *, lease: str = "") -> None:
        super().__init__(given, expected, do)
        self.lease = lease


class StillDrivenError(DrivenError):
    """The same in a Job, where the other may be a former pod that ends its blocks still: exit code 75."""

    retry: ClassVar[bool] = True
    exit_code: ClassVar[int] = 75


# --- a repeat may help --------------------------------------------------------------------------


class TransientError(CryoscaleError, OSError):
    """Something outside failed in a way that passes."""

    retry: ClassVar[bool] = True


class CatalogUnavailableError(TransientError, ConnectionError):
    """A catalogue did not answer, or answered with a server's error, through all the retries.

    Nothing was begun then, and the caller has to wait or to name another catalogue: exit code 2.
    """

    exit_code: ClassVar[int] = 2


class AssetReadError(TransientError):
    """An asset of a scene could not be read; names the item, the band and the cause."""


class HostDownError(AssetReadError):
    """An asset was not asked for, since its host has answered nobody for a while; ask again later."""


class StoreUnavailableError(TransientError, ConnectionError):
    """The store of the run and its map did not answer, or only with a server's errors, for long."""


class ClusterUnavailableError(TransientError, ConnectionError):
    """The API server of Kubernetes did not answer, or only with a server's errors (exit code 75)."""

    exit_code: ClassVar[int] = 75


class ActorLostError(TransientError, ConnectionError):
    """The actor that held a block died or fell silent before it answered."""


class ActorSilentError(ActorLostError, TimeoutError):
    """The actor's process is there and does not answer: it has to be ended before another takes its place."""


class UnfinishedError(TransientError):
    """A run stopped before its end for no fault of its input; the same command goes on (exit code 75).

    75 is EX_TEMPFAIL of sysexits.h: whoever started the command is invited to start it again.
    """

    exit_code: ClassVar[int] = 75


class StoppedError(UnfinishedError, InterruptedError):
    """The run was told to stop (SIGTERM); its blocks in work were finished first."""


class ClusterLostError(UnfinishedError, ConnectionError):
    """The scheduler, or every worker of a kind, is gone and did not come back."""


class LeaseLostError(UnfinishedError, BlockingIOError):
    """Another driver has taken the run over."""


class SliceDrivenError(UnfinishedError, BlockingIOError):
    """Another process drives this slice of a run, or all of it; whoever manages the slices starts it again.

    Not bad input, as a second driver of a whole run is: the other may be a pod that is thought to be gone.
    """


# --- an operator looks --------------------------------------------------------------------------


class OperatorError(CryoscaleError, RuntimeError):
    """A state that neither other input nor a repeat mends."""


class BlockFailedError(OperatorError):
    """A block failed as often as it may; it is set aside with its cause."""


class TrainingError(OperatorError):
    """A training cannot go on: its loss left the numbers, or its state cannot be written."""


class NoRoomError(OperatorError):
    """The output takes no more: its disk is full, over quota or read-only; no block is to blame for it."""


class IntegrityError(OperatorError):
    """What lies on disk is not what the ledger says was written."""
