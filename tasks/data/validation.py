"""All shards checked: the quarantine, and what the report says."""

from __future__ import annotations

import bisect
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data import checking, memo, twins
from tasks.data.files import writing
from tasks.data.schema import REASONS
from tasks.data.shards import Shards
from tasks.errors import ValidationFailed

QUARANTINE = pa.schema(
    [
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("row_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
NAMES = np.array(["", *REASONS])


def run(shards: Shards, quarantine: Path, store: Path, pool: Executor) -> dict[str, Any]:
    """Check every shard and write `quarantine`; returns the content of `validation.json`."""
    jobs = [memo.Job(checking.check, (shard, shards.info), [shard.sha256, _rules(shards)]) for shard in shards]
    folders = list(memo.folders(jobs, store, pool))
    rows = [folder / checking.ROWS for folder in folders]
    with tempfile.TemporaryDirectory(dir=quarantine.parent) as temporary:
        total = shards.info["rows"]
        codes = np.memmap(Path(temporary) / "codes", np.uint8, "w+", shape=max(total, 1))[:total]
        twin = np.memmap(Path(temporary) / "twins", np.int64, "w+", shape=max(total, 1))[:total]
        start = 0
        for path in rows:
            own = pl.read_parquet(path, columns=["code"])["code"].to_numpy()
            codes[start : start + len(own)] = own
            start += len(own)
        if shards.kind == "image":
            twins.mark(rows, codes, twin)
        counts = _write(shards, rows, codes, twin, quarantine)
    return _report(shards, counts, [checking.summary(folder) for folder in folders])


def _rules(shards: Shards) -> dict[str, Any]:
    """The part of `dataset.json` that the check of one shard depends on."""
    return {key: shards.info[key] for key in ("kind", "label_type", "classes", "features")}


def _write(
    shards: Shards, rows: Sequence[Path], codes: np.ndarray, twin: np.ndarray, quarantine: Path
) -> Counter[tuple[str, str, str]]:
    """Write the bad rows in order; returns the rows by (split, label, reason), where a good row's reason is ''."""
    names = [shard.path.name for shard in shards]
    starts = [0, *itertools.accumulate(shard.rows for shard in shards)]
    counts: Counter[tuple[str, str, str]] = Counter()
    with writing(quarantine) as temporary, pq.ParquetWriter(temporary, QUARANTINE) as writer:
        for name, path, start in zip(names, rows, starts[:-1], strict=True):
            frame = pl.read_parquet(path)
            here = slice(start, start + len(frame))
            frame = frame.with_columns(
                reason=pl.Series(NAMES[codes[here]]), row=pl.int_range(pl.len()), twin=pl.Series(twin[here])
            )
            keys = frame.group_by(pl.col("split").fill_null(""), pl.col("label").fill_null(""), "reason").len()
            counts.update({(split, label, reason): count for split, label, reason, count in keys.iter_rows()})
            bad = frame.filter(pl.col("reason") != "")
            detail = [row["detail"] or _like(row["twin"], names, starts) for row in bad.iter_rows(named=True)]
            columns = [[name] * len(bad), bad["row"], bad["row_id"], bad["reason"], detail]
            writer.write_table(
                pa.table([pa.array(c, f.type) for c, f in zip(columns, QUARANTINE, strict=True)], QUARANTINE)
            )
    return counts


def _like(position: int, names: Sequence[str], starts: Sequence[int]) -> str:
    shard = bisect.bisect_right(starts, position) - 1
    return f"like {names[shard]} row {position - starts[shard]}"


def _report(
    shards: Shards, counts: Counter[tuple[str, str, str]], summaries: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    balance: dict[str, Counter[str]] = {}
    for (split, label, reason), count in counts.items():
        if reason:
            reasons[reason] += count
        else:
            balance.setdefault(split or "all", Counter())[_name(shards, label)] += count
    total = shards.info["rows"]
    bad = sum(reasons.values())
    return {
        "rows": {"in": total, "out": total - bad, "quarantined": bad},
        "reasons": dict(reasons),
        "classes": {split: dict(labels) for split, labels in balance.items()},
        "sizes": dict(sum((Counter(summary["sizes"]) for summary in summaries), Counter())),
        "modes": dict(sum((Counter(summary["modes"]) for summary in summaries), Counter())),
    }


def _name(shards: Shards, label: str) -> str:
    classes = shards.info["classes"]
    return str(classes[int(label)]) if classes and shards.info["label_type"] == "int" else label


def fail_if_bad(report: dict[str, Any], classes: Sequence[str] | None, max_bad_fraction: float) -> None:
    """Raises `ValidationFailed` on too many bad rows or a fault of the whole."""
    rows = report["rows"]
    where = "see reports/validation.json and data/quarantine.parquet"
    if not rows["out"]:
        raise ValidationFailed(f"no good row among {rows['in']:,}; {where}")
    if rows["quarantined"] > max_bad_fraction * rows["in"]:
        worst = max(report["reasons"], key=report["reasons"].__getitem__)
        raise ValidationFailed(
            f"{rows['quarantined']:,} of {rows['in']:,} rows are bad, most of them {worst}; "
            f"validate.max_bad_fraction is {max_bad_fraction}; {where}"
        )
    seen = set().union(*report["classes"].values())
    gone = [name for name in classes or () if name not in seen]
    if gone:
        raise ValidationFailed(f"no example of class {', '.join(gone)}; {where}")


def quarantined(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Per shard that has any, its bad rows: int64 (n,)."""
    with pq.ParquetFile(path) as file:
        frame = pl.from_arrow(file.read(["shard", "row"]))
    assert isinstance(frame, pl.DataFrame)
    for (name,), rows in frame.group_by("shard", maintain_order=True):
        yield str(name), rows["row"].to_numpy()
