"""One shard checked: every rule on every row, every image decoded to its end. A pure function of its path and rules."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from tasks.data import images, schema
from tasks.data.files import to_json
from tasks.data.shards import Shard

ROWS = "rows.parquet"
SUMMARY = "summary.json"


def check(shard: Shard, info: dict[str, Any], folder: Path) -> None:
    """Write `rows.parquet` (row_id, label, split, code, detail; all rows, in order) and `summary.json`.

    Raises:
        CorruptData: the shard is not what `dataset.json` lists.
        ValidationFailed: its columns are not those of the schema.
    """
    shard.verify()
    sizes: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    frames, details = [], []
    for table in shard.batches():
        if "image" in table.column_names:
            faults = [_decode(image, sizes, modes) for image in table["image"].combine_chunks().field("bytes")]
            details += [detail for _, detail in faults]
            table = table.drop_columns("image").append_column(
                "fault", pa.array([fault for fault, _ in faults], pa.string())
            )
        frames.append(pl.DataFrame(table))
    frame = pl.concat(frames)
    found = schema.failures(frame, schema.schema(info))
    if details:
        faulty = frame.select(row=pl.int_range(pl.len()), reason="fault", detail=pl.Series(details, dtype=pl.String))
        found = pl.concat([found, faulty.filter(pl.col("reason").is_not_null())])
    _coded(frame, found).write_parquet(folder / ROWS)
    summary = {"sizes": dict(sizes), "modes": dict(modes)}
    (folder / SUMMARY).write_text(to_json(summary))


def _decode(image: pa.Scalar, sizes: Counter[str], modes: Counter[str]) -> tuple[str | None, str | None]:
    """The code of what is wrong with an image and its detail, or nothing; counts its size and mode."""
    try:
        loaded = images.load(image.as_py())
    except images.BadImage as error:
        return error.reason, error.detail
    sizes[f"{loaded.width}x{loaded.height}"] += 1
    modes[loaded.mode] += 1
    return None, None


def _coded(frame: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Every row with the first reason against it, as a code."""
    code = pl.col("reason").replace_strict(schema.CODES, return_dtype=pl.UInt8)
    first = found.with_columns(code=code).sort("row", "code", "detail").unique("row", keep="first")
    split = pl.col("split") if "split" in frame.columns else pl.lit(None, pl.String).alias("split")
    rows = frame.select(pl.int_range(pl.len()).alias("row"), "row_id", pl.col("label").cast(pl.String), split)
    joined = rows.join(first.select("row", "code", "detail"), on="row", how="left", maintain_order="left")
    return joined.select("row_id", "label", "split", pl.col("code").fill_null(0), "detail")


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / SUMMARY).read_text()))
