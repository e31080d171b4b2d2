"""What may be promoted: every combination of the params that decide, and what the rows can show."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ratchet import tango
from ratchet.gate import judgement, policy, statistics
from ratchet.gate.judgement import Judgement
from ratchet.gate.statistics import Answers
from tests.gate.test_decisions import CLASSES, PARAMS, answers

OLD, NEW = ("cat", "dog"), ("classes",)
WIDE = replace(PARAMS, min_slice=1)


def two(lost: int, won: int, rows: int) -> Answers:
    """Half the rows of each of two classes; the models differ on the first."""
    found = answers(lost, won, rows)
    targets = np.repeat([0, 1], [rows - rows // 2, rows // 2])
    champion, challenger = (
        np.where(said == 0, targets, -1) for said in (found.champion, found.challenger)
    )
    return Answers(targets, champion, challenger)


# What the challenger answers, and whether it may ever be promoted where it reaches
# gate.min_accuracy.
COMPARISONS = {
    "nothing to compare on": (two(0, 0, 0), True),
    "equal on 30 rows": (two(0, 0, 30), True),
    "two more right of 80": (two(1, 3, 80), True),
    "two fewer right of 80": (two(3, 1, 80), True),
    "seven fewer right of 80": (two(8, 1, 80), False),
    "a point better on 10,000": (two(100, 200, 10_000), True),
    "equal on 10,000": (two(300, 300, 10_000), True),
    "two points worse on 10,000": (two(400, 200, 10_000), False),
    "a class lost, better on the whole": (
        Answers(
            np.repeat([0, 1], [5000, 100]),
            np.repeat([-1, 0, 1], [300, 4700, 100]),
            np.repeat([0, -1, 1], [5000, 15, 85]),
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_nothing_below_the_floor_and_nothing_shown_worse_is_promoted(name: str) -> None:
    compared, may_pass = COMPARISONS[name]
    verdicts = set()
    for metric, rule in itertools.product(
        ("accuracy", "macro_recall", "macro_f1"), ("no_worse", "better")
    ):
        shown = replace(PARAMS, metric=metric, rule=rule)
        found = judgement.decide(shown, compared, OLD)
        for undecided, contract, choice, accuracy in itertools.product(
            ("refuse", "estimate", "promote"),
            ((), NEW),
            ("refuse", "promote"),
            (0.79, 0.8, 0.95, float("nan")),
        ):
            params = replace(shown, on_undecided=undecided, on_new_contract=choice)
            verdict, reason = policy.settle(params, found, accuracy, "v1.0.0", 0.9, contract)
            verdicts.add(verdict)
            assert reason
            if verdict == "promote":
                assert may_pass, reason
                assert accuracy >= params.min_accuracy, reason
                assert not contract or choice == "promote", reason
                assert found.verdict in ("promote", "undecided")
                if undecided == "refuse" and found.verdict == "undecided":
                    assert found.reach is None and contract, reason
    assert ("promote" in verdicts) == may_pass
    assert "refuse" in verdicts  # below the floor


@pytest.mark.parametrize(
    ("lost", "won", "rows", "choice", "verdict", "reason"),
    [
        (0, 0, 80, "refuse", "undecided", "80 rows with 0 disagreements can show a difference of 0.0327 or more, and a "
         "margin of 0.005 takes about 540; gate.on_undecided: refuse keeps the champion"),
        (0, 0, 80, "estimate", "promote", "let through by gate.on_undecided: estimate, as it scores no lower"),
        (1, 0, 80, "estimate", "undecided", "estimate keeps the champion, as the challenger scores lower than the champion"),
        (1, 4, 80, "estimate", "promote", "let through by gate.on_undecided: estimate"),
        (1, 4, 80, "refuse", "undecided", "80 rows with 5 disagreements can show a difference of 0.0"),
        (1, 1, 143, "refuse", "undecided", "143 rows with 2 disagreements can show"),
        (2, 1, 80, "promote", "promote", "let through by gate.on_undecided: promote"),
        (8, 1, 80, "promote", "worse", "seems worse than the margin of 0.005: accuracy -0.0875 on the same 80 rows"),
        (8, 1, 80, "estimate", "worse", "seems worse than the margin of 0.005"),
        (330, 260, 10_000, "refuse", "undecided", "and telling this difference from the margin of 0.005 takes about 40,000"),
        (0, 0, 0, "estimate", "undecided", "no rows to compare on. gate.on_undecided: estimate keeps the champion"),
    ],
)  # fmt: skip
def test_too_few_rows(
    lost: int, won: int, rows: int, choice: str, verdict: str, reason: str
) -> None:
    params = replace(PARAMS, on_undecided=choice)
    found = judgement.decide(params, answers(lost, won, rows), CLASSES)
    settled = policy.settle(params, found, 0.9, "v1.0.0")
    assert settled[0] == verdict, settled[1]
    assert reason in settled[1]
    assert settled[1].count(". ") <= 1


def test_better_names_the_rows_that_would_show_the_difference() -> None:
    params = replace(PARAMS, rule="better")
    up, down = (
        judgement.decide(params, answers(*counts, 300), CLASSES) for counts in ((4, 8), (6, 6))
    )
    assert up.reach and (up.reach.needed(params) or 0) > 300
    assert (
        "telling this difference from none takes about "
        in policy.settle(params, up, 0.9, "v1.0.0")[1]
    )
    assert down.reach and down.reach.needed(params) is None
    assert "or more; gate.on_undecided: refuse" in policy.settle(params, down, 0.9, "v1.0.0")[1]


def test_the_best_before_stops_nothing_that_is_as_good() -> None:
    equal = answers(100, 100, 10_000)
    for best in (None, equal, answers(0, 0, 0)):
        found = judgement.decide(PARAMS, equal, CLASSES, best=best)
        assert (found.verdict, found.reason[:28]) == ("promote", "no worse than the margin of ")
        assert "downhill" not in found.reason


def test_the_most_severe_finding_decides() -> None:
    few, far_below = answers(2, 2, 80), answers(300, 100, 10_000)
    assert judgement.decide(PARAMS, few, CLASSES, best=far_below).verdict == "refuse"
    assert judgement.decide(PARAMS, answers(5, 0, 80), CLASSES, best=far_below).verdict == "refuse"


def test_the_advice_is_for_the_comparison_that_is_undecided() -> None:
    small, large = answers(2, 2, 80), answers(20, 20, 1000)
    by_champion = judgement.decide(PARAMS, small, CLASSES, best=large).reach
    by_best = judgement.decide(PARAMS, answers(0, 0, 1000), CLASSES, best=large).reach
    assert by_champion and by_champion[:2] == (80, 4)
    assert by_best and by_best[:2] == (1000, 40)
    unequal = judgement.decide(PARAMS, answers(1, 4, 80), CLASSES).reach
    assert unequal == (80, 5, pytest.approx(tango.detectable(80, 0.95, 5 / 80)), 0.005)
    near = judgement.decide(PARAMS, answers(330, 260, 10_000), CLASSES).reach
    assert (
        near and near.detectable < 0.005 and near.target == pytest.approx(0.002)
    )  # 0.007 lost, less the margin


@pytest.mark.parametrize(
    ("rows", "rounded"), [(7, 7), (95, 95), (101, 110), (539, 540), (38_101, 39_000)]
)
def test_advice_has_two_digits(rows: int, rounded: int) -> None:
    assert policy._rounded(rows) == rounded


def test_a_mean_of_classes_is_decided_by_its_own_bounds() -> None:
    """The smaller class gains 20 rows of 100, the larger loses 30 of 900: fewer rows are right, the mean is higher."""
    targets = np.repeat([0, 1], [900, 100])
    champion, challenger = targets.copy(), targets.copy()
    challenger[:30], champion[900:920] = -1, -1
    compared = Answers(targets, champion, challenger)
    params = replace(PARAMS, rule="better", slice_margin=0.5)
    by_rows = judgement.decide(params, compared, OLD)
    assert (by_rows.verdict, by_rows.reason.partition(":")[0]) == (
        "undecided",
        "not shown to be better",
    )
    by_mean = judgement.decide(replace(params, metric="macro_recall"), compared, OLD)
    assert (by_mean.verdict, by_mean.reason.partition(":")[0]) == ("promote", "better")
    estimate, reach = by_mean.estimate, by_mean.reach
    assert estimate and reach
    assert reach.detectable == (estimate.high - estimate.low) / 2
    half = reach._replace(target=reach.detectable / 2)
    assert half.needed(replace(params, metric="macro_recall")) == 4000
    assert half._replace(target=0.0).needed(replace(params, metric="macro_recall")) is None


def test_estimate_asks_for_the_best_before_too() -> None:
    params = replace(PARAMS, on_undecided="estimate")
    equal, lower = answers(2, 2, 80), answers(3, 1, 80)
    found = judgement.decide(params, equal, CLASSES, best=lower)
    verdict, reason = policy.settle(params, found, 0.9, "v1.0.0")
    assert verdict == "undecided"
    assert reason.endswith("as the challenger scores lower than the best before it")
    assert (
        policy.settle(params, judgement.decide(params, equal, CLASSES, best=equal), 0.9, "v1.0.0")[
            0
        ]
        == "promote"
    )


def test_a_loss_against_the_best_before_counts_where_the_rest_is_undecided() -> None:
    found = judgement.decide(PARAMS, answers(2, 2, 80), CLASSES, best=answers(9, 0, 80))
    assert (found.verdict, found.reason[:42]) == (
        "worse",
        "downhill: against the best before it accur",
    )
    unclear = judgement.decide(PARAMS, answers(0, 0, 1000), CLASSES, best=answers(20, 20, 1000))
    assert (unclear.verdict, unclear.reason[:32]) == (
        "undecided",
        "it may lead downhill: against th",
    )


def test_the_floor_says_where_the_champion_is_below_it_too() -> None:
    found = judgement.decide(PARAMS, answers(0, 0, 10_000), CLASSES)
    verdict, reason = policy.settle(PARAMS, found, 0.75, "v1.2.0", 0.7)
    assert verdict == "refuse"
    assert reason.startswith(
        "accuracy 0.7500 is below gate.min_accuracy 0.8, the floor for every promotion (v1.2.0, which is in service, "
        "reached 0.7000 and is below it too); no worse than"
    )
    assert "below it too" not in policy.settle(PARAMS, found, 0.75, "v1.2.0", 0.9)[1]
    assert policy.settle(PARAMS, found, 0.8, "v1.2.0")[0] == "promote"
    for lost in (5, 17):  # what is or seems worse is said first
        worse = judgement.decide(PARAMS, answers(lost, 0, lost), CLASSES)
        verdict, reason = policy.settle(PARAMS, worse, 0.75, "v1.2.0")
        assert verdict == "refuse" and reason.startswith(
            f"{worse.reason}; accuracy 0.7500 is below"
        )


@pytest.mark.parametrize(("choice", "let"), [("promote", "let"), ("refuse", "not let")])
def test_a_new_contract_that_can_be_compared_says_so(choice: str, let: str) -> None:
    found = judgement.decide(PARAMS, answers(0, 0, 10_000), CLASSES)
    params = replace(PARAMS, on_new_contract=choice)
    verdict, reason = policy.settle(params, found, 0.9, "v1.2.0", 0.9, NEW)
    assert verdict == ("promote" if choice == "promote" else "undecided")
    assert reason == (
        "the contract differs from v1.2.0's (classes), compared on what both know; "
        f"{let} through by gate.on_new_contract: {choice}; {found.reason}"
    )


@pytest.mark.parametrize("choice", ["refuse", "promote"])
@pytest.mark.parametrize("accuracy", [0.5, 0.9])
def test_a_new_contract_without_comparable_rows_is_a_first_version(
    choice: str, accuracy: float
) -> None:
    params = replace(PARAMS, on_new_contract=choice)
    found = Judgement("undecided", "no rows to compare on")
    verdict, reason = policy.settle(params, found, accuracy, "v1.0.0", None, NEW)
    assert verdict == (
        "refuse" if accuracy < 0.8 else "promote" if choice == "promote" else "undecided"
    )
    if accuracy > 0.8:
        assert "nothing can be compared (no rows to compare on)" in reason
        assert (
            f"gate.on_new_contract: {choice}; accuracy 0.9000 reaches gate.min_accuracy 0.8"
            in reason
        )


@pytest.mark.parametrize(
    ("rows", "changed"), [(30, 0), (80, 4), (143, 10), (540, 0), (1000, 50), (10_000, 600)]
)
def test_detectable_is_the_smallest_margin_that_lets_equal_models_through(
    rows: int, changed: int
) -> None:
    smallest = tango.detectable(rows, 0.95, changed / rows)
    equal = answers(changed // 2, changed // 2, rows)
    for margin, verdict in ((smallest * 0.999, "undecided"), (smallest * 1.001, "promote")):
        assert judgement.decide(replace(PARAMS, margin=margin), equal, CLASSES).verdict == verdict


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("disagreement", [0.0, 0.01, 0.1, 0.5])
def test_detectable_by_brute_force(confidence: float, disagreement: float) -> None:
    from scipy.optimize import minimize_scalar
    from scipy.stats import norm

    rows = 200
    changed = disagreement * rows / 2

    def rejected(delta: float) -> bool:
        """Tango's score from the likelihood itself: `lost` is the share lost, `lost - delta` the share won."""

        def log_likelihood(lost: float) -> float:
            won, same = lost - delta, 1 - 2 * lost + delta
            parts = [(changed, lost), (changed, won), (rows - 2 * changed, same)]
            return -sum(count * np.log(max(share, 1e-300)) for count, share in parts if count)

        fit = minimize_scalar(log_likelihood, bounds=(delta, (1 + delta) / 2), method="bounded",
                              options={"xatol": 1e-12})  # fmt: skip
        lost = fit.x if changed else delta
        return rows * delta / np.sqrt(rows * (2 * lost - delta - delta**2)) >= norm.ppf(confidence)

    grid = np.arange(0.0005, 0.5, 0.0005)
    first = next(delta for delta in grid if rejected(delta))
    assert tango.detectable(rows, confidence, disagreement) == pytest.approx(first, abs=0.0006)


def test_rows_for_is_the_inverse_of_detectable() -> None:
    z = 1.6448536269514722
    assert tango.rows_for(0.005, 0.95, 0.0) == 539 == int(z**2 / 0.005 - z**2) + 1
    for difference, disagreement in ((0.005, 0.05), (0.02, 0.1), (0.1, 0.0)):
        rows = tango.rows_for(difference, 0.95, disagreement)
        assert rows
        assert (
            tango.detectable(rows, 0.95, disagreement)
            <= difference
            < tango.detectable(rows - 1, 0.95, disagreement)
        )
    assert tango.rows_for(0.0, 0.95, 0.1) is None
    assert tango.detectable(0, 0.95, 0.0) == 1.0
    assert tango.detectable(1, 0.95, 0.0) == pytest.approx(z**2 / (1 + z**2))


def test_the_score_of_rows_without_a_disagreement() -> None:
    assert tango.score(0, 0, 10, 0.0) == 0.0
    assert tango.score(10, 0, 10, -1.0) == 0.0
    assert tango.p_fallen(0, 0, 10, 0.0) == 0.5


@pytest.mark.parametrize("metric", ["macro_recall", "macro_f1"])
def test_a_few_rows_without_a_disagreement_show_nothing_in_a_mean_of_classes_either(
    metric: str,
) -> None:
    params = replace(WIDE, metric=metric)
    assert judgement.decide(params, two(0, 0, 20), OLD).verdict == "undecided"
    assert judgement.decide(params, two(0, 1, 20), OLD).verdict == "undecided"
    assert judgement.decide(params, two(0, 0, 2000), OLD).verdict == "promote"


def test_the_smallest_class_that_has_rows_bounds_a_mean_of_classes() -> None:
    """Of classes without rows nothing is known; a class of a single row counts."""
    targets = np.array([0] * 100 + [2])
    answers = statistics.Answers(targets, targets, targets)
    for classes in (np.array([0, 2]), np.array([0, 1, 2, 3])):
        low = statistics.estimate(answers, "macro_recall", classes, 0.95).low
        assert low == pytest.approx(-tango.detectable(2.0, 0.95, 0.0))
