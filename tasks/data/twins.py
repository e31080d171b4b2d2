"""Images that occur more than once, found in bounded memory: ids are compared a part of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasks.data.schema import CODES

PART_ROWS = 1_000_000  # ids compared at once


def mark(rows: Sequence[Path], codes: np.ndarray, twins: np.ndarray) -> None:
    """Give every good row with the same `row_id` as another its code.

    Of equal labels one row stays: that of the test split, else of val, else the first; a training copy of the former is
    a `leak`, any other a `duplicate`. Of different labels all are a `conflict`.

    Args:
        rows: per shard a parquet file with row_id, label, split.
        codes: uint8 (N,) over all shards, changed in place; only rows with 0 take part.
        twins: int64 (N,), changed in place: which row a bad one is like.
    """
    parts = -(-len(codes) // PART_ROWS)
    for part in range(parts):
        found = _marked(_read(rows, codes, part, parts))
        codes[found["position"].to_numpy()] = found["code"].to_numpy()
        twins[found["position"].to_numpy()] = found["keeper"].to_numpy()


def _read(rows: Sequence[Path], codes: np.ndarray, part: int, parts: int) -> pl.DataFrame:
    """The good rows whose id falls in this part."""
    frames, start = [], 0
    for path in rows:
        frame = pl.read_parquet(path, columns=["row_id", "label", "split"])
        good = codes[start : start + len(frame)] == 0
        number = pl.col("row_id").str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64)
        rest = pl.col("row_id").str.slice(16, 16).str.to_integer(base=16, dtype=pl.UInt64)
        rank = pl.col("split").replace_strict({"test": 0, "val": 1}, default=2, return_dtype=pl.UInt8)
        position = pl.int_range(start, start + len(frame), dtype=pl.Int64)
        start += len(frame)
        frame = frame.select(
            number.alias("a"), rest.alias("b"), pl.col("label").hash(), rank.alias("rank"), position.alias("position")
        )
        frames.append(frame.filter(pl.Series(good) & (pl.col("a") % parts == part)))
    return pl.concat(frames)


def _marked(frame: pl.DataFrame) -> pl.DataFrame:
    frame = frame.filter(pl.struct("a", "b").is_duplicated()).sort("rank", "position")
    group = ("a", "b")
    frame = frame.with_columns(
        conflict=pl.col("label").n_unique().over(group) > 1,
        keeper=pl.col("position").first().over(group),
        best=pl.col("rank").first().over(group),
    ).filter(pl.col("conflict") | (pl.col("position") != pl.col("keeper")))
    leak = pl.when(pl.col("rank") > pl.col("best")).then(CODES["leak"]).otherwise(CODES["duplicate"])
    code = pl.when(pl.col("conflict")).then(CODES["conflict"]).otherwise(leak)
    return frame.select("position", "keeper", code.cast(pl.UInt8).alias("code"))
