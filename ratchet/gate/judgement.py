"""What the test rows show: pure functions of the answers that two models gave to the same rows.

`policy.py` applies the params to that. The rows lead to one of four verdicts:

*promote*: the challenger is shown, at `gate.confidence`, to be better or within the margin, and no
loss is shown.

*refuse*: a loss beyond its margin (over all rows, in a class or group, or against the best version
before) is shown at that confidence *and* is not bad luck: equally good models would show one in
less than one of 1 / `NEVER` comparisons. That holds exactly, whatever the shares of the classes and
the numbers of rows and groups: a row on which equally good models disagree falls to either like a
fair coin (McNemar's test), and Holm's correction covers everything that is judged.

*worse*: such a loss is shown at `gate.confidence`, but it might be bad luck.

*undecided*: none of these, because the rows are too few to tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ratchet import tango
from ratchet.gate import statistics
from ratchet.gate.decisions import Verdict
from ratchet.gate.statistics import Answers, Estimate
from ratchet.params import GateParams

NEVER = 1e-5  # at most this share of the comparisons of equally good models ends in "refuse"


class Slice(NamedTuple):
    """One class or group by itself. The p-values are corrected for the number of slices."""

    name: str
    rows: int
    difference: float  # in accuracy, challenger less champion
    p: float  # of the hypothesis that it lost no more than `gate.slice_margin`
    luck: float  # of a loss this large if both models are equally good
    is_worse: bool  # it is shown to have lost more than that margin


class Reach(NamedTuple):
    """Which differences the compared rows can show."""

    rows: int
    disagreements: int
    detectable: float  # the smallest difference that they can show
    target: float  # a difference that would have decided

    def needed(self, params: GateParams) -> int | None:
        """The number of rows that would show `target`, with the same share of disagreements.

        None if no number of rows would.
        """
        if params.metric == "accuracy":
            return tango.rows_for(self.target, params.confidence, self.disagreements / self.rows)
        if not self.target:
            return None
        # the width of a bootstrap interval falls with the square root of the rows
        return math.ceil(self.rows * (self.detectable / self.target) ** 2)


class Judgement(NamedTuple):
    """What the comparison shows."""

    verdict: Verdict
    reason: str
    estimate: Estimate | None = None  # None if there are no rows to compare on
    reach: Reach | None = None  # None likewise
    p: float = 1.0  # McNemar's, one-sided
    slices: tuple[Slice, ...] = ()
    against_best: Estimate | None = None  # the difference from the best version before


class _Finding(NamedTuple):
    """The result of one test. The most severe verdict of all findings counts."""

    verdict: Verdict
    reason: str


_SEVERITY: tuple[Verdict, ...] = ("promote", "undecided", "worse", "refuse")


def decide(
    params: GateParams,
    answers: Answers,
    classes: Sequence[str],
    best: Answers | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
) -> Judgement:
    """What the rows show.

    Args:
        params: the params of the gate.
        answers: what champion and challenger answered; indices into `classes`.
        classes: the names of the classes.
        best: the same for the best version before, so that small losses cannot add up; or None.
        groups: slices beside the classes: name to which rows are in it, bool (rows,).
    """
    if not len(answers.targets):
        return Judgement("undecided", "no rows to compare on")
    judged = np.flatnonzero(np.bincount(answers.targets) >= params.min_slice)
    is_comparable = params.metric == "accuracy" or len(judged) > 0
    metric = params.metric if is_comparable else "accuracy"  # so that a loss is still seen
    estimate = statistics.estimate(answers, metric, judged, params.confidence)
    against_best = None
    if best and len(best.targets):
        against_best = statistics.estimate(best, metric, judged, params.confidence)
    slices = judge_slices(params, answers, classes, groups or {})
    luck = _corrected_luck(estimate, against_best, slices)
    slices = tuple(part._replace(luck=luck[part.name]) for part in slices)
    p = statistics.mcnemar(*statistics.disagreements(answers))
    is_better = p < 1 - params.confidence if metric == "accuracy" else estimate.low > 0

    overall = _overall(params, estimate, is_better, luck["all"])
    figures = _figures(params, metric, estimate, answers)
    overall = overall._replace(reason=f"{overall.reason}: {figures}")
    if not is_comparable and overall.verdict in ("promote", "undecided"):
        reason = f"no rows of a class with gate.min_slice = {params.min_slice} rows to compare on"
        overall = _Finding("undecided", reason)
    downhill = None
    if best and against_best:
        figures = _figures(params, metric, against_best, best)
        is_promoted = overall.verdict == "promote"
        downhill = _downhill(params, against_best, luck["best"], is_promoted, figures)
    findings = [finding for finding in (_slice_loss(params, slices), downhill, overall) if finding]
    verdict = max((finding.verdict for finding in findings), key=_SEVERITY.index)
    reason = "; ".join(finding.reason for finding in findings)
    if not is_comparable:
        return Judgement(verdict, reason, None, None, p, slices, against_best)
    reach = _reach(params, estimate, answers)
    if verdict == "undecided" and overall.verdict == "promote" and best and against_best:
        reach = _reach(params, against_best, best)
    return Judgement(verdict, reason, estimate, reach, p, slices, against_best)


def _corrected_luck(
    estimate: Estimate, against_best: Estimate | None, slices: Sequence[Slice]
) -> dict[str, float]:
    """The p-values of bad luck, corrected for their number: "all", "best", and the slices."""
    luck = {"all": estimate.luck}
    if against_best:
        luck["best"] = against_best.luck
    for part in slices:
        luck[part.name] = part.luck
    return statistics.holm(luck)


def judge_slices(
    params: GateParams, answers: Answers, classes: Sequence[str], groups: Mapping[str, np.ndarray]
) -> tuple[Slice, ...]:
    """Judge each class and group that has at least `gate.min_slice` rows by itself.

    Returns:
        Their `p` is corrected for the number of slices; their `luck` is not corrected yet.
    """
    masks = {f"class {name}": answers.targets == index for index, name in enumerate(classes)}
    masks |= groups
    parts = {
        name: answers.at(mask) for name, mask in masks.items() if mask.sum() >= params.min_slice
    }
    counts = {
        name: (*statistics.disagreements(part), len(part.targets)) for name, part in parts.items()
    }
    p = statistics.holm(
        {name: tango.p_fallen(*count, params.slice_margin) for name, count in counts.items()}
    )
    return tuple(
        Slice(
            name,
            rows,
            (won - lost) / rows,
            p[name],
            statistics.mcnemar(won, lost),
            p[name] < 1 - params.confidence,
        )
        for name, (lost, won, rows) in counts.items()
    )


def _overall(params: GateParams, estimate: Estimate, is_better: bool, luck: float) -> _Finding:
    """The finding on all rows."""
    margin = margin_of(params)
    if is_better:
        return _Finding("promote", "better")
    if params.rule == "no_worse" and estimate.low >= -margin:
        return _Finding("promote", f"no worse than the margin of {margin}")
    if estimate.high < -margin:
        worse = f"worse than the margin of {margin}" if margin else "worse"
        return _Finding("refuse", worse) if luck < NEVER else _Finding("worse", f"seems {worse}")
    if params.rule == "no_worse":
        return _Finding("undecided", f"too few rows to tell, with a margin of {margin}")
    return _Finding("undecided", "not shown to be better")


def _slice_loss(params: GateParams, slices: Sequence[Slice]) -> _Finding | None:
    """The finding on classes and groups; None if none got worse."""
    worse = [part for part in slices if part.is_worse]
    if not worse:
        return None
    names = ", ".join(f"{part.name} ({part.difference:+.3f} on {part.rows} rows)" for part in worse)
    if any(part.luck < NEVER for part in worse):
        return _Finding("refuse", f"{names} got worse by more than {params.slice_margin}")
    return _Finding("worse", f"{names} seems to have got worse by more than {params.slice_margin}")


def _downhill(
    params: GateParams, against_best: Estimate, luck: float, is_promoted: bool, figures: str
) -> _Finding | None:
    """The finding on the comparison with the best version before.

    A loss that is only possible counts if the challenger would be promoted otherwise.
    """
    if against_best.high < -params.margin:
        return _Finding(
            "refuse" if luck < NEVER else "worse", f"downhill: against the best before it {figures}"
        )
    if is_promoted and against_best.low < -params.margin:
        return _Finding("undecided", f"it may lead downhill: against the best before it {figures}")
    return None


def _reach(params: GateParams, estimate: Estimate, answers: Answers) -> Reach:
    """What the rows can show, and the difference that they would have to show.

    If the rows are enough for the margin, they would have to tell the observed difference from it.
    """
    rows = len(answers.targets)
    disagreements = sum(statistics.disagreements(answers))
    margin = margin_of(params)
    detectable = (estimate.high - estimate.low) / 2
    if params.metric == "accuracy":
        detectable = tango.detectable(rows, params.confidence, disagreements / rows)
    target = margin if detectable > margin > 0 else abs(estimate.difference + margin)
    return Reach(rows, disagreements, detectable, target)


def margin_of(params: GateParams) -> float:
    """The loss over all rows that the gate accepts: `gate.margin`, or 0 for another rule."""
    return params.margin if params.rule == "no_worse" else 0.0


def _figures(params: GateParams, metric: str, estimate: Estimate, answers: Answers) -> str:
    return (
        f"{metric} {estimate.difference:+.4f} on the same {len(answers.targets):,} rows,"
        f" between {estimate.low:+.4f} and {estimate.high:+.4f} at {params.confidence:.0%}"
    )
