"""Normalise the arrays of `data/prepared`: float32, mean 0, standard deviation 1."""

from __future__ import annotations

import torch
from torch import Tensor

from ratchet.dataset.spec import Spec


class Normalise:
    """Scale inputs to mean 0 and standard deviation 1, per channel of images or per feature.

    Features that `prepare` has standardised stay as they are.

    Args:
        spec: mean and standard deviation of the training split.
        device: where the inputs are.
        channels_last: the memory layout of images.
    """

    def __init__(self, spec: Spec, device: torch.device, channels_last: bool = True) -> None:
        scale = 255.0 if spec.kind == "image" else 1.0
        shape = (1, -1, 1, 1) if spec.kind == "image" else (1, -1)
        mean = torch.tensor(spec.mean, dtype=torch.float64).view(shape)
        std = torch.tensor(spec.std, dtype=torch.float64).view(shape)
        if spec.standardised:
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        std = std.where(std > 0, torch.ones_like(std))  # a constant feature becomes 0
        self.factor = (1 / (scale * std)).float().to(device)
        self.offset = (-mean / std).float().to(device)
        self.layout = torch.contiguous_format
        if channels_last and spec.kind == "image":
            self.layout = torch.channels_last

    def __call__(self, inputs: Tensor) -> Tensor:
        """Normalise (N, C, H, W) uint8 or (N, F) float32 to float32 of the same shape."""
        values = torch.addcmul(self.offset, inputs.to(torch.float32), self.factor)
        return values.contiguous(memory_format=self.layout)
