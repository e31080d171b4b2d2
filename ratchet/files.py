"""Files written completely or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
_TRIES = 100
_PREFIX = ".ratchet-"  # of temporary folders; none of these is ever a user's


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that replaces it when the block succeeds.

    Otherwise it is deleted.

    The block makes a file or a folder at that name. Everything in it is synced to disk before it is
    renamed. Of two that write the same path at once the later one stays.

    Raises:
        RatchetError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as holder:
        new = holder / path.name
        yield new
        for file in [new] if new.is_file() else new.rglob("*"):
            if file.is_file():
                _sync(file)
        replace(new, path, holder)
        _sync(path.parent)


def replace(new: Path, path: Path, holder: Path) -> None:
    """Rename `new` to `path`; a folder there, which cannot be replaced, moves into `holder` first.

    Raises:
        RatchetError: others replaced it again and again.
    """
    for attempt in range(_TRIES):
        try:
            new.replace(path)
            return
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
        with contextlib.suppress(FileNotFoundError):
            path.rename(holder / f"before-{attempt}")
    raise RatchetError(f"{path} was replaced by others {_TRIES} times; run this again")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A folder beside `path` for the files that making it takes; it is deleted with the block.

    Such folders that killed processes left there are deleted too.

    Raises:
        RatchetError: the disk is full.
    """
    try:
        _swept(path.parent.resolve())
        with _held_folder(path) as folder:
            yield folder
    except OSError as error:
        if error.errno not in FULL and "No space left" not in str(error):
            raise
        raise RatchetError(
            f"the disk is full: {path} could not be written; make room, then run it again"
        ) from None


@contextmanager
def _held_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that is locked for as long as this process uses it."""
    prefix = f"{_PREFIX}{path.name[:40]}."
    for _ in range(_TRIES):
        with tempfile.TemporaryDirectory(
            prefix=prefix, dir=path.parent, ignore_cleanup_errors=True
        ) as name:
            try:
                descriptor = os.open(name, os.O_RDONLY)
            except FileNotFoundError:  # another process took it for a leftover
                continue
            try:
                with contextlib.suppress(OSError):  # a file system without locks keeps leftovers
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if Path(name).exists():  # no other process took it for a leftover before the lock
                    yield Path(name)
                    return
            finally:
                os.close(descriptor)
    raise RatchetError(f"no temporary folder could be made in {path.parent}; run this again")


@functools.cache
def _swept(folder: Path) -> None:
    """Remove leftovers once per process: some folders have thousands of files."""
    if count := remove_leftovers(folder):
        print(
            f"ratchet: removed {count} temporary folders of killed processes in {folder}",
            file=sys.stderr,
        )


def remove_leftovers(folder: Path) -> int:
    """Delete the temporary folders in `folder` whose process is gone; returns their number."""
    count = 0
    for leftover in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover)
                count += 1
            finally:
                os.close(descriptor)
    return count


def newest_first(folder: Path) -> list[Path]:
    """The folders in `folder`, without those that another process deletes just then."""
    times: dict[Path, float] = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                times[path] = path.stat().st_mtime
    return sorted(times, key=times.__getitem__, reverse=True)


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


def code_files(*rooms: str) -> list[Path]:
    """The modules of these rooms of `ratchet`, and those of its ground floor."""
    home = Path(__file__).parent
    return sorted(
        [*home.glob("*.py"), *(file for room in rooms for file in (home / room).rglob("*.py"))]
    )


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
