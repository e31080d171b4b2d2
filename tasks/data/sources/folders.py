"""A folder of image files: `<class>/…` or `<train|val|test>/<class>/…`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from PIL import Image

from tasks.data.sources.base import Entry, Part, Places, Rows, image_table, pin
from tasks.errors import CorruptData, SourceMissing
from tasks.params import ImageFolderSource

ROWS = 10  # files in one batch
FILE_BYTES = 1 << 27  # of one file; more is refused
SPLITS = ("train", "val", "test")


def resolve(source: ImageFolderSource, places: Places) -> Entry:
    """Links that lead out of the folder, hidden files and files that no image plugin names are left out."""
    root = places.find(source.path)
    inside = root.resolve()
    suffixes = Image.registered_extensions()
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in suffixes
        and not path.name.startswith(".")
        and path.is_file()
        and path.resolve().is_relative_to(inside)
        and len(path.relative_to(root).parts) > 1
    )
    if not files:
        raise SourceMissing(f"ingest.sources: no image in a class's folder at {source.path}; put some there")
    for file in files:
        if file.stat().st_size > FILE_BYTES:
            raise CorruptData(
                f"{file.relative_to(root)} has {file.stat().st_size:,} bytes; at most {FILE_BYTES:,} are read"
            )
    return {"files": [pin(file, file.relative_to(root).as_posix()) for file in files]}


def parts(source: ImageFolderSource, entry: Entry, places: Places) -> list[Part]:
    """One for each class and split."""
    split = all(PurePosixPath(file["name"]).parts[0] in SPLITS for file in entry["files"])
    depth = 2 if split else 1
    root = places.find(source.path)
    groups = itertools.groupby(entry["files"], key=lambda file: PurePosixPath(file["name"]).parts[:-1][:depth])
    made = []
    for folders, files in groups:
        if len(folders) < depth:
            raise CorruptData(f"{source.path}: images of split {folders[0]} lie in no class's folder")
        given = {"split": folders[0]} if split else {}
        made.append(Part(source, root, tuple(files), {"label": folders[-1], **given}))
    return made


def read(part: Part) -> Rows:
    return Rows(_batches(part))


def _batches(part: Part) -> Iterator[pa.Table]:
    for start in range(0, len(part.files), ROWS):
        names = [file["name"] for file in part.files[start : start + ROWS]]
        images = [(Path(part.root) / name).read_bytes() for name in names]
        columns: dict[str, list[Any]] = {"path": names}
        if "split" in part.detail:
            columns["split"] = [part.detail["split"]] * len(names)
        yield image_table(images, pa.array([part.detail["label"]] * len(names), pa.string()), **columns)
