"""Several processes that train one network, as torch's own launcher starts them.

``torchrun --nproc-per-node N -m cryoscale train ...`` sets RANK, LOCAL_RANK and WORLD_SIZE, which are read
here (https://docs.pytorch.org/docs/stable/elastic/run.html); without them a process is alone. Every process
takes its share of every batch, gradients are averaged by DistributedDataParallel, and the first process
alone writes. All read one work folder, so machines without a shared disk cannot train together.

What equals the training by one process: patches, crops and augmentation, exactly, and the loss and its
gradient up to the order of sums, since losses are functions of sums over the whole batch. Batch norm takes
its statistics from the whole batch on GPUs (SyncBatchNorm, which torch has for GPUs only) and from each
process's share on CPUs, where the result then differs as if the batch were smaller. Dropout masks are
drawn by each process for itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from cryoscale.errors import ConfigError
from cryoscale.models.predictor import choose_device

T = TypeVar("T")

PATIENCE = timedelta(hours=6)
"""How long processes wait for each other: the first may be making patches. A dead one ends all at once."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch: consecutive, sizes differing by one at most."""
        start, stop = (len(batch) * edge // self.size for edge in (self.rank, self.rank + 1))
        return batch[start:stop]

    def total(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums over all processes; the gradient is that of this process's part alone."""
        if self.size == 1:
            return sums
        whole = sums.detach().clone()
        distributed.all_reduce(whole)
        return whole + (sums - sums.detach())

    def device(self, wanted: str) -> str:
        """The device of this process where ``wanted`` names a kind."""
        has_gpu = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
        return f"cuda:{self.local}" if self.size > 1 and has_gpu else wanted

    def wait(self) -> None:
        """Returns once every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def wrap(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """The network as it is called in training: gradients are averaged over the processes."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # U-Net++ has gates that are never used; without a search for them the second step would fail.
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, find_unused_parameters=True)

    def share_buffers(self, model: torch.nn.Module) -> None:
        """Gives all processes the first one's buffers: batch norms on CPUs have each seen other patches."""
        if self.size > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)

    def synchronise_norms(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """The network with batch norms over the whole batch, where torch has them."""
        if self.size == 1 or device.type != "cuda":
            return model
        converted: torch.nn.Module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted


ALONE = Ranks()
"""One process, as without a launcher."""


@contextmanager
def join(device: str, batch: int) -> Iterator[Ranks]:
    """Joins the other processes, if there are any, for as long as the block lasts.

    Raises:
        ConfigError: if a batch cannot be shared evenly between them.
        InputError: if there are more processes than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if batch % size:
        given = f"batch {batch} on {size} processes"
        raise ConfigError(given, f"a multiple of {size}", "change the batch or the number of processes")
    ranks = Ranks(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    where = choose_device(ranks.device(device))
    if where.type == "cuda":
        torch.cuda.set_device(where)
    distributed.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=PATIENCE)
    yield ranks
    # Not in a finally: after an error the others may be waiting, and the launcher ends them.
    distributed.destroy_process_group()
