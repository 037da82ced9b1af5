"""What a CPU worker runs for a block of a run: the block, with its actor asked for the probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cryoscale.infer.calling import ActorRef, predict_on
from cryoscale.ledger import Work
from cryoscale.task import PREDICT_S, process_block

Task = Callable[[str, str, Work, ActorRef, int, float], str]
"""Output, identity, block, actor, attempt and deadline in; the marker's JSON out."""

ACTOR_DEADLINE_S = 1800.0
"""How long a block may take on its actor before the actor counts as hung."""


def block_task(out: str, identity: str, work: Work, actor: ActorRef, attempt: int, deadline_s: float) -> str:
    """The block's marker, as JSON: Dask walks through every document that it passes on, thrice; a text it
    takes as it is."""
    from distributed import get_worker

    def predict(array: Any, window: Any, wanted: Any) -> Mapping[str, Any]:
        bands, seconds = predict_on(actor, array, window, wanted, deadline_s=deadline_s)
        return {**bands, PREDICT_S: seconds}

    year, block = work
    marker = process_block(
        out, identity, year, block, predict, attempt=attempt, worker=str(get_worker().name)
    )
    return marker.model_dump_json()
