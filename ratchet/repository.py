"""The folders of a repository: its git directory, its main checkout and its worktrees.

The main checkout stores what outlives a run: `.runs`, `.prefect`, `.memo`, `.checkpoints` and DVC's
cache. It is, for

    a clone, a submodule, a separate git directory    the working tree itself
    a linked worktree                                 the working tree that it was added to
    the worktrees of a bare repository                the one with the default branch checked out

Ratchet must be at the root of its own repository.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import Busy, NotARepository, VersionError
from ratchet.git import git, git_bytes

# A file in the git directory of a worktree that Ratchet added, with the path of its main checkout.
# Used only if git itself does not know that path, as with `git clone --separate-git-dir`.
_POINTER = "ratchet-home"
_LOCK = "ratchet.lock"
ALONE = "RATCHET_ALONE"  # set for stages that must not use results of other runs
OBJECTS = "ratchet-objects.lock"  # shared for registrations, exclusive for `ratchet gc --apply`
_MARKS = ("params.yaml", "dvc.yaml")  # every Ratchet checkout has them


@dataclass(frozen=True)
class Location:
    """The working tree that contains a folder, and its git directories."""

    root: Path
    git_dir: Path  # of this worktree alone
    common_dir: Path  # shared by all worktrees

    @property
    def is_linked(self) -> bool:
        """Is this a linked worktree?"""
        return self.git_dir != self.common_dir


def home(tree: Path) -> Path:
    """Return the main checkout of the repository.

    Args:
        tree: the root of one of its working trees.

    Raises:
        NotARepository: `tree` is not the root of a git repository's working tree, or git does not
            know where the main checkout is.
    """
    return _home(tree.resolve())


def scratch(tree: Path) -> Path:
    """Return the folder for results that stages of all runs share.

    It is the main checkout, or the tree itself in `ratchet verify --rerun`.
    """
    return tree if os.environ.get(ALONE) else home(tree)


@functools.cache
def _home(tree: Path) -> Path:
    location = _locate(tree)
    if location.root != tree:
        raise NotARepository(
            f"{tree} is a subfolder of the git repository {location.root}, but Ratchet must be at"
            " the root of its own; clone it to a folder outside that repository"
        )
    return _main(location) if location.is_linked else location.root


def common_dir(tree: Path) -> Path:
    """Return the git directory that all worktrees of the repository share."""
    return _locate(tree.resolve()).common_dir


def require_checkout(tree: Path) -> None:
    """Check that `tree` is the root of a Ratchet checkout.

    Raises:
        NotARepository: it is not; the message suggests where to `cd`.
    """
    absent = [name for name in _MARKS if not (tree / name).exists()]
    if not absent:
        home(tree)
        return
    message = f"{tree.resolve()} is not a Ratchet checkout (it has no {absent[0]})"
    root = None
    with contextlib.suppress(NotARepository):
        root = _locate(tree.resolve()).root
    if root and all((root / name).exists() for name in _MARKS):
        raise NotARepository(f"{message}; run `cd {root}` first")
    raise NotARepository(f"{message}; `cd` to a Ratchet checkout first")


def worktrees(tree: Path) -> list[Path]:
    """Return the working trees of the repository whose folders exist."""
    listing = os.fsdecode(git_bytes("worktree", "list", "--porcelain", cwd=tree)).split("\n")
    lines = [line for line in listing if line.startswith("worktree ")]
    paths = [Path(line.removeprefix("worktree ")) for line in lines]
    # git lists the git directory instead of a main checkout that is elsewhere
    with contextlib.suppress(NotARepository):
        paths.append(home(tree))
    return sorted({path.resolve() for path in paths if (path / ".git").exists()})


def check_worktrees(tree: Path) -> None:
    """Raise `VersionError` if DVC cannot work in a linked worktree of this repository."""
    main = home(tree)
    if _setting(common_dir(main), "core.worktree"):
        raise VersionError(
            f"{main} is a git submodule (core.worktree is set), and DVC cannot work in a worktree"
            " of a submodule, which this command needs; `git clone` the repository to its own"
            " folder and run this there"
        )


def add_worktree(tree: Path, into: Path, commit: str) -> None:
    """Check out `commit` in the new folder `into`; if that fails, remove the folder."""
    check_worktrees(tree)
    is_new = not into.exists()
    # Forced twice, because a worktree whose creation was killed stays registered and locked. The
    # user's sparse checkout would leave out files.
    command = ["-c", "core.sparseCheckout=false", "worktree", "add", "--force", "--force"]
    command += ["--quiet", "--detach", "--", str(into.resolve()), commit]
    try:
        git(*command, cwd=tree)
        location = _locate(into.resolve())
        (location.git_dir / _POINTER).write_text(str(home(tree)), encoding="utf-8")
    except BaseException:
        if is_new:
            remove_worktree(tree, into)
        raise


def remove_worktree(tree: Path, path: Path) -> None:
    """Remove a worktree, or the rest of one whose creation or removal was interrupted."""
    with contextlib.suppress(VersionError):
        git("worktree", "unlock", str(path.resolve()), cwd=tree)
    if path.exists():
        shutil.rmtree(path)
    git("worktree", "prune", cwd=tree)


@contextlib.contextmanager
def locked(
    tree: Path, timeout_s: float = 60.0, name: str = _LOCK, shared: bool = False
) -> Iterator[None]:
    """Hold a lock of this repository.

    The lock of the registry is held to read it, decide, and write a tag. It is never held during
    uploads, downloads, hashing or training, because a rollback must not wait.

    Args:
        tree: a working tree of the repository.
        timeout_s: seconds to wait for other holders.
        name: the name of the lock file; by default that of the registry.
        shared: share the lock with other holders that share it.

    Raises:
        Busy: another process still holds the lock after `timeout_s` seconds.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + timeout_s
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
    descriptor = os.open(common_dir(tree) / name, flags, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(
                        f"another ratchet command has held {name} for {timeout_s:.0f} s; try again"
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


@functools.cache
def _locate(tree: Path) -> Location:
    names = ("--show-prefix", "--git-dir", "--git-common-dir", "--show-toplevel")
    try:
        output = os.fsdecode(git_bytes("rev-parse", *names, cwd=tree))
    except NotARepository:
        raise
    except VersionError:
        raise NotARepository(
            f"{tree} is a bare repository or a git directory; run this in one of its worktrees"
            " (`git worktree list`)"
        ) from None
    _prefix, git_dir, shared, root = output.removesuffix("\n").split("\n")
    return Location(Path(root).resolve(), (tree / git_dir).resolve(), (tree / shared).resolve())


def _main(location: Location) -> Path:
    """Return the main checkout of a linked worktree."""
    shared = location.common_dir
    if _setting(shared, "core.bare") == "true":
        return _default_worktree(shared)
    worktree = _setting(shared, "core.worktree")
    if worktree:
        return (shared / worktree).resolve()
    if shared.name == ".git":
        return shared.parent
    pointer = location.git_dir / _POINTER
    if pointer.is_file():
        path = Path(pointer.read_text(encoding="utf-8"))
        if path.is_dir() and common_dir(path) == shared:
            return path
    raise NotARepository(
        f"git does not know the main checkout of the worktree {location.root}, because its git"
        f" directory {shared} is elsewhere; run this in the main checkout"
    )


def _default_worktree(bare: Path) -> Path:
    """Return the worktree of a bare repository that has the default branch checked out."""
    branch = git("--git-dir", str(bare), "symbolic-ref", "HEAD", cwd=bare)
    listing = os.fsdecode(git_bytes("worktree", "list", "--porcelain", cwd=bare))
    for entry in listing.split("\n\n"):
        fields = entry.split("\n")
        path = Path(fields[0].removeprefix("worktree "))
        if f"branch {branch}" in fields and path.is_dir():
            return path.resolve()
    name = branch.removeprefix("refs/heads/")
    raise NotARepository(
        f"no worktree of the bare repository {bare} has its default branch {name} checked out,"
        f" which would hold the cache; run `git worktree add PATH {name}` in {bare}"
    )


def _setting(git_dir: Path, name: str) -> str:
    """Return a git setting of the main working tree; "" if it is not set."""
    try:
        return git("--git-dir", str(git_dir), "config", "--get", name, cwd=git_dir)
    except VersionError:
        return ""
