"""Parquet files: one, a folder, or a pattern; images as the Hugging Face Image feature, or numeric features."""

from __future__ import annotations

import glob
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data.sources.base import IMAGE, Entry, Part, Places, Rows, pin
from tasks.errors import CorruptData, SourceMissing
from tasks.params import ParquetSource

ROWS = 1000  # in one batch
BUFFER = 1 << 20  # bytes of a column chunk that are held at once


def resolve(source: ParquetSource, places: Places) -> Entry:
    root, names = _files(source, places)
    if not names:
        raise SourceMissing(f"ingest.sources: no parquet file at {source.path}; put one there, or correct the path")
    return {"path": source.path, "files": [pin(root / name, name) for name in names]}


def parts(source: ParquetSource, entry: Entry, places: Places) -> list[Part]:
    root, _ = _files(source, places)
    return [Part(source, root, (file,)) for file in entry["files"]]


def read(part: Part) -> Rows:
    name = part.files[0]["name"]
    try:
        file = pq.ParquetFile(part.root / name, buffer_size=BUFFER, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise CorruptData(f"{name} is no whole parquet file: {error}") from None
    source: ParquetSource = part.source
    wanted = [source.label, *([source.image] if source.image else source.features or [])]
    missing = [column for column in wanted if column not in file.schema_arrow.names]
    if missing:
        has = ", ".join(file.schema_arrow.names)
        raise CorruptData(
            f"{name} has no column {', '.join(missing)}; it has {has}; correct ingest.sources in params.yaml"
        )
    wanted += ["split"] if "split" in file.schema_arrow.names else []
    return Rows(_batches(file, name, source, wanted), _classes(file.schema_arrow, source.label))


def _files(source: ParquetSource, places: Places) -> tuple[Path, list[str]]:
    """The folder, and the names in it of the files that the path means."""
    path = places.find(source.path)
    if path.is_dir():
        return path, sorted(file.relative_to(path).as_posix() for file in path.rglob("*.parquet"))
    if path.is_file():
        return path.parent, [path.name]
    plain = list(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    root, pattern = Path(*plain), "/".join(path.parts[len(plain) :])
    return root, sorted(file.relative_to(root).as_posix() for file in root.glob(pattern)) if pattern else []


def _batches(file: pq.ParquetFile, name: str, source: ParquetSource, wanted: list[str]) -> Iterator[pa.Table]:
    try:
        for batch in file.iter_batches(ROWS, columns=wanted):
            table = pa.Table.from_batches([batch])
            yield _image(table, source) if source.image else table.rename_columns({source.label: "label"})
    except (pa.ArrowException, OSError) as error:
        raise CorruptData(f"{name} is corrupt: {error}") from None


def _image(table: pa.Table, source: ParquetSource) -> pa.Table:
    """The image column as IMAGE: it may be that already, or plain bytes."""
    column = table[source.image].combine_chunks()
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        nothing = pa.nulls(len(column), pa.string())
        column = pa.StructArray.from_arrays([column.cast(pa.binary()), nothing], fields=list(IMAGE))
    at = table.column_names.index(source.image)
    return table.set_column(at, "image", column.cast(IMAGE)).rename_columns({source.label: "label"})


def _classes(schema: pa.Schema, label: str) -> list[str] | None:
    """The names that Hugging Face's `ClassLabel` keeps in the file's metadata."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in info["names"]]
    except (KeyError, TypeError, ValueError):
        return None
