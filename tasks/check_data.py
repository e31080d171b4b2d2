"""Compare the data with those of the newest version.

A missing class or too few rows stop the run; other changes are reported. Reads
`reports/validation.json` and the same file of the newest version. Writes `reports/drift.json`,
which becomes part of the version. It is a step of the flow, because a stage knows no versions.
Params: `gate` and `prepare`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet import tango
from ratchet.errors import ValidationFailed
from ratchet.files import write_json
from ratchet.formats import VALIDATION, Format
from ratchet.params import Params
from ratchet.registry.records import Version
from ratchet.registry.versions import Registry
from ratchet.stage import step
from ratchet.store import pipeline, remote
from ratchet.store.cache import Cache, digest
from ratchet.validation import power

if TYPE_CHECKING:
    from ratchet.validation.drift import Drift

REPORT, DRIFT = "reports/validation.json", "reports/drift.json"
FORMAT = Format("a comparison of the data", 1, "run `ratchet train`")
ALPHA = 0.001  # for all tests together: chance alone reports a change once in a thousand runs
DISTANCE = 0.02  # a smaller shift is not reported, however significant it is


@dataclass(frozen=True)
class DataCheck:
    """What changed in the data, and whether the gate will have enough test rows."""

    against: str | None  # the newest version; None if there is none yet
    changes: list[str]  # a sentence each
    few_rows: str | None  # a sentence, if the test rows are too few for the gate's margin

    @property
    def lines(self) -> tuple[str, ...]:
        """The report, one line for each fact."""
        lines = [f"since {self.against}: {change}" for change in self.changes]
        if self.few_rows:
            lines.append(self.few_rows)
        return tuple(lines)


@step("git")
def check_data(params: Params, tree: Path) -> DataCheck:
    """Compare the data with those of the newest version, and check that the test rows are enough.

    Raises:
        ValidationFailed: a class is gone, or more rows are than `gate.max_shrink` allows. With
            `gate.max_shrink` 1, neither stops the run.
        ObjectsMissing: the newest version's report is unavailable.
        CorruptData: a newer Ratchet wrote that report, in a format that this one does not read.
    """
    report = json.loads((tree / REPORT).read_text(encoding="utf-8"))
    newest = _newest(Registry(tree))
    drift = _drift(params, tree, newest, report) if newest else None
    check = DataCheck(
        against=newest.name if newest else None,
        changes=list(drift.sentences) if drift else [],
        few_rows=_few_rows(params, report),
    )
    content = asdict(check)
    if drift:
        content |= {key: value for key, value in asdict(drift).items() if key != "changed"}
    write_json(tree / DRIFT, FORMAT.stamped(content))
    if newest and drift and drift.faults:
        raise ValidationFailed(
            f"against {newest.name}: {'; '.join(drift.faults)}; see"
            f" {tree / 'reports/validation.html'} and fix the source, or accept this change for one"
            " run with `ratchet train --set gate.max_shrink=1`"
        )
    return check


def _newest(registry: Registry) -> Version | None:
    """The newest version that still has its objects."""
    newest = registry.newest()
    if newest is None or not newest.expired:
        return newest
    return next((version for version in registry.versions() if not version.expired), None)


def _drift(params: Params, tree: Path, newest: Version, report: Mapping[str, Any]) -> Drift | None:
    """The changes since `newest`; None if both reports are the same file."""
    if digest(tree / REPORT, "md5") == newest.data.get("hashes", {}).get(REPORT):
        return None
    from ratchet.validation.drift import drift

    output = pipeline.of_commit(tree, newest.commit).output(REPORT)
    remote.pull(tree, output)
    before = json.loads(Cache(tree).path(output.md5).read_text(encoding="utf-8"))
    VALIDATION.of(before, f"{REPORT} of {newest.name}")
    return drift(before, report, params.gate.max_shrink, ALPHA, DISTANCE)


def _few_rows(params: Params, report: Mapping[str, Any]) -> str | None:
    """A sentence if the rows cannot show even identical models to be within `gate.margin`."""
    gate = params.gate
    rows = power.rows_for_testing(report, params.prepare.test_fraction)
    smallest = tango.detectable(rows, gate.confidence, 0.0)
    if gate.rule != "no_worse" or smallest <= gate.margin:
        return None
    needed = tango.rows_for(gate.margin, gate.confidence, 0.0)
    least = f", which takes at least {needed:,}" if needed else ""
    return (
        f"about {rows:,} test rows show differences of {smallest:.4f} or more at"
        f" {gate.confidence:.0%} and cannot decide on gate.margin {gate.margin}{least};"
        f" gate.on_undecided: {gate.on_undecided} decides"
    )
