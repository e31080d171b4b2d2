"""Rows that occur more than once, found in bounded memory: ids are compared a part of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ratchet.validation.rules import CODES

PART_ROWS = 200_000  # ids compared at once
RANKS = {"test": 0, "val": 1}  # of the copy that stays; all others come after
GROUP = ("a", "b")


def mark_images(rows: Sequence[Path], codes: np.ndarray, twins: np.ndarray) -> None:
    """Give every good row with the same `row_id` as another its code.

    Of equal labels one row stays: that of the test split, else of val, else the first; a training
    copy of the former is a `leak`, any other a `duplicate`. Of different labels all are a
    `conflict`.

    Args:
        rows: per shard a parquet file with row_id, label, split, key.
        codes: uint8 (N,) over all shards, changed in place; only rows with 0 take part.
        twins: int64 (N,), changed in place: which row a bad one is like.
    """
    _mark(rows, codes, twins, "row_id", _same_image)


def mark_keys(rows: Sequence[Path], codes: np.ndarray, twins: np.ndarray) -> None:
    """Give every good row with the same `key` as an earlier one its code."""
    _mark(rows, codes, twins, "key", _same_key)


def _mark(
    rows: Sequence[Path],
    codes: np.ndarray,
    twins: np.ndarray,
    column: str,
    code: Callable[[pl.DataFrame], pl.DataFrame],
) -> None:
    parts = -(-len(codes) // PART_ROWS)
    for part in range(parts):
        frame = _read(rows, codes, column, part, parts)
        found = code(frame.filter(pl.struct(GROUP).is_duplicated()).sort("rank", "position"))
        codes[found["position"].to_numpy()] = found["code"].to_numpy()
        twins[found["position"].to_numpy()] = found["keeper"].to_numpy()


def _read(
    rows: Sequence[Path], codes: np.ndarray, column: str, part: int, parts: int
) -> pl.DataFrame:
    """The good rows whose id falls in this part."""
    frames, start = [], 0
    for path in rows:
        frame = pl.read_parquet(path, columns=[column, "label", "split"])
        good = pl.Series(codes[start : start + len(frame)] == 0)
        frame = frame.select(
            a=pl.col(column).str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64),
            b=pl.col(column).str.slice(16, 16).str.to_integer(base=16, dtype=pl.UInt64),
            label=pl.col("label").hash(),
            rank=pl.col("split").replace_strict(RANKS, default=len(RANKS), return_dtype=pl.UInt8),
            position=pl.int_range(start, start + len(frame), dtype=pl.Int64),
        )
        start += len(frame)
        frames.append(frame.filter(good & (pl.col("a") % parts == part)))
    return pl.concat(frames)


def _same_image(frame: pl.DataFrame) -> pl.DataFrame:
    frame = frame.with_columns(
        conflict=pl.col("label").n_unique().over(GROUP) > 1,
        keeper=pl.col("position").first().over(GROUP),
        best=pl.col("rank").first().over(GROUP),
    ).filter(pl.col("conflict") | (pl.col("position") != pl.col("keeper")))
    leak = (
        pl.when(pl.col("rank") > pl.col("best")).then(CODES["leak"]).otherwise(CODES["duplicate"])
    )
    code = pl.when(pl.col("conflict")).then(CODES["conflict"]).otherwise(leak)
    first = (
        pl.col("position").first().over(GROUP)
    )  # what is left of a conflict names another row of it
    other = pl.when(pl.col("conflict") & (pl.col("position") == first)).then(
        pl.col("position").last().over(GROUP)
    )
    return frame.select(
        "position",
        other.otherwise(pl.col("keeper")).alias("keeper"),
        code.cast(pl.UInt8).alias("code"),
    )


def _same_key(frame: pl.DataFrame) -> pl.DataFrame:
    frame = frame.sort("position").with_columns(keeper=pl.col("position").first().over(GROUP))
    code = pl.lit(CODES["not_unique"], pl.UInt8).alias("code")
    return frame.filter(pl.col("position") != pl.col("keeper")).select("position", "keeper", code)
