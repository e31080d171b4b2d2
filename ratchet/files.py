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
_PREFIX = ".ratchet-"  # of temporary folders; users' folders never have it


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds, and is deleted otherwise.

    The block creates a file or a folder at the temporary path. Its content is synced to disk before
    it is renamed. If two processes write the same path at once, the later one wins.

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
    """Rename `new` to `path`. An existing folder at `path` moves into `holder` first.

    Raises:
        RatchetError: other processes replaced it again and again.
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
    raise RatchetError(f"other processes replaced {path} {_TRIES} times; run the command again")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path`, which is deleted after the block.

    Temporary folders that killed processes left there are deleted too.

    Raises:
        RatchetError: the disk is full.
    """
    try:
        _sweep(path.parent.resolve())
        with _locked_folder(path) as folder:
            yield folder
    except OSError as error:
        if error.errno not in FULL and "No space left" not in str(error):
            raise
        raise RatchetError(
            f"the disk is full: {path} could not be written; make room, then run it again"
        ) from None


@contextmanager
def _locked_folder(path: Path) -> Iterator[Path]:
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
    raise RatchetError(f"cannot create a temporary folder in {path.parent}; run the command again")


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove leftovers once per process, because some folders have thousands of files."""
    if count := remove_leftovers(folder):
        print(
            f"ratchet: removed {count} temporary folders of killed processes in {folder}",
            file=sys.stderr,
        )


def remove_leftovers(folder: Path) -> int:
    """Delete the temporary folders in `folder` whose process is gone; return their number."""
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
    """The folders in `folder`, newest first, without those that another process is deleting."""
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
    """Serialise `content` with sorted keys, two spaces of indentation and a final newline.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def code_files(*rooms: str) -> list[Path]:
    """The modules in these packages of `ratchet`, and its top-level modules."""
    home = Path(__file__).parent
    modules = list(home.glob("*.py"))
    for room in rooms:
        modules.extend((home / room).rglob("*.py"))
    return sorted(modules)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """Hard-link `source` to `target`, or copy it if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
