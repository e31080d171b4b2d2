"""Check all shards: write the quarantine, and build the content of the report."""

from __future__ import annotations

import bisect
import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ratchet import images
from ratchet.errors import ValidationFailed
from ratchet.files import beside, writing
from ratchet.params import PrepareParams, ValidateParams
from ratchet.shards import memo, quarantine
from ratchet.shards.shards import Shard, Shards
from ratchet.validation import duplicates, one_shard
from ratchet.validation.histogram import added
from ratchet.validation.rules import REASONS
from ratchet.validation.warnings import is_quantity, warnings

NAMES = np.array(["", *REASONS])  # by code; code 0 is a good row
Counts = Counter[tuple[str, str, str]]  # rows by (split, label, reason); a good row's reason is ""


def run(
    params: ValidateParams,
    prepare: PrepareParams,
    shards: Shards,
    out: Path,
    store: Path,
    pool: Executor,
) -> dict[str, Any]:
    """Check every shard and write the quarantine to `out`.

    Args:
        params: the section `validate`.
        prepare: the section `prepare`, which the warnings take into account.
        shards: the shards of `ingest`.
        out: the parquet file of the quarantine.
        store: the folder of memoised results.
        pool: where the shards are checked.

    Returns:
        The content of `validation.json`.
    """
    facts = {
        key: shards.info[key] for key in ("kind", "label_columns", "classes", "features", "kept")
    }
    settings = asdict(params)
    rules = {key: settings[key] for key in ("max_pixels", "columns", "unique")}
    inputs = [facts, rules, images.formats() if shards.kind == "image" else None]
    jobs = [
        memo.Job(one_shard.check, (shard, facts, params), [shard.sha256, *inputs])
        for shard in shards
    ]
    folders = list(memo.folders(jobs, store, pool, "validate"))
    rows = [folder / one_shard.ROWS for folder in folders]
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as scratch:
        codes = _array(scratch / "codes", np.uint8, shards)
        like = _array(scratch / "like", np.int64, shards)
        starts = [0, *itertools.accumulate(shard.rows for shard in shards)]
        for path, start, end in zip(rows, starts[:-1], starts[1:], strict=True):
            codes[start:end] = pl.read_parquet(path, columns=["code"])["code"].to_numpy()
        if params.unique:
            duplicates.mark_keys(rows, codes, like)
        if shards.kind == "image":
            duplicates.mark_images(rows, codes, like)
        counts = _write(shards, rows, codes, like, out)
    report = _report(shards, counts, [one_shard.summary(folder) for folder in folders])
    return {**report, "warnings": warnings(params, prepare, report)}


def _array(path: Path, kind: type, shards: Shards) -> np.ndarray:
    """Map a file with one value per row, so that the values take no memory of this process."""
    rows = shards.info["rows"]
    size = max(rows, 1) * np.dtype(kind).itemsize
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            # A full disk raises an error here instead of killing the process later.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)  # macOS
    return np.memmap(path, kind, "r+", shape=max(rows, 1))[:rows]


def _write(
    shards: Shards, rows: Sequence[Path], codes: np.ndarray, like: np.ndarray, out: Path
) -> Counts:
    """Write the bad rows in order; count the good and the bad ones."""
    names = [shard.path.name for shard in shards]
    starts = [0, *itertools.accumulate(shard.rows for shard in shards)]
    counts: Counts = Counter()
    with (
        writing(out) as temporary,
        pq.ParquetWriter(temporary, quarantine.SCHEMA, write_page_checksum=True) as writer,
    ):
        for shard, path, start, end in zip(shards, rows, starts[:-1], starts[1:], strict=True):
            frame = pl.read_parquet(path).with_columns(
                reason=pl.Series(NAMES[codes[start:end]]),
                row=pl.int_range(pl.len()),
                like=pl.Series(like[start:end]),
            )
            keys = frame.group_by(pl.col("split", "label").fill_null(""), "reason").len()
            counts.update(
                {(split, label, reason): count for split, label, reason, count in keys.iter_rows()}
            )
            bad = frame.filter(pl.col("reason") != "")
            if len(bad):
                detail = [
                    text or _like(position, names, starts)
                    for text, position in bad.select("detail", "like").iter_rows()
                ]
                writer.write_table(_quarantined(shard, bad, detail))
    return counts


def _quarantined(shard: Shard, bad: pl.DataFrame, detail: Sequence[str]) -> pa.Table:
    """The bad rows of a shard under the schema of the quarantine."""
    source = [shard.place(row, path) for row, path in bad.select("row", "path").iter_rows()]
    shard_names = [shard.path.name] * len(bad)
    columns = [shard_names, bad["row"], bad["row_id"], bad["reason"], detail, source]
    return pa.table(columns, quarantine.SCHEMA)


def _like(position: int, names: Sequence[str], starts: Sequence[int]) -> str:
    shard = bisect.bisect_right(starts, position) - 1
    return f"like {names[shard]} row {position - starts[shard]}"


def _report(shards: Shards, counts: Counts, summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    balance: dict[str, Counter[str]] = {}
    for (split, label, reason), count in counts.items():
        if reason:
            reasons[reason] += count
        else:
            balance.setdefault(split or "all", Counter())[label] += count
    total, bad = shards.info["rows"], sum(reasons.values())
    return {
        "rows": {"in": total, "out": total - bad, "quarantined": bad},
        "reasons": reasons,
        "classes": balance,
        "sizes": added([summary["sizes"] for summary in summaries]),
        "modes": added([summary["modes"] for summary in summaries]),
        "colour": sum(summary["colour"] for summary in summaries),
        "numbers": _numbers([summary["numbers"] for summary in summaries]),
    }


def _numbers(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts about each feature, merged over all shards."""
    features = {}
    for name in sorted({name for summary in summaries for name in summary}):
        parts = [summary[name] for summary in summaries if name in summary]
        features[name] = {
            "null": sum(part["null"] for part in parts),
            "bins": added([part["bins"] for part in parts]),
            "min": min((part["min"] for part in parts if part["min"] is not None), default=None),
            "max": max((part["max"] for part in parts if part["max"] is not None), default=None),
        }
    return features


def fail_if_bad(params: ValidateParams, report: dict[str, Any], info: dict[str, Any]) -> None:
    """Stop on data that no model can be trained on.

    Args:
        params: the section `validate`.
        report: the content of `validation.json`.
        info: the content of `dataset.json`.

    Raises:
        ValidationFailed: there are too many bad rows, a class of the source has no row, there is
            only one class, or the label is a quantity rather than a class.
    """
    rows = report["rows"]
    where = "see reports/validation.json and data/quarantine.parquet"
    if not rows["out"]:
        raise ValidationFailed(
            f"no good row among {rows['in']:,}{_most(report['reasons'])}; {where}"
        )
    if rows["quarantined"] > params.max_bad_fraction * rows["in"]:
        raise ValidationFailed(
            f"{rows['quarantined']:,} of {rows['in']:,} rows are bad{_most(report['reasons'])}; "
            f"validate.max_bad_fraction is {params.max_bad_fraction}; {where}"
        )
    total = added(list(report["classes"].values()))
    present = total.keys() | set(params.may_be_empty)
    absent = [name for name in info["classes"] or () if name not in present]
    if absent:
        raise ValidationFailed(
            f"no example of class {', '.join(absent)}; {where}, or name it in validate.may_be_empty"
        )
    columns = ", ".join(info["label_columns"])
    if len(total) == 1:
        (only,) = total
        raise ValidationFailed(
            f"all {total[only]:,} good rows have the class {only} in {columns}; a classifier needs"
            " at least two classes: correct the source, or name another label in ingest.sources"
        )
    label = params.columns.get("label")
    declared = info["classes"] is not None or (label is not None and label.allowed is not None)
    if not declared and is_quantity(total):
        raise ValidationFailed(
            f"the label column {columns} has {len(total):,} distinct values, nearly all of them"
            " numbers, and more than a third of them occur once, as in a quantity; Ratchet does"
            " single-label classification: name a column of classes in ingest.sources, or list the"
            " classes in validate.columns.label.allowed"
        )


def _most(reasons: Mapping[str, int]) -> str:
    """`, most of them label_null`; empty if no row is bad."""
    return f", most of them {max(reasons, key=reasons.__getitem__)}" if reasons else ""
