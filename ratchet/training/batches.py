"""The batches of an epoch.

Which rows make up a step is a pure function of (seed, epoch, step), so a position in training is
two integers.
"""

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
    """The place of this process among those that train together."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world(self) -> int:
        """Number of processes, 1 or more."""
        ...


class Order(Sampler[list[int]]):
    """The batches of one epoch from `step` on, as lists of row numbers.

    An epoch shuffles all rows and cuts them into ceil(rows / batch_size) batches whose sizes differ
    by at most one. Each row appears once, and there is no small last batch. Several processes split
    each batch further in the same way.
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
            shares = np.array_split(batch, self._placement.world)
            yield np.sort(shares[self._placement.rank]).tolist()


def steps(rows: int, batch_size: int) -> int:
    """Return the number of steps in an epoch."""
    return -(-rows // batch_size)


def rows_of(step: int, rows: int, batch_size: int) -> int:
    """Return the number of rows in the batch of `step` (from 0), over all processes."""
    count = steps(rows, batch_size)
    return rows // count + (step < rows % count)


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed every random generator from the position of a step.

    Augmentation and dropout then depend on nothing else.
    """
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
    """Yield (inputs, targets) of each batch on `device`.

    Args:
        dataset: the rows.
        order: the row numbers of each batch.
        device: where the model computes.
        workers: loader processes, 0 to load in this process.
        resident: a copy of the rows on `device` to take them from, instead of a `DataLoader`.

    Yields:
        Inputs, (B, C, H, W) uint8 or (B, F) float32, and targets, (B,) int64.
    """
    if resident is not None:
        inputs, targets = resident
        for rows in order:
            index = torch.tensor(rows, device=device)
            yield inputs[index], targets[index]
        return
    pin = device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,  # `order` yields the rows of a batch, which the dataset gathers at once
        sampler=order,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=die_with_parent,
        # The loader draws a seed for its workers, which must not change the global state.
        generator=torch.Generator().manual_seed(0),
    )
    for inputs, targets in loader:
        yield inputs.to(device, non_blocking=pin), targets.to(device, non_blocking=pin)


def resident(dataset: PreparedDataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy all rows of `dataset` to `device`: inputs, (N, ...), and targets, (N,) int64."""
    inputs, targets = dataset[range(len(dataset))]
    return inputs.to(device), targets.to(device)
