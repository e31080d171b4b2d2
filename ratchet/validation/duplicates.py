"""Mark rows that occur more than once, in bounded memory: ids are compared in several parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ratchet.validation.rules import CODES

PART_ROWS = 200_000  # ids compared at once
RANKS = {"test": 0, "val": 1}  # which copy stays: the one with the lowest rank; others rank last
GROUP = ("a", "b")


def mark_images(rows: Sequence[Path], codes: np.ndarray, twins: np.ndarray) -> None:
    """Mark good rows that have the same `row_id`.

    If their labels are equal, one row stays: a row of the test split, or else of the validation
    split, or else the first row. A copy in a split that ranks lower is a `leak`, any other copy is
    a `duplicate`. If their labels differ, all of them are a `conflict`.

    Args:
        rows: one parquet file per shard, with row_id, label, split and key.
        codes: codes of all rows, uint8 (N,), changed in place; only rows with code 0 are compared.
        twins: for each bad row the row that it equals, int64 (N,), changed in place.
    """
    _mark(rows, codes, twins, "row_id", _same_image)


def mark_keys(rows: Sequence[Path], codes: np.ndarray, twins: np.ndarray) -> None:
    """Mark good rows that have the same `key` as an earlier one; see `mark_images`."""
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
        bad = code(frame.filter(pl.struct(GROUP).is_duplicated()).sort("rank", "position"))
        codes[bad["position"].to_numpy()] = bad["code"].to_numpy()
        twins[bad["position"].to_numpy()] = bad["keeper"].to_numpy()


def _read(
    rows: Sequence[Path], codes: np.ndarray, column: str, part: int, parts: int
) -> pl.DataFrame:
    """Read the good rows whose id falls into this part."""
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
    # The first row of a conflict names the last one, because a row cannot name itself.
    first = pl.col("position").first().over(GROUP)
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
