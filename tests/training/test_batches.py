"""The order of rows is a pure function of (seed, epoch, step).

Every process gets its share of each batch.
"""

from __future__ import annotations

import ctypes
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ratchet.dataset.prepared import PreparedDataset
from ratchet.training import batches
from ratchet.training.distributed import Group

pytest_plugins = ["tests.helpers.learning_fixtures"]


@given(
    rows=st.integers(1, 300),
    size=st.integers(1, 70),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_an_epoch_has_every_row_once_in_even_batches(
    rows: int, size: int, seed: int, epoch: int
) -> None:
    order = list(batches.Order(rows, size, seed, epoch, 0, Group()))
    assert sorted(row for batch in order for row in batch) == list(range(rows))
    sizes = [len(batch) for batch in order]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert sizes == [batches.rows_of(step, rows, size) for step in range(batches.steps(rows, size))]


@given(rows=st.integers(2, 200), step=st.integers(0, 5))
def test_a_position_says_what_comes_next(rows: int, step: int) -> None:
    whole = list(batches.Order(rows, 16, 3, 2, 0, Group()))
    assert list(batches.Order(rows, 16, 3, 2, step, Group())) == whole[step:]


@given(rows=st.integers(8, 200), world=st.integers(2, 4))
def test_processes_share_each_batch(rows: int, world: int) -> None:
    alone = list(batches.Order(rows, 16, 0, 0, 0, Group()))
    shares = [
        list(batches.Order(rows, 16, 0, 0, 0, Group(rank=rank, world=world)))
        for rank in range(world)
    ]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert sorted(row for part in parts for row in part) == batch


def test_epochs_and_seeds_differ() -> None:
    firsts = [
        next(iter(batches.Order(50, 7, seed, epoch, 0, Group())))
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({tuple(each) for each in firsts}) == 3
    assert all(each == sorted(each) for each in firsts)  # within a batch, for the memory map


def test_random_draws_follow_from_the_position() -> None:
    def draw(*position: int) -> tuple[float, ...]:
        batches.seed_step(*position)
        return torch.rand(()).item(), random.random(), np.random.random()

    positions = [(0, 1, 2, 0), (1, 1, 2, 0), (0, 2, 2, 0), (0, 1, 3, 0), (0, 1, 2, 1)]
    first, again = ([draw(*position) for position in positions] for _ in range(2))
    assert first == again
    assert all(len(set(draws)) == len(positions) for draws in zip(*first, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_and_the_resident_copy_give_the_same(pictures: Path, workers: int) -> None:
    dataset, cpu = PreparedDataset(pictures / "data/prepared/train"), torch.device("cpu")
    order = batches.Order(len(dataset), 200, 0, 0, 0, Group())
    loaded = list(batches.batches(dataset, order, cpu, workers, None))
    held = list(batches.batches(dataset, order, cpu, 0, batches.resident(dataset, cpu)))
    assert all(
        torch.equal(a, b)
        for one, other in zip(loaded, held, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    assert loaded[0][0].dtype == torch.uint8


class Mortal(PreparedDataset):
    """Its targets are the signal that the loading process gets when its parent dies, or -1 in the training process."""

    def __getitem__(self, index: int | Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        number = ctypes.c_int(-1)
        if torch.utils.data.get_worker_info() is not None:
            ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
        return super().__getitem__(index)[0], torch.tensor(number.value)


@pytest.mark.parametrize(("workers", "number"), [(0, -1), (1, signal.SIGKILL)])
def test_loader_processes_die_with_the_stage_and_leave_its_random_draws_alone(
    pictures: Path, workers: int, number: int
) -> None:
    dataset = Mortal(pictures / "data/prepared/train")
    order = batches.Order(len(dataset), 250, 0, 0, 0, Group())
    before = torch.get_rng_state()
    loaded = list(batches.batches(dataset, order, torch.device("cpu"), workers, None))
    assert [int(targets) for _, targets in loaded] == [number, number]
    assert torch.equal(torch.get_rng_state(), before)
