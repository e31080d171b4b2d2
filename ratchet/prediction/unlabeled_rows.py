"""Rows to score in memory: their inputs, their ids, and what is wrong with each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ratchet import images
from ratchet.columns import FEATURE, NotNumbers, numbers, plain, prefixed
from ratchet.dataset import spec as specs
from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData
from ratchet.params import Rules
from ratchet.sources.base import feature_ids

FILE_BYTES = 1 << 27  # of one image file; a larger one is not read
Load = Callable[
    [str], tuple[bytes | None, str | None]
]  # an image by its path: its bytes, or why they are not read


@dataclass(frozen=True)
class Arrivals:
    """N rows in order."""

    table: (
        pa.Table
    )  # `image` (binary), or the features as float64 under the names that they have in shards
    ids: list[str]  # BLAKE2b-128 of each row's own bytes, as in shards
    paths: list[str]  # of the file that each row is in, or the address of its data set
    rows: list[int]  # place of each row in that file, from 0
    unread: list[str | None]  # why a row could not be read

    def take(self, places: Sequence[int]) -> Arrivals:
        def taken(values: list[Any]) -> list[Any]:
            return [values[place] for place in places]

        table = self.table.take(pa.array(places, pa.int64()))
        return Arrivals(
            table, taken(self.ids), taken(self.paths), taken(self.rows), taken(self.unread)
        )


@dataclass(frozen=True)
class Checks:
    """The rules for a row: the sections `validate.max_pixels` and `validate.columns` of the version's own params."""

    max_pixels: int
    columns: Mapping[str, Rules]


def of_images(files: Sequence[tuple[str, bytes | None, str | None]]) -> Arrivals:
    """Image files: path, and bytes or why they are not read."""
    paths = [path for path, _, _ in files]
    contents = [content for _, content, _ in files]
    unread = [reason for _, _, reason in files]
    table = pa.table({"image": pa.array(contents, pa.binary())})
    return Arrivals(table, _image_ids(contents, unread), paths, [0] * len(files), unread)


def of_table(
    table: pa.Table, spec: Spec, path: str, rows: Sequence[int], load: Load, decimal: str = "."
) -> Arrivals:
    """Rows of one file: a column of images, or the features as numbers or text.

    Args:
        load: reads an image that the table has as a path only.
        decimal: the mark in numbers that are text.

    Raises:
        CorruptData: a column is missing or of a type that holds neither images nor numbers.
    """
    if spec.kind == "image":
        contents, unread = _encoded(table, path, load)
        ids = _image_ids(contents, unread)
        table = pa.table({"image": pa.array(contents, pa.binary())})
    else:
        table, unread, ids = _features(table, list(spec.features or ()), path, decimal)
    return Arrivals(table, ids, [path] * len(ids), list(rows), unread)


def unread(spec: Spec, path: str, lines: Mapping[int, tuple[str, str]]) -> Arrivals:
    """Rows that are not rows of the table: their place, the reason and the text."""
    fields = (
        [("image", pa.binary())] if spec.kind == "image" else _feature_fields(spec.features or ())
    )
    table = pa.table({name: pa.nulls(len(lines), kind) for name, kind in fields})
    ids = [_digest(text.encode()) for _, text in lines.values()]
    return Arrivals(
        table, ids, [path] * len(lines), list(lines), [reason for reason, _ in lines.values()]
    )


def require(spec: Spec, path: str, there: Sequence[str], remark: str = "") -> None:
    """Raises `CorruptData` unless a table has the features, each once.

    `remark` ends the message.
    """
    wanted = spec.features or ()
    if missing := [name for name in wanted if name not in there]:
        raise CorruptData(
            f"{path} has no column {', '.join(missing)}; it has"
            f" {', '.join(map(str, there))}{remark}"
        )
    if twice := [name for name in wanted if list(there).count(name) > 1]:
        raise CorruptData(
            f"{path} has more than one column {', '.join(twice)}; rename or remove the others"
        )


def checked(arrivals: Arrivals, spec: Spec, checks: Checks) -> tuple[np.ndarray, list[str | None]]:
    """A model's inputs, uint8 (N, C, H, W) or float32 (N, F), and for each row why it is bad (None where it is good)."""
    inputs, reasons = (_decoded if spec.kind == "image" else _checked_features)(
        arrivals.table, spec, checks
    )
    return inputs, [
        unread or reason for unread, reason in zip(arrivals.unread, reasons, strict=True)
    ]


def _decoded(table: pa.Table, spec: Spec, checks: Checks) -> tuple[np.ndarray, list[str | None]]:
    assert spec.size is not None and spec.channels is not None
    inputs = np.zeros((len(table), *spec.input_shape), np.uint8)
    reasons: list[str | None] = [None] * len(table)
    for row, encoded in enumerate(table["image"]):
        try:
            inputs[row] = images.pixels(
                encoded.as_py(), spec.size, spec.channels, checks.max_pixels
            )
        except images.BadImage as bad:
            reasons[row] = f"{bad.reason}: {bad.detail}"
    return inputs, reasons


def _encoded(table: pa.Table, path: str, load: Load) -> tuple[list[bytes | None], list[str | None]]:
    """The encoded images of the one column that holds them, structs with `bytes` or binary.

    And why one is not read.
    """
    columns = [field.name for field in table.schema if _holds_images(field.type)]
    if len(columns) != 1:
        names = ", ".join(table.column_names)
        raise CorruptData(
            f"{path}: expected one column of images, found {len(columns)} among {names}"
        )
    contents: list[bytes | None] = []
    reasons: list[str | None] = []
    for value in table[columns[0]].to_pylist():
        content, reason = (value["bytes"], None) if isinstance(value, dict) else (value, None)
        if content is None and isinstance(value, dict) and value.get("path"):
            content, reason = load(value["path"])
        contents.append(content)
        reasons.append(reason)
    return contents, reasons


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_ids(contents: Sequence[bytes | None], unread: Sequence[str | None]) -> list[str]:
    """An image that is not read goes by the reason, so that it is a new row once it can be read."""
    return [
        _digest(content or (reason or "").encode())
        for content, reason in zip(contents, unread, strict=True)
    ]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _features(
    table: pa.Table, names: Sequence[str], path: str, decimal: str
) -> tuple[pa.Table, list[str | None], list[str]]:
    """The features as float64, why a row has text instead of a number, and the ids."""
    columns: list[pa.Array] = []
    reasons: list[str | None] = [None] * len(table)
    for name in names:
        try:
            values, texts = _lenient(table[name], decimal)
        except NotNumbers as error:
            raise CorruptData(
                f"{path}: the feature {name} is {error.problem}, not a number; the version was"
                " trained on numbers"
            ) from None
        columns.append(values)
        for row, text in texts.items():
            reasons[row] = reasons[row] or f"not_a_number: {name} is {text!r}"
    ids = feature_ids(columns)
    for row, reason in enumerate(reasons):
        if reason:
            ids[row] = _digest(repr([table[name][row].as_py() for name in names]).encode())
    return pa.table(dict(zip(prefixed(FEATURE, names), columns, strict=True))), reasons, ids


def _lenient(column: pa.ChunkedArray, decimal: str) -> tuple[pa.Array, dict[int, str]]:
    """A feature as float64, null where it is text that is not a number; and that text, by row.

    Raises:
        NotNumbers: the column is of a type that holds neither numbers nor text.
    """
    try:
        return numbers(column, decimal), {}
    except NotNumbers as error:
        if error.row is None:
            raise
    encoded = plain(column).dictionary_encode()
    values: list[float | None] = []
    bad: dict[int, str] = {}
    for index, word in enumerate(encoded.dictionary.to_pylist()):
        try:
            values.append(numbers(pa.array([word]), decimal)[0].as_py())
        except NotNumbers:
            values.append(None)
            bad[index] = word[:100]
    indices = encoded.indices.to_pylist()
    texts = {row: bad[index] for row, index in enumerate(indices) if index in bad}
    return pa.array(values, pa.float64()).take(encoded.indices), texts


def _feature_fields(names: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.float64()) for name in prefixed(FEATURE, names)]


def _checked_features(
    table: pa.Table, spec: Spec, checks: Checks
) -> tuple[np.ndarray, list[str | None]]:
    """Single missing features are imputed as in training.

    A row without any is bad, as nothing is known about it.
    """
    import polars as pl

    from ratchet.validation import rules

    raw = specs.raw(table, spec)
    reasons: list[str | None] = [
        "null: every feature is missing" if row else None for row in np.isnan(raw).all(axis=1)
    ]
    failures = rules.failures(
        pl.DataFrame(table), rules.of_features(list(spec.features or ()), checks.columns)
    )
    for row, reason, detail in failures.sort("row", "reason", descending=True).iter_rows():
        reasons[row] = f"{reason}: {detail}"
    return specs.numeric(raw, spec), reasons
