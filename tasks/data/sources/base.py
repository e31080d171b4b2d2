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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tasks.data.files import sha256
from tasks.errors import CorruptData, SourceChanged, SourceMissing

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
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


@dataclass
class Skipped:
    """Files of a source's folder that are not read: their names by reason."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        self.names.setdefault(reason, []).append(name)

    def __len__(self) -> int:
        return sum(map(len, self.names.values()))

    def __str__(self) -> str:
        """Such as `skipped 3: 2 suffix (notes.txt, ...), 1 link (out.png)`; empty if there are none."""
        if not self.names:
            return ""
        return f"skipped {len(self):,}: " + ", ".join(starmap(self._counted, sorted(self.names.items())))

    @staticmethod
    def _counted(reason: str, names: list[str]) -> str:
        example = printable(min(names))
        return f"{len(names):,} {reason} ({example}{', ...' if len(names) > 1 else ''})"


def printable(name: str) -> str:
    """A file's name for one line of output: control characters and bytes that are not UTF-8 as escapes."""
    escaped = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
    return "".join(escaped)


@dataclass(frozen=True)
class Part:
    """Some rows of one source, read in one go; `files` are what source.lock pins of it."""

    source: Any  # the params of the source
    root: Path  # the files' names are relative to it
    files: tuple[dict[str, Any], ...]
    detail: dict[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()  # columns that are carried along

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
    """What a part holds: batches with `label`, and `image` (IMAGE) or features, and maybe `row_id` and `split`."""

    batches: Iterator[pa.Table]
    classes: Sequence[str] | None = None  # names of integer labels
    licence: str | None = None


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
    """The folder, and the names in it, that a path means: a file, a folder (then all `within` it) or a pattern."""
    found = places.find(path)
    if found.is_dir():
        return found, sorted(file.relative_to(found).as_posix() for file in found.glob(within) if file.is_file())
    if found.is_file():
        return found.parent, [found.name]
    plain = list(itertools.takewhile(lambda part: not glob.has_magic(part), found.parts))
    root, pattern = Path(*plain), "/".join(found.parts[len(plain) :])
    return root, sorted(file.relative_to(root).as_posix() for file in root.glob(pattern)) if pattern else []


def note_skipped(places: Places, path: str, names: Sequence[str]) -> None:
    """Tell what a folder contains besides the files `names` that `matching` gave for it."""
    root = places.find(path)
    if not root.is_dir():
        return
    read, skipped = set(names), Skipped()
    for file in root.rglob("*"):
        name = file.relative_to(root).as_posix()
        if name not in read and not file.is_dir():
            skipped.add("hidden" if file.name.startswith(".") else "suffix", name)
    if skipped:
        places.notes.append(f"{path}: {skipped}")


def encoded(array: np.ndarray) -> bytes:
    """A uint8 array (H, W) or (H, W, 3) as PNG."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def array_id(array: np.ndarray) -> str:
    """Name an array by its dtype, shape and bytes."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


def image_table(images: Sequence[bytes | None], labels: pa.Array, **columns: Sequence[str | None]) -> pa.Table:
    """A batch of images; `columns` are `row_id`, `split` and `path`, each as long as `images`."""
    paths = pa.array(columns.pop("path", [None] * len(images)), pa.string())
    image = pa.StructArray.from_arrays([pa.array(images, pa.binary()), paths], fields=list(IMAGE))
    return pa.table({"label": labels, "image": image, **{k: pa.array(v, pa.string()) for k, v in columns.items()}})


def whole(table: pa.Table, keep: Sequence[str]) -> pa.Table:
    """The columns in the order and types that shards have, with the `row_id` that is missing.

    Raises:
        CorruptData: a feature that is no number, or a column to keep that is not there.
    """
    if missing := [name for name in keep if name not in table.column_names]:
        raise CorruptData(f"ingest.keep names {', '.join(missing)}; a source has {', '.join(table.column_names)} only")
    image = "image" in table.column_names
    features = [name for name in table.column_names if not image and name not in ("row_id", "label", "split", *keep)]
    if "row_id" not in table.column_names:
        ids = _image_ids(table) if image else _feature_ids(table, features)
        table = table.append_column("row_id", pa.array(ids, pa.string()))
    table = table.set_column(table.column_names.index("label"), "label", _labels(table["label"]))
    for name in keep:
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    first = [name for name in ("row_id", "label", "split", "image") if name in table.column_names]
    return table.select([*first, *features, *keep])


def _labels(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers as int64, words as string."""
    kind = labels.type.value_type if pa.types.is_dictionary(labels.type) else labels.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return labels.cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return labels.cast(pa.string())
    raise CorruptData(f"labels are {kind}; they have to be whole numbers or strings")


def _image_ids(table: pa.Table) -> list[str]:
    images = table["image"].combine_chunks().field("bytes")
    return [hashlib.blake2b(image.as_buffer() or b"", digest_size=16).hexdigest() for image in images]


def _feature_ids(table: pa.Table, names: Sequence[str]) -> list[str]:
    """Canonical form: float64 in the order of the columns, one zero, one NaN; null is the NaN of another sign."""
    values = np.empty((table.num_rows, len(names)), np.float64)
    for i, name in enumerate(names):
        column = table[name]
        if not (
            pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
        ):
            raise CorruptData(f"the feature {name} is {column.type}, no number; leave it out of the source's features")
        numbers = column.cast(pa.float64(), safe=False).to_numpy() + 0.0
        values[:, i] = np.where(np.isnan(numbers), np.nan, numbers)
        values[column.is_null().to_numpy(), i] = -np.nan
    return [hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in values]
