"""Parquet files read a few rows at a time, however they were written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.errors import CorruptData

ROWS = 1000  # in one batch, if they are small
BATCH_BYTES = 1 << 24  # of one batch, by the mean size of a row
BUFFER = 1 << 20  # bytes of a column that are read at once
BOMB_BYTES, BOMB_RATIO = 1 << 28, 50  # what grows beyond both is refused before it is unpacked


def schema(path: Path) -> pa.Schema:
    """Raises `CorruptData` if the file is no whole parquet file."""
    with corrupt_if(path), pq.ParquetFile(path) as file:
        return file.schema_arrow


def batches(
    path: Path, columns: Sequence[str] | None = None, rows: int = ROWS
) -> Iterator[pa.Table]:
    """The rows in order, every page checked against its checksum where it has one.

    Repeated values are held once until a batch is known to be of a bearable size.

    Raises:
        CorruptData: the file is cut or damaged, or it would grow out of all proportion.
    """
    images = [name for field in schema(path) if (name := _bytes_of(field))]
    options = {"buffer_size": BUFFER, "page_checksum_verification": True, "read_dictionary": images}
    with corrupt_if(path), pq.ParquetFile(path, **options) as file:
        for group in range(file.metadata.num_row_groups):
            size = min(rows, _fitting(path, file.metadata.row_group(group)))
            for batch in file.iter_batches(
                size, row_groups=[group], columns=columns and list(columns)
            ):
                yield _unfolded(path, pa.Table.from_batches([batch]))


@contextmanager
def corrupt_if(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        cause = " ".join(str(error).split())
        raise CorruptData(
            f"{path.name} is cut or damaged: {cause}; restore the file, then try again"
        ) from None


def _bytes_of(field: pa.Field) -> str | None:
    """Where a column of images has its bytes."""
    if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
        return f"{field.name}.bytes"
    return (
        field.name
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        else None
    )


def _fitting(path: Path, group: Any) -> int:
    """How many rows of a row group fit into a batch.

    (A damaged footer can abort whoever asks for a column's numbers.).
    """
    grown, packed = group.total_byte_size, path.stat().st_size
    if grown > BOMB_BYTES and grown > BOMB_RATIO * packed:
        _refuse(path, "its columns", grown, packed)
    rows: int = BATCH_BYTES * group.num_rows // max(1, grown)
    return max(1, rows)


def _unfolded(path: Path, table: pa.Table) -> pa.Table:
    """Dictionaries of bytes as the bytes themselves."""
    for index, field in enumerate(table.schema):
        column = table.column(index).combine_chunks()
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, _decoded(path, field.name, column))
        elif pa.types.is_struct(field.type) and any(
            pa.types.is_dictionary(child.type) for child in field.type
        ):
            fields = [child.name for child in field.type]
            children = [column.field(name) for name in fields]
            children = [
                _decoded(path, field.name, c) if pa.types.is_dictionary(c.type) else c
                for c in children
            ]
            table = table.set_column(
                index,
                field.name,
                pa.StructArray.from_arrays(children, fields, mask=column.is_null()),
            )
    return table


def _decoded(path: Path, name: str, column: pa.DictionaryArray) -> pa.Array:
    grown = pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    if grown > BOMB_BYTES and grown > BOMB_RATIO * column.nbytes:
        _refuse(path, name, grown, column.nbytes)
    return column.dictionary_decode()


def _refuse(path: Path, column: str, grown: int, packed: int) -> None:
    raise CorruptData(
        f"{path.name}: {packed:,} bytes of {column} would grow to {grown:,}; such a file is not"
        " unpacked"
    )
