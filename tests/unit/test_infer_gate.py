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


def test_a_block_that_lies_here_and_waits_for_a_long_one_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It arrives, as actors do one thing after the other, only when its turn comes."""
    monkeypatch.setattr(gate, "ARRIVAL_S", 0.05)

    async def waits_in_the_process() -> tuple[bool, bool]:
        begun = 1.0
        door = Gate(2, lambda: begun)
        first, second = await door.enter(), await door.enter()
        door.arrive(first)
        third = asyncio.ensure_future(door.enter())
        await asyncio.sleep(0.3)
        kept_out = not third.done()
        door.leave(first)
        begun = 2.0
        door.arrive(second)
        await asyncio.wait_for(third, 10)
        fourth = asyncio.ensure_future(door.enter())
        await asyncio.sleep(0.01)
        still_two = not fourth.done()
        fourth.cancel()
        return kept_out, still_two

    assert asyncio.run(waits_in_the_process()) == (True, True)


def test_a_sender_that_died_loses_its_place_once_a_block_that_came_later_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "ARRIVAL_S", 0.05)

    async def after_a_death() -> bool:
        begun = 1.0
        door = Gate(2, lambda: begun)
        first = await door.enter()
        door.arrive(first)
        await door.enter()  # and never arrives
        await asyncio.sleep(0.12)
        door.leave(first)
        door.arrive(await door.enter())
        begun = 2.0  # which goes on and on
        await asyncio.wait_for(door.enter(), 10)
        return True

    assert asyncio.run(after_a_death())


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
