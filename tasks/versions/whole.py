"""Bring a working tree back to a version: code, params, locks, data and model, all or nothing.

The new state is laid out and checked beside the old one, in a worktree below `.dvc/tmp`. Then each path changes places by a
rename, with a journal on disk. The version's assignment is the point of no return: a switch that was cut off before it is
undone by the next command, one that was cut off after it is finished.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.errors import VersionError
from tasks.versions import layout, pipeline, remote, repository, snapshot
from tasks.versions.git import files, git
from tasks.versions.registry import Assignment, Registry, Version

_AREA = ".dvc/tmp/whole"
_COMMANDS = ("flows",)  # no stage reads it, but it calls what the stages are made of


@dataclass(frozen=True)
class Journal:
    """What a switch is about to do; `counter` is that of the assignment before it."""

    environment: str
    version: str
    counter: int
    paths: list[str]
    absent: list[str]  # of the paths, those that were not there before


def switch(tree: Path, version: Version, now: Assignment, assign: Callable[[], Assignment]) -> Assignment:
    """Lay `version` out in `tree`, then `assign` it; on any failure `tree` is as it was.

    Raises:
        VersionError: uncommitted edits would be lost.
        ObjectsMissing, CorruptData, Unreachable: the version can't be had whole.
    """
    recover(tree)
    area = tree.resolve() / _AREA
    paths = _paths(tree, version)
    _check_no_edits(tree, paths)
    try:
        if layout.lay_out(tree, version, area / "new"):
            layout.repro(area / "new")
        absent = [path for path in paths if not (tree / path).exists()]
        _write(area, Journal(now.environment, version.name, now.counter, paths, absent))
        for path in paths:
            _move(tree / path, area / "old" / path)
            _move(area / "new" / path, tree / path)
        return assign()
    finally:
        recover(tree)


def recover(tree: Path) -> str | None:
    """Finish or undo a switch that was cut off; returns what was done, None if there was nothing to do."""
    area = tree.resolve() / _AREA
    if not area.exists():
        return None
    done = None
    file = area / "journal.json"
    if file.exists():
        journal = Journal(**json.loads(file.read_text(encoding="utf-8")))
        now = Registry(tree).assignment(journal.environment)
        if now is not None and now.counter > journal.counter and now.version == journal.version:
            done = f"finished the switch to {journal.version}"
        else:
            _undo(tree, area, journal)
            done = f"undid a switch to {journal.version} that was cut off"
        file.unlink()
    _drop(tree, area)
    return done


def _undo(tree: Path, area: Path, journal: Journal) -> None:
    for path in journal.paths:
        if (area / "old" / path).exists():
            _move(tree / path, area / "new" / path)
            _move(area / "old" / path, tree / path)
        elif path in journal.absent:
            _move(tree / path, area / "new" / path)


def _move(source: Path, target: Path) -> None:
    if source.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def _paths(tree: Path, version: Version) -> list[str]:
    """What changes places: outputs, locks, params, and the packages that the code deps belong to.

    Whole packages, since code of one version can't be trusted to work with params or helpers of another.
    """
    held = [pipeline.of_commit(tree, version.commit)]
    if (tree / pipeline.LOCK).is_file():
        held.append(pipeline.of_tree(tree, whole=False))
    found = {pipeline.PIPELINE, *snapshot.ALWAYS, *snapshot.GATE}
    for each in held:
        found |= {output.path for output in each.outputs}
        found |= {path.split("/")[0] for path in each.code}
    return sorted(found | set(_COMMANDS) & {file.split("/")[0] for file in files(tree, version.commit, ".")})


def _check_no_edits(tree: Path, paths: list[str]) -> None:
    """Refuse where files would be lost that neither HEAD nor any version holds, or outputs that DVC does not know."""
    status = git("status", "--porcelain", "-z", "--untracked-files=all", "--", *paths, cwd=tree).split("\0")
    changed = [entry[3:] for entry in status if entry and (tree / entry[3:]).is_file()]
    changed = [path for path in changed if path not in snapshot.GATE]  # the word of the last run, whatever came of it
    edits = [path for path in changed if not _held_somewhere(tree, path)]
    if (tree / pipeline.LOCK).is_file():
        edits += remote.edited_outputs(tree)
    if edits:
        raise VersionError(
            f"{', '.join(sorted(edits)[:5])}: edited and not committed, and rolling back the whole state would lose that; "
            f"`git stash` or commit first, or roll back without --whole"
        )


def _held_somewhere(tree: Path, path: str) -> bool:
    """Does some version hold exactly the bytes that lie at `path`? Then a run wrote them, and nothing can be lost."""
    oid = git("hash-object", "--no-filters", "--", path, cwd=tree)
    names = "".join(f"{version.commit}:{path}\n" for version in Registry(tree).versions())
    found = git("cat-file", "--batch-check=%(objectname)", cwd=tree, input=names).split("\n")
    return oid in found


def _write(area: Path, journal: Journal) -> None:
    beside = area / "journal.tmp"
    with beside.open("w", encoding="utf-8") as stream:
        json.dump(asdict(journal), stream)
        stream.flush()
        os.fsync(stream.fileno())
    beside.rename(area / "journal.json")


def _drop(tree: Path, area: Path) -> None:
    repository.remove_worktree(tree, area / "new")
    shutil.rmtree(area)
