"""Prepared rows as a Dataset."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader

from tasks.data.dataset import PreparedDataset


def test_a_batch_is_one_gather_of_the_same_rows(tmp_path):
    inputs = np.arange(10 * 4, dtype=np.uint8).reshape(10, 1, 2, 2)
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "targets.npy", np.arange(10))
    data = PreparedDataset(tmp_path)
    assert len(data) == 10
    batch, targets = data.__getitems__([7, 2])
    assert batch.dtype == torch.uint8 and targets.tolist() == [7, 2]
    assert torch.equal(batch[0], data[7][0]) and data[7][1].item() == 7
    loader = DataLoader(data, batch_size=4, collate_fn=lambda rows: rows)
    assert [len(targets) for _, targets in loader] == [4, 4, 2]
