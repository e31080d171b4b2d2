"""Probabilities out of a trained model: float32, channels-last, the same path for evaluation, gate and prediction."""

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
    """Score rows as prepare makes them.

    Args:
        inputs: uint8 (N, C, H, W) or float32 (N, F), a memory map too.
        batch_size: rows at a time, 1 or more.

    Returns:
        float32 (N, classes), each row summing to 1.

    Raises:
        DataError: the rows have another shape than the model's.
    """
    shape = tuple(card.spec["input_shape"])
    if inputs.shape[1:] != shape:
        raise DataError(f"the model takes rows of shape {shape}, found {inputs.shape[1:]}")
    device = next(model.parameters()).device
    model.eval().to(memory_format=torch.channels_last)
    normalise = Normalise(card.parsed_spec(), device)
    found = np.empty((len(inputs), len(card.classes)), np.float32)
    with torch.inference_mode():
        for start, rows in _slices(inputs, batch_size):
            scores = model(normalise(rows.to(device)))
            found[start : start + len(rows)] = (
                heads.probabilities(model, card.criterion, scores).cpu().numpy()
            )
    return found


def _slices(inputs: np.ndarray, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(inputs), batch_size):
        yield (
            start,
            torch.from_numpy(np.array(inputs[start : start + batch_size])),
        )  # copied: a map is read-only
