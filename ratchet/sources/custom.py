"""A class in `custom/sources/`: a `torch.utils.data.Dataset` as it is, or a class that yields rows.

The class is called with the source's `arguments`. Its rows are its items (`__getitem__` and
`__len__`), what it iterates over (`__iter__`), or what its `rows()` yields. Where it has a
`revision()`, that is pinned; otherwise all rows are read and hashed, at each refresh and again by
ingest.
"""

from __future__ import annotations

import hashlib
import itertools
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from ratchet import custom_code
from ratchet.columns import FEATURE, KEEP
from ratchet.errors import CorruptData, ParamsError, RatchetError, SourceChanged
from ratchet.source_params import CustomSource
from ratchet.sources import items
from ratchet.sources.base import Entry, Part, Places, Rows, image_table
from ratchet.sources.items import Row

ROWS = 10  # in one batch


def resolve(source: CustomSource, places: Places) -> Entry:
    made = _made(source, places.tree)
    if hasattr(made, "revision"):
        return {"resolved": str(made.revision())}
    digest = _Digest()
    for row in _rows(made, source.source, places.tree):
        digest.add(row)
    places.notes.append(
        f"{source.source}: read all {digest.count:,} rows to pin them; a method revision() spares"
        " that"
    )
    return {"resolved": str(digest)}


def parts(source: CustomSource, entry: Entry, places: Places) -> list[Part]:
    code = custom_code.digest(
        places.tree / "custom/sources"
    )  # what was read with other code is read again
    return [
        Part(
            source,
            places.tree,
            (),
            {"resolved": entry["resolved"], "code": code},
            name=source.source,
        )
    ]


def read(part: Part) -> Rows:
    made = _made(part.source, part.root)
    pinned = part.detail["resolved"]
    if hasattr(made, "revision") and str(made.revision()) != pinned:
        raise SourceChanged(
            f"{part.source.source} is at {made.revision()}, source.lock at {pinned}; run `ratchet"
            " refresh`"
        )
    rows = _rows(made, part.source.source, part.root)
    if not hasattr(made, "revision"):
        rows = _verified(rows, part.source.source, pinned)
    classes = getattr(made, "classes", None)
    return Rows(
        _batches(rows, part),
        None if classes is None else list(classes),
        getattr(made, "licence", None),
    )


class _Digest:
    """The revision of rows that have none of their own: a hash of them all, in their order."""

    def __init__(self) -> None:
        self._hash, self.count = hashlib.blake2b(digest_size=16), 0

    def add(self, row: Row) -> None:
        self._hash.update(row.digest())
        self.count += 1

    def __str__(self) -> str:
        return f"{self.count} rows, {self._hash.hexdigest()}"


def _verified(rows: Iterator[Row], name: str, pinned: str) -> Iterator[Row]:
    """The rows; raises `SourceChanged` after the last if they are not those that were pinned."""
    digest = _Digest()
    for row in rows:
        digest.add(row)
        yield row
    if str(digest) != pinned:
        raise SourceChanged(
            f"{name} yields {digest}, source.lock pins {pinned}; run `ratchet refresh`. If that"
            " does not help, the items differ each time they are read: take random transforms and"
            " shuffling out"
        )


def _made(source: CustomSource, tree: Path) -> Any:
    module, _, name = source.source.partition(":")
    try:
        kind = getattr(custom_code.imported(tree, module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ParamsError(f"ingest.sources: no class {source.source}: {error}") from None
    try:
        made = kind(**source.arguments)
    except RatchetError:
        raise
    except TypeError as error:
        raise ParamsError(
            f"ingest.sources: {source.source} cannot be made with {source.arguments}: {error}"
        ) from error
    if not any(hasattr(made, method) for method in ("rows", "__getitem__", "__iter__")):
        raise ParamsError(
            f"ingest.sources: {source.source} is not a source; give it __len__ and __getitem__ (as"
            " a Dataset has), __iter__, or rows()"
        )
    return made


def _rows(made: Any, name: str, tree: Path) -> Iterator[Row]:
    """The rows of a source.

    Raises `CorruptData` for one that is unlike the others, or cannot be read.
    """
    first: Row | None = None
    feature_names = getattr(made, "feature_names", None)
    for number, item in enumerate(_items(made, name)):
        row = items.row(item, feature_names, tree, f"{name}, row {number}")
        first = first or row
        if row.columns != first.columns:
            raise CorruptData(
                f"{name}, row {number}: it has {_shown(row)}, row 0 has {_shown(first)}; every row"
                " needs the same"
            )
        yield row


def _items(made: Any, name: str) -> Iterator[object]:
    """What the source yields.

    An exception of its own becomes `CorruptData` with the line that raised it.
    """
    number = 0
    try:
        for item in _iterated(made, name):
            yield item
            number += 1
    except RatchetError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise CorruptData(
            f"{name}, row {number}: {type(error).__name__}: {error} ({Path(last.filename).name},"
            f" line {last.lineno})"
        ) from error


def _iterated(made: Any, name: str) -> Iterable[object]:
    if hasattr(made, "rows"):
        return cast("Iterable[object]", made.rows())
    streams = any(
        kind.__name__ == "IterableDataset" for kind in type(made).__mro__
    )  # which inherits a __getitem__
    if hasattr(made, "__getitem__") and hasattr(made, "__len__") and not streams:
        return (made[number] for number in range(len(made)))
    if hasattr(made, "__iter__"):
        return cast("Iterable[object]", made)
    raise ParamsError(f"ingest.sources: {name} has __getitem__ but not __len__; add it")


def _shown(row: Row) -> str:
    names = [*(["an image"] if row.is_image else row.features), *row.others]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _batches(rows: Iterator[Row], part: Part) -> Iterator[pa.Table]:
    while batch := list(itertools.islice(rows, ROWS)):
        yield _table(batch, part.keep, part.name or "")


def _table(batch: Sequence[Row], keep: Sequence[str], name: str) -> pa.Table:
    """Columns under the names of shards: `label`, `split`, an image or features, and those to keep."""
    table: dict[str, Any] = {"label": _column([row.label for row in batch], "label", name)}
    table |= {
        key: _column([row.others[key] for row in batch], key, name)
        for key in batch[0].others
        if key == "split"
    }
    table |= {FEATURE + key: _column([row.features[key] for row in batch], key, name)
              for key in batch[0].features if key not in keep}  # fmt: skip
    kept = [{**row.features, **row.others} for row in batch]
    table |= {
        KEEP + key: _column([values[key] for values in kept], key, name)
        for key in keep
        if key in kept[0]
    }
    if not batch[0].is_image and not any(key.startswith(FEATURE) for key in table):
        raise CorruptData(
            f"{name}: all its columns are in ingest.keep, so none is left as a feature"
        )
    if batch[0].is_image:
        table["image"] = image_table([row.image for row in batch], table["label"])["image"]
        if all(row.id is not None for row in batch):
            table["row_id"] = pa.array([row.id for row in batch])
    return pa.table(table)


def _column(values: Sequence[Any], key: str, name: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise CorruptData(f"{name}: the values of {key} are of several types: {error}") from None
