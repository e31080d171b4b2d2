"""Metrics of predictions, with bootstrap intervals.

The code is plain numpy, because importing torchmetrics takes 4.8 s on two cores, longer than
scoring 10,000 images, and torchmetrics would run once per resample. The tests compare every metric
with scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ratchet.errors import DataError
from ratchet.evaluation.scored import BINS, TOP, Scored

CONFIDENCE = 0.95  # of every interval
# Above this many rows · classes · resamples, the ranking metrics get no intervals, which would take
# minutes.
RANKED_LIMIT = 2 * 10**9
SLICE_LIMIT = 100  # values of a slice column

Figures = dict[str, Any]
# Per slice column: its values, and for each row the index of its value, (N,) int64.
Codes = Mapping[str, tuple[list[str], np.ndarray]]


def summary(
    targets: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    slices: Mapping[str, Sequence[Any]] | None = None,
    resamples: int = 0,
) -> Figures:
    """Compute the content of `reports/metrics.json`.

    Args:
        targets: (N,) int64.
        probabilities: (N, classes) float32.
        classes: the names of the classes.
        slices: per column, its value in each of the N rows.
        resamples: resamples of the bootstrap, 0 for no intervals.

    Returns:
        The metrics, and under `intervals` the same structure with [low, high] for each metric.

    Raises:
        DataError: there are no rows, some probabilities are not finite, or a slice column has too
            many values.
    """
    if not len(targets):
        raise DataError("there are no rows to score")
    bad = np.flatnonzero(~np.isfinite(probabilities).all(1))
    if len(bad):
        raise DataError(
            f"the probabilities of {len(bad)} of {len(targets)} rows are not finite, first in row "
            f"{bad[0]}"
        )
    scored = Scored(targets, probabilities, len(classes))
    codes = {column: _codes(column, values) for column, values in (slices or {}).items()}
    once = np.ones(len(targets), np.int64)
    figures = {"rows": len(targets), **_figures(scored, once, classes, codes, ranked=True)}
    if resamples:
        ranked = len(targets) * len(classes) * resamples <= RANKED_LIMIT
        random = np.random.default_rng(0)
        samples = [
            _figures(scored, _draw(random, len(targets)), classes, codes, ranked)
            for _ in range(resamples)
        ]
        figures["intervals"] = _intervals(samples)
    return {key: _rounded(value) for key, value in figures.items()}


def _figures(
    scored: Scored, weights: np.ndarray, classes: Sequence[str], slices: Codes, ranked: bool
) -> Figures:
    """Compute all metrics of rows that count `weights` times each."""
    total = weights.sum()
    matrix = _confusion(scored.targets, scored.predictions, scored.classes, weights)
    rows = per_class(matrix, classes)
    areas = [_areas(rank, weights) if ranked else (None, None) for rank in scored.ranks]
    for row, (auroc, precision) in zip(rows.values(), areas, strict=True):
        row |= {"auroc": auroc, "average_precision": precision}
    return {
        "loss": weights @ scored.loss / total,
        "accuracy": np.trace(matrix) / total,
        "top5": weights @ scored.in_top / total if scored.classes > TOP else None,
        "ece": float(np.abs(_gaps(scored, weights)).sum() / total),
        "precision": _mean(row["precision"] for row in rows.values()),
        "recall": _mean(row["recall"] for row in rows.values()),
        "f1": _mean(row["f1"] for row in rows.values()),
        "auroc": _mean(auroc for auroc, _ in areas),
        "average_precision": _mean(precision for _, precision in areas),
        "per_class": rows,
        "slices": {column: _by_slice(scored, weights, *codes) for column, codes in slices.items()},
    }


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Count the rows of each true and predicted class.

    Args:
        targets: (N,) int64.
        predictions: (N,) int64.
        classes: number of classes.

    Returns:
        (classes, classes) int64; rows are the true classes, columns the predicted ones.
    """
    return _confusion(targets, predictions, classes, np.ones(len(targets), np.int64))


def _confusion(
    targets: np.ndarray, predictions: np.ndarray, classes: int, weights: np.ndarray
) -> np.ndarray:
    cells = np.bincount(targets * classes + predictions, weights, classes * classes)
    return np.asarray(cells.reshape(classes, classes).astype(np.int64))


def per_class(matrix: np.ndarray, classes: Sequence[str]) -> dict[str, Figures]:
    """Compute precision, recall, F1 and number of rows of each class; 0 instead of 0/0.

    Args:
        matrix: (classes, classes) int64, as `confusion` returns it.
        classes: the names of the classes.
    """
    right, support, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    precision = right / np.maximum(predicted, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + predicted, 1)
    return {
        name: {
            "precision": precision[index],
            "recall": recall[index],
            "f1": f1[index],
            "support": int(support[index]),
        }
        for index, name in enumerate(classes)
    }


def reliability(targets: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Compute mean confidence, accuracy and number of rows of each bin that has rows.

    Args:
        targets: (N,) int64.
        probabilities: (N, classes) float32.
    """
    scored = Scored(targets, probabilities, probabilities.shape[1])
    counts = np.bincount(scored.bins, minlength=BINS)
    confidence = np.bincount(scored.bins, scored.confidence, BINS)
    right = np.bincount(scored.bins, scored.right, BINS)
    return [
        {"confidence": confidence[bin] / count, "accuracy": right[bin] / count, "rows": int(count)}
        for bin, count in enumerate(counts)
        if count
    ]


def _gaps(scored: Scored, weights: np.ndarray) -> np.ndarray:
    """Sum confidence minus accuracy over the rows of each bin, (BINS,) float64.

    The expected calibration error is the mean of the absolute values (Guo et al., 2017,
    arXiv:1706.04599).
    """
    return np.bincount(scored.bins, weights * (scored.confidence - scored.right), BINS)


def _areas(
    rank: tuple[np.ndarray, np.ndarray, np.ndarray], weights: np.ndarray
) -> tuple[float | None, float | None]:
    """Compute the area under the ROC curve and the average precision of a class against the rest.

    Both are None if there are no rows of the class, or no other rows.
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
    """Return the sorted names of the values, and the index of each row's value."""
    labels = np.array(["missing" if value is None else str(value) for value in values], object)
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    if len(names) > SLICE_LIMIT:
        raise DataError(
            f"evaluate.slices: {column} has {len(names)} values; "
            f"choose columns with at most {SLICE_LIMIT}"
        )
    return names.tolist(), codes


def _by_slice(
    scored: Scored, weights: np.ndarray, names: list[str], codes: np.ndarray
) -> dict[str, Figures]:
    """Compute rows, accuracy and loss of each value of a slice column."""
    rows = np.bincount(codes, weights, len(names))
    divisor = np.maximum(rows, 1)  # a resample may have no rows of a value
    accuracy = np.bincount(codes, weights * scored.right, len(names)) / divisor
    loss = np.bincount(codes, weights * scored.loss, len(names)) / divisor
    return {
        name: {"rows": int(rows[index]), "accuracy": accuracy[index], "loss": loss[index]}
        for index, name in enumerate(names)
    }


def _draw(random: np.random.Generator, rows: int) -> np.ndarray:
    """Draw a resample; return how often it contains each row, (rows,) int64."""
    return np.bincount(random.integers(rows, size=rows), minlength=rows)


def _mean(values: Any) -> float | None:
    """Average the values that are not None."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _intervals(samples: Sequence[Any]) -> Any:
    """Return the percentile interval of each metric over the resamples.

    The result has the structure of a sample, without the counts.
    """
    if isinstance(samples[0], dict):
        keys = [key for key in samples[0] if key not in ("support", "rows")]
        return {key: _intervals([sample[key] for sample in samples]) for key in keys}
    numbers = [value for value in samples if value is not None]
    if not numbers:
        return None
    return np.quantile(numbers, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()


def _rounded(value: Any) -> Any:
    """Round every number in `value` to six decimal places."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(float(value), 6) if isinstance(value, float) else value
