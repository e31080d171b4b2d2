"""A version laid out in a git worktree of its own: code, params, locks, data and model."""

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
    """Lay `version` out in the new folder `into`, sharing the cache of `tree`.

    Every object is hashed first.

    Returns:
        The outputs that are never pushed and no longer in the cache: they have to be made again.

    Raises:
        ObjectsMissing, CorruptData, Unreachable: its objects can't be had whole; there is no
            `into`.
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
    """Have every object of a commit in the cache, but for outputs that are never pushed where they are gone."""
    for output in pipeline.of_commit(tree, commit).outputs:
        try:
            if output.cached:
                remote.pull(tree, output)
        except ObjectsMissing:
            if output.pushed:
                raise


def rerun(laid_out: Path) -> None:
    """Run every stage there again, without results of other runs (`.memo`, `.checkpoints`, DVC's run cache).

    Raises:
        ObjectsMissing: as `repro`.
    """
    repro(laid_out, "--force", "--no-run-cache", variables={repository.ALONE: "1"})


def repro(laid_out: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
    """Run `dvc repro` with these arguments there.

    Raises:
        ObjectsMissing: it fails, or makes other outputs than those of the version.
    """
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(home(laid_out) / ".dvc" / "tmp" / "site"))
    lines: list[str] = []
    code, _ = process.run(["-m", "dvc", "repro", *arguments], laid_out, lines.append, variables)
    if code:
        reason = " ".join(" ".join(lines).split()[-30:])
        raise ObjectsMissing(f"`dvc repro` of the version failed in {laid_out.resolve()}: {reason}")
    if (laid_out / pipeline.LOCK).read_bytes() != read(laid_out, "HEAD", pipeline.LOCK):
        raise ObjectsMissing(
            f"`dvc repro` of the version in {laid_out.resolve()} made other outputs than its"
            " dvc.lock names; on another kind of machine results can differ in their last bits"
        )
