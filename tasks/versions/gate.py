"""The gate: may a challenger take the champion's place? Pure functions of the answers both gave to the same rows.

Everything here is arithmetic on NumPy arrays; who scored the rows is no concern of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tasks.errors import VersionError
from tasks.params import GateParams
from tasks.versions import paired
from tasks.versions.paired import Answers, Estimate

Verdict = Literal["promote", "refuse", "undecided", "known"]
FILE = "reports/gate.json"
NEVER = 1e-5  # at most this share of the comparisons of equally good models ends with a refusal; see `decide`


class Slice(NamedTuple):
    """One class or group by itself; p-values are corrected for how many are judged.

    `p`: that it lost no more than `gate.slice_margin`. `luck`: of such a loss where both models are equally good.
    `fallen`: it is shown to have lost more than that margin.
    """

    name: str
    rows: int
    difference: float
    p: float
    luck: float
    fallen: bool


class Judgement(NamedTuple):
    """What the paired comparison says; `against` is the estimate against the best version before."""

    verdict: Verdict
    reason: str
    estimate: Estimate | None
    p: float
    slices: tuple[Slice, ...]
    against: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate decided and the numbers behind it; `reports/gate.json` holds the same.

    `champion`, `best` and `version` are version names. `rows` and `accuracy` are the run's own, from `evaluate`; the
    figures of the comparison are of `compared` rows, in the metric that `metric` names, and `low` and `high` bound the
    difference (challenger less champion) at `confidence`, each from one side.
    """

    verdict: Verdict
    reason: str
    environment: str
    weights_sha256: str
    rows: int
    accuracy: float
    version: str | None = None
    champion: str | None = None
    metric: str | None = None
    compared: int | None = None
    excluded: int | None = (
        None  # test rows left out: a model was trained on them, or the champion can't name their class
    )
    champion_score: float | None = None
    challenger_score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    p: float | None = None  # McNemar's, one-sided: as many rows won by chance alone
    luck: float | None = None  # as many lost by chance alone; of `metric`
    slices: Sequence[Sequence[Any]] = ()  # see `Slice`
    best: str | None = None
    best_difference: float | None = None
    new_contract: Sequence[str] = ()  # what differs from the champion's contract

    @property
    def registers(self) -> bool:
        """Does the challenger become a version?"""
        return self.verdict == "promote" and self.version is None

    @property
    def promotes(self) -> bool:
        """Does the challenger (or the version that it already is) go into service?"""
        return self.verdict == "promote"

    def to_dict(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in asdict(self).items()}


def write(decision: Decision, tree: Path) -> None:
    """Write `reports/gate.json`, whole or not at all."""
    file = tree / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(decision.to_dict(), indent=2, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def read(tree: Path) -> Decision:
    """Read `reports/gate.json`; raises `VersionError` where it is missing or no decision."""
    file = tree / FILE
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        values = {field.name: held[field.name] for field in fields(Decision)}
        return Decision(**{key: _frozen(value) for key, value in values.items()})
    except FileNotFoundError:
        raise VersionError(f"{file} is missing; `python -m tasks.compare prod` writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise VersionError(f"{file} is no decision of the gate ({error}); `python -m tasks.compare prod`") from None


def first(params: GateParams, accuracy: float) -> tuple[Verdict, str]:
    """Where nothing serves yet, the accuracy alone decides."""
    if accuracy >= params.min_accuracy:
        return "promote", f"first in service: accuracy {accuracy:.4f} reaches gate.min_accuracy {params.min_accuracy}"
    return "refuse", f"accuracy {accuracy:.4f} is below gate.min_accuracy {params.min_accuracy}"


def decide(
    params: GateParams,
    answers: Answers,
    classes: Sequence[str],
    best: Answers | None = None,
    groups: Mapping[str, np.ndarray] | None = None,
) -> Judgement:
    """May the challenger take the champion's place?

    It is promoted where it is shown, at `gate.confidence`, to be better or within the margin. It is refused where a loss
    beyond the margin (of all rows, of a class or group, or against the best version before) is shown at that
    confidence *and* is no bad luck: equally good models would show one less than once in 1 / `NEVER` comparisons. That holds
    exactly, whatever the shares of the classes, the number of rows and of groups: rows on which such models disagree
    fall to either like a fair coin (McNemar's test), and Holm's correction covers all that is judged. Anything else is
    undecided: a loss that is shown at `gate.confidence` alone stops a promotion, but does not refuse.

    Args:
        answers: what both answered to the same rows.
        classes: names of the classes that `answers` index.
        best: the same with the best version that served since the last major one, if that is not the champion. Without
            it many small steps would lead down.
        groups: slices beside the classes, by name: which rows are in it, bool (rows,).

    Returns:
        The verdict, before `on_undecided`, and the numbers behind it.
    """
    judged = np.flatnonzero(np.bincount(answers.targets, minlength=len(classes)) >= params.min_slice)
    if not len(answers.targets) or (params.metric != "accuracy" and not len(judged)):
        lack = f"of a class with gate.min_slice = {params.min_slice} rows " if len(answers.targets) else ""
        return Judgement("undecided", f"no rows {lack}to compare on", None, 1.0, (), None)
    estimate = paired.estimate(answers, params.metric, judged, params.confidence)
    against = paired.estimate(best, params.metric, judged, params.confidence) if best and len(best.targets) else None
    slices = judge_slices(params, answers, classes, groups or {})
    tests = {"all": estimate.luck} | ({"best": against.luck} if against else {}) | {s.name: s.luck for s in slices}
    luck = paired.holm(tests)
    slices = tuple(each._replace(luck=luck[each.name]) for each in slices)
    p = paired.mcnemar(*paired.disagreements(answers))
    better = p < 1 - params.confidence if params.metric == "accuracy" else estimate.low > 0
    verdict, why = _verdict(params, estimate, better, luck["all"])
    reason = f"{why}: {_said(params, estimate, len(answers.targets))}"
    if fallen := [each for each in slices if each.fallen]:
        sure = any(each.luck < NEVER for each in fallen)
        worst = ", ".join(f"{each.name} ({each.difference:+.3f} on {each.rows} rows)" for each in fallen)
        verdict = "refuse" if sure or verdict == "refuse" else "undecided"
        reason = f"{worst} {'got' if sure else 'seems to have got'} worse by more than {params.slice_margin}; {reason}"
    elif against and best and verdict == "promote" and against.low < -params.margin:
        verdict = "refuse" if against.high < -params.margin and luck["best"] < NEVER else "undecided"
        reason = f"downhill: against the best before it {_said(params, against, len(best.targets))}; {reason}"
    return Judgement(verdict, reason, estimate, p, slices, against)


def judge_slices(
    params: GateParams, answers: Answers, classes: Sequence[str], groups: Mapping[str, np.ndarray]
) -> tuple[Slice, ...]:
    """Every class and group with at least `gate.min_slice` rows by itself; `p` is corrected, `luck` not yet."""
    masks = {f"class {name}": answers.targets == index for index, name in enumerate(classes)} | dict(groups)
    parts = {name: answers.at(mask) for name, mask in masks.items() if mask.sum() >= params.min_slice}
    found = {name: (*paired.disagreements(part), len(part.targets)) for name, part in parts.items()}
    p = paired.holm({name: paired.p_fallen(*counts, params.slice_margin) for name, counts in found.items()})
    return tuple(
        Slice(name, rows, (won - lost) / rows, p[name], paired.mcnemar(won, lost), p[name] < 1 - params.confidence)
        for name, (lost, won, rows) in found.items()
    )


def _verdict(params: GateParams, estimate: Estimate, better: bool, luck: float) -> tuple[Verdict, str]:
    margin = params.margin if params.rule == "no_worse" else 0.0
    if better:
        return "promote", "better"
    if params.rule == "no_worse" and estimate.low >= -margin:
        return "promote", f"no worse than the margin of {margin}"
    if estimate.high < -margin:
        worse = f"worse than the margin of {margin}" if margin else "worse"
        return ("refuse", worse) if luck < NEVER else ("undecided", f"seems {worse}")
    return "undecided", f"too few rows to tell, with a margin of {margin}" if margin else "not shown to be better"


def _said(params: GateParams, estimate: Estimate, rows: int) -> str:
    return (
        f"{params.metric} {estimate.difference:+.4f} on the same {rows:,} rows, "
        f"between {estimate.low:+.4f} and {estimate.high:+.4f} at {params.confidence:.0%}"
    )


def _plain(value: Any) -> Any:
    """As JSON holds it: floats rounded to six digits, lists for tuples."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
