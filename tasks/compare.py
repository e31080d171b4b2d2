"""The gate: may this run's model take the place of the one in service?

Reads `models/`, `reports/metrics.json`, `reports/predictions.parquet`, `data/raw/` and the version in service; writes
`reports/gate.json` and, for people, `reports/gate.html`. Params: `gate`. Where nothing serves yet, torch is not imported.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import params as parameters
from tasks.errors import CorruptData, RatchetError, VersionError
from tasks.params import Params
from tasks.stage import step
from tasks.versions import gate, gate_page, number
from tasks.versions.cache import digest
from tasks.versions.gate import Decision
from tasks.versions.registry import Registry, Version, rolled_back
from tasks.versions.tags import checked_environment

if TYPE_CHECKING:
    from tasks.versions.scoring import Compared, Run

    _Seen = tuple[Run, Compared] | tuple[()]  # what was compared, if anything was

_NOTHING: _Seen = ()
WEIGHTS, CARD, METRICS = "models/classifier.pt", "models/classifier.json", "reports/metrics.json"


@step("compute")
def compare(params: Params, tree: Path, environment: str) -> Decision:
    """Decide on the run in `tree` and write `reports/gate.json` and `reports/gate.html`.

    Raises:
        VersionError: there is no run to decide on, or no such environment can be.
        ObjectsMissing, CorruptData, CorruptModel: the champion can't be had whole, so nothing can be compared.
    """
    checked_environment(environment)
    metrics, registry = _json(tree / METRICS), Registry(tree)
    figures: dict[str, Any] = {
        "environment": environment,
        "weights_sha256": _digest(tree / WEIGHTS),
        "rows": int(metrics["rows"]),
        "accuracy": float(metrics["accuracy"]),
    }
    champion, seen = registry.serving(environment), _NOTHING
    known = registry.known(figures["weights_sha256"])
    if known is not None:
        decision = _known(registry, known, champion, figures)
    elif champion is None:
        verdict, reason = gate.first(params.gate, figures["accuracy"])
        decision = Decision(verdict=verdict, reason=reason, **figures)
    else:
        decision, seen = _against(params, tree, champion, figures)
    gate.write(decision, tree)
    gate_page.write(tree, decision, params.gate, *seen)
    return decision


def _known(registry: Registry, known: Version, champion: Version | None, figures: dict[str, Any]) -> Decision:
    """These weights are a version already: nothing to do, unless a run was cut off before it promoted them."""
    environment, served = figures["environment"], champion.name if champion else None
    figures = {**figures, "champion": served, "version": known.name}
    judged = known.data.get("gate", {})
    was_there = any(each.version == known.name for each in registry.history(environment))
    cut_off = judged.get("environment") == environment and judged.get("champion") == served and not known.withdrawn
    if cut_off and not was_there and judged.get("verdict") == "promote":
        reason = f"{known.name} was registered and not yet promoted: {judged.get('reason')}"
        return Decision(verdict="promote", reason=reason, **figures)
    where = f"and serves in {environment}" if served == known.name else f"which does not serve in {environment}"
    return Decision(verdict="known", reason=f"the same weights as {known.name}, {where}", **figures)


def _against(params: Params, tree: Path, champion: Version, figures: dict[str, Any]) -> tuple[Decision, _Seen]:
    """Both answer the same test rows, the champion from the raw rows with its own spec."""
    from tasks.versions import scoring

    if not math.isfinite(float(_json(tree / METRICS)["loss"])):
        return Decision(verdict="refuse", reason="its loss is not finite", champion=champion.name, **figures), _NOTHING
    best = best_before(Registry(tree), figures["environment"], champion, params.gate.metric)
    return _judged(params, tree, scoring.of_tree(tree), champion, best, figures)


def gate_versions(params: Params, tree: Path, champion: str, challenger: str) -> Decision:
    """Compare any two versions by hand, on the test rows of `challenger`; nothing is written.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, CorruptModel: one of them can't be had whole.
    """
    from tasks.versions import scoring

    registry = Registry(tree)
    old, new = registry.find(champion), registry.find(challenger)
    figures = {
        "environment": "",
        "weights_sha256": str(new.weights_sha256),
        "rows": int(new.metrics.get("rows", 0)),
        "accuracy": float(new.metrics.get("accuracy", 0.0)),
        "version": new.name,
    }
    with scoring.of_version(tree, new) as run:
        return _judged(params, tree, run, old, None, figures)[0]


def best_before(registry: Registry, environment: str, champion: Version, metric: str) -> Version | None:
    """The best version that served there since the last major one, by the differences in `metric` that the gates measured.

    None where that is the champion itself, or the gates' figures do not reach back to it. Versions that were rolled
    back or withdrawn are no measure.
    """
    level: dict[str, float] = {champion.name: 0.0}
    versions = {version.name: version for version in registry.versions()}
    current = champion
    while True:  # down the chain of champions: each gate compared with the one before
        judged = current.data.get("gate", {})
        before, difference = versions.get(str(judged.get("champion"))), judged.get("difference")
        same = judged.get("environment") == environment and judged.get("metric") == metric
        if before is None or difference is None or not same or before.name in level:
            break
        if before.number.major != champion.number.major:
            break
        level[before.name] = level[current.name] - float(difference)
        current = before
    out = rolled_back(registry.history(environment))
    fit = [name for name in level if (name not in out and versions[name].withdrawn is None) or name == champion.name]
    best = max(fit, key=lambda name: level[name])
    return None if best == champion.name else versions[best]


def _judged(
    params: Params, tree: Path, run: Run, champion: Version, best: Version | None, figures: dict[str, Any]
) -> tuple[Decision, _Seen]:
    from tasks.versions import scoring

    other = _new_contract(champion, run.contract)
    figures = {**figures, "champion": champion.name, "new_contract": tuple(other), "confidence": params.gate.confidence}
    try:
        compared = scoring.compared(tree, run, champion, params.evaluate.batch_size)
    except CorruptData as error:
        if not other:
            raise
        reason = f"the contract changed ({', '.join(other)}), and {champion.name} can't answer these rows: {error}"
        return Decision(verdict=_allowed(params.gate.on_new_contract), reason=reason, **figures), _NOTHING
    before = scoring.compared(tree, run, best, params.evaluate.batch_size).answers if best else None
    groups = scoring.groups(run, compared.rows)
    found = gate.decide(params.gate, compared.answers, run.classes, before, groups)
    verdict, reason = _settled(params, found.verdict, found.reason, champion, other)
    if found.estimate is not None:
        names = ("champion_score", "challenger_score", "difference", "low", "high", "luck")
        figures |= dict(zip(names, found.estimate, strict=True))
    decision = Decision(
        verdict=verdict,
        reason=reason,
        metric=params.gate.metric,
        compared=len(compared.rows),
        excluded=len(run.targets) - len(compared.rows),
        p=found.p,
        slices=tuple(tuple(each) for each in found.slices),
        best=best.name if best else None,
        best_difference=found.against.difference if found.against else None,
        **figures,
    )
    return decision, (run, compared)


def _settled(
    params: Params, verdict: gate.Verdict, reason: str, champion: Version, other: list[str]
) -> tuple[gate.Verdict, str]:
    """What the params make of an undecided comparison and of a new contract; neither is ever silent."""
    if verdict == "undecided" and params.gate.on_undecided == "promote":
        verdict, reason = "promote", f"let through by gate.on_undecided, {reason}"
    if other:
        said = f"the contract differs from {champion.name}'s ({', '.join(other)}), compared on what both know"
        if verdict == "promote":
            verdict = _allowed(params.gate.on_new_contract)
            said += "; let through by" if verdict == "promote" else "; not let through by"
            said += f" gate.on_new_contract: {params.gate.on_new_contract}"
        reason = f"{said}; {reason}"
    return verdict, reason


def _allowed(choice: str) -> gate.Verdict:
    return "promote" if choice == "promote" else "undecided"


def _new_contract(champion: Version, contract: dict[str, Any]) -> list[str]:
    was = champion.data.get("contract", {})
    return [key for key in number.CONTRACT if was.get(key) != contract.get(key)]


def _digest(file: Path) -> str:
    if not file.is_file():
        raise VersionError(f"{file} is missing, so there is nothing to compare; `dvc repro` makes it")
    return digest(file, "sha256")


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise VersionError(f"{file} is missing, so there is nothing to compare; `dvc repro` makes it") from None
    except ValueError as error:
        raise VersionError(f"{file} is no JSON ({error}); `dvc repro` makes it again") from None


def main(arguments: list[str]) -> None:
    """`python -m tasks.compare ENVIRONMENT`: decide on the run in this checkout and print the verdict."""
    if len(arguments) != 1:
        sys.exit("usage: python -m tasks.compare ENVIRONMENT")
    try:
        decision = compare.fn(parameters.load(), Path(), arguments[0])
    except RatchetError as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"compare: {decision.verdict}: {decision.reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
