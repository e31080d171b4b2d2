"""A version as it was: code, params, locks, data and model in a worktree of its own, where `dvc repro` has nothing to do."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ObjectsMissing, VersionError
from tasks.versions import pipeline, remote
from tasks.versions.git import common_dir, git
from tasks.versions.registry import Registry


@dataclass(frozen=True)
class CheckedOut:
    """Where a version lies now, and which outputs have to be made again (those that are never pushed)."""

    version: str
    into: str
    to_make: list[str]


def checkout(tree: Path, name: str, into: Path) -> CheckedOut:
    """Lay a version out in the new folder `into`, sharing the cache of this checkout; every object is hashed first.

    Raises:
        VersionError: there is no such version, or something lies at `into` already.
        ObjectsMissing, CorruptData, Unreachable: its objects can't be had whole; `into` is gone again.
    """
    version = Registry(tree).find(name)
    if into.exists():
        raise VersionError(f"{into} is there already; name a new folder, or remove it: `git worktree remove {into}`")
    lacking = fetch(tree, version.commit)
    git("worktree", "add", "--quiet", "--detach", "--", str(into.resolve()), version.commit, cwd=tree)
    try:
        local = common_dir(tree).parent / ".dvc" / "config.local"
        if local.exists():
            shutil.copy2(local, into / ".dvc" / "config.local")
        remote.use_cache(into, remote.Cache(tree).root)
        remote.checkout(into, check=True)
    except BaseException:
        git("worktree", "remove", "--force", str(into.resolve()), cwd=tree)
        raise
    return CheckedOut(version.name, str(into), lacking)


def fetch(tree: Path, commit: str) -> list[str]:
    """Have every object of a commit in the cache; returns the outputs that can't be had and are never pushed."""
    lacking = []
    for output in pipeline.of_commit(tree, commit).outputs:
        if not output.cached:
            continue
        try:
            remote.pull(tree, output)
        except ObjectsMissing:
            if output.pushed:
                raise
            lacking.append(output.path)
    return lacking
