"""CSV files with a header: a label, and numeric features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from tasks.data.sources.base import Entry, Part, Places, Rows, matching, note_skipped, pin
from tasks.errors import CorruptData, SourceMissing
from tasks.params import CsvSource

BLOCK = 1 << 20  # bytes parsed at once; the types of the columns come from the first


def resolve(source: CsvSource, places: Places) -> Entry:
    root, names = matching(places, source.path, "**/*.csv")
    if not names:
        raise SourceMissing(f"ingest.sources: no CSV file at {source.path}; put one there, or correct the path")
    note_skipped(places, source.path, names)
    return {"files": [pin(root / name, name) for name in names]}


def parts(source: CsvSource, entry: Entry, places: Places) -> list[Part]:
    root, _ = matching(places, source.path, "**/*.csv")
    return [Part(source, root, (file,)) for file in entry["files"]]


def read(part: Part) -> Rows:
    return Rows(_batches(part.root / part.files[0]["name"], part.source, part.keep))


def _batches(path: Path, source: CsvSource, keep: Sequence[str]) -> Iterator[pa.Table]:
    """Every feature is float64, so that a file without a decimal point gives the same schema as one with."""
    features = list(source.features)
    types = {**dict.fromkeys(features, pa.float64()), **dict.fromkeys(keep, pa.string())}
    columns = [source.label, *features, *keep]
    reading = pyarrow.csv.ReadOptions(block_size=BLOCK)
    options = pyarrow.csv.ConvertOptions(column_types=types, include_columns=columns)
    try:
        with pyarrow.csv.open_csv(path, read_options=reading, convert_options=options) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch]).rename_columns(["label", *columns[1:]])
    except (pa.ArrowException, KeyError, OSError) as error:
        cause = " ".join(str(error).split())
        raise CorruptData(f"{path.name} cannot be read as CSV: {cause}; correct the file or ingest.sources") from None
