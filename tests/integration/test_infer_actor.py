"""The model on a real Dask actor in a process of its own, fed by a task in another."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import numpy as np
import pytest
import xarray as xr
from distributed import Client, Nanny, Scheduler, SpecCluster

from cryoscale.errors import OperatorError
from cryoscale.grid import Window
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.calling import CONNECT_S, ActorRef, call_actor, predict_on
from cryoscale.infer.encode import encode
from cryoscale.infer.predict import predict_block
from cryoscale.infer.wire import narrow
from cryoscale.roster import workers_at

# The worker processes need not be able to import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BLOCK = Window(32645, -300_128, 48_064, 128, 128)
EXTENT = BLOCK.pad(64)
DEADLINE_S = 60.0
ON_CPU: dict[str, Any] = {"resources": {"CPU": 1}, "pure": False}


class Ramp:
    """A stand-in for a network: nonlinear, and different in every corner of its tile."""

    def __init__(self, classes: int = 3, seconds: float = 0.0) -> None:
        self.classes = tuple(f"class {k}" for k in range(classes))
        self.seconds = seconds

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        ramp = np.linspace(0.1, 1.0, tiles.shape[-1], dtype=np.float32)
        logits = [np.nan_to_num(tiles[:, k]) * ramp + ramp[:, None] ** k for k in range(len(self.classes))]
        shares = np.exp(np.stack(logits, axis=1))
        return shares / shares.sum(axis=1, keepdims=True)


class Broken:
    """A model that answers with half a tile."""

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return tiles[:, :, ::2]


class Narrow(ModelActor):
    """Takes features as a GPU's actor does, and notes whether they lie in memory of another process."""

    async def wire(self) -> Any:
        return (0.0,) * 14, (1.0,) * 14

    def predict(self, features: np.ndarray, *more: Any) -> dict[str, np.ndarray]:
        with open("/proc/self/maps") as maps:
            self.mapped = "/memfd:cryoscale" in maps.read()
        return super().predict(widened(features), *more)

    async def was_mapped(self) -> tuple[bool, int]:
        return self.mapped, os.getpid()


def widened(bits: np.ndarray) -> np.ndarray:
    """The numbers that the bits of bf16 stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def hand_over(actor: Any, window: Window) -> tuple[dict[str, np.ndarray], tuple[bool, int], int]:
    """A block handed over, where it was then, and this process."""
    bands, _ = predict_on(actor, features(), EXTENT, window, deadline_s=DEADLINE_S)
    return bands, call_actor(actor, "was_mapped", deadline_s=DEADLINE_S), os.getpid()


def features() -> np.ndarray:
    """A stack (14, h, w) with a hole in the optical bands."""
    stack = np.random.default_rng(7).random((14, *EXTENT.shape), dtype=np.float32)
    stack[:12, 90:110, 100:140] = np.nan
    return stack


def block_task(actor: Any, window: Window) -> dict[str, np.ndarray]:
    """What a block's task does once it has its features."""
    return call_actor(actor, "predict", features(), EXTENT.row, EXTENT.col, window, deadline_s=DEADLINE_S)


def timed_call(actor: Any, method: str, deadline_s: float) -> tuple[str, str, float]:
    """The kind and the text of the error that a call ends in, and after how many seconds."""
    start = time.monotonic()
    try:
        args = (features(), EXTENT.row, EXTENT.col, BLOCK) if method == "predict" else ()
        call_actor(actor, method, *args, deadline_s=deadline_s)
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - start
    return "none", "", time.monotonic() - start


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    """One CPU worker process and one actor worker process on loopback."""
    worker = {"cls": Nanny}
    spec = {
        name: worker | {"options": {"nthreads": 2, "resources": {name: amount}}}
        for name, amount in (("CPU", 2), ("GPU", 1))
    }
    options = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": None}
    with (
        SpecCluster(spec, {"cls": Scheduler, "options": options}, silence_logs=50) as started,
        Client(started, timeout=DEADLINE_S) as client,
    ):
        client.wait_for_workers(2, timeout=DEADLINE_S)
        yield client


def start_actor(client: Client, load: Any, **options: Any) -> Any:
    """A handle to a new actor on the GPU worker, and the future that keeps it alive."""
    future = client.submit(
        ModelActor, {}, 64, 0.5, load=load, actor=True, pure=False, resources={"GPU": 1}, **options
    )
    return future, ActorRef.of(future.result(timeout=DEADLINE_S))


def test_a_block_that_a_cpu_task_hands_to_the_actor_equals_the_block_predicted_at_home(
    cluster: Client,
) -> None:
    keep, actor = start_actor(cluster, Ramp, batch=3)
    future = cluster.submit(block_task, actor, BLOCK, **ON_CPU)
    bands = future.result(timeout=DEADLINE_S)

    y, x = EXTENT.coordinates()
    stack = xr.DataArray(features(), dims=("channel", "y", "x"), coords={"y": y, "x": x})
    home = predict_block(stack, BLOCK, predict=Ramp(), tile_px=64, overlap=0.5, batch=1)
    expected = encode(home["probability"].values, home["disagreement"].values)
    assert {name: band.dtype for name, band in bands.items()} == dict.fromkeys(expected, np.dtype("u1"))
    for name, band in expected.items():
        np.testing.assert_array_equal(bands[name], band, err_msg=name)
    assert (bands["label"] == 255).sum() == 20 * 40
    stats = call_actor(actor, "stats", deadline_s=DEADLINE_S)
    assert (stats["blocks"], stats["tiles"], stats["pixels"]) == (1, 25, 128 * 128)
    assert stats["busy_s"] > 0
    assert stats["idle_s"] > 0
    assert keep.status == "finished"


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memfd")
def test_narrow_features_are_mapped_by_the_actor_and_not_sent(cluster: Client) -> None:
    future = cluster.submit(
        Narrow, {}, 64, 0.5, load=Ramp, actor=True, pure=False, resources={"GPU": 1}, batch=3
    )
    actor = ActorRef.of(future.result(timeout=DEADLINE_S))
    at_home = ModelActor({}, 64, 0.5, batch=3, load=Ramp)
    sent = widened(narrow(features(), ((0.0,) * 14, (1.0,) * 14)))
    wanted = at_home.predict(sent, EXTENT.row, EXTENT.col, BLOCK)
    for _ in range(2):  # the second in the memory of the first
        task = cluster.submit(hand_over, actor, BLOCK, **ON_CPU)
        bands, (mapped, there), here = task.result(timeout=DEADLINE_S)
        assert mapped
        assert there != here
        for name, band in wanted.items():
            np.testing.assert_array_equal(bands[name], band)
    del future


def test_the_actor_lives_on_the_worker_with_the_gpu_and_the_task_on_the_other(cluster: Client) -> None:
    keep, actor = start_actor(cluster, Ramp)
    future = cluster.submit(lambda _: os.getpid(), actor, **ON_CPU)
    resources = {w["id"]: w["resources"] for w in workers_at(cluster).values()}
    assert set(resources) == {"CPU", "GPU"}
    pids = cluster.run(os.getpid)
    assert pids[actor.address] != future.result(timeout=DEADLINE_S)
    assert actor.address == next(
        address for address, w in workers_at(cluster).items() if "GPU" in w["resources"]
    )
    del keep


def test_the_probe_answers_while_the_actor_is_busy(cluster: Client) -> None:
    keep, actor = start_actor(cluster, lambda: Ramp(seconds=0.2))
    busy = cluster.submit(block_task, actor, BLOCK, **ON_CPU)
    time.sleep(0.5)
    start = time.monotonic()
    assert call_actor(actor, "probe", deadline_s=DEADLINE_S) is True
    assert time.monotonic() - start < DEADLINE_S / 2
    assert not busy.done()
    busy.result(timeout=DEADLINE_S)
    del keep


def test_an_error_of_the_model_reaches_the_caller_as_itself(cluster: Client) -> None:
    keep, actor = start_actor(cluster, Broken)
    with pytest.raises(OperatorError, match=r"turned tiles of shape \(1, 14, 64, 64\)"):
        block_task(actor, BLOCK)
    del keep


def test_a_silent_actor_is_given_up_at_the_deadline(cluster: Client) -> None:
    keep, actor = start_actor(cluster, lambda: Ramp(seconds=0.1))
    for asking in (
        lambda: timed_call(actor, "predict", 1.0),
        lambda: cluster.submit(timed_call, actor, "predict", 1.0, **ON_CPU).result(timeout=DEADLINE_S),
    ):
        kind, text, seconds = asking()
        assert kind == "ActorSilentError"
        assert "did not answer predict in 1 s" in text
        assert 0.9 < seconds < DEADLINE_S / 2
    # Nothing was wrong with the actor: what was asked is done in the end, and more can be asked.
    assert call_actor(actor, "stats", deadline_s=DEADLINE_S)["blocks"] == 2
    del keep


def test_an_actor_that_is_not_there_is_lost_and_not_waited_for(cluster: Client) -> None:
    keep, actor = start_actor(cluster, Ramp)
    stranger = ActorRef(actor.address, "ModelActor-of-another-run")
    task = cluster.submit(timed_call, stranger, "stats", DEADLINE_S, **ON_CPU)
    for kind, text, seconds in (timed_call(stranger, "stats", DEADLINE_S), task.result(timeout=DEADLINE_S)):
        assert kind == "ActorLostError"
        assert "ModelActor-of-another-run is lost" in text
        assert seconds < DEADLINE_S / 2
    del keep


@pytest.mark.parametrize("caller", ["a task", "the client"])
def test_a_call_to_an_actor_whose_worker_is_killed_ends_at_once(cluster: Client, caller: str) -> None:
    keep, actor = start_actor(cluster, lambda: Ramp(seconds=0.5))
    pid = cluster.run(os.getpid, workers=[actor.address])[actor.address]
    with ThreadPoolExecutor(1) as pool:
        if caller == "a task":
            pending: Any = cluster.submit(timed_call, actor, "predict", DEADLINE_S, **ON_CPU)
        else:
            pending = pool.submit(timed_call, actor, "predict", DEADLINE_S)
        time.sleep(1.5)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        kind, text, _ = pending.result(timeout=DEADLINE_S)
    assert kind == "ActorLostError"
    assert actor.key in text
    assert time.monotonic() - killed < DEADLINE_S / 2

    # A task that comes later is told as well, and the task itself stays whole.
    later = cluster.submit(timed_call, actor, "stats", DEADLINE_S, **ON_CPU).result(timeout=DEADLINE_S)
    assert later[0] == "ActorLostError"
    assert later[2] < CONNECT_S + 5.0
    assert keep.status == "error"

    cluster.wait_for_workers(2, timeout=DEADLINE_S)
    again, replacement = start_actor(cluster, Ramp)
    bands = cluster.submit(block_task, replacement, BLOCK, **ON_CPU).result(timeout=DEADLINE_S)
    assert bands["label"].shape == BLOCK.shape
    del again
