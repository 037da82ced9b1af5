from __future__ import annotations

import asyncio

import pytest

from cryoscale.infer import gate
from cryoscale.infer.gate import Gate


async def _pass(door: Gate, log: list[int], number: int) -> None:
    ticket = await door.enter()
    door.arrive(ticket)
    log.append(number)
    await asyncio.sleep(0.01)
    door.leave(ticket)


def test_never_more_blocks_are_inside_than_there_are_places_and_all_get_in_by_turns() -> None:
    async def crowd() -> tuple[list[int], int]:
        door, log = Gate(2), list[int]()
        await asyncio.wait_for(asyncio.gather(*(_pass(door, log, n) for n in range(20))), 10)
        return log, door.most

    log, most = asyncio.run(crowd())
    assert log == list(range(20))
    assert most == 2


def test_a_sender_that_died_after_it_was_admitted_holds_its_place_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "ARRIVAL_S", 0.05)

    async def after_a_death() -> list[int]:
        door, log = Gate(1), list[int]()
        await door.enter()  # and never arrives
        await asyncio.wait_for(_pass(door, log, 1), 10)
        return log

    assert asyncio.run(after_a_death()) == [1]


def test_a_block_that_arrived_keeps_its_place_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "ARRIVAL_S", 0.05)

    async def long_block() -> bool:
        door = Gate(1)
        ticket = await door.enter()
        door.arrive(ticket)
        waiting = asyncio.ensure_future(door.enter())
        await asyncio.sleep(0.3)
        still_waits = not waiting.done()
        door.leave(ticket)
        await asyncio.wait_for(waiting, 10)
        return still_waits

    assert asyncio.run(long_block())


def test_a_place_is_given_back_once_however_often_it_is_left() -> None:
    async def twice() -> int:
        door = Gate(1)
        ticket = await door.enter()
        door.leave(ticket)
        door.leave(ticket)
        await asyncio.sleep(0.01)
        await door.enter()
        waiting = asyncio.ensure_future(door.enter())
        await asyncio.sleep(0.05)
        waiting.cancel()
        return door.most

    assert asyncio.run(twice()) == 1
