"""Check one shard: apply every rule to every row, and decode every image to its end.

This is a pure function of the shard's content and the rules.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ratchet.columns import FEATURE
from ratchet.files import to_json
from ratchet.params import ValidateParams
from ratchet.shards.shards import Shard
from ratchet.validation import histogram, rules
from ratchet.validation.image_statistics import Pictures

ROWS = "rows.parquet"
SUMMARY = "summary.json"


def check(shard: Shard, info: dict[str, Any], params: ValidateParams, folder: Path) -> None:
    """Check all rows of a shard; write `rows.parquet` and `summary.json` to `folder`.

    `rows.parquet` holds row_id, label, split, key, code, detail and path of all rows, in order.
    `summary.json` holds counts of the good images, and facts about each feature.

    Args:
        shard: the shard to check.
        info: facts of `dataset.json` that the rules depend on.
        params: the section `validate`.
        folder: an empty folder.

    Raises:
        CorruptData: the shard is not what `dataset.json` lists.
        ValidationFailed: its columns are not those of the schema.
    """
    shard.verify()
    pictures = Pictures(shard.rows, params.max_pixels)
    frames, paths = [], list[str | None]()
    for table in shard.batches():
        if "image" in table.column_names:
            paths += table["image"].combine_chunks().field("path").to_pylist()
            faults = pa.array(pictures.faults(table["image"]), pa.string())
            table = table.drop_columns("image").append_column("fault", faults)
        frames.append(pl.DataFrame(table))
    frame = pl.concat(frames)
    failures = rules.failures(frame, rules.schema(info, params))
    if pictures.details:
        details = pl.Series(pictures.details, dtype=pl.String)
        faulty = frame.select(row=pl.int_range(pl.len()), reason="fault", detail=details)
        failures = pl.concat([failures, faulty.filter(pl.col("reason").is_not_null())])
    unique = [rules.column(name, info) for name in params.unique]
    rows = _coded(frame, failures, unique)
    rows = rows.with_columns(pl.Series("path", paths or [None] * len(rows), pl.String))
    rows.write_parquet(folder / ROWS)
    numbers = {name: _numbers(frame[FEATURE + name].to_numpy()) for name in info["features"]}
    if pictures.brightness:
        numbers["brightness"] = _numbers(np.array(pictures.brightness, np.float64))
    (folder / SUMMARY).write_text(to_json({**pictures.summary(), "numbers": numbers}))


def _numbers(values: np.ndarray) -> dict[str, Any]:
    """The number of missing values, and the histogram and range of the finite ones."""
    finite = values[np.isfinite(values)]
    return {
        "null": int(np.isnan(values).sum()),
        "bins": histogram.count(values),
        "min": float(finite.min()) if len(finite) else None,
        "max": float(finite.max()) if len(finite) else None,
    }


def _coded(frame: pl.DataFrame, failures: pl.DataFrame, unique: Sequence[str]) -> pl.DataFrame:
    """All rows, each with the code of its first failure, or 0 if it is good."""
    code = pl.col("reason").replace_strict(rules.CODES, return_dtype=pl.UInt8)
    ordered = failures.with_columns(code=code).sort("row", "code", "detail")
    first = ordered.unique("row", keep="first")
    split = pl.col("split") if "split" in frame.columns else pl.lit(None, pl.String).alias("split")
    rows = frame.select(pl.int_range(pl.len()).alias("row"), "row_id", "label", split)
    rows = rows.with_columns(pl.Series("key", _keys(frame, unique), pl.String))
    joined = rows.join(
        first.select("row", "code", "detail"), on="row", how="left", maintain_order="left"
    )
    return joined.drop("row").with_columns(pl.col("code").fill_null(0))


def _keys(frame: pl.DataFrame, unique: Sequence[str]) -> list[str | None]:
    """A hash of each row's values in the unique columns; None if there are no such columns."""
    if not unique:
        return [None] * len(frame)
    rows = frame.select(unique).iter_rows()
    return [hashlib.blake2b(repr(row).encode(), digest_size=16).hexdigest() for row in rows]


def summary(folder: Path) -> dict[str, Any]:
    """Read the summary that `check` wrote."""
    return dict(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
