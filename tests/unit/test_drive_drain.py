"""How long a driver that is told to stop waits for its blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cryoscale.drive import Driver
from cryoscale.settings import ClusterSpec


@pytest.mark.parametrize(("kind", "waits"), [("kubernetes", False), ("local", True)])
def test_a_driver_of_pods_has_ended_its_wait_for_blocks_before_its_own_pod_is_killed(
    monkeypatch: pytest.MonkeyPatch, kind: str, waits: bool
) -> None:
    now = [0.0]
    monkeypatch.setattr("cryoscale.drive.time", SimpleNamespace(monotonic=lambda: now[0]))

    class Endless:
        def recall(self) -> None: ...

        def land(self, patience_s: float) -> list[Any]:
            now[0] += 10.0
            return []

    driver = object.__new__(Driver)
    driver.flights = cast(Any, Endless())
    driver.fleet = cast(Any, SimpleNamespace(settings=SimpleNamespace(cluster=ClusterSpec(kind))))
    driver._drain()
    assert (now[0] > 300.0) == waits
