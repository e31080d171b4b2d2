"""A class in `custom/sources/`: a `torch.utils.data.Dataset`, or a class that yields rows.

The class is called with the source's `arguments`. Its rows are its items (`__getitem__` and
`__len__`), what it iterates over (`__iter__`), or what its `rows()` yields. If it has a
`revision()`, that is pinned. Otherwise every refresh and every ingest reads and hashes all rows.
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
    """Pin the revision of the source, or the hash of its rows."""
    instance = _instance(source, places.tree)
    if hasattr(instance, "revision"):
        return {"resolved": str(instance.revision())}
    digest = _Digest()
    for row in _rows(instance, source.source, places.tree):
        digest.add(row)
    places.notes.append(
        f"{source.source}: read all {digest.count:,} rows to pin them; add a method revision() to"
        " avoid that"
    )
    return {"resolved": str(digest)}


def parts(source: CustomSource, entry: Entry, places: Places) -> list[Part]:
    """List the source as a single part, which depends on the code in `custom/sources/`."""
    code = custom_code.digest(places.tree / "custom/sources")
    detail = {"resolved": entry["resolved"], "code": code}
    return [Part(source, places.tree, (), detail, name=source.source)]


def read(part: Part) -> Rows:
    """Read the rows of the source.

    Raises:
        SourceChanged: the source is at another revision than source.lock, or its rows changed.
    """
    instance = _instance(part.source, part.root)
    pinned = part.detail["resolved"]
    if hasattr(instance, "revision") and str(instance.revision()) != pinned:
        raise SourceChanged(
            f"{part.source.source} is at {instance.revision()}, but source.lock pins {pinned};"
            " run `ratchet refresh`"
        )
    rows = _rows(instance, part.source.source, part.root)
    if not hasattr(instance, "revision"):
        rows = _verified(rows, part.source.source, pinned)
    classes = getattr(instance, "classes", None)
    names = None if classes is None else list(classes)
    return Rows(_batches(rows, part), names, getattr(instance, "licence", None))


class _Digest:
    """The revision of a source without `revision()`: a hash of all its rows, in order."""

    def __init__(self) -> None:
        self._hash, self.count = hashlib.blake2b(digest_size=16), 0

    def add(self, row: Row) -> None:
        self._hash.update(row.digest())
        self.count += 1

    def __str__(self) -> str:
        return f"{self.count} rows, {self._hash.hexdigest()}"


def _verified(rows: Iterator[Row], name: str, pinned: str) -> Iterator[Row]:
    """Yield the rows; raise `SourceChanged` after the last one if they are not the pinned rows."""
    digest = _Digest()
    for row in rows:
        digest.add(row)
        yield row
    if str(digest) != pinned:
        raise SourceChanged(
            f"{name} yields {digest}, but source.lock pins {pinned}; run `ratchet refresh`. If that"
            " does not help, the items differ each time they are read: remove random transforms and"
            " shuffling"
        )


def _instance(source: CustomSource, tree: Path) -> Any:
    module, _, name = source.source.partition(":")
    try:
        kind = getattr(custom_code.imported(tree, module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ParamsError(f"ingest.sources: no class {source.source}: {error}") from None
    try:
        instance = kind(**source.arguments)
    except RatchetError:
        raise
    except TypeError as error:
        raise ParamsError(
            f"ingest.sources: {source.source} cannot be created with {source.arguments}: {error}"
        ) from error
    if not any(hasattr(instance, method) for method in ("rows", "__getitem__", "__iter__")):
        raise ParamsError(
            f"ingest.sources: {source.source} is not a source; give it __len__ and __getitem__ (as"
            " a Dataset has), __iter__, or rows()"
        )
    return instance


def _rows(instance: Any, name: str, tree: Path) -> Iterator[Row]:
    """Yield the rows of a source.

    Raises:
        CorruptData: a row cannot be read, or has other columns than the first one.
    """
    first: Row | None = None
    feature_names = getattr(instance, "feature_names", None)
    for number, item in enumerate(_items(instance, name)):
        row = items.row(item, feature_names, tree, f"{name}, row {number}")
        first = first or row
        if row.columns != first.columns:
            raise CorruptData(
                f"{name}, row {number}: it has {_shown(row)}, row 0 has {_shown(first)}; every row"
                " needs the same"
            )
        yield row


def _items(instance: Any, name: str) -> Iterator[object]:
    """Yield the items of a source.

    Raises:
        CorruptData: the source's own code raised an exception. The message names the line.
    """
    number = 0
    try:
        for item in _iterated(instance, name):
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


def _iterated(instance: Any, name: str) -> Iterable[object]:
    if hasattr(instance, "rows"):
        return cast("Iterable[object]", instance.rows())
    # An IterableDataset inherits a __getitem__ that it does not support.
    streams = any(kind.__name__ == "IterableDataset" for kind in type(instance).__mro__)
    if hasattr(instance, "__getitem__") and hasattr(instance, "__len__") and not streams:
        return (instance[number] for number in range(len(instance)))
    if hasattr(instance, "__iter__"):
        return cast("Iterable[object]", instance)
    raise ParamsError(f"ingest.sources: {name} has __getitem__ but not __len__; add it")


def _shown(row: Row) -> str:
    names = [*(["an image"] if row.is_image else row.features), *row.others]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _batches(rows: Iterator[Row], part: Part) -> Iterator[pa.Table]:
    while batch := list(itertools.islice(rows, ROWS)):
        yield _table(batch, part.keep, part.name or "")


def _table(batch: Sequence[Row], keep: Sequence[str], name: str) -> pa.Table:
    """Build a batch: `label`, `split`, an image or features, and the columns to keep."""
    table: dict[str, Any] = {"label": _column([row.label for row in batch], "label", name)}
    table |= {
        key: _column([row.others[key] for row in batch], key, name)
        for key in batch[0].others
        if key == "split"
    }
    table |= {FEATURE + key: _column([row.features[key] for row in batch], key, name)
              for key in batch[0].features if key not in keep}  # fmt: skip
    row_columns = [{**row.features, **row.others} for row in batch]
    table |= {
        KEEP + key: _column([values[key] for values in row_columns], key, name)
        for key in keep
        if key in row_columns[0]
    }
    if not batch[0].is_image and not any(key.startswith(FEATURE) for key in table):
        raise CorruptData(
            f"{name}: all of its columns are in ingest.keep, so no feature is left; remove some"
            " from ingest.keep"
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
        raise CorruptData(
            f"{name}: the values of {key} are of several types: {error}; use a single type"
        ) from None
