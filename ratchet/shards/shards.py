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

# Format 1 has no number; it stores labels in the source's type, and columns without prefixes.
# Format 2 stores labels as text, and the user's columns under prefixes.
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
    """Write one shard from `batches` of one schema; return the number of its rows."""
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
    """Join batches until they are large enough for a row group, the unit of reading."""
    tables: list[pa.Table] = []
    for table in batches:
        tables.append(table.replace_schema_metadata(None))
        rows = sum(map(len, tables))
        size = sum(part.nbytes for part in tables)
        if rows >= parquet.ROWS or size >= parquet.BATCH_BYTES:
            yield pa.concat_tables(tables)
            tables = []
    if tables:
        yield pa.concat_tables(tables)


@dataclass(frozen=True)
class Shard:
    """One parquet file of `data/raw/`, as `dataset.json` describes it."""

    path: Path
    rows: int
    sha256: str
    source: int  # index of the source, from 0
    origin: str | None = None  # the file or data set of the rows; None: each image has its own path
    start: int = 0  # rows of the origin before those of this shard

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = parquet.ROWS
    ) -> Iterator[pa.Table]:
        """Yield the rows in order, at most `rows` at a time.

        Raises:
            CorruptData: the file is cut, or a page does not match its checksum.
        """
        return parquet.batches(self.path, columns, rows)

    def among(self, row_ids: Collection[str]) -> list[str]:
        """The ones of `row_ids` that are in the shard, sorted."""
        if not row_ids:
            return []
        present: set[str] = set()
        for table in self.batches(["row_id"], ID_ROWS):
            present.update(row_id for row_id in table["row_id"].to_pylist() if row_id in row_ids)
        return sorted(present)

    def place(self, row: int, path: str | None) -> str | None:
        """Where a row is in its source: the file and the row in it, from 0, or the image's path."""
        if self.origin is None:
            return path
        place = f"{self.origin}, row {self.start + row}"
        return f"{place} ({path})" if path else place

    def verify(self) -> None:
        """Check that the file is the one that `dataset.json` lists.

        Raises:
            CorruptData: it is missing, or its SHA-256 differs.
        """
        if not self.path.is_file() or sha256(self.path) != self.sha256:
            raise CorruptData(
                f"{self.path.name} is not what {DATASET} lists; run `dvc repro --force ingest`"
            )


@dataclass(frozen=True)
class Shards:
    """The content of `data/raw/`: `dataset.json`, and the shards in order."""

    raw: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, raw: Path) -> Shards:
        """Read `dataset.json`. Optional fields that it lacks get their defaults.

        Raises:
            CorruptData: it is missing or damaged, it needs a newer reader, or it names a file in
                another folder.
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

    def source_splits(self) -> dict[int, list[str]]:
        """The splits that each source defines, by the number of the source."""
        splits: dict[int, set[str]] = {}
        for entry in self.info["shards"]:
            splits.setdefault(entry.get("source", 0), set()).update(entry.get("splits", ()))
        return {source: sorted(names) for source, names in splits.items()}

    def strata(self, dropped: Mapping[str, np.ndarray]) -> Iterator[Rows]:
        """Yield what decides the split of each row, up to `ID_ROWS` rows at a time.

        Args:
            dropped: rows to leave out, int64 (n,), by the name of the shard.
        """
        source_splits = self.source_splits()
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
                row_splits = good["split"].to_pylist() if "split" in names else None
                ids, labels = good["row_id"].to_pylist(), good["label"].to_pylist()
                yield Rows(ids, labels, row_splits, source_splits[shard.source])

    @property
    def format(self) -> int:
        """The format number of `dataset.json`."""
        return FORMAT.of(self.info, self.raw / DATASET)

    @property
    def kind(self) -> str:
        """`image` or `features`."""
        return str(self.info["kind"])


def rows(raw: Path, row_ids: Sequence[str]) -> pa.Table:
    """Read the rows with these ids, in the order of `row_ids`.

    If several rows share an id, the first one is returned. Columns of an older format get the
    names of the current one.

    Raises:
        CorruptData: a row is missing.
    """
    ids = pa.array(row_ids, pa.string())
    matches = []
    shards = Shards.open(raw)
    for shard in shards:
        for table in shard.batches():
            matches.append(table.filter(pc.is_in(table["row_id"], ids)))
    table = pa.concat_tables(matches, promote_options="default")
    order = pc.index_in(ids, table["row_id"].combine_chunks())
    if order.null_count:
        raise CorruptData(f"{order.null_count} of {len(row_ids)} rows are not in {raw}")
    if shards.format == 1:
        table = table.rename_columns([n if n in OWN else FEATURE + n for n in table.column_names])
    return table.take(order)
