"""Histograms whose bins do not depend on the data, so that those of shards add up and those of versions compare.

A number's bin is its sign and an eighth of an octave of its size: bounds grow by 9 %. Bins are
whole numbers in the order of the values; 0 is zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

STEPS = 8  # in an octave
LOWEST = -64  # octave; anything closer to zero is zero


def count(values: np.ndarray) -> Counter[int]:
    """Bins of the finite numbers among `values`, of any shape and dtype."""
    finite = np.asarray(values, np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    size = np.maximum(np.abs(finite), 2.0**LOWEST)
    octave = np.floor(STEPS * (np.log2(size) - LOWEST)) + 1
    bins = np.where(np.abs(finite) < 2.0**LOWEST, 0, np.sign(finite) * octave).astype(np.int64)
    return Counter(
        dict(zip(*(part.tolist() for part in np.unique(bins, return_counts=True)), strict=True))
    )


def middle(index: int) -> float:
    """A value within a bin."""
    return 0.0 if index == 0 else math.copysign(2.0 ** (LOWEST + (abs(index) - 0.5) / STEPS), index)


def quantiles(
    bins: Mapping[int, int], at: tuple[float, ...] = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
) -> list[float]:
    """The middles of the bins in which these shares of the values end.

    Empty if there is no value.
    """
    order = sorted(bins)
    below = np.cumsum([bins[index] for index in order])
    places = np.searchsorted(below, np.array(at) * (below[-1] if len(below) else 0))
    return (
        [float(f"{middle(order[min(place, len(order) - 1)]):.3g}") for place in places]
        if order
        else []
    )


def added(counts: list[Mapping[str, int]]) -> dict[str, int]:
    """Counts added up by key."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
