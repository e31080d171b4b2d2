"""The gate: may this run's model take the place of the one in service?

Reads `models/`, `reports/metrics.json`, `reports/predictions.parquet`, `data/raw/` and the version in service; writes
`reports/gate.json`. Params: `gate`. Where nothing serves yet, torch is not imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tasks import params as parameters
from tasks.errors import RatchetError, VersionError
from tasks.params import Params
from tasks.stage import step
from tasks.versions import gate
from tasks.versions.gate import Decision
from tasks.versions.registry import Registry, Version
from tasks.versions.remote import digest
from tasks.versions.tags import checked_environment

WEIGHTS, CARD, METRICS = "models/classifier.pt", "models/classifier.json", "reports/metrics.json"


@step
def compare(params: Params, tree: Path, environment: str) -> Decision:
    """Decide on the run in `tree` and write `reports/gate.json`.

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
    champion = registry.serving(environment)
    known = registry.known(figures["weights_sha256"])
    if known is not None:
        decision = _known(registry, known, champion, figures)
    elif champion is None:
        verdict, reason = gate.first(params.gate, figures["accuracy"])
        decision = Decision(verdict=verdict, reason=reason, **figures)
    else:
        decision = _against(params, tree, champion, figures)
    gate.write(decision, tree)
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


def _against(params: Params, tree: Path, champion: Version, figures: dict[str, Any]) -> Decision:
    """Both answer the same test rows, the champion from the raw rows with its own spec."""
    from tasks.versions import scoring

    ours = scoring.challenger(tree, _json(tree / CARD)["spec"]["classes"])
    theirs = scoring.champion(tree, champion, ours.row_ids, params.evaluate.batch_size) == ours.targets
    lost, won = int((theirs & ~ours.right).sum()), int((ours.right & ~theirs).sum())
    verdict, reason, low, high = gate.decide(params.gate, lost, won, len(theirs))
    return Decision(
        verdict=verdict,
        reason=reason,
        champion=champion.name,
        champion_accuracy=float(theirs.mean()),
        difference=(won - lost) / len(theirs),
        low=low,
        high=high,
        confidence=params.gate.confidence,
        **figures,
    )


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
