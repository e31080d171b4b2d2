"""A version in a git worktree of its own: code, params, locks, data and model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ratchet import process, repository
from ratchet.errors import ObjectsMissing
from ratchet.git import read
from ratchet.registry.records import Version
from ratchet.repository import home
from ratchet.store import config, pipeline, remote, working_tree


def lay_out(tree: Path, version: Version, into: Path) -> list[str]:
    """Check a version out into the new folder `into`, sharing the cache of `tree`.

    Every object is hashed first.

    Returns:
        The outputs that are never pushed and no longer in the cache. They have to be made again.

    Raises:
        ObjectsMissing, CorruptData, Unreachable: its objects are unavailable or damaged. `into` is
            removed again.
    """
    fetch(tree, version.commit)
    into.parent.mkdir(parents=True, exist_ok=True)
    repository.add_worktree(tree, into, version.commit)
    try:
        config.share(tree, into)
        return working_tree.check_out(into, check=True)
    except BaseException:
        repository.remove_worktree(tree, into)
        raise


def fetch(tree: Path, commit: str) -> None:
    """Pull every object of a commit that the cache lacks.

    Missing outputs that are never pushed are skipped.

    Raises:
        ObjectsMissing, CorruptData, Unreachable: an object is unavailable or damaged.
    """
    for output in pipeline.of_commit(tree, commit).outputs:
        try:
            if output.cached:
                remote.pull(tree, output)
        except ObjectsMissing:
            if output.pushed:
                raise


def rerun(tree: Path) -> None:
    """Run every stage again, without the results of other runs.

    Those are `.memo`, `.checkpoints` and DVC's run cache.

    Args:
        tree: the worktree of the version.

    Raises:
        ObjectsMissing: a stage fails, or makes other outputs than the version's.
    """
    repro(tree, "--force", "--no-run-cache", variables={repository.ALONE: "1"})


def repro(tree: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
    """Run `dvc repro` in the worktree of a version.

    Args:
        tree: the worktree.
        *arguments: arguments of `dvc repro`.
        variables: environment variables.

    Raises:
        ObjectsMissing: a stage fails, or makes other outputs than the version's.
    """
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(home(tree) / ".dvc" / "tmp" / "site"))
    lines: list[str] = []
    code, _ = process.run(["-m", "dvc", "repro", *arguments], tree, lines.append, variables)
    if code:
        reason = " ".join(" ".join(lines).split()[-30:])
        raise ObjectsMissing(f"`dvc repro` of the version failed in {tree.resolve()}: {reason}")
    if (tree / pipeline.LOCK).read_bytes() != read(tree, "HEAD", pipeline.LOCK):
        raise ObjectsMissing(
            f"`dvc repro` of the version in {tree.resolve()} made other outputs than those in its"
            " dvc.lock; on another kind of machine, results can differ in their last bits"
        )
