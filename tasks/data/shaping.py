"""One shard prepared: its good rows as a model's inputs, by split. A pure function of its path and params."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data import spec as specs
from tasks.data.files import to_json
from tasks.data.shards import Shard
from tasks.data.spec import Spec
from tasks.data.splits import SPLITS, splits
from tasks.params import PrepareParams

SUMMARY = "summary.json"
CHUNK_BYTES = 1 << 22  # of the inputs that are made at once


def shape(
    shard: Shard,
    dropped: np.ndarray,
    known: Sequence[str],
    kept: Sequence[str],
    outline: Spec,
    encoded: bool,
    params: PrepareParams,
    folder: Path,
) -> None:
    """Write per split `<split>.bin` (the inputs, one after the other), `<split>.parquet` (row_id, label, `kept`; for encoded
    images also their length), and `summary.json` (rows per split and label; sums over the training split).

    Args:
        dropped: rows to leave out, int64 (n,).
        known: splits that the shard's source gives.
        kept: columns of the shard that are carried along.
        encoded: keep the bytes of the images as they came.

    Raises:
        CorruptData: the shard is not what `dataset.json` lists.
    """
    shard.verify()
    files = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
    metas: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}
    statistics = Statistics(outline)
    start = 0
    for table in shard.batches(rows=max(1, min(1000, CHUNK_BYTES // int(np.prod(outline.input_shape))))):
        rows = len(table)
        table = table.take(np.setdiff1d(np.arange(rows), dropped - start))
        start += rows
        given = table["split"].to_pylist() if "split" in table.column_names else None
        where = splits(table["row_id"].to_pylist(), given, known, params.val_fraction, params.test_fraction)
        inputs = specs.raw(table, outline)
        statistics.add(inputs[where == 0])
        for index, split in enumerate(SPLITS):
            part = table.filter(pa.array(where == index))
            meta = part.select(["row_id", "label", *kept]).replace_schema_metadata(None)
            if encoded:
                images = part["image"].combine_chunks().field("bytes").to_pylist()
                files[split].writelines(images)
                meta = meta.append_column("length", pa.array(map(len, images), pa.int64()))
            else:
                files[split].write(inputs[where == index].tobytes())
            metas[split].append(meta)
    rows_by_label = {}
    for split in SPLITS:
        files[split].close()
        table = pa.concat_tables(metas[split])
        rows_by_label[split] = Counter(table["label"].to_pylist())
        pq.write_table(table, folder / f"{split}.parquet")
    (folder / SUMMARY).write_text(to_json({"rows": rows_by_label, "sums": statistics.sums()}))


class Statistics:
    """Count, sum and sum of squares per channel or feature, which add up over shards; of pixels exactly, in whole numbers."""

    def __init__(self, outline: Spec) -> None:
        self._image = outline.kind == "image"
        self._sums = np.zeros((3, outline.input_shape[0]), np.int64 if self._image else np.float64)

    def add(self, inputs: np.ndarray) -> None:
        """`inputs` are uint8 (N, C, H, W), or float32 (N, F) with NaN for what is missing."""
        if self._image:
            squares = np.square(inputs, dtype=np.uint16)  # 255² fits
            count = np.full(inputs.shape[1], inputs[:, 0].size)
            self._sums += [count, inputs.sum((0, 2, 3), np.int64), squares.sum((0, 2, 3), np.int64)]
        else:
            values = inputs.astype(np.float64)
            self._sums += [np.sum(~np.isnan(values), 0), np.nansum(values, 0), np.nansum(values**2, 0)]

    def sums(self) -> list[list[float]]:
        """(3, C) or (3, F)."""
        return [list(row) for row in self._sums.tolist()]


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / SUMMARY).read_text()))
