"""A version laid out in a git worktree of its own: code, params, locks, data and model."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tasks.errors import ObjectsMissing, VersionError
from tasks.versions import pipeline, remote
from tasks.versions.git import git, read
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
    # forced twice: a worktree whose making was killed stays registered and locked
    force = ("--force", "--force")
    git("worktree", "add", *force, "--quiet", "--detach", "--", str(into.resolve()), version.commit, cwd=tree)
    try:
        remote.share(tree, into)
        return remote.checkout(into, check=True)
    except BaseException:
        drop(tree, into)
        raise


def drop(tree: Path, into: Path) -> None:
    """Remove a folder that `lay_out` made, or had begun to make when it was killed."""
    with contextlib.suppress(VersionError):
        git("worktree", "unlock", str(into.resolve()), cwd=tree)
    if into.exists():
        shutil.rmtree(into)
    git("worktree", "prune", cwd=tree)


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
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    environment["DVC_SITE_CACHE_DIR"] = str(laid_out.resolve() / ".dvc" / "tmp" / "site")
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", *arguments]
    done = subprocess.run(command, cwd=laid_out, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()[-30:])
        raise ObjectsMissing(f"`dvc repro` of the version failed: {said}")
    if (laid_out / pipeline.LOCK).read_bytes() != read(laid_out, "HEAD", pipeline.LOCK):
        raise ObjectsMissing("`dvc repro` of the version gave other outputs than its dvc.lock names")
