"""The commit of a version: it is on no branch, and making it checks out no file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ratchet.errors import VersionError
from ratchet.git import git, identity
from ratchet.store.pipeline import LOCK, PARAMS, SOURCES, Pipeline

# written by steps of the flow
GATE = ("reports/gate.json", "reports/gate.html", "reports/drift.json")
GATE_BYTES = 1_000_000  # a larger one is left out, because git keeps it permanently
ALWAYS = (PARAMS, SOURCES, LOCK)


def laid_over(tree: Path, pipeline: Pipeline) -> list[str]:
    """The paths in `tree` that a version's commit takes beside its code.

    They are the locks, the params, the gate's reports and the outputs that git keeps.
    """
    in_git = [output.path for output in pipeline.outputs if not output.cached]
    gate = [
        path
        for path in GATE
        if (tree / path).is_file() and (tree / path).stat().st_size <= GATE_BYTES
    ]
    return [*ALWAYS, *in_git, *gate]


def commit(
    tree: Path,
    base: str,
    paths: Sequence[str],
    message: str,
    contents: Mapping[str, str] | None = None,
) -> str:
    """Commit `base` with the files at or below `paths` as they are in `tree`.

    Nothing refers to the commit until it is tagged, so making it twice does no harm.

    Args:
        tree: the checkout.
        base: the parent commit.
        paths: files and folders, relative to `tree`.
        message: the commit message.
        contents: text by path, for files that are committed with this text instead of their own.

    Returns:
        The id of the new commit.

    Raises:
        VersionError: one of `paths` is missing.
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
    root = tree / path
    if root.is_file():
        return [path]
    if not root.is_dir():
        raise VersionError(
            f"{root} is missing; make it with `dvc repro`, or restore it with `dvc checkout`"
        )
    files = sorted(Path(folder) / name for folder, _, names in os.walk(root) for name in names)
    return [file.relative_to(tree).as_posix() for file in files]


def author(tree: Path) -> dict[str, str]:
    """The environment variables that name the author and committer to git."""
    name, address = identity(tree)
    return {
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": address,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": address,
    }
