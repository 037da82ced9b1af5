"""How a block's task reaches the actor that holds the model, and is told if it is no longer there.

An actor dies with its worker, and Dask may then leave a caller waiting: :func:`call_actor` never waits beyond
its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoscale.errors import ActorLostError, ActorSilentError
from cryoscale.infer.handover import Handed, Lent, lent
from cryoscale.infer.wire import NARROW, Standard, narrow

if TYPE_CHECKING:
    from distributed.actor import Actor
    from numpy.typing import NDArray
    from tornado.ioloop import IOLoop

    from cryoscale.features.packing import Packed
    from cryoscale.grid import Block, Window

CONNECT_S = 5.0
"""How long a caller tries to reach the actor's worker before it counts as gone."""

PROBE_S = 30.0
"""How often a caller that waits for a block asks the actor's process whether it is still there."""

SILENT_S = 60.0
"""How long that process may take to say so; the answer comes from beside the actor's work, so that only
one that stands still as a whole stays silent."""


@dataclass(frozen=True)
class ActorRef:
    """Where an actor lives: what a block's task takes as its argument instead of Dask's handle.

    Dask makes a handle among a task's arguments a dependency, and errs every such task with a bare
    ``RuntimeError`` the moment the actor is lost, even while its thread is still at work. A
    reference it leaves alone, so that the task itself learns of the loss and can say so.
    """

    address: str
    key: str

    @classmethod
    def of(cls, handle: Actor) -> ActorRef:
        """The reference to the actor behind a handle of Dask."""
        return cls(handle._address, str(handle.key))


def call_actor(actor: ActorRef, method: str, *args: Any, deadline_s: float) -> Any:
    """What ``actor.method(*args)`` returns, or an error before some ``deadline_s`` seconds are over.

    Goes straight to the actor's worker, with the message that Dask's own handle sends; within the process
    of the caller's worker nothing is copied. The handle
    is not used because in a task it waits for ever when the worker dies during the call: it then
    awaits a future that nobody resolves (distributed 2026.8, ``Actor.__getattr__``).

    Args:
        actor: the actor; callable from a task on any worker, and from a process with a client,
            whose calls pass through the scheduler and should be small.
        method: its method's name.
        args: positional arguments; contiguous numpy arrays travel as they lie in memory.
        deadline_s: how long to wait, the calls queued before this one included.

    Raises:
        ActorLostError: if the actor's worker is gone.
        ActorSilentError: if it is there, and silent beyond the deadline, or not even answers a probe.
        Exception: whatever the method itself raises.
    """
    from distributed.protocol.serialize import to_serialize
    from distributed.utils import sync

    loop, send = _sender(actor.address)
    wrap: Callable[[Any], Any] = to_serialize

    def message(function: str, *arguments: Any) -> dict[str, Any]:
        wrapped = [wrap(argument) for argument in arguments]
        return {"op": "actor_execute", "actor": actor.key, "function": function, "args": wrapped}

    async def watched() -> Any:
        """The answer; a process that stands still is noticed long before the deadline of a large block."""
        answer = asyncio.ensure_future(send(message(method, *args)))
        try:
            while not (await asyncio.wait({answer}, timeout=PROBE_S))[0]:
                try:
                    await asyncio.wait_for(send(message("probe")), SILENT_S)
                except TimeoutError as error:
                    if not answer.done():
                        raise ActorSilentError(
                            f"the process of {actor.key} does not answer at all"
                        ) from error
            return answer.result()
        finally:
            answer.cancel()

    try:
        reply = sync(loop, watched, callback_timeout=deadline_s)
    except ActorSilentError:
        raise
    except TimeoutError as error:
        raise ActorSilentError(f"{actor.key} did not answer {method} in {deadline_s:g} s") from error
    except OSError as error:
        raise ActorLostError(f"{actor.key} is lost: {error}") from error
    if reply["status"] != "OK":
        raise reply["exception"]
    return reply["result"]


def predict_on(
    actor: ActorRef,
    features: NDArray[np.float32] | Packed,
    window: Window,
    block: Block,
    *,
    deadline_s: float,
) -> tuple[dict[str, NDArray[np.uint8]], float]:
    """The bands of ``block`` by ``actor``, sent once its process has room for it, and seconds of work.

    Args:
        actor: the actor.
        features: (c, h, w) float32 on ``window``, physical units; or what they are made of.
        window: the pixels that ``features`` lie on.
        block: the pixels to map.
        deadline_s: how long to wait for the room, and then for the answer.

    Raises:
        ActorLostError: as :func:`call_actor`.
    """
    recipe = None if isinstance(features, np.ndarray) else features.recipe
    sent, memory = _in_short(features, actor, deadline_s)
    ticket = call_actor(actor, "admit", deadline_s=deadline_s)
    place = (window.row, window.col, block, None, ticket, recipe)
    try:
        bands, seconds = call_actor(actor, "serve", sent, *place, deadline_s=deadline_s)
    except BaseException:
        # whoever is silent may still be reading
        if memory is not None:
            memory.drop()
        raise
    return bands, seconds


def _in_short(
    features: NDArray[np.float32] | Packed, actor: ActorRef, deadline_s: float
) -> tuple[NDArray[Any] | Handed, Lent | None]:
    """What an actor is sent, and the memory that it was put into, if the actor can map it."""
    standard = _wire_of(actor, deadline_s)
    if isinstance(features, np.ndarray):
        if standard is None:
            return features, None
        shape, fill = features.shape, partial(narrow, features, standard)
    else:
        shape, fill = features.numbers.shape, partial(_copied, features.numbers)
    # An actor on a CPU takes seconds for what is sent in tenths, and its features would lie there twice.
    memory = lent() if standard is not None and _reached_by(actor, deadline_s) else None
    if memory is None:
        return fill(), None
    array, sent = memory.array(shape, NARROW)
    fill(out=array)
    return sent, memory


def _copied(numbers: NDArray[np.uint16], out: NDArray[np.uint16] | None = None) -> NDArray[np.uint16]:
    """The numbers, in ``out`` where that is given."""
    if out is None:
        return numbers
    np.copyto(out, numbers)
    return out


@lru_cache(maxsize=64)
def _wire_of(actor: ActorRef, deadline_s: float) -> Standard | None:
    """How an actor may be sent features, asked once a process."""
    found: Standard | None = call_actor(actor, "wire", deadline_s=deadline_s)
    return found


@lru_cache(maxsize=64)
def _reached_by(actor: ActorRef, deadline_s: float) -> bool:
    """Whether an actor can map this process's memory, asked once a process."""
    memory = lent()
    if memory is None:
        return False
    _, handed = memory.array((1,), NARROW)
    found: bool = call_actor(actor, "reaches", handed, deadline_s=deadline_s)
    return found


def _sender(address: str) -> tuple[IOLoop, Callable[[dict[str, Any]], Awaitable[Any]]]:
    """The event loop of this process's worker or client, and a coroutine that asks worker ``address``."""
    from distributed import get_client, get_worker
    from distributed.core import send_recv

    try:
        worker = get_worker()
    except ValueError:
        client: Any = get_client()

        async def through_scheduler(message: dict[str, Any]) -> Any:
            try:
                return await client.scheduler.proxy(worker=address, msg=message)
            except Exception as error:  # the scheduler passes on the worker's error as a bare Exception
                raise ConnectionError(str(error)) from error

        return client.loop, through_scheduler

    async def within(message: dict[str, Any]) -> Any:
        wrapped = [argument.data for argument in message["args"]]
        try:
            reply = await worker.actor_execute(message["actor"], message["function"], wrapped)
        except KeyError as error:  # this worker never held the actor, or no longer does
            raise ConnectionError(str(error)) from error
        return {name: getattr(value, "data", value) for name, value in reply.items()}

    if address == worker.address:
        return worker.loop, within

    async def directly(message: dict[str, Any]) -> Any:
        try:
            comm = await worker.rpc.connect(address, timeout=CONNECT_S)
            try:
                return await send_recv(comm, **message)
            finally:
                worker.rpc.reuse(address, comm)
        # A KeyError says that this worker never held the actor; a TimeoutError is not the deadline's.
        except (KeyError, TimeoutError) as error:
            raise ConnectionError(str(error)) from error

    return worker.loop, directly
