"""Which rows make up which step: a pure function of (seed, epoch, step), so that a position is two integers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ratchet.dataset.prepared import PreparedDataset
from ratchet.process import die_with_parent


class Placement(Protocol):
    """Where this process stands among those that train together."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...


class Order(Sampler[list[int]]):
    """The batches of one epoch from `step` on, as lists of row numbers.

    An epoch shuffles all rows and cuts them into ceil(rows / batch_size) batches whose sizes differ
    by one at most: each row comes once, and there is no small rest. Several processes cut each
    batch further in the same way.
    """

    def __init__(
        self, rows: int, batch_size: int, seed: int, epoch: int, step: int, placement: Placement
    ) -> None:
        order = np.random.default_rng((seed, epoch)).permutation(rows)
        self._batches = np.array_split(order, steps(rows, batch_size))[step:]
        self._placement = placement

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield np.sort(
                np.array_split(batch, self._placement.world)[self._placement.rank]
            ).tolist()


def steps(rows: int, batch_size: int) -> int:
    """Steps of an epoch."""
    return -(-rows // batch_size)


def rows_of(step: int, rows: int, batch_size: int) -> int:
    """Rows in the batch of step `step` (from 0), over all processes."""
    count = steps(rows, batch_size)
    return rows // count + (step < rows % count)


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Draw everything random of this step (augmentation, dropout) from its position alone."""
    state = np.random.SeedSequence((seed, epoch, step, rank)).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0]))
    random.seed(int(state[0]))
    np.random.seed(int(state[1]) % 2**32)


def batches(
    dataset: PreparedDataset,
    order: Order,
    device: torch.device,
    workers: int,
    resident: tuple[Tensor, Tensor] | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) of each batch on `device`: from a plain `DataLoader`, or gathered from a copy that is there."""
    if resident is not None:
        inputs, targets = resident
        for rows in order:
            chosen = torch.tensor(rows, device=device)
            yield inputs[chosen], targets[chosen]
        return
    pin = device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,  # `order` yields the rows of a batch, which the dataset gathers at once
        sampler=order,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=die_with_parent,
        generator=torch.Generator().manual_seed(
            0
        ),  # the loader's own draw must not depend on the global state
    )
    for inputs, targets in loader:
        yield inputs.to(device, non_blocking=pin), targets.to(device, non_blocking=pin)


def resident(dataset: PreparedDataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """The whole split on `device`."""
    inputs, targets = dataset[range(len(dataset))]
    return inputs.to(device), targets.to(device)
