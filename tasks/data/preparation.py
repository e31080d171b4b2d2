"""All shards prepared: their arrays joined by split, and the spec."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.data import memo, quarantine, shaping
from tasks.data.columns import KEEP, prefixed
from tasks.data.labels import ordered
from tasks.data.shards import Shards
from tasks.data.spec import Spec, imputed
from tasks.data.splits import SPLITS
from tasks.errors import ValidationFailed
from tasks.params import PrepareParams

INPUTS, TARGETS, META = "inputs.npy", "targets.npy", "meta.parquet"
ENCODED, OFFSETS = "inputs.bin", "offsets.npy"  # instead of INPUTS


def run(params: PrepareParams, shards: Shards, bad: Path, store: Path, pool: Executor, out: Path) -> Spec:
    """Fill the empty folder `out`; `bad` is the quarantine.

    Raises:
        ValidationFailed: no row is left for training, or it lacks a class that another split has.
    """
    dropped, known, outline = dict(quarantine.by_shard(bad)), _given(shards), _outline(params, shards)
    encoded = (
        shards.kind == "image" and shards.info["rows"] * math.prod(outline.input_shape) > params.decoded_limit_bytes
    )
    kept = prefixed(KEEP, shards.info["kept"])
    facts = [kept, outline.input_shape, outline.features, encoded, params.val_fraction, params.test_fraction]
    jobs = []
    for shard in shards:
        rows, given = dropped.get(shard.path.name, np.empty(0, np.int64)), known[shard.source]
        inputs = [shard.sha256, hashlib.sha256(rows.tobytes()).hexdigest(), given, *facts]
        jobs.append(memo.Job(shaping.shape, (shard, rows, given, kept, outline, encoded, params), inputs))
    folders = list(memo.folders(jobs, store, pool, "prepare"))
    spec = _spec(outline, shards, [shaping.summary(folder) for folder in folders])
    for split in SPLITS:
        (out / split).mkdir()
        join = _join_encoded if encoded else _join
        join(split, folders, spec, out / split)
        _targets(split, folders, spec, kept, out / split)
    spec.write(out / "spec.json")
    return spec


def _given(shards: Shards) -> dict[int, list[str]]:
    """The splits that each source gives."""
    known: dict[int, set[str]] = {}
    for entry in shards.info["shards"]:
        known.setdefault(entry["source"], set()).update(entry["splits"])
    return {source: sorted(found) for source, found in known.items()}


def _outline(params: PrepareParams, shards: Shards) -> Spec:
    """The spec without what only the rows can tell."""
    blank: dict[str, Any] = {"kind": shards.kind, "classes": (), "mean": (), "std": (), "counts": {}}
    if shards.kind == "image":
        shape = (params.channels, *params.size)
        return Spec(**blank, input_shape=shape, features=None, size=params.size, channels=params.channels)
    names = tuple(shards.info["features"])
    return Spec(**blank, input_shape=(len(names),), features=names, size=None, channels=None)


def _spec(outline: Spec, shards: Shards, summaries: Sequence[dict[str, Any]]) -> Spec:
    """The complete spec. Classes are those of the training split, in the order of `labels.ordered`."""
    counts = {
        split: sum((Counter(summary["rows"][split]) for summary in summaries), Counter[str]()) for split in SPLITS
    }
    seen = ordered(counts["train"], shards.info["classes"])
    if not seen:
        raise ValidationFailed("no row is left for the training split; lower prepare.val_fraction and test_fraction")
    for split in ("val", "test"):
        if unseen := sorted(counts[split].keys() - counts["train"].keys()):
            raise ValidationFailed(
                f"class {', '.join(unseen)} is in the {split} split but not in the training split; add examples to it"
            )
    number, total, square = (
        np.array([summary["sums"][i] for summary in summaries], np.float64).sum(0) for i in range(3)
    )
    mean = total / np.maximum(number, 1)
    deviation = np.sqrt(np.maximum(square / np.maximum(number, 1) - mean**2, 0))
    scale = 255.0 if outline.kind == "image" else 1.0
    deviation[deviation == 0] = scale  # a constant input stays as it is
    return replace(
        outline,
        classes=tuple(seen),
        mean=tuple((mean / scale).tolist()),
        std=tuple((deviation / scale).tolist()),
        counts={split: counts[split].total() for split in SPLITS},
    )


def _join(split: str, folders: Sequence[Path], spec: Spec, out: Path) -> None:
    """The inputs of one split, copied from those of the shards."""
    dtype = np.dtype(np.uint8 if spec.kind == "image" else np.float32)

    def parts() -> Iterator[np.ndarray]:
        for folder in folders:
            path = folder / f"{split}.bin"
            if path.stat().st_size:
                rows = np.memmap(path, dtype, "r").reshape(-1, *spec.input_shape)
                yield rows if spec.kind == "image" else imputed(rows, np.asarray(spec.mean))

    _save(out / INPUTS, dtype, (spec.counts[split], *spec.input_shape), parts())


def _join_encoded(split: str, folders: Sequence[Path], spec: Spec, out: Path) -> None:
    """The images of one split as they came, and where each begins and the last one ends: int64 (N + 1,)."""

    def offsets() -> Iterator[np.ndarray]:
        end = np.zeros(1, np.int64)
        yield end
        for folder in folders:
            lengths = pq.read_table(folder / f"{split}.parquet", columns=["length"])["length"].to_numpy()
            ends = end[-1] + np.cumsum(lengths)
            yield ends
            end = ends if len(ends) else end

    with (out / ENCODED).open("wb") as file:
        for folder in folders:
            with (folder / f"{split}.bin").open("rb") as part:
                shutil.copyfileobj(part, file, 1 << 20)
    _save(out / OFFSETS, np.dtype(np.int64), (spec.counts[split] + 1,), offsets())


def _targets(split: str, folders: Sequence[Path], spec: Spec, kept: Sequence[str], out: Path) -> None:
    """The places of the labels among the classes; the rows' ids and what is kept of them."""
    schema = pa.schema([(name, pa.string()) for name in ("row_id", *kept)])
    places = pa.array(spec.classes, pa.string())

    def targets() -> Iterator[np.ndarray]:
        with pq.ParquetWriter(out / META, schema, write_page_checksum=True) as writer:
            for folder in folders:
                table = pq.read_table(folder / f"{split}.parquet", columns=["label", *schema.names])
                writer.write_table(table.select(schema.names))
                index = pc.index_in(table["label"], places)
                assert not index.null_count, "a label that no summary counted"
                yield index.to_numpy().astype(np.int64)

    _save(out / TARGETS, np.dtype(np.int64), (spec.counts[split],), targets())


def _save(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """An `.npy` file of `parts` one after the other, never all in memory."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            assert part.dtype == dtype
            file.write(part.tobytes())
