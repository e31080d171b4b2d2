"""Prepare one shard: turn its good rows into a model's inputs, by split.

This is a pure function of the shard's content and the params.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
CHUNK_BYTES = 1 << 22  # bytes of the inputs decoded at once


def shape(
    shard: Shard,
    dropped: np.ndarray,
    source_splits: Sequence[str],
    moved: Collection[str],
    keep: Sequence[str],
    outline: Spec,
    encoded: bool,
    params: PrepareParams,
    folder: Path,
) -> None:
    """Write the inputs, the metadata and a summary of one shard to `folder`.

    `<split>.bin` holds the inputs, one after the other. `<split>.parquet` holds row_id, label, the
    columns `keep`, and the length of each image that stays encoded. `summary.json` holds the rows
    per split and label, and the statistics of the training split.

    Args:
        shard: the shard to read.
        dropped: rows to leave out, int64 (n,).
        source_splits: splits that the shard's source defines.
        moved: row_ids that move to training, see `splits.to_training`.
        keep: columns of the shard to carry along.
        outline: the spec, with the shape of the inputs.
        encoded: keep the encoded bytes of the images instead of their pixels.
        params: the section `prepare`.
        folder: an empty folder.

    Raises:
        CorruptData: the shard is not what `dataset.json` lists.
        ValidationFailed: a feature's values are too large to standardise.
    """
    shard.verify()
    files = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
    metas: dict[str, list[pa.Table]] = {split: [] for split in SPLITS}
    statistics = moments.none(outline)
    start = 0
    rows_at_once = max(1, min(1000, CHUNK_BYTES // int(np.prod(outline.input_shape))))
    for table in shard.batches(rows=rows_at_once):
        rows = len(table)
        table = table.take(np.setdiff1d(np.arange(rows), dropped - start))
        start += rows
        index = _split_indices(table, source_splits, moved, params)
        inputs = specs.raw(table, outline)
        statistics = statistics.after(inputs[index == 0])
        for number, split in enumerate(SPLITS):
            part = table.filter(pa.array(index == number))
            meta = part.select(["row_id", "label", *keep]).replace_schema_metadata(None)
            if encoded:
                images = part["image"].combine_chunks().field("bytes").to_pylist()
                files[split].writelines(images)
                meta = meta.append_column("length", pa.array(map(len, images), pa.int64()))
            else:
                files[split].write(inputs[index == number].tobytes())
            metas[split].append(meta)
    for file in files.values():
        file.close()
    rows_by_label = _write_metas(metas, folder)
    content = {"rows": rows_by_label, "statistics": moments.checked(statistics, outline)}
    (folder / SUMMARY).write_text(to_json(content))


def _split_indices(
    table: pa.Table, source_splits: Sequence[str], moved: Collection[str], params: PrepareParams
) -> np.ndarray:
    """Index into `SPLITS` per row, int64 (N,)."""
    row_splits = table["split"].to_pylist() if "split" in table.column_names else None
    fractions = params.val_fraction, params.test_fraction
    return splits(table["row_id"].to_pylist(), row_splits, source_splits, *fractions, moved)


def _write_metas(metas: Mapping[str, Sequence[pa.Table]], folder: Path) -> dict[str, Counter[str]]:
    """Write `<split>.parquet` for each split; return the rows per split and label."""
    rows_by_label = {}
    for split in SPLITS:
        table = pa.concat_tables(metas[split])
        rows_by_label[split] = Counter(table["label"].to_pylist())
        pq.write_table(table, folder / f"{split}.parquet")
    return rows_by_label


def summary(folder: Path) -> dict[str, Any]:
    """Read the summary that `shape` wrote."""
    return dict(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
