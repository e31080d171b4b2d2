"""Several processes that train one model: what each of them knows about the others (`torch.distributed`, nothing home-made)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process among those that train together; alone it is rank 0 of 1."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Does this process write the files?"""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Add `values` up over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with gradients averaged over all processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def gradients(self, model: nn.Module, wanted: bool) -> AbstractContextManager[object]:
        """Exchange gradients in the backward pass only where they are `wanted`: at the end of a step."""
        return nullcontext() if wanted or not isinstance(model, DistributedDataParallel) else model.no_sync()

    def exchange(self, device: torch.device) -> torch.device:
        """Where a tensor has to be to be summed: nccl takes none from the CPU."""
        return device if self.world > 1 else torch.device("cpu")

    def align(self, model: nn.Module) -> None:
        """Give every process rank 0's buffers: batch normalisation sees other rows in each."""
        if self.world > 1:
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)


ALONE = Group()
