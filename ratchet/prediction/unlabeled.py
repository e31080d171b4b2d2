"""Read the rows to score. They have no split and need no label, and few are in memory at a time.

The input is a file, a folder or a glob of CSV, parquet or image files, or a data set of the Hub. A
bad row is never left out: it keeps its place and gets a reason. A file of a kind that the version
cannot use has no rows: it is skipped and counted, or refused if it is the only input.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData, SourceMissing
from ratchet.prediction import unlabeled_hub
from ratchet.prediction import unlabeled_rows as rows
from ratchet.prediction.input_files import TABLES, files_of, name, requirement, why_unusable
from ratchet.prediction.unlabeled_rows import Arrivals
from ratchet.shards import parquet
from ratchet.sources import csv_files, parquet_files

HUB = unlabeled_hub.ADDRESS
ROWS = 10_000  # in a batch, at most
BATCH_BYTES = 1 << 26  # of the inputs in a batch, and of the image files in it


@dataclass(frozen=True)
class Format:
    """The format of a version's own CSV files, and the name of its image column."""

    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    image: str | None = None


@dataclass(frozen=True)
class Input:
    """The rows to score."""

    # The names of its files in the rows; None if only reading shows them.
    paths: frozenset[str] | None
    batches: Callable[[], Iterator[Arrivals]]
    skipped: Mapping[str, int] = field(default_factory=dict)  # number of files per reason


def find(tree: Path, source: str, spec: Spec, formats: Sequence[Format] = (Format(),)) -> Input:
    """Find the rows at `source`.

    Iterating over the batches raises `CorruptData` if a parquet file is damaged or a table lacks a
    column, and `Unreachable` if the Hub does not respond.

    Args:
        tree: the checkout.
        source: a file, folder or glob, relative to `tree`, or `hf://datasets/OWNER/NAME[@REVISION]`.
        spec: the spec of the version's inputs.
        formats: those of the version's own sources; a CSV file is read in the first format in which
            it has the features.

    Raises:
        SourceMissing: there is no such file, or the version cannot use the only file.
        ParamsError: the address of a data set of the Hub is not valid.
    """
    value_bytes = 1 if spec.kind == "image" else 4
    row_values = int(np.prod(spec.input_shape, dtype=np.int64))
    count = max(1, min(ROWS, BATCH_BYTES // row_values // value_bytes))
    if source.startswith(HUB):
        address, split = unlabeled_hub.parse(source)
        return Input(None, lambda: unlabeled_hub.read(address, split, spec, count))
    files, folder = files_of(tree, source)
    skipped = Counter[str]()
    usable = []
    for file in files:
        if reason := why_unusable(file, folder, spec, is_only=files == [file] and folder is None):
            skipped[reason] += 1
        else:
            usable.append(file)
    if not usable and files == [tree / source]:
        raise SourceMissing(f"{source} cannot be scored: {requirement(spec)}")
    reader = _Reader(tree, spec, formats, folder, count)
    paths = frozenset(name(tree, file) for file in usable)
    return Input(paths, lambda: reader.read(usable), skipped)


@dataclass(frozen=True)
class _Reader:
    """Read files, in order, as batches of at most `count` rows."""

    tree: Path
    spec: Spec
    formats: Sequence[Format]
    folder: Path | None
    count: int

    def read(self, files: Sequence[Path]) -> Iterator[Arrivals]:
        pending: list[tuple[str, bytes | None, str | None]] = []  # images: path, bytes, reason
        size = 0
        for file in files:
            suffix = file.suffix.lower()
            if suffix not in TABLES:
                content, reason = _image(file, self.folder)
                pending.append((name(self.tree, file), content, reason))
                size += len(content or b"")
            if pending and (suffix in TABLES or len(pending) == self.count or size > BATCH_BYTES):
                yield rows.of_images(pending)
                pending, size = [], 0
            if suffix == ".csv":
                yield from self._csv(file)
            elif suffix in TABLES:
                yield from self._parquet(file)
        if pending:
            yield rows.of_images(pending)

    def _parquet(self, file: Path) -> Iterator[Arrivals]:
        path, start = name(self.tree, file), 0
        load = functools.partial(_beside, file.parent)
        names = parquet.schema(file).names
        partition = self._partition(file, names)
        columns = self._columns(path, [*names, *partition])
        if columns is not None:  # those in the file
            columns = [column for column in columns if column not in partition]
        for table in parquet.batches(file, columns, rows=self.count):
            for column, value in partition.items():
                table = table.append_column(column, pa.array([value] * len(table), pa.string()))
            yield rows.of_table(table, self.spec, path, range(start, start + len(table)), load)
            start += len(table)

    def _partition(self, file: Path, names: Sequence[str]) -> dict[str, str | None]:
        """Return the features in the names of Hive's `key=value` folders, not in the file."""
        values = parquet_files.partition_of(file.relative_to(self.folder or file.parent).as_posix())
        return {
            key: value
            for key, value in values.items()
            if key in (self.spec.features or ()) and key not in names
        }

    def _columns(self, path: str, names: Sequence[str]) -> list[str] | None:
        """Return which of the columns `names` to read; None means all."""
        if self.spec.kind == "image":
            columns = [form.image for form in self.formats if form.image in names]
            return [columns[0]] if columns and columns[0] else None
        rows.require(self.spec, path, names)
        return list(self.spec.features or ())

    def _csv(self, file: Path) -> Iterator[Arrivals]:
        form = self._format(file)
        path, start = name(self.tree, file), 0
        ragged: dict[int, tuple[str, str]] = {}  # per row number: the reason and the text

        def skip(row: Any) -> str:
            reason = f"ragged: expected {row.expected_columns} values, found {row.actual_columns}"
            ragged[row.number - 2] = (reason, row.text)  # the header is row 1
            return "skip"

        load = functools.partial(_beside, file.parent)
        for table in self._tables(file, form, skip):
            for offset in range(0, len(table), self.count):
                part = table.slice(offset, self.count)
                places, start = _places(len(part), start, ragged)
                yield rows.of_table(part, self.spec, path, places, load, form.decimal)
            yield from self._ragged(path, ragged, start)
        yield from self._ragged(path, ragged, max([start, *(row + 1 for row in ragged)]))

    def _tables(self, file: Path, form: Format, skip: csv_files.OnRagged) -> Iterator[pa.Table]:
        try:
            yield from csv_files.tables(file, form, list(self.spec.features or ()), skip)
        except csv_files.NotText:
            raise _not_text(name(self.tree, file), [form]) from None

    def _ragged(
        self, path: str, ragged: dict[int, tuple[str, str]], end: int
    ) -> Iterator[Arrivals]:
        """Yield the ragged rows before `end`, and remove them from `ragged`."""
        before = sorted(row for row in ragged if row < end)
        if before:
            lines = {row: ragged.pop(row) for row in before}
            yield rows.of_unread_lines(self.spec, path, lines)

    def _format(self, file: Path) -> Format:
        """Return the first format of the version's sources in which the file has the features."""
        features, path = self.spec.features or (), name(self.tree, file)
        headers: list[list[str]] = []
        for form in self.formats:
            with contextlib.suppress(csv_files.NotText):
                header = csv_files.header(file, form)
                if {*features} <= {*header}:
                    rows.require(self.spec, path, header)
                    return form
                headers.append(header)
        if not headers:
            raise _not_text(path, self.formats)
        remark = f"; it was read with the separator {self.formats[0].separator!r}"
        rows.require(self.spec, path, headers[0], remark)
        raise AssertionError("the header lacks a feature, so `require` has raised")


def _not_text(path: str, formats: Sequence[Format]) -> CorruptData:
    encodings = " or ".join(dict.fromkeys(form.encoding for form in formats))
    return CorruptData(
        f"{path} is not {encodings} text like the version's own data; save it in that encoding"
    )


def _places(count: int, start: int, ragged: Container[int]) -> tuple[list[int], int]:
    """Return the places of the next `count` rows that are not ragged, and the place after them."""
    places: list[int] = []
    while len(places) < count:
        if start not in ragged:
            places.append(start)
        start += 1
    return places, start


def _image(file: Path, folder: Path | None) -> tuple[bytes | None, str | None]:
    """Read the bytes of a file; if it cannot be read, return the reason instead."""
    try:
        if folder is not None and not file.resolve().is_relative_to(folder.resolve()):
            return None, "unread: a link that leads out of the folder"
        if file.exists() and not file.is_file():  # reading a pipe would wait for its writer
            return None, "unread: not a regular file"
        size = file.stat().st_size
        if size > rows.FILE_BYTES:
            return None, f"unread: {size:,} bytes; at most {rows.FILE_BYTES:,} are read"
        return file.read_bytes(), None
    except (OSError, ValueError) as error:
        return None, f"unread: {getattr(error, 'strerror', error)}"


def _beside(folder: Path, path: str) -> tuple[bytes | None, str | None]:
    """Read an image of which a parquet file in `folder` has only the path; it must be below."""
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        reason = f"the file holds only the path {path}, which leads out of its folder"
        return None, f"unread: {reason}; embed the images"
    return _image(folder / path, folder)
