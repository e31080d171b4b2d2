"""Rows to score in memory: their inputs, their ids, and the reasons why some are bad."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ratchet import images
from ratchet.columns import FEATURE, NotNumbers, numbers, plain, prefixed
from ratchet.dataset import spec as specs
from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData
from ratchet.params import Rules
from ratchet.sources.base import feature_ids

FILE_BYTES = 1 << 27  # of an image file; larger ones are not read
# Reads an image by its path: returns its bytes, or None and the reason why it is not read.
Load = Callable[[str], tuple[bytes | None, str | None]]


@dataclass(frozen=True)
class Arrivals:
    """N rows in order."""

    table: pa.Table  # `image` (binary), or the features (float64) under their names in shards
    ids: list[str]  # BLAKE2b-128 of each row's content, as in shards
    paths: list[str]  # the file of each row, or the address of its data set
    rows: list[int]  # the place of each row in that file, from 0
    unread: list[str | None]  # why a row could not be read, or None

    def take(self, places: Sequence[int]) -> Arrivals:
        """Select the rows at `places`, in that order."""
        return Arrivals(
            self.table.take(pa.array(places, pa.int64())),
            [self.ids[place] for place in places],
            [self.paths[place] for place in places],
            [self.rows[place] for place in places],
            [self.unread[place] for place in places],
        )


@dataclass(frozen=True)
class Checks:
    """The rules for a row: `validate.max_pixels` and `validate.columns` of the version's params."""

    max_pixels: int
    columns: Mapping[str, Rules]


def of_images(files: Sequence[tuple[str, bytes | None, str | None]]) -> Arrivals:
    """Collect image files: of each the path, the bytes, and the reason if it was not read."""
    paths = [path for path, _, _ in files]
    contents = [content for _, content, _ in files]
    unread = [reason for _, _, reason in files]
    table = pa.table({"image": pa.array(contents, pa.binary())})
    return Arrivals(table, _image_ids(contents, unread), paths, [0] * len(files), unread)


def of_table(
    table: pa.Table, spec: Spec, path: str, rows: Sequence[int], load: Load, decimal: str = "."
) -> Arrivals:
    """Collect the rows of a table: a column of images, or the features as numbers or text.

    Args:
        table: the rows.
        spec: the spec of the version's inputs.
        path: their file, or the address of their data set.
        rows: their places in that file.
        load: reads an image of which the table has only the path.
        decimal: the decimal mark of numbers in text.

    Raises:
        CorruptData: a column is missing or has a type that is not supported.
    """
    if spec.kind == "image":
        contents, unread = _encoded(table, path, load)
        ids = _image_ids(contents, unread)
        table = pa.table({"image": pa.array(contents, pa.binary())})
    else:
        table, unread, ids = _features(table, list(spec.features or ()), path, decimal)
    return Arrivals(table, ids, [path] * len(ids), list(rows), unread)


def of_unread_lines(spec: Spec, path: str, lines: Mapping[int, tuple[str, str]]) -> Arrivals:
    """Collect lines of a file that are not valid rows.

    Args:
        spec: the spec of the version's inputs.
        path: the file.
        lines: the reason and the text of each line, by its place in the file.
    """
    types = {"image": pa.binary()}
    if spec.kind != "image":
        types = {name: pa.float64() for name in prefixed(FEATURE, spec.features or ())}
    table = pa.table({name: pa.nulls(len(lines), kind) for name, kind in types.items()})
    ids = [_digest(text.encode()) for _, text in lines.values()]
    reasons: list[str | None] = [reason for reason, _ in lines.values()]
    return Arrivals(table, ids, [path] * len(lines), list(lines), reasons)


def require(spec: Spec, path: str, names: Sequence[str], remark: str = "") -> None:
    """Check that a table has each feature exactly once.

    Args:
        spec: the spec of the version's inputs.
        path: the file of the table.
        names: its columns.
        remark: the end of the message about a missing column.

    Raises:
        CorruptData: a feature is missing, or there are several columns of its name.
    """
    features = spec.features or ()
    if missing := [name for name in features if name not in names]:
        columns = ", ".join(map(str, names))
        raise CorruptData(f"{path} has no column {', '.join(missing)}; it has {columns}{remark}")
    if repeated := [name for name in features if list(names).count(name) > 1]:
        raise CorruptData(
            f"{path} has more than one column {', '.join(repeated)}; rename or remove the others"
        )


def checked(arrivals: Arrivals, spec: Spec, checks: Checks) -> tuple[np.ndarray, list[str | None]]:
    """Convert N rows to a model's inputs and check them.

    Args:
        arrivals: the rows.
        spec: the spec of the version's inputs.
        checks: the rules of the version.

    Returns:
        The inputs, (N, C, H, W) uint8 or (N, F) float32, and for each row the reason why it is bad,
        or None.
    """
    check = _decoded if spec.kind == "image" else _checked_features
    inputs, reasons = check(arrivals.table, spec, checks)
    pairs = zip(arrivals.unread, reasons, strict=True)
    return inputs, [unread or reason for unread, reason in pairs]


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
    """Return the encoded images of a table, and for each the reason why it is not read, or None.

    Exactly one column must contain images: binary, or structs with a field `bytes`.
    """
    columns = [field.name for field in table.schema if _holds_images(field.type)]
    if len(columns) != 1:
        names = ", ".join(table.column_names)
        raise CorruptData(
            f"{path}: expected one column of images, but found {len(columns)} among {names}"
        )
    contents: list[bytes | None] = []
    reasons: list[str | None] = []
    for value in table[columns[0]].to_pylist():
        content, reason = value, None
        if isinstance(value, dict):
            content = value["bytes"]
            if content is None and value.get("path"):
                content, reason = load(value["path"])
        contents.append(content)
        reasons.append(reason)
    return contents, reasons


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _image_ids(contents: Sequence[bytes | None], unread: Sequence[str | None]) -> list[str]:
    """Compute the ids of images.

    The id of an unread image depends on the reason, so that it is a new row once it can be read.
    """
    return [
        _digest(content or (reason or "").encode())
        for content, reason in zip(contents, unread, strict=True)
    ]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _features(
    table: pa.Table, names: Sequence[str], path: str, decimal: str
) -> tuple[pa.Table, list[str | None], list[str]]:
    """Return the features as float64, for each row the reason why it is bad, and the ids."""
    columns: list[pa.Array] = []
    reasons: list[str | None] = [None] * len(table)
    for name in names:
        try:
            values, texts = _lenient(table[name], decimal)
        except NotNumbers as error:
            raise CorruptData(
                f"{path}: the feature {name} is {error.problem}, not a number; "
                "the version was trained on numbers"
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
    """Convert a feature to float64, with null for text that is not a number.

    Returns:
        The feature, and the text that is not a number, by row.

    Raises:
        NotNumbers: the column contains neither numbers nor text.
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


def _checked_features(
    table: pa.Table, spec: Spec, checks: Checks
) -> tuple[np.ndarray, list[str | None]]:
    """Check features. Missing ones are imputed as in training, unless a row has none at all."""
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
