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
from tasks.stage import home


def refresh(params: Params, tree: Path) -> dict[str, Any]:
    """Write `source.lock`; returns what stands in it, and whether that is new.

    Raises:
        SourceMissing: a source is nowhere to be had.
    """
    places = Places(tree, home(tree))
    entries = [resolve(source, places) for source in params.ingest.sources]
    changed = lock.write(tree, entries)
    files = sum(len(entry.get("files", ())) for entry in entries)
    print(
        f"refresh: {len(entries)} source{'s'[: len(entries) > 1]}, {files} files, {'new' if changed else 'unchanged'}"
    )
    return {"changed": changed, "sources": entries}


if __name__ == "__main__":
    import sys

    from tasks import params
    from tasks.errors import RatchetError

    try:
        refresh(params.load(), Path())
    except RatchetError as error:
        print(f"refresh: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
