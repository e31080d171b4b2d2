"""`reports/gate.html`: what the gate decided and why, for people, in a single file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ratchet import tango
from ratchet.gate import statistics
from ratchet.gate.decisions import Decision
from ratchet.git import head
from ratchet.pages import page
from ratchet.params import GateParams
from ratchet.registry import history
from ratchet.registry.records import Version
from ratchet.registry.versions import Registry
from ratchet.store import pipeline

if TYPE_CHECKING:
    from ratchet.gate.scoring import Compared, Run
    from ratchet.gate.statistics import Answers

FILE = "reports/gate.html"
TEMPLATE = Path(__file__).with_name("page.html")
EXAMPLES = 24  # of each kind
CHAIN = 10  # champions before this run
BUDGET = 400_000  # characters of pictures
HEADLINES = {
    "promote": "goes into service",
    "refuse": "is refused",
    "worse": "seems worse",
    "undecided": "is not shown to be good enough",
    "known": "is nothing new",
}


def write(
    tree: Path,
    decision: Decision,
    params: GateParams,
    run: Run | None = None,
    compared: Compared | None = None,
) -> None:
    """Write the page.

    Args:
        tree: the checkout with the run.
        decision: the decision of the gate.
        params: the params of the gate.
        run: the run, if it was compared with a champion.
        compared: the answers of both, if they were compared.

    Raises:
        VersionError: the run in `tree` is incomplete.
    """
    bars, examples = [], []
    if run is not None and compared is not None and len(compared.rows):
        bars = _bars(decision, params, run, compared)
        examples = _examples(run, compared)
    changed = None
    if decision.champion and not decision.version:
        changed = history.diff(tree, decision.champion, None)
    bounds = [abs(bar[end]) for bar in bars for end in ("low", "high")]
    values = {
        "decision": decision,
        "gate": params,
        "headline": HEADLINES[decision.verdict],
        "tone": {"promote": "good", "refuse": "bad", "worse": "bad"}.get(decision.verdict, "third"),
        "bars": bars,
        "limit": max([params.margin, params.slice_margin, *bounds]),
        "examples": examples,
        "moved": compared.disagreements if compared else None,
        "changed": changed,
        "shares": _shares(changed),
        **_origin(tree, decision),
    }
    page.write(tree / FILE, TEMPLATE, values)


def _shares(changed: history.Difference | None) -> dict[str, tuple[Any, Any]]:
    """The test rows of each class where their number changed: class to (before, now)."""
    if changed is None:
        return {}
    return {
        name: metrics["support"]
        for name, metrics in changed.per_class.items()
        if "support" in metrics
    }


def _bars(
    decision: Decision, params: GateParams, run: Run, compared: Compared
) -> list[dict[str, Any]]:
    """The rows of the table of differences: all rows, then each class and group."""
    from ratchet.gate import scoring

    is_worse: dict[str, bool] = {part[0]: part[5] for part in decision.slices}
    masks = {
        f"class {name}": compared.answers.targets == index for index, name in enumerate(run.classes)
    }
    bars = [_bar("all rows", compared.answers, params.confidence, params.margin)]
    for name, mask in {**masks, **scoring.groups(run, compared.rows)}.items():
        if mask.any():
            bar = _bar(name, compared.answers.at(mask), params.confidence, params.slice_margin)
            bar["result"] = _result(bar, is_worse.get(name))
            bars.append(bar)
    return bars


def _result(bar: dict[str, Any], is_worse: bool | None) -> str:
    """What the gate concludes about a class or group; `is_worse` is None if it was not judged."""
    if is_worse is None:
        return "too few rows to be judged"
    if is_worse:
        return "lost too much"
    if bar["difference"] >= -bar["margin"]:
        return "within the margin"
    return "not shown to be lost"


def _bar(name: str, answers: Answers, confidence: float, margin: float) -> dict[str, Any]:
    rows, (lost, won) = len(answers.targets), statistics.disagreements(answers)
    low, high = tango.interval(lost, won, rows, confidence)
    return {
        "name": name,
        "rows": rows,
        "lost": lost,
        "won": won,
        "margin": margin,
        "result": "",
        "difference": (won - lost) / rows,
        "low": low,
        "high": high,
    }


def _examples(run: Run, compared: Compared) -> list[dict[str, Any]]:
    """Rows that exactly one of both got right, the most confident mistakes first.

    Rows that only the champion got right come first.
    """
    targets, theirs, ours = compared.answers
    confidences = run.confidences[compared.rows]
    lost = np.flatnonzero((theirs == targets) & (ours != targets))
    won = np.flatnonzero((ours == targets) & (theirs != targets))
    lost = lost[np.argsort(-confidences[lost], kind="stable")]
    won = won[np.argsort(-compared.confidences[won], kind="stable")]
    rows = np.concatenate([lost[:EXAMPLES], won[:EXAMPLES]])
    ids = run.row_ids[compared.rows[rows]].tolist()
    pictures = _pictures(run, ids)

    def name(index: int) -> str:
        return run.classes[index] if index >= 0 else "another class"

    return [
        {
            "kind": "lost" if theirs[row] == targets[row] else "won",
            "row_id": row_id,
            "target": name(targets[row]),
            "champion": (
                name(theirs[row]),
                float(compared.confidences[row]),
                bool(theirs[row] == targets[row]),
            ),
            "challenger": (
                name(ours[row]),
                float(confidences[row]),
                bool(ours[row] == targets[row]),
            ),
            "picture": pictures.get(row_id),
        }
        for row, row_id in zip(rows.tolist(), ids, strict=True)
    ]


def _pictures(run: Run, row_ids: list[str]) -> dict[str, str]:
    """The pictures of these rows, as the run's model reads them, within `BUDGET`.

    Empty if the inputs are not images.
    """
    from ratchet.dataset.spec import Spec, inputs
    from ratchet.shards import shards

    if run.contract["kind"] != "image" or not row_ids:
        return {}
    pictures: dict[str, str] = {}
    images = inputs(shards.rows(run.raw, row_ids), Spec.parse(run.contract))
    for row_id, pixels in zip(row_ids, images, strict=True):
        uri = page.picture(pixels)
        if sum(map(len, pictures.values())) + len(uri) <= BUDGET:
            pictures[row_id] = uri
    return pictures


def _origin(tree: Path, decision: Decision) -> dict[str, Any]:
    """Where this run and the champions before it come from."""
    registry = Registry(tree)
    versions = {version.name: version for version in registry.versions()}
    contents = pipeline.of_tree(tree)
    inputs = {}
    if pipeline.SOURCES in contents.inputs:
        inputs[pipeline.SOURCES] = contents.inputs[pipeline.SOURCES]
    served = {span.version: span for span in history.spans(registry, decision.environment)}
    chain: list[Version] = []
    name = decision.champion
    while name in versions and len(chain) < CHAIN and versions[name] not in chain:
        chain.append(versions[name])
        name = chain[-1].data.get("gate", {}).get("champion")
    return {
        "commit": head(tree),
        "inputs": inputs,
        "outputs": {output.path: output.md5 for output in contents.outputs},
        "chain": [_link(version, served) for version in chain],
    }


def _link(version: Version, served: Mapping[str, history.Span]) -> dict[str, Any]:
    """One champion in the chain: its accuracy, its gain over the one before, and its origin."""
    decision = version.data.get("gate", {})
    since = None
    if version.name in served:
        since = f"{datetime.fromtimestamp(served[version.name].since, UTC):%Y-%m-%d}"
    return {
        "name": version.name,
        "accuracy": version.metrics.get("accuracy"),
        "difference": decision.get("difference"),
        "against": decision.get("champion"),
        "base": str(version.data.get("base") or ""),
        "why": str(version.data.get("reason", "")),
        "since": since,
    }
