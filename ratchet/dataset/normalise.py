"""From the arrays of `data/prepared` to what a model takes: float32, mean 0, standard deviation 1."""

from __future__ import annotations

import torch
from torch import Tensor

from ratchet.dataset.spec import Spec


class Normalise:
    """Inputs of one spec, brought to mean 0 and standard deviation 1 per channel (image) or feature, on `device`.

    Features that `prepare` standardised already stay as they are.
    """

    def __init__(self, spec: Spec, device: torch.device, channels_last: bool = True) -> None:
        scale = 255.0 if spec.kind == "image" else 1.0
        shape = (1, -1, 1, 1) if spec.kind == "image" else (1, -1)
        count = len(spec.mean)
        values = ((0.0,) * count, (1.0,) * count) if spec.standardised else (spec.mean, spec.std)
        mean, std = (torch.tensor(numbers, dtype=torch.float64).view(shape) for numbers in values)
        std = std.where(std > 0, torch.ones_like(std))  # what never varies becomes 0
        self.factor = (1 / (scale * std)).float().to(device)
        self.offset = (-mean / std).float().to(device)
        self.layout = (
            torch.channels_last
            if channels_last and spec.kind == "image"
            else torch.contiguous_format
        )

    def __call__(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) uint8 or (N, F) float32 on the device, to float32 of the same shape."""
        return torch.addcmul(self.offset, inputs.to(torch.float32), self.factor).contiguous(
            memory_format=self.layout
        )
