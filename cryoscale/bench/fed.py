"""Actors fed by Dask's workers with blocks as a run feeds them, beside dask.array on the same workers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import dask.array
import numpy as np
import torch
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon

from cryoscale.bench import ground
from cryoscale.bench.actor import notebook
from cryoscale.bench.clock import seconds
from cryoscale.bench.figure import Figure, Rival
from cryoscale.blocktask import ACTOR_DEADLINE_S
from cryoscale.cluster import ACTOR_THREADS, own, workers
from cryoscale.features.channels import CHANNELS
from cryoscale.fleet import Fleet
from cryoscale.flights import AHEAD
from cryoscale.forecast.rates import cores
from cryoscale.grid import Block
from cryoscale.infer.actor import ModelActor
from cryoscale.infer.calling import ActorRef, predict_on
from cryoscale.infer.tiles import read_window
from cryoscale.infer.wire import narrow
from cryoscale.models import weights
from cryoscale.models.loading import load_predictor
from cryoscale.models.predictor import Predictor
from cryoscale.roster import CPU, Workers, workers_at
from cryoscale.settings import ClusterSpec, ModelSpec, Season, Settings

CPU_WORKERS = 2
"""Beside a CPU actor or two; a GPU, which takes ten blocks a second, has half of the cores to feed it."""


def feeders(on_gpu: bool) -> int:
    """CPU workers of a local cluster that is measured."""
    return max(CPU_WORKERS, cores() // 2) if on_gpu else CPU_WORKERS


_NOTEBOOK_BATCH = 32


@dataclass(frozen=True)
class Feed:
    """How much: edges of a block and of a tile, overlap, and blocks."""

    block_px: int
    tile_px: int
    overlap: float
    blocks: int

    def rival(self, on_gpu: bool, cpu_workers: int) -> Feed:
        """What the rival is given: on a GPU, where it takes many times as long, a block for each worker."""
        return replace(self, blocks=min(self.blocks, cpu_workers)) if on_gpu else self


def measure(size: str, predictor: Predictor, feed: Feed) -> Figure:
    """Tiles a second of all actors of a local cluster; limit: as many actors on blocks that lie ready."""
    on_gpu = predictor.device.type == "cuda"
    spec = ClusterSpec("local", cpu_workers=feeders(on_gpu), gpu_workers=int(on_gpu))
    rival = feed.rival(on_gpu, spec.cpu_workers)
    block = ground.block_of(feed.block_px)
    tiles = len(ground.origins(block.window, feed.tile_px, feed.overlap))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "drawn.safetensors")
        weights.save(predictor.model, predictor.card, path)
        model = ModelSpec(weights=path, precision=predictor.precision, overlap=feed.overlap)
        settings = Settings(
            "bench",
            MultiPolygon(),
            (ground.YEAR,),
            Season("10-01", "10-31"),
            (),
            {},
            model,
            tile_px=feed.tile_px,
            block_px=feed.block_px,
            cluster=spec,
        )
        with workers(spec) as found:
            fed_s = _fed_s(found, settings, block, feed)
            actors = found.actors
            rival_s = _by_dask_array(found, path, predictor, block, rival)
        alone_s = _alone_s(path, predictor, block, feed)
    return Figure(
        f"fed actor {size}",
        feed.blocks * tiles / fed_s,
        "tiles/s",
        actors * tiles / alone_s,
        f"{actors} times one actor of {ACTOR_THREADS} thread alone on the machine, its block in memory",
        Rival(
            "dask.array.map_overlap",
            rival.blocks * tiles / rival_s,
            "the notebook's loop over each chunk, the model once a worker, the same weights and precision",
        ),
        {
            "block_px": feed.block_px,
            "tile_px": feed.tile_px,
            "overlap": feed.overlap,
            "blocks": feed.blocks,
            "actors": actors,
            "cpu_workers": spec.cpu_workers,
            "rival_blocks": rival.blocks,
        },
    )


def _fed_s(found: Workers, settings: Settings, block: Block, feed: Feed) -> float:
    """Seconds of all blocks, from the first that is handed out to the last that is back."""
    from distributed import as_completed

    fleet = Fleet(found.client, settings)
    while fleet.ready < found.actors:
        fleet.look()
        time.sleep(0.05)

    def hand_out(number: int, at: str = "") -> Any:
        seat = fleet.seats.get(at) or min(fleet.seats.values(), key=lambda seat: seat.load)
        seat.load += 1
        needs = {CPU: 1, own(seat.name): 1} if fleet.near else {CPU: 1}
        future = found.client.submit(
            one_block,
            number,
            block,
            feed.tile_px,
            feed.overlap,
            seat.ref,
            pure=False,
            resources=needs,
            workers=[at] if at else None,
        )
        seats[future] = seat
        return future

    seats: dict[Any, Any] = {}
    # every worker draws its features, has its pages of shared memory made, and loads its kernels
    for warm in [hand_out(-1 - number, at) for number, at in enumerate(places(found))]:
        warm.result()
        seats.pop(warm).load -= 1
    begun = time.perf_counter()
    ahead = min(feed.blocks, AHEAD * found.tasks)
    landing = as_completed([hand_out(number) for number in range(ahead)])
    handed = ahead
    for future in landing:
        future.result()
        seats.pop(future).load -= 1
        if handed < feed.blocks:
            landing.add(hand_out(handed))
            handed += 1
    took = time.perf_counter() - begun
    fleet.close()
    return took


def places(found: Workers) -> list[str]:
    """Addresses of the workers for blocks, each as often as it does one at once."""
    workers = workers_at(found.client).items()
    return [at for at, facts in workers for _ in range(int(facts["resources"].get(CPU, 0)))]


def one_block(number: int, block: Block, tile_px: int, overlap: float, actor: ActorRef) -> int:
    """A task: features that it has at hand, to the actor and back; their labels' sum."""
    outer = read_window(block, tile_px, overlap)
    layers, _ = predict_on(
        actor, features(outer.height, outer.width), outer, block, deadline_s=ACTOR_DEADLINE_S
    )
    return int(layers["label"].sum())


@lru_cache(maxsize=1)
def features(height: int, width: int) -> NDArray[np.float32]:
    """Drawn channels (c, h, w), once a process: to make them is not what is measured."""
    return np.random.default_rng(5).standard_normal((len(CHANNELS), height, width), np.float32)


def _alone_s(path: str, predictor: Predictor, block: Block, feed: Feed) -> float:
    model = {"weights": path, "device": predictor.device.type, "precision": predictor.precision}
    actor = ModelActor(model, tile_px=feed.tile_px, overlap=feed.overlap, threads=ACTOR_THREADS)
    outer = read_window(block, feed.tile_px, feed.overlap)
    array: Any = features(outer.height, outer.width)
    standard = asyncio.run(actor.wire())
    array = array if standard is None else narrow(array, standard)
    threads = torch.get_num_threads()
    try:
        return seconds(lambda: actor.predict(array, outer.row, outer.col, block), turns=2)
    finally:
        torch.set_num_threads(threads)  # the actor has pinned its own, and others are measured after it


def _by_dask_array(found: Workers, path: str, predictor: Predictor, block: Block, feed: Feed) -> float:
    """The same blocks beside one another as one array, by the library's own overlap."""
    given = path, predictor.device.type, predictor.precision, block, feed
    labels = labels_by_dask_array(*given)
    # one a worker, which has one model: two at once would want twice the memory of the one device
    warm = [
        found.client.submit(one_chunk, *given, pure=False, resources={CPU: 1}, workers=[at])
        for at in dict.fromkeys(places(found))
    ]
    for future in warm:
        future.result()
    begun = time.perf_counter()
    found.client.compute(labels.sum(), resources={CPU: 1}).result()
    return time.perf_counter() - begun


def one_chunk(path: str, device: str, precision: str, block: Block, feed: Feed) -> int:
    """A task: the model loaded and features drawn for the chunks to come, and one of them labelled."""
    edge, outer = feed.block_px, read_window(block, feed.tile_px, feed.overlap)
    depth = (outer.height - edge) // 2
    chunk = np.pad(features(edge, edge), ((0, 0), (depth, depth), (depth, depth)), mode="symmetric")
    return int(labelled(chunk, path, device, precision, block, feed).sum())


def labelled(
    chunk: NDArray[np.float32], path: str, device: str, precision: str, block: Block, feed: Feed
) -> NDArray[np.uint8]:
    """Labels (y, x) of a block by the notebook's loop, of a chunk (c, h, w) with what it overlaps."""
    outer = read_window(block, feed.tile_px, feed.overlap)
    batch = 1 if device == "cpu" else _NOTEBOOK_BATCH
    predictor = _loaded(path, device, precision)
    return notebook(predictor, chunk, outer, block.window, feed.tile_px, feed.overlap, batch)


def labels_by_dask_array(path: str, device: str, precision: str, block: Block, feed: Feed) -> Any:
    """Labels (y, x), lazy: ``feed.blocks`` blocks side by side, each with what it overlaps of the next."""
    edge, outer = feed.block_px, read_window(block, feed.tile_px, feed.overlap)
    depth = (outer.height - edge) // 2
    chunks = ((edge,), (edge,) * feed.blocks)
    drawn = dask.array.map_blocks(  # type: ignore[no-untyped-call]
        lambda block_info=None: features(edge, edge),
        chunks=((len(CHANNELS),), *chunks),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )

    return dask.array.map_overlap(  # type: ignore[no-untyped-call]
        lambda chunk: labelled(chunk, path, device, precision, block, feed),
        drawn,
        depth={0: 0, 1: depth, 2: depth},
        boundary="reflect",
        trim=False,
        drop_axis=0,
        chunks=chunks,
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )


@lru_cache(maxsize=1)
def _loaded(path: str, device: str, precision: str) -> Predictor:
    return cast(Predictor, load_predictor(weights=path, device=device, precision=precision))
