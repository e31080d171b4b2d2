"""Score new rows with the version in service: one row out for each row in, with the reason where one is bad.

Reads a parquet file, a folder or glob of parquet files, or a folder of images; writes one parquet file with `row`, `path` (of
an image that is a file), `prediction`, `probabilities` (float32, in the order of the version's classes) and `reason` (null
for a good row).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import CorruptData, SourceMissing
from tasks.stage import step

ROWS = 1024  # rows at a time; memory does not grow with the input


@dataclass(frozen=True)
class Scored:
    """What a prediction came to."""

    version: str
    environment: str
    rows: int
    bad: int  # rows of those that could not be scored
    output: str


@step
def predict(tree: Path, source: str, environment: str, output: Path) -> Scored:
    """Score every row of `source` with what serves in `environment`.

    Raises:
        SourceMissing: there is nothing at `source`.
        CorruptData: a file there is no parquet, or lacks the columns that the version needs.
        VersionError: nothing serves in `environment`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.data.files import writing
    from tasks.versions import load
    from tasks.versions.registry import Registry

    version = Registry(tree).find(environment)
    batches = _batches(_files(tree, source))
    model = load(environment, tree)
    rows = bad = 0
    with writing(output) as temporary, pq.ParquetWriter(temporary, _schema(pa)) as writer:
        for batch, paths in batches:
            scored = _score(model, batch, paths, rows)
            writer.write_table(scored)
            rows += scored.num_rows
            bad += scored.num_rows - scored["reason"].null_count
    return Scored(version.name, environment, rows, bad, str(output))


def _schema(pa: Any) -> Any:
    return pa.schema(
        {
            "row": pa.int64(),
            "path": pa.string(),
            "prediction": pa.string(),
            "probabilities": pa.list_(pa.float32()),
            "reason": pa.string(),
        }
    )


def _files(tree: Path, source: str) -> list[Path]:
    """The parquet files or images at `source`: a file, a folder or a glob, relative to `tree`."""
    place = tree / source
    if place.is_dir():
        found = [file for file in sorted(place.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    else:
        found = (
            [place] if place.is_file() else sorted(Path(tree).glob(source)) if not Path(source).is_absolute() else []
        )
    if not found:
        raise SourceMissing(
            f"there is no file at {source}; name a parquet file, or a folder of images or parquet files"
        )
    return found


def _batches(files: Sequence[Path]) -> Iterator[tuple[Any, list[str | None]]]:
    """Raw rows as tables, and the path of each row's image where it is a file of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.data.sources.base import image_table

    parquet = [file for file in files if file.suffix == ".parquet"]
    for file in parquet:
        try:
            for batch in pq.ParquetFile(file, page_checksum_verification=True).iter_batches(ROWS):
                yield pa.Table.from_batches([batch]), [None] * batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise CorruptData(f"{file} is no whole parquet file: {error}") from None
    images = [file for file in files if file.suffix != ".parquet"] if not parquet else []
    for start in range(0, len(images), ROWS):
        some = images[start : start + ROWS]
        names = [str(file) for file in some]
        yield image_table([file.read_bytes() for file in some], pa.nulls(len(some)), path=names), list(names)


def _score(model: Any, table: Any, paths: list[str | None], first: int) -> Any:
    import numpy as np
    import pyarrow as pa

    from tasks.learning.predict import probabilities

    spec = model.card.parsed_spec()
    inputs, reasons = _images(table, spec) if spec.kind == "image" else _features(table, spec)
    good = np.array([reason is None for reason in reasons], bool)
    found: list[Any] = [None] * len(reasons)
    names: list[str | None] = [None] * len(reasons)
    if good.any():
        for index, row in zip(np.flatnonzero(good), probabilities(model, model.card, inputs[good], ROWS), strict=True):
            found[index] = row
            names[index] = spec.classes[int(row.argmax())]
    numbers = range(first, first + len(reasons))
    columns = {"row": list(numbers), "path": paths, "prediction": names, "probabilities": found, "reason": reasons}
    return pa.table(columns, schema=_schema(pa))


def _images(table: Any, spec: Any) -> tuple[Any, list[str | None]]:
    """uint8 (N, C, H, W) and, for each row, why it is bad (None where it is good)."""
    import numpy as np

    from tasks.data import images

    inputs = np.zeros((table.num_rows, *spec.input_shape), np.uint8)
    reasons: list[str | None] = []
    for row, encoded in zip(inputs, _encoded(table), strict=True):
        try:
            row[...] = images.pixels(images.load(encoded), spec.size, spec.channels)
            reasons.append(None)
        except images.BadImage as bad:
            reasons.append(f"{bad.reason}: {bad.detail}")
    return inputs, reasons


def _encoded(table: Any) -> list[bytes | None]:
    """The encoded images of the one column that holds them: structs with `bytes`, or binary."""
    import pyarrow as pa

    found: dict[str, Callable[[Any], list[bytes | None]]] = {}
    for field in table.schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            found[field.name] = lambda column: column.combine_chunks().field("bytes").to_pylist()
        elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            found[field.name] = lambda column: column.to_pylist()
    if len(found) != 1:
        raise CorruptData(f"expected one column of images, found {len(found)} among {', '.join(table.column_names)}")
    ((name, encoded),) = found.items()
    return encoded(table[name])


def _features(table: Any, spec: Any) -> tuple[Any, list[str | None]]:
    """float32 (N, F); a row with nothing but missing features is bad, single ones are imputed as in training."""
    import numpy as np

    from tasks.data import spec as specs

    raw = specs.raw(table, spec)
    reasons = ["features_null: every feature is missing" if empty else None for empty in np.isnan(raw).all(axis=1)]
    return specs.imputed(raw, np.asarray(spec.mean)), reasons
