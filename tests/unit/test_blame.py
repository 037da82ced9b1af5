from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from distributed.scheduler import KilledWorker

from cryoscale.blame import SUSPECTED, Blame
from cryoscale.errors import ActorLostError, AssetReadError
from cryoscale.grid import Block
from cryoscale.read.raster import UnreadableError
from cryoscale.task import ATTEMPTS

WORK = (2018, Block(32645, 0, 0, 256))
OTHER = (2018, Block(32645, 0, 1, 256))


def killed() -> KilledWorker:
    worker: Any = SimpleNamespace(address="tcp://127.0.0.1:1")
    return KilledWorker("task", worker, 0)


def test_a_blocks_own_errors_set_it_aside_at_the_third_and_hopeless_ones_at_once() -> None:
    blame = Blame()
    found = [blame.judge(WORK, AssetReadError("not now"), alone=False).then for _ in range(ATTEMPTS)]
    assert found == ["again", "again", "aside"]
    assert blame.judge(OTHER, UnreadableError("broken"), alone=False).then == "aside"


@pytest.mark.parametrize("loss", [killed(), ActorLostError("gone")], ids=["worker", "actor"])
def test_a_block_is_blamed_for_deaths_only_where_nothing_was_beside_it(loss: BaseException) -> None:
    blame = Blame()
    among_others = [blame.judge(WORK, loss, alone=False).then for _ in range(SUSPECTED + 20)]
    assert among_others == ["again"] * (SUSPECTED - 1) + ["alone"] * 21, (
        "however often others' deaths strike it"
    )
    assert [blame.judge(WORK, loss, alone=True).then for _ in range(ATTEMPTS)] == ["alone", "alone", "aside"]


def test_what_is_done_is_forgiven() -> None:
    blame = Blame()
    for _ in range(ATTEMPTS - 1):
        blame.judge(WORK, AssetReadError("not now"), alone=False)
    assert blame.attempt(WORK) == ATTEMPTS
    blame.forget(WORK)
    assert blame.attempt(WORK) == 1
