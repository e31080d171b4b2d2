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
    """Class indices per row, int64 (N,) each: what is right, what the champion said, what the challenger said.

    An answer outside the classes of the targets is -1.
    """

    targets: np.ndarray
    champion: np.ndarray
    challenger: np.ndarray

    def at(self, rows: np.ndarray) -> Answers:
        """The answers to some rows only, by a mask or by indices."""
        return Answers(self.targets[rows], self.champion[rows], self.challenger[rows])


class Estimate(NamedTuple):
    """Challenger less champion; `low` and `high` bound the true difference, each from one side.

    `luck` is the one-sided p-value of a loss this large where both are equally good: small if it is
    not bad luck.
    """

    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    luck: float


def disagreements(answers: Answers) -> tuple[int, int]:
    """Rows that only the champion got right, and rows that only the challenger got right."""
    ours, theirs = answers.challenger == answers.targets, answers.champion == answers.targets
    return int((theirs & ~ours).sum()), int((ours & ~theirs).sum())


def mcnemar(fewer: int, more: int) -> float:
    """One-sided exact p-value of McNemar's test (Psychometrika 12, 1947): that `more` is this large by chance.

    Of `fewer + more` rows on which two models disagree, half would fall to each if they were
    equally good.
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
    """The difference in `metric` ("accuracy", "macro_recall", "macro_f1") on the same rows.

    For accuracy, the bounds are Tango's and `luck` is McNemar's exact test. For the other metrics,
    the bounds are the percentiles of a paired bootstrap (seeded: the same input gives the same
    bounds) and `luck` comes from its standard deviation.

    Args:
        classes: indices of the classes that a macro metric is the mean of.
    """
    of = METRICS[metric]
    cells, counts = np.unique(np.stack(answers, axis=1), axis=0, return_counts=True)
    grouped = Answers(*cells.T)
    theirs, ours = (
        float(of(grouped.targets, said, counts[None], classes)[0]) for said in grouped[1:]
    )
    if metric == "accuracy":
        lost, won = disagreements(answers)
        low, high = tango.interval(lost, won, len(answers.targets), confidence)
        luck = mcnemar(won, lost)
    else:
        draws = np.random.default_rng(0).multinomial(
            counts.sum(), counts / counts.sum(), size=RESAMPLES
        )
        before, after = (of(grouped.targets, said, draws, classes) for said in grouped[1:])
        low, high = np.quantile(after - before, [1 - confidence, confidence])
        reach = _reach(answers.targets, classes, confidence)
        low, high = min(low, ours - theirs - reach), max(high, ours - theirs + reach)
        spread = float(np.std(after - before))
        luck = NormalDist().cdf((ours - theirs) / spread) if spread else 1.0
    return Estimate(theirs, ours, ours - theirs, float(low), float(high), luck)


def _reach(targets: np.ndarray, classes: np.ndarray, confidence: float) -> float:
    """How far a mean over classes may be off at least: resamples of rows that do not differ never differ.

    An unseen loss weighs most in the smallest class, so this is the bound for as many rows of each
    class as that has.
    """
    rows = np.bincount(targets)
    rows = rows[classes[classes < len(rows)]]
    rows = rows[rows > 0]
    return tango.detectable(float(len(rows) * rows.min()), confidence, 0.0) if len(rows) else 1.0


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """P-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = least
    return corrected


def accuracy(
    targets: np.ndarray, said: np.ndarray, counts: np.ndarray, _classes: np.ndarray
) -> np.ndarray:
    """Share of rows answered rightly, float64 (B,).

    `counts` (B, cells) is how often each cell stands in each resample.
    """
    return np.asarray(counts @ (said == targets) / counts.sum(axis=1))


def macro_recall(
    targets: np.ndarray, said: np.ndarray, counts: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Mean over the `classes` that have rows of the share of their rows answered rightly, float64 (B,)."""
    right, support, _ = _tallies(targets, said, counts, classes)
    return np.asarray(
        (right / np.maximum(support, 1)).sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1)
    )


def macro_f1(
    targets: np.ndarray, said: np.ndarray, counts: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Mean F1 over the `classes` that have rows, float64 (B,)."""
    right, support, predicted = _tallies(targets, said, counts, classes)
    f1 = 2 * right / np.maximum(support + predicted, 1)  # 0 for a class without rows
    return np.asarray(f1.sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "accuracy": accuracy,
    "macro_recall": macro_recall,
    "macro_f1": macro_f1,
}


def _tallies(
    targets: np.ndarray, said: np.ndarray, counts: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows answered rightly, rows, and answers of each of the `classes`, int64 (B, classes) each."""
    true, predicted = (values[:, None] == classes for values in (targets, said))
    return counts @ (true & predicted), counts @ true, counts @ predicted
