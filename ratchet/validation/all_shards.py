"""Check all shards: write the quarantine, and build the content of the report."""

from __future__ import annotations

import bisect
import itertools
import os
import re
import unicodedata
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
from ratchet.params import PrepareParams, ValidateParams, Warn
from ratchet.shards import memo, quarantine
from ratchet.shards.shards import Shard, Shards
from ratchet.validation import duplicates, image_statistics, one_shard, power
from ratchet.validation.histogram import added
from ratchet.validation.rules import REASONS

NAMES = np.array(["", *REASONS])  # by code; code 0 is a good row
# Class names that may mean "missing".
ABSENT = ("na", "n/a", "nan", "null", "none", "nil", "?", "-", "#n/a", "<na>")
EXACT = 2**53  # float64 holds every whole number up to here
MANY = 20  # more distinct numbers than this may be a quantity
MOSTLY = 0.9  # share of numbers among the values of a quantity; the others may mean "missing"
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
UNITS = re.compile(r"[\s,'%$€£¥]")  # characters that may be part of a number
SHOWN = 5  # names in a warning
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


def warnings(params: ValidateParams, prepare: PrepareParams, report: dict[str, Any]) -> list[str]:
    """List what will cause trouble later but does not stop the run, one sentence each."""
    total = added(list(report["classes"].values()))
    return [
        *_quarantine_warnings(params.warn, report),
        *_class_warnings(params.warn, total),
        *_rare_warnings(prepare, report),
        *image_statistics.warnings(prepare, report),
        *(power.warnings(report, prepare.test_fraction) if total else []),
        *([] if report["sizes"] else _feature_warnings(report["numbers"])),
    ]


def _quarantine_warnings(warn: Warn, report: dict[str, Any]) -> list[str]:
    rows, messages = report["rows"]["in"], []
    for reason, count in sorted(report["reasons"].items()):
        name = reason if reason in ("duplicate", "leak", "conflict") else "other"
        level = getattr(warn, name)
        if count > level * rows:
            messages.append(
                f"{count:,} rows ({count / rows:.2%}) are set aside as {reason};"
                f" validate.warn.{name} is {level}"
            )
    return messages


def _class_warnings(warn: Warn, total: Mapping[str, int]) -> list[str]:
    """Warn of very different sizes, and of names that may mean the same class or no class."""
    messages = []
    if total and max(total.values()) > warn.imbalance * min(total.values()):
        large, small = max(total, key=total.__getitem__), min(total, key=total.__getitem__)
        messages.append(
            f"{large} has {total[large]:,} rows, {small} {total[small]:,}; validate.warn.imbalance"
            f" is {warn.imbalance}"
        )
    alike: dict[str, list[str]] = {}
    for name in sorted(total):
        alike.setdefault(_seen(name), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            names = ", ".join(map(ascii, group))
            messages.append(
                f"the classes {names} differ only in case, spaces or characters that look alike; "
                "if they are one class, rename them"
            )
    absent = [name for name in sorted(total) if name.strip().casefold() in ABSENT]
    if absent:
        names = ", ".join(map(repr, absent))
        messages.append(
            f"the class {names} is named like a missing value; if it means one, leave those labels"
            " empty in the source"
        )
    return messages


def _seen(name: str) -> str:
    """A class name as it looks: without case, invisible characters or compatibility variants."""
    normal = unicodedata.normalize("NFKC", name)
    visible = "".join(char for char in normal if unicodedata.category(char) != "Cf")
    return " ".join(visible.split()).casefold()


def _rare_warnings(prepare: PrepareParams, report: dict[str, Any]) -> list[str]:
    """Warn of classes with fewer rows than there are splits."""
    splits = 1 + (prepare.val_fraction > 0) + (prepare.test_fraction > 0)
    if set(report["classes"]) != {"all"}:  # the source defines splits
        return []
    rare = [name for name, rows in sorted(report["classes"]["all"].items()) if rows < splits]
    if not rare:
        return []
    shown = ", ".join(rare[:SHOWN])
    if len(rare) > SHOWN:
        shown += f" and {len(rare) - SHOWN:,} more"
    return [
        f"{len(rare):,} of {len(report['classes']['all']):,} classes have fewer than {splits} rows,"
        f" too few for one in each split: {shown}; validation and test will lack some of them"
    ]


def _feature_warnings(numbers: Mapping[str, dict[str, Any]]) -> list[str]:
    messages = []
    finite = {name: facts for name, facts in numbers.items() if facts["min"] is not None}
    empty = [name for name in numbers if name not in finite]
    constant = [name for name, facts in finite.items() if facts["min"] == facts["max"]]
    large = [name for name, facts in finite.items() if _beyond_exact(facts)]
    if empty:
        messages.append(
            f"no row has a value of the feature {', '.join(empty)}; leave it out of the source's"
            " features"
        )
    if constant:
        messages.append(
            f"the feature {', '.join(constant)} has the same value in every row, so no model can"
            " use it"
        )
    if large:
        messages.append(
            f"the feature {', '.join(large)} has values beyond 2**53, where float64 no longer holds"
            " every whole number: neighbouring integers become equal; if they are identifiers,"
            " leave them out"
        )
    return messages


def _beyond_exact(facts: Mapping[str, float]) -> bool:
    """Whether there may be values that an int64 or uint64 holds exactly, but a float64 does not."""
    return any(EXACT < abs(facts[end]) <= 2**64 for end in ("min", "max"))


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
    if not declared and _is_quantity(total):
        raise ValidationFailed(
            f"the label column {columns} has {len(total):,} distinct values, nearly all of them"
            " numbers, and more than a third of them occur once, as in a quantity; Ratchet does"
            " single-label classification: name a column of classes in ingest.sources, or list the"
            " classes in validate.columns.label.allowed"
        )


def _is_quantity(total: Mapping[str, int]) -> bool:
    """Whether the classes look like the values of a regression target."""
    numbers = [name for name in total if NUMBER.fullmatch(UNITS.sub("", name))]
    once = sum(total[name] == 1 for name in numbers)
    return len(numbers) > MANY and once * 3 > len(numbers) and len(numbers) >= MOSTLY * len(total)


def _most(reasons: Mapping[str, int]) -> str:
    """`, most of them label_null`; empty if no row is bad."""
    return f", most of them {max(reasons, key=reasons.__getitem__)}" if reasons else ""
