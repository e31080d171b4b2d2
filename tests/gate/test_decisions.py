from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from ratchet import params, tango
from ratchet.errors import VersionError
from ratchet.gate import decisions, judgement, policy, statistics
from ratchet.gate.decisions import Decision
from ratchet.gate.statistics import Answers

PARAMS = replace(
    params.load(Path(__file__).parents[2]).gate,
    min_accuracy=0.8,
    metric="accuracy",
    rule="no_worse",
    margin=0.005,
    confidence=0.95,
    min_slice=50,
    slice_margin=0.05,
    on_undecided="refuse",
    on_new_contract="refuse",
)
CLASSES = ("only",)


def answers(lost: int, won: int, rows: int) -> Answers:
    """Answers to rows of one class: `lost` only the champion has right, `won` only the challenger, the rest both."""
    champion, challenger = np.zeros((2, rows), np.int64)
    challenger[:lost] = -1
    champion[lost : lost + won] = -1
    return Answers(np.zeros(rows, np.int64), champion, challenger)


def test_the_first_version_passes_on_accuracy_alone() -> None:
    assert policy.first(PARAMS, 0.8)[0] == "promote"
    assert policy.first(PARAMS, 0.7999) == (
        "refuse",
        "accuracy 0.7999 is below gate.min_accuracy 0.8",
    )


@pytest.mark.parametrize(
    ("lost", "won", "rows", "verdict"),
    [
        (100, 200, 10_000, "promote"),  # better by a point
        (300, 300, 10_000, "promote"),  # as good
        (0, 0, 10_000, "promote"),  # the same answers
        (400, 200, 10_000, "refuse"),  # worse by two points
        (330, 260, 10_000, "undecided"),
        (0, 0, 5, "undecided"),  # too few rows, though nothing differs
        (0, 2, 5, "undecided"),
        (5, 0, 5, "worse"),  # all of five lost: shown at 95%, and may still be bad luck
        (17, 0, 17, "refuse"),
        (0, 0, 0, "undecided"),
    ],
)
def test_verdicts(lost: int, won: int, rows: int, verdict: str) -> None:
    found = judgement.decide(PARAMS, answers(lost, won, rows), CLASSES)
    assert found.verdict == verdict, found.reason


def test_better_means_shown_to_be_better() -> None:
    strict = replace(PARAMS, rule="better")
    assert judgement.decide(strict, answers(300, 300, 10_000), CLASSES).verdict == "undecided"
    assert judgement.decide(strict, answers(100, 140, 10_000), CLASSES).reason.startswith(
        "better: accuracy +0.0040"
    )
    assert judgement.decide(strict, answers(140, 100, 10_000), CLASSES).reason.startswith(
        "seems worse: accuracy -0.0040"
    )
    assert judgement.decide(strict, answers(200, 100, 10_000), CLASSES).verdict == "refuse"


def test_mcnemar_is_the_binomial_test() -> None:
    from scipy.stats import binomtest

    for fewer, more in ((0, 0), (0, 5), (3, 9), (40, 61), (900, 1100)):
        expected = (
            binomtest(more, fewer + more, alternative="greater").pvalue if fewer + more else 1.0
        )
        assert statistics.mcnemar(fewer, more) == pytest.approx(expected, rel=1e-9)


def test_at_tangos_bounds_his_score_is_z() -> None:
    z = NormalDist().inv_cdf(0.975)
    for lost, won, rows in ((4, 9, 50), (0, 3, 20), (30, 10, 400)):
        low, high = tango.interval(lost, won, rows, 0.975)
        assert tango.score(lost, won, rows, low) == pytest.approx(z, abs=1e-4)
        assert tango.score(lost, won, rows, high) == pytest.approx(-z, abs=1e-4)


@pytest.mark.parametrize("metric", ["accuracy", "macro_recall", "macro_f1"])
def test_metrics_agree_with_scikit_learn(metric: str) -> None:
    from sklearn.metrics import accuracy_score, f1_score, recall_score

    generator = np.random.default_rng(0)
    targets, champion, challenger = generator.integers(0, 4, (3, 300))
    targets[0] = champion[0] = (
        5  # a class of one row, which the champion alone has right; and no row of class 4
    )
    found = statistics.estimate(Answers(targets, champion, challenger), metric, np.arange(6), 0.95)
    assert found == statistics.estimate(
        Answers(targets, champion, challenger), metric, np.arange(6), 0.95
    )
    expected = {
        "accuracy": accuracy_score,
        "macro_recall": lambda true, said: recall_score(true, said, average="macro"),
        "macro_f1": lambda true, said: f1_score(true, said, average="macro"),
    }[metric]
    assert found.champion == pytest.approx(expected(targets, champion), abs=1e-9)
    assert found.challenger == pytest.approx(expected(targets, challenger), abs=1e-9)
    assert found.low < found.difference < found.high


def test_a_class_that_falls_is_refused_and_a_small_one_never_decides() -> None:
    targets = np.repeat([0, 1, 2], [5000, 100, 5])
    champion, challenger = targets.copy(), targets.copy()
    champion[:300] = -1  # the challenger is better on the large class,
    challenger[5000:5020] = -1  # worse on the middle one,
    challenger[5100:] = -1  # and has nothing right of the smallest
    found = judgement.decide(
        PARAMS, Answers(targets, champion, challenger), ("large", "middle", "small")
    )
    assert found.verdict == "refuse"
    assert found.reason.startswith(
        "class middle (-0.200 on 100 rows) got worse by more than 0.05; better:"
    )
    assert [each.name for each in found.slices] == ["class large", "class middle"]
    challenger[5000:5020] = targets[5000:5020]
    assert (
        judgement.decide(
            PARAMS, Answers(targets, champion, challenger), ("large", "middle", "small")
        ).verdict
        == "promote"
    )


def test_a_slice_that_falls_is_refused_too() -> None:
    before = answers(70, 200, 10_000)
    groups = {
        "camera=old": np.arange(10_000) < 80,
        "camera=new": np.arange(10_000) >= 80,
        "tiny": np.arange(10_000) < 10,
    }
    found = judgement.decide(PARAMS, before, CLASSES, groups=groups)
    assert found.reason.startswith(
        "camera=old (-0.750 on 80 rows) got worse by more than 0.05; better: "
    )
    assert [each.name for each in found.slices] == ["class only", "camera=old", "camera=new"]
    assert judgement.decide(PARAMS, before, CLASSES).verdict == "promote"


def test_a_loss_that_may_be_bad_luck_stops_a_promotion_and_refuses_nothing() -> None:
    """Equally good models lose 15 of 15 rows on which they differ once in 32,768 times, and something is always judged."""
    targets = np.repeat([0, 1], [5000, 100])
    champion, challenger = targets.copy(), targets.copy()
    champion[:300], challenger[5000:5015] = -1, -1
    found = judgement.decide(PARAMS, Answers(targets, champion, challenger), ("large", "middle"))
    assert (found.verdict, found.reason[:68]) == (
        "worse",
        "class middle (-0.150 on 100 rows) seems to have got worse by more th",
    )
    assert found.slices[1].is_worse
    assert found.slices[1].luck == pytest.approx(3 * 2**-15)


def test_a_small_class_decides_nothing_in_a_mean_of_classes() -> None:
    targets = np.repeat([0, 1, 2], [500, 500, 5])
    champion, challenger = targets.copy(), targets.copy()
    champion[:60], challenger[1000:] = -1, -1
    params = replace(PARAMS, metric="macro_recall")
    found = judgement.decide(params, Answers(targets, champion, challenger), ("a", "b", "tiny"))
    assert (found.verdict, found.estimate and found.estimate.difference) == (
        "promote",
        pytest.approx(0.06),
    )
    tiny = Answers(targets[1000:], champion[1000:], challenger[1000:])
    nothing = judgement.decide(params, tiny._replace(challenger=tiny.champion), ("a", "b", "tiny"))
    assert (nothing.verdict, nothing.estimate) == ("undecided", None)
    assert nothing.reason == "no rows of a class with gate.min_slice = 50 rows to compare on"
    lost = judgement.decide(params, tiny, ("a", "b", "tiny"))
    assert (lost.verdict, lost.reason[:50]) == (
        "worse",
        "seems worse than the margin of 0.005: accuracy -1.",
    )


@pytest.mark.parametrize("metric", ["accuracy", "macro_recall"])
def test_what_is_refused_by_a_mean_of_classes_is_no_bad_luck(metric: str) -> None:
    params = replace(PARAMS, metric=metric)
    assert judgement.decide(params, answers(400, 200, 10_000), CLASSES).verdict == "refuse"
    assert judgement.decide(params, answers(40, 15, 1000), CLASSES).reason.startswith(
        "seems worse than the margin"
    )


def test_many_small_steps_down_are_stopped() -> None:
    as_good, far_below = answers(100, 100, 10_000), answers(200, 80, 10_000)
    found = judgement.decide(PARAMS, as_good, CLASSES, best=far_below)
    assert (found.verdict, found.reason[:43]) == (
        "refuse",
        "downhill: against the best before it accura",
    )


@pytest.mark.parametrize("metric", ["macro_recall", "macro_f1"])
@pytest.mark.parametrize(("lost", "won"), [(400, 200), (200, 400), (300, 330)])
def test_a_mean_of_equal_classes_has_the_bounds_and_the_luck_of_the_accuracy(
    metric: str, lost: int, won: int
) -> None:
    targets = np.arange(10_000) % 2
    champion, challenger = targets.copy(), targets.copy()
    challenger[:lost], champion[lost : lost + won] = (
        1 - targets[:lost],
        1 - targets[lost : lost + won],
    )
    compared = Answers(targets, champion, challenger)
    by_rows, mean = (
        statistics.estimate(compared, name, np.arange(2), 0.95) for name in ("accuracy", metric)
    )
    assert mean[:5] == pytest.approx(by_rows[:5], abs=4e-4)
    assert mean.luck == pytest.approx(by_rows.luck, abs=0.02)


def test_the_bounds_of_a_mean_are_never_closer_than_its_rows_allow() -> None:
    targets = np.repeat([0, 1], [30, 50])
    none = statistics.estimate(
        Answers(targets, targets, targets), "macro_recall", np.arange(3), 0.95
    )
    reach = tango.detectable(60, 0.95, 0.0)
    assert (none.low, none.high, none.luck) == (-reach, reach, 1.0)
    absent = statistics.estimate(
        Answers(targets, targets, targets), "macro_recall", np.array([2]), 0.95
    )
    assert (absent.low, absent.high) == (-1.0, 1.0)


def test_accuracies_of_several_resamples() -> None:
    found = statistics.accuracy(
        np.array([0, 1]), np.array([0, 0]), np.array([[1, 3], [6, 2]]), np.arange(2)
    )
    assert found.tolist() == [0.25, 0.75]


def test_holm() -> None:
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert statistics.holm({"a": 0.6}) == {"a": 0.6}
    assert statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )


def test_a_decision_is_written_and_read(tmp_path: Path) -> None:
    with pytest.raises(
        VersionError, match=r"gate\.json is missing; write it with `python -m tasks\.gate prod`"
    ):
        decisions.read(tmp_path)
    decision = Decision(
        verdict="refuse",
        reason="worse",
        environment="prod",
        weights_sha256="0" * 64,
        rows=10,
        accuracy=0.5,
    )
    decisions.write(decision, tmp_path)
    assert decisions.read(tmp_path) == decision
    (tmp_path / decisions.FILE).write_text('{"verdict": "promote"}')
    with pytest.raises(VersionError, match="does not hold a decision of the gate"):
        decisions.read(tmp_path)
