"""Parquet files: a file, a folder, a pattern, or a URL.

They hold images, as Hugging Face's Image feature or as bytes, or numeric features.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from ratchet.columns import is_number, is_text
from ratchet.errors import CorruptData, SourceChanged, SourceMissing
from ratchet.shards import labels, parquet
from ratchet.source_params import ParquetSource
from ratchet.sources import linked_images, urls
from ratchet.sources.base import (
    IMAGE,
    Entry,
    Part,
    Places,
    Rows,
    matching,
    pin,
    require,
    unused_split,
    used_columns,
    with_shard_names,
)
from ratchet.sources.skipped import note_skipped

NULL = "__HIVE_DEFAULT_PARTITION__"


def resolve(source: ParquetSource, places: Places) -> Entry:
    """Pin the parquet files at the source's path or URL.

    Raises:
        SourceMissing: there are none.
    """
    if urls.is_url(source.path):
        files, note = urls.resolve(source.path, places.downloads)
        places.notes.append(note)
        return {"files": files}
    root, names = _files(source, places)
    if not names:
        raise SourceMissing(
            f"ingest.sources: no parquet file at {source.path}; put one there, or correct the path"
        )
    note_skipped(places, source.path, names)
    return {"files": [_pin(root, name, source.image) for name in names]}


def _pin(root: Path, name: str, image: str | None) -> dict[str, Any]:
    images = linked_images.digest(root, name, image) if image else None
    return {**pin(root / name, name), **({"images": images} if images else {})}


def parts(source: ParquetSource, entry: Entry, places: Places) -> list[Part]:
    """List one part per file, so that a new file costs nothing but its own reading."""
    url = urls.is_url(source.path)
    root = urls.folder(places.downloads) if url else _files(source, places)[0]
    parts = []
    for file in entry["files"]:
        local_file = {**file, "name": urls.local(file)} if url else file
        detail = {"partition": partition_of(file["name"])}
        parts.append(Part(source, root, (local_file,), detail, name=file["name"]))
    return parts


def fetch(part: Part) -> None:
    """Download the part's file if its source is a URL."""
    source: ParquetSource = part.source
    if urls.is_url(source.path):
        (pinned,) = part.files
        urls.fetch(source.path, str(part.name), pinned, part.root.parent)


def read(part: Part) -> Rows:
    """Read the rows of one file.

    Raises:
        CorruptData: a column is missing, or the file is damaged.
        SourceChanged: the images that the file names are not those that source.lock pins.
    """
    source = part.source
    path = part.root / part.files[0]["name"]
    schema = parquet.schema(path)
    partition = {
        name: value for name, value in part.detail["partition"].items() if name not in schema.names
    }
    require(used_columns(source, part.keep), [*schema.names, *partition], str(part.name))
    if source.image:
        digest = linked_images.digest(part.root, part.files[0]["name"], source.image)
        if digest != part.files[0].get("images"):
            raise SourceChanged(
                f"the images that {part.name} names are not those that source.lock pins; "
                "put them back, or run `ratchet refresh` to pin what is there now"
            )
    return Rows(
        _batches(path, part),
        _classes(schema, source.label),
        unused_split=_unused_split(path, schema, part),
    )


def _files(source: ParquetSource, places: Places) -> tuple[Path, list[str]]:
    """The files of a folder or pattern, without those that Spark and similar engines skip."""
    root, names = matching(places, source.path, "**/*.parquet")
    if names == [Path(source.path).name]:
        return root, names
    return root, [name for name in names if not is_skipped(name)]


def is_skipped(name: str) -> bool:
    """Whether Spark skips the file: a part begins with "." or "_" and is not a partition."""
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)


def partition_of(name: str) -> dict[str, str | None]:
    """The keys and values of Hive's `key=value` folders, percent-decoded, as text."""
    folders = [folder.partition("=") for folder in PurePosixPath(name).parts[:-1] if "=" in folder]
    return {_decoded(key): None if value == NULL else _decoded(value) for key, _, value in folders}


def _decoded(text: str) -> str:
    """Percent-decode if that gives UTF-8; otherwise keep the text, so that names stay distinct."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _is_word(kind: pa.DataType) -> bool:
    return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _unused_split(path: Path, schema: pa.Schema, part: Part) -> str | None:
    """A column of the file, or a folder's key, that looks like a split.

    Data sets of the Hub have their own splits.
    """
    if "split" in part.detail:
        return None
    used = (part.source.label, part.source.image, *(part.source.features or ()))
    names = [field.name for field in schema if _is_word(field.type) and field.name not in used]
    first = next(parquet.batches(path, names), None) if names else None
    if first is not None and (column := unused_split(first, part.source)):
        return column
    folders = {
        name: [value]
        for name, value in part.detail["partition"].items()
        if name not in schema.names
    }
    return unused_split(pa.table(folders), part.source)


def _batches(path: Path, part: Part) -> Iterator[pa.Table]:
    source, partition = part.source, part.detail["partition"]
    there = parquet.schema(path).names
    names = used_columns(source, part.keep)
    for table in parquet.batches(path, [name for name in names if name in there]):
        for name in names:
            if name in partition and name in there:
                _check_partition(table[name], name, partition[name], part)
            elif name in partition:
                table = table.append_column(
                    name, pa.array([partition[name]] * len(table), pa.string())
                )
        table = with_shard_names(table, source, part.keep)
        if source.image:
            table = table.set_column(
                table.column_names.index("image"), "image", _images(table["image"], part)
            )
        if "split" in part.detail and source.split is None:
            table = table.append_column(
                "split", pa.array([part.detail["split"]] * len(table), pa.string())
            )
        yield table


def _check_partition(column: pa.ChunkedArray, name: str, value: str | None, part: Part) -> None:
    """Raise `CorruptData` if a column of a file disagrees with the name of its folder."""
    if not (is_number(column.type) or is_text(column.type)):
        return
    texts = labels.text(column, name=name).unique().to_pylist()
    folder = labels.text(pa.array([value], pa.string())).to_pylist()
    if texts != folder:
        raise CorruptData(
            f"{part.name}: the column {name} holds {texts[0]}, but its folder says {name}={value}; "
            "rename the folder, or take the column out of the file"
        )


def _images(column: pa.ChunkedArray, part: Part) -> pa.Array:
    """Convert a column of images, as bytes or as structs with bytes, to IMAGE."""
    array = column.combine_chunks()
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        array = pa.StructArray.from_arrays(
            [array, pa.nulls(len(array), pa.string())], ["bytes", "path"]
        )
    if not pa.types.is_struct(array.type) or array.type.get_field_index("bytes") < 0:
        raise CorruptData(
            f"{part.name}: the column {part.source.image} is {array.type}; images are bytes, or"
            " structs with bytes"
        )
    fields: list[Any] = [array.field("bytes").cast(pa.binary()), pa.nulls(len(array), pa.string())]
    if array.type.get_field_index("path") >= 0:
        fields[1] = array.field("path").cast(pa.string())
    images = pa.StructArray.from_arrays(fields, fields=list(IMAGE), mask=array.is_null())
    file = part.root / part.files[0]["name"]
    if "images" in part.files[0]:
        return pa.array(linked_images.filled(images.to_pylist(), part.root, file), IMAGE)
    paths = fields[1].drop_null()
    if len(paths) and fields[0].null_count == len(array):
        raise linked_images.refused(file, paths[0].as_py())
    return images


def _classes(schema: pa.Schema, label: str) -> list[str] | None:
    """The names that Hugging Face's `ClassLabel` keeps in the file's metadata."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]
        return [str(name) for name in info["names"]]
    except (KeyError, TypeError, ValueError):
        return None
