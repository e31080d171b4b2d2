"""Has the data changed since the newest version? Fewer rows or a class gone stop the run; other changes are told.

Reads `reports/validation.json` and the same file of the newest version. A step of the flow, since a stage knows no versions.
"""

from __future__ import annotations

import json
from pathlib import Path

from tasks.errors import ValidationFailed
from tasks.params import Params
from tasks.stage import step
from tasks.versions import pipeline, remote
from tasks.versions.cache import Cache, digest
from tasks.versions.registry import Registry

REPORT = "reports/validation.json"
ALPHA = 0.001  # of all tests together: chance alone tells of a change once in a thousand runs
DISTANCE = 0.02  # a smaller shift is not worth a word, however certain it is


@step("git")
def compare_data(params: Params, tree: Path) -> tuple[str, ...]:
    """What changed, a sentence each; nothing where there is no version yet, or `gate.max_shrink` is 1 (anything goes).

    Raises:
        ValidationFailed: a class is gone, or more rows than `gate.max_shrink` allows (fault 16).
        ObjectsMissing: the newest version's report can't be had.
    """
    newest = Registry(tree).newest()
    if newest is None or params.gate.max_shrink == 1:
        return ()
    if digest(tree / REPORT, "md5") == newest.data.get("hashes", {}).get(REPORT):
        return ()
    output = pipeline.of_commit(tree, newest.commit).output(REPORT)
    remote.pull(tree, output)
    before = Cache(tree).path(output.md5)
    from tasks.data.drift import drift

    was, now = (json.loads(file.read_text(encoding="utf-8")) for file in (before, tree / REPORT))
    found = drift(was, now, params.gate.max_shrink, ALPHA, DISTANCE)
    if found.faults:
        raise ValidationFailed(
            f"against {newest.name}: {'; '.join(found.faults)}; see reports/validation.html and mend the source, "
            f"or let it pass once with `ratchet train --set gate.max_shrink=1`"
        )
    return found.changed
