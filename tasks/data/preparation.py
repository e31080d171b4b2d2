"""Good rows to memory-mapped arrays per split: each shard by a pure function, then joined in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data import memo, spec, validation
from tasks.data.files import to_json
from tasks.data.shards import Shard, Shards
from tasks.data.spec import Spec
from tasks.data.splits import SPLITS, splits
from tasks.errors import ValidationFailed
from tasks.params import PrepareParams

META = pa.schema([("row_id", pa.string()), ("label", pa.string())])
SUMMARY = "summary.json"
LEVELS = 256  # of a uint8 pixel


def run(params: PrepareParams, shards: Shards, quarantine: Path, store: Path, pool: Executor, out: Path) -> Spec:
    """Fill the empty folder `out`; returns the spec that it holds then."""
    bad = dict(validation.quarantined(quarantine))
    known = _known(shards)
    outline = _outline(params, shards)
    jobs = []
    for shard in shards:
        dropped = bad.get(shard.path.name, np.empty(0, np.int64))
        inputs = [
            shard.sha256,
            hashlib.sha256(dropped.tobytes()).hexdigest(),
            known[shard.source],
            outline_of(outline, params),
        ]
        jobs.append(memo.Job(prepare_shard, (shard, dropped, known[shard.source], outline, params), inputs))
    folders = list(memo.folders(jobs, store, pool))
    summaries = [json.loads((folder / SUMMARY).read_text()) for folder in folders]
    made = _spec(outline, shards, folders, summaries)
    for split in SPLITS:
        _join(split, folders, made, shards, out / split)
    made.write(out / "spec.json")
    return made


def outline_of(outline: Spec, params: PrepareParams) -> list[Any]:
    return [outline.kind, outline.size, outline.channels, outline.features, params.val_fraction, params.test_fraction]


def _known(shards: Shards) -> dict[int, list[str]]:
    """The splits that each source gives."""
    known: dict[int, set[str]] = {}
    for entry in shards.info["shards"]:
        known.setdefault(entry["source"], set()).update(entry["splits"])
    return {source: sorted(found) for source, found in known.items()}


def _outline(params: PrepareParams, shards: Shards) -> Spec:
    """The spec without what only the rows can tell."""
    names = tuple(shards.info["features"])
    if shards.kind == "image":
        shape: tuple[int, ...] = (params.channels, *params.size)
        return _blank(kind="image", input_shape=shape, features=None, size=params.size, channels=params.channels)
    return _blank(kind="features", input_shape=(len(names),), features=names, size=None, channels=None)


def _blank(**known: Any) -> Spec:
    return Spec(classes=(), mean=(), std=(), counts={}, **known)


def prepare_shard(
    shard: Shard, dropped: np.ndarray, known: Sequence[str], outline: Spec, params: PrepareParams, folder: Path
) -> None:
    """Write per split `<split>.bin` (the inputs, one after the other) and `<split>.parquet` (row_id, label).

    Raises:
        CorruptData: the shard is not what `dataset.json` lists.
    """
    shard.verify()
    files = {split: (folder / f"{split}.bin").open("wb") for split in SPLITS}
    metas: dict[str, list[pa.Table]] = {split: [META.empty_table()] for split in SPLITS}
    statistics = _Statistics(outline)
    rows = max(1, min(1000, (1 << 22) // int(np.prod(outline.input_shape))))
    start = 0
    for table in shard.batches(rows=rows):
        keep = np.setdiff1d(np.arange(len(table)), dropped - start)
        start += len(table)
        table = table.take(keep)
        given = table["split"].to_pylist() if "split" in table.column_names else None
        where = splits(table["row_id"].to_pylist(), given, known, params.val_fraction, params.test_fraction)
        raw = spec.raw(table, outline)
        statistics.add(raw[where == 0])
        for index, split in enumerate(SPLITS):
            files[split].write(raw[where == index].tobytes())
            part = table.filter(pa.array(where == index))
            metas[split].append(pa.table([part["row_id"], part["label"].cast(pa.string())], META))
    for split in SPLITS:
        files[split].close()
        pq.write_table(pa.concat_tables(metas[split]), folder / f"{split}.parquet")
    (folder / SUMMARY).write_text(to_json(statistics.content()))


class _Statistics:
    """Counts that add up over shards to the mean and deviation of the training split, whatever their order.

    Pixels are counted by level, exactly. Features are summed in float64, around nothing.
    """

    def __init__(self, outline: Spec) -> None:
        self.image = outline.kind == "image"
        width = outline.input_shape[0]
        self.levels = np.zeros((width, LEVELS), np.int64)
        self.sums = np.zeros((3, width))  # count, sum, sum of squares

    def add(self, raw: np.ndarray) -> None:
        if self.image:
            for channel in range(raw.shape[1]):
                self.levels[channel] += np.bincount(raw[:, channel].ravel(), minlength=LEVELS)
        else:
            values = raw.astype(np.float64)
            self.sums += [np.sum(~np.isnan(values), 0), np.nansum(values, 0), np.nansum(values**2, 0)]

    def content(self) -> list[list[float]]:
        if not self.image:
            return [list(map(float, row)) for row in self.sums]
        pixel = np.arange(LEVELS)
        return [[int(x) for x in row] for row in (self.levels.sum(1), self.levels @ pixel, self.levels @ pixel**2)]


def _spec(outline: Spec, shards: Shards, folders: Sequence[Path], summaries: Sequence[Any]) -> Spec:
    """Classes of the training split, in the order of their numbers or names; its mean and deviation; rows per split."""
    labels = {split: _labels(split, folders) for split in SPLITS}
    seen = labels["train"].keys()
    names = shards.info["classes"]
    if shards.info["label_type"] == "int":
        numbers = sorted(int(label) for label in seen)
        classes = tuple(names[number] if names else str(number) for number in numbers)
    else:
        classes = tuple(sorted(seen))
    for split in ("val", "test"):
        unseen = labels[split].keys() - seen
        if unseen:
            shown = ", ".join(sorted(names[int(n)] if names and n.isdigit() else n for n in unseen))
            raise ValidationFailed(f"class {shown} is in the {split} split but not in the training split")
    if not seen:
        raise ValidationFailed("no row is left for the training split")
    count, total, square = (np.array([row[i] for row in summaries], np.float64).sum(0) for i in range(3))
    count = np.maximum(count, 1)
    mean = total / count
    deviation = np.sqrt(np.maximum(square / count - mean**2, 0))
    scale = 255.0 if outline.kind == "image" else 1.0
    deviation[deviation == 0] = scale
    return Spec(
        **{name: getattr(outline, name) for name in ("kind", "input_shape", "features", "size", "channels")},
        classes=classes,
        mean=tuple(float(x) for x in mean / scale),
        std=tuple(float(x) for x in deviation / scale),
        counts={split: sum(labels[split].values()) for split in SPLITS},
    )


def _labels(split: str, folders: Sequence[Path]) -> dict[str, int]:
    """How many rows of each label a split has."""
    counts: dict[str, int] = {}
    for folder in folders:
        table = pq.read_table(folder / f"{split}.parquet", columns=["label"])
        for item in table["label"].value_counts():
            counts[item["values"].as_py()] = counts.get(item["values"].as_py(), 0) + item["counts"].as_py()
    return counts


def _join(split: str, folders: Sequence[Path], made: Spec, shards: Shards, out: Path) -> None:
    """One split's arrays from the shards' files, copied without being held in memory."""
    out.mkdir()
    rows = made.counts[split]
    dtype = np.dtype(np.uint8 if made.kind == "image" else np.float32)
    arrays = _array(out / "inputs.npy", dtype, (rows, *made.input_shape))
    targets = _array(out / "targets.npy", np.dtype(np.int64), (rows,))
    indices = _indices(made, shards)
    start = 0
    with pq.ParquetWriter(out / "meta.parquet", pa.schema([META.field("row_id")])) as writer:
        for folder in folders:
            meta = pq.read_table(folder / f"{split}.parquet")
            writer.write_table(meta.select(["row_id"]))
            if len(meta):
                part = np.memmap(folder / f"{split}.bin", dtype, "r").reshape(-1, *made.input_shape)
                here = slice(start, start + len(meta))
                arrays[here] = part if made.kind == "image" else spec.imputed(part, np.asarray(made.mean))
                targets[here] = [indices[label] for label in meta["label"].to_pylist()]
                start += len(meta)


def _indices(made: Spec, shards: Shards) -> dict[str, int]:
    """From a label as shards hold it to its place among the classes."""
    names = shards.info["classes"]
    if shards.info["label_type"] == "int" and names:
        return {str(names.index(name)): index for index, name in enumerate(made.classes)}
    return {name: index for index, name in enumerate(made.classes)}


def _array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    if 0 not in shape:
        return np.lib.format.open_memmap(path, "w+", dtype, shape)
    np.save(path, np.empty(shape, dtype))
    return np.empty(shape, dtype)
