"""Statistics of two models that answered the same rows.

Pure functions of counts and NumPy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from ratchet import tango

RESAMPLES = 4000


class Answers(NamedTuple):
    """The classes that two models predict for the same rows, as indices.

    A prediction outside the classes of the targets is -1.
    """

    targets: np.ndarray  # (N,) int64
    champion: np.ndarray  # (N,) int64
    challenger: np.ndarray  # (N,) int64

    def at(self, rows: np.ndarray) -> Answers:
        """The answers to the rows that a mask, bool (N,), or indices, int64 (n,), select."""
        return Answers(self.targets[rows], self.champion[rows], self.challenger[rows])


class Estimate(NamedTuple):
    """The scores of both models and their difference, challenger less champion."""

    champion: float
    challenger: float
    difference: float
    low: float  # one-sided lower bound of the true difference
    high: float  # one-sided upper bound
    luck: float  # one-sided p-value of a loss this large if both models are equally good


def disagreements(answers: Answers) -> tuple[int, int]:
    """Rows that only the champion got right, and rows that only the challenger got right."""
    ours, theirs = answers.challenger == answers.targets, answers.champion == answers.targets
    return int((theirs & ~ours).sum()), int((ours & ~theirs).sum())


def mcnemar(fewer: int, more: int) -> float:
    """One-sided exact p-value of McNemar's test (Psychometrika 12, 1947).

    Two models disagree on `fewer + more` rows. If they are equally good, each of these rows falls
    to either like a fair coin. The result is the probability that one of them gets `more` or
    beyond.
    """
    total = fewer + more
    if total == 0:
        return 1.0
    logs = (
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        for k in range(more, total + 1)
    )
    return min(1.0, math.fsum(math.exp(log - total * math.log(2)) for log in logs))


def estimate(answers: Answers, metric: str, classes: np.ndarray, confidence: float) -> Estimate:
    """The difference in a metric on the same rows.

    For accuracy, the bounds are Tango's and `luck` is McNemar's exact test. For the other metrics,
    the bounds are the percentiles of a paired bootstrap with a fixed seed, and `luck` comes from
    its standard deviation.

    Args:
        answers: what both models predict.
        metric: "accuracy", "macro_recall" or "macro_f1".
        classes: indices of the classes that a macro metric averages over, int64 (C,).
        confidence: of each bound, 0 to 1.
    """
    score = METRICS[metric]
    cells, counts = np.unique(np.stack(answers, axis=1), axis=0, return_counts=True)
    grouped = Answers(*cells.T)
    theirs = float(score(grouped.targets, grouped.champion, counts[None], classes)[0])
    ours = float(score(grouped.targets, grouped.challenger, counts[None], classes)[0])
    if metric == "accuracy":
        lost, won = disagreements(answers)
        low, high = tango.interval(lost, won, len(answers.targets), confidence)
        luck = mcnemar(won, lost)
    else:
        draws = np.random.default_rng(0).multinomial(
            counts.sum(), counts / counts.sum(), size=RESAMPLES
        )
        champion = score(grouped.targets, grouped.champion, draws, classes)
        challenger = score(grouped.targets, grouped.challenger, draws, classes)
        low, high = np.quantile(challenger - champion, [1 - confidence, confidence])
        reach = _reach(answers.targets, classes, confidence)
        low, high = min(low, ours - theirs - reach), max(high, ours - theirs + reach)
        spread = float(np.std(challenger - champion))
        luck = NormalDist().cdf((ours - theirs) / spread) if spread else 1.0
    return Estimate(theirs, ours, ours - theirs, float(low), float(high), luck)


def _reach(targets: np.ndarray, classes: np.ndarray, confidence: float) -> float:
    """The smallest distance of a bound from the estimate of a mean over classes.

    A bootstrap alone is too sure: resamples of rows on which the models agree never differ. An
    unseen loss weighs most in the smallest class, so this is the bound if every class had as few
    rows.
    """
    rows = np.bincount(targets)
    rows = rows[classes[classes < len(rows)]]
    rows = rows[rows > 0]
    if not len(rows):
        return 1.0
    return tango.detectable(float(len(rows) * rows.min()), confidence, 0.0)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Correct p-values for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = least
    return corrected


# The metrics count cells: rows with the same target and the same predictions of both models.
# `targets` and `answers` are int64 (cells,), `counts` is how often each cell occurs in each of B
# resamples, int64 (B, cells).


def accuracy(
    targets: np.ndarray, answers: np.ndarray, counts: np.ndarray, _classes: np.ndarray
) -> np.ndarray:
    """Share of correct answers, float64 (B,)."""
    return np.asarray(counts @ (answers == targets) / counts.sum(axis=1))


def macro_recall(
    targets: np.ndarray, answers: np.ndarray, counts: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Mean recall over the `classes` that have rows, float64 (B,)."""
    right, support, _ = _tallies(targets, answers, counts, classes)
    recalls = right / np.maximum(support, 1)  # 0 for a class without rows
    return np.asarray(recalls.sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1))


def macro_f1(
    targets: np.ndarray, answers: np.ndarray, counts: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Mean F1 over the `classes` that have rows, float64 (B,)."""
    right, support, predicted = _tallies(targets, answers, counts, classes)
    f1 = 2 * right / np.maximum(support + predicted, 1)  # 0 for a class without rows
    return np.asarray(f1.sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "accuracy": accuracy,
    "macro_recall": macro_recall,
    "macro_f1": macro_f1,
}


def _tallies(
    targets: np.ndarray, answers: np.ndarray, counts: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct answers, rows, and answers of each of the `classes`, int64 (B, classes) each."""
    true = targets[:, None] == classes  # bool (cells, classes)
    predicted = answers[:, None] == classes  # bool (cells, classes)
    return counts @ (true & predicted), counts @ true, counts @ predicted
