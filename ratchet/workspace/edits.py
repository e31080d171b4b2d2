"""What in a checkout would be lost if it was replaced: content that is in no commit and no cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ratchet.git import git, git_bytes
from ratchet.store import pipeline, remote
from ratchet.store.cache import Cache, digest
from ratchet.store.pipeline import Output
from ratchet.workspace.branch import Changes


def files(tree: Path, changes: Changes, commits: Sequence[str], exempt: Iterable[str]) -> set[str]:
    """Files that the changes would replace, and whose content no commit has at the same path.

    Args:
        commits: where to look, the likeliest first.
        exempt: files that may be lost.
    """
    replaced = dict.fromkeys(set(changes) - set(exempt))
    paths = [path for path in replaced if (tree / path).is_symlink() or (tree / path).is_file()]
    contents = _on_disk(tree, paths) | _staged(tree, replaced)
    for commit in commits:
        if not contents:
            break
        paths = sorted({path for path, _oid in contents})
        names = "".join(f"{commit}:{path}\n" for path in paths)
        oids = git("cat-file", "--batch-check=%(objectname)", cwd=tree, input=names).split("\n")
        contents -= set(zip(paths, oids, strict=True))
    return {path for path, _oid in contents} | set(_in_the_way(tree, changes))


def untracked(tree: Path, folders: Iterable[str], known: Iterable[str]) -> set[str]:
    """Files below `folders` that git neither tracks nor ignores, those that are `known` excepted."""
    below = sorted(folders)
    if not below:
        return set()
    command = ("ls-files", "--others", "--exclude-standard", "-z", "--", *below)
    return set(_entries(git_bytes(*command, cwd=tree))) - set(known)


def outputs(tree: Path, wanted: Iterable[Output], stale: Mapping[str, Sequence[Any]]) -> set[str]:
    """Files at the place of outputs that DVC's cache lacks; what is never pushed can be rebuilt.

    Args:
        stale: what `dvc status` reports here, by stage: an output that it does not name is as
            dvc.lock has it and in the cache.
    """
    entries = [entry for stage in stale.values() for entry in stage if isinstance(entry, dict)]
    changed = {path for entry in entries for path in entry.get("changed outs", {})}
    as_locked: set[str] = set()
    if (tree / pipeline.LOCK).is_file():
        as_locked = {
            output.path for output in pipeline.of_tree(tree, complete=False).outputs
        } - changed
    cache = Cache(tree)
    lost = set()
    for output in wanted:
        if not output.pushed or output.path in as_locked:
            continue
        for path in present(tree, [output.path]):
            half_written = remote.TEMPORARY.fullmatch(PurePosixPath(path).name)
            if not half_written and not cache.has(digest(tree / path, "md5")):
                lost.add(path)
    return lost


def present(tree: Path, roots: Iterable[str]) -> list[str]:
    """The files in the checkout at or below `roots`."""
    names = []
    for root in roots:
        paths = (tree / root).rglob("*") if (tree / root).is_dir() else [tree / root]
        names += [path.relative_to(tree) for path in paths if path.is_symlink() or path.is_file()]
    return sorted(name.as_posix() for name in names if "__pycache__" not in name.parts)


def _on_disk(tree: Path, paths: Iterable[str]) -> set[tuple[str, str]]:
    """Each path with the object id that git would give to the file as it is."""
    links = [path for path in paths if (tree / path).is_symlink()]
    regular = sorted(set(paths) - set(links))
    names = "".join(f"{path}\n" for path in regular)
    oids = git("hash-object", "--no-filters", "--stdin-paths", cwd=tree, input=names).split()
    contents = set(zip(regular, oids, strict=True))
    for path in links:
        target = str((tree / path).readlink())
        contents.add((path, git("hash-object", "--no-filters", "--stdin", cwd=tree, input=target)))
    return contents


def _staged(tree: Path, changes: Changes) -> set[tuple[str, str]]:
    """Each path that the index has, with its object id."""
    contents = set()
    for entry in _entries(git_bytes("ls-files", "--stage", "-z", cwd=tree)):
        about, path = entry.split("\t", 1)
        if path in changes:
            contents.add((path, about.split()[1]))
    return contents


def _in_the_way(tree: Path, changes: Changes) -> Iterator[str]:
    """Files where a folder has to be, and files in a folder where a file has to be."""
    for path, blob in changes.items():
        if blob is None:
            continue
        if (tree / path).is_dir() and not (tree / path).is_symlink():
            yield from (file for file in present(tree, [path]) if file not in changes)
        for parent in map(str, PurePosixPath(path).parents):
            if (tree / parent).is_file() and parent not in changes:
                yield parent


def _entries(listing: bytes) -> list[str]:
    return [entry for entry in os.fsdecode(listing).split("\0") if entry]
