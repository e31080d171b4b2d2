"""Histograms with fixed bins, so that shards can be added up and versions can be compared.

A bin is a sign and an eighth of an octave of the absolute value, so each bound is 9 % above the one
before. Bins are numbered in the order of their values, and bin 0 is zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

STEPS = 8  # bins per octave
LOWEST = -64  # the lowest octave; smaller absolute values count as zero


def count(values: np.ndarray) -> Counter[int]:
    """Count the finite numbers among `values`, of any shape and dtype, by bin."""
    finite = np.asarray(values, np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    size = np.maximum(np.abs(finite), 2.0**LOWEST)
    octave = np.floor(STEPS * (np.log2(size) - LOWEST)) + 1
    bins = np.where(np.abs(finite) < 2.0**LOWEST, 0, np.sign(finite) * octave).astype(np.int64)
    indices, counts = np.unique(bins, return_counts=True)
    return Counter(dict(zip(indices.tolist(), counts.tolist(), strict=True)))


def middle(index: int) -> float:
    """The geometric middle of a bin."""
    if index == 0:
        return 0.0
    return math.copysign(2.0 ** (LOWEST + (abs(index) - 0.5) / STEPS), index)


def quantiles(
    bins: Mapping[int, int], at: tuple[float, ...] = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
) -> list[float]:
    """Estimate quantiles by the middles of the bins that contain them, to three digits.

    Args:
        bins: counts by bin.
        at: the quantiles, 0 to 1.

    Returns:
        One value per quantile, or an empty list if there are no values.
    """
    if not bins:
        return []
    order = sorted(bins)
    below = np.cumsum([bins[index] for index in order])
    places = np.searchsorted(below, np.array(at) * below[-1])
    return [float(f"{middle(order[min(place, len(order) - 1)]):.3g}") for place in places]


def added(counts: list[Mapping[str, int]]) -> dict[str, int]:
    """Add up counts by key."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(total)
