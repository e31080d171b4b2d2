"""Turn sources into shards: a pure function reads each part, and all shards share one schema."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.columns import FEATURE, own
from ratchet.errors import CorruptData
from ratchet.files import link, sha256, to_json, write_json
from ratchet.params import Params
from ratchet.shards import labels, memo, shards
from ratchet.sources.base import Entry, Part, Places, to_shard
from ratchet.sources.types import parts, read

PART = "part.json"


def run(
    params: Params, entries: Sequence[Entry], places: Places, store: Path, raw: Path, pool: Executor
) -> dict[str, Any]:
    """Fill the empty folder `raw` with shards and `dataset.json`.

    Args:
        params: all params.
        entries: the entries of source.lock.
        places: where the sources are.
        store: the folder of memoised parts.
        raw: the folder to fill.
        pool: where the parts are read.

    Returns:
        The content of `dataset.json`.
    """
    jobs, sources, names = [], [], []
    for number, (source, entry) in enumerate(zip(params.ingest.sources, entries, strict=True)):
        for part in parts(source, entry, places):
            part = replace(part, keep=params.ingest.keep)
            inputs = [part.identity(), params.ingest.shard_rows]
            jobs.append(memo.Job(read_part, (part, params.ingest.shard_rows), inputs))
            sources.append(number)
            names.append(part.name)
    facts: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    for number, origin, folder in zip(
        sources, names, memo.folders(jobs, store, pool, "ingest"), strict=True
    ):
        fact = json.loads((folder / PART).read_text(encoding="utf-8"))
        facts.append({**fact, "source": number, "origin": origin})
        start = 0
        for shard in fact["shards"]:
            name = f"shard-{len(listed):05d}.parquet"
            link(folder / shard["file"], raw / name)
            listed.append(
                {**shard, "file": name, "source": number, "origin": origin, "start": start}
            )
            start += shard["rows"]
    joined = _joined([fact for fact in facts if fact["shards"]], params.ingest.keep)
    label = sorted({getattr(source, "label", "label") for source in params.ingest.sources})
    info = {**joined, "label_columns": label, "sources": list(entries), "shards": listed}
    info["rows"] = sum(shard["rows"] for shard in listed)
    info = shards.FORMAT.stamped(info)
    write_json(raw / shards.DATASET, info)
    _report_unused(facts)
    return info


def _report_unused(facts: Sequence[dict[str, Any]]) -> None:
    """Print a line for each source with a column that looks like a split but is not used as one."""
    unused = {fact["source"]: fact for fact in reversed(facts) if fact["unused_split"]}
    for fact in unused.values():
        column = fact["unused_split"]
        print(
            f"ingest: {fact['origin']} has a column {column} with names of splits, which is not"
            f" used as the split; to use it, set `split: {column}` of that source in params.yaml"
        )


def read_part(part: Part, shard_rows: int, folder: Path) -> None:
    """Write one part as shards of at most `shard_rows` rows, and the facts to `part.json`."""
    rows = read(part)
    classes = labels.names(rows.classes) if rows.classes else None
    splits: set[str] = set()

    def tables() -> Iterator[pa.Table]:
        start = 0
        for batch in rows.batches:
            table = to_shard(batch, part, classes, start)
            start += len(table)
            if "split" in table.column_names:
                splits.update(table["split"].unique().drop_null().to_pylist())
            yield table

    listed: list[dict[str, Any]] = []
    schema: pa.Schema | None = None
    for number, batches in enumerate(_shards(tables(), shard_rows)):
        path = folder / f"shard-{number:05d}.parquet"
        count = shards.write(path, batches)
        schema = pq.read_schema(path)
        listed.append({"file": path.name, "rows": count, "sha256": sha256(path)})
    for entry in listed:
        entry["splits"] = sorted(splits)
    columns = [] if schema is None else [(field.name, str(field.type)) for field in schema]
    fact = {"shards": listed, "columns": columns, "classes": classes, "licence": rows.licence}
    fact["unused_split"] = rows.unused_split
    (folder / PART).write_text(to_json(fact))


def _shards(tables: Iterator[pa.Table], rows: int) -> Iterator[Iterator[pa.Table]]:
    """Cut a stream of tables into streams of `rows` rows.

    Consume each stream before the next one.
    """
    queue = list(itertools.islice(tables, 1))

    def one() -> Iterator[pa.Table]:
        left = rows
        while queue and left:
            table = queue.pop()
            yield table.slice(0, left)
            if table.num_rows > left:
                queue.append(table.slice(left))
            else:
                queue.extend(itertools.islice(tables, 1))
            left -= min(left, table.num_rows)

    while queue:
        yield one()


def _columns(fact: dict[str, Any]) -> dict[str, str]:
    return {name: kind for name, kind in fact["columns"] if name != "split"}


def _joined(facts: Sequence[dict[str, Any]], keep: Sequence[str]) -> dict[str, Any]:
    """Check that all parts have the same schema, and return it.

    Raises:
        CorruptData: there are no rows, or the columns or classes differ.
    """
    if not facts:
        raise CorruptData("the sources hold no rows; check ingest.sources in params.yaml")
    first = facts[0]
    columns = _columns(first)
    for fact in facts[1:]:
        other = _columns(fact)
        if other != columns:
            difference = ", ".join(
                f"{own(n)}: {columns.get(n, 'missing')} / {other.get(n, 'missing')}"
                for n in sorted(columns | other)
                if columns.get(n) != other.get(n)
            )
            raise CorruptData(
                f"sources {first['source']} and {fact['source']} have different columns:"
                f" {difference}; make their features or images agree in ingest.sources"
            )
    classes = [fact["classes"] for fact in facts if fact["classes"]]
    for other_classes in classes:
        if other_classes != classes[0]:
            raise CorruptData(
                f"the sources name different classes: {', '.join(classes[0])}; "
                f"{', '.join(other_classes)}; combine sources with the same classes"
            )
    licences = sorted({fact["licence"] for fact in facts if fact["licence"]})
    return {
        "kind": "image" if "image" in columns else "features",
        "classes": classes[0] if classes else None,
        "features": [own(name) for name in columns if name.startswith(FEATURE)],
        "kept": list(keep),
        "columns": list(columns.items()),
        "licence": " and ".join(licences) or None,
    }
