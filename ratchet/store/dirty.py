"""Files that differ from a commit, so that a version could not name that commit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ratchet.errors import DirtyCode
from ratchet.git import blobs, files, read
from ratchet.store.pipeline import PIPELINE, within

NAMED = 5  # paths that a message names


def edited(tree: Path, base: str, code: Mapping[str, str]) -> list[str]:
    """Return the paths among `code` and `dvc.yaml` that differ from a commit.

    Args:
        tree: the checkout.
        base: the commit.
        code: the code deps with the MD5 that DVC computes, or computed in a run.
    """
    paths = differing(tree, base, code)
    graph = tree / PIPELINE
    content = graph.read_bytes() if graph.is_file() else None
    if content != read(tree, base, PIPELINE):
        paths.append(PIPELINE)
    return sorted(paths)


def differing(tree: Path, commit: str, inputs: Mapping[str, str]) -> list[str]:
    """Return the paths among `inputs` whose MD5 is not that of their content in a commit."""
    listing = files(tree, commit, ".")
    oids = sorted({oid for path in inputs for oid in _below(path, listing).values()})
    md5s = dict(zip(oids, map(_md5, blobs(tree, oids)), strict=True))
    return sorted(path for path, md5 in inputs.items() if md5 != _dvc_md5(path, listing, md5s))


def refuse_dirty(tree: Path, paths: Sequence[str], base: str) -> None:
    """Raise `DirtyCode` if there are `paths`, which differ in `tree` from commit `base`."""
    if not paths:
        return
    paths = [name for path in paths for name in _differing_files(tree, path, base) or [path]]
    names = ", ".join(paths[:NAMED])
    if len(paths) > NAMED:
        names += f" and {len(paths) - NAMED} more"
    if not any(_differing_files(tree, path, base, _unix) for path in paths):
        raise DirtyCode(
            f"{names}: same as in commit {base[:12]} except for the line endings, which git or an"
            " editor changed; commit or `git stash` other edits, then run"
            " `git config core.autocrlf false && git rm -r --cached --quiet . && git reset --hard`"
            " and this again; if that does not help, remove eol and text from .gitattributes and"
            " .git/info/attributes"
        )
    add = " ".join(paths) if len(paths) <= NAMED else "--all"
    raise DirtyCode(
        f"{names}: differs from commit {base[:12]}, and a version names the commit that it was"
        f" made from; `git add {add} && git commit`, then run this again"
        " (`dvc repro` trains without making a version)"
    )


def _differing_files(
    tree: Path, path: str, base: str, normalised: Callable[[bytes], bytes] = bytes
) -> list[str]:
    """Return the files at or below `path` whose normalised content differs from commit `base`."""
    committed, present = files(tree, base, path), _present(tree, path)
    contents = dict(zip(committed, blobs(tree, list(committed.values())), strict=True))
    changed = committed.keys() ^ present
    for name in committed.keys() & present:
        if normalised((tree / name).read_bytes()) != normalised(contents[name]):
            changed.add(name)
    return sorted(changed)


def _present(tree: Path, path: str) -> set[str]:
    """Return the files at or below `path` in `tree`, without Python's bytecode."""
    paths = [tree / path] if (tree / path).is_file() else (tree / path).rglob("*")
    names = {file.relative_to(tree).as_posix() for file in paths if file.is_file()}
    return {name for name in names if "__pycache__" not in name}


def _unix(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def _below(path: str, listing: Mapping[str, str]) -> dict[str, str]:
    """Return the files of a listing at or below `path`."""
    return {name: oid for name, oid in listing.items() if within(name, path)}


def _dvc_md5(path: str, listing: Mapping[str, str], md5s: Mapping[str, str]) -> str | None:
    """Return the MD5 that DVC computes for a file or folder of a commit; None if it is missing."""
    if path in listing:
        return md5s[listing[path]]
    below = _below(path, listing)
    if not below:
        return None
    entries = [
        {"md5": md5s[oid], "relpath": name.removeprefix(f"{path}/")}
        for name, oid in sorted(below.items())
    ]
    return _md5(json.dumps(entries, sort_keys=True).encode()) + ".dir"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
