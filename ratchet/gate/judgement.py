"""May a challenger take the champion's place? Pure functions of the answers that both gave to the same rows.

`decide` is statistics: what the rows show. `settle` applies the params to that: what happens where
they show nothing, where the contract is new, and below `gate.min_accuracy`.
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

NEVER = 1e-5  # at most this share of the comparisons of equally good models ends with a refusal; see `decide`


class Slice(NamedTuple):
    """One class or group by itself; p-values are corrected for how many are judged.

    `p`: that it lost no more than `gate.slice_margin`. `luck`: of such a loss where both models are
    equally good. `fallen`: it is shown to have lost more than that margin.
    """

    name: str
    rows: int
    difference: float
    p: float
    luck: float
    fallen: bool


class Reach(NamedTuple):
    """What the compared rows can show: differences of `detectable` and more.

    `wanted` would have decided.
    """

    rows: int
    disagreements: int
    detectable: float
    wanted: float

    def needed(self, params: GateParams) -> int | None:
        """Rows that would show `wanted`, with as many disagreements in proportion.

        None: no number would.
        """
        if params.metric == "accuracy":
            return tango.rows_for(self.wanted, params.confidence, self.disagreements / self.rows)
        # the width of a bootstrap's interval falls with the root of the rows
        return math.ceil(self.rows * (self.detectable / self.wanted) ** 2) if self.wanted else None


class Judgement(NamedTuple):
    """What the comparison shows.

    Without rows to compare on there is neither `estimate` nor `reach`.

    `against` is the estimate against the best version before.
    """

    verdict: Verdict
    reason: str
    estimate: Estimate | None = None
    reach: Reach | None = None
    p: float = 1.0
    slices: tuple[Slice, ...] = ()
    against: Estimate | None = None


class _Finding(NamedTuple):
    """What one of the tests says; the most severe verdict of all findings counts."""

    verdict: Verdict
    reason: str


_SEVERITY: tuple[Verdict, ...] = ("promote", "undecided", "worse", "refuse")


def first(params: GateParams, accuracy: float) -> tuple[Verdict, str]:
    """Where nothing serves yet, the accuracy alone decides."""
    if accuracy >= params.min_accuracy:
        return (
            "promote",
            (
                f"first in service: accuracy {accuracy:.4f} reaches gate.min_accuracy"
                f" {params.min_accuracy}"
            ),
        )
    return "refuse", f"accuracy {accuracy:.4f} is below gate.min_accuracy {params.min_accuracy}"


def settle(
    params: GateParams,
    judgement: Judgement,
    accuracy: float,
    champion: str,
    champion_accuracy: float | None = None,
    new_contract: Sequence[str] = (),
) -> tuple[Verdict, str]:
    """The verdict after the params that decide where the rows do not; none of them is ever silent.

    Whatever they say: a challenger that is or seems worse is not promoted, nor is one below
        `gate.min_accuracy`.

    Args:
        accuracy: of the challenger, on its own test rows.
        champion: its version.
        champion_accuracy: on its own test rows, if known.
        new_contract: what differs from the champion's contract.
    """
    verdict, reason = judgement.verdict, judgement.reason
    if not accuracy >= params.min_accuracy:
        below = _below(params, accuracy, champion, champion_accuracy)
        worse = verdict in ("refuse", "worse")
        return "refuse", f"{reason}; {below}" if worse else f"{below}; {reason}"
    incomparable = verdict == "undecided" and judgement.reach is None
    if incomparable and new_contract:
        verdict = "promote"  # as for a first version
        reason = (
            f"accuracy {accuracy:.4f} reaches gate.min_accuracy {params.min_accuracy}, as for a"
            " first version"
        )
    elif verdict == "undecided":
        verdict, reason = _undecided(params, judgement)
    if new_contract:
        differs = f"the contract differs from {champion}'s ({', '.join(new_contract)})"
        differs += (
            f", nothing can be compared ({judgement.reason})"
            if incomparable
            else ", compared on what both know"
        )
        if verdict == "promote":
            choice = params.on_new_contract
            verdict = "promote" if choice == "promote" else "undecided"
            let = "let through" if choice == "promote" else "not let through"
            differs += f"; {let} by gate.on_new_contract: {choice}"
        reason = f"{differs}; {reason}"
    return verdict, reason


def _undecided(params: GateParams, judgement: Judgement) -> tuple[Verdict, str]:
    """What `gate.on_undecided` makes of rows that are too few to tell."""
    estimate, against, choice = judgement.estimate, judgement.against, params.on_undecided
    key = f"gate.on_undecided: {choice}"
    if choice == "promote":
        return "promote", f"let through by {key}; {judgement.reason}"
    keeps = f"{key} keeps the champion"
    if choice == "estimate":
        lower = [
            name
            for name, other in (("champion", estimate), ("best before it", against))
            if _lower(other)
        ]
        if estimate and not lower:
            return (
                "promote",
                f"let through by {key}, as it scores no lower on these rows; {judgement.reason}",
            )
        keeps += (
            f", as the challenger scores lower than the {' and the '.join(lower)}" if lower else ""
        )
    reach = f"{_advice(params, judgement.reach)}; " if judgement.reach else ""
    return "undecided", f"{judgement.reason}. {reach}{keeps}"


def _lower(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.difference < 0


def _advice(params: GateParams, reach: Reach) -> str:
    """What these rows could have shown, and how many would be enough."""
    count = f"{reach.disagreements:,} disagreement{'' if reach.disagreements == 1 else 's'}"
    shown = (
        f"{reach.rows:,} rows with {count} can show a difference of {reach.detectable:.4f} or more"
    )
    needed = reach.needed(params)
    if needed is None:
        return shown
    margin = _margin(params)
    if reach.wanted == margin:
        task = f"a margin of {margin} takes"
    else:
        task = (
            f"telling this difference from {f'the margin of {margin}' if margin else 'none'} takes"
        )
    return f"{shown}, and {task} about {_rounded(needed):,}"


def _rounded(rows: int) -> int:
    """Up to two significant digits: the share of disagreements is not known any better."""
    unit = int(10 ** max(0, len(str(rows)) - 2))
    return -(-rows // unit) * unit


def _below(
    params: GateParams, accuracy: float, champion: str, champion_accuracy: float | None
) -> str:
    """Why `gate.min_accuracy` refuses, with a hint where it would refuse the champion as well."""
    text = (
        f"accuracy {accuracy:.4f} is below gate.min_accuracy {params.min_accuracy}, the floor for"
        " every promotion"
    )
    if champion_accuracy is not None and champion_accuracy < params.min_accuracy:
        text += (
            f" ({champion}, which is in service, reached {champion_accuracy:.4f} and is below it"
            " too)"
        )
    return text


def decide(
    params: GateParams,
    answers: Answers,
    classes: Sequence[str],
    best: Answers | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
) -> Judgement:
    """What the rows show.

    *promote*: the challenger is shown, at `gate.confidence`, to be better or within the margin, and
        no loss is shown.

    *refuse*: a loss beyond its margin (of all rows, of a class or group, or against the best
    version before) is shown at
    that confidence *and* is not bad luck: equally good models would show one less than once in 1 /
    `NEVER` comparisons.
    That holds exactly, whatever the shares of the classes, the number of rows and of groups: rows
    on which such models disagree fall to either like a fair coin (McNemar's test), and Holm's
    correction covers all that is judged.

    *worse*: such a loss is shown at `gate.confidence`, but might be bad luck.

    *undecided*: none of these; the rows are too few to tell.

    Args:
        answers: what both answered to the same rows.
        classes: names of the classes that `answers` index.
        best: the same with the best version that served since the last major one, if that is not
            the champion. Without it many small steps would lead down.
        groups: slices beside the classes, by name: which rows are in it, bool (rows,).
    """
    if not len(answers.targets):
        return Judgement("undecided", "no rows to compare on")
    judged = np.flatnonzero(np.bincount(answers.targets) >= params.min_slice)
    comparable = params.metric == "accuracy" or len(judged) > 0
    metric = params.metric if comparable else "accuracy"  # so that a loss is seen all the same
    estimate = statistics.estimate(answers, metric, judged, params.confidence)
    against = (
        statistics.estimate(best, metric, judged, params.confidence)
        if best and len(best.targets)
        else None
    )
    slices = judge_slices(params, answers, classes, groups or {})
    tests = (
        {"all": estimate.luck}
        | ({"best": against.luck} if against else {})
        | {s.name: s.luck for s in slices}
    )
    luck = statistics.holm(tests)
    slices = tuple(part._replace(luck=luck[part.name]) for part in slices)
    p = statistics.mcnemar(*statistics.disagreements(answers))
    better = p < 1 - params.confidence if metric == "accuracy" else estimate.low > 0

    overall = _overall(params, estimate, better, luck["all"])
    overall = overall._replace(
        reason=f"{overall.reason}: {_figures(params, metric, estimate, answers)}"
    )
    if not comparable and overall.verdict in ("promote", "undecided"):
        reason = f"no rows of a class with gate.min_slice = {params.min_slice} rows to compare on"
        overall = _Finding("undecided", reason)
    downhill = None
    if best and against:
        figures = _figures(params, metric, against, best)
        downhill = _downhill(params, against, luck["best"], overall.verdict == "promote", figures)
    findings = [finding for finding in (_fallen(params, slices), downhill, overall) if finding]
    verdict = max((finding.verdict for finding in findings), key=_SEVERITY.index)
    reach = _reach(params, estimate, answers)
    if verdict == "undecided" and overall.verdict == "promote" and best and against:
        reach = _reach(params, against, best)
    if not comparable:
        return Judgement(
            verdict, "; ".join(f.reason for f in findings), None, None, p, slices, against
        )
    return Judgement(
        verdict, "; ".join(f.reason for f in findings), estimate, reach, p, slices, against
    )


def judge_slices(
    params: GateParams, answers: Answers, classes: Sequence[str], groups: Mapping[str, np.ndarray]
) -> tuple[Slice, ...]:
    """Every class and group with at least `gate.min_slice` rows by itself.

    `p` is corrected, `luck` not yet.
    """
    masks = {
        f"class {name}": answers.targets == index for index, name in enumerate(classes)
    } | dict(groups)
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


def _overall(params: GateParams, estimate: Estimate, better: bool, luck: float) -> _Finding:
    """All rows."""
    margin = _margin(params)
    if better:
        return _Finding("promote", "better")
    if params.rule == "no_worse" and estimate.low >= -margin:
        return _Finding("promote", f"no worse than the margin of {margin}")
    if estimate.high < -margin:
        worse = f"worse than the margin of {margin}" if margin else "worse"
        return _Finding("refuse", worse) if luck < NEVER else _Finding("worse", f"seems {worse}")
    if params.rule == "no_worse":
        return _Finding("undecided", f"too few rows to tell, with a margin of {margin}")
    return _Finding("undecided", "not shown to be better")


def _fallen(params: GateParams, slices: Sequence[Slice]) -> _Finding | None:
    """Classes and groups."""
    fallen = [part for part in slices if part.fallen]
    if not fallen:
        return None
    names = ", ".join(
        f"{part.name} ({part.difference:+.3f} on {part.rows} rows)" for part in fallen
    )
    if any(part.luck < NEVER for part in fallen):
        return _Finding("refuse", f"{names} got worse by more than {params.slice_margin}")
    return _Finding("worse", f"{names} seems to have got worse by more than {params.slice_margin}")


def _downhill(
    params: GateParams, against: Estimate, luck: float, needed: bool, figures: str
) -> _Finding | None:
    """The best version before.

    What is not shown only counts where the challenger would be promoted.
    """
    if against.high < -params.margin:
        return _Finding(
            "refuse" if luck < NEVER else "worse", f"downhill: against the best before it {figures}"
        )
    if needed and against.low < -params.margin:
        return _Finding("undecided", f"it may lead downhill: against the best before it {figures}")
    return None


def _reach(params: GateParams, estimate: Estimate, answers: Answers) -> Reach:
    """With enough rows for the margin, what is wanted is to tell the observed difference from it."""
    rows, disagreements, margin = (
        len(answers.targets),
        sum(statistics.disagreements(answers)),
        _margin(params),
    )
    detectable = (estimate.high - estimate.low) / 2
    if params.metric == "accuracy":
        detectable = tango.detectable(rows, params.confidence, disagreements / rows)
    wanted = margin if detectable > margin > 0 else abs(estimate.difference + margin)
    return Reach(rows, disagreements, detectable, wanted)


def _margin(params: GateParams) -> float:
    return params.margin if params.rule == "no_worse" else 0.0


def _figures(params: GateParams, metric: str, estimate: Estimate, answers: Answers) -> str:
    return (
        f"{metric} {estimate.difference:+.4f} on the same {len(answers.targets):,} rows, "
        f"between {estimate.low:+.4f} and {estimate.high:+.4f} at {params.confidence:.0%}"
    )
