"""CSV files with a header, a label and numeric features."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv

from ratchet import columns
from ratchet.columns import FEATURE
from ratchet.errors import CorruptData, SourceMissing
from ratchet.source_params import CsvSource
from ratchet.sources.base import (
    Entry,
    Part,
    Places,
    Rows,
    matching,
    pin,
    require,
    unused_split,
    used_columns,
    with_shard_names,
)
from ratchet.sources.skipped import note_skipped

OnRagged = Callable[[Any], str]
BLOCK = 1 << 22  # bytes parsed at once, and the longest possible row
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


def resolve(source: CsvSource, places: Places) -> Entry:
    """Pin the CSV files at the source's path.

    Raises:
        SourceMissing: there are none.
    """
    root, names = matching(places, source.path, "**/*.csv")
    if not names:
        raise SourceMissing(
            f"ingest.sources: no CSV file at {source.path}; put one there, or correct the path"
        )
    note_skipped(places, source.path, names)
    return {"files": [pin(root / name, name) for name in names]}


def parts(source: CsvSource, entry: Entry, places: Places) -> list[Part]:
    """List one part per file."""
    root, _ = matching(places, source.path, "**/*.csv")
    return [Part(source, root, (file,), name=file["name"]) for file in entry["files"]]


def read(part: Part) -> Rows:
    """Read the rows of one file."""
    source, path = part.source, part.root / part.files[0]["name"]
    names = header(path, source)
    _check_separator(names, source, path)
    require(used_columns(source, part.keep), names, path.name)
    candidates = [
        name for name in names if name.strip() and name not in (source.label, *source.features)
    ]
    first = next(tables(path, source, candidates), None) if candidates else None
    return Rows(
        _batches(part, path), unused_split=None if first is None else unused_split(first, source)
    )


class NotText(CorruptData):
    """A file that is not text in the encoding of its source."""


class Dialect(Protocol):
    """How a CSV file is written, from a source of the params or from a version's training data."""

    @property
    def separator(self) -> str:
        """The character between two values."""

    @property
    def decimal(self) -> str:
        """The decimal mark."""

    @property
    def encoding(self) -> str:
        """The encoding of the text, by Python's name."""


def header(path: Path, source: Dialect) -> list[str]:
    """Read the names of the columns.

    Raises:
        CorruptData: the file is empty, or is not text in the source's encoding.
    """
    try:
        return next(_lines(path, source))[1]
    except StopIteration:
        raise CorruptData(f"{path.name} is empty; a CSV file needs a header and rows") from None
    except UnicodeError:
        raise _not_text(path, source) from None
    except csv.Error as error:
        raise CorruptData(
            f"{path.name} cannot be read as CSV: {error}; correct the file or ingest.sources"
        ) from None


def tables(
    path: Path, source: Dialect, names: Sequence[str], on_ragged: OnRagged | None = None
) -> Iterator[pa.Table]:
    """Yield the columns `names` as text, a block at a time; an empty cell is an empty string.

    Args:
        path: the file.
        source: how the file is written.
        names: the columns to read.
        on_ragged: called with each row that has more or fewer values than the header. The row's
            `number` counts from 1, the header. The function returns "skip" to leave the row out.

    Raises:
        CorruptData: the file is not text in the source's encoding, or a row is ragged and there is
            no `on_ragged`.
    """
    reading = pyarrow.csv.ReadOptions(
        block_size=BLOCK, encoding=source.encoding, use_threads=on_ragged is None
    )
    parsing = pyarrow.csv.ParseOptions(
        delimiter=source.separator, newlines_in_values=True, invalid_row_handler=on_ragged
    )
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        include_columns=list(names),
        strings_can_be_null=False,
    )
    try:
        with pyarrow.csv.open_csv(path, reading, parsing, options) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except UnicodeError:
        raise _not_text(path, source) from None
    except (pa.ArrowException, KeyError, OSError) as error:
        raise _explained(path, source, error) from None


def _batches(part: Part, path: Path) -> Iterator[pa.Table]:
    source, start = part.source, 0
    for table in tables(path, source, used_columns(source, part.keep)):
        batch = with_shard_names(table, source, part.keep)
        for name in source.features:
            try:
                numbers = columns.numbers(table[name], source.decimal)
            except columns.NotNumbers as error:
                raise _not_a_number(path, source, name, error, start) from None
            index = batch.column_names.index(FEATURE + name)
            batch = batch.set_column(index, FEATURE + name, numbers)
        yield batch
        start += len(table)


def _lines(path: Path, source: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows, each with the number of its last line.

    Blank lines are skipped, as in Arrow.
    """
    encoding = "utf-8-sig" if source.encoding.lower() in ("utf-8", "utf8") else source.encoding
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=source.separator)
        for row in reader:
            if row:
                yield reader.line_num, row


def line(path: Path, source: CsvSource, row: int) -> int | None:
    """The line in which a data row ends, or None; rows count from 0, lines from 1, the header."""
    try:
        return next(itertools.islice(_lines(path, source), row + 1, None))[0]
    except (StopIteration, UnicodeError, csv.Error):
        return None


def _check_separator(names: Sequence[str], source: CsvSource, path: Path) -> None:
    """Raise `CorruptData` if the header has the label only with another separator."""
    if source.label in names:
        return
    text = source.separator.join(names)
    for separator, title in SEPARATORS.items():
        header_names = next(csv.reader([text], delimiter=separator))
        if separator != source.separator and source.label in header_names:
            key = "\\t" if separator == "\t" else separator
            raise CorruptData(
                f'{path.name} is separated by {title}; set `separator: "{key}"` of this source in'
                " params.yaml"
            )


def _not_text(path: Path, source: Dialect) -> NotText:
    example = "cp1252" if source.encoding.lower() in ("utf-8", "utf8") else "utf-8"
    return NotText(
        f"{path.name} is not {source.encoding} text; set `encoding` of this source in params.yaml, "
        f"for example {example}"
    )


def _explained(path: Path, source: Dialect, error: Exception) -> CorruptData:
    if "invalid UTF8" in str(error):
        return _not_text(path, source)
    try:
        rows = _lines(path, source)
        width = len(next(rows)[1])
        for number, row in rows:
            if len(row) != width:
                return CorruptData(
                    f"{path.name}, line {number}: {len(row)} values, but the header has {width}"
                    " columns; correct the line, or quote values that hold the separator"
                )
    except (StopIteration, UnicodeError, csv.Error):
        pass
    cause = " ".join(str(error).split())[:200]
    return CorruptData(
        f"{path.name} cannot be read as CSV: {cause}; correct the file or ingest.sources"
    )


def _not_a_number(
    path: Path, source: CsvSource, name: str, error: columns.NotNumbers, start: int
) -> CorruptData:
    number = line(path, source, start + (error.row or 0))
    place = f"{path.name}, line {number}" if number else path.name
    advice = "correct the value, or leave the column out of the source's features"
    comma = error.problem.strip("'").strip().lstrip("+-").replace(",", "", 1)
    if source.decimal == "." and error.problem.count(",") == 1 and comma.isdigit():
        advice = (
            'if the comma is the decimal mark, set `decimal: ","` of this source in params.yaml'
        )
    return CorruptData(f"{place}: the feature {name} is {error.problem}, not a number; {advice}")
