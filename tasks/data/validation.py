"""All shards checked: the quarantine, and what the report says."""

from __future__ import annotations

import bisect
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data import checking, memo, quarantine, twins
from tasks.data.files import beside, writing
from tasks.data.histogram import added
from tasks.data.schema import REASONS
from tasks.data.shards import Shards
from tasks.errors import ValidationFailed
from tasks.params import ValidateParams, Warn

NAMES = np.array(["", *REASONS])
Counts = Counter[tuple[str, str, str]]  # rows by (split, label, reason); a good row's reason is ""


def run(params: ValidateParams, shards: Shards, out: Path, store: Path, pool: Executor) -> dict[str, Any]:
    """Check every shard and write the quarantine to `out`; returns the content of `validation.json`."""
    facts = {key: shards.info[key] for key in ("kind", "label_type", "classes", "features", "kept")}
    rules = {key: value for key, value in asdict(params).items() if key in ("max_pixels", "columns", "unique")}
    jobs = [memo.Job(checking.check, (shard, facts, params), [shard.sha256, facts, rules]) for shard in shards]
    folders = list(memo.folders(jobs, store, pool, "validate"))
    rows = [folder / checking.ROWS for folder in folders]
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as scratch:
        codes, like = (_array(scratch / name, kind, shards) for name, kind in (("c", np.uint8), ("t", np.int64)))
        starts = [0, *itertools.accumulate(shard.rows for shard in shards)]
        for path, start, end in zip(rows, starts[:-1], starts[1:], strict=True):
            codes[start:end] = pl.read_parquet(path, columns=["code"])["code"].to_numpy()
        if params.unique:
            twins.mark_keys(rows, codes, like)
        if shards.kind == "image":
            twins.mark_images(rows, codes, like)
        counts = _write(shards, rows, codes, like, out)
    return _report(params.warn, shards, counts, [checking.summary(folder) for folder in folders])


def _array(path: Path, kind: type, shards: Shards) -> np.ndarray:
    """One value per row in a file, so that it takes no memory of this process."""
    rows = shards.info["rows"]
    size = max(rows, 1) * np.dtype(kind).itemsize
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)  # else a full disk is met as a bus error
    return np.memmap(path, kind, "r+", shape=max(rows, 1))[:rows]


def _write(shards: Shards, rows: Sequence[Path], codes: np.ndarray, like: np.ndarray, out: Path) -> Counts:
    """Write the bad rows in order and count all of them."""
    names = [shard.path.name for shard in shards]
    starts = [0, *itertools.accumulate(shard.rows for shard in shards)]
    counts: Counts = Counter()
    with writing(out) as temporary, pq.ParquetWriter(temporary, quarantine.SCHEMA, write_page_checksum=True) as writer:
        for name, path, start, end in zip(names, rows, starts[:-1], starts[1:], strict=True):
            frame = pl.read_parquet(path).with_columns(
                reason=pl.Series(NAMES[codes[start:end]]), row=pl.int_range(pl.len()), like=pl.Series(like[start:end])
            )
            keys = frame.group_by(pl.col("split", "label").fill_null(""), "reason").len()
            counts.update({(split, label, reason): count for split, label, reason, count in keys.iter_rows()})
            bad = frame.filter(pl.col("reason") != "")
            if len(bad):
                detail = [d or _like(i, names, starts) for d, i in bad.select("detail", "like").iter_rows()]
                columns = [[name] * len(bad), bad["row"], bad["row_id"], bad["reason"], detail]
                writer.write_table(pa.table(columns, quarantine.SCHEMA))
    return counts


def _like(position: int, names: Sequence[str], starts: Sequence[int]) -> str:
    shard = bisect.bisect_right(starts, position) - 1
    return f"like {names[shard]} row {position - starts[shard]}"


def _report(warn: Warn, shards: Shards, counts: Counts, summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    balance: dict[str, Counter[str]] = {}
    for (split, label, reason), count in counts.items():
        if reason:
            reasons[reason] += count
        else:
            balance.setdefault(split or "all", Counter())[_name(shards, label)] += count
    total, bad = shards.info["rows"], sum(reasons.values())
    report: dict[str, Any] = {
        "rows": {"in": total, "out": total - bad, "quarantined": bad},
        "reasons": reasons,
        "classes": balance,
        "sizes": added([summary["sizes"] for summary in summaries]),
        "modes": added([summary["modes"] for summary in summaries]),
        "numbers": _numbers([summary["numbers"] for summary in summaries]),
    }
    return {**report, "warnings": warnings(warn, report)}


def _numbers(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: {
            "null": sum(summary[name]["null"] for summary in summaries if name in summary),
            "bins": added([summary[name]["bins"] for summary in summaries if name in summary]),
        }
        for name in sorted({name for summary in summaries for name in summary})
    }


def _name(shards: Shards, label: str) -> str:
    classes = shards.info["classes"]
    return str(classes[int(label)]) if classes and shards.info["label_type"] == "int" else label


def warnings(warn: Warn, report: dict[str, Any]) -> list[str]:
    """What is not bad enough to stop, a sentence each."""
    rows = report["rows"]["in"]
    said = []
    for reason, count in sorted(report["reasons"].items()):
        name = reason if reason in ("duplicate", "leak", "conflict") else "other"
        level = getattr(warn, name)
        if count > level * rows:
            said.append(
                f"{count:,} rows ({count / rows:.2%}) are set aside as {reason}; validate.warn.{name} is {level}"
            )
    total = added(list(report["classes"].values()))
    if total and max(total.values()) > warn.imbalance * min(total.values()):
        large, small = max(total, key=total.__getitem__), min(total, key=total.__getitem__)
        said.append(
            f"{large} has {total[large]:,} rows, {small} {total[small]:,}; validate.warn.imbalance is {warn.imbalance}"
        )
    return said


def fail_if_bad(params: ValidateParams, report: dict[str, Any], classes: Sequence[str] | None) -> None:
    """Raises `ValidationFailed` on too many bad rows or a fault of the whole."""
    rows = report["rows"]
    where = "see reports/validation.json and data/quarantine.parquet"
    if not rows["out"]:
        raise ValidationFailed(f"no good row among {rows['in']:,}; {where}")
    if rows["quarantined"] > params.max_bad_fraction * rows["in"]:
        worst = max(report["reasons"], key=report["reasons"].__getitem__)
        raise ValidationFailed(
            f"{rows['quarantined']:,} of {rows['in']:,} rows are bad, most of them {worst}; "
            f"validate.max_bad_fraction is {params.max_bad_fraction}; {where}"
        )
    seen = {name for counts in report["classes"].values() for name in counts}
    gone = [name for name in classes or () if name not in seen and name not in params.may_be_empty]
    if gone:
        raise ValidationFailed(f"no example of class {', '.join(gone)}; {where}, or name it in validate.may_be_empty")
