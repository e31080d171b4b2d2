"""Delete garbage: objects in DVC's cache that no version, no branch and no running stage needs.

A version keeps its objects until `ratchet expire`. On the remote, only objects of expired versions
are deleted, because other clones may have pushed the rest. Objects younger than `GRACE_S` are kept,
because they may belong to a stage that has not written `dvc.lock` yet. Params: `register`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ratchet import params
from ratchet.errors import CorruptData, ObjectsMissing, VersionError
from ratchet.git import git
from ratchet.registry import publication
from ratchet.registry.versions import Registry
from ratchet.repository import OBJECTS, locked, worktrees
from ratchet.store import config, pipeline, remote
from ratchet.store.cache import Cache
from ratchet.store.pipeline import Output, Pipeline

GRACE_S = 3600.0


@dataclass(frozen=True)
class Garbage:
    """The objects that can be deleted, or were deleted."""

    objects: list[str]  # paths in the cache
    bytes: int  # their size
    on_remote: list[str]  # MD5
    kept: int  # objects that stay in the cache, young ones included
    young: int  # unneeded objects that are younger than the grace period
    grace_s: float  # the grace period, in seconds


def collect(
    tree: Path, apply: bool = False, on_remote: bool = False, grace_s: float = GRACE_S
) -> Garbage:
    """Find the garbage; with `apply`, delete it.

    Raises:
        CorruptData, ObjectsMissing, VersionError: Ratchet cannot read what a version or a branch
            needs. Nothing was deleted.
        Unreachable: the remote does not respond. Nothing was deleted.
    """
    publication.sync(tree, params.load(tree).register.push_to)
    if not apply:
        return _collected(tree, False, on_remote, grace_s)
    with locked(tree, name=OBJECTS):  # keeps out registrations and other collections
        return _collected(tree, True, on_remote, grace_s)


def _collected(tree: Path, apply: bool, on_remote: bool, grace_s: float) -> Garbage:
    cache = Cache(tree)
    there = on_remote and config.has_remote(tree)
    needed = _needed(tree, cache, there)
    youngest = time.time() - grace_s
    unneeded = [file for file in _objects(cache) if _md5(file) not in needed]
    garbage = [file for file in unneeded if _is_older(file, youngest)]
    gone = _delete_expired(tree, cache, needed, apply) if there else []
    size = sum(file.stat().st_size for file in garbage if file.exists())
    remaining = sum(1 for _ in _objects(cache)) - len(garbage)
    if apply:
        # a run may have started to use old objects meanwhile
        needed = _needed(tree, cache, there=False)
        garbage = [
            file for file in garbage if _md5(file) not in needed and _is_older(file, youngest)
        ]
        # delete listings of folders first: if this is interrupted, the next collection finds the
        # rest
        for file in sorted(garbage, key=lambda file: not file.name.endswith(".dir")):
            file.unlink(missing_ok=True)
    return Garbage(
        [str(file) for file in garbage],
        size,
        gone,
        remaining,
        len(unneeded) - len(garbage),
        grace_s,
    )


def _delete_expired(tree: Path, cache: Cache, needed: set[str], apply: bool) -> list[str]:
    """The objects of expired versions that the remote has and nothing needs.

    With `apply`, they are deleted.
    """
    gone = sorted(_expired(tree, cache) - needed)
    if gone:
        with remote.opened(tree) as repo:
            gone = sorted(set(gone) - remote.missing(repo, gone))
            if apply:
                remote.delete(repo, gone)
    return gone


def _is_older(file: Path, youngest: float) -> bool:
    try:
        return file.stat().st_mtime < youngest
    except FileNotFoundError:  # another process removed it
        return False


def _needed(tree: Path, cache: Cache, there: bool) -> set[str]:
    """Every object that a version, a branch or the `dvc.lock` of a worktree names.

    Args:
        tree: the checkout.
        cache: its cache.
        there: pull missing listings of versions first. On the remote, such a folder may share files
            with one of an expired version.
    """
    needed: set[str] = set()
    for contents, is_version in _pipelines(tree):
        for output in contents.outputs:
            if not output.cached:
                continue
            has_listing = output.is_folder and output.pushed
            if there and is_version and has_listing:
                remote.pull_listing(tree, output)
            needed |= _of(cache, output)
            if has_listing and not cache.has(output.md5) and not config.has_remote(tree):
                raise ObjectsMissing(
                    f"the listing of {output.path} ({output.md5}) is missing, so its files cannot"
                    " be told from garbage and nothing was deleted; to find the version that it"
                    " belongs to, run `ratchet verify --all`"
                )
    return needed


def _pipelines(tree: Path) -> Iterator[tuple[Pipeline, bool]]:
    """The pipelines in use, each with whether it is that of a version.

    Worktrees come first: if a run ends meanwhile, its version is still found after them.
    """
    for worktree in worktrees(tree):
        if not (worktree / pipeline.LOCK).is_file():
            continue
        try:
            contents = pipeline.of_tree(worktree, complete=False)
        except (FileNotFoundError, VersionError):
            if worktree.exists():
                raise
            continue  # a run's tree that was just removed
        yield contents, False
    seen: set[str | None] = set()
    commits = [version.commit for version in Registry(tree).versions() if not version.expired]
    refs = git(
        "for-each-ref",
        "--format=%(objectname)",
        "refs/heads",
        "refs/remotes",
        "refs/stash",
        cwd=tree,
    ).split()
    for commit in dict.fromkeys([*commits, *refs]):
        lock = git("ls-tree", commit, "--", pipeline.LOCK, pipeline.PIPELINE, cwd=tree)
        if pipeline.LOCK in lock and lock not in seen:
            seen.add(lock)
            yield pipeline.of_commit(tree, commit, complete=commit in commits), commit in commits


def _expired(tree: Path, cache: Cache) -> set[str]:
    """The pushed objects of expired versions."""
    objects: set[str] = set()
    for version in Registry(tree).versions():
        if version.expired:
            for output in pipeline.of_commit(tree, version.commit).outputs:
                if output.pushed:
                    objects |= _of(cache, output)
    return objects


def _of(cache: Cache, output: Output) -> set[str]:
    """The objects of an output, with the files of a folder if its listing is in the cache.

    The listing is not hashed: a wrong entry only keeps an object that could be deleted.
    """
    objects = {output.md5}
    if output.is_folder and cache.has(output.md5):
        file = cache.path(output.md5)
        try:
            objects |= {str(entry["md5"]) for entry in json.loads(file.read_bytes())}
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptData(
                f"{file} is not a listing of {output.path}; for details, run `ratchet verify --all`"
            ) from error
    return objects


def _objects(cache: Cache) -> Iterable[Path]:
    root = cache.root / "files" / "md5"
    return (
        file
        for folder in sorted(root.glob("??"))
        for file in sorted(folder.iterdir())
        if len(_md5(file)) >= 32
    )


def _md5(file: Path) -> str:
    return file.parent.name + file.name
