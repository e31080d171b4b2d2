"""Lock files that a killed git process left behind, which block other git commands."""

from __future__ import annotations

import re
import time
from pathlib import Path

_REFUSED = re.compile(r"Unable to create '([^']+\.lock)': File exists")
_MIN_AGE_S = 1.5  # git itself waits 2 s for a lock of references before it fails


def blocking(stderr: str) -> Path | None:
    """Return the lock file that git names as the reason of its failure, if it does."""
    match = _REFUSED.search(stderr)
    return Path(match[1]) if match else None


def remove_abandoned(lock: Path, git_dir: Path) -> bool:
    """Delete a lock file below `git_dir` if the git process that created it has ended.

    Git holds its locks for milliseconds. An older lock file is abandoned if all git processes on
    this machine started after it was created.

    Returns:
        Whether the lock file is deleted.
    """
    try:
        created = lock.stat().st_mtime
    except FileNotFoundError:
        return True
    if not lock.resolve().is_relative_to(git_dir.resolve()) or time.time() - created < _MIN_AGE_S:
        return False
    if _is_git_as_old_as(created):
        return False
    lock.unlink(missing_ok=True)
    return True


def _is_git_as_old_as(created: float) -> bool:
    """Is a git process running that started before `created` (Unix time)?"""
    import psutil

    for process in psutil.process_iter(["name", "create_time", "cmdline"]):
        info = process.info
        command = " ".join(info["cmdline"] or ())
        is_git = str(info["name"]).startswith("git") and "daemon" not in command
        if is_git and (info["create_time"] or 0.0) <= created + 1:
            return True
    return False
