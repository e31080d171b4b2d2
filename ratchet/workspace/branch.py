"""Move the checked-out branch to a new commit, together with the index and the files.

Nothing here checks whether an edit would be lost; `ratchet.upkeep.adopt` does that first. Every
step can be repeated, so running an interrupted change again completes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ratchet.errors import Busy, VersionError
from ratchet.files import beside
from ratchet.git import blobs, git, git_bytes, resolve
from ratchet.git_errors import Rejected
from ratchet.registry.snapshot import author

_LINK, _EXECUTABLE = "120000", "100755"
_AREA = ".dvc/tmp/adopt"
_OWNER = "ratchet-adopt"  # what our index.lock points to, so that we recognize it after a kill
# entries of the git directory during an operation that waits for the user, and how to end it
_PENDING = {
    "MERGE_HEAD": "git merge --abort",
    "CHERRY_PICK_HEAD": "git cherry-pick --abort",
    "REVERT_HEAD": "git revert --abort",
    "rebase-merge": "git rebase --abort",
    "rebase-apply": "git rebase --abort",
}


class Blob(NamedTuple):
    """A file of a commit: its mode (`100644`, `100755`, or `120000` for a link) and object id."""

    mode: str
    oid: str


Changes = Mapping[str, Blob | None]  # path to its new content; None removes the file


def current(tree: Path) -> str:
    """The full name of the branch checked out in `tree`.

    Raises:
        VersionError: HEAD is detached, or a merge or rebase waits for the user.
    """
    for name, abort in _PENDING.items():
        if _git_path(tree, name).exists():
            raise VersionError(
                f"a git operation is unfinished in {tree.resolve()} ({name}); finish it, or run"
                f" `{abort}`"
            )
    try:
        return git("symbolic-ref", "--quiet", "HEAD", cwd=tree)
    except VersionError:
        raise VersionError(
            f"no branch is checked out in {tree.resolve()} (HEAD is detached), and this command"
            " commits to one; make a branch with `git switch --create NAME`"
        ) from None


def files(tree: Path, commit: str, roots: Iterable[str]) -> dict[str, Blob]:
    """The files of a commit at or below `roots`, without submodules."""
    roots = sorted(roots)
    if not roots:
        return {}
    listing = os.fsdecode(git_bytes("ls-tree", "-r", "-z", commit, "--", *roots, cwd=tree))
    files = {}
    for entry in filter(None, listing.split("\0")):
        fields, path = entry.split("\t", 1)
        mode, kind, oid = fields.split()
        if kind == "blob":
            files[path] = Blob(mode, oid)
    return files


def commit(tree: Path, base: str, changes: Changes, message: str) -> str:
    """Make a commit on top of `base` with these changes.

    Nothing refers to the commit yet, so making it twice does no harm.

    Returns:
        The id of the commit; `base` if there is nothing to change.
    """
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index"), **author(tree)}
        git("read-tree", base, cwd=tree, env=env)
        _update(tree, changes, env)
        content = git("write-tree", cwd=tree, env=env)
        if content == resolve(tree, f"{base}^{{tree}}"):
            return base
        return git("commit-tree", content, "-p", base, "-F", "-", cwd=tree, env=env, input=message)


def move(tree: Path, branch: str, new: str, old: str, why: str) -> None:
    """Move the branch from `old` to `new`.

    Raises:
        VersionError: the branch is no longer at `old`.
    """
    if new == old:
        return
    try:
        git("update-ref", "-m", why, branch, new, old, cwd=tree)
    except Rejected:
        if resolve(tree, branch) == old:  # another git command holds a lock, or left one behind
            raise
        raise VersionError(
            f"{branch.removeprefix('refs/heads/')} got another commit meanwhile; run this command"
            " again"
        ) from None


@contextmanager
def index(tree: Path) -> Iterator[None]:
    """Hold git's lock on the index, so that no other git command changes it.

    The lock is a link, which is made in one step and names its owner. If a kill left one behind,
    the next call removes it. That is safe because the caller has a lock on the checkout.

    Raises:
        Busy: another git command is running in the checkout, or was killed there.
    """
    lock = _git_path(tree, "index.lock")
    if lock.is_symlink() and str(lock.readlink()) == _OWNER:
        lock.unlink()
    try:
        lock.symlink_to(_OWNER)
    except FileExistsError:
        raise Busy(
            f"another git command is running in {tree.resolve()}, or was killed there; run this"
            f" again when it has ended, or remove {lock} if none is running"
        ) from None
    try:
        yield
    finally:
        lock.unlink()


def write_index(tree: Path, changes: Changes) -> None:
    """Make the changes in the index and keep its other entries. The caller holds `index`."""
    present, copy = _git_path(tree, "index"), _git_path(tree, "ratchet-index")
    _git_path(tree, "ratchet-index.lock").unlink(missing_ok=True)
    copy.unlink(missing_ok=True)
    if present.exists():
        shutil.copyfile(present, copy)
    _update(tree, changes, {"GIT_INDEX_FILE": str(copy.resolve())})
    copy.replace(present)


@contextmanager
def prepared(tree: Path, changes: Changes) -> Iterator[Path]:
    """Write the content of each changed file that differs in `tree` into a folder, for `place`.

    Yields:
        That folder, which is removed afterwards.

    Raises:
        RatchetError: the disk is full.
    """
    area = tree / _AREA
    area.parent.mkdir(parents=True, exist_ok=True)
    with beside(area) as folder:
        new = {path: blob for path, blob in changes.items() if blob is not None}
        contents = blobs(tree, [blob.oid for blob in new.values()])
        for (path, blob), content in zip(new.items(), contents, strict=True):
            if not _is_there(tree / path, blob.mode, content):
                _write(folder / path, blob.mode, content)
        yield folder


def place(tree: Path, area: Path, changes: Changes) -> None:
    """Move the prepared files into place, one rename each, and remove the deleted ones."""
    for path, blob in changes.items():
        if blob is None:
            with suppress(FileNotFoundError, NotADirectoryError):
                (tree / path).unlink()
            _remove_empty_folders(tree, path)
    for path, blob in changes.items():
        source = area / path
        if blob is not None and (source.is_symlink() or source.exists()):
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            source.replace(tree / path)


def _update(tree: Path, changes: Changes, env: Mapping[str, str]) -> None:
    """Make the changes in the index that `env` names."""
    no_object = "0" * len(git("rev-parse", "HEAD", cwd=tree))
    removals = [f"0 {no_object}\t{path}\0" for path, blob in changes.items() if blob is None]
    additions = [
        f"{blob.mode} {blob.oid}\t{path}\0" for path, blob in changes.items() if blob is not None
    ]
    entries = os.fsencode("".join([*removals, *additions]))
    git_bytes("update-index", "-z", "--index-info", cwd=tree, env=env, input=entries)


def _is_there(file: Path, mode: str, content: bytes) -> bool:
    if file.is_symlink():
        return mode == _LINK and os.fsencode(file.readlink()) == content
    if mode == _LINK or not file.is_file() or file.read_bytes() != content:
        return False
    return os.access(file, os.X_OK) == (mode == _EXECUTABLE)


def _write(file: Path, mode: str, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if mode == _LINK:
        file.symlink_to(os.fsdecode(content))
        return
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    if mode == _EXECUTABLE:
        file.chmod(file.stat().st_mode | 0o111)


def _remove_empty_folders(tree: Path, path: str) -> None:
    for parent in PurePosixPath(path).parents[:-1]:
        try:
            (tree / parent).rmdir()
        except OSError:  # not empty, or gone already
            return


def _git_path(tree: Path, name: str) -> Path:
    """Where this worktree keeps a file of its git directory."""
    return tree / git("rev-parse", "--git-path", name, cwd=tree)
