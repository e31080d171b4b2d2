"""Mean and standard deviation of the training rows, accumulated over the shards in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ratchet.dataset.spec import Spec
from ratchet.errors import ValidationFailed


@dataclass(frozen=True)
class Pixels:
    """Count, sum and sum of squares of each channel's pixels, int64 (C,).

    They are exact, and those of several shards add up.
    """

    count: np.ndarray
    total: np.ndarray
    square: np.ndarray

    @classmethod
    def none(cls, channels: int) -> Pixels:
        """The statistics of no pixels."""
        return cls(*np.zeros((3, channels), np.int64))

    def after(self, inputs: np.ndarray) -> Pixels:
        """Add the pixels of `inputs`, uint8 (N, C, H, W)."""
        squares = np.square(inputs, dtype=np.uint16)  # 255² fits
        count = np.full(inputs.shape[1], inputs[:, 0].size)
        return self.plus(
            Pixels(count, inputs.sum((0, 2, 3), np.int64), squares.sum((0, 2, 3), np.int64))
        )

    def plus(self, other: Pixels) -> Pixels:
        """Add the pixels of another shard."""
        return Pixels(
            self.count + other.count, self.total + other.total, self.square + other.square
        )

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of pixels scaled to 0..1, both float64 (C,).

        The standard deviation of a constant channel is 1.
        """
        count = np.maximum(self.count, 1)
        mean = self.total / count
        std = np.sqrt(np.maximum(self.square / count - mean**2, 0))
        std[std == 0] = 255.0
        return mean / 255.0, std / 255.0


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared differences from the mean of each feature, float64 (F,).

    Each batch takes two passes, and batches are merged as in Chan, Golub and LeVeque (1983). This
    keeps the precision that sums of squares lose: next to 1.7e9 squared, a spread of 60 vanishes.
    For a constant feature, the squared differences are exactly 0.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def none(cls, features: int) -> Moments:
        """The statistics of no rows."""
        return cls(*np.zeros((3, features)))

    def after(self, inputs: np.ndarray) -> Moments:
        """Add the rows of `inputs`, float64 (N, F) with NaN for missing values."""
        if not len(inputs):
            return self
        valid = ~np.isnan(inputs)
        count = valid.sum(0).astype(np.float64)
        first = np.nan_to_num(inputs[valid.argmax(0), np.arange(inputs.shape[1])])
        with np.errstate(over="ignore", invalid="ignore"):  # `checked` refuses an overflow
            mean = first + np.where(valid, inputs - first, 0).sum(0) / np.maximum(count, 1)
            return self.plus(Moments(count, mean, (np.where(valid, inputs - mean, 0) ** 2).sum(0)))

    def plus(self, other: Moments) -> Moments:
        """Add the rows of another batch or shard."""
        count = np.maximum(self.count + other.count, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            step = np.where(self.count > 0, other.mean - self.mean, 0)
            start = np.where(self.count > 0, self.mean, other.mean)
            mean = start + step * (other.count / count)
            squares = self.squares + other.squares + step**2 * (self.count * other.count / count)
        return Moments(
            self.count + other.count, np.where(other.count > 0, mean, self.mean), squares
        )

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, float64 (F,); the latter is 1 for constant features."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        std[std == 0] = 1.0
        return self.mean, std


def none(outline: Spec) -> Pixels | Moments:
    """The statistics of no rows."""
    channels_or_features = outline.input_shape[0]
    if outline.kind == "image":
        return Pixels.none(channels_or_features)
    return Moments.none(channels_or_features)


def checked(statistics: Pixels | Moments, outline: Spec) -> list[list[float]]:
    """Return the three rows of numbers for JSON.

    Raises:
        ValidationFailed: a feature overflows float64.
    """
    rows: list[list[float]] = [
        getattr(statistics, field.name).tolist() for field in fields(statistics)
    ]
    for name, *numbers in zip(outline.features or (), *rows, strict=False):
        if not np.isfinite(numbers).all():
            raise ValidationFailed(
                f"the values of the feature {name} are too large to standardise in float64; "
                "scale them in the source, or limit them in validate.columns"
            )
    return rows


def joined(summaries: Sequence[dict[str, Any]], outline: Spec) -> Pixels | Moments:
    """Add up the statistics of all shards in order."""
    if outline.kind == "image":
        pixels = Pixels.none(outline.input_shape[0])
        for summary in summaries:
            pixels = pixels.plus(Pixels(*map(np.array, summary["statistics"])))
        return pixels
    moments = Moments.none(outline.input_shape[0])
    for summary in summaries:
        moments = moments.plus(Moments(*map(np.array, summary["statistics"])))
    return moments
