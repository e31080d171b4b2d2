"""Shards: parquet files with page checksums, and `dataset.json` beside them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.columns import FEATURE, KEEP
from ratchet.errors import CorruptData
from ratchet.files import sha256
from ratchet.formats import Format
from ratchet.shards import parquet
from ratchet.shards.splits import Rows

DATASET = "dataset.json"
ID_ROWS = 50_000  # whose ids and labels are read at once
OWN = ("row_id", "label", "split", "image")  # columns of shards that are not the user's
# 2: labels as text, the user's columns under prefixes. 1 (no number): labels as they came, plain
# names
FORMAT = Format("the list of shards", 2, "run `dvc repro --force ingest`")
REQUIRED = ("kind", "shards")
OPTIONAL: dict[str, Any] = {
    "classes": None,
    "features": [],
    "kept": [],
    "label_columns": [],
    "licence": None,
    "sources": [],
}


def write(path: Path, batches: Iterable[pa.Table]) -> int:
    """Write one shard from `batches` of one schema, however small; returns its rows."""
    rows = 0
    with contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for table in _groups(batches):
            if writer is None:
                compression = {name: "zstd" for name in table.column_names if name != "image"}
                texts = [
                    name
                    for name in table.column_names
                    if name in ("label", "split") or name.startswith(KEEP)
                ]
                options = {
                    "write_page_checksum": True,
                    "use_dictionary": texts,
                    "compression": compression,
                }
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema, **options))
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _groups(batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of a row group each: they are read at once."""
    held: list[pa.Table] = []
    for table in batches:
        held.append(table.replace_schema_metadata(None))
        if (
            sum(map(len, held)) >= parquet.ROWS
            or sum(part.nbytes for part in held) >= parquet.BATCH_BYTES
        ):
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


@dataclass(frozen=True)
class Shard:
    path: Path
    rows: int
    sha256: str
    source: int  # which of the sources, from 0
    origin: str | None = (
        None  # what its rows come from, by name; None: each image has a path of its own
    )
    start: int = 0  # rows of the origin before these

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = parquet.ROWS
    ) -> Iterator[pa.Table]:
        """The rows in order, at most `rows` at once.

        Raises:
            CorruptData: the file is cut, or a page does not match its checksum.
        """
        return parquet.batches(self.path, columns, rows)

    def among(self, row_ids: Collection[str]) -> list[str]:
        """Which of these are rows of the shard, in order."""
        if not row_ids:
            return []
        found: list[str] = []
        for table in self.batches(["row_id"], ID_ROWS):
            found += [row_id for row_id in table["row_id"].to_pylist() if row_id in row_ids]
        return sorted(set(found))

    def place(self, row: int, path: str | None) -> str | None:
        """What a row is in its source: the file and the row in it, from 0, or the path of an image."""
        if self.origin is None:
            return path
        return f"{self.origin}, row {self.start + row}" + (f" ({path})" if path else "")

    def verify(self) -> None:
        """Raises `CorruptData` unless the file is the one that `dataset.json` lists."""
        if not self.path.is_file() or sha256(self.path) != self.sha256:
            raise CorruptData(
                f"{self.path.name} is not what {DATASET} lists; run `dvc repro --force ingest`"
            )


@dataclass(frozen=True)
class Shards:
    """All of `data/raw/`: what `dataset.json` says, and the shards in order."""

    raw: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, raw: Path) -> Shards:
        """Read `dataset.json`; optional fields that it lacks get their defaults.

        Raises:
            CorruptData: it is missing, broken, or of a newer format that cannot be understood, or
                names a file elsewhere.
        """
        try:
            info = json.loads((raw / DATASET).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorruptData(
                f"{raw / DATASET} cannot be read: {error}; run `dvc repro ingest`"
            ) from None
        FORMAT.require(info, REQUIRED, raw / DATASET)
        if info["kind"] == "features":
            FORMAT.require(info, ("features",), raw / DATASET)
        info = {**OPTIONAL, "rows": sum(shard["rows"] for shard in info["shards"]), **info}
        if outside := [
            shard["file"] for shard in info["shards"] if Path(shard["file"]).name != shard["file"]
        ]:
            raise CorruptData(
                f"{raw / DATASET} names {outside[0]}, which is not beside it; run `dvc repro"
                " --force ingest`"
            )
        return cls(raw, info)

    def __iter__(self) -> Iterator[Shard]:
        for shard in self.info["shards"]:
            origin, start = shard.get("origin"), shard.get("start", 0)
            yield Shard(
                self.raw / shard["file"],
                shard["rows"],
                shard["sha256"],
                shard.get("source", 0),
                origin,
                start,
            )

    def given(self) -> dict[int, list[str]]:
        """The splits that each source gives, by its number."""
        known: dict[int, set[str]] = {}
        for entry in self.info["shards"]:
            known.setdefault(entry.get("source", 0), set()).update(entry.get("splits", ()))
        return {source: sorted(names) for source, names in known.items()}

    def strata(self, dropped: Mapping[str, np.ndarray]) -> Iterator[Rows]:
        """What decides on the split of each row, some rows at a time, without the rows `dropped` by shard."""
        known = self.given()
        for shard in self:
            bad, start = dropped.get(shard.path.name, np.empty(0, np.int64)), 0
            names = [
                name
                for name in ("row_id", "label", "split")
                if name in parquet.schema(shard.path).names
            ]
            for table in shard.batches(names, ID_ROWS):
                rows = np.setdiff1d(np.arange(len(table)), bad - start)
                start += len(table)
                good = table.take(rows)
                given = good["split"].to_pylist() if "split" in names else None
                ids, labels = good["row_id"].to_pylist(), good["label"].to_pylist()
                yield Rows(ids, labels, given, known[shard.source])

    @property
    def format(self) -> int:
        return FORMAT.of(self.info, self.raw / DATASET)

    @property
    def kind(self) -> str:
        return str(self.info["kind"])


def rows(raw: Path, row_ids: Sequence[str]) -> pa.Table:
    """The rows named, in the order of `row_ids`; of rows that share an id the first stands for all.

    Those of an older format come with the names of this one.

    Raises:
        CorruptData: some are not there.
    """
    wanted = pa.array(row_ids, pa.string())
    found = []
    shards = Shards.open(raw)
    for shard in shards:
        for table in shard.batches():
            found.append(table.filter(pc.is_in(table["row_id"], wanted)))
    table = pa.concat_tables(found, promote_options="default")
    order = pc.index_in(wanted, table["row_id"].combine_chunks())
    if order.null_count:
        raise CorruptData(f"{order.null_count} of {len(row_ids)} rows are not in {raw}")
    if shards.format == 1:
        table = table.rename_columns([n if n in OWN else FEATURE + n for n in table.column_names])
    return table.take(order)
