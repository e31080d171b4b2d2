"""Prepare all shards: join their arrays by split, and write the spec."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.columns import KEEP, prefixed
from ratchet.dataset.spec import FORMAT, Spec, numeric
from ratchet.errors import ValidationFailed
from ratchet.params import PrepareParams
from ratchet.preparation import moments, one_shard
from ratchet.shards import memo, quarantine
from ratchet.shards.labels import ordered
from ratchet.shards.shards import Shards
from ratchet.shards.splits import SPLITS, to_training

INPUTS, TARGETS, META = "inputs.npy", "targets.npy", "meta.parquet"
PRECISION_ROWS = 100_000  # rows of the training split in which distinct values are counted
ENCODED, OFFSETS = "inputs.bin", "offsets.npy"  # replace INPUTS for images that stay encoded


def run(
    params: PrepareParams, shards: Shards, bad: Path, store: Path, pool: Executor, out: Path
) -> Spec:
    """Fill the empty folder `out` with a folder of arrays per split and `spec.json`.

    Args:
        params: the section `prepare`.
        shards: the shards of `ingest`.
        bad: the quarantine, whose rows are left out.
        store: the folder of memoised results.
        pool: where the shards are prepared.
        out: the folder to fill.

    Returns:
        The content of `spec.json`.

    Raises:
        ValidationFailed: no row is left for training, the training split has a single class, or
            it lacks a class of another split.
    """
    dropped = dict(quarantine.by_shard(bad))
    outline = _outline(params, shards)
    fractions = params.val_fraction, params.test_fraction
    moved = to_training(shards.strata(dropped), *fractions)
    decoded_bytes = shards.info["rows"] * math.prod(outline.input_shape)
    encoded = shards.kind == "image" and decoded_bytes > params.decoded_limit_bytes
    keep = prefixed(KEEP, shards.info["kept"])
    facts = [keep, outline.input_shape, outline.features, encoded, *fractions]
    source_splits = shards.source_splits()
    jobs = []
    for shard in shards:
        rows = dropped.get(shard.path.name, np.empty(0, np.int64))
        splits = source_splits[shard.source]
        ids = shard.among(moved)
        inputs = [shard.sha256, hashlib.sha256(rows.tobytes()).hexdigest(), splits, ids, *facts]
        arguments = (shard, rows, splits, ids, keep, outline, encoded, params)
        jobs.append(memo.Job(one_shard.shape, arguments, inputs))
    folders = list(memo.folders(jobs, store, pool, "prepare"))
    spec = _spec(outline, shards, [one_shard.summary(folder) for folder in folders])
    for split in SPLITS:
        (out / split).mkdir()
        join = _join_encoded if encoded else _join
        join(split, folders, spec, out / split)
        _targets(split, folders, spec, keep, out / split)
    spec.write(out / "spec.json")
    return spec


def _outline(params: PrepareParams, shards: Shards) -> Spec:
    """The part of the spec that does not depend on the rows."""
    blank: dict[str, Any] = {
        "format": FORMAT.number,
        "kind": shards.kind,
        "classes": (),
        "mean": (),
        "std": (),
        "counts": {},
    }
    if shards.kind == "image":
        shape = (params.channels, *params.size)
        return Spec(
            **blank, input_shape=shape, features=None, size=params.size, channels=params.channels
        )
    names = tuple(shards.info["features"])
    return Spec(**blank, input_shape=(len(names),), features=names, size=None, channels=None)


def _spec(outline: Spec, shards: Shards, summaries: Sequence[dict[str, Any]]) -> Spec:
    """Complete the spec with the classes, counts and statistics of the rows.

    The classes are those of the training split, in the order of `labels.ordered`.
    """
    counts = {
        split: sum((Counter(summary["rows"][split]) for summary in summaries), Counter[str]())
        for split in SPLITS
    }
    classes = ordered(counts["train"], shards.info["classes"])
    if not classes:
        raise ValidationFailed(_untrained(counts, set().union(*shards.source_splits().values())))
    if len(classes) == 1:
        raise ValidationFailed(
            f"all {counts['train'].total():,} training rows have the class {classes[0]}, but a"
            " classifier needs at least two classes; correct the source, or name another label in"
            " ingest.sources"
        )
    for split in ("val", "test"):
        if unseen := sorted(counts[split].keys() - counts["train"].keys()):
            raise ValidationFailed(
                f"class {', '.join(unseen)} is in the source's {split} split, but has no training"
                " row; add training rows of this class to the source, or remove it from that split"
            )
    mean, std = moments.joined(summaries, outline).mean_std()
    return replace(
        outline,
        classes=tuple(classes),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        counts={split: counts[split].total() for split in SPLITS},
    )


def _untrained(counts: Mapping[str, Counter[str]], source_splits: Collection[str]) -> str:
    """The message that no row is left for training."""
    if {*source_splits} & {"val", "test"}:
        rows = " and ".join(
            f"{counts[split].total():,} rows for {split}" for split in SPLITS[1:] if counts[split]
        )
        return (
            f"no row is left for training, because the source marks {rows}; mark some of them as"
            " train in the source"
        )
    return "no row is left for training; lower prepare.val_fraction and prepare.test_fraction"


def _join(split: str, folders: Sequence[Path], spec: Spec, out: Path) -> None:
    """Join the inputs of one split from those of the shards.

    Features are standardised here, because their statistics depend on all shards.
    """
    image = spec.kind == "image"
    precision = _Precision(spec)

    def parts() -> Iterator[np.ndarray]:
        for folder in folders:
            path = folder / f"{split}.bin"
            if not path.stat().st_size:
                continue
            flat = np.memmap(path, np.uint8 if image else np.float64, "r")
            rows = flat.reshape(-1, *spec.input_shape)
            if image:
                yield rows
            else:
                inputs = numeric(rows, spec)
                precision.check(rows, inputs, split)
                yield inputs

    dtype = np.dtype(np.uint8 if image else np.float32)
    _save(out / INPUTS, dtype, (spec.counts[split], *spec.input_shape), parts())
    if split == "train":
        for message in precision.warnings():
            print(f"prepare: warning: {message}")


class _Precision:
    """Counts how many distinct values each feature keeps after standardising to float32."""

    def __init__(self, spec: Spec) -> None:
        self._names = spec.features or ()
        self._distinct = np.zeros(len(self._names), np.int64)  # before, per feature
        self._left = np.zeros(len(self._names), np.int64)  # after, per feature
        self._rows = 0

    def check(self, raw: np.ndarray, inputs: np.ndarray, split: str) -> None:
        """Count the distinct values of the first `PRECISION_ROWS` rows.

        Args:
            raw: the values before standardising, float64 (N, F).
            inputs: the values after standardising, float32 (N, F).
            split: the name of the split, for the message.

        Raises:
            ValidationFailed: a value of the split overflows float32.
        """
        if not (finite := np.isfinite(inputs).all(0)).all():
            name = self._names[int(np.argmin(finite))]
            raise ValidationFailed(
                f"a value of the feature {name} in the {split} split is too far from those of the"
                " training split; correct it in the source, or limit the feature in"
                " validate.columns"
            )

        if self._rows < PRECISION_ROWS:
            self._rows += len(raw)
            self._distinct += [len(np.unique(column[~np.isnan(column)])) for column in raw.T]
            self._left += [len(np.unique(column)) for column in inputs.T]

    def warnings(self) -> list[str]:
        """A sentence for each feature that loses half of its distinct values or more."""
        return [
            f"standardised as float32, the feature {name} keeps only {left:,} of {distinct:,}"
            " distinct values, because a few values are far from the others or the values hardly"
            " differ; correct or scale them in the source, or limit the feature in"
            " validate.columns"
            for name, distinct, left in zip(self._names, self._distinct, self._left, strict=True)
            if left * 2 <= distinct
        ]


def _join_encoded(split: str, folders: Sequence[Path], spec: Spec, out: Path) -> None:
    """Join the encoded images of one split, and write their offsets, int64 (N + 1,).

    The offsets are where each image begins in the file, and where the last one ends.
    """

    def offsets() -> Iterator[np.ndarray]:
        end = np.zeros(1, np.int64)
        yield end
        for folder in folders:
            table = pq.read_table(folder / f"{split}.parquet", columns=["length"])
            ends = end[-1] + np.cumsum(table["length"].to_numpy())
            yield ends
            end = ends if len(ends) else end

    with (out / ENCODED).open("wb") as file:
        for folder in folders:
            with (folder / f"{split}.bin").open("rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)
    _save(out / OFFSETS, np.dtype(np.int64), (spec.counts[split] + 1,), offsets())


def _targets(
    split: str, folders: Sequence[Path], spec: Spec, keep: Sequence[str], out: Path
) -> None:
    """Write the index of each row's class, int64 (N,), and its id with the columns `keep`."""
    schema = pa.schema([(name, pa.string()) for name in ("row_id", *keep)])
    classes = pa.array(spec.classes, pa.string())

    def targets() -> Iterator[np.ndarray]:
        with pq.ParquetWriter(out / META, schema, write_page_checksum=True) as writer:
            for folder in folders:
                table = pq.read_table(folder / f"{split}.parquet", columns=["label", *schema.names])
                writer.write_table(table.select(schema.names))
                index = pc.index_in(table["label"], classes)
                assert not index.null_count, "a label that no summary counted"
                yield index.to_numpy().astype(np.int64)

    _save(out / TARGETS, np.dtype(np.int64), (spec.counts[split],), targets())


def _save(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[np.ndarray]
) -> None:
    """Write `parts` one after the other to an `.npy` file; they are never all in memory."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            assert part.dtype == dtype
            file.write(part.tobytes())
