"""Where a repository is on this disk: its git directory, its main checkout and its worktrees.

What outlives a run (`.runs`, `.prefect`, `.memo`, `.checkpoints`, DVC's cache) is stored in the
main checkout, which is, for

    a clone, a submodule, a separate git directory    the working tree itself
    a linked worktree                                 the working tree that it was added to
    the worktrees of a bare repository                the one with the default branch checked out

Ratchet has to be at the root of its own repository.
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

# In the git directory of a worktree that Ratchet added: the path of its main checkout. Used only
# where git itself does not know it, as with `git clone --separate-git-dir`.
_POINTER = "ratchet-home"
_LOCK = "ratchet.lock"
ALONE = "RATCHET_ALONE"  # set for stages that must take no result of another run
OBJECTS = "ratchet-objects.lock"  # shared by registrations, exclusive for a collection that deletes
_MARKS = ("params.yaml", "dvc.yaml")  # every Ratchet checkout has them


@dataclass(frozen=True)
class Location:
    """The working tree that contains a folder, and its git directories."""

    root: Path
    git_dir: Path  # of this worktree alone
    common_dir: Path  # shared by all worktrees

    @property
    def is_linked(self) -> bool:
        return self.git_dir != self.common_dir


def home(tree: Path) -> Path:
    """The main checkout of the repository whose root is `tree`.

    Raises:
        NotARepository: `tree` is not the root of a git repository's working tree, or git does not
            know where the main checkout is.
    """
    return _home(tree.resolve())


def scratch(tree: Path) -> Path:
    """Where the results that stages share are: the main checkout.

    In `verify --rerun` the tree itself.
    """
    return tree if os.environ.get(ALONE) else home(tree)


@functools.cache
def _home(tree: Path) -> Path:
    location = _locate(tree)
    if location.root != tree:
        raise NotARepository(
            f"{tree} is a subfolder of the git repository {location.root}, and Ratchet has to be "
            "at the root of its own; clone it to a folder outside that repository"
        )
    return _main(location) if location.is_linked else location.root


def common_dir(tree: Path) -> Path:
    """The git directory that all worktrees of the repository share."""
    return _locate(tree.resolve()).common_dir


def require_checkout(tree: Path) -> None:
    """Check that `tree` is the root of a Ratchet checkout.

    Raises:
        NotARepository: it is not.
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
    """The working trees of the repository, those whose folder is gone excepted."""
    listing = os.fsdecode(git_bytes("worktree", "list", "--porcelain", cwd=tree)).split("\n")
    lines = [line for line in listing if line.startswith("worktree ")]
    paths = [Path(line.removeprefix("worktree ")) for line in lines]
    # git lists the git directory in place of a main checkout that is elsewhere
    with contextlib.suppress(NotARepository):
        paths.append(home(tree))
    return sorted({path.resolve() for path in paths if (path / ".git").exists()})


def check_worktrees(tree: Path) -> None:
    """Raise `VersionError` if DVC could not work in a linked worktree of this repository."""
    main = home(tree)
    if _setting(common_dir(main), "core.worktree"):
        raise VersionError(
            f"{main} is a git submodule (it has core.worktree set), and DVC cannot work in a"
            " worktree of one, which this needs; `git clone` the repository to a folder of its own"
            " and run this there"
        )


def add_worktree(tree: Path, into: Path, commit: str) -> None:
    """Check `commit` out in the new folder `into`; if that fails, nothing is left of it."""
    check_worktrees(tree)
    is_new = not into.exists()
    # Forced twice: a worktree whose creation was killed stays registered and locked. A sparse
    # checkout of the user's would leave files out of this one.
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
    """Remove a worktree, or what is left of one whose creation or removal was cut off."""
    with contextlib.suppress(VersionError):
        git("worktree", "unlock", str(path.resolve()), cwd=tree)
    if path.exists():
        shutil.rmtree(path)
    git("worktree", "prune", cwd=tree)


@contextlib.contextmanager
def locked(
    tree: Path, timeout_s: float = 60.0, name: str = _LOCK, shared: bool = False
) -> Iterator[None]:
    """Hold a lock of this repository, of its registry by default.

    Raises `Busy` after `timeout_s` seconds.

    The lock of the registry is held to read it, decide, and write a tag, and never while something
    is uploaded, downloaded, hashed or trained: a rollback must not wait.
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
    """The main checkout of a linked worktree."""
    shared = location.common_dir
    if _setting(shared, "core.bare") == "true":
        return _default_worktree(shared)
    named = _setting(shared, "core.worktree")
    if named:
        return (shared / named).resolve()
    if shared.name == ".git":
        return shared.parent
    pointer = location.git_dir / _POINTER
    if pointer.is_file():
        path = Path(pointer.read_text(encoding="utf-8"))
        if path.is_dir() and common_dir(path) == shared:
            return path
    raise NotARepository(
        f"git does not know the main checkout of the worktree {location.root}, since its git"
        f" directory {shared} is elsewhere; run this in the main checkout"
    )


def _default_worktree(bare: Path) -> Path:
    """The worktree of a bare repository that has its default branch checked out."""
    branch = git("--git-dir", str(bare), "symbolic-ref", "HEAD", cwd=bare)
    listing = os.fsdecode(git_bytes("worktree", "list", "--porcelain", cwd=bare))
    for entry in listing.split("\n\n"):
        fields = entry.split("\n")
        path = Path(fields[0].removeprefix("worktree "))
        if f"branch {branch}" in fields and path.is_dir():
            return path.resolve()
    name = branch.removeprefix("refs/heads/")
    raise NotARepository(
        f"no worktree of the bare repository {bare} has its default branch {name} checked out, "
        f"and that one holds the cache; `git worktree add PATH {name}` in {bare} makes it"
    )


def _setting(git_dir: Path, name: str) -> str:
    """A setting of the main working tree; empty where it is not set."""
    try:
        return git("--git-dir", str(git_dir), "config", "--get", name, cwd=git_dir)
    except VersionError:
        return ""
