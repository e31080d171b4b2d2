"""Read parquet files a few rows at a time, however they were written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.errors import CorruptData

ROWS = 1000  # most rows of one batch
BATCH_BYTES = 1 << 24  # bytes of one batch, estimated from the mean size of a row
BUFFER = 1 << 20  # bytes of a column read at once
BOMB_BYTES, BOMB_RATIO = 1 << 28, 50  # data that would grow beyond both limits are not unpacked


def schema(path: Path) -> pa.Schema:
    """Read the file's schema.

    Raises:
        CorruptData: the file is cut or damaged, or it is not a parquet file.
    """
    with corrupt_if(path), pq.ParquetFile(path) as file:
        return file.schema_arrow


def batches(
    path: Path, columns: Sequence[str] | None = None, rows: int = ROWS
) -> Iterator[pa.Table]:
    """Yield the rows in order, at most `rows` at a time, with the page checksums verified.

    Repeated values stay dictionary-encoded until the size of the decoded batch is known.

    Raises:
        CorruptData: the file is cut or damaged, or its data exceed `BOMB_BYTES` and `BOMB_RATIO`.
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
    """Turn the errors of reading `path` into `CorruptData`."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        cause = " ".join(str(error).split())
        raise CorruptData(
            f"{path.name} is cut or damaged: {cause}; restore the file, then try again"
        ) from None


def _bytes_of(field: pa.Field) -> str | None:
    """The path of the bytes in a column of images; None for other columns."""
    if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
        return f"{field.name}.bytes"
    if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
        return str(field.name)
    return None


def _fitting(path: Path, group: Any) -> int:
    """How many rows of a row group fit into a batch.

    This looks at the row group as a whole, because reading the statistics of a single column from
    a damaged footer can abort the process.
    """
    unpacked_size, packed_size = group.total_byte_size, path.stat().st_size
    if unpacked_size > BOMB_BYTES and unpacked_size > BOMB_RATIO * packed_size:
        raise _bomb(path, "its columns", unpacked_size, packed_size)
    rows: int = BATCH_BYTES * group.num_rows // max(1, unpacked_size)
    return max(1, rows)


def _unfolded(path: Path, table: pa.Table) -> pa.Table:
    """Replace dictionaries of bytes, also inside structs, by the bytes themselves."""
    for index, field in enumerate(table.schema):
        column = table.column(index).combine_chunks()
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, _decoded(path, field.name, column))
        elif pa.types.is_struct(field.type) and any(
            pa.types.is_dictionary(child.type) for child in field.type
        ):
            names = [child.name for child in field.type]
            children = [_decoded(path, field.name, column.field(name)) for name in names]
            struct = pa.StructArray.from_arrays(children, names, mask=column.is_null())
            table = table.set_column(index, field.name, struct)
    return table


def _decoded(path: Path, name: str, column: pa.Array) -> pa.Array:
    """The values of a dictionary; any other array unchanged."""
    if not pa.types.is_dictionary(column.type):
        return column
    unpacked_size = pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    if unpacked_size > BOMB_BYTES and unpacked_size > BOMB_RATIO * column.nbytes:
        raise _bomb(path, name, unpacked_size, column.nbytes)
    return column.dictionary_decode()


def _bomb(path: Path, column: str, unpacked_size: int, packed_size: int) -> CorruptData:
    return CorruptData(
        f"{path.name}: {packed_size:,} bytes of {column} would grow to {unpacked_size:,}; such a"
        " file is not unpacked"
    )
