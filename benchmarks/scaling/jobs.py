"""Stage times of blocks: as measured here, and brought to the blocks and the cluster of production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.scaling.simulator import Job
from cryoscale.features.channels import CHANNELS
from cryoscale.features.packing import bytes_a_pixel
from cryoscale.features.stack import HALO_PX
from cryoscale.grid import Block
from cryoscale.infer.tiles import read_window, stride_px, tile_origins
from cryoscale.infer.wire import BYTES_A_CHANNEL
from cryoscale.ledger import Marker
from cryoscale.read.inputs import READ_THREADS

BLOCK_PX, TILE_PX, OVERLAP = 2048, 256, 0.5
SPEEDS = (500, 1000, 2500)
"""Tiles a second of one actor with the full CryoNet: assumed. The last is the target for an H200, where the
network alone did 3,130 (``benchmarks/results/precisions.jsonl``)."""


@dataclass(frozen=True)
class Form:
    """How a block travels to its actor: bytes a pixel, and whether the tasks make the channels."""

    name: str
    bytes_px: int
    channels_by_tasks: bool


FORMS = (
    # to a GPU, which rounds them so; what rounding costs the task is not counted (see benchmarks.wire)
    Form("30 channels of 16 bits", BYTES_A_CHANNEL * len(CHANNELS), True),
    # what they are made of, elevation in two; neither is counted what packing costs the task, nor what making
    # channels costs the GPU
    Form("18 numbers of 16 bits, channels made by the GPU", bytes_a_pixel(), False),
)


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines.

    Nodes of 16 cores with 12.5 Gbit/s, as clouds rent them; a worker of two tasks a core; a store that sends
    200 Gbit/s, the limit of a standard account in Azure's large regions
    (https://learn.microsoft.com/azure/storage/common/scalability-targets-standard-account), and answers
    a request in 50 ms.
    """

    cores: int = 16
    tasks_a_core: int = 2
    link_bytes_s: float = 12.5e9 / 8
    store_bytes_s: float = 200e9 / 8
    latency_s: float = 0.05


CLUSTER = Cluster()


def hull_px(block: Block) -> int:
    """Pixels that a block reads, all halos included."""
    outer = read_window(block, TILE_PX, OVERLAP).pad(HALO_PX)
    return outer.height * outer.width


def tiles_of(block: Block) -> int:
    """Tiles of a block all of whose pixels hold data."""
    own, stride = block.window, stride_px(TILE_PX, OVERLAP)
    return len(tile_origins(own.row, own.row + own.height, TILE_PX, stride)) * len(
        tile_origins(own.col, own.col + own.width, TILE_PX, stride)
    )


def as_measured(marker: Marker, rest_cpu_s: float) -> Job:
    """A block as it was on this machine, where files are local and actors share the cores.

    ``rest_cpu_s`` is what it cost beyond its stages, most of it for sending.
    """
    cpu = marker.cpu_seconds
    return Job(
        read_cpu_s=cpu["read"],
        features_cpu_s=cpu["features"],
        predict_s=cpu["predict"],
        write_cpu_s=cpu["write"],
        send_cpu_s=rest_cpu_s,
        read_threads=READ_THREADS,
    )


def in_production(marker: Marker, form: Form, tiles_s: float, send_cpu_s_byte: float) -> Job:
    """A measured block brought to 2048 px, on a cluster: by pixels read, or by pixels written."""
    cpu, block = marker.cpu_seconds, Block(marker.epsg, 0, 0, BLOCK_PX)
    more = hull_px(block) / hull_px(marker.block)
    outer = read_window(block, TILE_PX, OVERLAP)
    sent = float(outer.height * outer.width * form.bytes_px)
    sending = send_cpu_s_byte / 2 * sent  # its own end; the other is the intake's
    return Job(
        wait_s=more * marker.fetches * CLUSTER.latency_s / READ_THREADS,
        read_cpu_s=more * cpu["read"],
        features_cpu_s=more * cpu["features"] * form.channels_by_tasks + sending,
        predict_s=tiles_of(block) / tiles_s,
        write_cpu_s=cpu["write"] * (BLOCK_PX / marker.size_px) ** 2,
        fetched_bytes=more * marker.fetched_bytes,
        sent_bytes=sent,
        read_threads=READ_THREADS,
    )


def fuller_half(markers: Sequence[Marker]) -> list[Marker]:
    """Those with most pixels: a small range has more edge than a region of 100,000 blocks."""
    ranked = sorted(markers, key=lambda marker: (marker.pixels, marker.row, marker.col))
    return ranked[len(ranked) // 2 :]
