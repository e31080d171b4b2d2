"""Parquet files: one, a folder, a pattern, or a URL; images as the Hugging Face Image feature, or numeric features."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.data import parquet
from tasks.data.sources import remote
from tasks.data.sources.base import IMAGE, Entry, Part, Places, Rows, matching, note_skipped, pin
from tasks.errors import CorruptData, SourceMissing
from tasks.params import ParquetSource


def resolve(source: ParquetSource, places: Places) -> Entry:
    if remote.is_url(source.path):
        files, note = remote.resolve(source.path, places.downloads)
        places.notes.append(note)
        return {"files": files}
    root, names = _files(source, places)
    if not names:
        raise SourceMissing(f"ingest.sources: no parquet file at {source.path}; put one there, or correct the path")
    note_skipped(places, source.path, names)
    return {"files": [pin(root / name, name) for name in names]}


def parts(source: ParquetSource, entry: Entry, places: Places) -> list[Part]:
    """One for each file, so that a new one costs no more than itself."""
    url = remote.is_url(source.path)
    root = remote.folder(places.downloads) if url else _files(source, places)[0]
    made = []
    for file in entry["files"]:
        here = {**file, "name": remote.local(file)} if url else file
        made.append(Part(source, root, (here,), {"file": file["name"], "partition": _partition(file["name"])}))
    return made


def fetch(part: Part) -> None:
    """Download the part's file if its source is a URL."""
    source: ParquetSource = part.source
    if remote.is_url(source.path):
        (pinned,) = part.files
        remote.fetch(source.path, part.detail["file"], pinned, part.root.parent)


def read(part: Part) -> Rows:
    source: ParquetSource = part.source
    path = part.root / part.files[0]["name"]
    schema = parquet.schema(path)
    wanted = [source.label, *([source.image] if source.image else source.features or []), *part.keep]
    here = {*schema.names, *part.detail["partition"]}
    if missing := [name for name in wanted if name not in here]:
        raise CorruptData(
            f"{part.detail['file']} has no column {', '.join(missing)}; it has {', '.join(sorted(here))}; "
            "correct ingest.sources in params.yaml"
        )
    return Rows(_batches(path, part, [*wanted, *{"split"} & here]), _classes(schema, source.label))


def _files(source: ParquetSource, places: Places) -> tuple[Path, list[str]]:
    return matching(places, source.path, "**/*.parquet")


def _partition(name: str) -> dict[str, str]:
    """Hive's `key=value` folders."""
    return dict(folder.split("=", 1) for folder in Path(name).parts[:-1] if "=" in folder)


def _batches(path: Path, part: Part, wanted: list[str]) -> Iterator[pa.Table]:
    source, partition = part.source, part.detail["partition"]
    for table in parquet.batches(path, [name for name in wanted if name not in partition]):
        for name in wanted:
            if name in partition:
                table = table.append_column(name, pa.array([_typed(partition[name])] * len(table)))
        if source.image:
            table = table.set_column(
                table.column_names.index(source.image), "image", _images(table[source.image], part)
            )
        yield table.rename_columns({source.label: "label"} if source.label != "label" else {})


def _typed(value: str) -> int | str:
    """Whole numbers in the names of Hive's folders are numbers."""
    return int(value) if value.isdecimal() else value


def _images(column: pa.ChunkedArray, part: Part) -> pa.Array:
    """A column of images as IMAGE: it may be that already, or plain bytes."""
    array = column.combine_chunks()
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        array = pa.StructArray.from_arrays([array, pa.nulls(len(array), pa.string())], ["bytes", "path"])
    if not pa.types.is_struct(array.type) or array.type.get_field_index("bytes") < 0:
        raise CorruptData(f"{part.detail['file']}: {part.source.image} is {array.type}, no column of images")
    fields: list[Any] = [array.field("bytes").cast(pa.binary()), pa.nulls(len(array), pa.string())]
    if array.type.get_field_index("path") >= 0:
        fields[1] = array.field("path").cast(pa.string())
    return pa.StructArray.from_arrays(fields, fields=list(IMAGE), mask=array.is_null())


def _classes(schema: pa.Schema, label: str) -> list[str] | None:
    """The names that Hugging Face's `ClassLabel` keeps in the file's metadata."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in info["names"]]
    except (KeyError, TypeError, ValueError):
        return None
