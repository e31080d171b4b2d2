"""Every figure agrees with scikit-learn's; intervals cover.

What makes no sense is null or an error.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from ratchet.errors import DataError
from ratchet.evaluation import metrics


def case(seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Random answers; every third case has ties, every fourth lacks a class among the rows."""
    random = np.random.default_rng(seed)
    classes, rows = int(random.integers(2, 9)), int(random.integers(20, 200))
    targets = random.integers(0, classes - (seed % 4 == 0 and classes > 2), rows)
    scores = random.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[targets]
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    if seed % 3 == 0:
        shares = np.round(shares * 8 + 0.5) / np.round(shares * 8 + 0.5).sum(1, keepdims=True)
    return targets, shares.astype(np.float32), [f"c{n}" for n in range(classes)]


@pytest.mark.parametrize("seed", range(100))
def test_figures_agree_with_scikit_learn(seed: int) -> None:
    targets, shares, names = case(seed)
    found = metrics.summary(targets, shares, names)
    said, known = shares.argmax(1), range(len(names))
    close = lambda value: pytest.approx(value, abs=1.01e-6)  # noqa: E731
    assert found["accuracy"] == close(sk.accuracy_score(targets, said))
    assert found["loss"] == close(
        -np.log(shares[np.arange(len(targets)), targets].astype(float)).mean()
    )
    p, r, f, s = sk.precision_recall_fscore_support(targets, said, labels=known, zero_division=0)
    for index, name in enumerate(names):
        row, own = found["per_class"][name], targets == index
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == close(
            [p[index], r[index], f[index], s[index]]
        )
        if 0 < own.sum() < len(own):
            assert row["auroc"] == close(sk.roc_auc_score(own, shares[:, index]))
            assert row["average_precision"] == close(
                sk.average_precision_score(own, shares[:, index])
            )
        else:
            assert row["auroc"] is None
    assert [found["precision"], found["recall"], found["f1"]] == close(
        [p.mean(), r.mean(), f.mean()]
    )
    if len(names) > 5 and seed % 3:
        assert found["top5"] == close(sk.top_k_accuracy_score(targets, shares, k=5, labels=known))
    assert (
        metrics.confusion(targets, said, len(names)).tolist()
        == sk.confusion_matrix(targets, said, labels=known).tolist()
    )


def test_calibration_error_by_hand() -> None:
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], np.float32)
    found = metrics.summary(np.array([0, 1, 1, 1]), shares, ["a", "b"])
    assert found["ece"] == pytest.approx((2 * 0.4 + 2 * 0.4) / 4, abs=1e-6)
    assert [part["rows"] for part in metrics.reliability(np.array([0, 1, 1, 1]), shares)] == [2, 2]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        right = random.random(300) < 0.8
        shares = np.where(right[:, None], [[0.2, 0.8]], [[0.8, 0.2]]).astype(np.float32)
        low, high = metrics.summary(np.ones(300, np.int64), shares, ["a", "b"], resamples=200)[
            "intervals"
        ]["accuracy"]
        hits += low <= 0.8 <= high
    assert hits >= 51


def test_intervals_have_the_shape_of_the_figures_and_are_stable() -> None:
    targets, shares, names = case(7)
    slices = {"side": ["left", None] * (len(targets) // 2) + ["left"] * (len(targets) % 2)}
    once, again = (
        metrics.summary(targets, shares, names, slices=slices, resamples=20) for _ in range(2)
    )
    assert json.dumps(once) == json.dumps(again)
    assert once["intervals"]["per_class"][names[0]].keys() == once["per_class"][names[0]].keys() - {
        "support"
    }
    assert once["slices"]["side"].keys() == {"left", "missing"}
    low, high = once["intervals"]["slices"]["side"]["left"]["accuracy"]
    assert low <= once["slices"]["side"]["left"]["accuracy"] <= high


def test_constant_predictions_divide_by_nothing() -> None:
    shares = np.tile(np.array([[1, 0, 0]], np.float32), (4, 1))
    found = metrics.summary(np.array([0, 0, 1, 1]), shares, ["a", "b", "c"], resamples=5)
    assert found["per_class"]["b"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 2,
        "auroc": 0.5,
        "average_precision": 0.5,
    }
    assert np.isfinite(found["loss"])


def test_what_cannot_be_scored_is_an_error() -> None:
    good = np.full((3, 2), 0.5, np.float32)
    bad = good.copy()
    bad[1] = np.nan
    with pytest.raises(
        DataError, match="the probabilities of 1 of 3 rows are not finite, first in row 1"
    ):
        metrics.summary(np.zeros(3, np.int64), bad, ["a", "b"])
    with pytest.raises(DataError, match="there are no rows to score"):
        metrics.summary(np.zeros(0, np.int64), good[:0], ["a", "b"])
    with pytest.raises(
        DataError, match=r"evaluate\.slices: id has 101 values; choose columns with at most 100"
    ):
        metrics.summary(
            np.zeros(101, np.int64),
            np.tile(good[:1], (101, 1)),
            ["a", "b"],
            slices={"id": range(101)},
        )
