"""Locks on files, which the kernel releases when their process ends; repair of DVC's locks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ratchet.errors import Busy

RUN = ".dvc/tmp/ratchet-run.lock"  # held by a run that works in a checkout
STAGE = ".dvc/tmp/ratchet-stage.lock"  # held by a stage, in a flow or under `dvc repro`
WAIT_S = 0.3  # processes that look for leftovers of killed runs hold a lock only briefly


@contextlib.contextmanager
def locked(file: Path, what: str, wait_s: float = WAIT_S, create: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `file`.

    The kernel releases the lock when this process ends, also when it is killed.

    Args:
        file: the lock file; while the lock is held, it contains the holder's process id.
        what: the locked thing, for the message of `Busy`.
        wait_s: seconds to wait if another process holds the lock.
        create: create the file if it is missing.

    Raises:
        Busy: another process holds the lock; the message names that process.
        FileNotFoundError: `file` is missing and `create` is False.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        handle = stack.enter_context(_opened_and_locked(file, what, wait_s, create))
        while not _is_at(handle, file):  # its last holder deleted it meanwhile
            stack.close()
            handle = stack.enter_context(_opened_and_locked(file, what, wait_s, create))
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextlib.contextmanager
def _opened_and_locked(file: Path, what: str, wait_s: float, create: bool) -> Iterator[TextIO]:
    with file.open("a+" if create else "r+", encoding="utf-8") as handle:
        if not _locks(handle, wait_s):
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise Busy(
                f"{what} is busy: process {holder} works in it; wait for it to end, then run this"
                " again"
            ) from None
        yield handle


def _locks(handle: TextIO, wait_s: float) -> bool:
    """Lock the file; return False if another process still holds it after `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)


def _is_at(handle: TextIO, file: Path) -> bool:
    """Is `handle` the file that has this path now?"""
    try:
        return file.stat().st_ino == os.fstat(handle.fileno()).st_ino
    except FileNotFoundError:
        return False


def heal_rwlock(tree: Path) -> None:
    """Remove DVC's list of readers and writers if a kill truncated it.

    DVC writes that file in place, and no DVC command works while it is truncated.
    """
    file = tree / ".dvc/tmp/rwlock"
    for wait_s in (0.2, 0.0):  # a live writer will have finished by then
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError:
            time.sleep(wait_s)
        else:
            return
    file.unlink(missing_ok=True)
