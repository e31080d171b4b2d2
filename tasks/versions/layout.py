"""A version laid out in a git worktree of its own: code, params, locks, data and model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tasks.errors import ObjectsMissing
from tasks.process import inherited_environment
from tasks.versions import pipeline, remote, repository
from tasks.versions.git import read
from tasks.versions.registry import Version


def lay_out(tree: Path, version: Version, into: Path) -> list[str]:
    """Lay `version` out in the new folder `into`, sharing the cache of `tree`; every object is hashed first.

    Returns:
        The outputs that are never pushed and no longer in the cache: they have to be made again.

    Raises:
        ObjectsMissing, CorruptData, Unreachable: its objects can't be had whole; there is no `into`.
    """
    fetch(tree, version.commit)
    into.parent.mkdir(parents=True, exist_ok=True)
    repository.add_worktree(tree, into, version.commit)
    try:
        remote.share(tree, into)
        return remote.checkout(into, check=True)
    except BaseException:
        repository.remove_worktree(tree, into)
        raise


def fetch(tree: Path, commit: str) -> None:
    """Have every object of a commit in the cache, but for outputs that are never pushed where they are gone."""
    for output in pipeline.of_commit(tree, commit).outputs:
        try:
            if output.cached:
                remote.pull(tree, output)
        except ObjectsMissing:
            if output.pushed:
                raise


def repro(laid_out: Path, *arguments: str) -> None:
    """Run `dvc repro` there; raises `ObjectsMissing` if it fails or gives other outputs than the version's."""
    environment = inherited_environment()
    path = (str(Path(sys.executable).parent), environment.get("PATH", os.defpath))
    environment["PATH"] = os.pathsep.join(path)
    environment["DVC_SITE_CACHE_DIR"] = str(laid_out.resolve() / ".dvc" / "tmp" / "site")
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", *arguments]
    done = subprocess.run(command, cwd=laid_out, env=environment, capture_output=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split()[-30:])
        raise ObjectsMissing(f"`dvc repro` of the version failed: {reason}")
    if (laid_out / pipeline.LOCK).read_bytes() != read(laid_out, "HEAD", pipeline.LOCK):
        raise ObjectsMissing("`dvc repro` of the version gave other outputs than its dvc.lock names")
