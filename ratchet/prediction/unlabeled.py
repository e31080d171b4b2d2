"""Rows to score: they have no split and need no label; a few are in memory at a time.

The input is a file, a folder or a glob of CSV, parquet or image files, or a data set of the Hub. A
row that cannot be used is never left out: it keeps its place and gets a reason. A file of a kind
that the version cannot use is not a row: it is skipped and counted, or refused if it is the only
input.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ratchet import images
from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData, SourceMissing
from ratchet.prediction import unlabeled_hub
from ratchet.prediction import unlabeled_rows as rows
from ratchet.prediction.unlabeled_rows import Arrivals
from ratchet.shards import parquet
from ratchet.sources import csv_files, parquet_files

HUB = unlabeled_hub.ADDRESS
ROWS = 10_000  # in one batch at most
BATCH_BYTES = 1 << 26  # of the inputs of one batch, and of the image files in it
TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class Format:
    """How a version's own CSV files are written, and the name of its image column."""

    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    image: str | None = None


@dataclass(frozen=True)
class Input:
    """What there is to score."""

    paths: (
        frozenset[str] | None
    )  # of its files, as the rows name them; None where only reading shows them
    batches: Callable[[], Iterator[Arrivals]]
    skipped: Mapping[str, int] = field(default_factory=dict)  # reason: number of files


def find(tree: Path, source: str, spec: Spec, formats: Sequence[Format] = (Format(),)) -> Input:
    """The rows at `source`: a file, folder or glob (relative to `tree`), or `hf://datasets/OWNER/NAME[@REVISION]`.

    Args:
        formats: of the version's own sources; a CSV file is read in the first one in which it has
            the features.

    Raises:
        SourceMissing: there is no such file, or nothing in it is of a kind that the version uses.

    Iterating over the batches raises:
        CorruptData: a parquet file is cut or damaged, or a table lacks a column.
        Unreachable: the Hub does not respond.
    """
    size = (
        BATCH_BYTES
        // int(np.prod(spec.input_shape, dtype=np.int64))
        // (1 if spec.kind == "image" else 4)
    )
    count = max(1, min(ROWS, size))
    if source.startswith(HUB):
        address, split = unlabeled_hub.named(source)
        return Input(None, lambda: unlabeled_hub.read(address, split, spec, count))
    files, folder = _files(tree, source)
    skipped = Counter[str]()
    usable = []
    for file in files:
        if reason := _unusable(file, folder, spec, is_only=files == [file] and folder is None):
            skipped[reason] += 1
        else:
            usable.append(file)
    if not usable and files == [tree / source]:
        raise SourceMissing(f"{source} cannot be scored: {wanted(spec)}")
    reader = _Reader(tree, spec, formats, folder, count)
    return Input(
        frozenset(name(tree, file) for file in usable), lambda: reader.read(usable), skipped
    )


def name(tree: Path, file: Path) -> str:
    """A file as predictions name it: relative to the checkout if it is inside, with bytes that are not UTF-8 escaped."""
    path = (
        os.path.relpath(file, tree)
        if file.absolute().is_relative_to(tree.absolute())
        else str(file.absolute())
    )
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def described(skipped: Mapping[str, int]) -> str:
    """`skipped 3 files: 2 .txt, 1 hidden`; nothing if there are none."""
    if not skipped:
        return ""
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    total = sum(skipped.values())
    return f"skipped {total} file{'s' if total > 1 else ''}: {counts}"


def _files(tree: Path, source: str) -> tuple[list[Path], Path | None]:
    """The files that `source` means, in order, and the folder that it is, if so."""
    place = tree / source
    if place.is_dir():
        files = [path for path in sorted(place.rglob("*")) if not path.is_dir()]
        return [path for path in files if path != place / ".gitkeep"], place
    if place.is_file():
        return [place], None
    files = sorted(path for path in _matches(tree, source) if path.is_file())
    if not files:
        raise SourceMissing(
            f"there is no file at {source}; name a CSV or parquet file, an image, a folder or glob"
            f" of them, or {HUB}OWNER/NAME for a data set of the Hub"
        )
    return files, None


def _matches(tree: Path, pattern: str) -> Iterator[Path]:
    root = Path(pattern).anchor
    with contextlib.suppress(ValueError):  # such a pattern matches nothing
        yield from (Path(root) if root else tree).glob(pattern.removeprefix(root))


def _unusable(file: Path, folder: Path | None, spec: Spec, is_only: bool) -> str:
    """Why a file is skipped; "" if it is not."""
    below = file.relative_to(folder).parts if folder else (file.name,)
    suffix = file.suffix.lower()
    if folder and any(part.startswith(".") for part in below):
        return "hidden"
    if folder and suffix == ".parquet" and parquet_files.is_skipped("/".join(below)):
        return "written for other programs"  # _delta_log/ and the like
    if suffix in TABLES:
        if spec.kind == "image" and suffix == ".csv":
            return suffix
        if folder and not file.resolve().is_relative_to(folder.resolve()):
            return "linked from outside the folder"
        return "empty" if not is_only and file.stat().st_size == 0 else ""
    if spec.kind == "image" and (
        suffix in images.suffixes() | images.HEIC_SUFFIXES or (is_only and not suffix)
    ):
        return ""
    return suffix or "without a suffix"


def wanted(spec: Spec) -> str:
    if spec.kind == "image":
        return "the version takes image files, or parquet files with a column of images"
    return (
        f"the version takes CSV or parquet files with the columns {', '.join(spec.features or ())}"
    )


@dataclass(frozen=True)
class _Reader:
    """Reads files, in order, as batches of at most `count` rows."""

    tree: Path
    spec: Spec
    formats: Sequence[Format]
    folder: Path | None
    count: int

    def read(self, files: Sequence[Path]) -> Iterator[Arrivals]:
        waiting: list[tuple[str, bytes | None, str | None]] = []
        size = 0
        for file in files:
            suffix = file.suffix.lower()
            if suffix not in TABLES:
                content, reason = _image(file, self.folder)
                waiting.append((name(self.tree, file), content, reason))
                size += len(content or b"")
            if waiting and (suffix in TABLES or len(waiting) == self.count or size > BATCH_BYTES):
                yield rows.of_images(waiting)
                waiting, size = [], 0
            if suffix in TABLES:
                yield from self._csv(file) if suffix == ".csv" else self._parquet(file)
        if waiting:
            yield rows.of_images(waiting)

    def _parquet(self, file: Path) -> Iterator[Arrivals]:
        path, start = name(self.tree, file), 0
        load = functools.partial(_beside, file.parent)
        names = parquet.schema(file).names
        partition = self._partition(file, names)
        columns = self._columns(path, [*names, *partition])
        in_file = (
            None if columns is None else [column for column in columns if column not in partition]
        )
        for table in parquet.batches(file, in_file, rows=self.count):
            for column, value in partition.items():
                table = table.append_column(column, pa.array([value] * len(table), pa.string()))
            yield rows.of_table(table, self.spec, path, range(start, start + len(table)), load)
            start += len(table)

    def _partition(self, file: Path, names: Sequence[str]) -> dict[str, str | None]:
        """Features that Hive's `key=value` folders hold and the file does not."""
        values = parquet_files.partition_of(file.relative_to(self.folder or file.parent).as_posix())
        return {
            key: value
            for key, value in values.items()
            if key in (self.spec.features or ()) and key not in names
        }

    def _columns(self, path: str, there: Sequence[str]) -> list[str] | None:
        """The columns to read; None means all."""
        if self.spec.kind == "image":
            known = [form.image for form in self.formats if form.image in there]
            return [known[0]] if known and known[0] else None
        rows.require(self.spec, path, there)
        return list(self.spec.features or ())

    def _csv(self, file: Path) -> Iterator[Arrivals]:
        form = self._format(file)
        path, start = name(self.tree, file), 0
        ragged: dict[int, tuple[str, str]] = {}

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
        """The rows before `end` that have too few or too many values.

        They are taken out of `ragged`.
        """
        before = sorted(row for row in list(ragged) if row < end)
        if before:
            yield rows.unread(self.spec, path, {row: ragged.pop(row) for row in before})

    def _format(self, file: Path) -> Format:
        """The first format of the version's sources in which the file has the features."""
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
        rows.require(
            self.spec,
            path,
            headers[0],
            f"; it was read with the separator {self.formats[0].separator!r}",
        )
        raise AssertionError("one feature or more is missing")


def _not_text(path: str, formats: Sequence[Format]) -> CorruptData:
    encodings = " or ".join(dict.fromkeys(form.encoding for form in formats))
    return CorruptData(
        f"{path} is not {encodings} text, as the version's own data; save it with that encoding"
    )


def _places(count: int, start: int, ragged: Container[int]) -> tuple[list[int], int]:
    """The places in the file of the next `count` rows that are not ragged, and the place after them."""
    places: list[int] = []
    while len(places) < count:
        if start not in ragged:
            places.append(start)
        start += 1
    return places, start


def _image(file: Path, folder: Path | None) -> tuple[bytes | None, str | None]:
    """The bytes of a file, or why they are not read."""
    try:
        if folder is not None and not file.resolve().is_relative_to(folder.resolve()):
            return None, "unread: a link that leads out of the folder"
        if file.exists() and not file.is_file():  # reading a pipe would wait for its writer
            return None, "unread: not a regular file"
        if file.stat().st_size > rows.FILE_BYTES:
            return (
                None,
                f"unread: {file.stat().st_size:,} bytes; at most {rows.FILE_BYTES:,} are read",
            )
        return file.read_bytes(), None
    except (OSError, ValueError) as error:
        return None, f"unread: {getattr(error, 'strerror', error)}"


def _beside(folder: Path, path: str) -> tuple[bytes | None, str | None]:
    """An image that a parquet file holds as a path only: it is read if it is in the folder of that file."""
    if not (folder / path).resolve().is_relative_to(folder.resolve()):
        return (
            None,
            (
                f"unread: the file holds only the path {path}, which leads out of its folder; embed"
                " the images"
            ),
        )
    return _image(folder / path, folder)
