"""The gate: may this run's model take the place of the one in service?

Reads `models/`, `reports/metrics.json`, `reports/predictions.parquet`, `data/raw/` and the version
in service. Writes `reports/gate.json` and, for people, `reports/gate.html`. Params: `gate`. If
nothing serves yet, torch is not imported.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet import params as parameters
from ratchet.errors import CorruptData, RatchetError, VersionError
from ratchet.gate import decisions, judgement, page, policy
from ratchet.gate.decisions import Decision
from ratchet.gate.judgement import Judgement
from ratchet.params import Params
from ratchet.registry import number
from ratchet.registry.records import Version, rolled_back
from ratchet.registry.tags import checked_environment
from ratchet.registry.versions import Registry
from ratchet.stage import step
from ratchet.store.cache import digest

if TYPE_CHECKING:
    from ratchet.gate.scoring import Compared, Run

    _Seen = tuple[Run, Compared] | tuple[()]  # what was compared, if anything was

_NOTHING: _Seen = ()
WEIGHTS, CARD, METRICS = "models/classifier.pt", "models/classifier.json", "reports/metrics.json"


@step("compute")
def gate(params: Params, tree: Path, environment: str) -> Decision:
    """Decide on the run in `tree` and write `reports/gate.json` and `reports/gate.html`.

    Raises:
        VersionError: there is no run to decide on, or `environment` is not a valid name.
        ObjectsMissing, CorruptData, CorruptModel: the champion is unavailable or damaged, so
            nothing can be compared.
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
    version = registry.with_weights(figures["weights_sha256"])
    if version is not None:
        decision = _known(params, registry, version, champion, figures)
    elif champion is None:
        verdict, reason = policy.first(params.gate, figures["accuracy"])
        decision = Decision(verdict=verdict, reason=reason, **figures)
    else:
        decision, seen = _against(params, tree, champion, figures)
    decisions.write(decision, tree)
    page.write(tree, decision, params.gate, *seen)
    return decision


def _known(
    params: Params,
    registry: Registry,
    version: Version,
    champion: Version | None,
    figures: dict[str, Any],
) -> Decision:
    """The decision on weights that are a version already.

    Nothing is left to do, unless an earlier run was interrupted before it promoted that version.
    """
    environment, name = figures["environment"], version.name
    serving = champion.name if champion else None
    figures = {**figures, "champion": serving, "version": name}
    before = version.data.get("gate", {})
    has_served = any(entry.version == name for entry in registry.history(environment))
    is_interrupted = (
        before.get("environment") == environment
        and before.get("champion") == serving
        and before.get("verdict") == "promote"
        and not version.withdrawn
        and not has_served
    )
    if is_interrupted:
        reason = f"{name} was registered and not yet promoted: {before.get('reason')}"
        # gate.min_accuracy may have been raised since
        verdict, accuracy = policy.first(params.gate, figures["accuracy"])
        if verdict != "promote":
            reason = f"{accuracy}; {reason}"
        return Decision(verdict=verdict, reason=reason, **figures)
    if version.withdrawn:
        where = (
            f"which is withdrawn ({version.withdrawn.data.get('reason') or 'no reason was given'});"
            f" `ratchet reinstate {name} --reason ...` makes it usable again, or train with"
            " another seed (`ratchet train --set train.seed=...`)"
        )
    elif serving == name:
        where = f"which serves in {environment}"
    else:
        where = f"which does not serve in {environment}"
    return Decision(verdict="known", reason=f"the same weights as {name}, {where}", **figures)


def _against(
    params: Params, tree: Path, champion: Version, figures: dict[str, Any]
) -> tuple[Decision, _Seen]:
    """Compare the run in `tree` with the champion on the run's test rows.

    The champion predicts from the raw rows, with its own spec.
    """
    from ratchet.gate import scoring

    if not math.isfinite(float(_json(tree / METRICS)["loss"])):
        reason = "its loss is not finite"
        decision = Decision(verdict="refuse", reason=reason, champion=champion.name, **figures)
        return decision, _NOTHING
    best = best_before(Registry(tree), figures["environment"], champion, params.gate.metric)
    return _judged(params, tree, scoring.of_tree(tree), champion, best, figures)


def gate_versions(params: Params, tree: Path, champion: str, challenger: str) -> Decision:
    """Compare any two versions on the test rows of `challenger`, without writing anything.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, CorruptModel: one of them is unavailable or damaged.
    """
    from ratchet.gate import scoring

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


def best_before(
    registry: Registry, environment: str, champion: Version, metric: str
) -> Version | None:
    """The best version that served there since the last major one, other than the champion.

    Each gate measured the difference in `metric` between a champion and the one before. These
    differences add up to a level for every champion. A gain counts only if its gate showed it:
    otherwise the new champion is not above the one before. Of equally good versions the oldest is
    the best. Versions that were rolled back or withdrawn do not count.

    Returns:
        None if the champion is the best, or if the gates' figures do not reach back any further.
    """
    level: dict[str, float] = {champion.name: 0.0}
    versions = {version.name: version for version in registry.versions()}
    current = champion
    while True:  # back along the chain of champions
        decision = current.data.get("gate", {})
        before, difference = versions.get(str(decision.get("champion"))), decision.get("difference")
        same = decision.get("environment") == environment and decision.get("metric") == metric
        if before is None or difference is None or not same or before.name in level:
            break
        if before.number.major != champion.number.major:
            break
        gain = float(difference)
        is_shown = float(decision.get("low") or 0) > 0
        if not is_shown:
            gain = min(gain, 0.0)
        level[before.name] = level[current.name] - gain
        current = before
    unfit = rolled_back(registry.history(environment))
    candidates = [
        name
        for name in level
        if (name not in unfit and versions[name].withdrawn is None) or name == champion.name
    ]
    best = max(reversed(candidates), key=lambda name: level[name])
    return None if best == champion.name else versions[best]


def _judged(
    params: Params,
    tree: Path,
    run: Run,
    champion: Version,
    best: Version | None,
    figures: dict[str, Any],
) -> tuple[Decision, _Seen]:
    from ratchet.gate import scoring

    contract = tuple(_new_contract(champion, run.contract))
    figures = {
        **figures,
        "champion": champion.name,
        "new_contract": contract,
        "confidence": params.gate.confidence,
    }
    seen: _Seen = _NOTHING
    try:
        compared = scoring.compared(tree, run, champion, params.evaluate.batch_size)
    except CorruptData as error:
        if not contract:
            raise
        judged = Judgement("undecided", f"{champion.name} can't answer these rows: {error}")
    else:
        with_best = None
        if best:
            with_best = scoring.compared(tree, run, best, params.evaluate.batch_size).answers
        groups = scoring.groups(run, compared.rows)
        judged = judgement.decide(params.gate, compared.answers, run.classes, with_best, groups)
        figures |= _figures(params, judged, compared, len(run.targets), best)
        seen = run, compared
    verdict, reason = policy.settle(
        params.gate,
        judged,
        figures["accuracy"],
        champion.name,
        champion.metrics.get("accuracy"),
        contract,
    )
    return Decision(verdict=verdict, reason=reason, **figures), seen


def _figures(
    params: Params, judged: Judgement, compared: Compared, rows: int, best: Version | None
) -> dict[str, Any]:
    """The numbers of a comparison, as `Decision` names them. `rows` counts all test rows."""
    figures: dict[str, Any] = {
        "metric": params.gate.metric,
        "compared": len(compared.rows),
        "excluded": rows - len(compared.rows),
        "detectable": judged.reach.detectable if judged.reach else None,
        "p": judged.p,
        "slices": tuple(tuple(part) for part in judged.slices),
        "best": best.name if best else None,
        "best_difference": judged.against_best.difference if judged.against_best else None,
    }
    if judged.estimate is not None:
        names = ("champion_score", "challenger_score", "difference", "low", "high", "luck")
        figures |= dict(zip(names, judged.estimate, strict=True))
    return figures


def _new_contract(champion: Version, contract: dict[str, Any]) -> list[str]:
    """The parts of the contract that differ from the champion's."""
    old = champion.data.get("contract", {})
    return [key for key in number.CONTRACT if old.get(key) != contract.get(key)]


def _digest(file: Path) -> str:
    if not file.is_file():
        raise VersionError(
            f"{file} is missing, so there is nothing to compare; make it with `dvc repro`"
        )
    return digest(file, "sha256")


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise VersionError(
            f"{file} is missing, so there is nothing to compare; make it with `dvc repro`"
        ) from None
    except ValueError as error:
        raise VersionError(
            f"{file} is not valid JSON ({error}); make it again with `dvc repro`"
        ) from None


def main(arguments: list[str]) -> None:
    """Decide on the run in this checkout and print the verdict."""
    if len(arguments) != 1:
        sys.exit("usage: python -m tasks.gate ENVIRONMENT")
    try:
        decision = gate.fn(parameters.load(), Path(), arguments[0])
    except RatchetError as error:
        print(f"gate: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"gate: {decision.verdict}: {decision.reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
