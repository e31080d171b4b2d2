"""The commit of a version: beside the branch, made with git's plumbing.

No branch moves, no file is checked out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ratchet.errors import VersionError
from ratchet.git import git, identity
from ratchet.store.pipeline import LOCK, PARAMS, SOURCES, Pipeline

GATE = (
    "reports/gate.json",
    "reports/gate.html",
    "reports/drift.json",
)  # written by steps of the flow
GATE_BYTES = 1_000_000  # of each at most: git keeps them permanently
ALWAYS = (PARAMS, SOURCES, LOCK)


def laid_over(tree: Path, pipeline: Pipeline) -> list[str]:
    """What in `tree` belongs to a version beside its code: locks, params, gate, and what git keeps of the outputs."""
    kept = [output.path for output in pipeline.outputs if not output.cached]
    gate = [
        path
        for path in GATE
        if (tree / path).is_file() and (tree / path).stat().st_size <= GATE_BYTES
    ]
    return [*ALWAYS, *kept, *gate]


def commit(
    tree: Path,
    base: str,
    paths: Sequence[str],
    message: str,
    contents: Mapping[str, str] | None = None,
) -> str:
    """Commit `base` with the files at or below `paths` as they are in `tree`.

    Returns the new commit's id.

    Nothing refers to the commit until a tag does: made twice, or never tagged, it does no harm.

    Args:
        contents: files whose text replaces what is in `tree`.
    """
    contents = contents or {}
    names = [file for path in paths for file in _files(tree, path) if file not in contents]
    oids = git(
        "hash-object",
        "-w",
        "--no-filters",
        "--stdin-paths",
        cwd=tree,
        input="\n".join([*names, ""]),
    ).split()
    for name, text in contents.items():
        names.append(name)
        oids.append(git("hash-object", "-w", "--no-filters", "--stdin", cwd=tree, input=text))
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index"), **author(tree)}
        git("read-tree", base, cwd=tree, env=env)
        git("rm", "-r", "--cached", "--quiet", "--ignore-unmatch", "--", *paths, cwd=tree, env=env)
        entries = "".join(f"100644 {oid}\t{file}\n" for oid, file in zip(oids, names, strict=True))
        git("update-index", "--add", "--index-info", cwd=tree, env=env, input=entries)
        content = git("write-tree", cwd=tree, env=env)
        return git("commit-tree", content, "-p", base, "-F", "-", cwd=tree, env=env, input=message)


def _files(tree: Path, path: str) -> list[str]:
    whole = tree / path
    if whole.is_file():
        return [path]
    if not whole.is_dir():
        raise VersionError(
            f"{whole} is missing; `dvc repro` makes it, or `dvc checkout` brings it back"
        )
    found = sorted(Path(folder) / name for folder, _, names in os.walk(whole) for name in names)
    return [file.relative_to(tree).as_posix() for file in found]


def author(tree: Path) -> dict[str, str]:
    """The variables that tell git who commits."""
    name, address = identity(tree)
    roles = ("AUTHOR", "COMMITTER")
    return {
        f"GIT_{role}_{what}": value
        for role in roles
        for what, value in (("NAME", name), ("EMAIL", address))
    }
