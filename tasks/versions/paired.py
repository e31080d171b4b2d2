"""Statistics of two models that answered the same rows. Pure functions of counts and NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

RESAMPLES = 4000


class Answers(NamedTuple):
    """Class indices per row, int64 (N,) each: what is right, what the champion said, what the challenger said.

    An answer that is no class of the targets is -1.
    """

    targets: np.ndarray
    champion: np.ndarray
    challenger: np.ndarray

    def at(self, rows: np.ndarray) -> Answers:
        """The answers to some rows only, by a mask or by indices."""
        return Answers(self.targets[rows], self.champion[rows], self.challenger[rows])


class Estimate(NamedTuple):
    """Challenger less champion; `low` and `high` bound the true difference, each from one side.

    `luck` is the one-sided p-value of a loss this large where both are equally good: small if it is no bad luck.
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

    Of `fewer + more` rows on which two models disagree, half would fall to each if they were equally good.
    """
    total = fewer + more
    if total == 0:
        return 1.0
    logs = (math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(more, total + 1))
    return min(1.0, math.fsum(math.exp(log - total * math.log(2)) for log in logs))


def tango(lost: int, won: int, rows: int, confidence: float) -> tuple[float, float]:
    """One-sided lower and upper bounds of `(won - lost) / rows`, at `confidence` each.

    Tango's score interval (Statistics in Medicine 17, 1998): right for few rows and for no disagreement at all, where
    a bootstrap would call any difference certain.
    """
    z = NormalDist().inv_cdf(confidence)
    seen = (won - lost) / rows
    # score() falls as the difference supposed grows: +z at the lower bound, -z at the upper
    low = _crossing(lambda delta: score(lost, won, rows, delta) - z, -1.0, seen)
    high = _crossing(lambda delta: score(lost, won, rows, delta) + z, seen, 1.0)
    return low, high


def p_fallen(lost: int, won: int, rows: int, margin: float) -> float:
    """One-sided p-value of Tango's test that the difference is no further below zero than `margin`."""
    return NormalDist().cdf(score(lost, won, rows, -margin))


def score(lost: int, won: int, rows: int, delta: float) -> float:
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


def estimate(answers: Answers, metric: str, classes: np.ndarray, confidence: float) -> Estimate:
    """The difference in `metric` ("accuracy", "macro_recall", "macro_f1") on the same rows.

    Bounds are Tango's for accuracy, and a paired bootstrap's percentiles (seeded: the same input, the same answer) else;
    `luck` is McNemar's exact test for accuracy, and by the bootstrap's standard deviation else.

    Args:
        classes: indices of the classes that a macro metric is the mean of.
    """
    of = METRICS[metric]
    cells, counts = np.unique(np.stack(answers, axis=1), axis=0, return_counts=True)
    grouped = Answers(*cells.T)
    theirs, ours = (float(of(grouped.targets, said, counts[None], classes)[0]) for said in grouped[1:])
    if metric == "accuracy":
        lost, won = disagreements(answers)
        low, high = tango(lost, won, len(answers.targets), confidence)
        luck = mcnemar(won, lost)
    else:
        draws = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
        before, after = (of(grouped.targets, said, draws, classes) for said in grouped[1:])
        low, high = np.quantile(after - before, [1 - confidence, confidence])
        spread = float(np.std(after - before))
        luck = NormalDist().cdf((ours - theirs) / spread) if spread else 1.0
    return Estimate(theirs, ours, ours - theirs, float(low), float(high), luck)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """P-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected: dict[str, float] = {}
    least = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        least = max(least, min(1.0, p * (len(p_values) - rank)))
        corrected[name] = least
    return corrected


def accuracy(targets: np.ndarray, said: np.ndarray, counts: np.ndarray, classes: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Share of rows answered rightly, float64 (B,); `counts` (B, cells) is how often each cell stands in each resample."""
    return np.asarray(counts @ (said == targets) / counts.sum(axis=1))


def macro_recall(targets: np.ndarray, said: np.ndarray, counts: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mean over the `classes` that have rows of the share of their rows answered rightly, float64 (B,)."""
    right, support, _ = _tallies(targets, said, counts, classes)
    return np.asarray((right / np.maximum(support, 1)).sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1))


def macro_f1(targets: np.ndarray, said: np.ndarray, counts: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mean F1 over the `classes` that have rows, float64 (B,)."""
    right, support, predicted = _tallies(targets, said, counts, classes)
    f1 = 2 * right / np.maximum(support + predicted, 1) * (support > 0)
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


def _crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between `low` and `high`."""
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
