"""The gate: may this run's model take the place of the one in service?

Reads `models/`, `reports/metrics.json`, `reports/predictions.parquet`, `data/raw/` and the version
in service; writes `reports/gate.json` and, for people, `reports/gate.html`. Params: `gate`. Where
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
from ratchet.gate import decisions, judgement, page
from ratchet.gate.decisions import Decision
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
        VersionError: there is no run to decide on, or no such environment can be.
        ObjectsMissing, CorruptData, CorruptModel: the champion can't be had whole, so nothing can
            be compared.
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
    known = registry.with_weights(figures["weights_sha256"])
    if known is not None:
        decision = _known(params, registry, known, champion, figures)
    elif champion is None:
        verdict, reason = judgement.first(params.gate, figures["accuracy"])
        decision = Decision(verdict=verdict, reason=reason, **figures)
    else:
        decision, seen = _against(params, tree, champion, figures)
    decisions.write(decision, tree)
    page.write(tree, decision, params.gate, *seen)
    return decision


def _known(
    params: Params,
    registry: Registry,
    known: Version,
    champion: Version | None,
    figures: dict[str, Any],
) -> Decision:
    """These weights are a version already: nothing to do, unless a run was cut off before it promoted them."""
    environment, serving = figures["environment"], champion.name if champion else None
    figures = {**figures, "champion": serving, "version": known.name}
    before = known.data.get("gate", {})
    served = any(assignment.version == known.name for assignment in registry.history(environment))
    cut_off = (
        before.get("environment") == environment
        and before.get("champion") == serving
        and not known.withdrawn
    )
    if cut_off and not served and before.get("verdict") == "promote":
        reason = f"{known.name} was registered and not yet promoted: {before.get('reason')}"
        verdict, accuracy = judgement.first(
            params.gate, figures["accuracy"]
        )  # the floor may have been raised since
        return Decision(
            verdict=verdict,
            reason=reason if verdict == "promote" else f"{accuracy}; {reason}",
            **figures,
        )
    where = (
        f"which serves in {environment}"
        if serving == known.name
        else f"which does not serve in {environment}"
    )
    if known.withdrawn:
        where = (
            f"which is withdrawn ({known.withdrawn.data.get('reason') or 'no reason was given'});"
            f" `ratchet reinstate {known.name} --reason ...` makes it usable again, or train with"
            " another seed (`ratchet train --set train.seed=...`)"
        )
    return Decision(verdict="known", reason=f"the same weights as {known.name}, {where}", **figures)


def _against(
    params: Params, tree: Path, champion: Version, figures: dict[str, Any]
) -> tuple[Decision, _Seen]:
    """Both answer the same test rows, the champion from the raw rows with its own spec."""
    from ratchet.gate import scoring

    if not math.isfinite(float(_json(tree / METRICS)["loss"])):
        return (
            Decision(
                verdict="refuse", reason="its loss is not finite", champion=champion.name, **figures
            ),
            _NOTHING,
        )
    best = best_before(Registry(tree), figures["environment"], champion, params.gate.metric)
    return _judged(params, tree, scoring.of_tree(tree), champion, best, figures)


def gate_versions(params: Params, tree: Path, champion: str, challenger: str) -> Decision:
    """Compare any two versions by hand, on the test rows of `challenger`; nothing is written.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, CorruptModel: one of them can't be had whole.
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
    """The best version that served there since the last major one, by the differences in `metric` that the gates measured.

    A gain counts only where its gate showed it: a champion that was let through without that is not
    above the one before it, and the oldest of equally good versions is the measure. None where that
    is the champion itself, or the gates' figures do not reach back to it. Versions that were rolled
    back or withdrawn do not count.
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
        shown = float(judged.get("low") or 0) > 0
        level[before.name] = level[current.name] - (
            float(difference) if shown else min(float(difference), 0.0)
        )
        current = before
    out = rolled_back(registry.history(environment))
    fit = [
        name
        for name in level
        if (name not in out and versions[name].withdrawn is None) or name == champion.name
    ]
    best = max(reversed(fit), key=lambda name: level[name])
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
        found = judgement.Judgement(
            "undecided", f"{champion.name} can't answer these rows: {error}"
        )
    else:
        before = (
            scoring.compared(tree, run, best, params.evaluate.batch_size).answers if best else None
        )
        groups = scoring.groups(run, compared.rows)
        found = judgement.decide(params.gate, compared.answers, run.classes, before, groups)
        figures |= _figures(params, found, compared, len(run.targets), best)
        seen = run, compared
    accuracy, was = figures["accuracy"], champion.metrics.get("accuracy")
    verdict, reason = judgement.settle(params.gate, found, accuracy, champion.name, was, contract)
    return Decision(verdict=verdict, reason=reason, **figures), seen


def _figures(
    params: Params, found: judgement.Judgement, compared: Compared, rows: int, best: Version | None
) -> dict[str, Any]:
    """The numbers of a comparison, as `Decision` names them.

    `rows` are all test rows of the run.
    """
    figures: dict[str, Any] = {
        "metric": params.gate.metric,
        "compared": len(compared.rows),
        "excluded": rows - len(compared.rows),
        "detectable": found.reach.detectable if found.reach else None,
        "p": found.p,
        "slices": tuple(tuple(part) for part in found.slices),
        "best": best.name if best else None,
        "best_difference": found.against.difference if found.against else None,
    }
    if found.estimate is not None:
        names = ("champion_score", "challenger_score", "difference", "low", "high", "luck")
        figures |= dict(zip(names, found.estimate, strict=True))
    return figures


def _new_contract(champion: Version, contract: dict[str, Any]) -> list[str]:
    was = champion.data.get("contract", {})
    return [key for key in number.CONTRACT if was.get(key) != contract.get(key)]


def _digest(file: Path) -> str:
    if not file.is_file():
        raise VersionError(
            f"{file} is missing, so there is nothing to compare; `dvc repro` makes it"
        )
    return digest(file, "sha256")


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise VersionError(
            f"{file} is missing, so there is nothing to compare; `dvc repro` makes it"
        ) from None
    except ValueError as error:
        raise VersionError(f"{file} is no JSON ({error}); `dvc repro` makes it again") from None


def main(arguments: list[str]) -> None:
    """`python -m tasks.gate ENVIRONMENT`: decide on the run in this checkout and print the verdict."""
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
