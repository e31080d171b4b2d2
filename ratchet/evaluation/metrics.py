"""How good predictions are, with bootstrap intervals.

Plain numpy: importing torchmetrics takes 4.8 s on two cores, longer than scoring 10,000 images, and
it would have to run once per resample. tests/evaluation/test_metrics.py compares every figure with
scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ratchet.errors import DataError

BINS = 15  # of the reliability diagram and the calibration error
TOP = 5
CONFIDENCE = 0.95  # of every interval
RANKED_LIMIT = (
    2 * 10**9
)  # rows · classes · resamples beyond which the ranking metrics get no interval: minutes of work
SLICE_LIMIT = 100  # values of a slice column

Figures = dict[str, Any]
Codes = Mapping[
    str, tuple[list[str], np.ndarray]
]  # per slice column: its values, and which of them each row has


def summary(
    targets: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    slices: Mapping[str, Sequence[Any]] | None = None,
    resamples: int = 0,
) -> Figures:
    """The content of `reports/metrics.json`: figures, and `intervals` of the same shape with [low, high] in their place.

    Args:
        targets: (N,) int64.
        probabilities: (N, classes) float32.
        slices: per column, its value in each of the N rows.
        resamples: of the bootstrap, 0 for no intervals.

    Raises:
        DataError: there are no rows, probabilities that are no numbers, or a slice column with too
            many values.
    """
    if not len(targets):
        raise DataError("there are no rows to score")
    wrong = np.flatnonzero(~np.isfinite(probabilities).all(1))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(targets)} rows got probabilities that are no numbers, row"
            f" {wrong[0]} first"
        )
    scored = Scored(targets, probabilities, len(classes))
    codes = {column: _codes(column, values) for column, values in (slices or {}).items()}
    whole = np.ones(len(targets), np.int64)
    found = _figures(scored, whole, classes, codes, ranked=True)
    if resamples:
        ranked = len(targets) * len(classes) * resamples <= RANKED_LIMIT
        random = np.random.default_rng(0)
        drawn = [
            _figures(scored, _draw(random, len(targets)), classes, codes, ranked)
            for _ in range(resamples)
        ]
        found["intervals"] = _intervals(drawn)
    return {key: _rounded(value) for key, value in {"rows": len(targets), **found}.items()}


@dataclass(frozen=True)
class Scored:
    """What is computed once, whatever the resample."""

    targets: np.ndarray  # (N,)
    probabilities: np.ndarray  # (N, classes)
    classes: int

    @cached_property
    def said(self) -> np.ndarray:
        return np.asarray(self.probabilities.argmax(1))

    @cached_property
    def right(self) -> np.ndarray:
        return np.asarray(self.said == self.targets)

    @cached_property
    def loss(self) -> np.ndarray:
        """(N,) float64: minus the logarithm of the probability given to the right class."""
        return log_loss(self.targets, self.probabilities)

    @cached_property
    def in_top(self) -> np.ndarray:
        own = self.probabilities[np.arange(len(self.targets)), self.targets]
        return np.asarray((self.probabilities > own[:, None]).sum(1) < TOP)

    @cached_property
    def confidence(self) -> np.ndarray:
        return np.asarray(self.probabilities.max(1).astype(np.float64))

    @cached_property
    def bins(self) -> np.ndarray:
        """(N,): which part of 0 to 1 the confidence lies in; each takes its upper end."""
        edges = np.linspace(0, 1, BINS + 1)[1:-1]
        return np.searchsorted(edges, self.confidence, side="left")

    @cached_property
    def ranks(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Per class: rows by falling probability, whether each is of the class, and the last place of each tie."""
        found = []
        for index in range(self.classes):
            order = np.argsort(-self.probabilities[:, index], kind="stable")
            values = self.probabilities[order, index]
            found.append(
                (
                    order,
                    self.targets[order] == index,
                    np.flatnonzero(np.append(np.diff(values) != 0, True)),
                )
            )
        return found


def _figures(
    scored: Scored, weights: np.ndarray, classes: Sequence[str], slices: Codes, ranked: bool
) -> Figures:
    """All figures of rows that count `weights` times each."""
    total = weights.sum()
    matrix = _confusion(scored.targets, scored.said, scored.classes, weights)
    each = per_class(matrix, classes)
    areas = [_areas(rank, weights) if ranked else (None, None) for rank in scored.ranks]
    for row, (auroc, precision) in zip(each.values(), areas, strict=True):
        row |= {"auroc": auroc, "average_precision": precision}
    return {
        "loss": weights @ scored.loss / total,
        "accuracy": np.trace(matrix) / total,
        "top5": weights @ scored.in_top / total if scored.classes > TOP else None,
        "ece": float(np.abs(_gaps(scored, weights)).sum() / total),
        **{
            name: _mean(row[name] for row in each.values())
            for name in ("precision", "recall", "f1")
        },
        "auroc": _mean(auroc for auroc, _ in areas),
        "average_precision": _mean(precision for _, precision in areas),
        "per_class": each,
        "slices": {column: _by_slice(scored, weights, *codes) for column, codes in slices.items()},
    }


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) int64: rows are the true classes, columns the predicted ones."""
    return _confusion(targets, predictions, classes, np.ones(len(targets), np.int64))


def _confusion(
    targets: np.ndarray, predictions: np.ndarray, classes: int, weights: np.ndarray
) -> np.ndarray:
    cells = np.bincount(targets * classes + predictions, weights, classes * classes)
    return np.asarray(cells.reshape(classes, classes).astype(np.int64))


def log_loss(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,) float64: minus the logarithm of the probability given to the right class."""
    right = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return np.asarray(-np.log(np.maximum(right, np.finfo(np.float32).tiny)))


def per_class(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Figures]:
    """Precision, recall, F1 and rows of each class; 0 where they divide by nothing."""
    right, support, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    columns = (right / np.maximum(predicted, 1), right / np.maximum(support, 1))
    f1 = 2 * right / np.maximum(support + predicted, 1)
    rows = zip(classes, *columns, f1, support, strict=True)
    return {
        name: {"precision": p, "recall": r, "f1": f, "support": int(s)} for name, p, r, f, s in rows
    }


def reliability(targets: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Per part of 0 to 1 that has rows: mean confidence, accuracy, rows."""
    scored = Scored(targets, probabilities, probabilities.shape[1])
    counts = np.bincount(scored.bins, minlength=BINS)
    sure, right = (
        np.bincount(scored.bins, values, BINS) for values in (scored.confidence, scored.right)
    )
    return [
        {"confidence": sure[part] / count, "accuracy": right[part] / count, "rows": int(count)}
        for part, count in enumerate(counts)
        if count
    ]


def _gaps(scored: Scored, weights: np.ndarray) -> np.ndarray:
    """(BINS,): confidence less accuracy, summed over the rows of each bin (Guo et al., 2017, arXiv:1706.04599)."""
    return np.bincount(scored.bins, weights * (scored.confidence - scored.right), BINS)


def _areas(
    rank: tuple[np.ndarray, np.ndarray, np.ndarray], weights: np.ndarray
) -> tuple[float | None, float | None]:
    """Area under the ROC curve and average precision of one class against the rest.

    None where one of both is missing.
    """
    order, own, last = rank
    counts = weights[order]
    hits, rows = np.cumsum(counts * own)[last], np.cumsum(counts)[last]
    misses = rows - hits
    if not hits[-1] or not misses[-1]:
        return None, None
    before_hits, before_misses = np.append(0, hits[:-1]), np.append(0, misses[:-1])
    auroc = ((misses - before_misses) * (hits + before_hits)).sum() / (2 * hits[-1] * misses[-1])
    average = ((hits - before_hits) * hits / np.maximum(rows, 1)).sum() / hits[-1]
    return float(auroc), float(average)


def _codes(column: str, values: Sequence[Any]) -> tuple[list[str], np.ndarray]:
    named = np.array(["missing" if value is None else str(value) for value in values], dtype=object)
    names, codes = np.unique(named.astype(str), return_inverse=True)
    if len(names) > SLICE_LIMIT:
        raise DataError(
            f"evaluate.slices: {column} has {len(names)} values; name columns with at most"
            f" {SLICE_LIMIT}"
        )
    return names.tolist(), codes


def _by_slice(
    scored: Scored, weights: np.ndarray, names: list[str], codes: np.ndarray
) -> dict[str, Figures]:
    parts = (weights, weights * scored.right, weights * scored.loss)
    rows, right, loss = (np.bincount(codes, part, len(names)) for part in parts)
    held = np.maximum(rows, 1)
    return {
        name: {"rows": int(rows[at]), "accuracy": right[at] / held[at], "loss": loss[at] / held[at]}
        for at, name in enumerate(names)
    }


def _draw(random: np.random.Generator, rows: int) -> np.ndarray:
    """How often each row comes in one resample."""
    return np.bincount(random.integers(rows, size=rows), minlength=rows)


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _intervals(drawn: Sequence[Any]) -> Any:
    """The middle `CONFIDENCE` of what the resamples gave, in the shape of one of them.

    Counts have none.
    """
    if isinstance(drawn[0], dict):
        keys = [key for key in drawn[0] if key not in ("support", "rows")]
        return {key: _intervals([each[key] for each in drawn]) for key in keys}
    known = [value for value in drawn if value is not None]
    return (
        np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist() if known else None
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(float(value), 6) if isinstance(value, float) else value
