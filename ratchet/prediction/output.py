"""Write predictions: the schema of a row, and parquet and CSV files.

Columns: `path` (the row's file, or the address of its data set), `row` (its place there, from 0),
`row_id`, `version`, `prediction`, `probabilities` (float32, in the order of the version's classes;
in CSV one column per class) and `reason` (null for a good row).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ratchet.files import writing

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "row": pa.int64(),
        "row_id": pa.string(),
        "version": pa.string(),
        "prediction": pa.string(),
        "probabilities": pa.list_(pa.float32()),
        "reason": pa.string(),
    }
)


@contextlib.contextmanager
def writer(output: Path, classes: Sequence[str]) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends rows to `output`, which appears when the block succeeds.

    Args:
        output: a file that ends in .parquet or .csv.
        classes: the names of the classes.
    """
    with writing(output) as temporary:
        if output.suffix == ".parquet":
            with pq.ParquetWriter(temporary, SCHEMA, write_page_checksum=True) as parquet:
                yield parquet.write_table
        else:
            empty = _flat(SCHEMA.empty_table(), classes)
            with pyarrow.csv.CSVWriter(temporary, empty.schema) as csv:
                yield lambda table: csv.write_table(_flat(table, classes))


def _flat(table: pa.Table, classes: Sequence[str]) -> pa.Table:
    """Split the probabilities into a column per class, `probability:CLASS`."""
    probabilities = table["probabilities"].combine_chunks()
    good = probabilities.is_valid().to_numpy(zero_copy_only=False)
    values = probabilities.flatten().to_numpy().reshape(-1, len(classes))  # (good rows, classes)
    columns = {name: table[name] for name in table.column_names if name != "probabilities"}
    reason = columns.pop("reason")
    for number, name in enumerate(classes):
        column = np.zeros(len(table), np.float32)
        column[good] = values[:, number]
        columns[f"probability:{name}"] = pa.array(column, mask=~good)
    return pa.table({**columns, "reason": reason})
