"""Look at every source as it is now and pin it in `source.lock`.

Reads `ingest.sources` and what they name; writes `source.lock`: per source its resolved revision, or the name, size and
SHA-256 of every file. What is not here yet is fetched. A step, no stage: that file alone says if `ingest` has to run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.data import lock
from tasks.data.sources.base import Places
from tasks.data.sources.kinds import resolve
from tasks.params import Params
from tasks.stage import home, step


@step("network")
def refresh(params: Params, tree: Path) -> dict[str, Any]:
    """Write `source.lock`; returns what stands in it, and whether that is new.

    Raises:
        SourceMissing: a source is nowhere to be had.
    """
    places = Places(tree, home(tree))
    entries = [resolve(source, places) for source in params.ingest.sources]
    changed = lock.write(tree, entries)
    return {"changed": changed, "sources": entries}
