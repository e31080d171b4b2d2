"""Compute the probabilities of a trained model, in float32 and channels-last.

Evaluation, gate and prediction all use this function.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ratchet.dataset.normalise import Normalise
from ratchet.errors import DataError
from ratchet.models import heads
from ratchet.models.card import Card


def probabilities(model: nn.Module, card: Card, inputs: np.ndarray, batch_size: int) -> np.ndarray:
    """Score prepared rows.

    Args:
        model: the model, on any device.
        card: its card.
        inputs: (N, C, H, W) uint8 or (N, F) float32; may be a memory map.
        batch_size: rows at a time, 1 or more.

    Returns:
        (N, classes) float32; each row adds up to 1.

    Raises:
        DataError: the rows do not have the shape of the model's inputs.
    """
    shape = tuple(card.spec["input_shape"])
    if inputs.shape[1:] != shape:
        raise DataError(f"the model takes rows of shape {shape}, but found {inputs.shape[1:]}")
    device = next(model.parameters()).device
    model.eval().to(memory_format=torch.channels_last)
    normalise = Normalise(card.parsed_spec(), device)
    result = np.empty((len(inputs), len(card.classes)), np.float32)
    with torch.inference_mode():
        for start, rows in _slices(inputs, batch_size):
            outputs = model(normalise(rows.to(device)))
            values = heads.probabilities(model, card.criterion, outputs)
            result[start : start + len(rows)] = values.cpu().numpy()
    return result


def _slices(inputs: np.ndarray, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row number of each batch, and the batch."""
    for start in range(0, len(inputs), batch_size):
        rows = np.array(inputs[start : start + batch_size])  # a copy, as a map is read-only
        yield start, torch.from_numpy(rows)
