"""Pin the current state of every source in `source.lock`.

Reads the sources in `ingest.sources`.
Writes `source.lock`: the name, size and SHA-256 of every file of a source, or its resolved
revision.
This is a step, not a stage, because it determines whether the stage `ingest` is out of date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ratchet import custom_imports
from ratchet.errors import SourceMissing
from ratchet.params import Params
from ratchet.source_params import Source
from ratchet.sources import source_lock
from ratchet.sources.base import Entry, Places
from ratchet.sources.types import resolve
from ratchet.stage import home, log, step


@step("network")
def refresh(params: Params, tree: Path) -> dict[str, Any]:
    """Write `source.lock`.

    Args:
        params: all params; `ingest` and `model` are used.
        tree: the checkout to work in.

    Returns:
        A dict with the keys
        `changed`: whether the file changed,
        `sources`: its entries,
        `changes`: per source, the files that are new, changed or gone,
        `notes`: other observations,
        `summary`: changes and notes as lines of text.

    Raises:
        ParamsError: a custom source or model imports code that no stage depends on.
        SourceMissing: a source is unavailable.
    """
    custom_imports.check_sources(tree, params)
    custom_imports.check_model(tree, params)
    places = Places(tree, home(tree))
    before = source_lock.previous(tree)
    entries = [_entry(source, places, before) for source in params.ingest.sources]
    changed = source_lock.write(tree, entries)
    changes = source_lock.compare(before, entries)
    summary = [*map(str, changes), *places.notes]
    for line in summary:
        log(f"refresh: {line}")
    return {
        "changed": changed,
        "sources": entries,
        "changes": [asdict(change) for change in changes],
        "notes": places.notes,
        "summary": summary,
    }


def _entry(source: Source, places: Places, before: Sequence[Entry]) -> Entry:
    """Resolve a source; if it is unavailable, name the files that `before` pins."""
    pinned = source_lock.pinning(source)
    try:
        return {"source": pinned, **resolve(source, places)}
    except SourceMissing as error:
        names = source_lock.files(before, pinned)
        if not names:
            raise
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        raise SourceMissing(
            f"{error}. source.lock pins {', '.join(names[:3])}{more} of this source; "
            "copy them back to where they were. To use the data of a version without these files, "
            "run `ratchet checkout VERSION --into FOLDER`"
        ) from None
