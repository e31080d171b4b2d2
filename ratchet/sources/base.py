"""What all types of sources have in common.

A type is a module with these functions. The last two run in a worker.

    resolve(source, places) -> entry          pin the current upstream data for source.lock
    parts(source, entry, places) -> [Part]    list what can be read separately, in a fixed order
    fetch(part)                               optional: download the pinned files
    read(part) -> Rows                        read the rows; the files have been verified
"""

from __future__ import annotations

import glob
import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ratchet import columns
from ratchet.columns import FEATURE, KEEP
from ratchet.errors import CorruptData, SourceChanged, SourceMissing
from ratchet.files import sha256
from ratchet.shards import labels
from ratchet.shards.splits import split_of

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# Words in the name of a column that holds splits.
SPLIT_NAMES = {"split", "subset", "partition", "set", "dataset", "fold", "phase", "usage"}
WORD = re.compile("[a-z]+")
Entry = dict[str, Any]


@dataclass(frozen=True)
class Places:
    """Where sources are.

    Relative paths of the params are in `tree`, the tree of a run, or in `home`, the main checkout.
    Downloads are in `home`.
    """

    tree: Path
    home: Path
    notes: list[str] = field(default_factory=list)  # messages of `resolve` for the user

    @property
    def downloads(self) -> Path:
        """The folder of all downloads, as an absolute path."""
        return (self.home / "data" / "downloads").absolute()

    def find(self, path: str) -> Path:
        """Locate a path of the params: in the tree if it is there, otherwise in the main checkout.

        `data/incoming` is always that of the main checkout.
        """
        near = self.tree / path
        incoming = PurePosixPath(path).parts[:2] == ("data", "incoming")
        return near if near.exists() and not incoming else self.home / path


@dataclass(frozen=True)
class Part:
    """A part of one source that is read at once."""

    source: Any  # the params of the source
    root: Path  # the files' names are relative to it
    files: tuple[dict[str, Any], ...]  # the part's files as source.lock pins them
    detail: dict[str, Any] = field(default_factory=dict)  # what else `read` needs
    keep: tuple[str, ...] = ()  # columns to carry along
    name: str | None = None  # its name in reports; None: each image has its own path

    def identity(self) -> list[Any]:
        """What the rows depend on, apart from the folder that they are in."""
        from dataclasses import asdict

        return [asdict(self.source), list(self.files), self.detail, self.keep]

    def verify(self) -> None:
        """Check that every file is what source.lock pins.

        Raises:
            SourceMissing: a file is missing.
            SourceChanged: a file has other content.
        """
        for pinned in self.files:
            verify(self.root / pinned["name"], pinned)


@dataclass(frozen=True)
class Rows:
    """The rows of a part, in batches with the column names of shards and the types of the source.

    Each batch has `label`, and either `image` (IMAGE) or features. It may have `row_id`, `split`
    and columns to keep. For the names, see `ratchet.columns`.
    """

    batches: Iterator[pa.Table]
    classes: Sequence[str] | None = None  # names of integer labels
    licence: str | None = None
    unused_split: str | None = None  # a column that looks like a split, but is not used as one


def pin(path: Path, name: str) -> dict[str, Any]:
    """Pin a file by its name, size in bytes and SHA-256."""
    return {"name": name, "size": path.stat().st_size, "sha256": sha256(path)}


def verify(path: Path, pinned: dict[str, Any]) -> None:
    """Check that the file is what source.lock pins.

    Raises:
        SourceMissing: the file is missing.
        SourceChanged: the file has other content.
    """
    if not path.is_file():
        raise SourceMissing(
            f"source.lock pins {pinned['name']}, but it is missing from {path.parent}; copy the "
            "file there, or run `ratchet refresh` to pin what is there now"
        )
    size = path.stat().st_size
    digest = sha256(path) if size == pinned["size"] else ""
    if digest == pinned["sha256"]:
        return
    actual = f"SHA-256 {digest[:12]}…" if digest else f"{size:,} bytes"
    raise SourceChanged(
        f"{pinned['name']} in {path.parent} is not what source.lock pins: expected "
        f"{pinned['size']:,} bytes with SHA-256 {pinned['sha256'][:12]}…, found {actual}; "
        "put the pinned file back, or run `ratchet refresh` to pin the new one"
    )


def matching(places: Places, path: str, within: str) -> tuple[Path, list[str]]:
    """List the files that a path of the params means.

    Args:
        places: where to look.
        path: a file, a folder, or a pattern of files and folders.
        within: the pattern of the files that are read in a folder.

    Returns:
        A folder, and the sorted names of the files relative to it.
    """
    target = places.find(path)
    if target.is_dir():
        return target, _names(target, _files(target, within))
    if target.is_file():
        return target.parent, [target.name]
    plain = list(itertools.takewhile(lambda part: not glob.has_magic(part), target.parts))
    root, pattern = Path(*plain), "/".join(target.parts[len(plain) :])
    files: set[Path] = set()
    for match in root.glob(pattern) if pattern else ():
        files |= {match} if match.is_file() else _files(match, within)
    return root, _names(root, files)


def _files(folder: Path, pattern: str) -> set[Path]:
    return {file for file in folder.glob(pattern) if file.is_file()}


def _names(root: Path, files: Iterable[Path]) -> list[str]:
    return sorted(file.relative_to(root).as_posix() for file in files)


def encoded(array: np.ndarray) -> bytes:
    """Encode a uint8 array (H, W) or (H, W, 3) as PNG."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def array_id(array: np.ndarray) -> str:
    """Name an array by its dtype, shape and bytes."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def image_table(
    images: Sequence[bytes | None], labels: pa.Array, **columns: Sequence[str | None]
) -> pa.Table:
    """Build a batch of images.

    Args:
        images: encoded images (N,).
        labels: labels (N,).
        columns: `row_id`, `split` and `path` (N,), all of them optional.
    """
    paths = pa.array(columns.pop("path", [None] * len(images)), pa.string())
    image = pa.StructArray.from_arrays([pa.array(images, pa.binary()), paths], fields=list(IMAGE))
    texts = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    return pa.table({"label": labels, "image": image, **texts})


def used_columns(source: Any, keep: Sequence[str]) -> list[str]:
    """The columns of a table that the params name."""
    optional = [name for name in (source.split, getattr(source, "image", None)) if name is not None]
    return list(dict.fromkeys([source.label, *optional, *(source.features or ()), *keep]))


def require(names: Sequence[str], present: Sequence[str], place: str) -> None:
    """Check that a table has the columns `names`, and that no two columns have the same name.

    Args:
        names: the columns that the params name.
        present: the columns of the table.
        place: the name of the table, for messages.

    Raises:
        CorruptData: a column is missing, or a name occurs more than once.
    """
    if duplicates := sorted({name for name in present if name and present.count(name) > 1}):
        raise CorruptData(
            f"{place} has more than one column {', '.join(duplicates)}; rename or remove the others"
        )
    if missing := [name for name in names if name not in present]:
        has = ", ".join(sorted(present))
        raise CorruptData(
            f"{place} has no column {', '.join(missing)}; it has {has}; correct ingest.sources in"
            " params.yaml"
        )


def with_shard_names(table: pa.Table, source: Any, keep: Sequence[str]) -> pa.Table:
    """Select the columns that the params name, under the names that they have in shards."""
    selected = {"label": table[source.label]}
    if source.split is not None:
        selected["split"] = table[source.split]
    if getattr(source, "image", None) is not None:
        selected["image"] = table[source.image]
    selected.update({FEATURE + name: table[name] for name in source.features or ()})
    selected.update({KEEP + name: table[name] for name in keep})
    return pa.table(selected)


def unused_split(table: pa.Table, source: Any) -> str | None:
    """Find a column that looks like a split, if the source does not use one.

    Such a column holds only words for splits: for at least two splits, or for one split if its
    name says that it is a split.
    """
    if source.split is not None:
        return None
    for name in table.column_names:
        column = columns.plain(table[name])
        if name != source.label and columns.is_text(column.type) and _is_split(name, column):
            return str(name)
    return None


def _is_split(name: str, column: pa.Array) -> bool:
    words = column.unique().drop_null().to_pylist()
    splits = {split_of(word) for word in words if word.strip()}
    if not splits or None in splits:
        return False
    return len(splits) > 1 or not SPLIT_NAMES.isdisjoint(WORD.findall(name.lower()))


def to_shard(table: pa.Table, part: Part, classes: Sequence[str] | None, start: int) -> pa.Table:
    """Convert a batch to the order and types of shards, and add a missing `row_id`.

    Args:
        table: a batch of `Rows`.
        part: the part that the batch comes from.
        classes: names of integer labels.
        start: number of rows of the part before this batch.

    Raises:
        CorruptData: a feature is not a number, the labels have an unusable type, or a column to
            keep is missing.
    """
    present = table.column_names
    if missing := [name for name in part.keep if KEEP + name not in present]:
        raise CorruptData(
            f"ingest.keep names {', '.join(missing)}; {part.name or 'a source'} has no such column"
        )
    features = [name for name in present if name.startswith(FEATURE)]
    label_name = getattr(part.source, "label", "label")
    converted = {"label": labels.text(table["label"], classes, label_name)}
    if "split" in present:
        converted["split"] = _splits(table["split"])
    if "image" in present:
        converted["image"] = table["image"]
    for name in features:
        converted[name] = _numbers(table[name], columns.own(name), part, start)
    for name in part.keep:
        converted[KEEP + name] = _text(table[KEEP + name], name, part)
    if "row_id" in present:
        ids = table["row_id"]
    elif "image" in present:
        ids = pa.array(_image_ids(table))
    else:
        ids = pa.array(feature_ids([converted[name] for name in features]))
    return pa.table({"row_id": ids, **converted})


def _splits(column: pa.ChunkedArray) -> pa.Array:
    """Replace words for splits by train, val and test, and blank cells by null."""
    words = labels.text(column, name="split")
    encoded = words.dictionary_encode()
    splits = [split_of(word) or word for word in encoded.dictionary.to_pylist()]
    return pa.array(splits, pa.string()).take(encoded.indices)


def _numbers(column: pa.ChunkedArray, name: str, part: Part, start: int) -> pa.Array:
    try:
        return columns.numbers(column)
    except columns.NotNumbers as error:
        place = part.name or "a source"
        advice = "convert the column to numbers"
        if error.row is not None:
            place, advice = f"{place}, row {start + error.row}", "correct the value"
        raise CorruptData(
            f"{place}: the feature {name} is {error.problem}, not a number; "
            f"{advice}, or leave it out of the source's features"
        ) from None


def _text(column: pa.ChunkedArray, name: str, part: Part) -> pa.Array:
    """A column to keep, as text: text and numbers by the rules of labels, others by Arrow's."""
    array = columns.plain(column)
    if columns.is_number(array.type) or columns.is_text(array.type) or pa.types.is_null(array.type):
        return labels.text(array)
    try:
        return array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise CorruptData(
            f"{part.name or 'a source'}: the column {name} is {array.type} and cannot be kept as"
            " text; take it out of ingest.keep"
        ) from None


def _image_ids(table: pa.Table) -> list[str]:
    images = table["image"].combine_chunks().field("bytes")
    return [
        hashlib.blake2b(image.as_buffer() or b"", digest_size=16).hexdigest() for image in images
    ]


def feature_ids(features: Sequence[pa.Array]) -> list[str]:
    """Hash the features of each row in a canonical form.

    The form is float64 in the order of the columns, with one zero and one NaN. Null is a NaN of
    the other sign.

    Args:
        features: the columns, float64 (N,) each.

    Returns:
        BLAKE2b digests of 16 bytes in hex (N,).
    """
    values = np.empty((len(features[0]), len(features)), np.float64)
    for i, column in enumerate(features):
        numbers = column.to_numpy(zero_copy_only=False) + 0.0
        values[:, i] = np.where(np.isnan(numbers), np.nan, numbers)
        values[column.is_null().to_numpy(zero_copy_only=False), i] = -np.nan
    return [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in values]
