"""Files written whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import RatchetError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path, sync: bool = True) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place once the block ends well; else nothing of it stays.

    The block makes a file or a folder at that name. Everything in it is synced to disk before it is renamed
    (not with `sync=False`, for what is checked by its hash before each use).

    Raises:
        RatchetError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as holder:
        made = holder / path.name
        yield made
        for file in [made] if made.is_file() else made.rglob("*"):
            if sync and file.is_file():
                _sync(file)
        if path.is_dir():
            path.rename(holder / "before")
        made.replace(path)
        if sync:
            _sync(path.parent)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A folder for the files that making `path` takes, on the same file system; it goes with the block.

    Raises:
        RatchetError: the disk is full.
    """
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name[:40]}.", dir=path.parent, ignore_cleanup_errors=True
        ) as name:
            yield Path(name)
    except OSError as error:
        if error.errno not in FULL and "No space left" not in str(error):
            raise
        raise RatchetError(f"the disk is full: {path} could not be written; make room, then run it again") from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Write `content` with sorted keys, so that equal content gives equal bytes."""
    with writing(path) as temporary:
        temporary.write_text(to_json(content), encoding="utf-8")


def to_json(content: Any) -> str:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """Give `source` a second name, or copy it where the file system allows none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
