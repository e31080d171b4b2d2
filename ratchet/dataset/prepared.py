"""The prepared rows of a split as a plain `torch.utils.data.Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ratchet import images
from ratchet.dataset.spec import Spec


class PreparedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Memory-mapped rows: images as uint8, features as float32, to be normalised on the device.

    `DataLoader(PreparedDataset(folder), batch_size=32)` works as with any Dataset.
    `DataLoader(data, batch_size=None, sampler=batches)` is faster, because it gathers a batch at
    once; `batches` yields lists of row numbers.

    Args:
        folder: `data/prepared/train`, `data/prepared/val` or `data/prepared/test`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.inputs = open_inputs(Path(folder))
        self.targets = np.load(Path(folder) / "targets.npy")  # (N,) int64

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the input and the target of one row, or of several.

        Args:
            index: a row number, or row numbers in any order.

        Returns:
            (C, H, W) uint8 or (F,) float32, and () int64; for several rows (B, ...) and (B,).
        """
        if isinstance(index, Sequence):
            rows = np.asarray(index, np.int64)
            return torch.from_numpy(self.inputs[rows]), torch.from_numpy(self.targets[rows])
        return torch.from_numpy(np.array(self.inputs[index])), torch.tensor(self.targets[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return the rows one by one, for a `DataLoader` with a batch size."""
        inputs, targets = self[list(indices)]
        return list(zip(inputs, targets, strict=True))


def open_inputs(folder: Path) -> Any:
    """Open the inputs of a split, which can be indexed like an array.

    They are (N, C, H, W) uint8 or (N, F) float32.
    """
    decoded = folder / "inputs.npy"
    return np.load(decoded, mmap_mode="r") if decoded.exists() else EncodedInputs(folder)


class EncodedInputs:
    """Images in their original encoding, which indexing decodes.

    They are indexed along the first axis, like an array.
    """

    def __init__(self, folder: Path) -> None:
        spec = Spec.read(folder.parent / "spec.json")
        assert spec.size is not None and spec.channels is not None
        self._size, self._channels = spec.size, spec.channels
        self._offsets = np.load(folder / "offsets.npy")  # (N + 1,) int64
        self._bytes: np.ndarray = np.empty(0, np.uint8)
        if self._offsets[-1]:  # an empty file cannot be mapped
            self._bytes = np.memmap(folder / "inputs.bin", np.uint8, "r")
        self.shape = (len(self._offsets) - 1, *spec.input_shape)
        self.dtype = np.dtype(np.uint8)
        self.nbytes = int(np.prod(self.shape))

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, at: Any) -> np.ndarray:
        rows = np.arange(len(self))[at]
        if rows.ndim == 0:
            return self._decoded(int(rows))
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in zip(out, rows, strict=True):
            place[...] = self._decoded(int(row))
        return out

    def _decoded(self, row: int) -> np.ndarray:
        encoded = self._bytes[self._offsets[row] : self._offsets[row + 1]].tobytes()
        return images.pixels(encoded, self._size, self._channels)
