"""Lock files that a killed git left behind: until one is deleted, no git command can change what it locks."""

from __future__ import annotations

import re
import time
from pathlib import Path

_REFUSED = re.compile(r"Unable to create '([^']+\.lock)': File exists")
_MIN_AGE_S = 1.5  # git itself has waited 2 s for a lock of references by now


def blocking(stderr: str) -> Path | None:
    """The lock file because of which git failed, if that is what it says."""
    match = _REFUSED.search(stderr)
    return Path(match[1]) if match else None


def remove_abandoned(lock: Path, git_dir: Path) -> bool:
    """Delete a lock file below `git_dir` if the git process that made it has ended.

    Return whether it is gone.

    Git holds its locks for milliseconds. One that is older, when no git process of its age is
    running on this machine, belongs to none.
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
        about = process.info
        is_git = str(about["name"]).startswith("git") and "daemon" not in " ".join(
            about["cmdline"] or ()
        )
        if is_git and (about["create_time"] or 0.0) <= created + 1:
            return True
    return False
