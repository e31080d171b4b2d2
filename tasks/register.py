"""Register a run as a version: a commit of its own beside the branch, and an annotated tag.

Reads the checkout as the run left it (`dvc.lock`, `params.yaml`, metrics, card) and the gate's
decision. Writes git objects, one tag, and the DVC remote if there is one. The tag comes last: a
version exists if and only if its tag does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptModel, VersionError
from ratchet.gate.decisions import Decision
from ratchet.git import read
from ratchet.overrides import in_words, lasting, replaced
from ratchet.params import Params
from ratchet.registry import number, publication, snapshot, tags
from ratchet.registry.publication import Draft
from ratchet.registry.records import Version
from ratchet.registry.versions import Registry
from ratchet.repository import OBJECTS, locked
from ratchet.stage import origin, step
from ratchet.store import pipeline, remote
from ratchet.store.cache import digest
from ratchet.store.pipeline import Pipeline

WEIGHTS, CARD, METRICS = "models/classifier.pt", "models/classifier.json", "reports/metrics.json"


@step("network")
def register(
    params: Params,
    tree: Path,
    decision: Decision,
    base: str,
    settings: Mapping[str, Any] | None = None,
) -> Version:
    """Make the run in `tree` a version whose parent is `base`, the commit that the run started from.

    Weights that are already a version do not become another: that version is returned.

    Args:
        settings: values that replaced those in params.yaml for this run. Those of sections that no
            stage lists (`gate`, `run`, `register`) are recorded in the tag and stay out of the
            version's params.yaml.

    Raises:
        DirtyCode: code that the run used is not what `base` holds.
        VersionError: the gate did not let this run through, or `dvc.lock` is not whole.
        CorruptModel: the weights are not those that the gate saw.
        ObjectsMissing, Unreachable: the DVC remote does not hold every object; there is no tag.
    """
    if decision.version:
        return Registry(tree).find(decision.version)
    if not decision.registers:
        raise VersionError(
            f"the gate says {decision.verdict} ({decision.reason}); only what it promotes is"
            " registered"
        )
    run = pipeline.of_tree(tree)
    check_clean(tree, base, run)
    card = _card(tree, decision)
    belonging = lasting(settings or {}, pipeline.listed_sections(tree, base))
    overrides = {key: value for key, value in (settings or {}).items() if key not in belonging}
    contents: dict[str, str] = {}
    if overrides:
        contents[pipeline.PARAMS] = replaced(
            (read(tree, base, pipeline.PARAMS) or b"").decode(), belonging
        )
    push_to = params.register.push_to
    with locked(
        tree, name=OBJECTS, shared=True
    ):  # no collection deletes objects that have no version yet
        remote.push(tree, run.outputs)
        remote.check_present(tree, run.outputs)
        publication.sync(tree, push_to)
        return _publish(push_to, tree, decision, base, run, card, overrides, contents)


def check_clean(tree: Path, base: str, run: Pipeline) -> None:
    """Raise `DirtyCode` if a code dep of the run, or `dvc.yaml`, is not what commit `base` holds."""
    pipeline.refuse_dirty(tree, pipeline.edited(tree, base, run.code), base)


def _publish(
    push_to: str,
    tree: Path,
    decision: Decision,
    base: str,
    run: Pipeline,
    card: dict[str, Any],
    overrides: Mapping[str, Any],
    contents: Mapping[str, str],
) -> Version:
    """Number, commit and tag."""
    registry = Registry(tree)
    known: Version | None = None

    def draft() -> Draft | None:
        nonlocal known
        newest = (
            registry.newest()
        )  # first: what is fetched after this is known, or has the same number
        known = registry.with_weights(decision.weights_sha256)
        if known is not None:
            return None
        name, why = _numbered(tree, newest, run, card)
        metrics = json.loads((tree / METRICS).read_bytes())
        subject = (
            f"{tags.ARTIFACT} {name}: accuracy {metrics['accuracy']:.4f} on {metrics['rows']:,}"
            " rows"
        )
        lines = [
            f"{why[0].upper()}{why[1:]}.",
            f"Gate: {decision.verdict}, {decision.reason}.",
            f"Code: {base[:12]}.",
        ]
        if overrides:
            lines.append(f"For this run alone: {in_words(overrides)}.")
        body = f"{subject}\n\n" + "\n".join(lines) + "\n"
        commit = snapshot.commit(tree, base, snapshot.laid_over(tree, run), body, contents)
        data = _data(tree, decision, base, run, card, metrics, why) | (
            {"overrides": overrides} if overrides else {}
        )
        text = tags.message(subject, lines, data)
        after = [newest.tag if newest else None, registry.last_assignment()]
        return Draft(tags.version_tag(name), commit, text, after)

    tag = publication.publish(tree, push_to, draft)
    if tag is None:
        assert known is not None
        return replace(known, changed=False)
    return registry.find(tag.name)


def _numbered(
    tree: Path, newest: Version | None, run: Pipeline, card: dict[str, Any]
) -> tuple[tags.Number, str]:
    if newest is None:
        return number.FIRST, "first version"
    before = pipeline.of_commit(tree, newest.commit)
    was = newest.data.get("contract", {})
    return number.successor(
        newest.number, number.change(before, run, was, number.contract(card["spec"]))
    )


def _data(
    tree: Path,
    decision: Decision,
    base: str,
    run: Pipeline,
    card: dict[str, Any],
    metrics: dict[str, Any],
    why: str,
) -> dict[str, Any]:
    """The tag's JSON block: what only the flow knows."""
    figures = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    intervals = {
        key: value for key, value in metrics.get("intervals", {}).items() if key in figures
    }
    return {
        "base": base,
        "contract": number.contract(card["spec"]),
        "gate": decision.to_dict(),
        "metrics": figures | ({"intervals": intervals} if intervals else {}),
        "libraries": card.get("libraries", {}),
        "device_type": card.get("device_type"),
        "hashes": {output.path: output.md5 for output in run.outputs},
        "reason": why,
        "weights_sha256": decision.weights_sha256,
        "card_sha256": hashlib.sha256((tree / CARD).read_bytes()).hexdigest(),
        **origin(),
    }


def _card(tree: Path, decision: Decision) -> dict[str, Any]:
    """The card as plain JSON, once the weights beside it are known to be those that the gate saw."""
    card = json.loads((tree / CARD).read_bytes())
    found = digest(tree / WEIGHTS, "sha256")
    if not found == decision.weights_sha256 == card.get("weights_sha256"):
        raise CorruptModel(
            f"{tree / WEIGHTS} has SHA-256 {found[:12]}, its card says"
            f" {str(card.get('weights_sha256'))[:12]} and the gate saw"
            f" {decision.weights_sha256[:12]}; `dvc checkout`, then `python -m tasks.gate`"
        )
    return dict(card)
