"""Prepared rows as a Dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ratchet.dataset.prepared import PreparedDataset
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate
from tests.helpers.data_samples import ASSETS

pytest_plugins = ["tests.helpers.data_fixtures"]


@pytest.fixture(params=["decoded", "encoded"])
def folder(request, configured, tree):
    """The sample, stored in either way."""
    limit = 10**9 if request.param == "decoded" else 1000
    source = {"type": "torchvision", "name": "FashionMNIST", "root": str(ASSETS), "arguments": {}}
    params = configured(source, prepare={"decoded_limit_bytes": limit})
    refresh.fn(params, tree)
    for stage in (ingest, validate, prepare):
        stage.fn(params, tree)
    assert (tree / "data/prepared/test/inputs.npy").exists() == (request.param == "decoded")
    return tree / "data/prepared"


def test_rows_batches_and_loaders_agree_in_either_storage(folder):
    data = PreparedDataset(folder / "test")
    original = (ASSETS / "FashionMNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    assert (
        data.inputs.shape == (200, 1, 28, 28) and np.asarray(data.inputs[:]).tobytes() == original
    )
    batch, targets = data[[7, 2]]
    assert batch.dtype == torch.uint8 and targets.dtype == torch.int64
    assert torch.equal(batch[0], data[7][0]) and targets[1] == data[2][1]
    samples = data.__getitems__([7, 2])
    assert len(samples) == 2 and all(
        torch.equal(x, y) for x, y in zip(samples[1], data[2], strict=True)
    )
    sizes = [len(targets) for _, targets in DataLoader(data, batch_size=128)]
    assert sizes == [128, 72] and len(data) == 200


def test_a_plain_loader_works_as_in_every_tutorial(folder):
    data = PreparedDataset(str(folder / "train"))
    images, labels = next(iter(DataLoader(data, batch_size=32)))
    assert images.shape == (32, 1, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (32,) and labels.dtype == torch.int64
    gathered, numbers = next(iter(DataLoader(data, batch_size=None, sampler=[list(range(32))])))
    assert torch.equal(gathered, images) and torch.equal(numbers, labels)


@pytest.mark.long  # starts loader processes
def test_loader_processes_see_the_same_rows(folder):
    data = PreparedDataset(folder / "train")
    loaders = [DataLoader(data, batch_size=64, num_workers=workers) for workers in (0, 2)]
    for (a, x), (b, y) in zip(*loaders, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
