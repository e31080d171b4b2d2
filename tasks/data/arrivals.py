"""Rows that wait for a prediction: without labels, from files or the Hub, a few at a time, and what is wrong with each.

A row is never left out: what can't be used keeps its place and gets a reason, with the codes of the quarantine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.data import images, parquet
from tasks.data import spec as specs
from tasks.data.columns import FEATURE, NotNumbers, numbers
from tasks.data.spec import Spec
from tasks.errors import CorruptData, ParamsError, SourceMissing
from tasks.params import HuggingFaceSource, Rules

HUB = "hf://datasets/"
ROWS = 10_000  # in one batch at most
FILE_BYTES = 1 << 27  # of one image file; more is not read
BATCH_BYTES = 1 << 26  # of the inputs of one batch, and of the image files in it


@dataclass(frozen=True)
class Arrivals:
    """Some rows in order: their columns, and per row the image file it is, and why that can't be read, if so."""

    table: pa.Table
    paths: list[str | None]
    unread: list[str | None]


@dataclass(frozen=True)
class Checks:
    """What a row has to keep: the sections `validate.max_pixels` and `validate.columns` of the version's own params."""

    max_pixels: int
    columns: Mapping[str, Rules]


def read(tree: Path, source: str, spec: Spec) -> Iterator[Arrivals]:
    """The rows at `source`: a file, folder or glob (relative to `tree`), or `hf://datasets/OWNER/NAME[@REVISION]`.

    Raises:
        SourceMissing: there is nothing.
        CorruptData: a parquet file is cut or damaged.
        Unreachable: the Hub does not answer.
    """
    size = BATCH_BYTES // int(np.prod(spec.input_shape, dtype=np.int64)) // (1 if spec.kind == "image" else 4)
    rows = max(1, min(ROWS, size))
    return _hub(source, rows) if source.startswith(HUB) else _files(tree, source, rows)


def _files(tree: Path, source: str, rows: int) -> Iterator[Arrivals]:
    place = tree / source
    if place.is_dir():
        found = [path for path in sorted(place.rglob("*")) if not path.is_dir() and not path.name.startswith(".")]
    elif place.is_file() or Path(source).is_absolute():
        found = [place] if place.is_file() else []
    else:
        found = sorted(path for path in tree.glob(source) if path.is_file())
    if not found:
        raise SourceMissing(
            f"there is no file at {source}; name a parquet file, a folder of images or parquet files, "
            f"or {HUB}OWNER/NAME for a data set of the Hub"
        )
    return _of_files(found, place.resolve() if place.is_dir() else None, rows)


def _of_files(files: list[Path], inside: Path | None, rows: int) -> Iterator[Arrivals]:
    held: list[tuple[str, bytes | None, str | None]] = []
    for file in files:
        if file.suffix != ".parquet":
            held.append((str(file), *_image(file, inside)))
        full = len(held) == rows or sum(len(content or b"") for _, content, _ in held) > BATCH_BYTES
        if held and (full or file.suffix == ".parquet"):
            yield _pictures(held)
            held = []
        if file.suffix == ".parquet":
            for table in parquet.batches(file, rows=rows):
                yield Arrivals(table, [None] * len(table), [None] * len(table))
    if held:
        yield _pictures(held)


def _image(file: Path, inside: Path | None) -> tuple[bytes | None, str | None]:
    """The bytes of a file, or why they are not read."""
    try:
        if inside is not None and not file.resolve().is_relative_to(inside):
            return None, "unread: a link that leads out of the folder"
        if file.stat().st_size > FILE_BYTES:
            return None, f"unread: {file.stat().st_size:,} bytes; at most {FILE_BYTES:,} are read"
        return file.read_bytes(), None
    except OSError as error:
        return None, f"unread: {error.strerror}"


def _pictures(held: list[tuple[str, bytes | None, str | None]]) -> Arrivals:
    paths, contents, unread = (list(each) for each in zip(*held, strict=True))
    return Arrivals(pa.table({"image": pa.array(contents, pa.binary())}), paths, unread)


def _hub(source: str, rows: int) -> Iterator[Arrivals]:
    """A data set of the Hub, streamed: nothing of it is kept here."""
    import datasets

    from tasks.data.sources import hub

    named, split = _named(source)
    datasets.disable_progress_bars()
    with hub.answering(named, "the input"):
        found = datasets.load_dataset(
            named.repository, named.config, split=split, revision=named.revision, streaming=True
        )
        for data in found.values() if isinstance(found, dict) else [found]:
            for name, feature in (data.features or {}).items():
                if isinstance(feature, datasets.Image):
                    data = data.cast_column(name, datasets.Image(decode=False))
            for table in data.with_format("arrow").iter(min(rows, 100)):
                table = _with_bytes(table.cast(table.schema.remove_metadata()))
                yield Arrivals(table, [None] * len(table), [None] * len(table))


def _named(source: str) -> tuple[HuggingFaceSource, str | None]:
    """Which data set `hf://datasets/OWNER/NAME[@REVISION][?config=…&split=…]` names, and which split (None: all)."""
    from pydantic import ValidationError

    url = urlsplit(source.removeprefix(HUB))
    repository, _, revision = url.path.partition("@")
    options = dict(parse_qsl(url.query, keep_blank_values=True))
    split, config = options.pop("split", None), options.pop("config", None)
    try:
        if options:
            raise ValueError(f"no option {', '.join(options)}")
        facts = {"repository": repository, "config": config, "revision": revision or None}
        named = HuggingFaceSource(
            type="huggingface",
            splits={},
            label="label",  # of columns nothing is asked here
            image="image",
            **facts,  # type: ignore[arg-type]
        )
    except (ValidationError, ValueError):
        raise ParamsError(f"{source!r}: expected {HUB}OWNER/NAME[@REVISION][?config=...&split=...]") from None
    return named, split


def _with_bytes(table: pa.Table) -> pa.Table:
    """Images that the Hub keeps as files of their own come as an address."""
    import fsspec

    for index, field in enumerate(table.schema):
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            given = table.column(index).to_pylist()
            for image in given:
                if image and image["bytes"] is None and image["path"]:
                    with fsspec.open(image["path"]) as file:
                        image["bytes"] = file.read()
            table = table.set_column(index, field.name, pa.array(given, field.type))
    return table


def checked(arrivals: Arrivals, spec: Spec, checks: Checks) -> tuple[np.ndarray, list[str | None]]:
    """A model's inputs, uint8 (N, C, H, W) or float32 (N, F), and for each row why it is bad (None where it is good).

    Raises:
        CorruptData: there is no column of images, or a feature is missing or no number.
    """
    inputs, reasons = (_decoded if spec.kind == "image" else _numbers)(arrivals.table, spec, checks)
    return inputs, [unread or reason for unread, reason in zip(arrivals.unread, reasons, strict=True)]


def _decoded(table: pa.Table, spec: Spec, checks: Checks) -> tuple[np.ndarray, list[str | None]]:
    assert spec.size is not None and spec.channels is not None
    inputs = np.zeros((len(table), *spec.input_shape), np.uint8)
    reasons: list[str | None] = [None] * len(table)
    for row, encoded in enumerate(_encoded(table)):
        try:
            inputs[row] = images.pixels(encoded, spec.size, spec.channels, checks.max_pixels)
        except images.BadImage as bad:
            reasons[row] = f"{bad.reason}: {bad.detail}"
    return inputs, reasons


def _encoded(table: pa.Table) -> list[bytes | None]:
    """The encoded images of the one column that holds them: structs with `bytes`, or binary."""
    found = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            found[field.name] = pc.struct_field(column, "bytes")  # null where the whole image is
        elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            found[field.name] = column
    if len(found) != 1:
        raise CorruptData(f"expected one column of images, found {len(found)} among {', '.join(table.column_names)}")
    encoded: list[bytes | None] = next(iter(found.values())).to_pylist()
    return encoded


def _numbers(table: pa.Table, spec: Spec, checks: Checks) -> tuple[np.ndarray, list[str | None]]:
    """Single missing features are imputed as in training; a row with nothing but those is bad, as nothing is known of it."""
    import polars as pl

    from tasks.data import schema

    names = list(spec.features or ())
    table = _features(table, names)
    raw = specs.raw(table, spec)
    reasons: list[str | None] = ["null: every feature is missing" if row else None for row in np.isnan(raw).all(axis=1)]
    frame = pl.DataFrame(table.replace_schema_metadata(None))
    found = schema.failures(frame, schema.of_features(names, checks.columns))
    for row, reason, detail in found.sort("row", "reason", descending=True).iter_rows():
        reasons[row] = f"{reason}: {detail}"
    return specs.imputed(raw, np.asarray(spec.mean)), reasons


def _features(table: pa.Table, names: list[str]) -> pa.Table:
    """The features as shards hold them."""
    found = {}
    for name in (name for name in names if name in table.column_names):
        try:
            found[FEATURE + name] = numbers(table[name])
        except NotNumbers as error:
            raise CorruptData(
                f"the feature {name} is {error.problem}, not a number; the version was trained on numbers"
            ) from None
    if len(found) < len(names):
        missing = [name for name in names if FEATURE + name not in found]
        raise CorruptData(f"the rows lack {', '.join(missing)}; they have {', '.join(table.column_names)}")
    return pa.table(found)
