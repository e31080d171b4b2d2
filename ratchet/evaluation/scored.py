"""The values per row from which metrics are computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BINS = 15  # of the reliability diagram and the calibration error
TOP = 5  # most probable classes, for the metric top5


@dataclass(frozen=True)
class Scored:
    """Values per row, which all resamples share."""

    targets: np.ndarray  # (N,) int64
    probabilities: np.ndarray  # (N, classes) float32
    classes: int

    @cached_property
    def predictions(self) -> np.ndarray:
        """The most probable class of each row, (N,) int64."""
        return np.asarray(self.probabilities.argmax(1))

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each prediction is right, (N,) bool."""
        return np.asarray(self.predictions == self.targets)

    @cached_property
    def loss(self) -> np.ndarray:
        """The loss of each row, (N,) float64, as `log_loss` computes it."""
        return log_loss(self.targets, self.probabilities)

    @cached_property
    def in_top(self) -> np.ndarray:
        """Whether the right class is among the `TOP` most probable ones, (N,) bool."""
        own = self.probabilities[np.arange(len(self.targets)), self.targets]
        return np.asarray((self.probabilities > own[:, None]).sum(1) < TOP)

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, (N,) float64."""
        return np.asarray(self.probabilities.max(1).astype(np.float64))

    @cached_property
    def bins(self) -> np.ndarray:
        """The bin of each confidence, (N,) int64, from 0; a bin includes its upper edge."""
        edges = np.linspace(0, 1, BINS + 1)[1:-1]
        return np.searchsorted(edges, self.confidence, side="left")

    @cached_property
    def ranks(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The ranking of the rows for each class.

        Per class: the rows by falling probability, (N,) int64; whether each is of the class, (N,)
        bool; and the last place of each group of ties, (groups,) int64.
        """
        rankings = []
        for index in range(self.classes):
            order = np.argsort(-self.probabilities[:, index], kind="stable")
            values = self.probabilities[order, index]
            last = np.flatnonzero(np.append(np.diff(values) != 0, True))
            rankings.append((order, self.targets[order] == index, last))
        return rankings


def log_loss(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Compute minus the logarithm of the probability of the right class, (N,) float64."""
    right = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return np.asarray(-np.log(np.maximum(right, np.finfo(np.float32).tiny)))
