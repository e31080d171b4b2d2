"""`reports/gate.html`: what the gate decided and why, for people.

One file, in the look of the report.
"""

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
    """Write the page; `run` and `compared` are what was compared, if anything was.

    Raises:
        VersionError: the run in `tree` is not whole.
    """
    bars, examples = [], []
    if run is not None and compared is not None and len(compared.rows):
        bars = _bars(decision, params, run, compared)
        examples = _examples(run, compared)
    changed = (
        history.diff(tree, decision.champion, None)
        if decision.champion and not decision.version
        else None
    )
    values = {
        "decision": decision,
        "gate": params,
        "headline": HEADLINES[decision.verdict],
        "tone": {"promote": "good", "refuse": "bad", "worse": "bad"}.get(decision.verdict, "third"),
        "bars": bars,
        "limit": max(
            [
                params.margin,
                params.slice_margin,
                *(abs(b[end]) for b in bars for end in ("low", "high")),
            ]
        ),
        "examples": examples,
        "moved": compared.disagreements if compared else None,
        "changed": changed,
        "shares": (
            {n: found["support"] for n, found in changed.per_class.items() if "support" in found}
            if changed
            else {}
        ),
        **_origin(tree, decision),
    }
    page.write(tree / FILE, TEMPLATE, values)


def _bars(
    decision: Decision, params: GateParams, run: Run, compared: Compared
) -> list[dict[str, Any]]:
    """All rows, then each class and group: rows, lost, won, difference, bounds, and what the gate made of it."""
    from ratchet.gate import scoring

    fallen = {each[0]: each[5] for each in decision.slices}
    masks = {
        f"class {name}": compared.answers.targets == index for index, name in enumerate(run.classes)
    }
    bars = [_bar("all rows", compared.answers, params.confidence, params.margin)]
    for name, mask in {**masks, **scoring.groups(run, compared.rows)}.items():
        if mask.any():
            bar = _bar(name, compared.answers.at(mask), params.confidence, params.slice_margin)
            within = (
                "within the margin"
                if bar["difference"] >= -bar["margin"]
                else "not shown to be lost"
            )
            said = (
                ("lost too much" if fallen[name] else within)
                if name in fallen
                else "too few rows to be judged"
            )
            bars.append({**bar, "said": said})
    return bars


def _bar(name: str, answers: Answers, confidence: float, margin: float) -> dict[str, Any]:
    rows, (lost, won) = len(answers.targets), statistics.disagreements(answers)
    low, high = tango.interval(lost, won, rows, confidence)
    facts = {"name": name, "rows": rows, "lost": lost, "won": won, "margin": margin, "said": ""}
    return facts | {"difference": (won - lost) / rows, "low": low, "high": high}


def _examples(run: Run, compared: Compared) -> list[dict[str, Any]]:
    """Rows that one of both has right, the surest mistakes first.

    What the champion alone had right comes first.
    """
    targets, theirs, ours = compared.answers
    sure = run.sure[compared.rows]
    lost = np.flatnonzero((theirs == targets) & (ours != targets))
    won = np.flatnonzero((ours == targets) & (theirs != targets))
    lost, won = (
        lost[np.argsort(-sure[lost], kind="stable")],
        won[np.argsort(-compared.sure[won], kind="stable")],
    )
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
                float(compared.sure[row]),
                bool(theirs[row] == targets[row]),
            ),
            "challenger": (name(ours[row]), float(sure[row]), bool(ours[row] == targets[row])),
            "picture": pictures.get(row_id),
        }
        for row, row_id in zip(rows.tolist(), ids, strict=True)
    ]


def _pictures(run: Run, row_ids: list[str]) -> dict[str, str]:
    """Pictures of some rows as the run's model is fed them, as far as `BUDGET` reaches.

    None where they are numbers.
    """
    from ratchet.dataset.spec import Spec, inputs
    from ratchet.shards import shards

    if run.contract["kind"] != "image" or not row_ids:
        return {}
    found: dict[str, str] = {}
    for row_id, pixels in zip(
        row_ids, inputs(shards.rows(run.raw, row_ids), Spec.parse(run.contract)), strict=True
    ):
        uri = page.picture(pixels)
        if sum(map(len, found.values())) + len(uri) <= BUDGET:
            found[row_id] = uri
    return found


def _origin(tree: Path, decision: Decision) -> dict[str, Any]:
    """Where this run and the champions before it come from."""
    registry = Registry(tree)
    versions = {version.name: version for version in registry.versions()}
    held = pipeline.of_tree(tree)
    served = {span.version: span for span in history.spans(registry, decision.environment)}
    chain: list[Version] = []
    name = decision.champion
    while name in versions and len(chain) < CHAIN and versions[name] not in chain:
        chain.append(versions[name])
        name = chain[-1].data.get("gate", {}).get("champion")
    return {
        "commit": head(tree),
        "inputs": {path: held.inputs[path] for path in (pipeline.SOURCES,) if path in held.inputs},
        "outputs": {output.path: output.md5 for output in held.outputs},
        "chain": [_link(version, served) for version in chain],
    }


def _link(version: Version, served: Mapping[str, history.Span]) -> dict[str, Any]:
    judged = version.data.get("gate", {})
    return {
        "name": version.name,
        "accuracy": version.metrics.get("accuracy"),
        "difference": judged.get("difference"),
        "against": judged.get("champion"),
        "base": str(version.data.get("base") or ""),
        "why": str(version.data.get("reason", "")),
        "since": (
            f"{datetime.fromtimestamp(served[version.name].since, UTC):%Y-%m-%d}"
            if version.name in served
            else None
        ),
    }
