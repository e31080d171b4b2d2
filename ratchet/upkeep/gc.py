"""Delete garbage: objects in DVC's cache that no version, no branch and no running stage needs.

A version keeps its objects until `ratchet expire`. On the remote only objects of expired versions
are deleted, because other clones may have pushed the rest. An object younger than `GRACE_S` is
kept: a stage may have written it that has not written `dvc.lock` yet.
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
    """The objects that can be deleted, or were."""

    objects: list[str]  # paths in the cache
    bytes: int  # of those
    on_remote: list[str]  # MD5
    kept: int  # objects in the cache that stay, the young ones included
    young: int  # unneeded objects that are younger than the grace period
    grace_s: float  # that period


def collect(
    tree: Path, apply: bool = False, on_remote: bool = False, grace_s: float = GRACE_S
) -> Garbage:
    """Find the garbage; with `apply`, delete it.

    Raises:
        CorruptData, ObjectsMissing, VersionError: the needs of a version or a branch cannot be
        read; nothing was deleted.
        Unreachable: the remote does not respond; nothing was deleted.
    """
    publication.sync(tree, params.load(tree).register.push_to)
    if not apply:
        return _collected(tree, False, on_remote, grace_s)
    with locked(tree, name=OBJECTS):  # no registration and no other collection is under way
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
    kept = sum(1 for _ in _objects(cache)) - len(garbage)
    if apply:
        # a run may have come back to old objects meanwhile
        needed = _needed(tree, cache, there=False)
        garbage = [
            file for file in garbage if _md5(file) not in needed and _is_older(file, youngest)
        ]
        # a folder's listing goes first, so that the next collection finds the rest if this one is
        # interrupted
        for file in sorted(garbage, key=lambda file: not file.name.endswith(".dir")):
            file.unlink(missing_ok=True)
    return Garbage(
        [str(file) for file in garbage], size, gone, kept, len(unneeded) - len(garbage), grace_s
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
    """Every object that a version, a branch, a worktree's `dvc.lock` names.

    Args:
        there: on the remote too; a folder whose listing is not here may share files with one that
            expired.
    """
    needed: set[str] = set()
    for held, promised in _pipelines(tree):
        for output in held.outputs:
            if output.cached:
                if there and promised and output.is_folder and output.pushed:
                    remote.pull_listing(tree, output)
                needed |= _of(cache, output)
                if (
                    output.is_folder
                    and output.pushed
                    and not cache.has(output.md5)
                    and not config.has_remote(tree)
                ):
                    raise ObjectsMissing(
                        f"the listing of {output.path} ({output.md5}) is missing, so its files"
                        " cannot be told from garbage and nothing was deleted; `ratchet verify"
                        " --all` names the version that it belongs to"
                    )
    return needed


def _pipelines(tree: Path) -> Iterator[tuple[Pipeline, bool]]:
    """What is in use, and whether it is a version's: then the remote holds it.

    Worktrees come first: a run that ends meanwhile is found as a version then.
    """
    for place in worktrees(tree):
        try:
            found = (
                pipeline.of_tree(place, complete=False)
                if (place / pipeline.LOCK).is_file()
                else None
            )
        except (FileNotFoundError, VersionError):
            if place.exists():
                raise
            continue  # a run's tree that was removed just now
        if found:
            yield found, False
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
    found: set[str] = set()
    for version in Registry(tree).versions():
        if version.expired:
            for output in pipeline.of_commit(tree, version.commit).outputs:
                if output.pushed:
                    found |= _of(cache, output)
    return found


def _of(cache: Cache, output: Output) -> set[str]:
    """The objects of an output, as far as its listing is here.

    Read without trust, for deleting only what is not named.
    """
    found = {output.md5}
    if output.is_folder and cache.has(output.md5):
        try:
            found |= {
                str(entry["md5"]) for entry in json.loads(cache.path(output.md5).read_bytes())
            }
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptData(
                f"{cache.path(output.md5)} is not a listing of {output.path}; run `ratchet verify"
                " --all`"
            ) from error
    return found


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
