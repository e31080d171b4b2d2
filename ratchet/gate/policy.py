"""The verdict: what the rows show (`judgement.py`), and what the params decide where they do not.

The params decide where the rows are too few, where the contract is new, and below
`gate.min_accuracy`. Whatever they say, a challenger that is or seems worse is not promoted.
"""

from __future__ import annotations

from collections.abc import Sequence

from ratchet.gate.decisions import Verdict
from ratchet.gate.judgement import Judgement, Reach, margin_of
from ratchet.gate.statistics import Estimate
from ratchet.params import GateParams


def first(params: GateParams, accuracy: float) -> tuple[Verdict, str]:
    """The verdict where nothing serves yet, and the reason: the accuracy alone decides."""
    if accuracy >= params.min_accuracy:
        reason = (
            f"first in service: accuracy {accuracy:.4f} reaches gate.min_accuracy"
            f" {params.min_accuracy}"
        )
        return "promote", reason
    return "refuse", f"accuracy {accuracy:.4f} is below gate.min_accuracy {params.min_accuracy}"


def settle(
    params: GateParams,
    judgement: Judgement,
    accuracy: float,
    champion: str,
    champion_accuracy: float | None = None,
    new_contract: Sequence[str] = (),
) -> tuple[Verdict, str]:
    """The verdict and the reason, which names every param that decided.

    Args:
        params: the params of the gate.
        judgement: what the rows show.
        accuracy: the challenger's, on its own test rows, 0 to 1.
        champion: the champion's version name.
        champion_accuracy: the champion's, on its own test rows; None if it is unknown.
        new_contract: what differs from the champion's contract.
    """
    verdict, reason = judgement.verdict, judgement.reason
    if not accuracy >= params.min_accuracy:
        below = _below(params, accuracy, champion, champion_accuracy)
        is_worse = verdict in ("refuse", "worse")
        return "refuse", f"{reason}; {below}" if is_worse else f"{below}; {reason}"
    is_incomparable = verdict == "undecided" and judgement.reach is None
    if is_incomparable and new_contract:
        verdict = "promote"  # as for a first version
        reason = (
            f"accuracy {accuracy:.4f} reaches gate.min_accuracy {params.min_accuracy}, as for a"
            " first version"
        )
    elif verdict == "undecided":
        verdict, reason = _undecided(params, judgement)
    if not new_contract:
        return verdict, reason
    differs = f"the contract differs from {champion}'s ({', '.join(new_contract)})"
    if is_incomparable:
        differs += f", nothing can be compared ({judgement.reason})"
    else:
        differs += ", compared on what both know"
    if verdict == "promote":
        choice = params.on_new_contract
        if choice == "promote":
            differs += f"; let through by gate.on_new_contract: {choice}"
        else:
            verdict = "undecided"
            differs += f"; not let through by gate.on_new_contract: {choice}"
    return verdict, f"{differs}; {reason}"


def _undecided(params: GateParams, judgement: Judgement) -> tuple[Verdict, str]:
    """What `gate.on_undecided` decides where the rows are too few to tell."""
    choice = params.on_undecided
    key = f"gate.on_undecided: {choice}"
    if choice == "promote":
        return "promote", f"let through by {key}; {judgement.reason}"
    keeps = f"{key} keeps the champion"
    if choice == "estimate":
        higher = _scoring_higher(judgement)
        if judgement.estimate and not higher:
            reason = f"let through by {key}, as it scores no lower on these rows"
            return "promote", f"{reason}; {judgement.reason}"
        if higher:
            keeps += f", as the challenger scores lower than the {' and the '.join(higher)}"
    advice = f"{_advice(params, judgement.reach)}; " if judgement.reach else ""
    return "undecided", f"{judgement.reason}. {advice}{keeps}"


def _scoring_higher(judgement: Judgement) -> list[str]:
    """Which of the versions compared with scores higher than the challenger on these rows."""
    names = []
    if _is_lower(judgement.estimate):
        names.append("champion")
    if _is_lower(judgement.against_best):
        names.append("best before it")
    return names


def _is_lower(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.difference < 0


def _advice(params: GateParams, reach: Reach) -> str:
    """What these rows could have shown, and how many rows would be enough."""
    count = f"{reach.disagreements:,} disagreement{'' if reach.disagreements == 1 else 's'}"
    shown = (
        f"{reach.rows:,} rows with {count} can show a difference of {reach.detectable:.4f} or more"
    )
    needed = reach.needed(params)
    if needed is None:
        return shown
    margin = margin_of(params)
    if reach.target == margin:
        task = f"a margin of {margin} takes"
    elif margin:
        task = f"telling this difference from the margin of {margin} takes"
    else:
        task = "telling this difference from none takes"
    return f"{shown}, and {task} about {_rounded(needed):,}"


def _rounded(rows: int) -> int:
    """Round up to two significant digits: the share of disagreements is known no better."""
    unit = int(10 ** max(0, len(str(rows)) - 2))
    return -(-rows // unit) * unit


def _below(
    params: GateParams, accuracy: float, champion: str, champion_accuracy: float | None
) -> str:
    """Why `gate.min_accuracy` refuses, with a hint if it would refuse the champion as well."""
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
