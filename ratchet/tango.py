"""Tango's score interval: how far apart two models may be that answered the same rows.

Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design" (Statistics in Medicine 17, 1998). It is right for few rows and for no
disagreement at all, where a bootstrap would call any difference certain. Pure functions of counts;
counts may be fractional.
"""

from __future__ import annotations

import math
from statistics import NormalDist

MOST_ROWS = 10**9  # `rows_for` looks no further


def interval(lost: float, won: float, rows: float, confidence: float) -> tuple[float, float]:
    """One-sided lower and upper bounds of `(won - lost) / rows`, at `confidence` each.

    Args:
        lost: rows that only the champion answered right.
        won: rows that only the challenger answered right.
    """
    return lower(lost, won, rows, confidence), -lower(won, lost, rows, confidence)


def lower(lost: float, won: float, rows: float, confidence: float) -> float:
    """The lower bound of `interval` alone."""
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, (won - lost) / rows
    for _ in range(48):  # the score falls as the supposed difference grows, and is z at the bound
        middle = (low + high) / 2
        if score(lost, won, rows, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def p_fallen(lost: float, won: float, rows: float, margin: float) -> float:
    """One-sided p-value of Tango's test that the difference is no further below zero than `margin`."""
    return NormalDist().cdf(score(lost, won, rows, -margin))


def score(lost: float, won: float, rows: float, delta: float) -> float:
    """Tango's test statistic of the hypothesis that the difference is `delta`."""
    a = 2.0 * rows
    b = -(won + lost) + (2 * rows - (won - lost)) * delta
    c = -lost * delta * (1 - delta)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = rows * (2 * q + delta * (1 - delta))
    excess = won - lost - rows * delta
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def detectable(rows: float, confidence: float, disagreement: float) -> float:
    """The smallest difference that `rows` test rows can show at `confidence`, 0 to 1.

    Two models that answer equally many rows right are then known to be no further apart than this:
    it is the smallest margin at which the gate can call them equally good.

    Args:
        disagreement: share of the rows that one of two models answers right and the other wrong, 0
            to 1.
    """
    if rows <= 0:
        return 1.0
    changed = disagreement * rows / 2
    return -lower(changed, changed, rows, confidence)


def rows_for(difference: float, confidence: float, disagreement: float) -> int | None:
    """The fewest rows that can show `difference`.

    None if `MOST_ROWS` are too few, as for a difference of 0.
    """
    if detectable(MOST_ROWS, confidence, disagreement) > difference:
        return None
    low, high = 0, MOST_ROWS
    while high - low > 1:
        middle = (low + high) // 2
        if detectable(middle, confidence, disagreement) > difference:
            low = middle
        else:
            high = middle
    return high
