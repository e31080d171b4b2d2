"""A folder of image files: `<class>/...`, or `<split>/<class>/...` with the usual words for splits.

Subfolders of a class's folder belong to the class. A tree that can be read in two ways is refused.
Every skipped file is counted with the reason.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ratchet import images
from ratchet.errors import SourceMissing
from ratchet.source_params import ImageFolderSource
from ratchet.sources.base import Entry, Part, Places, Rows, image_table, pin
from ratchet.sources.folder_layout import Layout
from ratchet.sources.skipped import Skipped

ROWS = 10  # files in one batch
FILE_BYTES = 1 << 27  # bytes; larger files are skipped

# Reasons for skipping a file
HIDDEN = "hidden"
SUFFIX = "suffix"
NO_CLASS = "not in a class folder"
ENCODING = "name not UTF-8"
LINK = "link"
UNREADABLE = "unreadable"
LARGE = f"over {FILE_BYTES >> 20} MiB"
NEEDS_HEIF = f"HEIC without {images.HEIF_EXTRA}"


def resolve(source: ImageFolderSource, places: Places) -> Entry:
    """Pin the images in class folders, and note their number and what is skipped.

    Raises:
        SourceMissing: there is no such folder, or it has no images in class folders.
        CorruptData: the tree can be read in two ways.
    """
    root = places.find(source.path)
    if not root.is_dir():
        raise SourceMissing(
            f"ingest.sources: there is no folder {source.path}; create it, or correct the path"
        )
    skipped = Skipped()
    names = sorted(_images(root, skipped), key=lambda name: PurePosixPath(name).parts)
    layout = Layout.of(source.path, names, skipped)
    files = []
    for name in names:
        if layout.label(name) is None:
            skipped.add(NO_CLASS, name)
            continue
        try:
            files.append(pin(root / name, name))
        except OSError:
            skipped.add(UNREADABLE, name)
    note = f"{source.path}: {layout.summary(len(files))}"
    places.notes.append(f"{note}; {skipped}" if skipped else note)
    return {"files": files}


def parts(source: ImageFolderSource, entry: Entry, places: Places) -> list[Part]:
    """List one part per class and split."""
    files = entry["files"]
    layout = Layout.of(source.path, [file["name"] for file in files], Skipped())
    root = places.find(source.path)
    groups = itertools.groupby(
        files, key=lambda file: PurePosixPath(file["name"]).parts[: layout.depth]
    )
    return [Part(source, root, tuple(group), layout.detail(folders)) for folders, group in groups]


def read(part: Part) -> Rows:
    """Read the images of one class and split."""
    return Rows(_batches(part))


def _batches(part: Part) -> Iterator[pa.Table]:
    for start in range(0, len(part.files), ROWS):
        names = [file["name"] for file in part.files[start : start + ROWS]]
        contents = [(Path(part.root) / name).read_bytes() for name in names]
        columns: dict[str, list[Any]] = {"path": names}
        if "split" in part.detail:
            columns["split"] = [part.detail["split"]] * len(names)
        yield image_table(
            contents, pa.array([part.detail["label"]] * len(names), pa.string()), **columns
        )


# ── which files are images ───────────────────────────────────────────────────────────────────────


def _images(root: Path, skipped: Skipped) -> Iterator[str]:
    """Yield the names of the images below `root`, in no particular order.

    Links to folders are not followed.
    """
    inside = root.resolve()

    def unreadable(error: OSError) -> None:
        skipped.add(UNREADABLE, Path(error.filename).relative_to(root).as_posix())

    for folder, subfolders, files in os.walk(root, onerror=unreadable):
        place = Path(folder)
        for name in list(subfolders):
            reason = _folder_skipped(place / name)
            if reason:
                subfolders.remove(name)
                skipped.add(reason, (place / name).relative_to(root).as_posix() + "/")
        for name in files:
            path = place / name
            reason = _file_skipped(path, inside)
            relative = path.relative_to(root).as_posix()
            if reason is None and not _is_utf8(relative):
                reason = ENCODING
            if reason:
                skipped.add(reason, relative)
            else:
                yield relative


def _folder_skipped(path: Path) -> str | None:
    if path.name.startswith("."):
        return HIDDEN
    return LINK if path.is_symlink() else None


def _file_skipped(path: Path, inside: Path) -> str | None:
    """Why a file is not read, or None."""
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return HIDDEN
    if suffix not in images.suffixes():
        return NEEDS_HEIF if suffix in images.HEIC_SUFFIXES else SUFFIX
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(inside):
            return LINK
        if not path.is_file():
            return UNREADABLE
        return LARGE if path.stat().st_size > FILE_BYTES else None
    except (OSError, RuntimeError):  # a link to nothing, or a loop of links
        return LINK if path.is_symlink() else UNREADABLE


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# ── splits and classes ───────────────────────────────────────────────────────────────────────────
