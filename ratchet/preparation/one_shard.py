"""One shard prepared: its good rows as a model's inputs, by split.

A pure function of its path and params.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.dataset import spec as specs
from ratchet.dataset.spec import Spec
from ratchet.files import to_json
from ratchet.params import PrepareParams
from ratchet.preparation import moments
from ratchet.shards.shards import Shard
from ratchet.shards.splits import SPLITS, splits

SUMMARY = "summary.json"
CHUNK_BYTES = 1 << 22  # of the inputs that are made at once


def shape(
    shard: Shard,
    dropped: np.ndarray,
    known: Sequence[str],
    moved: Collection[str],
    kept: Sequence[str],
    outline: Spec,
    encoded: bool,
    params: PrepareParams,
    folder: Path,
) -> None:
    """Write per split `<split>.bin` (the inputs, one after the other), `<split>.parquet` (row_id, label, `kept`; for encoded
    images also their length), and `summary.json` (rows per split and label; sums over the training
    split).

    Args:
        dropped: rows to leave out, int64 (n,).
        known: splits that the shard's source gives.
        moved: row_ids that go to training, see `splits.to_training`.
        kept: columns of the shard that are carried along.
        encoded: keep the bytes of the images as they came.

    Raises:
        CorruptData: the shard is not what `dataset.json` lists.
        ValidationFailed: a feature's values are too large to standardise.
    """
    shard.verify()
    files = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
    metas: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}
    statistics = moments.none(outline)
    start = 0
    for table in shard.batches(
        rows=max(1, min(1000, CHUNK_BYTES // int(np.prod(outline.input_shape))))
    ):
        rows = len(table)
        table = table.take(np.setdiff1d(np.arange(rows), dropped - start))
        start += rows
        given = table["split"].to_pylist() if "split" in table.column_names else None
        fractions = params.val_fraction, params.test_fraction
        where = splits(table["row_id"].to_pylist(), given, known, *fractions, moved)
        inputs = specs.raw(table, outline)
        statistics = statistics.after(inputs[where == 0])
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
    (folder / SUMMARY).write_text(
        to_json({"rows": rows_by_label, "statistics": moments.checked(statistics, outline)})
    )


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
