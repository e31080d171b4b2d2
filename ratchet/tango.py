"""Tango's score interval for the difference in accuracy of two models on the same rows.

Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design" (Statistics in Medicine 17, 1998). It holds for few rows and even without any
disagreement, where a bootstrap would call every difference certain.

These are pure functions of counts, which may be fractional.
"""

from __future__ import annotations

import math
from statistics import NormalDist

MOST_ROWS = 10**9  # `rows_for` tries no more


def interval(lost: float, won: float, rows: float, confidence: float) -> tuple[float, float]:
    """One-sided lower and upper bounds of `(won - lost) / rows`.

    Args:
        lost: rows that only the champion got right.
        won: rows that only the challenger got right.
        rows: all rows.
        confidence: of each bound, 0 to 1.
    """
    return lower(lost, won, rows, confidence), -lower(won, lost, rows, confidence)


def lower(lost: float, won: float, rows: float, confidence: float) -> float:
    """The lower bound of `interval` alone."""
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, (won - lost) / rows
    for _ in range(48):  # the score falls as the difference grows, and is z at the bound
        middle = (low + high) / 2
        if score(lost, won, rows, middle) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def p_fallen(lost: float, won: float, rows: float, margin: float) -> float:
    """One-sided p-value of the hypothesis that the loss is at most `margin`."""
    return NormalDist().cdf(score(lost, won, rows, -margin))


def score(lost: float, won: float, rows: float, delta: float) -> float:
    """Tango's test statistic for the hypothesis that the difference is `delta`."""
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
    """The smallest difference in accuracy that test rows can show, 0 to 1.

    Two models that get equally many rows right are known to be no further apart than this, so it is
    the smallest margin at which the gate can call them equally good.

    Args:
        rows: the number of test rows.
        confidence: 0 to 1.
        disagreement: the share of rows that exactly one of the two models gets right, 0 to 1.
    """
    if rows <= 0:
        return 1.0
    changed = disagreement * rows / 2
    return -lower(changed, changed, rows, confidence)


def rows_for(difference: float, confidence: float, disagreement: float) -> int | None:
    """The fewest rows that can show `difference`; arguments as for `detectable`.

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
