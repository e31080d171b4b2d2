"""What every type of source has in common.

A type is a module with these functions; the last two run in a worker:

    resolve(source, places) -> entry          what upstream is now, for source.lock
    parts(source, entry, places) -> [Part]    what can be read separately, in a fixed order
    fetch(part)                               optional: bring the pinned files here
    read(part) -> Rows                        its rows; the part's files have been verified
"""

from __future__ import annotations

import glob
import hashlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
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
SPLIT_NAMES = {
    "split",
    "subset",
    "partition",
    "set",
    "dataset",
    "fold",
    "phase",
    "usage",
}  # words in a column's name
WORD = re.compile("[a-z]+")
Entry = dict[str, Any]


@dataclass(frozen=True)
class Places:
    """Where sources may lie: `tree` holds what the params name by a relative path, `home` the downloads."""

    tree: Path
    home: Path
    notes: list[str] = field(default_factory=list)  # what `resolve` has to tell the user

    @property
    def downloads(self) -> Path:
        return (self.home / "data" / "downloads").absolute()

    def find(self, path: str) -> Path:
        """A path of the params: in the tree, else in the main checkout, where alone `data/incoming` is."""
        near = self.tree / path
        incoming = PurePosixPath(path).parts[:2] == ("data", "incoming")
        return near if near.exists() and not incoming else self.home / path


@dataclass(frozen=True)
class Part:
    """Some rows of one source, read in one go; `files` are what source.lock pins of it."""

    source: Any  # the params of the source
    root: Path  # the files' names are relative to it
    files: tuple[dict[str, Any], ...]
    detail: dict[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()  # columns that are carried along
    name: str | None = (
        None  # what reports call it, with the number of a row; None: images have paths of their own
    )

    def identity(self) -> list[Any]:
        """What the rows depend on, without the place where they lie."""
        from dataclasses import asdict

        return [asdict(self.source), list(self.files), self.detail, self.keep]

    def verify(self) -> None:
        """Raises `SourceChanged` unless every file is what source.lock pins."""
        for pinned in self.files:
            verify(self.root / pinned["name"], pinned)


@dataclass(frozen=True)
class Rows:
    """What a part holds: batches under the names of shards (see `columns.py`), still in the types of the source.

    Each has `label`, and `image` (IMAGE) or features, and maybe `row_id`, `split` and columns to
    keep.
    """

    batches: Iterator[pa.Table]
    classes: Sequence[str] | None = None  # names of integer labels
    licence: str | None = None
    unused_split: str | None = (
        None  # a column that looks like a split, and that the params do not name
    )


def pin(path: Path, name: str) -> dict[str, Any]:
    return {"name": name, "size": path.stat().st_size, "sha256": sha256(path)}


def verify(path: Path, pinned: dict[str, Any]) -> None:
    """Raises `SourceMissing` or `SourceChanged` unless the file is what source.lock pins."""
    if not path.is_file():
        raise SourceMissing(
            f"source.lock pins {pinned['name']}, but it is missing from {path.parent}; copy the "
            "file there, or run `ratchet refresh` to pin what is there now"
        )
    size = path.stat().st_size
    digest = sha256(path) if size == pinned["size"] else ""
    if digest == pinned["sha256"]:
        return
    seen = f"SHA-256 {digest[:12]}…" if digest else f"{size:,} bytes"
    raise SourceChanged(
        f"{pinned['name']} in {path.parent} is not what source.lock pins: expected "
        f"{pinned['size']:,} bytes with SHA-256 {pinned['sha256'][:12]}…, found {seen}; "
        "put the pinned file back, or run `ratchet refresh` to pin the new one"
    )


def matching(places: Places, path: str, within: str) -> tuple[Path, list[str]]:
    """The folder, and the names in it, that a path means: a file, a folder (then all `within` it), or a pattern of both."""
    found = places.find(path)
    if found.is_dir():
        return found, sorted(
            file.relative_to(found).as_posix() for file in found.glob(within) if file.is_file()
        )
    if found.is_file():
        return found.parent, [found.name]
    plain = list(itertools.takewhile(lambda part: not glob.has_magic(part), found.parts))
    root, pattern = Path(*plain), "/".join(found.parts[len(plain) :])
    files: set[Path] = set()
    for match in root.glob(pattern) if pattern else ():
        files.update(
            [match] if match.is_file() else (file for file in match.glob(within) if file.is_file())
        )
    return root, sorted(file.relative_to(root).as_posix() for file in files)


def encoded(array: np.ndarray) -> bytes:
    """A uint8 array (H, W) or (H, W, 3) as PNG."""
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
    """A batch of images; `columns` are `row_id`, `split` and `path`, each as long as `images`."""
    paths = pa.array(columns.pop("path", [None] * len(images)), pa.string())
    image = pa.StructArray.from_arrays([pa.array(images, pa.binary()), paths], fields=list(IMAGE))
    return pa.table(
        {
            "label": labels,
            "image": image,
            **{k: pa.array(v, pa.string()) for k, v in columns.items()},
        }
    )


def wanted(source: Any, keep: Sequence[str]) -> list[str]:
    """The columns of a table that the params of its source name."""
    optional = [name for name in (source.split, getattr(source, "image", None)) if name is not None]
    return list(dict.fromkeys([source.label, *optional, *(source.features or ()), *keep]))


def require(names: Sequence[str], there: Sequence[str], place: str) -> None:
    """Raises `CorruptData` unless a table has these columns, and no two columns of one name."""
    if twice := sorted({name for name in there if name and there.count(name) > 1}):
        raise CorruptData(
            f"{place} has more than one column {', '.join(twice)}; rename or remove the others"
        )
    if missing := [name for name in names if name not in there]:
        has = ", ".join(sorted(there))
        raise CorruptData(
            f"{place} has no column {', '.join(missing)}; it has {has}; correct ingest.sources in"
            " params.yaml"
        )


def named(table: pa.Table, source: Any, keep: Sequence[str]) -> pa.Table:
    """The columns that the params name, under the names that they have in shards."""
    found = {"label": table[source.label]}
    if source.split is not None:
        found["split"] = table[source.split]
    if getattr(source, "image", None) is not None:
        found["image"] = table[source.image]
    found.update({FEATURE + name: table[name] for name in source.features or ()})
    found.update({KEEP + name: table[name] for name in keep})
    return pa.table(found)


def unused_split(table: pa.Table, source: Any) -> str | None:
    """A column of a table that the source does not use as its split, though it looks like one.

    It holds nothing but words for splits: two different splits, or one if its name says so, too.
    """
    if source.split is not None:
        return None
    for name in table.column_names:
        if name != source.label and columns.is_text(columns.plain(table[name]).type):
            words = columns.plain(table[name]).unique().drop_null().to_pylist()
            meanings = {split_of(word) for word in words if word.strip()}
            if (
                meanings
                and None not in meanings
                and (len(meanings) > 1 or SPLIT_NAMES & {*WORD.findall(name.lower())})
            ):
                return str(name)
    return None


def whole(table: pa.Table, part: Part, classes: Sequence[str] | None, start: int) -> pa.Table:
    """The columns in the order and types that shards have, with the `row_id` that is missing.

    Args:
        classes: names of integer labels.
        start: rows of the part before these.

    Raises:
        CorruptData: a feature that is not a number, labels of an unusable type, or a column to keep
            that is not there.
    """
    there = table.column_names
    if missing := [name for name in part.keep if KEEP + name not in there]:
        raise CorruptData(
            f"ingest.keep names {', '.join(missing)}; {part.name or 'a source'} has no such column"
        )
    features = [name for name in there if name.startswith(FEATURE)]
    found = {"label": labels.text(table["label"], classes, getattr(part.source, "label", "label"))}
    if "split" in there:
        found["split"] = _splits(table["split"])
    if "image" in there:
        found["image"] = table["image"]
    found.update({name: _numbers(table[name], columns.own(name), part, start) for name in features})
    found.update({KEEP + name: _text(table[KEEP + name], name, part) for name in part.keep})
    if "row_id" in there:
        ids = table["row_id"]
    else:
        ids = pa.array(
            _image_ids(table)
            if "image" in there
            else feature_ids([found[name] for name in features])
        )
    return pa.table({"row_id": ids, **found})


def _splits(column: pa.ChunkedArray) -> pa.Array:
    """Words for a split as train, val and test; blank cells as null; other words as they are."""
    words = labels.text(column, name="split")
    encoded = words.dictionary_encode()
    known = [split_of(word) or word for word in encoded.dictionary.to_pylist()]
    return pa.array(known, pa.string()).take(encoded.indices)


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
    """A column to keep: text and numbers by the rules of labels, other types in Arrow's text form."""
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
    """Canonical form: float64 in the order of the columns, one zero, one NaN.

    Null is the NaN of the other sign.
    """
    values = np.empty((len(features[0]), len(features)), np.float64)
    for i, column in enumerate(features):
        numbers = column.to_numpy(zero_copy_only=False) + 0.0
        values[:, i] = np.where(np.isnan(numbers), np.nan, numbers)
        values[column.is_null().to_numpy(zero_copy_only=False), i] = -np.nan
    return [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in values]
