"""`data/quarantine.parquet`: the bad rows by shard and row, and their place in the source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from ratchet.shards import parquet

FILE = "data/quarantine.parquet"
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("row_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("source", pa.string()),
    ]
)


def by_shard(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each shard that has bad rows, and their numbers, int64 (n,), in order.

    Raises:
        CorruptData: the file is cut or damaged.
    """
    name, rows = None, list[np.ndarray]()
    for table in parquet.batches(path, ["shard", "row"], 100_000):
        for shard in table["shard"].unique().to_pylist():
            if shard != name and rows:
                yield str(name), np.concatenate(rows)
                rows = []
            name = shard
            rows.append(table.filter(pa.compute.equal(table["shard"], shard))["row"].to_numpy())
    if rows:
        yield str(name), np.concatenate(rows)
