"""`source.lock`: the bytes that each source pins, and the params that chose them.

An entry is `{"source": the params that decide what is pinned, ...what they resolved to}`. Only
`ratchet refresh` writes the file; `ingest` compares it with the params and refuses a difference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ratchet.errors import ParamsError, SourceChanged
from ratchet.files import to_json, writing
from ratchet.formats import Format
from ratchet.params import IngestParams
from ratchet.source_params import Source
from ratchet.sources.base import Entry
from ratchet.sources.urls import shown

FILE = "source.lock"
AGAIN = "run `ratchet refresh`"
FORMAT = Format("the pinned sources", 2, AGAIN, SourceChanged)
OLDEST = 2  # 1 did not record the params that chose the bytes
NAMES = ("path", "repository", "source", "name")  # the param that a source goes by

# Params that decide how the pinned bytes are read, or where they are, but not which bytes they are.
# They may change without a refresh; every other param of a source is recorded and compared.
READING = frozenset(
    {"root", "label", "image", "features", "split", "separator", "decimal", "encoding"}
)


def write(tree: Path, entries: Sequence[Entry]) -> bool:
    """Write the entries unless the file already contains them; return whether it changed."""
    content = to_json(FORMAT.stamped({"sources": list(entries)}))
    path = tree / FILE
    if path.is_file() and path.read_text(encoding="utf-8") == content:
        return False
    with writing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return True


def read(tree: Path, params: IngestParams) -> list[Entry]:
    """One entry per source of the params, in their order.

    Raises:
        SourceChanged: the file is missing, unreadable or of an older format, or the params ask for
            something other than what it pins.
    """
    entries = _entries(tree)
    if len(entries) != len(params.sources):
        raise SourceChanged(
            f"{FILE} pins {len(entries)} sources, but ingest.sources in params.yaml lists "
            f"{len(params.sources)}; {AGAIN}"
        )
    pairs = enumerate(zip(entries, params.sources, strict=True))
    if differences := [
        f"ingest.sources.{number}.{difference}"
        for number, (entry, source) in pairs
        for difference in _differences(entry["source"], pinning(source))
    ]:
        raise SourceChanged(
            f"params.yaml no longer asks for what {FILE} pins: {', '.join(differences)}; {AGAIN}"
        )
    return entries


def previous(tree: Path) -> list[Entry]:
    """The entries of the file as it is; none if it is missing, unreadable or of an older format."""
    try:
        return _entries(tree)
    except SourceChanged:
        return []


def pinning(source: Source) -> dict[str, Any]:
    """The params of a source that decide which bytes are pinned, as JSON holds them."""
    values = {key: value for key, value in asdict(source).items() if key not in READING}
    try:
        record: dict[str, Any] = json.loads(json.dumps(values, default=str, allow_nan=False))
    except ValueError:
        raise ParamsError(
            f"ingest.sources: `arguments` of the {source.type} source holds a number that is not "
            "finite (nan or inf); use another value"
        ) from None
    return record


@dataclass(frozen=True)
class Change:
    """How one source differs from what was pinned before."""

    source: str
    new: list[str]
    changed: list[str]
    gone: list[str]
    same: int
    revision: tuple[str | None, str] | None  # before and now, where a source has one

    def __str__(self) -> str:
        unit = "file" if len(self.new) == 1 else "files"
        parts = [f"{len(self.new)} {unit} new{_some(self.new)}"] if self.new else []
        if self.changed:
            parts.append(f"{len(self.changed)} changed{_some(self.changed)}")
        if self.gone:
            parts.append(f"{len(self.gone)} gone{_some(self.gone)}")
        if self.same:
            parts.append(f"{self.same:,} as before")
        if self.revision:
            before, now = self.revision
            moved = f"{before} → {now}" if before else f"{now} (new)"
            parts.insert(0, f"revision {f'{now} as before' if before == now else moved}")
        return f"{self.source}: {', '.join(parts)}"


def compare(before: Sequence[Entry], now: Sequence[Entry]) -> list[Change]:
    """One change per source as it is now, against the entry that pinned the same source before."""
    return [_change(_same(before, entry["source"]), entry) for entry in now]


def files(entries: Sequence[Entry], source: dict[str, Any]) -> list[str]:
    """The names that are pinned of a source, given by the params that `pinning` returns."""
    return [file["name"] for file in _same(entries, source).get("files", ())]


def _same(entries: Sequence[Entry], source: dict[str, Any]) -> Entry:
    return next((entry for entry in entries if entry["source"] == source), {})


def _change(before: Entry, now: Entry) -> Change:
    present = {file["name"]: file for file in now.get("files", ())}
    pinned = {file["name"]: file for file in before.get("files", ())}
    common = sorted(present.keys() & pinned.keys())
    changed = [name for name in common if present[name] != pinned[name]]
    return Change(
        source=shown(next(now["source"][key] for key in NAMES if key in now["source"])),
        new=sorted(present.keys() - pinned.keys()),
        changed=changed,
        gone=sorted(pinned.keys() - present.keys()),
        same=len(common) - len(changed),
        revision=(before.get("resolved"), now["resolved"]) if "resolved" in now else None,
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f" ({', '.join(names[:3])}{more})"


def _entries(tree: Path) -> list[Entry]:
    try:
        content = json.loads((tree / FILE).read_text(encoding="utf-8"))
        entries: list[Entry] = list(content["sources"])
        version = FORMAT.of(content, FILE)
        complete = version < OLDEST or all("source" in entry for entry in entries)
    except FileNotFoundError:
        raise SourceChanged(f"{FILE} does not exist yet; {AGAIN}") from None
    except (ValueError, KeyError, TypeError):
        raise SourceChanged(f"{FILE} cannot be read; {AGAIN}") from None
    if not complete and version > FORMAT.number:
        raise SourceChanged(
            FORMAT.newer(FILE, version, f"does not name the params of a source; or {AGAIN}")
        )
    if not complete:
        raise SourceChanged(f"{FILE} cannot be read; {AGAIN}")
    if version < OLDEST:
        raise SourceChanged(
            f"{FILE} has format {version}, but this Ratchet reads format {FORMAT.number}; {AGAIN}"
            " to pin the sources again"
        )
    for file in (file for entry in entries for file in entry.get("files", ())):
        name = PurePosixPath(file["name"])
        if name.is_absolute() or ".." in name.parts:
            raise SourceChanged(f"{FILE} names a file outside its source: {file['name']}; {AGAIN}")
    return entries


def _differences(pinned: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """`revision: v1 → v2` for each param that differs; compared as text, because 1 == True."""
    differences = []
    for key in sorted(pinned.keys() | current.keys()):
        before, now = _json(pinned.get(key)), _json(current.get(key))
        if before != now:
            pair = f"{_shown(pinned.get(key))} → {_shown(current.get(key))}"
            differences.append(f"{key}: {pair}")
    return differences


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _shown(value: Any) -> str:
    return shown(value) if isinstance(value, str) else _json(value)
