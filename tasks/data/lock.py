"""`source.lock`: what upstream was when it was last looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tasks.data.files import to_json, writing
from tasks.data.sources.base import Entry
from tasks.errors import SourceChanged
from tasks.params import IngestParams, Source

FILE = "source.lock"
AGAIN = "run `ratchet refresh`"


def write(tree: Path, entries: Sequence[Entry]) -> bool:
    """Write the entries, and say whether they differ from those before; equal ones leave the file untouched."""
    content = to_json({"sources": list(entries)})
    path = tree / FILE
    if path.is_file() and path.read_text(encoding="utf-8") == content:
        return False
    with writing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return True


def read(tree: Path, params: IngestParams) -> list[Entry]:
    """One entry per source of the params, in their order.

    Raises:
        SourceChanged: the file is missing or broken, or pins other sources.
    """
    try:
        entries = json.loads((tree / FILE).read_text(encoding="utf-8"))["sources"]
    except FileNotFoundError:
        raise SourceChanged(f"{FILE} is not there yet; {AGAIN}") from None
    except (ValueError, KeyError, TypeError):
        raise SourceChanged(f"{FILE} cannot be read; {AGAIN}") from None
    if len(entries) != len(params.sources) or not all(map(_same, entries, params.sources)):
        raise SourceChanged(f"{FILE} pins other sources than ingest.sources in params.yaml names; {AGAIN}")
    for file in (file for entry in entries for file in entry.get("files", ())):
        if PurePosixPath(file["name"]).is_absolute() or ".." in PurePosixPath(file["name"]).parts:
            raise SourceChanged(f"{FILE} names a file outside of its source: {file['name']}; {AGAIN}")
    return list(entries)


def _same(entry: Entry, source: Source) -> bool:
    """Does the entry speak of this source? Whatever both of them name has to be equal."""
    return entry["type"] == source.type and all(
        getattr(source, key) == value for key, value in entry.items() if hasattr(source, key)
    )
