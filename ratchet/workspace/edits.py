"""What would be lost if a checkout were replaced: content that is in no commit and no cache."""

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
    """The files that the changes would replace, whose content no commit has at the same path.

    Args:
        tree: the checkout.
        changes: what would change.
        commits: where to look for the content, the likeliest first.
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


def untracked(tree: Path, folders: Iterable[str], exempt: Iterable[str]) -> set[str]:
    """The files below `folders` that git neither tracks nor ignores, except `exempt`."""
    roots = sorted(folders)
    if not roots:
        return set()
    command = ("ls-files", "--others", "--exclude-standard", "-z", "--", *roots)
    return set(_entries(git_bytes(*command, cwd=tree))) - set(exempt)


def outputs(tree: Path, new: Iterable[Output], stale: Mapping[str, Sequence[Any]]) -> set[str]:
    """The files at the paths of outputs whose content DVC's cache lacks.

    Outputs that are never pushed do not count, because their stage makes them again.

    Args:
        tree: the checkout.
        new: the outputs that would replace them.
        stale: what `dvc status` reports here, by stage. An output that it does not name is as in
            dvc.lock, and in the cache.
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
    for output in new:
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
    """Each path, with the object id that git would give to the file."""
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
    """Each changed path that is in the index, with its object id there."""
    contents = set()
    for entry in _entries(git_bytes("ls-files", "--stage", "-z", cwd=tree)):
        fields, path = entry.split("\t", 1)
        if path in changes:
            _mode, oid, _stage = fields.split()
            contents.add((path, oid))
    return contents


def _in_the_way(tree: Path, changes: Changes) -> Iterator[str]:
    """Files at the path of a new folder, and files in a folder at the path of a new file."""
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
