"""Images that a parquet file only names by their path, as Hugging Face's `to_parquet()` does.

They are only read from the data set's own folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ratchet.errors import CorruptData
from ratchet.files import sha256
from ratchet.shards import parquet


def digest(root: Path, name: str, column: str) -> str | None:
    """Hash the image files that `column` of the parquet file `name` in `root` names.

    If the file contains its images, only its first rows are read.

    Returns:
        A SHA-256 in hex; None if the column names no files in `root`.
    """
    content_hash = hashlib.sha256()
    count = 0
    for image in _missing(root / name, column):
        if file := _find(root, root / name, image):
            content_hash.update(f"{image}\0{sha256(file)}\n".encode())
            count += 1
    return content_hash.hexdigest() if count else None


def filled(
    images: list[dict[str, Any] | None], root: Path, file: Path
) -> list[dict[str, Any] | None]:
    """Add the bytes of images that only have a path.

    An image whose file is missing stays without bytes.

    Raises:
        CorruptData: a path leads out of the data set's folder, or no path leads to a file.
    """
    linked = [image for image in images if image and image["bytes"] is None and image.get("path")]
    inside = root.resolve()
    count = 0
    for image in linked:
        path = _find(root, file, image["path"])
        if path is not None:
            count += 1
            image.update(bytes=path.read_bytes(), path=path.relative_to(inside).as_posix())
        elif not _is_inside(root, file, image["path"]):
            raise refused(file, image["path"])
    if linked and not count:
        raise refused(file, linked[0]["path"])
    return images


def refused(file: Path, path: str) -> CorruptData:
    """The error that `path`, an image that `file` names, is not in the data set's folder."""
    return CorruptData(
        f"{file.name} holds paths of images instead of the images, and {path} is not in the data"
        " set's folder; embed the images in the file, or put them into that folder"
    )


def _missing(file: Path, column: str) -> Iterator[str]:
    """Yield the paths of images without bytes, in a file whose first image has no bytes."""
    schema = parquet.schema(file)
    if column not in schema.names or not pa.types.is_struct(schema.field(column).type):
        return
    first = True
    for table in parquet.batches(file, [column]):
        for image in filter(None, table[column].to_pylist()):
            if first and image.get("bytes") is not None:
                return
            first = False
            if image.get("bytes") is None and image.get("path"):
                yield image["path"]


def _places(root: Path, file: Path, path: str) -> list[Path]:
    """What a path may mean: it is relative to the file, or to the folder of the data set."""
    return [(file.parent / path).resolve(), (root / path).resolve()]


def _is_inside(root: Path, file: Path, path: str) -> bool:
    return any(place.is_relative_to(root.resolve()) for place in _places(root, file, path))


def _find(root: Path, file: Path, path: str) -> Path | None:
    inside = root.resolve()
    for place in _places(root, file, path):
        if place.is_relative_to(inside) and place.is_file():
            return place
    return None
