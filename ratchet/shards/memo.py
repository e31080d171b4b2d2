"""Reuse results for the same bytes, params and code from `.memo/`, outside DVC's outputs.

An entry is a folder named by its key. It holds the files and their SHA-256, which is checked before
each use. An entry that does not match is computed again. Runs share the entries, and no entry is
deleted while a run uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptData
from ratchet.files import (
    beside,
    code_files,
    newest_first,
    remove_leftovers,
    replace,
    sha256,
    to_json,
)
from ratchet.shards.progress import progress

MANIFEST = "manifest.json"
ROOMS = ("dataset", "preparation", "shards", "sources", "validation")
LIBRARIES = ("numpy", "pandera", "pillow", "polars", "pyarrow")


@dataclass(frozen=True)
class Job:
    """A call of a pure function: `work(*arguments, folder)` fills a new folder."""

    work: Callable[..., None]
    arguments: tuple[Any, ...]
    inputs: Any  # identifies the inputs by their content; must be JSON

    @property
    def key(self) -> str:
        """A hash of the function, its inputs, the code and the libraries."""
        content = to_json([self.work.__module__, self.work.__qualname__, self.inputs, _code()])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@cache
def _code() -> list[str]:
    """Hashes of the code that writes entries, and versions of the libraries that encode them."""
    return [
        *map(sha256, code_files(*ROOMS)),
        *(importlib.metadata.version(name) for name in LIBRARIES),
    ]


@contextlib.contextmanager
def entries(area: Path, limit: int) -> Iterator[Path]:
    """Open the folder of a stage's entries for the block.

    Afterwards, the least recently used entries are deleted until the rest take at most `limit`
    bytes, unless another run is using the folder at that moment.
    """
    area.mkdir(parents=True, exist_ok=True)
    with area.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield area
        fcntl.flock(lock, fcntl.LOCK_UN)
        with contextlib.suppress(OSError):  # another run uses them, or a file cannot be deleted
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _prune(area, limit)


def folders(jobs: Sequence[Job], memo: Path, executor: Executor, name: str) -> Iterator[Path]:
    """Run the jobs that `memo` has no entry for on `executor`, and show progress as `name`.

    Yields one folder per job, in order.

    Raises:
        CorruptData: a worker process died.
        Exception: whatever a job raised. The waiting jobs are cancelled then.
    """
    running: dict[str, Future[None]] = {}
    for job in jobs:
        entry = memo / job.key
        if job.key not in running and not _is_complete(entry):
            running[job.key] = executor.submit(_make, job, entry)
    try:
        for done in progress(as_completed(running.values()), len(running), name):
            done.result()
    except BrokenExecutor:
        raise CorruptData(
            f"a worker of {name} died: out of memory, killed, or on a file that breaks its reader"
        ) from None
    except BaseException:
        for future in running.values():
            future.cancel()
        raise
    yield from (memo / job.key for job in jobs)


def _make(job: Job, entry: Path) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    with beside(entry) as holder:
        folder = holder / job.key
        folder.mkdir()
        job.work(*job.arguments, folder)
        manifest = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(to_json(manifest))
        try:
            folder.rename(entry)
        except OSError:
            # A complete entry comes from a faster run, which may be reading it: leave it alone.
            if not _is_complete(entry):
                replace(folder, entry, holder)


def _is_complete(entry: Path) -> bool:
    """Whether the files of an entry match its manifest. If so, the entry counts as just used."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
        complete = all(sha256(entry / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError):
        return False
    if complete:
        os.utime(entry)
    return complete


def _prune(area: Path, limit: int) -> None:
    """Delete the least recently used entries beyond `limit` bytes."""
    remove_leftovers(area)
    total = 0
    for entry in newest_first(area):
        total += sum(file.stat().st_size for file in entry.iterdir())
        if total > limit:
            shutil.rmtree(entry, ignore_errors=True)
