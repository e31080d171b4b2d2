"""Register a run as a version: a commit of its own beside the branch, and an annotated tag.

Reads the checkout as the run left it (`dvc.lock`, `params.yaml`, metrics, card) and the gate's
decision. Writes git objects, one tag, and to the DVC remote if there is one. The tag comes last: a
version exists if and only if its tag does. Params: `register`.
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
from ratchet.store import dirty, pipeline, remote
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
    """Make the run in `tree` a version. If a version has these weights already, return that one.

    Args:
        params: the params of the run.
        tree: the checkout as the run left it.
        decision: the decision of the gate on this run.
        base: the commit that the run started from; the parent of the version's commit.
        settings: values that replaced those in params.yaml for this run. Those of sections that no
            stage lists (`gate`, `run`, `register`) are recorded in the tag and stay out of the
            version's params.yaml.

    Raises:
        DirtyCode: the code that the run used is not that of `base`.
        VersionError: the gate did not let this run through, or `dvc.lock` is incomplete.
        CorruptModel: the weights are not those that the gate judged.
        ObjectsMissing, Unreachable: the DVC remote does not have every object. There is no tag.
    """
    if decision.version:
        return Registry(tree).find(decision.version)
    if not decision.registers:
        raise VersionError(
            f"the gate says {decision.verdict} ({decision.reason}), and only a run that it promotes"
            " is registered; see `reports/gate.html`"
        )
    run = pipeline.of_tree(tree)
    check_clean(tree, base, run)
    card = _card(tree, decision)
    settings = settings or {}
    permanent = lasting(settings, pipeline.listed_sections(tree, base))
    overrides = {key: value for key, value in settings.items() if key not in permanent}
    contents: dict[str, str] = {}
    if overrides:
        text = (read(tree, base, pipeline.PARAMS) or b"").decode()
        contents[pipeline.PARAMS] = replaced(text, permanent)
    push_to = params.register.push_to
    # the lock keeps `ratchet gc` from deleting objects that have no version yet
    with locked(tree, name=OBJECTS, shared=True):
        remote.push(tree, run.outputs)
        remote.check_present(tree, run.outputs)
        publication.sync(tree, push_to)
        return _publish(push_to, tree, decision, base, run, card, overrides, contents)


def check_clean(tree: Path, base: str, run: Pipeline) -> None:
    """Raise `DirtyCode` if `dvc.yaml` or a code dep of the run is not that of commit `base`."""
    dirty.refuse_dirty(tree, dirty.edited(tree, base, run.code), base)


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
    same: Version | None = None  # the version that has these weights already

    def draft() -> Draft | None:
        nonlocal same
        # first: a version that is fetched after this has the same weights or the same number
        newest = registry.newest()
        same = registry.with_weights(decision.weights_sha256)
        if same is not None:
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
        data = _data(tree, decision, base, run, card, metrics, why)
        if overrides:
            data["overrides"] = overrides
        text = tags.message(subject, lines, data)
        after = [newest.tag if newest else None, registry.last_assignment()]
        return Draft(tags.version_tag(name), commit, text, after)

    tag = publication.publish(tree, push_to, draft)
    if tag is None:
        assert same is not None
        return replace(same, changed=False)
    return registry.find(tag.name)


def _numbered(
    tree: Path, newest: Version | None, run: Pipeline, card: dict[str, Any]
) -> tuple[tags.Number, str]:
    if newest is None:
        return number.FIRST, "first version"
    before = pipeline.of_commit(tree, newest.commit)
    old, new = newest.data.get("contract", {}), number.contract(card["spec"])
    return number.successor(newest.number, number.change(before, run, old, new))


def _data(
    tree: Path,
    decision: Decision,
    base: str,
    run: Pipeline,
    card: dict[str, Any],
    metrics: dict[str, Any],
    why: str,
) -> dict[str, Any]:
    """The JSON block of the tag."""
    figures: dict[str, Any] = {
        key: value for key, value in metrics.items() if isinstance(value, int | float)
    }
    intervals = {
        key: value for key, value in metrics.get("intervals", {}).items() if key in figures
    }
    if intervals:
        figures["intervals"] = intervals
    return {
        "base": base,
        "contract": number.contract(card["spec"]),
        "gate": decision.to_dict(),
        "metrics": figures,
        "libraries": card.get("libraries", {}),
        "device_type": card.get("device_type"),
        "hashes": {output.path: output.md5 for output in run.outputs},
        "reason": why,
        "weights_sha256": decision.weights_sha256,
        "card_sha256": hashlib.sha256((tree / CARD).read_bytes()).hexdigest(),
        **origin(),
    }


def _card(tree: Path, decision: Decision) -> dict[str, Any]:
    """The card as plain JSON, after a check that its weights are those that the gate judged."""
    card = json.loads((tree / CARD).read_bytes())
    sha256 = digest(tree / WEIGHTS, "sha256")
    in_card = card.get("weights_sha256")
    if not sha256 == decision.weights_sha256 == in_card:
        raise CorruptModel(
            f"{tree / WEIGHTS} has SHA-256 {sha256[:12]}, its card says {str(in_card)[:12]} and the"
            f" gate saw {decision.weights_sha256[:12]}; run `dvc checkout`, then"
            f" `python -m tasks.gate {decision.environment}`"
        )
    return dict(card)
