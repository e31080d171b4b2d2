"""The prepared rows of one split as a plain `torch.utils.data.Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class PreparedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Memory-mapped arrays: integers (or float32 features) leave it, as they are; normalise on the device.

    Use it with a plain `DataLoader`; with `collate_fn=lambda batch: batch` a batch is one gather of `__getitems__`.

    Args:
        folder: `data/prepared/train`, `val` or `test`.
    """

    def __init__(self, folder: Path) -> None:
        self.inputs = np.load(folder / "inputs.npy", mmap_mode="r")  # (N, C, H, W) uint8 or (N, F) float32
        self.targets = np.load(folder / "targets.npy")  # (N,) int64

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One row: (C, H, W) uint8 or (F,) float32, and () int64."""
        return torch.from_numpy(np.array(self.inputs[index])), torch.tensor(self.targets[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch in the order of `indices`: (B, ...) and (B,) int64."""
        at = np.asarray(indices)
        return torch.from_numpy(self.inputs[at]), torch.from_numpy(self.targets[at])
