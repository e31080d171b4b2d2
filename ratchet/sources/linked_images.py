"""Images that a parquet file names by their path only, as `Dataset.to_parquet()` of Hugging Face writes them.

They are read where they are in the data set's own folder, and nowhere else.
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
    """A hash of the image files that `column` of the file `name` in `root` names.

    None if it names none there.

    A file with its images inside costs no more than a look at its first rows.
    """
    hashed = hashlib.sha256()
    count = 0
    for image in _missing(root / name, column):
        if file := _find(root, root / name, image):
            hashed.update(f"{image}\0{sha256(file)}\n".encode())
            count += 1
    return hashed.hexdigest() if count else None


def filled(
    images: list[dict[str, Any] | None], root: Path, file: Path
) -> list[dict[str, Any] | None]:
    """Images with the bytes of those that have a path only.

    A file that is missing leaves an image without bytes.

    Raises:
        CorruptData: a path leads out of the data set's folder, or none of them leads to a file.
    """
    linked = [image for image in images if image and image["bytes"] is None and image.get("path")]
    inside = root.resolve()
    found = 0
    for image in linked:
        path = _find(root, file, image["path"])
        if path is not None:
            found += 1
            image.update(bytes=path.read_bytes(), path=path.relative_to(inside).as_posix())
        elif not _is_inside(root, file, image["path"]):
            raise refused(file, image["path"])
    if linked and not found:
        raise refused(file, linked[0]["path"])
    return images


def refused(file: Path, path: str) -> CorruptData:
    return CorruptData(
        f"{file.name} holds paths of images instead of the images, and {path} is not in the data"
        " set's folder; embed the images in the file, or put them into that folder"
    )


def _missing(file: Path, column: str) -> Iterator[str]:
    """The paths of images without bytes, in a file whose first image has none."""
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
    """Where a path may lead: relative to the file, or to the folder of the data set."""
    return [(file.parent / path).resolve(), (root / path).resolve()]


def _is_inside(root: Path, file: Path, path: str) -> bool:
    return any(place.is_relative_to(root.resolve()) for place in _places(root, file, path))


def _find(root: Path, file: Path, path: str) -> Path | None:
    inside = root.resolve()
    for place in _places(root, file, path):
        if place.is_relative_to(inside) and place.is_file():
            return place
    return None
