"""A class in `custom/` that yields rows; see custom/README.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tasks.data import custom_code
from tasks.data.columns import FEATURE, KEEP
from tasks.data.sources.base import Entry, Part, Places, Rows, array_id, encoded, image_table
from tasks.errors import CorruptData, ParamsError, SourceChanged
from tasks.params import CustomSource

ROWS = 10  # in one batch


class RowSource(Protocol):
    """What the class has to offer; it is called with the source's `arguments`."""

    def revision(self) -> str:
        """Anything that differs once the rows do: a date upstream, a hash, a counter."""

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """`label`, and `image` (encoded bytes, or a uint8 array (H, W) or (H, W, 3)) or numeric features; maybe `split`."""


def resolve(source: CustomSource, places: Places) -> Entry:
    return {"resolved": str(_made(source, places.tree).revision())}


def parts(source: CustomSource, entry: Entry, places: Places) -> list[Part]:
    return [Part(source, places.tree, (), {"resolved": entry["resolved"]}, name=source.source)]


def read(part: Part) -> Rows:
    made = _made(part.source, part.root)
    if str(made.revision()) != part.detail["resolved"]:
        raise SourceChanged(
            f"{part.source.source} is at {made.revision()}, source.lock at {part.detail['resolved']}; run `ratchet refresh`"
        )
    return Rows(_batches(made, part), getattr(made, "classes", None), getattr(made, "licence", None))


def _made(source: CustomSource, tree: Path) -> RowSource:
    module, _, name = source.source.partition(":")
    try:
        found = getattr(custom_code.imported(tree, module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ParamsError(f"ingest.sources: no class {source.source}: {error}") from None
    made: RowSource = found(**source.arguments)
    return made


def _batches(made: RowSource, part: Part) -> Iterator[pa.Table]:
    rows = iter(made.rows())
    while batch := list(itertools.islice(rows, ROWS)):
        if any(row.keys() != batch[0].keys() or "label" not in row for row in batch):
            raise CorruptData(
                f"{part.name}: every row needs the same keys, one of them label; they begin with {list(batch[0])}"
            )
        columns = {key: [row[key] for row in batch] for key in batch[0]}
        table = _named(columns, part.keep)
        if "image" not in columns:
            yield table
            continue
        images = columns["image"]
        if all(isinstance(image, np.ndarray) for image in images):
            table = table.append_column("row_id", pa.array([array_id(image) for image in images]))
            images = [encoded(image) for image in images]
        yield table.append_column("image", image_table(images, table["label"])["image"])


def _named(columns: Mapping[str, Sequence[Any]], keep: Sequence[str]) -> pa.Table:
    """`label`, `split`, columns to keep, and all others as features, except of an image."""
    found = {name: pa.array(columns[name]) for name in ("label", "split") if name in columns}
    for name, values in columns.items():
        if name in keep:
            found[KEEP + name] = pa.array(values)
        elif name not in ("label", "split") and "image" not in columns:
            found[FEATURE + name] = pa.array(values)
    return pa.table(found)
